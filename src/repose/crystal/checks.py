"""Checks of input crystals and of predictions; each returns a reason, or None if the check passes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.crystal.deformation import determinant
from repose.crystal.elements import symbol
from repose.crystal.neighbours import Neighbours, neighbours
from repose.crystal.volumes import known_volumes

MIN_DISTANCE = 0.5  # A; the bond of H2 is 0.74
# Shortest plausible distance of two atoms over the sum of their covalent radii. It is at
# least 0.65 in 24,048 crystals of the Materials Project, 0.51 in 33,879 hypothetical ones of CHGNet.
OVERLAP = 0.5
LARGEST_VIOLATION = 0.35  # A, mean over pairs; none of 1,641 real crystals had more than 0.28
# Plausible volume over that of `known_volumes` for the composition. Of the 24,048 crystals 99.9 % have 0.58
# to 2.24; the others are monolayers and molecules in a cell with vacuum.
KNOWN_RANGE = (0.55, 2.4)
# Plausible volume over that of the input, if the cell has vacuum or an element has no known volume.
VOLUME_RANGE = (0.5, 2.0)


def unknown_elements(numbers: NDArray[Any], elements: Collection[int] | None) -> str | None:
    """Check that elements ``(N,)`` are among those of the training data, by atomic number; None for all."""
    if elements is None:
        return None
    unknown = sorted(set(numbers.tolist()) - set(elements))
    if not unknown:
        return None
    named = ", ".join(symbol(z) for z in unknown)
    where = int(np.flatnonzero(np.isin(numbers, unknown))[0])
    return (
        f"the training data of the model lack the element{'s' * (len(unknown) > 1)} {named} (atom {where}); "
        "use a model with it ('repose models' lists them), or fine-tune."
    )


def close_atoms(
    numbers: NDArray[Any],
    positions: NDArray[Any],
    cell: NDArray[Any],
    pbc: NDArray[Any],
    overlap: float = 0.0,
    near: Neighbours | None = None,
) -> str | None:
    """Check that no two atoms, periodic images included, are too close; name the closest pair.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
        overlap: Smallest distance over the sum of covalent radii; `MIN_DISTANCE` applies in any case.
        near: All pairs within a larger distance, if they are known.
    """
    if near is not None and not overlap and near.distance.min(initial=MIN_DISTANCE) >= MIN_DISTANCE:
        return None
    from ase.data import covalent_radii

    radii = overlap * covalent_radii[numbers]
    cutoff = max(MIN_DISTANCE, 2 * float(radii.max()))
    first, second, _, distance = neighbours(positions, cell, pbc, cutoff, half=True)
    if len(distance) == 0:
        return None
    least = np.maximum(MIN_DISTANCE, radii[first] + radii[second])
    share = distance / least
    if share.min() >= 1:
        return None
    # Of pairs that are equal but for rounding, the first.
    tied = np.flatnonzero(share <= share.min() + 1e-6).tolist()
    i, j, pair = min((*sorted((int(first[k]), int(second[k]))), k) for k in tied)
    expected = f"expected at least {least[pair]:.3g} A"
    if i == j:
        return (
            f"atom {i} ({symbol(numbers[i])}) is {distance[pair]:.2f} A from its own periodic image; "
            f"{expected}: the cell is too short."
        )
    return (
        f"atoms {i} ({symbol(numbers[i])}) and {j} ({symbol(numbers[j])}) are {distance[pair]:.2f} A apart; "
        f"{expected}: remove the duplicate site or check the coordinates."
    )


def invalid_reason(
    positions: NDArray[Any], cell: NDArray[Any], old_cell: NDArray[Any], violation: float | None = None
) -> str | None:
    """Reason why a predicted geometry is not a crystal: not finite, flat, or inverted; None if it is one.

    Args:
        positions: Predicted positions in A, ``(N, 3)``.
        cell: Predicted lattice vectors as rows in A, ``(3, 3)``.
        old_cell: Lattice vectors of the input in A, ``(3, 3)``.
        violation: Mean violation of predicted distances in A, or None.
    """
    if violation is not None and not np.isfinite(violation):
        return "a predicted distance is not finite (NaN or infinity)."
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        return "the prediction is not finite (NaN or infinity)."
    if determinant(cell) / determinant(old_cell) < 1e-3:
        return "the predicted cell is flat or inverted."
    return None


def sanity_warnings(
    numbers: NDArray[Any],
    positions: NDArray[Any],
    cell: NDArray[Any],
    pbc: NDArray[Any],
    volume_change: float,
    violation: float | None = None,
    vacuum: bool = False,
) -> str | None:
    """Reasons why a prediction is not plausible, in one string, or None.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: Predicted positions in A, ``(N, 3)``.
        cell: Predicted lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
        volume_change: Predicted over input volume, minus one.
        violation: Mean violation of predicted distances in A, or None.
        vacuum: Whether the cell contains vacuum or separate molecules, so that its volume is compared with
            that of the input and not with known volumes.
    """
    reasons = []
    if violation is not None and violation > LARGEST_VIOLATION:
        reasons.append(
            f"the predicted distances are inconsistent: their mean violation is {violation:.2f} A; expected "
            f"at most {LARGEST_VIOLATION:g} A."
        )
    if volume_change and (reason := _volume_warning(numbers, cell, volume_change, vacuum or not pbc.all())):
        reasons.append(reason)
    if too_close := close_atoms(numbers, positions, cell, pbc, OVERLAP):
        reasons.append(f"in the prediction, {too_close}")
    return " ".join(reasons) or None


def _volume_warning(
    numbers: NDArray[Any], cell: NDArray[Any], volume_change: float, vacuum: bool
) -> str | None:
    """Reason why a predicted volume is not plausible, or None; arguments as for `sanity_warnings`."""
    known = known_volumes()
    if vacuum or not known.covers(numbers):
        (low, high), ratio = VOLUME_RANGE, 1 + volume_change
        found = f"{ratio:.2f} times that of the input"
    else:
        volume = abs(determinant(cell))
        (low, high), ratio = KNOWN_RANGE, volume / known.predict(numbers)
        found = f"{volume / len(numbers):.1f} A^3 per atom, {ratio:.2f} times that of known crystals"
    if low <= ratio <= high:
        return None
    return f"the predicted volume is {found}; expected {low:g} to {high:g} times."
