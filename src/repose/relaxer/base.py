"""The one interface that every way of relaxing has."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from repose.crystal import checks, symmetry
from repose.crystal.batch import CrystalBatch
from repose.crystal.connectivity import Layout, layout
from repose.crystal.frame import Frame
from repose.errors import ConfigError, InvalidCrystalError, MissingExtraError, ModelError
from repose.io import convert
from repose.models.initial_structure import near_home
from repose.models.prediction import MAX_VOLUME_RATIO, Geometry
from repose.models.uncertainty.estimate import Estimate, Outcome
from repose.relaxer.constraints import Constraints, Projection, atom_indices
from repose.relaxer.inputs import Input, expand, is_crystal
from repose.relaxer.memory import batch_bytes, free_memory, is_out_of_memory, pack, watched
from repose.relaxer.progress import reporting
from repose.relaxer.relaxation import Relaxation, write_bounds
from repose.relaxer.vacuum import ISOLATED, MOLECULAR, vacuum_remarks

# About the set-up, not about a crystal: never a reason to refuse one.
_USAGE = (ConfigError, ModelError, MissingExtraError)


@dataclass(eq=False)
class _Job:
    """A crystal that is fit to be relaxed."""

    index: int
    input: Input
    crystal: CrystalBatch
    group: symmetry.SpaceGroup | None
    projection: Projection
    layout: Layout
    remarks: tuple[str, ...]
    memory: float
    seconds: float = 0.0

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Numbers, positions, cell and pbc of the input."""
        return _arrays(self.crystal)


class Relaxer(ABC):
    """Anything that relaxes crystals: direct models, trivial baselines, iterative potentials.

    Attributes:
        name: What tables call it.
        elements: Atomic numbers it can deal with; None for all.
        device: Where it runs.
        gives_paths: Whether results have a `path`.
        gives_bounds: Whether results have an `uncertainty`.
    """

    name: str
    elements: Collection[int] | None = None
    device: torch.device = torch.device("cpu")
    gives_paths: bool = False
    gives_bounds: bool = False
    memory_ratio: float = 1.0  # memory taken over memory estimated, in the last large batch

    @abstractmethod
    def predict(self, batch: CrystalBatch) -> Geometry:
        """Relaxed geometry of a batch, without symmetry, constraints or checks.

        Args:
            batch: Any crystals that fit in memory together, on any device and in any type.

        Returns:
            Positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A, on the batch's device and in its type; atom k
            is input atom k, not wrapped.
        """

    def estimate(self, batch: CrystalBatch) -> Estimate:
        """The same, and how wrong it may be, for relaxers that say so.

        Args:
            batch: As for `predict`.
        """
        return Estimate(self.predict(batch))

    def memory(self, crystal: CrystalBatch) -> float:
        """Bytes that predicting this one crystal takes, estimated; 0 if that never matters."""
        del crystal
        return 0.0

    def relax(
        self,
        structures: Any,
        *,
        symmetry: str = "keep",
        fix_cell: bool = False,
        fix_axes: str = "",
        fix_atoms: Iterable[int] | Iterable[bool] = (),
        progress: bool | Callable[[int], None] | None = None,
    ) -> list[Relaxation]:
        """Relax crystals, in batches that fit in memory.

        The prediction is first projected on the symmetry of the input, then on the constraints. Structures
        may bring constraints of their own, see `repose.io.convert.fixed_coordinates`. Lattice vectors along
        directions that are not periodic are always kept, and so are those along vacuum.

        What goes wrong with one crystal, whatever it is, refuses that crystal and leaves the others alone.

        Args:
            structures: `ase.Atoms`, pymatgen Structures and paths, mixed as you like (or a single one); not
                changed. A path names a file, a folder or a glob, and stands for all crystals in it.
            symmetry: ``"keep"`` the space group of the input, or leave the prediction ``"free"``.
            fix_cell: Keep the cell; atoms get the fractional displacements predicted.
            fix_axes: Keep these lattice vectors, letters out of ``abc``: ``"c"`` for the vacuum of a sheet.
            fix_atoms: Atoms whose fractional coordinates stay as they are: indices, from 0, or a mask with
                one bool an atom. The others move relative to them, as predicted.
            progress: Called with the number of crystals done, after every batch; or True for a bar on
                standard error or in a notebook.

        Returns:
            One result a crystal, in order.

        Raises:
            ConfigError: An option has a value that is not allowed, or a mask does not fit a crystal.
        """
        inputs = expand(structures)
        sizes = [len(one.structure) for one in inputs if is_crystal(one.structure)]
        constraints = Constraints(symmetry, fix_cell, fix_axes, atom_indices(fix_atoms, sizes))
        results: dict[int, Relaxation] = {}
        jobs = []
        for index, one in enumerate(inputs):
            start = time.perf_counter()
            try:
                if one.reason is not None:
                    raise InvalidCrystalError(one.reason)
                jobs.append(self._job(index, one, constraints))
                jobs[-1].seconds = time.perf_counter() - start
            except _USAGE:
                raise
            except Exception as error:  # whatever it is, the other crystals go on
                results[index] = _refused(one, _words(error), time.perf_counter() - start)
        with reporting(progress, len(inputs)) as report:
            for batch in pack(jobs, lambda: batch_bytes(self.device) / self.memory_ratio):
                for job, outcome in self._predict(batch):
                    results[job.index] = _result(job, outcome)
                report(len(results))
        return [results[index] for index in range(len(results))]

    def _job(self, index: int, one: Input, constraints: Constraints) -> _Job:
        """Check a crystal and find its symmetry; InvalidCrystalError if it cannot be relaxed."""
        crystal = convert.to_batch(one.structure)
        numbers, positions, cell, pbc = _arrays(crystal)
        reason = checks.unknown_elements(numbers, self.elements)
        if reason := reason or checks.close_atoms(numbers, positions, cell, pbc):
            raise InvalidCrystalError(reason)
        found = layout(numbers, positions, cell, pbc)
        if found.isolated:
            raise InvalidCrystalError(ISOLATED)
        fixed = convert.fixed_coordinates(one.structure)
        for k in constraints.fix_atoms:
            if k >= len(numbers):
                raise InvalidCrystalError(
                    f"fix_atoms names atom {k}, but there are {len(numbers)}, counted from 0."
                )
            fixed[k] = True
        memory, free = self.memory(crystal), free_memory(self.device)
        if memory > free:
            raise InvalidCrystalError(
                f"its {len(numbers)} atoms need about {memory / 1e9:.1f} GB of memory; "
                f"{free / 1e9:.1f} GB are free. Use a machine with more, or a smaller cell."
            )
        group = None
        if constraints.symmetry == "keep":
            group = symmetry.find_space_group(numbers, positions, cell, pbc)
        remarks = vacuum_remarks(found, crystal, constraints)
        open_axes = "".join(axis for axis, periodic in zip("abc", pbc, strict=True) if not periodic)
        projection = Projection(
            positions,
            cell,
            group,
            fix_cell=constraints.fix_cell or found.oblique,
            fix_axes=constraints.fix_axes + open_axes + found.empty,
            fixed=fixed,
            physical=not any(
                (constraints.fix_axes, constraints.fix_cell, fixed.any(), found.empty, found.oblique)
            ),
        )
        if found.molecular:
            remarks += (MOLECULAR,)
        return _Job(index, one, crystal, group, projection, found, one.remarks + remarks, memory)

    def _predict(self, jobs: list[_Job]) -> Iterator[tuple[_Job, Outcome | str]]:
        """What was predicted for every job, or the reason why there is nothing.

        A batch that fails, for want of memory or else, is split in halves, down to the crystal that fails.
        """
        start = time.perf_counter()
        try:
            outcomes = self._outcomes(jobs)
        except _USAGE:
            raise
        except Exception as error:
            failure = _words(error)
            if is_out_of_memory(error):
                failure = f"its {jobs[0].crystal.n_atoms} atoms need too much memory; use a smaller cell."
        else:
            seconds = (time.perf_counter() - start) / sum(job.crystal.n_atoms for job in jobs)
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.seconds += seconds * job.crystal.n_atoms
                yield job, outcome
            return
        # Outside of the handler, so that what the failed pass holds is free again.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(jobs) == 1:
            yield jobs[0], failure
            return
        half = len(jobs) // 2
        yield from self._predict(jobs[:half])
        yield from self._predict(jobs[half:])

    def _outcomes(self, jobs: list[_Job]) -> list[Outcome]:
        """Predictions of one batch, atoms in the cells that they were given in."""
        near, home = zip(*(near_home(job.crystal) for job in jobs), strict=True)
        with watched(self.device) as peak:
            estimate = self.estimate(CrystalBatch.collate(near))
        self.memory_ratio = peak.ratio(sum(job.memory for job in jobs), self.memory_ratio)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        outcomes = estimate.split([job.crystal.n_atoms for job in jobs])
        return [outcome.shifted(cells.numpy()) for outcome, cells in zip(outcomes, home, strict=True)]


def _result(job: _Job, outcome: Outcome | str) -> Relaxation:
    """Result of a job from what was predicted, or from the reason why nothing was."""
    start = time.perf_counter()
    try:
        if isinstance(outcome, str):
            raise InvalidCrystalError(outcome)
        result = _finish(job, outcome)
    except _USAGE:
        raise
    except Exception as error:  # whatever it is, the other crystals go on
        return _refused(job.input, _words(error), job.seconds)
    return replace(result, seconds=job.seconds + time.perf_counter() - start)


def _finish(job: _Job, outcome: Outcome) -> Relaxation:
    """Symmetry, constraints and checks of a prediction."""
    numbers, old_positions, old_cell, pbc = job.arrays
    positions, cell, violation = outcome.positions, outcome.cell, outcome.violation
    unchanged = Relaxation(
        job.input.structure,
        "suspect",
        remarks=job.remarks,
        source=job.input.source,
        before=job.crystal,
        known_group=job.group.number if job.group else None,
    )
    lost = _diverged(outcome.path, old_cell)
    if reason := lost or checks.invalid_reason(positions, cell, old_cell, violation):
        return replace(unchanged, reason=f"{reason} The input is returned; try another model.")
    positions, new_cell = job.projection(positions, cell)
    fractional = positions @ np.linalg.inv(new_cell)
    moved = (fractional - old_positions @ np.linalg.inv(old_cell)) @ new_cell
    change = float(abs(np.linalg.det(new_cell) / np.linalg.det(old_cell)) - 1)
    vacuum = bool(job.layout.empty) or job.layout.oblique or job.layout.molecular
    reason = checks.invalid_reason(positions, new_cell, old_cell) or checks.sanity_warnings(
        numbers, positions, new_cell, pbc, change, violation, vacuum
    )
    structure = convert.with_geometry(job.input.structure, positions, new_cell)
    write_bounds(structure, outcome.uncertainty, outcome.atoms, outcome.outside)
    return replace(
        unchanged,
        structure=structure,
        status="suspect" if reason else "relaxed",
        reason=reason,
        volume_change=change,
        max_displacement=float(np.linalg.norm(moved, axis=1).max()),
        after=job.crystal.with_geometry(torch.from_numpy(positions), torch.from_numpy(new_cell)[None]),
        uncertainty=outcome.uncertainty,
        atom_uncertainty=outcome.atoms,
        strain_uncertainty=outcome.strain,
        bond_uncertainty=outcome.bonds,
        outside=outcome.outside,
        path=None if outcome.path is None else tuple(map(job.projection.frame, outcome.path)),
    )


def _refused(one: Input, reason: str, seconds: float) -> Relaxation:
    return Relaxation(
        one.structure, "refused", reason, seconds=seconds, remarks=one.remarks, source=one.source
    )


def _words(error: Exception) -> str:
    """Why a crystal is refused: what an error of ours says, or the type and words of any other."""
    if isinstance(error, InvalidCrystalError):
        return str(error)
    return " ".join(f"an unexpected error, {type(error).__name__}: {error}".split())


def _arrays(crystal: CrystalBatch) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Numbers, positions, cell and pbc of one crystal."""
    c = crystal
    return c.numbers.numpy(), c.positions.numpy(), c.cells[0].numpy(), c.pbc[0].numpy()


def _diverged(path: tuple[Frame, ...] | None, old_cell: NDArray[Any]) -> str | None:
    """Where on its way a crystal is lost: not finite, flat, or far too large."""
    for index, frame in enumerate(path or ()):
        reason = checks.invalid_reason(frame.positions, frame.cell, old_cell)
        if reason is None and not (
            np.isfinite(frame.energy or 0.0)
            and np.isfinite(0.0 if frame.forces is None else frame.forces).all()
        ):
            reason = "its energy or a force is not finite (NaN or infinity)."
        if reason is None and abs(np.linalg.det(frame.cell) / np.linalg.det(old_cell)) > MAX_VOLUME_RATIO:
            reason = f"the volume is more than {MAX_VOLUME_RATIO:g} times that of the input."
        if reason is not None:
            return f"the path is lost at frame {index + 1} of {len(path or ())}: {reason}"
    return None
