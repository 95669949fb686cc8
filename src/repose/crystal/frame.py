"""Frame of a relaxation path, in datasets and in predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Frame:
    """One step of a relaxation path: n atoms.

    Attributes:
        positions: A, ``(n, 3)``, continuous along the path.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        energy: eV per cell, or None.
        forces: eV/A, ``(n, 3)``, or None.
        stress: eV/A^3, ``(3, 3)``, sign as in ASE, or None.
    """

    positions: np.ndarray
    cell: np.ndarray
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
