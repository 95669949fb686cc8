"""Importing as commands do it: with progress, a list of refusals, and a report of what was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from repose.cli.common import Progress, fail

if TYPE_CHECKING:
    from repose.data.dataset import Dataset, DatasetInfo, Pair
    from repose.data.importers.formats import Source
    from repose.data.pairing import Refusal
    from repose.data.splits import GroupSplit, LeaveOut

REFUSED = "refused.csv"
# Refusals and suspicions printed; all of them stand in refused.csv and in --json.
PRINTED = 20


@dataclass(frozen=True)
class Plan:
    """What is to be imported.

    Attributes:
        sources: Files and folders, with their formats.
        out: Directory of the dataset.
        split_by: As the user says it.
        assign: Gives a crystal its split; None keeps the source's.
    """

    sources: list[Source]
    out: Path
    split_by: str
    assign: GroupSplit | None


def plan_import(
    paths: Iterable[Path],
    out: Path,
    *,
    format_: str = "auto",
    split_by: str | None = None,
    fractions: str = "0.8,0.1,0.1",
    seed: int = 0,
) -> Plan:
    """Find out before the work whether it can be done.

    Args:
        paths: Files and folders to import.
        out: Directory of the dataset.
        format_: See `repose.data.importers.formats.find_sources`.
        split_by: ``"chemical-system"``, a tag, or ``"source"``; None: the source's where tables give one.
        fractions: Shares of train, val and test, joined by commas.
        seed: Of the split.

    Raises:
        ReposeError: Something is missing or unknown, or the directory holds something else.
    """
    from repose.data.dataset import check_target
    from repose.data.importers.cif_pairs import has_tables
    from repose.data.importers.formats import find_sources
    from repose.data.splits import BY_SOURCE, BY_SYSTEM, parse_split
    from repose.errors import require

    require("pyarrow", "writing datasets")
    sources = find_sources(paths, format_)
    check_target(out)
    if split_by is None:
        tabled = all(s.format == "cif-pairs" and has_tables(s.path) for s in sources)
        split_by = BY_SOURCE if tabled else BY_SYSTEM
    assign = None if split_by == BY_SOURCE else parse_split(split_by, fractions, seed)
    return Plan(sources, out, split_by, assign)


def run_import(
    plan: Plan, info: DatasetInfo, *, align: bool = True, quiet: bool = False
) -> tuple[dict[str, Any], list[Refusal]]:
    """Write the dataset, and the refusals into it.

    Args:
        plan: What to import.
        info: Description; how it was split is filled in here.
        align: See `repose.data.importers.formats.import_sources`.
        quiet: Show no progress.

    Returns:
        The report, and the refusals.

    Raises:
        typer.Exit: With status 1: there was nothing but refusals; they are printed, and no dataset is made.
    """
    from repose.data.dataset import write_dataset
    from repose.data.importers.formats import import_sources
    from repose.data.pairing import Refusal
    from repose.data.splits import SOURCE_DESCRIPTION
    from repose.errors import DatasetError

    how = SOURCE_DESCRIPTION if plan.assign is None else plan.assign.description
    refused: list[Refusal] = []

    def kept() -> Iterator[Pair]:
        with Progress(len(plan.sources), "crystals", quiet) as progress:
            for item in import_sources(_stepped(plan.sources, progress), align=align, assign=plan.assign):
                progress.count(1)
                if isinstance(item, Refusal):
                    refused.append(item)
                else:
                    yield item

    try:
        dataset = write_dataset(
            plan.out,
            info.model_copy(update={"splits": how}),
            kept(),
            finish=lambda new: write_refused(new / REFUSED, refused),
        )
    except DatasetError as error:
        print_faults("refused", refused)
        fail(str(error))
        raise typer.Exit(1) from None
    return report_of(dataset, plan.split_by, plan.assign), refused


def finish_import(
    plan: Plan, report: dict[str, Any], refused: list[Refusal], quiet: bool, as_json: bool
) -> None:
    """Print the report and the refusals.

    Raises:
        typer.Exit: With status 1: crystals were refused.
    """
    if as_json:
        typer.echo(to_json(report | {"refused": [{"id": r.id, "reason": r.reason} for r in refused]}))
    else:
        if not quiet:
            print_report(report)
        print_faults("refused", refused, more=f"see {plan.out / REFUSED}")
    if refused:
        raise typer.Exit(1)


def report_of(dataset: Dataset, by: str, assign: GroupSplit | LeaveOut | None) -> dict[str, Any]:
    """Counts of a dataset as it was written, read back, and the groups that its splits share."""
    from repose.data.splits import BY_SYSTEM, GroupSplit, shared_groups

    split = assign or GroupSplit(BY_SYSTEM)
    groups, shared = shared_groups(dataset.read(paths=False), split.group)
    return {
        "dataset": str(dataset.directory),
        "split_by": by,
        "splits": dataset.info.splits,
        "counts": dataset.info.counts,
        "groups": {"of": split.by, "count": groups, "in_several_splits": shared},
    }


def print_report(report: dict[str, Any]) -> None:
    """Print what `report_of` found."""
    counts, groups = report["counts"], report["groups"]
    typer.echo(
        f"{report['dataset']}: {sum(counts.values())} crystals "
        f"({', '.join(f'{name} {count}' for name, count in counts.items())})"
    )
    typer.echo(f"split {report['splits']}")
    shared = groups["in_several_splits"]
    some = f": {', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''}" if shared else ""
    typer.echo(
        f"checked: of {groups['count']} groups by {groups['of']}, {len(shared)} stand in several splits{some}"
    )


def print_faults(what: str, faults: Iterable[Any], more: str = "", err: bool = True) -> None:
    """Print the first faults, each with ``id`` and ``reason``, and how many there are besides."""
    faults = list(faults)
    for fault in faults[:PRINTED]:
        typer.echo(f"{what}: {fault.id}: {fault.reason}", err=err)
    if len(faults) > PRINTED:
        typer.echo(f"{what}: {len(faults) - PRINTED} more" + (f", {more}" if more else ""), err=err)


def to_json(value: Any) -> str:
    """One line of JSON."""
    import json

    return json.dumps(value, ensure_ascii=False)


def write_refused(path: Path, refused: list[Refusal]) -> None:
    """Write ids and reasons as CSV; nothing if there are none."""
    import csv

    if refused:
        with path.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("id", "reason"), *((r.id, r.reason) for r in refused)])


def _stepped(sources: Iterable[Source], progress: Progress) -> Iterator[Source]:
    """Advance the progress as one source after the other is done with."""
    for source in sources:
        yield source
        progress.step()
