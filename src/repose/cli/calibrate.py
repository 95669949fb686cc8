"""`repose calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from repose.cli.common import Data, Json, NoDevice, Progress, Quiet, console

if TYPE_CHECKING:
    from repose.data.dataset import Dataset, Pair
    from repose.errors import ConfigError
    from repose.models.uncertainty.calibration import Calibration


def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model folder; with --out also the name of a model.")
    ],
    data: Data,
    split: Annotated[
        Literal["val", "test"],
        typer.Option(help="Split for the calibration, not used in training."),
    ] = "val",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the calibrated model; without it MODEL is changed.")
    ] = None,
    passes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of passes of the network (family reposenet). Default: unchanged.",
        ),
    ] = None,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Calibrate the uncertainty of a model.

    Use crystals that were not used in training. The bounds then hold for crystals that resemble these.
    Crystals that do not resemble the train split of the datasets are marked as out of distribution. `repose
    train` calibrates at its end.

    Example: repose calibrate runs/mine --data datasets/mine
    """
    import json
    import shutil

    from repose.atomic_write import replacing_directory
    from repose.data.dataset import Dataset
    from repose.errors import DatasetError, require
    from repose.models.checkpoint import find_model, load_config, save_config, with_passes

    del device
    require("pyarrow", "reading datasets")
    directory = find_model(model)
    target = _target(model, directory, out)
    config = load_config(directory)
    if passes is not None:
        config = with_passes(config, passes)
    datasets = list({path.resolve(): Dataset(path) for path in data}.values())
    known = set(config.elements)
    held_out, train = (_read(datasets, name, known) for name in (split, "train"))
    for name, pairs in ((split, held_out), ("train", train)):
        if not pairs:
            raise DatasetError(
                f"no crystal with elements of the model is in the {name} split of "
                f"{', '.join(str(path) for path in data)}; see 'repose data split --help'."
            )

    from repose.crystal.batch import CrystalBatch
    from repose.relaxer.loading import load
    from repose.training.calibrate import MAX_REFERENCE_CRYSTALS, calibrate_model

    first = held_out[0]
    one = CrystalBatch.single(first.numbers, first.positions, first.cell, first.pbc)
    if load(directory, "cpu").relax_batch(one).expected is None:  # before the work
        raise _no_uncertainty(model, directory)

    total = len(held_out) + min(len(train), MAX_REFERENCE_CRYSTALS)
    with replacing_directory(target) as new, Progress(total, "crystals", quiet, unit="crystal") as progress:
        shutil.copytree(directory, new, dirs_exist_ok=True)
        save_config(new, config)
        names = ", ".join(dataset.info.name for dataset in datasets)
        calibration = calibrate_model(new, train, held_out, names, progress=progress.advance)
        if calibration is None:
            raise _no_uncertainty(model, directory)
    left_out = sum(dataset.info.counts.get(split, 0) for dataset in datasets) - len(held_out)
    if as_json:
        summary = calibration.model_dump(mode="json", exclude={"element_pairs", "max_distance"})
        typer.echo(json.dumps({"model": str(target), **summary, "left_out": left_out}))
    elif not quiet:
        _print(target, calibration, left_out)


def _target(model: str, directory: Path, out: Path | None) -> Path:
    """Return the folder of the calibrated model; raise ConfigError if it must not be written."""
    from repose.errors import ConfigError
    from repose.models.checkpoint import CONFIG, shipped_models

    target = directory if out is None else out
    if target.resolve() in {path.resolve() for path in shipped_models().values()}:
        raise ConfigError(
            f"'{model}' is a shipped model, which is never changed; give --out DIR for the calibrated copy, "
            "and relax with --model DIR."
        )
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not (target / CONFIG).is_file() and not empty:
        raise ConfigError(f"--out must be a new folder or a model folder; '{target}' is neither.")
    return target


def _read(datasets: list[Dataset], split: str, known: set[int]) -> list[Pair]:
    """Read the crystals of a split whose elements the model was trained on."""
    pairs = (pair for dataset in datasets for pair in dataset.read(split, paths=False))
    return [pair for pair in pairs if not known or known.issuperset(pair.numbers.tolist())]


def _no_uncertainty(model: str, directory: Path) -> ConfigError:
    """Return the error for a model that predicts no uncertainty."""
    from repose.errors import ConfigError
    from repose.models.checkpoint import load_config
    from repose.models.registry import family

    name = load_config(directory).family
    if "uncertainty_head" in family(name).settings_type.model_fields:
        hint = (
            f"add an uncertainty head, which changes no prediction: repose train --model {name} "
            f"--init-from {model} --data DIR --out RUN --set model.uncertainty_head=true --set trunk_rate=0 "
            '(or --config with {"model": {"uncertainty_head": true}, "trunk_rate": 0}).'
        )
    else:
        hint = f"train a model of the family {name} with --set model.bond_uncertainty=true."
    return ConfigError(f"'{model}' predicts no uncertainty to calibrate; {hint}")


def _print(target: Path, calibration: Calibration, left_out: int) -> None:
    from rich.table import Table

    table = Table("bound on")
    for heading in ("level %", "factor"):
        table.add_column(heading, justify="right")
    rows = [("coordinates", level, factor) for level, factor in calibration.factors.items()]
    rows += [("atoms", 90, calibration.atoms), ("bonds", 90, calibration.bonds)]
    if calibration.strains is not None:
        rows.append(("strain", 90, calibration.strains))
    for what, level, factor in rows:
        table.add_row(what, str(level), f"{factor:.3g}")
    console().print(table)
    typer.echo(
        f"{target}: calibrated on {calibration.crystals:,} crystals of {calibration.on}. "
        "A bound is the predicted error times the factor."
    )
    if left_out:
        typer.echo(f"left out: {left_out:,} with elements that are not in the training data")
