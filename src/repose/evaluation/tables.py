"""Tables in Markdown."""

from __future__ import annotations

import numpy as np


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
