"""`repose train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repose.cli.common import Json, Quiet, named_value


def train(
    model: Annotated[str, typer.Option(help="Model family, e.g. e3relax.")],
    data: Annotated[list[Path], typer.Option(help="Dataset directory; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Directory of the run: model, checkpoint, logs.")],
    init_from: Annotated[str | None, typer.Option(help="Fine-tune this model (name or directory).")] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON file with settings; see the documentation.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, e.g. sampling.path_frames=0.5; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda (all GPUs) or cuda:N.")] = "auto",
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Share the work among so many; one per GPU, or one on a CPU, by default."),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile kernels first, for faster steps; needs a C++ compiler.")
    ] = False,
    members: Annotated[
        int,
        typer.Option(
            min=1, help="Train so many networks from seeds that follow each other, as one ensemble."
        ),
    ] = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model, or fine-tune one; stop it at any moment and give the same command to go on.

    Example: repose train --model e3relax --data datasets/mine --out runs/mine
    """
    import json
    import sys

    from repose.config import TrainSettings
    from repose.errors import require

    require("lightning", "training")
    require("pyarrow", "training")
    values = _read(config)
    for assignment in setting or []:
        _assign(values, assignment)
    settings = TrainSettings.parse(values)

    from repose.training.ensemble import train_members

    directory = train_members(
        model,
        data,
        out,
        settings,
        members,
        init_from=init_from,
        device=device,
        processes=processes,
        compiled=compiled,
        progress="none" if quiet else "bar" if sys.stderr.isatty() else "lines",
    )
    report = json.loads((directory / "config.json").read_text())
    if as_json:
        typer.echo(json.dumps({"model": str(directory), "errors": report["test_error"]}))
    else:
        errors = ", ".join(f"{name} {value:g}" for name, value in report["test_error"].items())
        typer.echo(f"best model: {directory} ({errors})")


def _read(path: Path | None) -> dict[str, Any]:
    import json

    from repose.errors import ConfigError

    if path is None:
        return {}
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object of settings; got {type(values).__name__}.")
    return values


def _assign(values: dict[str, Any], assignment: str) -> None:
    """Enter ``a.b=value`` into nested settings."""
    name, value = named_value(assignment, "--set")
    *parents, last = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value
