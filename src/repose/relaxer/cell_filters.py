"""Cells that a cell filter of ASE allows.

UnitCellFilter and those derived from it (Exp-, FrechetCellFilter) describe a cell by the deformation F from
the cell that they were made with, ``cell = original @ F``, and change only those entries of F - 1 that their
mask frees. The mask is in Cartesian axes, whatever the lattice vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import ConfigError

if TYPE_CHECKING:
    from ase.filters import UnitCellFilter

LEAST_VOLUME = 0.1  # over the volume before; a mask that takes away more than that contradicts the prediction


def check_filter(cell_filter: UnitCellFilter) -> None:
    """Make sure that `allowed_cell` can honour a filter.

    Raises:
        ConfigError: It has a pressure, a mask of other values than 0 and 1, or options that contradict each
            other.
    """
    mask = np.asarray(cell_filter.mask, dtype=float)
    if cell_filter.scalar_pressure:
        raise ConfigError(
            "a cell filter with scalar_pressure cannot be honoured: the models relax at zero pressure; use "
            "one without."
        )
    if not np.isin(mask, (0.0, 1.0)).all():
        raise ConfigError(f"the mask of a cell filter must hold bools; got {mask.tolist()}.")
    names = [n for n in ("hydrostatic_strain", "constant_volume") if getattr(cell_filter, n)]
    if len(names) == 2:
        raise ConfigError(f"a cell filter with {names[0]} and {names[1]} frees nothing; use one of them.")
    if names and not mask.all():
        raise ConfigError(f"a cell filter with {names[0]} and a mask cannot be honoured; use one of them.")


def allowed_cell(cell_filter: UnitCellFilter, cell: NDArray[Any]) -> NDArray[np.float64]:
    """The cell that a filter allows for a predicted one.

    Where the filter restricts anything, the rotation from the present to the predicted cell is taken out.
    With a mask the entries of F that it frees are then those of the prediction, and the others stay exactly.
    With ``hydrostatic_strain`` the present cell is scaled to the predicted volume, with ``constant_volume``
    the predicted one to the present volume.

    Args:
        cell_filter: Around the atoms as they are.
        cell: Predicted lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        Lattice vectors as rows in A, ``(3, 3)``.

    Raises:
        ConfigError: Hardly any volume is left, or a lattice vector would change that is not periodic.
    """
    present, pbc = cell_filter.atoms.cell.array, cell_filter.atoms.pbc
    mask = np.asarray(cell_filter.mask, dtype=bool)
    if mask.all() and not (cell_filter.hydrostatic_strain or cell_filter.constant_volume):
        return cell
    left, stretches, _ = np.linalg.svd(np.linalg.solve(present, cell))
    scale = np.prod(stretches) ** (1 / 3)
    if cell_filter.hydrostatic_strain:
        new = present * scale
    else:
        if cell_filter.constant_volume:
            stretches = stretches / scale
        original = np.asarray(cell_filter.orig_cell, dtype=float)
        now, then = (np.linalg.solve(original, c) for c in (present, present @ (left * stretches) @ left.T))
        new = original @ np.where(mask, then, now)
    if np.linalg.det(new) / np.linalg.det(present) < LEAST_VOLUME:
        raise ConfigError(
            f"the mask {mask.tolist()} of the cell filter leaves hardly any volume of the predicted cell; "
            "free more components."
        )
    if not np.allclose(new[~pbc], present[~pbc], atol=1e-8):
        raise ConfigError(
            "the cell filter lets a lattice vector change along a direction that is not periodic; exclude "
            "its components from the mask, or give the filter no mask."
        )
    return new
