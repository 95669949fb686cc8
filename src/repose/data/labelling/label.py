"""Label candidates: relax them with a calculator, into a dataset of whole paths.

What worker processes finish stands in ledgers, on the disk at once, in a folder beside the dataset.
Whatever is killed whenever, the same call goes on with the crystals that neither a ledger nor the dataset
knows; at the end the ledgers are folded into the dataset.
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
from repose.crystal.frame import Frame
from repose.data.candidates import Candidate, read_candidates, read_info
from repose.data.compact import thin
from repose.data.dataset import INFO, Dataset, DatasetInfo, check_target, write_dataset
from repose.data.labelling.bonds import bonds_kept
from repose.data.labelling.failures import Failure, read_failures, write_failures
from repose.data.labelling.ledger import Ledger, read_ledgers
from repose.data.labelling.settings import LabelSettings
from repose.data.labelling.workers import Line, work_off
from repose.data.pairing import Refusal
from repose.data.rows import Pair, to_pair, to_row
from repose.data.splits import GroupSplit
from repose.errors import ConfigError, DatasetError
from repose.potentials.batched_lbfgs import Walk, descend
from repose.potentials.loading import load_potential

RUN = "label.json"


@dataclass(frozen=True)
class State:
    """How far labelling is: crystals ``labelled`` and ``failed`` so far, and ``left`` to do."""

    labelled: int
    failed: int
    left: int


@dataclass(frozen=True)
class Labelling:
    """What a worker process does; see `repose.data.labelling.workers.Work`."""

    settings: LabelSettings
    device: str
    minutes: float | None = None

    def __call__(
        self, part: Sequence[Candidate], ledger: Ledger, line: Line, still_wanted: Callable[[], bool]
    ) -> None:
        """Relax candidates and write down how each ended."""
        settings = self.settings
        potential = load_potential(settings.calculator, self.device, settings.options)

        def fail(failure: Failure) -> None:
            ledger.write({"failed": failure.to_row()})
            line.ended(failure.id, fine=False)

        def crystals() -> Iterator[tuple[Candidate, CrystalBatch]]:
            for candidate in part:
                line.began(candidate.id)
                strange = set(candidate.numbers.tolist()) - set(potential.elements or candidate.numbers)
                if strange:
                    numbers = ", ".join(map(str, sorted(strange)))
                    reason = (
                        f"unknown element: {potential.name} has no parameters for atomic number {numbers}."
                    )
                    fail(Failure.of(candidate, reason))
                    continue
                yield (
                    candidate,
                    CrystalBatch.single(
                        candidate.numbers, candidate.positions, candidate.cell, candidate.pbc
                    ),
                )

        for walk in descend(potential, crystals(), settings.relaxation, still_wanted, self.minutes):
            made = judge(walk, settings)
            if isinstance(made, Failure):
                fail(made)
            else:
                ledger.write({"pair": to_row(made)})
                line.ended(made.id, fine=True)


def judge(walk: Walk[Candidate], settings: LabelSettings) -> Pair | Failure:
    """The pair that a walk gives, or why it gives none."""
    candidate, steps = walk.key, walk.steps
    last = (steps[-1].positions, steps[-1].cell) if steps else None
    count = max(0, len(steps) - 1)
    if walk.fault is not None or last is None:
        return Failure.of(candidate, walk.fault or "it was not relaxed.", last, count)
    kept = bonds_kept(candidate.numbers, candidate.pbc, (candidate.positions, candidate.cell), last)
    if kept < settings.bonds_kept:
        reason = (
            f"another crystal: {100 * kept:.0f}% of the bonds are the same before and after; "
            f"at least {100 * settings.bonds_kept:g}% were asked for."
        )
        return Failure.of(candidate, reason, last, count)
    path = [Frame(step.positions, step.cell, step.energy, step.forces, step.stress) for step in steps]
    return Pair(
        id=candidate.id,
        numbers=candidate.numbers,
        pbc=candidate.pbc,
        positions=candidate.positions,
        cell=candidate.cell,
        relaxed_positions=last[0],
        relaxed_cell=last[1],
        split="",
        path=thin(path, settings.frames or len(path)),
        tags=candidate.tags | {"n_steps": str(count)},
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
    report: Callable[[State], None] = lambda state: None,
) -> tuple[Dataset, State]:
    """Relax candidates into a dataset; go on where an earlier call was stopped.

    Args:
        source: Directories of candidates, or files of crystals.
        out: Directory of the dataset; ``failed.parquet`` in it holds those that could not be labelled. A
            dataset of the same labels that stands there is added to.
        settings: Calculator and relaxation.
        assign: Splits.
        name: What to call the dataset; the directory's name if empty.
        licence: Under which it may be used.
        workers: Processes.
        device: Where a batched potential computes.
        hours: Stop after so many and make a dataset of what is finished; 0 only does the latter.
        minutes: A crystal that takes longer has failed as too slow; whether one does depends on the machine.
        report: Told the state at the start and after each crystal.

    Returns:
        The dataset, and how many candidates are labelled, failed and left.

    Raises:
        ConfigError: ``out`` was begun with other settings, or the calculator cannot be had.
        DatasetError: Nothing to read, nothing labelled, or ``out`` is something else.
    """
    check_target(out)
    workshop = out.with_name(f"{out.name}.labelling")
    with locked_directory(workshop, "labelling"):
        _note(workshop, out, settings)
        job = _Job(out, workshop, *_read(source))
        if job.todo and hours != 0:
            deadline = None if hours is None else time.time() + 3600 * hours
            report(job.state)

            def one_more(_: str, labelled: bool) -> None:
                job.count(labelled)
                report(job.state)

            work = Labelling(settings, device, minutes)
            work_off(job.todo, work, workshop, workers=workers, deadline=deadline, report=one_more)
        described = [info for path in source if (info := read_info(path))]
        info = DatasetInfo(
            name=name or out.resolve().name,
            source="; ".join(f"{i.preset} candidates, seed {i.seed}" for i in described)
            or "crystals of the user",
            licence=licence,
            calculator=settings.labels,
            splits=assign.description,
        )
        return job.collect(info, assign), job.state


def _note(workshop: Path, out: Path, settings: LabelSettings) -> None:
    """Make sure that what stands here was made with the same settings, and write them down."""
    if (out / INFO).is_file() and (before := Dataset(out).info.calculator) != settings.labels:
        raise ConfigError(
            f"{out} holds labels of '{before}', not '{settings.labels}'; choose another --out for these."
        )
    path = workshop / RUN
    run = settings.model_dump(mode="json")
    if path.is_file():
        before = json.loads(path.read_text())
        differing = [key for key in run if before.get(key) != run[key]]
        if differing:
            raise ConfigError(
                f"{workshop} was begun with other {' and '.join(differing)} (see {path}); "
                "choose another --out, or remove the folder to begin anew."
            )
        return
    with replacing_file(path) as new:
        new.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _read(source: Sequence[Path]) -> tuple[dict[str, Candidate], dict[str, Failure]]:
    """Candidates by id, and those that cannot be read."""
    candidates: dict[str, Candidate] = {}
    refused: dict[str, Failure] = {}
    for item in (item for path in source for item in read_candidates(path)):
        if isinstance(item, Refusal) or item.id in candidates:
            refused[item.id] = Failure.of(item, f"refused: the id {item.id} was already read.")
        else:
            candidates[item.id] = item
    return candidates, refused


class _Job:
    """What is to be done, what is done, and where both are written.

    Args:
        out: Directory of the dataset.
        workshop: Directory of the ledgers.
        candidates: By id.
        refused: Those that could not be read.
    """

    def __init__(
        self, out: Path, workshop: Path, candidates: dict[str, Candidate], refused: dict[str, Failure]
    ) -> None:
        self.out, self.workshop, self.refused = out, workshop, refused
        self.place = {name: k for k, name in enumerate(candidates)}
        self.old = Dataset(out) if (out / INFO).is_file() else None
        fine = set(self.old.ids()) if self.old else set[str]()
        failed = {failure.id for failure in read_failures(out)}
        for entry in read_ledgers(workshop):
            if "pair" in entry:
                fine.add(entry["pair"]["id"])
            else:
                failed.add(entry["failed"]["id"])
        self.todo = [candidate for name, candidate in candidates.items() if name not in fine | failed]
        self._total = len(candidates) + len(refused)
        self._labelled = len(fine & candidates.keys())
        self._failed = len(failed & candidates.keys()) + len(refused)

    @property
    def state(self) -> State:
        """How far it is."""
        return State(self._labelled, self._failed, self._total - self._labelled - self._failed)

    def count(self, labelled: bool) -> None:
        """One more has ended."""
        self._labelled += labelled
        self._failed += not labelled

    def collect(self, info: DatasetInfo, assign: GroupSplit) -> Dataset:
        """Fold the ledgers into the dataset; they are gone afterwards."""
        failures = {failure.id: failure for failure in read_failures(self.out)} | self.refused
        rows: dict[str, str] = {}  # as text, which takes less memory than the crystals
        for entry in read_ledgers(self.workshop):
            if "failed" in entry:
                failures.setdefault(entry["failed"]["id"], Failure(**entry["failed"]))
            else:
                rows.setdefault(entry["pair"]["id"], json.dumps(entry["pair"]))
        if self.old is None and not rows:
            reasons = "; ".join(f"{f.id}: {f.reason}" for f in list(failures.values())[:3])
            raise DatasetError(f"no crystal is labelled, so there is no dataset. {reasons}".strip())

        def pairs() -> Iterator[Pair]:
            known = set[str]()
            for pair in self.old or ():
                known.add(pair.id)
                yield pair
            for name in sorted(rows.keys() - known, key=self._order):
                pair = to_pair(json.loads(rows[name]))
                yield replace(pair, split=assign(pair))

        ordered = sorted(failures.values(), key=lambda failure: self._order(failure.id))
        dataset = write_dataset(self.out, info, pairs(), finish=lambda new: write_failures(new, ordered))
        shutil.rmtree(self.workshop)
        return dataset

    def _order(self, name: str) -> int:
        return self.place.get(name, len(self.place))
