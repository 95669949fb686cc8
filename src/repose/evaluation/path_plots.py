"""Plots of an evaluation of paths; drawn without a display and without matplotlib's global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repose.evaluation.path_report import CURVES
from repose.evaluation.plots import colour
from repose.evaluation.tables import known_mean
from repose.relaxer.baselines import Rescale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repose.evaluation.path_report import PathReport

COLUMNS = 3
# Crystals that are drawn, by the share in % that Dummy's error at the end puts below them.
DRAWN = (10, 50, 90)


def errors(report: PathReport) -> Figure:
    """Mean errors of energies, forces and coordinates by frame, and how forces' are spread.

    Args:
        report: What was measured.

    Returns:
        Three panels with a line for every relaxer, Dummy dashed; below, a panel for every model with the
        share of crystals whose error of forces lies below x, a line for every frame.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    models = [report.plain[name] for name in report.models]
    rows = 1 + -(-len(models) // COLUMNS)
    figure = Figure(figsize=(12, 3.6 * rows), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axis, curve in zip(axes, CURVES, strict=False):
        for index, (name, track) in enumerate(report.plain.items()):
            means = [known_mean(column) for column in report.curves(track)[curve.key].T]
            # Rescale stands still elsewhere; without energies or forces there is nothing to draw.
            if name != Rescale.name and not np.isnan(means).all():
                axis.plot(means, "o--" if index == 0 else "o-", color=colour(index), markersize=3, label=name)
        axis.set(xlabel="frame", ylabel=f"mean error in {curve.label}, {curve.unit}")
        axis.set_ylim(bottom=0)
        axis.set_xticks(range(report.frames))
    axes[0].legend(frameon=False)
    every = np.concatenate([track.forces for track in models])
    positive = every[every > 1e-6]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-3, 1.0)
    low = max(low, high / 1e4)  # what is lower, zeros too, counts at its end
    shades = colormaps["viridis"](np.linspace(0, 0.9, report.frames))
    for axis, name, track in zip(axes[COLUMNS:], report.models, models, strict=False):
        for frame, shade in enumerate(shades):
            ordered = np.sort(track.forces[:, frame])
            share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
            x = np.concatenate([[low], ordered.clip(low), [high]])
            axis.step(x, [0, *share, 100], where="post", color=shade, label=f"frame {frame}")
        axis.set(xscale="log", title=name, xlabel="error in forces, eV/Å", ylim=(0, 100))
    axes[COLUMNS].set_ylabel(f"crystals of the {report.split} split, %")
    axes[COLUMNS].legend(frameon=False, fontsize="small")
    for axis in axes[COLUMNS + len(models) :]:
        axis.set_visible(False)
    return figure


def examples(report: PathReport) -> Figure:
    """Energy and largest force along the path of a few crystals, predicted and known.

    Args:
        report: What was measured.

    Returns:
        A column for each of up to three crystals, from one that Dummy does well on to one it does badly on:
        energies above that of the last frame of the reference, and below largest forces on an atom.
    """
    from matplotlib.figure import Figure

    order = np.argsort(next(iter(report.plain.values())).coordinates[:, -1], kind="stable")
    chosen = list(dict.fromkeys(int(order[round(share / 100 * (len(order) - 1))]) for share in DRAWN))
    figure = Figure(figsize=(4 * len(chosen), 6), layout="constrained")
    axes = figure.subplots(2, len(chosen), squeeze=False, sharex=True)
    for (above, below), index in zip(axes.T, chosen, strict=True):
        _draw(above, below, report, index)
    axes[0, 0].set_ylabel("energy above the end, eV/atom")
    axes[1, 0].set_ylabel("largest force, eV/Å")
    axes[0, 0].legend(frameon=False)
    return figure


def _draw(above: Axes, below: Axes, report: PathReport, index: int) -> None:
    """One crystal: energies above, forces below."""
    crystal, known = report.crystals[index], report.reference
    names = list(report.plain)
    lines = [("reference", known, "#000000", "o--")]
    lines += [(name, report.plain[name], colour(names.index(name)), "o-") for name in report.models]
    for name, track, shade, style in lines:
        energies = (track.energies[index] - known.energies[index, -1]) / crystal.n_atoms
        above.plot(energies, style, color=shade, markersize=3, label=name)
        below.plot(track.largest[index], style, color=shade, markersize=3)
    above.set_title(f"{crystal.id}\n{crystal.formula}", fontsize="medium")
    below.set(xlabel="frame", ylim=(0, None))
    below.set_xticks(range(report.frames))
