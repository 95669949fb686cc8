"""Relaxations of test crystals from the input and from predictions, in a worker process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ase.data import chemical_symbols

from repose.crystal.batch import CrystalBatch
from repose.data.candidates import Candidate
from repose.data.labelling.ledger import Ledger
from repose.data.labelling.workers import Send
from repose.errors import InvalidCrystalError
from repose.potentials.ase import AsePotential
from repose.potentials.batched_lbfgs import RelaxationRun, Start, StepResults, evaluate_each, relax_batched
from repose.relaxer.base import Relaxer
from repose.relaxer.constraints import Constraints
from repose.relaxer.inputs import Input
from repose.relaxer.loading import load
from repose.relaxer.single_crystal import PreparedCrystal, prepare
from repose.validation.samples import INPUT, Sample, Source, coordinate_errors, crystal_key, unrelaxed
from repose.validation.settings import ValidationSettings

Row = dict[str, Any]
# Values of a start that was not relaxed.
EMPTY: Row = {
    "status": None,
    "reason": None,
    "bound": None,
    "coordinates": None,
    "energy_start": None,
    "energy_end": None,
    "energy_target": None,
    "steps": None,
    "evaluations": 0,
    "converged": False,
    "failure": None,
    "target_failure": None,
    "lacking": None,
    "seconds_predicting": 0.0,
    "seconds_relaxing": 0.0,
}


class Key(NamedTuple):
    """A sample and the row of one of its starts so far."""

    sample: Sample
    row: Row


@dataclass(frozen=True)
class ValidationTask:
    """Task of a worker process; see `repose.data.labelling.workers.Task`.

    The starts of a crystal are relaxed by the same process, the input first. A calculator of ASE may keep
    parameters from one structure to the next, so that it relaxes all starts of a crystal again if a row is
    missing.
    """

    settings: ValidationSettings
    sources: tuple[Source, ...]
    device: str = "auto"
    minutes: float | None = None

    def __call__(
        self, candidates: Sequence[Candidate], ledger: Ledger, send: Send, should_continue: Callable[[], bool]
    ) -> None:
        """Relax the crystals and write a row for each start to the ledger."""
        work = _Work(self, ledger, send)
        settings = self.settings.relaxation
        samples = [sample for sample in candidates if isinstance(sample, Sample)]
        for run in relax_batched(
            work.potential, work.starts(samples), settings, should_continue, self.minutes
        ):
            work.finish(run)


class _Work:
    """Calculator, models and unfinished crystals of a process."""

    def __init__(self, task: ValidationTask, ledger: Ledger, send: Send) -> None:
        settings = task.settings
        self.task, self.ledger, self.send = task, ledger, send
        self.potential = settings.load_potential(task.device)
        self.constraints = Constraints(settings.symmetry, settings.relaxation.fixed_cell)
        self.relaxers: dict[str, Relaxer] = {}
        self.pending = Counter[str]()
        self.failed = set[str]()

    def starts(self, samples: Sequence[Sample]) -> Iterator[Start[Key]]:
        """Yield the structures to relax; predict when they are asked for."""
        for sample in samples:
            again = isinstance(self.potential, AsePotential)
            wanted = [s for s in self.task.sources if again or s.name in sample.missing]
            self.send("started", sample.id)
            self.pending[sample.id] = len(wanted)
            atoms = unrelaxed(sample.pair)
            lacking = self._lacking(sample)
            try:
                if lacking:
                    names = ", ".join(lacking)
                    raise InvalidCrystalError(f"{self.potential.name} has no parameters for {names}.")
                prepared = prepare(0, Input(atoms), self.constraints, None, lambda crystal: 0.0)
            except InvalidCrystalError as error:
                failed = {"failure": f"not relaxed: {error}", "lacking": lacking}
                for source in wanted:
                    self._write(Key(sample, self._row(sample, source) | failed))
                continue
            for source in wanted:
                key = Key(sample, self._row(sample, source))
                crystal = self._structure(source, key, prepared)
                if crystal is None:
                    self._write(key)
                else:
                    yield Start(key, crystal, prepared.projection.moves(crystal.cells[0].numpy()))

    def _lacking(self, sample: Sample) -> list[str]:
        """Return the elements for which the calculator has no parameters."""
        numbers = set(sample.numbers.tolist())
        return [chemical_symbols[z] for z in sorted(numbers - set(self.potential.elements or numbers))]

    def _row(self, sample: Sample, source: Source) -> Row:
        key = crystal_key(sample.pair, self.task.settings, source.fingerprint)
        row = {"key": key, "dataset": sample.dataset, "id": sample.pair.id, "atoms": len(sample.numbers)}
        return row | {"start": source.name} | EMPTY

    def _structure(self, source: Source, key: Key, prepared: PreparedCrystal) -> CrystalBatch | None:
        """Return the structure of a start, or None if there is none; add what is known of it to the row."""
        pair, row = key.sample.pair, key.row
        atoms = unrelaxed(pair)
        crystal = prepared.crystal
        if source.model is not None:
            relaxer = self._relaxer(source, pair)
            begin = time.perf_counter()
            (result,) = relaxer.relax(atoms, constraints=self.constraints)
            row["seconds_predicting"] = time.perf_counter() - begin
            row |= {"status": result.status, "reason": result.reason, "bound": result.uncertainty}
            if result.after is None:
                row["failure"] = f"no prediction: {result.reason}"
                return None
            atoms, crystal = result.structure, result.after
        row["coordinates"] = float(coordinate_errors([pair], [atoms])[0])
        return crystal

    def _relaxer(self, source: Source, pair: Any) -> Relaxer:
        """Return the model of a source; a first prediction, which takes longer, is not timed."""
        if source.name not in self.relaxers:
            model = source.model
            found = model if isinstance(model, Relaxer) else load(str(model), self.task.device)
            found.relax(unrelaxed(pair), constraints=self.constraints)
            self.relaxers[source.name] = found
        return self.relaxers[source.name]

    def finish(self, run: RelaxationRun[Key]) -> None:
        """Write the row of a relaxation that has ended; energies in eV per atom."""
        row, n_atoms = run.key.row, run.initial.n_atoms
        energies = [frame.energy / n_atoms for frame in run.frames if frame.energy is not None]
        row["energy_start"], row["energy_end"] = (energies[0], energies[-1]) if energies else (None, None)
        row |= {"steps": max(len(run.frames) - 1, 0), "evaluations": len(run.frames)}
        row |= {"converged": run.converged, "failure": run.failure, "seconds_relaxing": run.seconds}
        if row["start"] == INPUT:
            row |= self._target(run.key.sample)
        self._write(run.key)

    def _target(self, sample: Sample) -> Row:
        """Energy of the dataset's relaxed crystal, or the reason why there is none."""
        pair = sample.pair
        crystal = CrystalBatch.single(
            pair.numbers, pair.relaxed_positions, pair.relaxed_cell, pair.pbc, charges=pair.charges
        )
        (found,) = evaluate_each(self.potential, [crystal])
        if isinstance(found, StepResults):
            return {"energy_target": found.energy / len(pair.numbers)}
        return {"target_failure": found}

    def _write(self, key: Key) -> None:
        name = key.sample.id
        self.ledger.write(key.row)
        self.pending[name] -= 1
        if key.row["failure"] is not None:
            self.failed.add(name)
        if not self.pending[name]:
            self.send("failed" if name in self.failed else "labelled", name)
