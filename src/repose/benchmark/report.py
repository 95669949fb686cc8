"""Tables of a benchmark in Markdown, and the files of its results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from repose.benchmark.results import BenchmarkResult, Measurement, grouped
from repose.errors import require
from repose.evaluation.report import json_writer, png_writer, text_writer, write_files

HEADER = (
    "run", "crystals", "atoms", "network ms", "predict ms", "crystals/s", "Medges/s", "pass MB", "peak MB",
    "product", "copy", "x network", "x predict",
)  # fmt: skip


class Table(NamedTuple):
    """Rows of one model on one device, cells in the order of `HEADER`; one line for each failure."""

    title: str
    rows: list[tuple[str, ...]]
    failures: list[str]


def write(result: BenchmarkResult, directory: str | Path) -> list[Path]:
    """Write ``speed.json``, ``table.md``, ``atoms.png`` and ``batch.png``, see `write_files`.

    Returns:
        The files; plots only of series that were measured.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "plotting")
    from repose.benchmark.plots import against_atoms, against_batch

    files: dict[str, Callable[[Path], Any]] = {
        "speed.json": json_writer(result.to_dict()),
        "table.md": text_writer(markdown(result)),
    }
    measured = {row.case.series for row in result.rows if row.predict}
    if "atoms" in measured:
        files["atoms.png"] = png_writer(lambda: against_atoms(result))
    if "batch" in measured:
        files["batch.png"] = png_writer(lambda: against_batch(result))
    return write_files(Path(directory), files)


def tables(result: BenchmarkResult) -> list[Table]:
    """One table per model and device."""
    found = []
    for (name, device), rows in grouped(result.rows, lambda row: (row.case.name, row.case.device)).items():
        title = f"{name}, {device}"
        if known := next((row for row in rows if row.family), None):
            family = "" if known.family in name else f"{known.family}, "
            title = f"{name}: {family}{known.parameters / 1e6:.1f}M parameters, on {device}"
        failed = [row for row in rows if row.reason]
        failures = [f"{r.variant}, {r.case.crystals} x {r.case.atoms} atoms: {r.reason}" for r in failed]
        found.append(Table(title, [_cells(result, row) for row in rows], failures))
    return found


def notes(result: BenchmarkResult) -> list[str]:
    """Explanations below the tables: the machine, its ceilings, the columns."""
    lines = [f"PyTorch {torch.__version__}, {result.threads} CPU threads."]
    for ceiling in result.ceilings:
        products = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {name}" for name, rate in ceiling.products.items())
        lines.append(
            f"Ceilings of {ceiling.device} ({ceiling.name}) in this run: matrix products {products}; "
            f"copy {ceiling.copy / 1e9:,.1f} GB/s (read and written)."
        )
    if per_atom := [row.edges / row.atoms for row in result.rows if row.edges]:
        low, high = min(per_atom), max(per_atom)
        lines += [
            f"Random alloys of Co, Ni and Cu with displacements; {low:.0f} to {high:.0f} edges an atom."
        ]
    lines += [
        f"{fit.model}, {fit.device}, {fit.way}: predict grows as atoms^{fit.exponent:.2f}, "
        f"between the two largest as atoms^{fit.last:.2f}."
        for fit in result.fits()
    ]
    return [
        *lines,
        "atoms: per crystal. network: a pass with a given graph. predict: Relaxer.predict, which builds the "
        "graph. Times are medians.",
        "pass: memory of a prediction beyond the loaded model. peak: memory of the whole process, or of all "
        "tensors on a GPU.",
        "product: rate of matrix products over its ceiling. copy: bytes per second that operations read and "
        "write, from cache or memory, over its ceiling. Both leave out compiled kernels.",
        "x network, x predict: speed relative to plain float32; medians of ratios of interleaved passes.",
    ]


def markdown(result: BenchmarkResult) -> str:
    """Contents of ``table.md``."""
    lines = ["# Speed"]
    for table in tables(result):
        cells = [HEADER, tuple("---" if k == 0 else "---:" for k in range(len(HEADER))), *table.rows]
        lines += ["", f"## {table.title}", "", *(f"| {' | '.join(row)} |" for row in cells)]
        lines += ["", *(f"- {failure}" for failure in table.failures)] if table.failures else []
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(result))]) + "\n"


def _cells(result: BenchmarkResult, row: Measurement) -> tuple[str, ...]:
    return (
        *map(str, (row.variant, row.case.crystals, row.case.atoms)),
        _number(row.network, 1e3),
        _number(row.predict, 1e3),
        _number(row.crystals_per_second),
        _number(row.edges_per_second, 1e-6),
        _number(row.memory, 1e-6),
        _number(row.total_memory, 1e-6),
        *("-" if share is None else f"{100 * share:.0f} %" for share in result.shares_of_ceilings(row)),
        _number(row.faster_network),
        _number(row.faster_predict),
    )


def _number(value: float | None, factor: float = 1.0) -> str:
    """Number with three significant digits."""
    if value is None:
        return "-"
    value *= factor
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
