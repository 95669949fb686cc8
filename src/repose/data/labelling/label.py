"""Labelling: relax candidates with a calculator into a dataset of relaxation paths.

Worker processes write finished crystals to ledgers in the directory ``OUT.labelling``. After an
interruption, the same call continues with the crystals that are neither in a ledger nor in the dataset. At
the end the ledgers are merged into the dataset.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repose.atomic_write import locked_directory, replacing_file
from repose.crystal.batch import CrystalBatch
from repose.data.candidates import Candidate, read_candidates, read_info
from repose.data.dataset import INFO, Dataset, DatasetInfo, check_target, write_dataset
from repose.data.frames import evenly_spaced
from repose.data.labelling.bonds import bonds_kept
from repose.data.labelling.failures import Failure, read_failures, write_failures
from repose.data.labelling.ledger import Ledger, read_ledgers
from repose.data.labelling.settings import LabelSettings
from repose.data.labelling.workers import Send, run_workers
from repose.data.pairing import Refusal
from repose.data.rows import Pair, from_row, to_row
from repose.data.splits import GroupSplit
from repose.errors import ConfigError, DatasetError
from repose.potentials.batched_lbfgs import RelaxationRun, Start, relax_batched
from repose.potentials.loading import load_potential

SETTINGS = "label.json"


@dataclass(frozen=True)
class LabelCounts:
    """Numbers of candidates that are labelled, failed and left to do."""

    labelled: int
    failed: int
    left: int


@dataclass(frozen=True)
class LabelTask:
    """Task of a worker process: relax candidates; see `repose.data.labelling.workers.Task`."""

    settings: LabelSettings
    device: str
    minutes: float | None = None

    def __call__(
        self, candidates: Sequence[Candidate], ledger: Ledger, send: Send, should_continue: Callable[[], bool]
    ) -> None:
        """Relax candidates and write the results to the ledger."""
        settings = self.settings
        potential = load_potential(settings.calculator, self.device, settings.options)

        def record(result: Pair | Failure) -> None:
            if isinstance(result, Pair):
                ledger.write({"pair": to_row(result)})
                send("labelled", result.id)
            else:
                ledger.write({"failed": result.to_row()})
                send("failed", result.id)

        def crystals() -> Iterator[Start[Candidate]]:
            for candidate in candidates:
                send("started", candidate.id)
                unknown = set(candidate.numbers.tolist()) - set(potential.elements or candidate.numbers)
                if unknown:
                    numbers = ", ".join(map(str, sorted(unknown)))
                    reason = f"{potential.name} has no parameters for atomic number {numbers}."
                    record(Failure.of(candidate, f"unknown element: {reason}"))
                    continue
                geometry = candidate.numbers, candidate.positions, candidate.cell, candidate.pbc
                yield Start(candidate, CrystalBatch.single(*geometry))

        for run in relax_batched(potential, crystals(), settings.relaxation, should_continue, self.minutes):
            record(to_label(run, settings))


def to_label(run: RelaxationRun[Candidate], settings: LabelSettings) -> Pair | Failure:
    """Convert a relaxation that has ended to a pair, or to a failure if it failed or broke the bonds."""
    candidate, frames = run.key, run.frames
    if run.failure is not None or not frames:
        return Failure.of(candidate, run.failure or "it was not relaxed.", frames)
    positions, cell = frames[-1].positions, frames[-1].cell
    before = candidate.positions, candidate.cell
    kept = bonds_kept(candidate.numbers, candidate.pbc, before, (positions, cell))
    if kept < settings.bonds_kept:
        reason = (
            f"another crystal: {100 * kept:.0f}% of the bonds are the same before and after; "
            f"expected at least {100 * settings.bonds_kept:g}%."
        )
        return Failure.of(candidate, reason, frames)
    return Pair(
        id=candidate.id,
        numbers=candidate.numbers,
        pbc=candidate.pbc,
        positions=candidate.positions,
        cell=candidate.cell,
        relaxed_positions=positions,
        relaxed_cell=cell,
        split="",
        path=evenly_spaced(frames, settings.frames or len(frames)),
        tags=candidate.tags | {"n_steps": str(len(frames) - 1)},
    )


def label(
    source: Sequence[Path],
    out: Path,
    settings: LabelSettings,
    assign: GroupSplit,
    *,
    name: str = "",
    licence: str = "",
    workers: int = 1,
    device: str = "auto",
    hours: float | None = None,
    minutes: float | None = None,
    report: Callable[[LabelCounts], None] = lambda counts: None,
) -> tuple[Dataset, LabelCounts]:
    """Relax candidates into a dataset; return it and the final counts. An interrupted call is continued.

    Args:
        source: Directories of candidates, or files of crystals.
        out: Directory of the dataset. An existing dataset with the same labels is extended. Crystals that
            could not be labelled are in its ``failed.parquet``.
        settings: Calculator and relaxation.
        assign: Splits.
        name: Name of the dataset; that of the directory by default.
        licence: Licence of the dataset.
        workers: Number of processes.
        device: Device of a batched potential.
        hours: Time after which the finished crystals are written; 0 only writes them.
        minutes: Time limit of one crystal; slower ones fail, which depends on the machine.
        report: Called with the counts at the start and after each crystal.

    Raises:
        ConfigError: ``out`` was started with other settings, or the calculator cannot be loaded.
        DatasetError: There are no crystals, none was labelled, or ``out`` is not a dataset.
    """
    check_target(out)
    work = out.with_name(f"{out.name}.labelling")
    with locked_directory(work, "labelling"):
        _check_settings(work, out, settings)
        job = _Job(out, work, *_read(source))
        if job.todo and hours != 0:
            deadline = None if hours is None else time.time() + 3600 * hours
            report(job.counts)

            def count(_: str, labelled: bool) -> None:
                job.count(labelled)
                report(job.counts)

            task = LabelTask(settings, device, minutes)
            run_workers(job.todo, task, work, workers=workers, deadline=deadline, report=count)
        described = [info for path in source if (info := read_info(path))]
        info = DatasetInfo(
            name=name or out.resolve().name,
            source="; ".join(f"{i.preset} candidates, seed {i.seed}" for i in described)
            or "crystals of the user",
            licence=licence,
            calculator=settings.labels,
            splits=assign.description,
        )
        return job.write(info, assign), job.counts


def _check_settings(work: Path, out: Path, settings: LabelSettings) -> None:
    """Check that earlier calls had the same settings, and write them down in the first call."""
    if (out / INFO).is_file() and (before := Dataset(out).info.calculator) != settings.labels:
        raise ConfigError(f"{out} has labels of '{before}', not '{settings.labels}'; choose another --out.")
    path = work / SETTINGS
    values = settings.model_dump(mode="json")
    if not path.is_file():
        with replacing_file(path) as new:
            new.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text())
    if differing := [key for key in values if before.get(key) != values[key]]:
        raise ConfigError(
            f"{work} was started with other {' and '.join(differing)} (see {path}); choose another --out, or "
            "remove that directory to start again."
        )


def _read(source: Sequence[Path]) -> tuple[dict[str, Candidate], dict[str, Failure]]:
    """Read candidates by id, and failures of those that cannot be read."""
    candidates: dict[str, Candidate] = {}
    refused: dict[str, Failure] = {}
    for item in (item for path in source for item in read_candidates(path)):
        if isinstance(item, Refusal) or item.id in candidates:
            refused[item.id] = Failure.of(item, f"refused: the id {item.id} was already read.")
        else:
            candidates[item.id] = item
    return candidates, refused


class _Job:
    """Candidates to label, the results so far, and the directories of both.

    Args:
        out: Directory of the dataset.
        work: Directory of the ledgers.
        candidates: Candidates by id.
        refused: Failures of candidates that cannot be read, by id.
    """

    def __init__(
        self, out: Path, work: Path, candidates: dict[str, Candidate], refused: dict[str, Failure]
    ) -> None:
        self.out, self.work, self.refused = out, work, refused
        self.position = {name: k for k, name in enumerate(candidates)}
        self.old = Dataset(out) if (out / INFO).is_file() else None
        self.old_ids = set(self.old.ids()) if self.old else set[str]()
        entries = [(kind, row["id"]) for entry in read_ledgers(work) for kind, row in entry.items()]
        labelled = self.old_ids | {name for kind, name in entries if kind == "pair"}
        failed = {name for kind, name in entries if kind == "failed"}
        failed |= {failure.id for failure in read_failures(out)}
        done = labelled | failed
        self.todo = [candidate for name, candidate in candidates.items() if name not in done]
        self._total = len(candidates) + len(refused)
        self._labelled = len(labelled & candidates.keys())
        self._failed = len(failed & candidates.keys()) + len(refused)

    @property
    def counts(self) -> LabelCounts:
        """Counts of candidates so far."""
        return LabelCounts(self._labelled, self._failed, self._total - self._labelled - self._failed)

    def count(self, labelled: bool) -> None:
        """Count a crystal that has ended."""
        self._labelled += labelled
        self._failed += not labelled

    def write(self, info: DatasetInfo, assign: GroupSplit) -> Dataset:
        """Merge the ledgers into the dataset and remove them.

        Raises:
            DatasetError: No crystal is labelled.
        """
        failures = {failure.id: failure for failure in read_failures(self.out)} | self.refused
        rows: dict[str, str] = {}  # as text, which takes less memory than the crystals
        for entry in read_ledgers(self.work):
            if "failed" in entry:
                failures.setdefault(entry["failed"]["id"], Failure(**entry["failed"]))
            else:
                rows.setdefault(entry["pair"]["id"], json.dumps(entry["pair"]))
        if self.old is None and not rows:
            reasons = "; ".join(f"{f.id}: {f.reason}" for f in list(failures.values())[:3])
            raise DatasetError(f"no crystal is labelled, so there is no dataset. {reasons}".strip())

        def order(name: str) -> int:
            return self.position.get(name, len(self.position))

        def pairs() -> Iterator[Pair]:
            yield from self.old or ()
            for name in sorted(rows.keys() - self.old_ids, key=order):
                pair = from_row(json.loads(rows[name]))
                yield replace(pair, split=assign(pair))

        ordered = sorted(failures.values(), key=lambda failure: order(failure.id))
        dataset = write_dataset(self.out, info, pairs(), finish=lambda new: write_failures(new, ordered))
        shutil.rmtree(self.work)
        return dataset
