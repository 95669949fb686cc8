"""Plots of an evaluation; drawn without a display and without matplotlib's global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repose.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repose.evaluation.report import Report

SHOWN = ("coordinates", "shape", "volume")
# Okabe and Ito's colours, told apart by colour-blind readers; Dummy stays grey, Rescale black.
COLOURS = ("#888888", "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def error_distributions(report: Report) -> Figure:
    """Share of crystals with an error below x, for every relaxer; Dummy dashed.

    Args:
        report: What was measured.

    Returns:
        One panel each for coordinates, cell shape and volume.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, len(SHOWN))
    for axis, metric in zip(axes, [m for m in METRICS if m.key in SHOWN], strict=True):
        every = np.concatenate([scores.values[metric.key] for scores in report.scores])
        # A logarithmic axis has no room for errors of zero; they count from its left end.
        positive = every[every > 1e-6]
        low, high = (positive.min(), positive.max()) if len(positive) else (1e-3, 1.0)
        low = max(low, high / 1e4)
        for index, scores in enumerate(report.scores):
            errors = np.sort(scores.values[metric.key])
            share = 100 * np.arange(1, len(errors) + 1) / len(errors)
            style = "--" if index == 0 else "-"
            x = np.concatenate([[low], np.clip(errors, low, None), [high]])
            axis.step(x, [0, *share, 100], style, where="post", color=_colour(index), label=scores.relaxer)
        axis.set(xscale="log", xlabel=f"error in {metric.label}, {metric.unit}", ylim=(0, 100))
    axes[0].set_ylabel(f"crystals of the {report.split} split, %")
    axes[0].legend(frameon=False)
    return figure


def volumes(report: Report) -> Figure:
    """Predicted against target volume per atom, one panel a relaxer.

    Args:
        report: What was measured.

    Returns:
        Panels with one point a crystal and the diagonal.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(report.scores))
    rows = -(-len(report.scores) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.4 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    atoms = np.array([crystal.n_atoms for crystal in report.crystals])
    target = np.array([crystal.target_volume for crystal in report.crystals]) / atoms
    bounds = [target.min() / 1.2, target.max() * 1.2]
    for index, (axis, scores) in enumerate(zip(axes, report.scores, strict=False)):
        axis.plot(bounds, bounds, color="#888888", linewidth=0.8)
        axis.plot(target, scores.volumes / atoms, ".", color=_colour(index), markersize=3, alpha=0.6)
        axis.set(title=scores.relaxer, xlim=bounds, ylim=bounds, aspect="equal")
        axis.set(xlabel="target volume, Å³ per atom", ylabel="predicted volume, Å³ per atom")
        axis.label_outer()
    for axis in axes[len(report.scores) :]:
        axis.set_visible(False)
    return figure


def _colour(index: int) -> str:
    return COLOURS[index] if index < len(COLOURS) else f"C{index}"
