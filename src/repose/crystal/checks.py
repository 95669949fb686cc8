"""Sanity of a crystal before relaxing and of a prediction after it; each answers with a reason or None."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.crystal.elements import symbol
from repose.crystal.neighbours import neighbours
from repose.crystal.volumes import known_volumes

MIN_DISTANCE = 0.5  # A; the bond of H2 is 0.74
# Shortest distance of two atoms of a believable prediction over the sum of their covalent radii. It is at
# least 0.65 in 24,048 crystals of the Materials Project, 0.51 in 33,879 hypothetical ones of CHGNet.
OVERLAP = 0.5
LARGEST_VIOLATION = 0.35  # A, mean over pairs; none of 1,641 real crystals had more than 0.28
# Volume of a believable prediction over that which `known_volumes` gives for its composition. Of the 24,048
# crystals 99.9 % have 0.58 to 2.24; what lies beyond are monolayers and molecules in a cell with vacuum.
KNOWN_RANGE = (0.55, 2.4)
# The same over the volume of the input, where the cell holds vacuum or an element has no known volume.
VOLUME_RANGE = (0.5, 2.0)


def unknown_elements(numbers: NDArray[Any], elements: Collection[int] | None) -> str | None:
    """Elements that a model never saw.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        elements: Those it saw, or None for all.
    """
    if elements is None:
        return None
    strange = sorted(set(numbers.tolist()) - set(elements))
    if not strange:
        return None
    named = ", ".join(symbol(z) for z in strange)
    where = int(np.flatnonzero(np.isin(numbers, strange))[0])
    return (
        f"the model never saw the element{'s' * (len(strange) > 1)} {named} (atom {where}) in training; "
        "use one that did ('repose models' lists them), or fine-tune."
    )


def close_atoms(
    numbers: NDArray[Any],
    positions: NDArray[Any],
    cell: NDArray[Any],
    pbc: NDArray[Any],
    overlap: float = 0.0,
) -> str | None:
    """The pair of atoms, images included, that is closest for its kind, if it is too close.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
        overlap: Least distance over the sum of covalent radii; `MIN_DISTANCE` holds in any case.
    """
    from ase.data import covalent_radii

    radii = overlap * covalent_radii[numbers]
    cutoff = max(MIN_DISTANCE, 2 * float(radii.max()))
    first, second, _, distance = neighbours(positions, cell, pbc, cutoff, half=True)
    if len(distance) == 0:
        return None
    least = np.maximum(MIN_DISTANCE, radii[first] + radii[second])
    pair = int((distance / least).argmin())
    if distance[pair] >= least[pair]:
        return None
    i, j = sorted((int(first[pair]), int(second[pair])))
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
    """Why a predicted geometry is no crystal at all: not finite, flat, or inside out.

    Args:
        positions: Predicted, A, ``(N, 3)``.
        cell: Predicted, rows, A, ``(3, 3)``.
        old_cell: Of the input, ``(3, 3)``.
        violation: What predicted distances lack in the mean, A, if there are any.
    """
    if violation is not None and not np.isfinite(violation):
        return "a predicted distance is not finite (NaN or infinity)."
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        return "the prediction is not finite (NaN or infinity)."
    if np.linalg.det(cell) / np.linalg.det(old_cell) < 1e-3:
        return "the predicted cell is flat or turned inside out."
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
    """Why a prediction is not to be believed.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: Predicted, A, ``(N, 3)``.
        cell: Predicted, rows, A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
        volume_change: Predicted over input volume, minus one.
        violation: What predicted distances lack in the mean, A, if there are any.
        vacuum: Whether the cell holds vacuum or separate molecules, so that known volumes say nothing.
    """
    reasons = []
    if violation is not None and violation > LARGEST_VIOLATION:
        reasons.append(
            f"the predicted distances contradict each other: {violation:.2f} A are missing on average; "
            f"believable are at most {LARGEST_VIOLATION:g}."
        )
    if volume_change and (reason := _odd_volume(numbers, cell, volume_change, vacuum or not pbc.all())):
        reasons.append(reason)
    if too_close := close_atoms(numbers, positions, cell, pbc, OVERLAP):
        reasons.append(f"in the prediction, {too_close}")
    return " ".join(reasons) or None


def _odd_volume(numbers: NDArray[Any], cell: NDArray[Any], volume_change: float, vacuum: bool) -> str | None:
    """Why a predicted volume is not to be believed; arguments as for `sanity_warnings`."""
    known = known_volumes()
    if vacuum or not known.knows(numbers):
        (low, high), ratio = VOLUME_RANGE, 1 + volume_change
        said = f"{ratio:.2f} times that of the input"
    else:
        expected, found = known.guess(numbers), abs(float(np.linalg.det(cell)))
        (low, high), ratio = KNOWN_RANGE, found / expected
        said = f"{found / len(numbers):.1f} A^3 an atom, {ratio:.2f} times what known crystals suggest"
    if low <= ratio <= high:
        return None
    return f"the predicted volume is {said}; believable are {low:g} to {high:g} times."
