"""Steps for one crystal before and after the prediction: checks, symmetry, constraints, result."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from repose.crystal import checks, symmetry
from repose.crystal.batch import CrystalBatch
from repose.crystal.connectivity import candidates, layout
from repose.crystal.deformation import determinant
from repose.crystal.frame import Frame
from repose.errors import ConfigError, InvalidCrystalError, MissingExtraError, ModelError
from repose.io import convert
from repose.models.prediction import MAX_VOLUME_RATIO
from repose.relaxer.constraints import ConstraintProjection, Constraints
from repose.relaxer.inputs import Input
from repose.relaxer.relaxation import Relaxation, attach_uncertainties
from repose.relaxer.vacuum import ISOLATED, MOLECULAR, vacuum_remarks

# Errors of the set-up, not of a crystal: they are raised, while any other error refuses the crystal.
SETUP_ERRORS = (ConfigError, ModelError, MissingExtraError)


@dataclass(eq=False)
class PreparedCrystal:
    """A checked crystal with its symmetry and constraints, ready for the prediction."""

    index: int  # position in the list of inputs
    input: Input
    crystal: CrystalBatch  # batch of one, float64
    group: symmetry.SpaceGroup | None  # None if the symmetry is not kept
    projection: ConstraintProjection
    vacuum: bool  # whether the cell contains vacuum or separate molecules
    remarks: tuple[str, ...]
    memory: float  # estimated bytes of the prediction
    seconds: float = 0.0  # time spent on this crystal so far


def prepare(
    index: int,
    given: Input,
    constraints: Constraints,
    elements: Collection[int] | None,
    required_memory: Callable[[CrystalBatch], float],
) -> PreparedCrystal:
    """Check a crystal, find its symmetry and set up its constraints.

    Args:
        index: Position in the list of inputs.
        given: Structure and source.
        constraints: Constraints of the user.
        elements: Atomic numbers that the relaxer supports; None for all.
        required_memory: Returns the bytes that a prediction takes, and raises if that is too much.

    Raises:
        InvalidCrystalError: The crystal cannot be relaxed.
    """
    start = time.perf_counter()
    if given.reason is not None:
        raise InvalidCrystalError(given.reason)
    crystal = convert.to_batch(given.structure)
    numbers, positions, cell, pbc = _arrays(crystal)
    reason = checks.unknown_elements(numbers, elements)
    # In a crystal that is far too dense, atoms have too many neighbours to list.
    dense = abs(determinant(cell)) < len(numbers)
    near = None if reason or dense else candidates(numbers, positions, cell, pbc)
    if reason := reason or checks.close_atoms(numbers, positions, cell, pbc, near=near):
        raise InvalidCrystalError(reason)
    found = layout(numbers, positions, cell, pbc, near)
    if found.isolated:
        raise InvalidCrystalError(ISOLATED)
    fixed = convert.fixed_coordinates(given.structure)
    for k in constraints.fix_atoms:
        if k >= len(numbers):
            raise InvalidCrystalError(
                f"fix_atoms names atom {k}, but there are {len(numbers)}, counted from 0."
            )
        fixed[k] = True
    memory = required_memory(crystal)
    group = None
    if constraints.symmetry == "keep":
        group = symmetry.find_space_group(numbers, positions, cell, pbc)
    open_axes = "".join(axis for axis, periodic in zip("abc", pbc, strict=True) if not periodic)
    projection = ConstraintProjection(
        positions,
        cell,
        group,
        fix_cell=constraints.fix_cell or found.oblique,
        fix_axes=constraints.fix_axes + open_axes + found.empty,
        fixed=fixed,
        keeps_energies=not any(
            (constraints.fix_axes, constraints.fix_cell, fixed.any(), found.empty, found.oblique)
        ),
    )
    remarks = given.remarks + vacuum_remarks(found, crystal, constraints) + (MOLECULAR,) * found.molecular
    vacuum = bool(found.empty) or found.oblique or found.molecular
    seconds = time.perf_counter() - start
    return PreparedCrystal(index, given, crystal, group, projection, vacuum, remarks, memory, seconds)


def finish(prepared: PreparedCrystal, predicted: dict[str, Any] | str) -> Relaxation:
    """Apply symmetry, constraints and checks to a prediction; an error refuses the crystal.

    ``predicted`` has values from `BatchRelaxation.split`, or is the reason why there is no prediction.
    """
    start = time.perf_counter()
    try:
        if isinstance(predicted, str):
            raise InvalidCrystalError(predicted)
        result = _finish(prepared, **predicted)
    except SETUP_ERRORS:
        raise
    except Exception as error:  # the other crystals are not affected
        return refuse(prepared.input, error_message(error), prepared.seconds)
    return replace(result, seconds=prepared.seconds + time.perf_counter() - start)


def refuse(given: Input, reason: str, seconds: float) -> Relaxation:
    """Result for a crystal that cannot be relaxed."""
    return Relaxation(
        given.structure, "refused", reason, seconds=seconds, remarks=given.remarks, source=given.source
    )


def error_message(error: Exception) -> str:
    """Reason for the user: the message of an InvalidCrystalError; type and message of any other error."""
    if isinstance(error, InvalidCrystalError):
        return str(error)
    return " ".join(f"an unexpected error, {type(error).__name__}: {error}".split())


def _finish(
    prepared: PreparedCrystal,
    positions: NDArray[Any],
    cell: NDArray[Any],
    violation: float | None,
    path: tuple[Frame, ...] | None,
    **uncertainties: Any,
) -> Relaxation:
    old_cell = prepared.crystal.cells[0].numpy()
    common: dict[str, Any] = {
        "remarks": prepared.remarks,
        "source": prepared.input.source,
        "before": prepared.crystal,
        "known_group": prepared.group.number if prepared.group else None,
    }
    reason = _path_divergence(path, old_cell)
    if reason := reason or checks.invalid_reason(positions, cell, old_cell, violation):
        reason = f"{reason} The input is returned; try another model."
        return Relaxation(prepared.input.structure, "suspect", reason, **common)
    values = changed_geometry(prepared, *prepared.projection(positions, cell), violation)
    result = Relaxation(
        status="suspect" if values["reason"] else "relaxed",
        path=None if path is None else tuple(map(prepared.projection.frame, path)),
        **values,
        **common,
        **uncertainties,
    )
    attach_uncertainties(result.structure, result.uncertainty, result.atom_uncertainty, result.outside)
    return result


def changed_geometry(
    prepared: PreparedCrystal, positions: NDArray[Any], cell: NDArray[Any], violation: float | None = None
) -> dict[str, Any]:
    """Fields of `Relaxation` that follow from the relaxed geometry; ``reason``: why it is suspect.

    Args:
        prepared: The input.
        positions: Relaxed positions in A, ``(N, 3)``, at the images of the input's.
        cell: Relaxed lattice vectors as rows in A, ``(3, 3)``.
        violation: Mean deviation from predicted distances in A, or None.
    """
    numbers, old_positions, old_cell, pbc = _arrays(prepared.crystal)
    fractional = positions @ np.linalg.inv(cell)
    moved = (fractional - old_positions @ np.linalg.inv(old_cell)) @ cell
    change = abs(determinant(cell) / determinant(old_cell)) - 1
    return {
        "structure": convert.with_geometry(prepared.input.structure, positions, cell),
        "reason": checks.invalid_reason(positions, cell, old_cell)
        or checks.sanity_warnings(numbers, positions, cell, pbc, change, violation, prepared.vacuum),
        "volume_change": change,
        "max_displacement": float(np.sqrt((moved**2).sum(axis=1).max())),
        "after": prepared.crystal.with_geometry(torch.from_numpy(positions), torch.from_numpy(cell)[None]),
    }


def _arrays(crystal: CrystalBatch) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Numbers, positions, cell and pbc of one crystal."""
    c = crystal
    return c.numbers.numpy(), c.positions.numpy(), c.cells[0].numpy(), c.pbc[0].numpy()


def _path_divergence(path: tuple[Frame, ...] | None, old_cell: NDArray[Any]) -> str | None:
    """First frame of a path that is not finite, flat, or far too large, with the reason."""
    for index, frame in enumerate(path or ()):
        reason = checks.invalid_reason(frame.positions, frame.cell, old_cell)
        if reason is None and not (
            np.isfinite(frame.energy or 0.0)
            and np.isfinite(0.0 if frame.forces is None else frame.forces).all()
        ):
            reason = "its energy or a force is not finite (NaN or infinity)."
        if reason is None and abs(determinant(frame.cell) / determinant(old_cell)) > MAX_VOLUME_RATIO:
            reason = f"the volume is more than {MAX_VOLUME_RATIO:g} times that of the input."
        if reason is not None:
            return f"the path diverges at frame {index + 1} of {len(path or ())}: {reason}"
    return None
