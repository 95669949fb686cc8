"""Plots of a benchmark, without a display and without matplotlib's global state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.evaluation.plots import COLOURS, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repose.benchmark.results import BenchmarkResult, Measurement

MARKERS = {"cpu": "o-"}  # others: GPUs


def against_atoms(result: BenchmarkResult) -> Figure:
    """Time of a prediction against the atoms of one crystal, with a line of slope one.

    One panel per model has one line per device and variant with its fitted power in the legend.
    """
    powers = {(fit.model, fit.device, fit.way): f", $N^{{{fit.exponent:.2f}}}$" for fit in result.fits()}
    figure, axes = _panels(result, "atoms", lambda row: row.predict, powers)
    for axis in axes:
        x, y = map(np.concatenate, zip(*(line.get_data() for line in axis.lines), strict=True))
        ends = np.array([x.min(), x.max()])
        guide = y.max() * ends / ends[1]
        axis.plot(ends, guide, "--", color="#888888", linewidth=0.8, label="slope 1", zorder=0)
        axis.set(xlabel="atoms of the crystal", ylabel="time of a prediction, s")
        axis.legend(frameon=False, fontsize="small")
    return figure


def against_batch(result: BenchmarkResult) -> Figure:
    """Crystals per second against the crystals of a batch: panels by model, lines by device and variant."""
    figure, axes = _panels(result, "batch", lambda row: row.crystals_per_second, {})
    size = next(row.case.atoms for row in result.rows if row.case.series == "batch")
    for axis in axes:
        axis.set(xlabel=f"crystals of {size} atoms in a batch", ylabel="crystals per second")
        axis.legend(frameon=False, fontsize="small")
    return figure


def _panels(
    result: BenchmarkResult,
    series: str,
    height: Callable[[Measurement], float | None],
    notes: dict[tuple[str, str, str], str],
) -> tuple[Figure, list[Any]]:
    """Figure with one logarithmic panel per model; ``notes`` are added to the legend."""
    from matplotlib.ticker import LogLocator

    rows = [row for row in result.rows if row.case.series == series and height(row) is not None]
    models = list(dict.fromkeys(row.case.name for row in rows))
    lines = list(dict.fromkeys((row.case.device, str(row.variant)) for row in rows))
    figure, axes = panels(len(models), len(models), (4.6, 3.8))
    for axis, model in zip(axes, models, strict=True):
        for index, line in enumerate(lines):
            points = sorted(
                (row.atoms if series == "atoms" else row.case.crystals, height(row))
                for row in rows
                if (row.case.name, row.case.device, str(row.variant)) == (model, *line)
            )
            if points:
                label = f"{', '.join(line)}{notes.get((model, *line), '')}"
                style, colour = MARKERS.get(line[0], "s-"), COLOURS[(index + 1) % len(COLOURS)]
                axis.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=label)
        axis.set(title=model, xscale="log", yscale="log")
        axis.set_xticks(sorted({x for line in axis.lines for x in line.get_xdata()}))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))  # the range may be below a decade
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.minorticks_off()
    return figure, axes
