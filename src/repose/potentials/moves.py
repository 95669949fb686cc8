"""Moves of a crystal that its symmetry and constraints allow: projections of forces and stresses.

In numpy float64, with lattice vectors as rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.crystal.deformation import ORTHOGONAL
from repose.crystal.symmetry import SpaceGroup

Floats = NDArray[np.float64]


class Moves:
    """Directions in which a relaxation from one geometry may go.

    A relaxation moves along gradients, so that it keeps what their projections keep: the operations of the
    space group that the geometry has, fractional coordinates of fixed atoms, and held lattice vectors. As in
    `repose.crystal.deformation.constrain_cell`, components along held vectors to which another vector is
    orthogonal stay zero. If all held vectors are orthogonal to all others, the strain is symmetric, else the
    cell may rotate about them.

    Args:
        cell: Lattice vectors of the geometry in A, ``(3, 3)``.
        group: Space group to keep, or None.
        fix_cell: Hold the cell.
        fix_axes: Lattice vectors to hold, letters out of ``abc``.
        fixed: Fractional coordinates to hold, ``(N, 3)``, or None.
    """

    def __init__(
        self,
        cell: Floats,
        *,
        group: SpaceGroup | None = None,
        fix_cell: bool = False,
        fix_axes: str = "",
        fixed: NDArray[np.bool_] | None = None,
    ) -> None:
        self.fix_cell = fix_cell or set(fix_axes) == set("abc")
        self.group = None if group is None or group.n_operations == 1 else group
        held = np.array([fix_cell or axis in fix_axes for axis in "abc"])
        unit = cell / np.linalg.norm(cell, axis=1, keepdims=True)
        orthogonal = np.abs(unit @ unit.T) < ORTHOGONAL
        self._span = np.eye(3) - np.linalg.pinv(unit[held]) @ unit[held] if held.any() else np.eye(3)
        self._strains: Floats | None = None
        if not orthogonal[held][:, ~held].all():
            dual, moves = np.linalg.inv(cell), []
            for free in np.flatnonzero(~held):
                directions = unit[held & orthogonal[free]]
                allowed = np.eye(3) - np.linalg.pinv(directions) @ directions
                moves += [np.outer(dual[:, free], direction).ravel() for direction in allowed]
            self._strains = _projector(np.array(moves))  # (9, 9)
        self._atoms: Floats | None = None
        if fixed is not None and fixed.any():
            self._atoms = np.stack([_projector(cell[~row]) for row in fixed])  # (N, 3, 3)

    @property
    def symmetric(self) -> bool:
        """True if strains are symmetric, so that the cell does not rotate."""
        return self._strains is None

    @property
    def fixes_atoms(self) -> bool:
        """True if coordinates of atoms are held, so that the crystal cannot be shifted as a whole."""
        return self._atoms is not None

    def symmetrise(self, cell: Floats, forces: Floats, stress: Floats) -> tuple[Floats, Floats]:
        """Mean of forces ``(N, 3)`` and stress ``(3, 3)`` over the space group, at the current cell.

        If the cell is held, the stress is zero.
        """
        if self.fix_cell:
            stress = np.zeros((3, 3))
        if self.group is None:
            return forces, stress
        rotations = self.group.cartesian(self.group.rotations, cell)
        mean = (rotations.transpose(0, 2, 1) @ stress @ rotations).mean(axis=0)
        return self.group.mean(forces @ rotations), mean

    def strain(self, matrix: Floats) -> Floats:
        """Allowed part of a strain, or of a gradient with respect to it, ``(3, 3)``."""
        if self._strains is not None:
            return (self._strains @ matrix.ravel()).reshape(3, 3)
        return self._span @ (matrix + matrix.T) @ self._span / 2

    def displacements(self, vectors: Floats) -> Floats:
        """Allowed part of displacements or forces ``(N, 3)``, in the frame of the initial cell."""
        return vectors if self._atoms is None else (vectors[:, None] @ self._atoms)[:, 0]

    @classmethod
    def within(cls, span: Floats) -> Moves:
        """Any move with strains in the span of a projector ``(3, 3)``."""
        moves = cls(np.eye(3), fix_cell=not span.any())
        moves._span = span
        return moves


def _projector(vectors: NDArray[Any]) -> Floats:
    """Orthogonal projector ``(d, d)`` on the span of rows ``(k, d)``."""
    return np.linalg.pinv(vectors) @ vectors if len(vectors) else np.zeros((vectors.shape[1],) * 2)
