"""Validation: relax test crystals from the input and from predictions with a calculator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repose.atomic_write import locked_directory
from repose.data.labelling.ledger import read_ledgers
from repose.data.labelling.workers import run_workers
from repose.validation.samples import INPUT, CrystalSet, Sample, Source, crystal_key
from repose.validation.settings import ValidationSettings
from repose.validation.task import EMPTY, Row, ValidationTask

ROWS = "rows"


@dataclass(frozen=True, eq=False)
class Crystal:
    """A crystal whose starts have all ended.

    Attributes:
        dataset: Name of its dataset.
        id: Name in the dataset.
        quarter: Quarter by the input's error of coordinates, 0 to 3.
        rows: Rows by name of the start, the input first.
    """

    dataset: str
    id: str
    quarter: int
    rows: dict[str, Row]


def validate(
    sets: Sequence[CrystalSet],
    sources: Sequence[Source],
    settings: ValidationSettings,
    out: Path,
    *,
    workers: int = 1,
    device: str = "auto",
    hours: float | None = None,
    minutes: float | None = None,
    report: Callable[[int, int, int], None] = lambda done, total, failed: None,
) -> list[Crystal]:
    """Relax all crystals from all starts; return those that are complete. An interrupted call is continued.

    Args:
        sets: Crystals by dataset.
        sources: Sources of the starts, the input first.
        settings: Calculator and relaxations.
        out: Directory; rows of finished relaxations are in its folder ``rows``.
        workers: Number of processes.
        device: Device of models and of a batched potential.
        hours: Time after which the call ends; 0 only reads the rows.
        minutes: Time limit of one relaxation; slower ones fail, which depends on the machine.
        report: Called after each crystal with the numbers of crystals that are done, to do in this call, and
            failed.

    Raises:
        ConfigError: Another process works in ``out``, or the calculator or a model cannot be loaded.
        MissingExtraError: The package of the calculator is not installed.
    """
    rows = out / ROWS
    with locked_directory(rows, "validating"):
        todo = _missing(sets, sources, settings, rows)
        if todo and hours != 0:
            settings.load_potential("cpu")  # raises its errors before processes start
            done = failed = 0

            def count(_: str, fine: bool) -> None:
                nonlocal done, failed
                done, failed = done + 1, failed + (not fine)
                report(done, len(todo), failed)

            deadline = None if hours is None else time.time() + 3600 * hours
            task = ValidationTask(settings, tuple(sources), device, minutes)
            run_workers(todo, task, rows, workers=workers, deadline=deadline, report=count)
        return _complete(sets, sources, settings, rows)


def _missing(
    sets: Sequence[CrystalSet], sources: Sequence[Source], settings: ValidationSettings, rows: Path
) -> list[Sample]:
    """Return the crystals that lack a row; dataset by dataset in turn, so that all of them advance."""
    known, crashed = _stored(rows)
    found: dict[str, tuple[int, Sample]] = {}
    for own in sets:
        for rank, pair in enumerate(own.chosen):
            key = crystal_key(pair, settings)
            missing = [s.name for s in sources if crystal_key(pair, settings, s.fingerprint) not in known]
            if missing and key not in crashed:
                found.setdefault(key, (rank, Sample.of(pair, own.name, missing, key)))
    return [sample for _, sample in sorted(found.values(), key=lambda item: item[0])]


def _complete(
    sets: Sequence[CrystalSet], sources: Sequence[Source], settings: ValidationSettings, rows: Path
) -> list[Crystal]:
    """Return the crystals whose starts all have a row."""
    known, crashed = _stored(rows)
    found = []
    for own in sets:
        for pair, quarter in zip(own.chosen, own.quarters, strict=True):
            common: Row = {"dataset": own.name, "id": pair.id, "atoms": len(pair.numbers)}
            reason = crashed.get(crystal_key(pair, settings))
            by_start: dict[str, Row] = {}
            for source in sources:
                key = crystal_key(pair, settings, source.fingerprint)
                row = known.get(key) or (reason and EMPTY | {"key": key, "failure": reason})
                if row:
                    by_start[source.name] = row | common | {"start": source.name}
            if len(by_start) == len(sources):
                target = {k: by_start[INPUT][k] for k in ("energy_target", "target_failure")}
                for row in by_start.values():
                    row |= target
                found.append(Crystal(own.name, pair.id, quarter, by_start))
    return found


def _stored(rows: Path) -> tuple[dict[str, Row], dict[str, str]]:
    """Return the rows of all calls so far by key, and reasons by key of crystals that ended a process."""
    known: dict[str, Row] = {}
    crashed: dict[str, str] = {}
    entry: dict[str, Any]
    for entry in read_ledgers(rows):
        if "failed" in entry:
            crashed[entry["failed"]["id"]] = entry["failed"]["reason"]
        else:
            known[entry["key"]] = entry
    return known, crashed
