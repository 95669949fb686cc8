"""`repose data`: import, inspect and split datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repose.cli.common import Json, NoDevice, Progress, Quiet, console, fail, wrong_usage
from repose.cli.label import label

if TYPE_CHECKING:
    from repose.data.importers import Source
    from repose.data.pairing import Refusal
    from repose.data.splits import GroupSplit
    from repose.data.store import Dataset, Pair

app = typer.Typer(
    help="Datasets of unrelaxed/relaxed pairs and of whole relaxation paths.", no_args_is_help=True
)
app.command()(label)

REFUSED = "refused.csv"
# Refusals and suspicions printed; all of them stand in refused.csv and in --json.
PRINTED = 20

Fractions = Annotated[str, typer.Option(help="Shares of train, val and test among the groups.")]
Seed = Annotated[int, typer.Option(help="Another seed gives another split.")]


@app.command("import")
def import_(
    source: Annotated[list[Path], typer.Argument(help="Files or folders.", exists=True)],
    out: Annotated[Path, typer.Option(help="Directory of the dataset; an older dataset is replaced.")],
    format_: Annotated[
        str, typer.Option("--format", help="auto, extxyz, cif-pairs, ase-db or pymatgen-json.")
    ] = "auto",
    name: Annotated[str, typer.Option(help="What to call it; the directory's name if not given.")] = "",
    licence: Annotated[str, typer.Option(help="Under which it may be used.")] = "",
    calculator: Annotated[str, typer.Option(help="Calculator or functional of the relaxed states.")] = "",
    split_by: Annotated[
        str | None,
        typer.Option(
            help="chemical-system, the name of a tag, or source (the source's own split). "
            "Not given: source for folders with train.csv, chemical-system for the rest."
        ),
    ] = None,
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    align: Annotated[
        bool, typer.Option(help="Turn relaxed crystals back where they are rotated against the input.")
    ] = True,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a dataset of relaxation paths, CIF pairs, an ASE database or pymatgen JSON.

    Crystals that are refused are named with the reason, and listed in DIR/refused.csv; the exit status is
    then 1, and all others are in the dataset.

    Example: repose data import archive/c2db --out datasets/c2db --calculator PBE
    """
    del device
    from repose.data.cif_pairs import has_tables
    from repose.data.importers import find_sources, import_sources
    from repose.data.pairing import Refusal
    from repose.data.splits import BY_SOURCE, BY_SYSTEM, SOURCE_DESCRIPTION, parse_split
    from repose.data.store import DatasetInfo, check_target, write_dataset
    from repose.errors import DatasetError, require

    with wrong_usage():
        require("pyarrow", "writing datasets")
        sources = find_sources(source, format_)
        check_target(out)
        if split_by is None:
            tabled = all(s.format == "cif-pairs" and has_tables(s.path) for s in sources)
            split_by = BY_SOURCE if tabled else BY_SYSTEM
        assign = None if split_by == BY_SOURCE else parse_split(split_by, fractions, seed)
    info = DatasetInfo(
        name=name or out.resolve().name,
        source=", ".join(dict.fromkeys(s.path.name for s in sources)),
        licence=licence,
        calculator=calculator,
        splits=SOURCE_DESCRIPTION if assign is None else assign.description,
    )
    refused: list[Refusal] = []

    def kept() -> Iterator[Pair]:
        with Progress(len(sources), "crystals", quiet) as progress:
            for item in import_sources(_stepped(sources, progress), align=align, assign=assign):
                progress.count(1)
                if isinstance(item, Refusal):
                    refused.append(item)
                else:
                    yield item

    try:
        dataset = write_dataset(out, info, kept(), finish=lambda new: _write_refused(new / REFUSED, refused))
    except DatasetError as error:
        # Nothing but refusals: no dataset is made of them.
        _print_faults("refused", refused)
        fail(str(error))
        raise typer.Exit(1) from None
    if as_json:
        counted = {"refused": [{"id": r.id, "reason": r.reason} for r in refused]}
        typer.echo(_json(_report(dataset, split_by, assign) | counted))
    else:
        if not quiet:
            _print_report(_report(dataset, split_by, assign))
        _print_faults("refused", refused, more=f"see {out / REFUSED}")
    if refused:
        raise typer.Exit(1)


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="A dataset.")],
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say what a dataset holds, and which of its pairs look wrong.

    Example: repose data inspect datasets/c2db
    """
    del device
    from repose.data.store import Dataset
    from repose.data.summary import Suspicion, summarise

    with wrong_usage():
        summary = summarise(Dataset(directory))
    if as_json:
        typer.echo(_json(summary))
        return
    if not quiet:
        _print_summary(summary)
    faults = [Suspicion(**fault) for fault in summary["suspicious"]]
    _print_faults("suspicious", faults, more="see --json", err=False)


@app.command()
def split(
    directory: Annotated[Path, typer.Argument(help="A dataset; it is rewritten.")],
    by: Annotated[str, typer.Option(help="chemical-system, or the name of a tag.")] = "chemical-system",
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Split a dataset anew, so that no group stands in two splits.

    A group's split depends on its name and the seed alone, so that it is the same in every dataset.

    Example: repose data split datasets/mine --by prototype --fractions 0.7,0.1,0.2
    """
    del device
    from repose.data.splits import BY_SOURCE, parse_split
    from repose.data.store import Dataset, resplit
    from repose.errors import DatasetError

    with wrong_usage():
        if by == BY_SOURCE:
            raise DatasetError("the source's split is taken at import: repose data import --split-by source.")
        assign = parse_split(by, fractions, seed)
        dataset = resplit(Dataset(directory), assign, assign.description)
    report = _report(dataset, by, assign)
    if as_json:
        typer.echo(_json(report))
    elif not quiet:
        _print_report(report)


@app.command()
def pack(
    source: Annotated[list[Path], typer.Argument(help="Datasets of the same labels.")],
    out: Annotated[Path, typer.Option(help="Directory of the new dataset.")],
    frames: Annotated[int, typer.Option(min=0, help="Frames kept of a path; 0 keeps none.")] = 6,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of crystals that keep a path.")] = 1.0,
    name: Annotated[str, typer.Option(help="What to call it; the directory's name if not given.")] = "",
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Join datasets into a small one to keep and to share: single precision, few frames of the paths.

    Example: repose data pack datasets/a datasets/b --out datasets/shared --frames 6 --share 0.5
    """
    del device
    from repose.data.packing import pack as join

    with wrong_usage():
        report = _report(join(source, out, frames=frames, share=share, name=name), "", None)
    if as_json:
        typer.echo(_json(report))
    elif not quiet:
        _print_report(report)


def _report(dataset: Dataset, by: str, assign: GroupSplit | None) -> dict[str, Any]:
    """Counts of a dataset as it was written, read back, and the groups that its splits share."""
    from repose.data.splits import BY_SYSTEM, GroupSplit, shared_groups

    split = assign or GroupSplit(BY_SYSTEM)
    groups, shared = shared_groups(dataset, split.group)
    return {
        "dataset": str(dataset.directory),
        "split_by": by or split.by,
        "splits": dataset.info.splits,
        "counts": dataset.info.counts,
        "groups": {"of": split.by, "count": groups, "in_several_splits": shared},
    }


def _print_report(report: dict[str, Any]) -> None:
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


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.table import Table

    info, out = summary["info"], console()
    for key in ("name", "source", "licence", "calculator", "splits"):
        if info[key]:
            out.print(f"{key}: {info[key]}", markup=False)
    table = Table("split", "crystals", "atoms", "elements", "systems", "paths", "frames")
    for name, row in summary["splits"].items():
        atoms = " / ".join(f"{n:g}" for n in row["atoms"]) or "-"
        cells = (row["elements"], row["chemical_systems"], row["paths"], row["frames"])
        table.add_row(name, str(row["crystals"]), atoms, *map(str, cells))
    out.print(table)
    out.print("atoms: min / median / max; systems: chemical systems")
    quantiles = Table("quantile", *(f"{float(q):.0%}" for q in summary["volume_change"]))
    quantiles.add_row("volume", *(f"{v:+.0%}" for v in summary["volume_change"].values()))
    quantiles.add_row("moved, A", *(f"{v:.2f}" for v in summary["max_displacement"].values()))
    out.print(quantiles)
    out.print("volume: change; moved: farthest atom, beyond the cell's deformation")
    lines = [f"elements: {', '.join(f'{symbol} {n}' for symbol, n in summary['elements'].items())}"]
    if shared := summary["shared_chemical_systems"]:
        lines.append(f"chemical systems in several splits: {len(shared)}, e.g. {shared[0]}")
    for tag, of in summary["tags"].items():
        counts = ", ".join(f"{value} {count}" for value, count in of["counts"].items())
        lines.append(f"tag {tag}: {counts or str(of['values']) + ' values'}")
    for line in lines:
        out.print(line, markup=False)


def _print_faults(what: str, faults: Iterable[Any], more: str = "", err: bool = True) -> None:
    faults = list(faults)
    for fault in faults[:PRINTED]:
        typer.echo(f"{what}: {fault.id}: {fault.reason}", err=err)
    if len(faults) > PRINTED:
        typer.echo(f"{what}: {len(faults) - PRINTED} more" + (f", {more}" if more else ""), err=err)


def _write_refused(path: Path, refused: list[Refusal]) -> None:
    import csv

    if refused:
        with path.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("id", "reason"), *((r.id, r.reason) for r in refused)])


def _stepped(sources: Iterable[Source], progress: Progress) -> Iterator[Source]:
    """Advance the progress as one source after the other is done with."""
    for source in sources:
        yield source
        progress.step()


def _json(value: dict[str, Any]) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
