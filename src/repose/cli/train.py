"""`repose train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from repose.cli.common import Data, Json, Quiet
from repose.cli.settings import Assignments, ConfigFile, read_settings, settings_command

TrainCommand = settings_command("repose.config:TrainSettings")


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run: model, checkpoint, logs.")],
    model: Annotated[str | None, typer.Option(help="Model family, e.g. e3relax.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Family and settings as published, e.g. e3relax/mp.")
    ] = None,
    init_from: Annotated[str | None, typer.Option(help="Model to fine-tune, by name or folder.")] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Datasets for later tests: crystals of their chemical systems are left out."),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda (all GPUs) or cuda:N.")] = "auto",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Parallel processes. Default: one per GPU, or one on a CPU.")
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compiled kernels for faster steps; by default on a CPU with a C compiler.",
            show_default=False,
        ),
    ] = None,
    members: Annotated[
        int, typer.Option(min=1, help="Networks of an ensemble, trained with consecutive seeds.")
    ] = 1,
    profiled: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Run at most 100 steps, print the seconds of each part, and write nothing to --out.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train or fine-tune a model.

    Stop it at any time; the same command continues. Hyperparameters of the family are settings too, e.g.
    `--set model.features=64`; the documentation lists them. Give a family, or a preset: the network and
    training of a paper.

    Example: repose train --model e3relax --data datasets/mine --out runs/mine
    """
    import json
    import sys

    from repose.config import TrainSettings
    from repose.errors import require
    from repose.models.registry import family
    from repose.presets.preset import load_preset

    require("lightning", "training")
    require("pyarrow", "training")
    defaults = [] if preset is None else [load_preset(preset).settings]
    published = "" if preset is None else preset.partition("/")[0]
    model = model or published
    if not model or published not in ("", model):
        raise typer.BadParameter("give a family, or a preset of this family.", param_hint="--model")
    defaults.insert(0, family(model).settings_type.training)
    settings = read_settings(TrainSettings, config, assignments, defaults=defaults)

    progress: Literal["bar", "lines", "none"] = "none" if quiet else "bar" if sys.stderr.isatty() else "lines"
    if profiled:
        from repose.training.run import profile
        from repose.training.stopwatch import table

        parts = profile(
            model, data, settings, init_from=init_from, device=device, compiled=compiled, progress=progress
        )
        typer.echo(json.dumps(parts) if as_json else table(parts))
        return

    from repose.training.ensemble import train_members

    directory = train_members(
        model,
        data,
        out,
        settings,
        members,
        init_from=init_from,
        held_out=held_out or (),
        device=device,
        processes=processes,
        compiled=compiled,
        progress=progress,
    )
    report = json.loads((directory / "config.json").read_text())
    if as_json:
        typer.echo(json.dumps({"model": str(directory), "errors": report["test_error"]}))
    else:
        errors = ", ".join(f"{name} {value:g}" for name, value in report["test_error"].items())
        typer.echo(f"best model: {directory} ({errors})")
