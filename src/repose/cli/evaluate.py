"""`repose evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repose.cli.common import Device, Json, Progress, Quiet
from repose.cli.paths import evaluate_paths, parse_scales

if TYPE_CHECKING:
    from repose.data.dataset import Dataset
    from repose.relaxer.base import Relaxer


def evaluate(
    data: Annotated[list[Path], typer.Option(help="Dataset directory; may be given several times.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model, by name or directory; repeatable. None: the trivial rows alone."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which crystals: train, val or test.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder for table.md, table.json and per_crystal.parquet.")
    ] = None,
    plots: Annotated[
        bool, typer.Option("--plots", help="With --out: also draw plots (PNG) of errors and bounds.")
    ] = False,
    match: Annotated[bool, typer.Option(help="Also compute the match rate, which takes longest.")] = True,
    paths: Annotated[
        bool,
        typer.Option(
            "--paths",
            help="Measure whole relaxation paths with their energies and forces instead, for models that "
            "predict them; with --out, write paths.md, paths.json and paths.parquet.",
        ),
    ] = False,
    perturb: Annotated[
        str, typer.Option(help="With --paths: also with so much noise on the input, A, e.g. 0.001,0.01.")
    ] = "",
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the errors of models beside the trivial ones: Dummy (the input) and Rescale (its volume).

    For models that say how wrong they may be, also whether that holds. With --paths, energies, forces and
    geometry along the way.

    Example: repose evaluate --model default --data datasets/mine --out results
    """
    import json
    from itertools import chain

    from repose.data.dataset import SPLITS, Dataset
    from repose.errors import require
    from repose.evaluation import path_report, report

    if split not in SPLITS:
        raise typer.BadParameter(f"expected {', '.join(SPLITS)}; got '{split}'.", param_hint="--split")
    if plots and out is None:
        raise typer.BadParameter("plots need a folder; add --out.", param_hint="--plots")
    if out is not None:
        require("pyarrow", "writing errors per crystal")  # before the work
    if plots:
        require("matplotlib", "plotting")
    datasets = [Dataset(directory) for directory in data]
    if perturb and not paths:
        raise typer.BadParameter("it changes the input of paths; add --paths.", param_hint="--perturb")
    scales = parse_scales(perturb)
    relaxers = load_all(model or [], device)
    if paths:
        by_name = dict(zip(_names(datasets), datasets, strict=True))
        found = evaluate_paths(
            relaxers, by_name, split=split, perturb=scales, out=out, plots=plots, quiet=quiet
        )
        typer.echo(
            json.dumps(path_report.to_dict(found)) if as_json else path_report.markdown(found), nl=as_json
        )
        return

    from repose.evaluation.runner import evaluate as run

    total = sum(dataset.info.counts.get(split, 0) for dataset in datasets)
    with Progress(total, "crystals", quiet, unit="crystal") as progress:
        result = run(
            relaxers,
            {name: d.read(split, paths=False) for name, d in zip(_names(datasets), datasets, strict=True)},
            train=chain.from_iterable(dataset.read("train", paths=False) for dataset in datasets),
            split=split,
            match=match,
            progress=progress.advance,
        )
    if out is not None:
        report.write(result, out, plots=plots)
    typer.echo(json.dumps(report.to_dict(result)) if as_json else report.markdown(result), nl=as_json)


def load_all(models: Sequence[str], device: str) -> list[Relaxer]:
    """Models as relaxers, each under a name of its own: a directory's path where names collide."""
    from repose.device import resolve_device
    from repose.relaxer.baselines import Dummy, Rescale
    from repose.relaxer.loading import load

    resolve_device(device)  # a wrong one is wrong without any model, too
    relaxers: list[Relaxer] = [load(model, device) for model in models]
    names = [relaxer.name for relaxer in relaxers]
    for model, relaxer in zip(models, relaxers, strict=True):
        if names.count(relaxer.name) > 1 or relaxer.name in (Dummy.name, Rescale.name):
            relaxer.name = f"{relaxer.name} ({model})"
    return relaxers


def _names(datasets: Sequence[Dataset]) -> list[str]:
    """A name for every dataset: its own, or its directory where names collide."""
    names = [dataset.info.name for dataset in datasets]
    pairs = zip(names, datasets, strict=True)
    return [name if names.count(name) == 1 else f"{name} ({dataset.directory})" for name, dataset in pairs]
