"""Plots of a benchmark; drawn without a display and without matplotlib's global state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.evaluation.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repose.benchmark.report import Report
    from repose.benchmark.speed import Row

MARKERS = {"cpu": "o-"}  # others: GPUs


def against_atoms(report: Report) -> Figure:
    """Time of a prediction against the atoms of one crystal, with a guide of slope one.

    Args:
        report: What was measured.

    Returns:
        One panel a model, one line a device and way, its fitted power in the legend.
    """
    powers = {(fit.model, fit.device, fit.way): f", $N^{{{fit.exponent:.2f}}}$" for fit in report.fits()}
    figure, panels = _panels(report, "atoms", lambda row: row.predict, powers)
    for axis in panels:
        x, y = (
            np.concatenate(values) for values in zip(*(line.get_data() for line in axis.lines), strict=True)
        )
        ends = np.array([x.min(), x.max()])
        axis.plot(
            ends, y.max() * ends / ends[1], "--", color="#888888", linewidth=0.8, label="slope 1", zorder=0
        )
        axis.set(xlabel="atoms of the crystal", ylabel="time of a prediction, s")
        axis.legend(frameon=False, fontsize="small")
    return figure


def against_batch(report: Report) -> Figure:
    """Crystals a second against the number of crystals in a batch.

    Args:
        report: What was measured.

    Returns:
        One panel a model, one line a device and way.
    """
    figure, panels = _panels(report, "batch", lambda row: row.crystals_per_second, {})
    size = next(row.case.atoms for row in report.rows if row.case.series == "batch")
    for axis in panels:
        axis.set(xlabel=f"crystals of {size} atoms in a batch", ylabel="crystals a second")
        axis.legend(frameon=False, fontsize="small")
    return figure


def _panels(
    report: Report, series: str, height: Callable[[Row], float | None], notes: dict[tuple[str, str, str], str]
) -> tuple[Figure, list[Any]]:
    """A figure with one logarithmic panel a model."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    rows = [row for row in report.rows if row.case.series == series and height(row) is not None]
    models = list(dict.fromkeys(row.case.name for row in rows))
    lines = list(dict.fromkeys((row.case.device, str(row.way)) for row in rows))
    figure = Figure(figsize=(4.6 * len(models), 3.8), layout="constrained")
    axes = list(figure.subplots(1, len(models), squeeze=False).flat)
    for axis, model in zip(axes, models, strict=True):
        for index, (device, way) in enumerate(lines):
            own = [
                row for row in rows if (row.case.name, row.case.device, str(row.way)) == (model, device, way)
            ]
            points = sorted(
                (row.atoms if series == "atoms" else row.case.crystals, height(row)) for row in own
            )
            if points:
                label = f"{device}, {way}{notes.get((model, device, way), '')}"
                style, colour = MARKERS.get(device, "s-"), COLOURS[(index + 1) % len(COLOURS)]
                axis.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=label)
        axis.set(title=model, xscale="log", yscale="log")
        axis.set_xticks(sorted({x for line in axis.lines for x in line.get_xdata()}))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))  # there may be less than a decade
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.minorticks_off()
    return figure, axes
