"""Tables in Markdown, numbers for them, and the files they go to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from repose.atomic_write import replacing_file


def number(value: float, digits: int, sign: str = "") -> str:
    """A number with so many digits after the point; a dash for NaN.

    Args:
        value: The number.
        digits: Digits after the point.
        sign: ``"+"`` to write it before positive numbers, too.
    """
    return "-" if np.isnan(value) else f"{value:{sign}.{digits}f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table whose columns are aligned, the header's rule being the second."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (header, rule, *rows)
    ]


def known_mean(values: np.ndarray) -> float:
    """Mean of the values that exist (a crystal without neighbours has no bonds), NaN if none does."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def for_json(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: for_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [for_json(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def write_files(directory: Path, files: Mapping[str, Callable[[Path], Any]]) -> list[Path]:
    """Write the files of a report, each atomically.

    Args:
        directory: Made if it is not there; files of the same names are replaced.
        files: By name, what writes one to a path.

    Returns:
        The files.
    """
    for name, write in files.items():
        with replacing_file(directory / name) as new:
            write(new)
    return [directory / name for name in files]
