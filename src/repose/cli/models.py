"""`repose models`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from repose.cli.common import Json, NoDevice, Quiet, console

# Columns of the table: heading, and key of the test errors of a model.
ERRORS = {"coord. Å": "coordinates (Å)", "lattice Å": "lattice (Å)", "match %": "match (%)"}
WIDTH = 100


def models(device: NoDevice = "auto", quiet: Quiet = False, as_json: Json = False) -> None:
    """List the shipped models with their errors, training data and elements.

    Example: repose models
    """
    import json

    from repose.crystal.elements import symbol
    from repose.models.checkpoint import count_parameters, load_config, shipped_models

    del device
    rows = []
    for name, directory in shipped_models().items():
        config = load_config(directory)
        calibration = config.calibration
        rows.append(
            {
                "name": name,
                "family": config.family,
                "parameters": count_parameters(directory),
                "elements": len(config.elements),
                "symbols": [symbol(number) for number in sorted(config.elements)],
                "trained_on": config.trained_on,
                "test_error": config.test_error,
                "calibration": calibration and {"crystals": calibration.crystals, "on": calibration.on},
                "path": str(directory),
            }
        )
    if as_json or quiet:
        for row in rows:
            typer.echo(json.dumps(row) if as_json else row["name"])
    else:
        _print_table(rows)
        _print_groups("Training data", rows, lambda row: row["trained_on"])
        _print_groups("Elements", rows, lambda row: _spans(row["symbols"]))


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("name", "family")
    for heading in ("parameters", "elements", *ERRORS, "calibrated on"):
        table.add_column(heading, justify="right")
    for row in rows:
        errors = [row["test_error"].get(key) for key in ERRORS.values()]
        table.add_row(
            row["name"],
            row["family"],
            f"{row['parameters']:,}",
            str(row["elements"]),
            *("-" if error is None else f"{error:.3g}" for error in errors),
            f"{row['calibration']['crystals']:,} crystals" if row["calibration"] else "-",
        )
    console().print(table)
    typer.echo("Errors: means over the test split of each model; the splits differ.")


def _print_groups(title: str, rows: list[dict[str, Any]], text: Callable[[dict[str, Any]], str]) -> None:
    """Print a text for each model, once for all models that share it."""
    import textwrap

    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(text(row), []).append(row["name"])
    for shared, names in groups.items():
        typer.echo(textwrap.fill(f"{title} of {', '.join(names)}: {shared}", WIDTH, subsequent_indent="  "))


def _spans(symbols: list[str]) -> str:
    """Return symbols of elements, with neighbours in the periodic table joined: ``"H, Li-F, Na"``."""
    from ase.data import atomic_numbers

    spans: list[list[str]] = []
    for name in symbols:
        if spans and atomic_numbers[name] == atomic_numbers[spans[-1][-1]] + 1:
            spans[-1].append(name)
        else:
            spans.append([name])
    return ", ".join(span[0] if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans) or "all"
