"""`repose data`: make, inspect and split datasets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from repose.cli.common import (
    Calculator,
    Fractions,
    Json,
    Licence,
    Name,
    NoDevice,
    Quiet,
    Seed,
    console,
    wrong_usage,
)
from repose.cli.fetch import fetch
from repose.cli.generate import GenerateCommand, generate
from repose.cli.importing import (
    finish_import,
    plan_import,
    print_faults,
    print_summary,
    run_import,
    summarise_import,
    to_json,
)
from repose.cli.label import LabelCommand, label
from repose.cli.pairs import pair

app = typer.Typer(help="Make, inspect and split datasets of relaxed crystals.", no_args_is_help=True)
app.command()(fetch)


@app.command("import")
def import_(
    source: Annotated[list[Path], typer.Argument(help="Files or folders.", exists=True)],
    out: Annotated[Path, typer.Option(help="Dataset folder; an older dataset is replaced.")],
    format_: Annotated[
        str,
        typer.Option("--format", help="auto, extxyz, vasprun, ase-traj, cif-pairs, ase-db or pymatgen-json."),
    ] = "auto",
    name: Name = "",
    licence: Licence = "",
    calculator: Calculator = "",
    split_by: Annotated[
        str | None,
        typer.Option(
            help="chemical-system, the name of a tag, or source (its own split; default with train.csv)."
        ),
    ] = None,
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    align: Annotated[
        bool, typer.Option(help="Rotate relaxed crystals back to the orientation of the input.")
    ] = True,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Import files of relaxed crystals as a dataset.

    Reads relaxation paths (extended XYZ, VASP, ASE), CIF pairs, ASE databases and pymatgen JSON. Refused
    crystals are listed with the reason in OUT/refused.csv; the exit status is then 1, and all other crystals
    are imported.

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
    summary, refused = run_import(plan, info, align=align, quiet=quiet)
    finish_import(out, summary, refused, quiet, as_json)


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="Dataset folder.")],
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show the contents of a dataset and its suspicious pairs.

    Example: repose data inspect datasets/c2db
    """
    del device
    from repose.data.dataset import Dataset
    from repose.data.summary import PairWarning, summarise

    with wrong_usage():
        summary = summarise(Dataset(directory))
    if as_json:
        typer.echo(to_json(summary))
        return
    if not quiet:
        _print_contents(summary)
    faults = [PairWarning(**fault) for fault in summary["suspicious"]]
    print_faults("suspicious", faults, more="see --json", err=False)


@app.command()
def split(
    directory: Annotated[Path, typer.Argument(help="Dataset folder; it is rewritten.")],
    by: Annotated[
        str, typer.Option(help="chemical-system, anion, or the name of a tag.")
    ] = "chemical-system",
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    leave_out: Annotated[
        str | None,
        typer.Option(
            help="Test split: an anion (anion=S,Se), values of a tag (prototype=NAME,NAME), or a share of "
            "them (prototype=0.2); --by splits the rest into train and val."
        ),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            help="Cross-validation: 2/5 makes the second of five folds of the groups the test split."
        ),
    ] = None,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Split a dataset again.

    Each group of crystals goes into one split. The split of a group depends only on its name and the seed, so
    it is the same in every dataset.

    Example: repose data split datasets/mine --by prototype --fractions 0.7,0.1,0.2
    """
    del device
    from repose.data.dataset import Dataset, resplit
    from repose.data.splits import BY_SOURCE, GroupSplit, parse_fold, parse_leave_out, parse_split
    from repose.errors import DatasetError

    with wrong_usage():
        if by == BY_SOURCE:
            raise DatasetError(
                "the split of the source is read at import: repose data import --split-by source."
            )
        if leave_out is not None and fold is not None:
            raise DatasetError("--leave-out and --fold both choose the test split; give one of them.")
        assign, dataset = parse_split(by, fractions, seed), Dataset(directory)
        if fold is not None:
            assign = parse_fold(fold, assign)
        if leave_out is not None:
            assign = parse_leave_out(leave_out, assign)
            assign.check(dataset.read(paths=False))
        dataset = resplit(dataset, assign, assign.description)
    wanted = assign.fractions if isinstance(assign, GroupSplit) else (*assign.rest.fractions[:2], 1.0)
    counts = zip(dataset.info.counts.items(), wanted, strict=True)
    if empty := [name for (name, count), fraction in counts if fraction and not count]:
        warnings.warn(
            f"no crystal is in {' and '.join(empty)}: groups are few. Use another seed, other fractions, or "
            "fewer folds.",
            stacklevel=2,
        )
    _show(summarise_import(dataset, assign.by, assign), quiet, as_json)


@app.command()
def pack(
    source: Annotated[list[Path], typer.Argument(help="Datasets with the same labels.")],
    out: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    frames: Annotated[int, typer.Option(min=0, help="Frames kept of each path; 0 keeps none.")] = 6,
    share: Annotated[float, typer.Option(min=0, max=1, help="Fraction of crystals that keep a path.")] = 1.0,
    name: Name = "",
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Join datasets into a smaller one, in single precision and with few frames of each path.

    Example: repose data pack datasets/a datasets/b --out datasets/shared --frames 6 --share 0.5
    """
    del device
    from repose.data.compact import compact

    with wrong_usage():
        summary = summarise_import(compact(source, out, frames=frames, share=share, name=name), "", None)
    _show(summary, quiet, as_json)


app.command(cls=GenerateCommand)(generate)
app.command(cls=LabelCommand)(label)
app.command()(pair)


def _show(summary: dict[str, Any], quiet: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(to_json(summary))
    elif not quiet:
        print_summary(summary)


def _print_contents(summary: dict[str, Any]) -> None:
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
    out.print("volume: relative change; moved: largest displacement relative to the strained cell")
    lines = [f"elements: {', '.join(f'{symbol} {n}' for symbol, n in summary['elements'].items())}"]
    if shared := summary["shared_chemical_systems"]:
        lines.append(f"chemical systems in several splits: {len(shared)}, e.g. {shared[0]}")
    for tag, of in summary["tags"].items():
        counts = ", ".join(f"{value} {count}" for value, count in of["counts"].items())
        lines.append(f"tag {tag}: {counts or str(of['values']) + ' values'}")
    for line in lines:
        out.print(line, markup=False)
