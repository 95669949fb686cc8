"""Cells that an ASE cell filter allows.

UnitCellFilter and its subclasses (Exp-, FrechetCellFilter) describe a cell by the deformation F of the
original cell, ``cell = original @ F``, and change only the entries of F - 1 that their mask frees. The mask
refers to Cartesian axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import ConfigError

if TYPE_CHECKING:
    from ase.filters import UnitCellFilter

MIN_VOLUME_RATIO = 0.1  # of the allowed to the present volume


def check_filter(cell_filter: UnitCellFilter) -> None:
    """Check that `allowed_cell` supports a filter.

    Raises:
        ConfigError: The filter has a pressure, mask values other than 0 and 1, or contradictory options.
    """
    mask = np.asarray(cell_filter.mask, dtype=float)
    if cell_filter.scalar_pressure:
        raise ConfigError(
            "a cell filter with scalar_pressure is not supported: the models relax at zero pressure; use one "
            "without."
        )
    if not np.isin(mask, (0.0, 1.0)).all():
        raise ConfigError(f"the mask of a cell filter must hold bools; got {mask.tolist()}.")
    names = [n for n in ("hydrostatic_strain", "constant_volume") if getattr(cell_filter, n)]
    if len(names) == 2:
        raise ConfigError(f"a cell filter with {names[0]} and {names[1]} frees nothing; use one of them.")
    if names and not mask.all():
        raise ConfigError(f"a cell filter with {names[0]} and a mask is not supported; use one of them.")


def allowed_cell(cell_filter: UnitCellFilter, cell: NDArray[Any]) -> NDArray[np.float64]:
    """Cell that a filter allows for a predicted cell.

    If the filter restricts the cell, the rotation from the present to the predicted cell is removed first.
    With a mask the free entries of F are those of the prediction, and the others are kept exactly. With
    ``hydrostatic_strain`` the present cell is scaled to the predicted volume; with ``constant_volume`` the
    predicted cell is scaled to the present volume.

    Args:
        cell_filter: Filter around the atoms before the step.
        cell: Predicted lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        Lattice vectors as rows in A, ``(3, 3)``.

    Raises:
        ConfigError: The allowed volume is too small, or a lattice vector that is not periodic changes.
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
    if np.linalg.det(new) / np.linalg.det(present) < MIN_VOLUME_RATIO:
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
