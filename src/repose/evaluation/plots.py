"""Plots of an evaluation; drawn without a display and without matplotlib's global state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from repose.evaluation.metrics import METRICS
from repose.evaluation.uncertainty import Example
from repose.models.uncertainty.estimate import LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repose.evaluation.report import Report

SHOWN = ("coordinates", "shape", "volume")
# Okabe and Ito's colours, told apart by colour-blind readers; Dummy stays grey, Rescale black.
COLOURS = ("#888888", "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

# Crystals that are drawn, by the share in % that the model is surer of.
DRAWN = (50, 90)


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
            axis.step(x, [0, *share, 100], style, where="post", color=colour(index), label=scores.relaxer)
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
        axis.plot(target, scores.volumes / atoms, ".", color=colour(index), markersize=3, alpha=0.6)
        axis.set(title=scores.relaxer, xlim=bounds, ylim=bounds, aspect="equal")
        axis.set(xlabel="target volume, Å³ per atom", ylabel="predicted volume, Å³ per atom")
        axis.label_outer()
    for axis in axes[len(report.scores) :]:
        axis.set_visible(False)
    return figure


def uncertainty(report: Report) -> Figure:
    """Coordinate error against its bound at 90 %, one panel for every relaxer that states bounds.

    Args:
        report: What was measured; at least one relaxer states bounds.

    Returns:
        Panels with hexagons coloured by the crystals in them, and the diagonal, above which bounds fail.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = [scores for scores in report.scores if scores.relaxer in report.uncertainty]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, scores in zip(axes, shown, strict=False):
        bound, error = scores.uncertainty.bounds[LEVEL], scores.values["coordinates"]
        known = scores.finite & np.isfinite(bound)
        # One scale for both, so that the diagonal is in sight; what is lower, zeros too, counts at its end.
        values = np.stack([bound[known], error[known]])
        high = 1.2 * values.max(initial=1e-3)
        low = max(values.min(where=values > 0, initial=high) / 1.2, high / 1e3)
        extent = 2 * (np.log10(low), np.log10(high))
        x, y = values.clip(low)
        bins = axis.hexbin(x, y, xscale="log", yscale="log", extent=extent, gridsize=28, mincnt=1)
        figure.colorbar(bins, ax=axis, label="crystals", ticks=MaxNLocator(integer=True))
        ends = [low, high]
        axis.plot(ends, ends, color="#888888", linewidth=0.8)
        axis.set(xlim=ends, ylim=ends, xlabel=f"bound at {LEVEL} %, Å", ylabel="coordinate error, Å")
        row = report.uncertainty[scores.relaxer]
        covered = row["coverage"][str(LEVEL)]["share"]
        axis.set_title(f"{scores.relaxer}: rho = {row['rho']['coordinates']:.2f}, {covered:.1f} % below")
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    return figure


def drawn(report: Report) -> dict[str, list[int]]:
    """Crystals whose bonds are shown, by relaxer that states bounds for bonds: of `DRAWN` uncertainty."""
    chosen = {}
    for scores in report.scores:
        bound = scores.uncertainty.bounds[LEVEL]
        small = [index for index in scores.uncertainty.examples if not np.isnan(bound[index])]
        small.sort(key=lambda index: bound[index])
        ranks = sorted({round(share / 100 * (len(small) - 1)) for share in DRAWN})
        if small:
            chosen[scores.relaxer] = [small[rank] for rank in ranks]
    return chosen


def bonds(report: Report) -> Figure:
    """Predicted crystals with their shortest bonds, coloured by uncertainty and, beside it, by error.

    Args:
        report: What was measured; at least one relaxer states bounds for bonds.

    Returns:
        Two panels for each of up to two crystals, of the middle uncertainty and of one that is higher than
        that of 90 % of the small ones; a row for every relaxer. Every colour scale begins at zero.
    """
    from matplotlib.figure import Figure

    chosen = drawn(report)
    panels = 2 * max(map(len, chosen.values()))
    figure = Figure(figsize=(4.2 * panels, 4.2 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), panels, squeeze=False)
    for row, (relaxer, indices) in zip(axes, chosen.items(), strict=True):
        (scores,) = (scores for scores in report.scores if scores.relaxer == relaxer)
        for axis in row[2 * len(indices) :]:
            axis.set_visible(False)
        for place, index in enumerate(indices):
            crystal, example = report.crystals[index], scores.uncertainty.examples[index]
            of_crystal = f"{scores.uncertainty.bounds[LEVEL][index]:.3f} Å"
            kinds = (
                (example.bonds.uncertainty, f"bound at {LEVEL} %", f"{of_crystal} for the crystal"),
                (example.errors, "error", f"{scores.values['coordinates'][index]:.3f} Å for the crystal"),
            )
            for axis, (values, what, said) in zip(row[2 * place :], kinds, strict=False):
                lines = _draw(axis, example, values)
                figure.colorbar(lines, ax=axis, label=f"{what} of the bond length, Å", shrink=0.8)
                axis.set_title(f"{relaxer}, {crystal.formula}\n{what}: {said}", fontsize="medium")
    return figure


def _draw(axis: Axes, example: Example, values: np.ndarray) -> Any:
    """Draw one crystal, bonds coloured by a value; returns the bonds, for the colour bar."""
    from ase.data import chemical_symbols, covalent_radii
    from ase.data.colors import jmol_colors
    from matplotlib.collections import LineCollection

    # Seen from the front, a little from the right and from above, so that rows of atoms do not hide another.
    turn, tilt = np.radians([18.0, 12.0])
    right = np.array([np.cos(turn), np.sin(turn), 0.0])
    back = np.array([-np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), -np.sin(tilt)])
    view = np.stack([right, np.cross(right, back), -back], axis=1)  # columns: right, up, towards the eye

    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    for direction in np.eye(3):
        for corner in corners[corners @ direction == 0]:
            edge = np.stack([corner, corner + direction]) @ example.cell @ view
            axis.plot(edge[:, 0], edge[:, 1], color="#bbbbbb", linewidth=0.6, zorder=0)

    first, second, shift = example.bonds.first, example.bonds.second, example.bonds.shift
    start = example.positions[first] @ view
    end = (example.positions[second] + shift @ example.cell) @ view
    order = np.argsort((start + end)[:, 2])
    lines = LineCollection(list(np.stack([start, end], axis=1)[order, :, :2]), linewidths=2.5, zorder=1)
    lines.set(array=values[order], clim=(0.0, max(values.max(), 1e-6)), capstyle="round", cmap="viridis")
    axis.add_collection(lines)

    # Every atom once, and those of neighbouring cells that bonds lead to, paler.
    images = {(int(atom), 0, 0, 0): 1.0 for atom in range(len(example.numbers))}
    images |= {(int(j), *map(int, k)): 0.35 for j, k in zip(second, shift, strict=True) if k.any()}
    for (atom, *cell), opaque in images.items():
        x, y, depth = (example.positions[atom] + np.array(cell) @ example.cell) @ view
        number = example.numbers[atom]
        size = 260 * covalent_radii[number]
        axis.scatter(
            x, y, s=size, color=jmol_colors[number], edgecolors="#333333", linewidths=0.6, alpha=opaque,
            zorder=2 + 1e-3 * depth,
        )  # fmt: skip
        if opaque == 1.0:
            centred: Any = {"ha": "center", "va": "center"}
            axis.text(x, y, chemical_symbols[number], fontsize=6, zorder=2.0005 + 1e-3 * depth, **centred)
    axis.set(aspect="equal", xticks=[], yticks=[])
    axis.set_frame_on(False)
    axis.margins(0.08)
    return lines


def colour(index: int) -> str:
    """Colour of the relaxer that stands in this place of the table."""
    return COLOURS[index] if index < len(COLOURS) else f"C{index}"
