"""Sanity of a crystal before relaxing and of a prediction after it; each answers with a reason or None."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.io.convert import symbol

MIN_DISTANCE = 0.5  # A; the bond of H2 is 0.74
LARGEST_VIOLATION = 0.35  # A, mean over pairs; none of 1,641 real crystals had more than 0.28
VOLUME_RANGE = (0.5, 2.0)  # volume of a believable prediction over that of its input


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
    numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any]
) -> str | None:
    """The closest pair of atoms, images included, if it is closer than `MIN_DISTANCE`.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
    """
    from vesin import NeighborList

    fractional = positions @ np.linalg.inv(cell)
    home = (fractional - np.where(pbc, np.floor(fractional), 0.0)) @ cell
    search = NeighborList(cutoff=MIN_DISTANCE, full_list=False, n_threads=1)
    first, second, distance = search.compute(points=home, box=cell, periodic=pbc, quantities="ijd")
    if len(distance) == 0 or distance.min() >= MIN_DISTANCE:
        return None
    pair = int(distance.argmin())
    i, j = sorted((int(first[pair]), int(second[pair])))
    if i == j:
        return (
            f"atom {i} ({symbol(numbers[i])}) is {distance[pair]:.2f} A from its own periodic image; "
            f"expected at least {MIN_DISTANCE} A: the cell is too short."
        )
    return (
        f"atoms {i} ({symbol(numbers[i])}) and {j} ({symbol(numbers[j])}) are {distance[pair]:.2f} A apart; "
        f"expected at least {MIN_DISTANCE} A: remove the duplicate site or check the coordinates."
    )


def useless(
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


def doubts(
    numbers: NDArray[Any],
    positions: NDArray[Any],
    cell: NDArray[Any],
    pbc: NDArray[Any],
    volume_change: float,
    violation: float | None = None,
) -> str | None:
    """Why a prediction is not to be believed.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: Predicted, A, ``(N, 3)``.
        cell: Predicted, rows, A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
        volume_change: Predicted over input volume, minus one.
        violation: What predicted distances lack in the mean, A, if there are any.
    """
    reasons: Sequence[str | None] = (
        f"the predicted distances contradict each other: {violation:.2f} A are missing on average; "
        f"believable are at most {LARGEST_VIOLATION:g}."
        if violation is not None and violation > LARGEST_VIOLATION
        else None,
        f"the predicted volume is {1 + volume_change:.2f} times that of the input; believable are "
        f"{VOLUME_RANGE[0]:g} to {VOLUME_RANGE[1]:g}."
        if not VOLUME_RANGE[0] <= 1 + volume_change <= VOLUME_RANGE[1]
        else None,
        f"in the prediction, {too_close}"
        if (too_close := close_atoms(numbers, positions, cell, pbc))
        else None,
    )
    return " ".join(reason for reason in reasons if reason) or None
