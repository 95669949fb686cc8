"""`repose data`: import, inspect and split datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repose.cli.common import Json, NoDevice, Quiet, console, wrong_usage
from repose.cli.fetch import fetch
from repose.cli.generate import generate
from repose.cli.importing import (
    finish_import,
    plan_import,
    print_faults,
    print_report,
    report_of,
    run_import,
    to_json,
)
from repose.cli.label import label
from repose.cli.pairs import pair

app = typer.Typer(
    help="Datasets of unrelaxed/relaxed pairs and of whole relaxation paths.", no_args_is_help=True
)
app.command()(fetch)
app.command()(generate)
app.command()(label)
app.command()(pair)

Fractions = Annotated[str, typer.Option(help="Shares of train, val and test among the groups.")]
Seed = Annotated[int, typer.Option(help="Another seed gives another split.")]


@app.command("import")
def import_(
    source: Annotated[list[Path], typer.Argument(help="Files or folders.", exists=True)],
    out: Annotated[Path, typer.Option(help="Directory of the dataset; an older dataset is replaced.")],
    format_: Annotated[
        str,
        typer.Option("--format", help="auto, extxyz, vasprun, ase-traj, cif-pairs, ase-db or pymatgen-json."),
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
    """Make a dataset of relaxation paths (extended XYZ, VASP, ASE), CIF pairs, databases or pymatgen JSON.

    Crystals that are refused are named with the reason, and listed in DIR/refused.csv; the exit status is
    then 1, and all others are in the dataset.

    Example: repose data import archive/c2db --out datasets/c2db --calculator PBE
    """
    del device
    from repose.data.dataset import DatasetInfo

    with wrong_usage():
        plan = plan_import(source, out, format_=format_, split_by=split_by, fractions=fractions, seed=seed)
    info = DatasetInfo(
        name=name or out.resolve().name,
        source=", ".join(dict.fromkeys(s.path.name for s in plan.sources)),
        licence=licence,
        calculator=calculator,
    )
    report, refused = run_import(plan, info, align=align, quiet=quiet)
    finish_import(plan, report, refused, quiet, as_json)


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
    from repose.data.dataset import Dataset
    from repose.data.summary import Suspicion, summarise

    with wrong_usage():
        summary = summarise(Dataset(directory))
    if as_json:
        typer.echo(to_json(summary))
        return
    if not quiet:
        _print_summary(summary)
    faults = [Suspicion(**fault) for fault in summary["suspicious"]]
    print_faults("suspicious", faults, more="see --json", err=False)


@app.command()
def split(
    directory: Annotated[Path, typer.Argument(help="A dataset; it is rewritten.")],
    by: Annotated[
        str, typer.Option(help="chemical-system, anion, or the name of a tag.")
    ] = "chemical-system",
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    leave_out: Annotated[
        str | None,
        typer.Option(
            help="What the test split, and no other, is to hold: anion=S,Se (the most electronegative "
            "element), values of a tag (prototype=NAME,NAME), or a share of them (prototype=0.2); "
            "--by divides the rest into train and val."
        ),
    ] = None,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Split a dataset anew, so that no group stands in two splits.

    A group's split depends on its name and the seed alone, so that it is the same in every dataset.

    Example: repose data split datasets/mine --by prototype --fractions 0.7,0.1,0.2
    """
    del device
    from repose.data.dataset import Dataset, resplit
    from repose.data.splits import BY_SOURCE, parse_leave_out, parse_split
    from repose.errors import DatasetError

    with wrong_usage():
        if by == BY_SOURCE:
            raise DatasetError("the source's split is taken at import: repose data import --split-by source.")
        assign, dataset = parse_split(by, fractions, seed), Dataset(directory)
        if leave_out is not None:
            assign = parse_leave_out(leave_out, assign)
            assign.check(dataset.read(paths=False))
        dataset = resplit(dataset, assign, assign.description)
    report = report_of(dataset, assign.by, assign)
    if as_json:
        typer.echo(to_json(report))
    elif not quiet:
        print_report(report)


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
    from repose.data.compact import pack as join

    with wrong_usage():
        report = report_of(join(source, out, frames=frames, share=share, name=name), "", None)
    if as_json:
        typer.echo(to_json(report))
    elif not quiet:
        print_report(report)


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
