"""Constraints on a relaxation, and the projection of a geometry on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repose.crystal.deformation import constrain_cell
from repose.crystal.frame import Frame
from repose.crystal.symmetry import SpaceGroup, symmetrise
from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.potentials.moves import Moves

INDICES = "fix_atoms must be indices of atoms, counted from 0, or a mask with one bool per atom"


@dataclass(frozen=True)
class Constraints:
    """Symmetry, lattice vectors and atoms to keep; the fields are options of `Relaxer.relax`.

    Raises:
        ConfigError: A value is not allowed.
    """

    symmetry: str = "keep"
    fix_cell: bool = False
    fix_axes: str = ""
    fix_atoms: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.symmetry not in ("keep", "free"):
            raise ConfigError(f"symmetry must be 'keep' or 'free'; got {self.symmetry!r}.")
        if not isinstance(self.fix_axes, str) or not set(self.fix_axes) <= set("abc"):
            raise ConfigError(f"fix_axes must be letters out of 'abc', e.g. 'c'; got {self.fix_axes!r}.")
        for k in self.fix_atoms:
            if isinstance(k, bool) or not isinstance(k, int) or k < 0:
                raise ConfigError(f"{INDICES}; got {k!r}.")


def atom_indices(fix_atoms: Iterable[Any], sizes: Iterable[int]) -> tuple[int, ...]:
    """Indices of the atoms to fix, from indices or from a mask.

    Args:
        fix_atoms: Indices of atoms from 0 (integers of Python or numpy), or a mask with one bool per atom.
        sizes: Numbers of atoms of the crystals to relax; each must equal the length of a mask.

    Raises:
        ConfigError: The value is neither, or a mask does not fit.
    """
    try:
        values = list(fix_atoms)
    except TypeError:
        raise ConfigError(f"{INDICES}; got {fix_atoms!r}.") from None
    masks = [isinstance(value, bool | np.bool_) for value in values]
    for value, flag in zip(values, masks, strict=True):
        if not flag and (not isinstance(value, int | np.integer) or value < 0):
            raise ConfigError(f"{INDICES}; got {value!r}.")
    if not any(masks):
        return tuple(dict.fromkeys(int(value) for value in values))
    if not all(masks):
        raise ConfigError(f"{INDICES}, not both; got {values!r}.")
    for size in sizes:
        if size != len(values):
            raise ConfigError(
                f"fix_atoms is a mask of {len(values)} atoms, but a crystal has {size}. Pass one bool "
                "per atom, or indices; relax crystals of different sizes in separate calls."
            )
    return tuple(np.flatnonzero(values).tolist())


class ConstraintProjection:
    """Projection of a predicted geometry on a crystal's symmetry and constraints.

    Args:
        positions: Input positions in A, ``(N, 3)``.
        cell: Input lattice vectors as rows in A, ``(3, 3)``.
        group: Space group to keep, or None.
        fix_cell: Keep the cell.
        fix_axes: Lattice vectors to keep, letters out of ``abc``.
        fixed: Fractional coordinates to keep, ``(N, 3)``.
        keeps_energies: Whether energies and forces of a path stay valid, because only the symmetry and
            vectors that are not periodic are kept.
    """

    def __init__(
        self,
        positions: NDArray[Any],
        cell: NDArray[Any],
        group: SpaceGroup | None,
        *,
        fix_cell: bool,
        fix_axes: str,
        fixed: NDArray[np.bool_],
        keeps_energies: bool,
    ) -> None:
        self.positions, self.cell, self.group = positions, cell, group
        self.fix_cell, self.fix_axes, self.fixed = fix_cell, fix_axes, fixed
        self.keeps_energies = keeps_energies

    def __call__(self, positions: NDArray[Any], cell: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Project positions ``(N, 3)`` and a cell ``(3, 3)`` in A."""
        if self.group is not None:
            positions, cell = symmetrise(self.group, self.positions, self.cell, positions, cell)
        if not (self.fix_cell or self.fix_axes or self.fixed.any()):
            return positions, cell
        fractional = positions @ np.linalg.inv(cell)
        cell = self.cell.copy() if self.fix_cell else constrain_cell(self.cell, cell, self.fix_axes)
        if self.fixed.any():
            fractional = _restore_fixed(fractional, self.positions @ np.linalg.inv(self.cell), self.fixed)
        return fractional @ cell, cell

    def moves(self, cell: NDArray[Any]) -> Moves:
        """Moves from a projected geometry with this cell ``(3, 3)`` that keep what is kept here."""
        from repose.potentials.moves import Moves

        return Moves(cell, group=self.group, fix_cell=self.fix_cell, fix_axes=self.fix_axes, fixed=self.fixed)

    def frame(self, frame: Frame) -> Frame:
        """Project a frame of a path; drop energy and forces that do not belong to the projected geometry."""
        positions, cell = self(frame.positions, frame.cell)
        if self.keeps_energies:
            return replace(frame, positions=positions, cell=cell)
        return Frame(positions, cell)


def _restore_fixed(fractional: NDArray[Any], given: NDArray[Any], fixed: NDArray[np.bool_]) -> NDArray[Any]:
    """Reset fixed coordinates to the given ones and shift the others by the mean of this reset."""
    moved = np.where(fixed, fractional - given, 0.0).sum(axis=0) / np.maximum(fixed.sum(axis=0), 1)
    return np.where(fixed, given, fractional - moved)
