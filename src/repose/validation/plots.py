"""Plots of a validation, without a display: steps crystal by crystal, and distributions of energies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.evaluation.plots import colour, panels
from repose.validation.run import Crystal
from repose.validation.samples import INPUT
from repose.validation.summary import usable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
# Fewer steps, and smaller differences of energy in meV/atom, are drawn on a linear scale.
LINEAR = 10.0


def figures(crystals: Sequence[Crystal], max_steps: int) -> dict[str, Callable[[], Figure]]:
    """Functions that draw the plots, by file name; none if no input has converged."""
    by_dataset: dict[str, list[Crystal]] = {}
    for crystal in usable(crystals):
        by_dataset.setdefault(crystal.dataset, []).append(crystal)
    if not by_dataset:
        return {}
    return {
        "steps.png": lambda: steps(by_dataset, max_steps),
        "energies.png": lambda: energies(by_dataset),
    }


def steps(by_dataset: dict[str, list[Crystal]], max_steps: int) -> Figure:
    """Remaining steps crystal by crystal, in the order of the steps from the input (E3Relax, Fig. 5).

    A panel for every dataset; relaxations that have not converged are drawn at ``max_steps``.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _panels(len(by_dataset))
    for axis, (dataset, crystals) in zip(axes, by_dataset.items(), strict=True):
        ordered = sorted(crystals, key=lambda crystal: crystal.rows[INPUT]["steps"])
        for index, name in enumerate(ordered[0].rows):
            rows = [crystal.rows[name] for crystal in ordered]
            values = [_steps(row, max_steps) for row in rows]
            style: dict[str, Any] = {
                "color": colour(index),
                "label": f"{name}, mean {np.nanmean(values):.1f}",
            }
            marks = {"drawstyle": "steps-mid"} if name == INPUT else {"marker": ".", "linestyle": "none"}
            axis.plot(np.arange(1, len(values) + 1), values, **style, **marks)
        axis.set(title=dataset, xlabel="crystal, by steps from the input", ylabel="steps")
        axis.set_yscale("symlog", linthresh=LINEAR)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize="small")
    return figure


def _steps(row: dict[str, Any], max_steps: int) -> float:
    """Steps of a start, NaN without it."""
    return np.nan if row["steps"] is None else row["steps"] if row["converged"] else max_steps


def energies(by_dataset: dict[str, list[Crystal]]) -> Figure:
    """Box plots of the energies of all starts and of the dataset's relaxed crystals (E3Relax, Fig. 5).

    Energies are above the crystal that is relaxed from the input. Boxes are quartiles, whiskers percentiles 5
    and 95.
    """
    figure, axes = _panels(len(by_dataset))
    for axis, (dataset, crystals) in zip(axes, by_dataset.items(), strict=True):
        boxes: dict[str, list[float]] = {}
        for crystal in crystals:
            end = crystal.rows[INPUT]["energy_end"]
            found = {name: row["energy_start"] for name, row in crystal.rows.items()}
            for name, energy in (found | {"relaxed": crystal.rows[INPUT]["energy_target"]}).items():
                boxes.setdefault(name, []).extend([] if energy is None else [1e3 * (energy - end)])
        drawn = axis.boxplot(
            list(boxes.values()), tick_labels=list(boxes), whis=(5, 95), flierprops={"markersize": 2}
        )
        for index, line in enumerate(drawn["medians"]):
            line.set_color(colour(index + 2))
        axis.set(title=dataset, ylabel="energy above relaxed, meV/atom")
        axis.set_yscale("symlog", linthresh=LINEAR)
        axis.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    return figure


def _panels(count: int) -> tuple[Figure, list[Any]]:
    return panels(count, min(count, COLUMNS), (5, 4))
