"""Plots of an evaluation, without a display and without matplotlib's global state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.evaluation.metrics import METRICS
from repose.evaluation.uncertainty import BondExample
from repose.models.uncertainty.calibration import LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repose.evaluation.results import EvaluationResult

SHOWN = ("coordinates", "lattice", "shape", "volume")
# Colours of Okabe and Ito, safe for colour-blind readers; Dummy is grey, Rescale black.
COLOURS = ("#888888", "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

# Percentiles of the bound, at which crystals are drawn.
DRAWN = (50, 90)


def figures(result: EvaluationResult) -> dict[str, Callable[[], Figure]]:
    """Functions that draw the plots that these results have, by file name."""
    found: dict[str, Callable[[], Figure]] = {
        "errors.png": lambda: error_distributions(result),
        "volumes.png": lambda: volumes(result),
    }
    if result.uncertainty:
        found["uncertainty.png"] = lambda: uncertainty(result)
    if drawn(result):
        found["bonds.png"] = lambda: bonds(result)
    return found


def log_range(errors: np.ndarray) -> tuple[float, float]:
    """Range of a logarithmic axis; smaller errors, also zero, are drawn at its lower end."""
    positive = errors[errors > 1e-6]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-3, 1.0)
    return max(low, high / 1e4), high


def draw_cumulative(axis: Axes, errors: np.ndarray, low: float, high: float, **style: Any) -> None:
    """Draw the cumulative share of crystals in % by error, from ``low`` to ``high``."""
    share = 100 * np.arange(1, len(errors) + 1) / len(errors)
    x = np.concatenate([[low], np.sort(errors).clip(low), [high]])
    axis.step(x, [0, *share, 100], where="post", **style)


def panels(count: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, list[Any]]:
    """Figure with panels in rows of ``columns``, each of ``size`` in inches; unused ones are hidden."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def error_distributions(result: EvaluationResult) -> Figure:
    """Cumulative share of crystals by error in the metrics `SHOWN`; Dummy dashed."""
    figure, axes = panels(len(SHOWN), len(SHOWN), (4, 3.8))
    for axis, metric in zip(axes, [m for m in METRICS if m.key in SHOWN], strict=True):
        low, high = log_range(np.concatenate([scores.values[metric.key] for scores in result.scores]))
        for index, scores in enumerate(result.scores):
            style = {"color": colour(index), "linestyle": "-" if index else "--", "label": scores.relaxer}
            draw_cumulative(axis, scores.values[metric.key], low, high, **style)
        axis.set(xscale="log", xlabel=f"error in {metric.label}, {metric.unit}", ylim=(0, 100))
    axes[0].set_ylabel(f"crystals of the {result.split} split, %")
    axes[0].legend(frameon=False)
    return figure


def volumes(result: EvaluationResult) -> Figure:
    """Predicted against target volume per atom, one panel per relaxer, one point per crystal."""
    count = len(result.scores)
    figure, axes = panels(count, min(4, count), (3.4, 3.4), sharex=True, sharey=True)
    atoms = np.array([crystal.n_atoms for crystal in result.crystals])
    target = np.array([crystal.target_volume for crystal in result.crystals]) / atoms
    bounds = [target.min() / 1.2, target.max() * 1.2]
    for index, (axis, scores) in enumerate(zip(axes, result.scores, strict=True)):
        axis.plot(bounds, bounds, color="#888888", linewidth=0.8)
        axis.plot(target, scores.volumes / atoms, ".", color=colour(index), markersize=3, alpha=0.6)
        axis.set(title=scores.relaxer, xlim=bounds, ylim=bounds, aspect="equal")
        axis.set(xlabel="target volume, Å³ per atom", ylabel="predicted volume, Å³ per atom")
        axis.label_outer()
    return figure


def uncertainty(result: EvaluationResult) -> Figure:
    """Coordinate error against its bound at 90 %, one panel per relaxer that predicts bounds.

    Hexagons are coloured by the number of crystals in them. Above the diagonal the error exceeds the bound.
    """
    from matplotlib.ticker import MaxNLocator

    shown = [scores for scores in result.scores if scores.relaxer in result.uncertainty]
    figure, axes = panels(len(shown), min(4, len(shown)), (4.4, 3.8))
    for axis, scores in zip(axes, shown, strict=True):
        bound, error = scores.uncertainty.bounds[LEVEL], scores.values["coordinates"]
        known = scores.finite & np.isfinite(bound)
        # The same range for both axes; lower values, also zero, are drawn at its lower end.
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
        row = result.uncertainty[scores.relaxer]
        covered = row["coverage"][str(LEVEL)]["share"]
        axis.set_title(f"{scores.relaxer}: rho = {row['rho']['coordinates']:.2f}, {covered:.1f} % below")
    return figure


def drawn(result: EvaluationResult) -> dict[str, list[int]]:
    """Indices of the crystals whose bonds are drawn, at the percentiles `DRAWN`, by relaxer."""
    chosen = {}
    for scores in result.scores:
        bound = scores.uncertainty.bounds[LEVEL]
        small = [index for index in scores.uncertainty.examples if not np.isnan(bound[index])]
        small.sort(key=lambda index: bound[index])
        ranks = sorted({round(share / 100 * (len(small) - 1)) for share in DRAWN})
        if small:
            chosen[scores.relaxer] = [small[rank] for rank in ranks]
    return chosen


def bonds(result: EvaluationResult) -> Figure:
    """Predicted crystals with their shortest bonds, coloured by bound and by error.

    A row for every relaxer has two panels for each of up to two crystals, at the percentiles `DRAWN`.
    """
    from matplotlib.figure import Figure

    chosen = drawn(result)
    panels = 2 * max(map(len, chosen.values()))
    figure = Figure(figsize=(4.2 * panels, 4.2 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), panels, squeeze=False)
    for row, (relaxer, indices) in zip(axes, chosen.items(), strict=True):
        (scores,) = (scores for scores in result.scores if scores.relaxer == relaxer)
        for axis in row[2 * len(indices) :]:
            axis.set_visible(False)
        for place, index in enumerate(indices):
            crystal, example = result.crystals[index], scores.uncertainty.examples[index]
            of_crystal = f"{scores.uncertainty.bounds[LEVEL][index]:.3f} Å"
            quantities = (
                (example.bonds.uncertainty, f"bound at {LEVEL} %", f"{of_crystal} for the crystal"),
                (example.errors, "error", f"{scores.values['coordinates'][index]:.3f} Å for the crystal"),
            )
            for axis, (values, label, of_all) in zip(row[2 * place :], quantities, strict=False):
                lines = _draw(axis, example, values)
                figure.colorbar(lines, ax=axis, label=f"{label} of the bond length, Å", shrink=0.8)
                axis.set_title(f"{relaxer}, {crystal.formula}\n{label}: {of_all}", fontsize="medium")
    return figure


def _draw(axis: Axes, example: BondExample, values: np.ndarray) -> Any:
    """Draw one crystal, bonds coloured by a value; returns the bonds for the colour bar."""
    from ase.data import chemical_symbols, covalent_radii
    from ase.data.colors import jmol_colors
    from matplotlib.collections import LineCollection

    # View from the front, slightly from the right and from above: rows of atoms do not hide each other.
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

    # The atoms of the cell, and paler their bonded neighbours in other cells.
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
    """Colour of the relaxer in this row of the table."""
    return COLOURS[index] if index < len(COLOURS) else f"C{index}"
