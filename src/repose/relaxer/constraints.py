"""What a relaxation must respect, and the nearest geometry that does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.crystal.frame import Frame
from repose.crystal.symmetry import SpaceGroup, constrain_cell, symmetrise
from repose.errors import ConfigError

INDICES = "fix_atoms must be indices of atoms, counted from 0, or a mask with one bool an atom"


@dataclass(frozen=True)
class Constraints:
    """What a relaxation must respect; see `Relaxer.relax`.

    Raises:
        ConfigError: A value is not one of those allowed.
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
    """Indices of the atoms to hold, from indices or from a mask.

    Args:
        fix_atoms: Indices of atoms from 0 (integers of Python or numpy), or a mask of bools, one an atom.
        sizes: Atoms of every crystal that is to be relaxed; all of them must fit a mask.

    Raises:
        ConfigError: It is neither, or a mask does not fit.
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
                f"fix_atoms is a mask of {len(values)} atoms, but a crystal has {size}. Pass one bool an "
                "atom, or indices, and relax crystals of other sizes in calls of their own."
            )
    return tuple(np.flatnonzero(values).tolist())


class Projection:
    """The nearest geometry that a crystal's symmetry and constraints allow.

    Args:
        positions: Input positions in A, ``(N, 3)``.
        cell: Input lattice vectors as rows in A, ``(3, 3)``.
        group: Space group to keep, or None.
        fix_cell: Keep the cell.
        fix_axes: Lattice vectors to keep, letters out of ``abc``.
        fixed: Fractional coordinates to keep, ``(N, 3)``.
        physical: Whether energies and forces of a path remain those of its frames, since nothing but the
            symmetry and directions that are not periodic is kept.
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
        physical: bool,
    ) -> None:
        self.positions, self.cell, self.group = positions, cell, group
        self.fix_cell, self.fix_axes, self.fixed, self.physical = fix_cell, fix_axes, fixed, physical

    def __call__(self, positions: NDArray[Any], cell: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Project predicted positions ``(N, 3)`` and a predicted cell ``(3, 3)``, A."""
        if self.group is not None:
            positions, cell = symmetrise(self.group, self.positions, self.cell, positions, cell)
        fractional = positions @ np.linalg.inv(cell)
        cell = self.cell.copy() if self.fix_cell else constrain_cell(self.cell, cell, self.fix_axes)
        if self.fixed.any():
            fractional = _hold(fractional, self.positions @ np.linalg.inv(self.cell), self.fixed)
        return fractional @ cell, cell

    def frame(self, frame: Frame) -> Frame:
        """A frame of a path, without its energy and forces where those are of another geometry."""
        positions, cell = self(frame.positions, frame.cell)
        return replace(frame, positions=positions, cell=cell) if self.physical else Frame(positions, cell)


def _hold(fractional: NDArray[Any], given: NDArray[Any], fixed: NDArray[np.bool_]) -> NDArray[Any]:
    """Keep fixed coordinates; the rest is shifted as a whole, to stay as predicted relative to them."""
    moved = np.where(fixed, fractional - given, 0.0).sum(axis=0) / np.maximum(fixed.sum(axis=0), 1)
    return np.where(fixed, given, fractional - moved)
