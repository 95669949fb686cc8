"""`repose evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repose.cli.common import Data, Device, Json, Progress, Quiet, Split

if TYPE_CHECKING:
    from repose.data.dataset import Dataset
    from repose.evaluation.path_results import PathEvaluation
    from repose.relaxer.base import Relaxer


def evaluate(
    data: Data,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model, by name or folder; repeatable. Default: the trivial rows only."),
    ] = None,
    split: Split = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder for table.md, table.json and per_crystal.parquet.")
    ] = None,
    plots: Annotated[
        bool, typer.Option("--plots", help="With --out: also draw plots (PNG) of errors and bounds.")
    ] = False,
    match: Annotated[bool, typer.Option(help="Compute the match rate, which takes longest.")] = True,
    paths: Annotated[
        bool,
        typer.Option(
            "--paths", help="Evaluate relaxation paths; with --out: paths.md, paths.json and paths.parquet."
        ),
    ] = False,
    perturb: Annotated[
        str, typer.Option(help="With --paths: also for inputs with random displacements, Å, e.g. 0.001,0.01.")
    ] = "",
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the errors of models on a dataset.

    The trivial rows are Dummy, the unchanged input, and Rescale, the input scaled to an estimated volume. For
    models with bounds on their errors, the coverage of the bounds is measured too. Both are also printed by
    quarters of the input's error and by the number of atoms. Test sets of papers are printed with the
    published errors. `--paths` is for models that predict relaxation paths: errors of energies, forces and
    geometry along the path.

    Example: repose evaluate --model default --data datasets/mine --out results
    """
    import json
    from dataclasses import replace
    from itertools import chain

    from repose.data.dataset import Dataset
    from repose.errors import require
    from repose.evaluation import path_report, report
    from repose.evaluation.published import presets_of

    if plots and out is None:
        raise typer.BadParameter("plots need a folder; add --out.", param_hint="--plots")
    if out is not None:
        require("pyarrow", "writing errors per crystal")  # before the work
    if plots:
        require("matplotlib", "plotting")
    datasets = _named([Dataset(directory) for directory in data])
    if perturb and not paths:
        raise typer.BadParameter("it changes the input of paths; add --paths.", param_hint="--perturb")
    scales = _perturbations(perturb)
    relaxers = load_all(model or [], device)
    if paths:
        found = _evaluate_paths(relaxers, datasets, split, scales, quiet)
        if out is not None:
            path_report.write_paths(found, out, plots=plots)
        shown = json.dumps(path_report.to_dict(found)) if as_json else path_report.markdown(found)
        typer.echo(shown, nl=as_json)
        return

    from repose.evaluation.runner import evaluate as run

    with Progress(_count(datasets, split), "crystals", quiet, unit="crystal") as progress:
        result = run(
            relaxers,
            {name: dataset.read(split, paths=False) for name, dataset in datasets.items()},
            train=chain.from_iterable(dataset.read("train", paths=False) for dataset in datasets.values()),
            split=split,
            match=match,
            progress=progress.advance,
        )
    presets = {name: presets_of(dataset.info, split) for name, dataset in datasets.items()}
    result = replace(result, presets=presets)
    if out is not None:
        report.write(result, out, plots=plots)
    typer.echo(json.dumps(report.to_dict(result)) if as_json else report.markdown(result), nl=as_json)


def load_all(models: Sequence[str], device: str) -> list[Relaxer]:
    """Load models, each with its own name; equal names are followed by the folder."""
    from repose.device import resolve_device
    from repose.relaxer.baselines import Dummy, Rescale
    from repose.relaxer.loading import load

    resolve_device(device)  # checked even if there is no model
    relaxers: list[Relaxer] = [load(model, device) for model in models]
    names = [relaxer.name for relaxer in relaxers]
    for model, relaxer in zip(models, relaxers, strict=True):
        if names.count(relaxer.name) > 1 or relaxer.name in (Dummy.name, Rescale.name):
            relaxer.name = f"{relaxer.name} ({model})"
    return relaxers


def _evaluate_paths(
    relaxers: Sequence[Relaxer],
    datasets: Mapping[str, Dataset],
    split: str,
    perturb: Sequence[float],
    quiet: bool,
) -> PathEvaluation:
    from itertools import chain

    from repose.evaluation.paths import evaluate_paths

    with Progress(_count(datasets, split), "crystals", quiet, unit="crystal") as progress:
        return evaluate_paths(
            relaxers,
            {name: dataset.read(split) for name, dataset in datasets.items()},
            train=chain.from_iterable(dataset.read("train") for dataset in datasets.values()),
            split=split,
            perturb=perturb,
            progress=progress.advance,
        )


def _count(datasets: Mapping[str, Dataset], split: str) -> int:
    return sum(dataset.info.counts.get(split, 0) for dataset in datasets.values())


def _named(datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """Return the datasets by name; equal names are followed by the folder."""
    names = [dataset.info.name for dataset in datasets]
    return {
        name if names.count(name) == 1 else f"{name} ({dataset.directory})": dataset
        for name, dataset in zip(names, datasets, strict=True)
    }


def _perturbations(text: str) -> list[float]:
    """Return the positive numbers in a text such as ``"0.001,0.01"``.

    Raises:
        ConfigError: A part is not a positive number.
    """
    from math import isfinite

    from repose.errors import ConfigError

    scales = []
    for word in filter(None, text.replace(" ", "").split(",")):
        try:
            scale = float(word)
        except ValueError:
            scale = 0.0
        if not (scale > 0 and isfinite(scale)):
            raise ConfigError(
                f"--perturb takes positive numbers in Å, separated by commas, e.g. 0.001,0.01; got '{word}'."
            )
        scales.append(scale)
    return scales
