"""Numbers and tables in Markdown and JSON."""

from __future__ import annotations

from typing import Any

import numpy as np


def format_number(value: float, digits: int, sign: str = "") -> str:
    """Number with ``digits`` decimals; a dash for NaN. With ``sign="+"`` positive numbers get a sign."""
    return "-" if np.isnan(value) else f"{value:{sign}.{digits}f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (header, rule, *rows)
    ]


def nan_mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def finite_or_none(value: Any) -> Any:
    """Copy of nested data in which None replaces NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: finite_or_none(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite_or_none(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
