"""Conversion of the steps of one relaxation to a path, and import of trajectories of ASE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.data.dataset import Pair
from repose.data.pairing import UNASSIGNED, Refusal, attempt, describe, path_to_pair
from repose.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

# Types of runs in the header of a trajectory of ASE that are not relaxations.
_OTHER_RUNS = ("molecular-dynamics", "contour-exploration")


def trajectory_to_pair(
    name: str, steps: Sequence[Atoms], *, split: str = UNASSIGNED, tags: dict[str, str] | None = None
) -> Pair:
    """Make a pair of all steps of one relaxation, first to last.

    Unlike `repose.data.pairing.path_to_pair`, this checks that the steps belong together: all must hold the
    same atoms. Atoms that were wrapped into the cell between two steps are unwrapped (see `unwrap`).
    Energies (eV), forces (eV/A) and stresses (eV/A^3) are the results of the calculators, without effects of
    constraints. Values that are not finite become None (programs print ``****`` for numbers that do not fit).

    Raises:
        DatasetError: There are fewer than two steps, or they are not steps of one relaxation.
        InvalidCrystalError: The first or the last is not a crystal.
    """
    if len(steps) < 2:
        raise DatasetError(
            f"'{name}' has {len(steps)} frame{'' if len(steps) == 1 else 's'}; a path needs at least 2, "
            "the unrelaxed and the relaxed one."
        )
    first = steps[0]
    for index, atoms in enumerate(steps):
        if not np.array_equal(atoms.numbers, first.numbers):
            raise DatasetError(
                f"'{name}': frame {index} ({atoms.get_chemical_formula()}) holds other atoms than the first "
                f"({first.get_chemical_formula()}), or in another order; they are not one relaxation."
            )
        if not np.array_equal(atoms.pbc, first.pbc):
            raise DatasetError(f"'{name}': frame {index} is periodic in other directions than the first.")
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            raise DatasetError(f"'{name}': frame {index} has positions or a cell that are not finite.")
    pair = path_to_pair(name, unwrap(steps), split=split, tags=tags)
    path = (
        replace(f, energy=_finite(f.energy), forces=_finite(f.forces), stress=_finite(f.stress))
        for f in pair.path
    )
    return replace(pair, path=tuple(path))


def unwrap(steps: Sequence[Atoms]) -> list[Atoms]:
    """Return copies of steps with every atom in the periodic image nearest to its position one step before.

    Distances are in fractional coordinates, so that a change of the cell does not move atoms far from the
    origin to another image. Steps that are continuous already do not change, to the last digit.

    Args:
        steps: Steps with the same atoms; the copies share their calculators.
    """
    fractional = np.array([atoms.cell.scaled_positions(atoms.positions) for atoms in steps])  # (K, n, 3)
    jumps = np.round(np.diff(fractional, axis=0)) * steps[0].pbc
    images = np.concatenate([np.zeros_like(fractional[:1]), -np.cumsum(jumps, axis=0)])
    copies = []
    for atoms, image in zip(steps, images, strict=True):
        copy = atoms.copy()
        copy.positions += image @ atoms.cell.array
        copy.calc = atoms.calc
        copies.append(copy)
    return copies


def file_stem(path: Path) -> str:
    """Return the name of a file without its suffix and ``.gz``."""
    return Path(path.name.removesuffix(".gz")).stem


def import_ase_traj(path: Path) -> Iterator[Pair | Refusal]:
    """Import a relaxation path from a trajectory of ASE, as its optimizers write it.

    The first frame is the input, the last the relaxed structure; the file does not record whether the
    optimizer converged. Energy, forces and stress are the results of the calculator; forces on constrained
    atoms are kept. The stem of the file is the id.
    """
    yield attempt(file_stem(path), _read_traj, path)


def _read_traj(path: Path) -> Pair:
    from ase.io.trajectory import TrajectoryReader

    try:
        with TrajectoryReader(path) as reader:
            run = (getattr(reader, "description", None) or {}).get("type")
            steps: list[Any] = list(reader)
    except Exception as error:  # the reader raises any error for files that are cut off
        raise DatasetError(
            f"{path} cannot be read as a trajectory of ASE; it may be cut off: {describe(error)}."
        ) from None
    if run in _OTHER_RUNS:
        raise DatasetError(f"{path} is a run of {run.replace('-', ' ')}, not a relaxation.")
    return trajectory_to_pair(file_stem(path), steps)


def _finite(value: Any) -> Any:
    return value if value is not None and np.isfinite(value).all() else None
