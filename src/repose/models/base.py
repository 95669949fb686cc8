"""The one interface that every way of relaxing has, and what it returns."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from repose import checks, symmetry
from repose.crystals import CrystalBatch
from repose.errors import ConfigError, InvalidCrystalError
from repose.io import convert
from repose.models.estimate import Bonds, Estimate, Outcome
from repose.models.memory import batch_bytes, free_memory, is_out_of_memory, pack, watched
from repose.models.network import Geometry
from repose.models.start import near_home
from repose.trajectory import Frame

# Volume over that of the input beyond which a path has exploded.
EXPLODED = 8.0

Status = Literal["relaxed", "suspect", "refused"]


@dataclass(frozen=True, eq=False)
class Relaxation:
    """What became of one crystal.

    Attributes:
        structure: The relaxed crystal, of the type that was given. If the input was refused, or the
            prediction is no crystal at all (not finite), the input itself, the very object.
        status: ``"relaxed"``; ``"suspect"``: relaxed, but the prediction fails a sanity check;
            ``"refused"``: not a crystal that can be relaxed.
        reason: Why it is suspect or refused, in words a user can act on; None if it is neither.
        volume_change: Relaxed over input volume, minus one.
        max_displacement: How far an atom moved at most beyond the deformation of the cell, in A: change of
            fractional coordinates times the new cell. It does not depend on where the crystal is written.
        uncertainty: Where the model gives one, a bound in A that the mean error of coordinates stays below
            for 90 % of crystals like those it was calibrated on, constraints left out.
        atom_uncertainty: The same for every atom, ``(N,)``.
        strain_uncertainty: The same for the strain from this cell to the relaxed one, root mean square of its
            nine entries.
        bond_uncertainty: The same for the length of every bond.
        outside: Why the crystal lies outside of what the model knows, so that bounds may not hold; None if it
            does not, or if the model cannot tell.
        path: The way from the input to the output, both included, where the model gives it: energies in eV
            and forces in eV/A are the model's. Where constraints hold something back, frames have none.
        seconds: Time this crystal took, its share of the batch's.
        before: The input as numbers, None if it was refused; `spacegroup_in` is found from it.
        after: The output as numbers, None if there is none.
        known_group: Space group number of the input, if it had to be found anyway.
    """

    structure: Any
    status: Status
    reason: str | None = None
    volume_change: float = 0.0
    max_displacement: float = 0.0
    uncertainty: float | None = None
    atom_uncertainty: NDArray[np.float64] | None = None
    strain_uncertainty: float | None = None
    bond_uncertainty: Bonds | None = None
    outside: str | None = None
    path: tuple[Frame, ...] | None = None
    seconds: float = 0.0
    before: CrystalBatch | None = field(default=None, repr=False)
    after: CrystalBatch | None = field(default=None, repr=False)
    known_group: int | None = field(default=None, repr=False)

    # Found when asked for: on a cubic crystal spglib takes longer than the model.
    @cached_property
    def spacegroup_in(self) -> int:
        """Space group number of the input; 0 if it was refused."""
        return _space_group(self.before) if self.known_group is None else self.known_group

    @cached_property
    def spacegroup_out(self) -> int:
        """Space group number of the output; 0 if there is none."""
        return _space_group(self.after)


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
        if not set(self.fix_axes) <= set("abc"):
            raise ConfigError(f"fix_axes must be letters out of 'abc', e.g. 'c'; got {self.fix_axes!r}.")
        for k in self.fix_atoms:
            if isinstance(k, bool) or not isinstance(k, int) or k < 0:
                raise ConfigError(f"fix_atoms must be indices of atoms, counted from 0; got {k!r}.")


@dataclass(eq=False)
class _Job:
    """A crystal that is fit to be relaxed, on its way."""

    index: int
    structure: Any
    crystal: CrystalBatch
    group: symmetry.SpaceGroup | None
    fixed: NDArray[np.bool_]  # (N, 3), fractional coordinates to keep
    memory: float
    seconds: float

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Numbers, positions, cell and pbc of the input."""
        c = self.crystal
        return c.numbers.numpy(), c.positions.numpy(), c.cells[0].numpy(), c.pbc[0].numpy()


class Relaxer(ABC):
    """Anything that relaxes crystals: direct models, trivial baselines, iterative potentials.

    Attributes:
        name: What tables call it.
        elements: Atomic numbers it can deal with; None for all.
        device: Where it runs.
        gives_paths: Whether results have a `path`.
    """

    name: str
    elements: Collection[int] | None = None
    device: torch.device = torch.device("cpu")
    gives_paths: bool = False
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
        structures: Iterable[Any],
        *,
        symmetry: str = "keep",
        fix_cell: bool = False,
        fix_axes: str = "",
        fix_atoms: Sequence[int] = (),
        progress: Callable[[int], None] | None = None,
    ) -> list[Relaxation]:
        """Relax crystals, in batches that fit in memory.

        The prediction is first projected on the symmetry of the input, then on the constraints. Structures
        may bring constraints of their own, see `repose.io.convert.fixed_coordinates`. Lattice vectors along
        directions that are not periodic are always kept.

        Args:
            structures: `ase.Atoms` or pymatgen Structures, mixed as you like (or a single one); not changed.
            symmetry: ``"keep"`` the space group of the input, or leave the prediction ``"free"``.
            fix_cell: Keep the cell; atoms get the fractional displacements predicted.
            fix_axes: Keep these lattice vectors, letters out of ``abc``: ``"c"`` for the vacuum of a sheet.
            fix_atoms: Indices, from 0, of atoms whose fractional coordinates stay as they are. The others
                move relative to them, as predicted.
            progress: Called with the number of crystals done, after every batch.

        Returns:
            One result a crystal, in order.

        Raises:
            ConfigError: An option has a value that is not allowed.
        """
        constraints = Constraints(symmetry, fix_cell, fix_axes, tuple(int(k) for k in fix_atoms))
        if convert.is_atoms(structures) or convert.is_structure(structures):
            structures = [structures]
        results: dict[int, Relaxation] = {}
        jobs = []
        for index, structure in enumerate(structures):
            start = time.perf_counter()
            try:
                jobs.append(self._job(index, structure, constraints))
                jobs[-1].seconds = time.perf_counter() - start
            except InvalidCrystalError as error:
                results[index] = Relaxation(
                    structure, "refused", str(error), seconds=time.perf_counter() - start
                )
        for batch in pack(jobs, lambda: batch_bytes(self.device) / self.memory_ratio):
            for job, outcome in self._predict(batch):
                start = time.perf_counter()
                if isinstance(outcome, str):
                    results[job.index] = Relaxation(job.structure, "refused", outcome, seconds=job.seconds)
                else:
                    results[job.index] = _finish(job, outcome, constraints, start)
            if progress is not None:
                progress(len(results))
        return [results[index] for index in range(len(results))]

    def _job(self, index: int, structure: Any, constraints: Constraints) -> _Job:
        """Check a crystal and find its symmetry; InvalidCrystalError if it cannot be relaxed."""
        crystal = convert.to_batch(structure)
        job = _Job(index, structure, crystal, None, np.zeros((crystal.n_atoms, 3), dtype=bool), 0.0, 0.0)
        numbers, positions, cell, pbc = job.arrays
        for reason in (
            checks.unknown_elements(numbers, self.elements),
            checks.close_atoms(numbers, positions, cell, pbc),
        ):
            if reason is not None:
                raise InvalidCrystalError(reason)
        job.fixed = convert.fixed_coordinates(structure)
        for k in constraints.fix_atoms:
            if k >= len(numbers):
                raise InvalidCrystalError(
                    f"fix_atoms names atom {k}, but there are {len(numbers)}, counted from 0."
                )
            job.fixed[k] = True
        job.memory, free = self.memory(crystal), free_memory(self.device)
        if job.memory > free:
            raise InvalidCrystalError(
                f"its {len(numbers)} atoms need about {job.memory / 1e9:.1f} GB of memory; "
                f"{free / 1e9:.1f} GB are free. Use a machine with more, or a smaller cell."
            )
        if constraints.symmetry == "keep":
            job.group = symmetry.find_space_group(numbers, positions, cell, pbc)
        return job

    def _predict(self, jobs: list[_Job]) -> Iterator[tuple[_Job, Outcome | str]]:
        """What was predicted for every job, or the reason why there is nothing; halves what is too big."""
        start = time.perf_counter()
        near, home = zip(*(near_home(job.crystal) for job in jobs), strict=True)
        try:
            with watched(self.device) as peak:
                estimate = self.estimate(CrystalBatch.collate(near))
            self.memory_ratio = peak.ratio(sum(job.memory for job in jobs), self.memory_ratio)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            estimate = None
        if estimate is None:  # outside of the handler, so that what the failed pass holds is free again
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(jobs) == 1:
                yield (
                    jobs[0],
                    f"its {jobs[0].crystal.n_atoms} atoms need too much memory; use a smaller cell.",
                )
                return
            half = len(jobs) // 2
            yield from self._predict(jobs[:half])
            yield from self._predict(jobs[half:])
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = (time.perf_counter() - start) / sum(job.crystal.n_atoms for job in jobs)
        outcomes = estimate.split([job.crystal.n_atoms for job in jobs])
        for job, outcome, cells in zip(jobs, outcomes, home, strict=True):
            job.seconds += seconds * job.crystal.n_atoms
            yield job, outcome.shifted(cells.numpy())


def _finish(job: _Job, outcome: Outcome, constraints: Constraints, start: float) -> Relaxation:
    """Symmetry, constraints and checks of a prediction."""
    numbers, old_positions, old_cell, pbc = job.arrays
    positions, cell, violation = outcome.positions, outcome.cell, outcome.violation

    def result(structure: Any, status: Status, reason: str | None, **values: Any) -> Relaxation:
        seconds = job.seconds + time.perf_counter() - start
        known = job.group.number if job.group else None
        return Relaxation(
            structure, status, reason, seconds=seconds, before=job.crystal, known_group=known, **values
        )

    lost = _diverged(outcome.path, old_cell)
    if reason := lost or checks.useless(positions, cell, old_cell, violation):
        return result(job.structure, "suspect", f"{reason} The input is returned; try another model.")
    held = _Held(job, constraints)
    positions, new_cell = held.project(positions, cell)
    fractional = positions @ np.linalg.inv(new_cell)
    moved = (fractional - old_positions @ np.linalg.inv(old_cell)) @ new_cell
    change = float(abs(np.linalg.det(new_cell) / np.linalg.det(old_cell)) - 1)
    reason = checks.useless(positions, new_cell, old_cell) or checks.doubts(
        numbers, positions, new_cell, pbc, change, violation
    )
    return result(
        convert.with_geometry(job.structure, positions, new_cell),
        "suspect" if reason else "relaxed",
        reason,
        volume_change=change,
        max_displacement=float(np.linalg.norm(moved, axis=1).max()),
        after=job.crystal.with_geometry(torch.from_numpy(positions), torch.from_numpy(new_cell)[None]),
        uncertainty=outcome.uncertainty,
        atom_uncertainty=outcome.atoms,
        strain_uncertainty=outcome.strain,
        bond_uncertainty=outcome.bonds,
        outside=outcome.outside,
        path=None if outcome.path is None else tuple(map(held.frame, outcome.path)),
    )


class _Held:
    """What a crystal must keep: its symmetry, and what is constrained."""

    def __init__(self, job: _Job, constraints: Constraints) -> None:
        self.job, self.constraints = job, constraints
        open_axes = {axis for axis, periodic in zip("abc", job.arrays[3], strict=True) if not periodic}
        self.axes = set(constraints.fix_axes) | open_axes
        self.freely = not (constraints.fix_axes or constraints.fix_cell or job.fixed.any())

    def project(self, positions: NDArray[Any], cell: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The nearest geometry that is allowed."""
        _, old_positions, old_cell, _ = self.job.arrays
        if self.job.group is not None:
            positions, cell = symmetry.symmetrise(self.job.group, old_positions, old_cell, positions, cell)
        fractional = positions @ np.linalg.inv(cell)
        fixed_cell = self.constraints.fix_cell
        cell = old_cell.copy() if fixed_cell else symmetry.constrain_cell(old_cell, cell, self.axes)
        if self.job.fixed.any():
            fractional = _hold(fractional, old_positions @ np.linalg.inv(old_cell), self.job.fixed)
        return fractional @ cell, cell

    def frame(self, frame: Frame) -> Frame:
        """A frame of the way, without its energy and forces where those are of another geometry."""
        positions, cell = self.project(frame.positions, frame.cell)
        if self.freely:
            return replace(frame, positions=positions, cell=cell)
        return Frame(positions, cell)


def _diverged(path: tuple[Frame, ...] | None, old_cell: NDArray[Any]) -> str | None:
    """Where on its way a crystal is lost: not finite, flat, or far too large."""
    for index, frame in enumerate(path or ()):
        reason = checks.useless(frame.positions, frame.cell, old_cell)
        if reason is None and not (
            np.isfinite(frame.energy or 0.0)
            and np.isfinite(0.0 if frame.forces is None else frame.forces).all()
        ):
            reason = "its energy or a force is not finite (NaN or infinity)."
        if reason is None and abs(np.linalg.det(frame.cell) / np.linalg.det(old_cell)) > EXPLODED:
            reason = f"the volume is more than {EXPLODED:g} times that of the input."
        if reason is not None:
            return f"the path is lost at frame {index + 1} of {len(path or ())}: {reason}"
    return None


def _space_group(crystal: CrystalBatch | None) -> int:
    if crystal is None:
        return 0
    return symmetry.space_group_number(
        crystal.numbers.numpy(), crystal.positions.numpy(), crystal.cells[0].numpy()
    )


def _hold(fractional: NDArray[Any], given: NDArray[Any], fixed: NDArray[np.bool_]) -> NDArray[Any]:
    """Keep fixed coordinates; the rest is shifted as a whole, to stay as predicted relative to them."""
    moved = np.where(fixed, fractional - given, 0.0).sum(axis=0) / np.maximum(fixed.sum(axis=0), 1)
    return np.where(fixed, given, fractional - moved)
