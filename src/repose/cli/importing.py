"""Imports of the commands: checks, progress, a list of refused crystals, and a summary of the dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from repose.cli.common import Progress, fail

if TYPE_CHECKING:
    from repose.data.dataset import Dataset, DatasetInfo, Pair
    from repose.data.importers.formats import Source
    from repose.data.pairing import Refusal
    from repose.data.splits import GroupSplit, LeaveOut

T = TypeVar("T")
REFUSED = "refused.csv"
# Refused or suspicious crystals that are printed; refused.csv and --json list all of them.
PRINTED = 20


@dataclass(frozen=True)
class ImportPlan:
    """Sources and splits of an import; without ``assign`` the split of the source is kept."""

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
) -> ImportPlan:
    """Check the arguments of an import before any work.

    Args:
        paths: Files and folders to import.
        out: Folder of the dataset.
        format_: See `repose.data.importers.formats.find_sources`.
        split_by: ``"chemical-system"``, a tag, or ``"source"``; None: the split of the source if it has one.
        fractions: Fractions of train, val and test, separated by commas.
        seed: Seed of the split.

    Raises:
        ReposeError: A source, package or format is missing, or the folder holds something else.
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
    return ImportPlan(sources, out, split_by, assign)


def run_import(
    plan: ImportPlan, info: DatasetInfo, *, align: bool = True, min_atoms: int = 1, quiet: bool = False
) -> tuple[dict[str, Any], list[Refusal]]:
    """Write the dataset, with the list of refused crystals.

    The splits are added to ``info``. Crystals of fewer than ``min_atoms`` are left out. For ``align`` see
    `repose.data.importers.formats.import_sources`.

    Returns:
        The summary of the dataset, and the refused crystals.

    Raises:
        typer.Exit: Status 1: every crystal was refused; no dataset is written.
    """
    from repose.data.importers.formats import import_sources
    from repose.data.splits import SOURCE_DESCRIPTION

    how = SOURCE_DESCRIPTION if plan.assign is None else plan.assign.description
    refused: list[Refusal] = []
    with Progress(len(plan.sources), "crystals", quiet) as progress:
        found = import_sources(stepped(plan.sources, progress), align=align, assign=plan.assign)
        pairs = (p for p in accepted(counted(found, progress), refused) if len(p.numbers) >= min_atoms)
        dataset = write_accepted(plan.out, info.model_copy(update={"splits": how}), pairs, refused)
    return summarise_import(dataset, plan.split_by, plan.assign), refused


def stepped(sources: Iterable[T], progress: Progress) -> Iterator[T]:
    """Yield the sources and advance the bar after each."""
    for source in sources:
        yield source
        progress.step()


def counted(items: Iterable[T], progress: Progress) -> Iterator[T]:
    """Yield the items and count them."""
    for item in items:
        progress.count(1)
        yield item


def accepted(items: Iterable[Pair | Refusal], refused: list[Refusal]) -> Iterator[Pair]:
    """Yield the pairs and append the refusals to a list."""
    from repose.data.pairing import Refusal

    for item in items:
        if isinstance(item, Refusal):
            refused.append(item)
        else:
            yield item


def write_accepted(out: Path, info: DatasetInfo, pairs: Iterable[Pair], refused: list[Refusal]) -> Dataset:
    """Write a dataset and the list of refused crystals, which grows while the pairs are read.

    Raises:
        typer.Exit: Status 1: every crystal was refused; no dataset is written.
    """
    from repose.data.dataset import write_dataset
    from repose.errors import DatasetError

    try:
        return write_dataset(out, info, pairs, finish=lambda new: _write_refused(new / REFUSED, refused))
    except DatasetError as error:
        print_faults("refused", refused)
        fail(str(error))
        raise typer.Exit(1) from None


def finish_import(
    out: Path, summary: dict[str, Any], refused: list[Refusal], quiet: bool, as_json: bool
) -> None:
    """Print the summary and the refused crystals.

    Raises:
        typer.Exit: Status 1: crystals were refused.
    """
    if as_json:
        typer.echo(to_json(summary | {"refused": [{"id": r.id, "reason": r.reason} for r in refused]}))
    else:
        if not quiet:
            print_summary(summary)
        print_faults("refused", refused, more=f"see {out / REFUSED}")
    if refused:
        raise typer.Exit(1)


def summarise_import(dataset: Dataset, by: str, assign: GroupSplit | LeaveOut | None) -> dict[str, Any]:
    """Read a written dataset; return its counts, and the groups that are in several splits."""
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


def print_summary(summary: dict[str, Any]) -> None:
    """Print the result of `summarise_import`."""
    counts, groups = summary["counts"], summary["groups"]
    typer.echo(
        f"{summary['dataset']}: {sum(counts.values())} crystals "
        f"({', '.join(f'{name} {count}' for name, count in counts.items())})"
    )
    typer.echo(f"split {summary['splits']}")
    shared = groups["in_several_splits"]
    some = f": {', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''}" if shared else ""
    typer.echo(
        f"checked: {len(shared)} of {groups['count']} groups by {groups['of']} in several splits{some}"
    )


def print_faults(what: str, faults: Sequence[Any], more: str = "", err: bool = True) -> None:
    """Print the first faults, each with ``id`` and ``reason``, and the number of the others."""
    for fault in faults[:PRINTED]:
        typer.echo(f"{what}: {fault.id}: {fault.reason}", err=err)
    if len(faults) > PRINTED:
        typer.echo(f"{what}: {len(faults) - PRINTED} more" + (f", {more}" if more else ""), err=err)


def to_json(value: Any) -> str:
    """Return one line of JSON."""
    import json

    return json.dumps(value, ensure_ascii=False)


def _write_refused(path: Path, refused: list[Refusal]) -> None:
    """Write ids and reasons as CSV; no file if the list is empty."""
    import csv

    if refused:
        with path.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("id", "reason"), *((r.id, r.reason) for r in refused)])
