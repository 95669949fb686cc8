"""Plots of an evaluation of paths, without a display and without matplotlib's global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repose.evaluation.path_results import CURVES
from repose.evaluation.plots import colour, draw_cumulative, log_range, panels
from repose.evaluation.tables import nan_mean
from repose.relaxer.baselines import Rescale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repose.evaluation.path_results import PathEvaluation

COLUMNS = 3
BINS = 30
# Percentiles of Dummy's error in the last frame, at which crystals are drawn.
DRAWN = (10, 50, 90)


def errors(result: PathEvaluation) -> Figure:
    """Mean errors of energies, forces and coordinates by frame, and distributions of errors by frame.

    Three panels have a line for every relaxer, Dummy dashed. Below, every model has two panels with a line
    for every frame: the cumulative share of crystals by error of forces, and a histogram of errors of
    coordinates, without the input.
    """
    from matplotlib import colormaps

    models = [result.scores[name] for name in result.models]
    figure, axes = panels(COLUMNS + 2 * len(models), COLUMNS, (4, 3.6))
    for axis, curve in zip(axes, CURVES, strict=False):
        for index, (name, scores) in enumerate(result.scores.items()):
            means = [nan_mean(column) for column in result.curves(scores)[curve.key].T]
            # Rescale differs from Dummy by a constant; relaxers without energies have no curve.
            if name != Rescale.name and not np.isnan(means).all():
                axis.plot(means, "o--" if index == 0 else "o-", color=colour(index), markersize=3, label=name)
        axis.set(xlabel="frame", ylabel=f"mean error in {curve.label}, {curve.unit}")
        axis.set_ylim(bottom=0)
        axis.set_xticks(range(result.frames))
    axes[0].legend(frameon=False)
    low, high = log_range(np.concatenate([scores.forces for scores in models]))
    start, end = log_range(np.concatenate([scores.coordinates[:, 1:] for scores in models]))
    bins = np.geomspace(start, max(end, 1.01 * start), BINS + 1)
    shades = colormaps["viridis"](np.linspace(0, 0.9, result.frames))
    pairs = zip(axes[COLUMNS::2], axes[COLUMNS + 1 :: 2], strict=True)
    for (left, right), name, scores in zip(pairs, result.models, models, strict=True):
        for frame, shade in enumerate(shades):
            draw_cumulative(left, scores.forces[:, frame], low, high, color=shade, label=f"frame {frame}")
            if frame > 0:
                moved = scores.coordinates[:, frame].clip(bins[0], bins[-1])
                right.hist(moved, bins, histtype="step", color=shade, label=f"frame {frame}")
        left.set(xscale="log", title=name, xlabel="error in forces, eV/Å", ylim=(0, 100))
        left.set_ylabel(f"crystals of the {result.split} split, %")
        right.set(xscale="log", title=name, xlabel="error in coordinates, Å", ylabel="crystals")
    axes[COLUMNS].legend(frameon=False, fontsize="small")
    return figure


def examples(result: PathEvaluation) -> Figure:
    """Energy and largest force along the path of a few crystals, predicted and reference.

    A column for each of up to three crystals, at the percentiles `DRAWN`, has energies relative to the last
    frame of the reference, and below largest forces on an atom.
    """
    from matplotlib.figure import Figure

    order = np.argsort(next(iter(result.scores.values())).coordinates[:, -1], kind="stable")
    chosen = list(dict.fromkeys(int(order[round(share / 100 * (len(order) - 1))]) for share in DRAWN))
    figure = Figure(figsize=(4 * len(chosen), 6), layout="constrained")
    axes = figure.subplots(2, len(chosen), squeeze=False, sharex=True)
    for (above, below), index in zip(axes.T, chosen, strict=True):
        _draw(above, below, result, index)
    axes[0, 0].set_ylabel("energy above the end, eV/atom")
    axes[1, 0].set_ylabel("largest force, eV/Å")
    axes[0, 0].legend(frameon=False)
    return figure


def _draw(above: Axes, below: Axes, result: PathEvaluation, index: int) -> None:
    """Draw one crystal: energies above, forces below."""
    crystal, known = result.crystals[index], result.reference
    names = list(result.scores)
    lines = [("reference", known, "#000000", "o--")]
    lines += [(name, result.scores[name], colour(names.index(name)), "o-") for name in result.models]
    for name, scores, shade, style in lines:
        energies = (scores.energies[index] - known.energies[index, -1]) / crystal.n_atoms
        above.plot(energies, style, color=shade, markersize=3, label=name)
        below.plot(scores.largest[index], style, color=shade, markersize=3)
    above.set_title(f"{crystal.id}\n{crystal.formula}", fontsize="medium")
    below.set(xlabel="frame", ylim=(0, None))
    below.set_xticks(range(result.frames))
