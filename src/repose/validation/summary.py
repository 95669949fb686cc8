"""Statistics of relaxations from several starts, by group of crystals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repose.evaluation.regimes import LARGEST, QUARTERS, SIZES
from repose.relaxer.baselines import Rescale
from repose.validation.run import Crystal
from repose.validation.samples import INPUT
from repose.validation.task import Row

# Relaxed crystals whose energies differ by less are in the same minimum, meV/atom.
SAME_MINIMUM = 1.0
# Starts are above the input if their energy is higher by more than this, eV/atom: rounding may differ.
ROUNDING = 1e-6
OR_INPUT = "{} (or input)"


def with_fallbacks(rows: dict[str, Row]) -> dict[str, Row]:
    """Add rows of models that start from the input if the prediction has the higher energy."""
    given = rows[INPUT]
    models = {name: row for name, row in rows.items() if name not in (INPUT, Rescale.name)}
    return rows | {OR_INPUT.format(name): lower_start(row, given) for name, row in models.items()}


def lower_start(predicted: Row, given: Row) -> Row:
    """Return the row of a relaxation from the lower one of prediction and input.

    One more evaluation gives the energy of the other structure. It counts as a step, and with the mean time
    of that structure's evaluations. `repose relax --then` starts from the same structure, but also uses the
    forces of the other one, so that its steps are fewer.
    """
    if predicted["steps"] is None or given["steps"] is None:
        return predicted
    used, other = (given, predicted) if is_above(predicted, given) else (predicted, given)
    one = other["seconds_relaxing"] / max(other["evaluations"], 1)
    changed = {
        name: used[name] for name in ("coordinates", "energy_start", "energy_end", "converged", "failure")
    }
    changed |= {"steps": used["steps"] + 1, "evaluations": used["evaluations"] + 1}
    return predicted | changed | {"seconds_relaxing": used["seconds_relaxing"] + one}


def is_above(predicted: Row, given: Row) -> bool:
    """Return whether the energy of a start is above that of the input, or unknown."""
    start, reference = predicted["energy_start"], given["energy_start"]
    return start is None or (reference is not None and start > reference + ROUNDING)


def usable(crystals: Sequence[Crystal]) -> list[Crystal]:
    """Return the crystals with a relaxed crystal to compare with: those whose input has converged."""
    return [crystal for crystal in crystals if crystal.rows[INPUT]["converged"]]


def describe_groups(crystals: Sequence[Crystal], max_steps: int) -> dict[str, Any]:
    """Statistics by group and start: all, quarters by the input's error, sizes, surer halves by bound.

    Args:
        crystals: Crystals from `usable`.
        max_steps: Steps that a relaxation counts with if it has not converged.
    """
    quarter = np.array([crystal.quarter for crystal in crystals])
    size = np.searchsorted(LARGEST, [crystal.rows[INPUT]["atoms"] for crystal in crystals])
    masks = {"all": np.ones(len(crystals), bool)}
    masks |= {name: quarter == k for k, name in enumerate(QUARTERS)}
    masks |= {name: size == k for k, name in enumerate(SIZES)}
    for name in crystals[0].rows if crystals else ():
        bounds = [crystal.rows[name]["bound"] for crystal in crystals]
        known = np.array([np.inf if bound is None else bound for bound in bounds])
        if np.isfinite(known).any():
            rank = np.argsort(np.argsort(known, kind="stable"), kind="stable")
            masks[f"surer half of {name}"] = (rank < np.isfinite(known).sum() / 2) & np.isfinite(known)
    return {
        name: describe_group([c for c, inside in zip(crystals, mask, strict=True) if inside], max_steps)
        for name, mask in masks.items()
        if mask.any()
    }


def describe_group(crystals: Sequence[Crystal], max_steps: int) -> dict[str, Any]:
    """Statistics of some crystals by start."""
    rows = [with_fallbacks(crystal.rows) for crystal in crystals]
    errors = [row[INPUT]["coordinates"] for row in rows]
    return {
        "crystals": len(rows),
        "input_coordinates": [min(errors), max(errors)],
        "input_without_steps": sum(row[INPUT]["steps"] == 0 for row in rows),
        "starts": {
            name: describe_start([(row[name], row[INPUT]) for row in rows], max_steps) for name in rows[0]
        },
    }


def describe_start(pairs: Sequence[tuple[Row, Row]], max_steps: int) -> dict[str, Any] | None:
    """Compare relaxations with those from the input, all of which have converged.

    A relaxation that has not converged counts with ``max_steps``. Inputs that need no step have no ratio of
    steps; any step from their prediction is one more. Crystals without this start are left out.

    Args:
        pairs: Rows of the start and of the input, by crystal.
        max_steps: Largest number of steps.

    Returns:
        Statistics, or None if no crystal has this start.
    """
    failed = sum(row["failure"] is not None for row, _ in pairs)
    pairs = [(row, given) for row, given in pairs if row["steps"] is not None]
    if not pairs:
        return None
    rows, inputs = zip(*pairs, strict=True)

    def column(name: str, of: Sequence[Row] = rows) -> np.ndarray:
        return np.array([row[name] for row in of], dtype=float)

    converged = np.array([row["converged"] for row in rows])
    steps, before = np.where(converged, column("steps"), max_steps), column("steps", inputs)
    moving = before > 0
    saved = 100 * (1 - steps[moving] / before[moving])
    relaxed = column("energy_end", inputs)
    start, end = (1e3 * (column(f"energy_{name}") - relaxed) for name in ("start", "end"))
    target = 1e3 * np.abs(column("energy_start") - column("energy_target"))
    predicting, relaxing = column("seconds_predicting").sum(), column("seconds_relaxing").sum()
    seconds = predicting + relaxing
    reference = column("seconds_relaxing", inputs).sum()
    return {
        "crystals": len(rows),
        "coordinates": _middle(column("coordinates")),
        "energy_above_relaxed": _middle(start),
        "energy_mae": _middle(target)["mean"],
        "steps": _middle(steps),
        "steps_saved_percent": float(np.median(saved)) if moving.any() else None,
        "more_steps_percent": _share(steps > before),
        "seconds": {
            "predicting": float(predicting),
            "relaxing": float(relaxing),
            "total": float(seconds),
            "saved_percent": 100 * float(1 - seconds / reference) if reference > 0 else None,
        },
        "worse_percent": _share([is_above(*pair) for pair in pairs]),
        "lower_minimum_percent": _share(converged & (end < -SAME_MINIMUM)),
        "higher_minimum_percent": _share(converged & (end > SAME_MINIMUM)),
        "not_converged": int((~converged).sum()),
        "failed": failed,
    }


def _middle(values: np.ndarray) -> dict[str, float | None]:
    """Median and mean of the values that are known."""
    known = values[~np.isnan(values)]
    return {
        "median": float(np.median(known)) if len(known) else None,
        "mean": float(known.mean()) if len(known) else None,
    }


def _share(values: Any) -> float:
    return 100.0 * float(np.mean(values))
