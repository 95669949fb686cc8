"""`repose models`."""

from __future__ import annotations

import typer

from repose.cli.common import Json, NoDevice, Quiet, console


def models(
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List the models that come with Repose: family, parameters, training data, test errors, calibration.

    Example: repose models
    """
    import json

    from repose.models.checkpoint import WEIGHTS, load_config, shipped_models

    del device
    rows = []
    for name, directory in shipped_models().items():
        config = load_config(directory)
        known = config.calibration
        rows.append(
            {
                "name": name,
                "family": config.family,
                "parameters": _parameters(directory / WEIGHTS),
                "elements": len(config.elements),
                "trained_on": config.trained_on,
                "test_error": config.test_error,
                "calibration": None if known is None else {"crystals": known.crystals, "on": known.on},
                "path": str(directory),
            }
        )
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    if quiet:
        for row in rows:
            typer.echo(row["name"])
        return
    from rich.table import Table

    headings = ("name", "family", "parameters", "elements", "trained on", "test error", "uncertainty")
    table = Table(*headings, title="Models known here")
    for row in rows:
        errors = "\n".join(f"{metric}: {value:.3g}" for metric, value in row["test_error"].items())
        numbers = (f"{row['parameters']:,}", str(row["elements"]))
        known = row["calibration"]
        uncertainty = f"calibrated on {known['crystals']:,} crystals" if known else "-"
        table.add_row(row["name"], row["family"], *numbers, row["trained_on"], errors, uncertainty)
    console().print(table)


def _parameters(path: object) -> int:
    """Number of weights in a safetensors file, from its header alone.

    What calibration writes beside them is none.
    """
    import json
    import math
    from pathlib import Path

    from repose.errors import ModelError

    try:
        with Path(str(path)).open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from None
    return sum(
        math.prod(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and "familiarity." not in name
    )
