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

    from repose.crystal.elements import symbol
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
                "symbols": [symbol(number) for number in sorted(config.elements)],
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
    sets: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        sets.setdefault(tuple(row["symbols"]), []).append(row["name"])
    for symbols, names in sets.items():
        typer.echo(f"Elements of {', '.join(names)}: {_spans(symbols)}")


def _spans(symbols: tuple[str, ...]) -> str:
    """Symbols of elements, neighbours in the periodic table joined: ``"H, Li-F, Na"``."""
    from ase.data import atomic_numbers

    spans: list[list[str]] = []
    for name in symbols:
        if spans and atomic_numbers[name] == atomic_numbers[spans[-1][-1]] + 1:
            spans[-1].append(name)
        else:
            spans.append([name])
    return ", ".join(span[0] if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans) or "all"


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
        if name != "__metadata__" and "out_of_distribution." not in name
    )
