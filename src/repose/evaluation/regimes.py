"""Regimes of crystals: quarters by the error of the input, and groups by the number of atoms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

QUARTERS = ("quarter 1", "quarter 2", "quarter 3", "quarter 4")
SIZES = ("up to 12 atoms", "13 to 20 atoms", "21 to 40 atoms", "more than 40 atoms")
LARGEST = (12, 20, 40)  # atoms of the largest crystals of all `SIZES` but the last
ROUNDING = 6  # decimals of errors in A; errors that agree to these count as equal


class Regime(NamedTuple):
    """Group of crystals that are alike in one quantity.

    Shapes and units: indices of the crystals ``(n,)``; ``quantity`` is ``"input_error"`` (A) or ``"atoms"``,
    ``low`` and ``high`` are its least and greatest value in the group.
    """

    name: str
    quantity: str
    low: float
    high: float
    crystals: np.ndarray


def regimes(input_errors: np.ndarray, n_atoms: np.ndarray) -> list[Regime]:
    """Quarters of S crystals by the error of their input, then groups by size; without empty groups.

    Args:
        input_errors: Coordinate errors of the input in A, ``(S,)``.
        n_atoms: Atoms of the crystals, ``(S,)``.
    """
    return [
        *_groups("input_error", input_errors, quarters(input_errors), QUARTERS),
        *_groups("atoms", n_atoms, np.searchsorted(LARGEST, n_atoms), SIZES),
    ]


def quarters(errors: np.ndarray) -> np.ndarray:
    """Quarter of every error ``(S,)``, 0 (the smallest errors) to 3, ``(S,)`` int.

    The quarter follows from the share of smaller errors. Distinct errors give quarters that differ by at most
    one crystal; equal errors are in one quarter, so the result does not depend on the order of the crystals.
    """
    rounded = np.round(errors, ROUNDING)
    return 4 * np.searchsorted(np.sort(rounded), rounded) // max(1, len(errors))


def _groups(quantity: str, values: np.ndarray, group: np.ndarray, names: tuple[str, ...]) -> list[Regime]:
    members = [(name, np.flatnonzero(group == index)) for index, name in enumerate(names)]
    return [
        Regime(name, quantity, values[which].min().item(), values[which].max().item(), which)
        for name, which in members
        if len(which)
    ]
