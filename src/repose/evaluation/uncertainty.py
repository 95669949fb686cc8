"""Predicted bounds against errors: rank correlation, coverage, and error of the lowest bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.evaluation.metrics import move_to_image
from repose.evaluation.tables import format_number, markdown_table
from repose.models.prediction import Geometry
from repose.models.uncertainty.calibration import LEVEL, LEVELS
from repose.relaxer.batch_relaxation import BatchRelaxation, Bonds

LOWEST_BOUNDS = (25, 50, 75, 100)  # %, shares of the crystals, by ascending bound
CONFIDENCE = 95  # %, of confidence intervals
# Limits of what is drawn: atoms of a crystal, and lengths of bonds.
DRAWN_ATOMS, DRAWN_LENGTH = 12, 1.25  # count, times the distance to an atom's nearest neighbour


class BondExample(NamedTuple):
    """Predicted crystal of few atoms, for drawing, with its bonds to nearest atoms, and their errors.

    Shapes and units: positions A, ``(N, 3)``; cell A, rows, ``(3, 3)``; errors of the lengths A, ``(E,)``.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    bonds: Bonds
    errors: np.ndarray


@dataclass(frozen=True, eq=False)
class PredictedUncertainty:
    """Uncertainties that one relaxer predicts for S crystals.

    Attributes:
        bounds: Bounds on the coordinate error in A for every level of `LEVELS` in %, each ``(S,)``; NaN
            without a bound.
        expected: Expected error before calibration, A, ``(S,)``, or NaN.
        outside: Why a crystal is out of distribution, ``(S,)`` str; empty if it is not, or if the model does
            not check.
        violation: Mean deviation from predicted distances, A, ``(S,)``, or NaN.
        examples: Crystals to draw, by index.
    """

    bounds: dict[int, np.ndarray]
    expected: np.ndarray
    outside: np.ndarray
    violation: np.ndarray
    examples: dict[int, BondExample]

    @classmethod
    def from_batch(cls, relaxed: BatchRelaxation, examples: dict[int, BondExample]) -> PredictedUncertainty:
        """Uncertainties of a batch; see `examples`."""
        n = len(relaxed.geometry.cells)

        def array(values: Tensor | None) -> np.ndarray:
            return np.full(n, np.nan) if values is None else values.detach().cpu().double().numpy()

        return cls(
            {level: array(relaxed.bounds.get(level)) for level in LEVELS},
            array(None if relaxed.expected is None else relaxed.expected.crystals),
            np.array([reason or "" for reason in relaxed.outside or [None] * n], dtype=object),
            array(relaxed.violation),
            examples,
        )

    @classmethod
    def join(cls, parts: Sequence[PredictedUncertainty]) -> PredictedUncertainty:
        """Concatenate batches."""
        first = np.cumsum([0, *(len(part.expected) for part in parts)])
        return cls(
            {level: np.concatenate([part.bounds[level] for part in parts]) for level in LEVELS},
            np.concatenate([part.expected for part in parts]),
            np.concatenate([part.outside for part in parts]),
            np.concatenate([part.violation for part in parts]),
            {
                int(start) + index: example
                for start, part in zip(first[:-1], parts, strict=True)
                for index, example in part.examples.items()
            },
        )

    def row(self, index: int) -> dict[str, Any]:
        """Values of one crystal: ``bound_90`` and so on by level, and the other attributes by name."""
        return {
            **{f"bound_{level}": float(values[index]) for level, values in self.bounds.items()},
            "expected": float(self.expected[index]),
            "outside": self.outside[index],
            "violation": float(self.violation[index]),
        }


def examples(
    batch: CrystalBatch, predicted: Geometry, target: Geometry, relaxed: BatchRelaxation, finite: Tensor
) -> dict[int, BondExample]:
    """Crystals of a batch that are small enough to draw, by index.

    The target may be in any image; ``finite``, ``(S,)`` bool, marks crystals with a finite prediction.
    """
    if relaxed.bond_uncertainty is None:
        return {}
    # Shifts of bonds refer to the predicted images, so the target is moved to these.
    near = move_to_image(target, predicted.positions, batch.system_index)
    counts = batch.counts.tolist()
    atoms = zip(*(t.split(counts) for t in (batch.numbers, predicted.positions, near)), strict=True)
    found = {}
    with_bonds = zip(atoms, relaxed.bond_uncertainty, strict=True)
    for index, ((numbers, positions, final), bonds) in enumerate(with_bonds):
        if len(numbers) > DRAWN_ATOMS or not finite[index] or not len(bonds.length):
            continue
        bonds = _shortest(bonds, len(numbers))
        if not np.isfinite(bonds.uncertainty).all():
            continue
        images = torch.from_numpy(bonds.shift).to(target.cells) @ target.cells[index]
        length = (final[bonds.second] + images - final[bonds.first]).norm(dim=1).numpy()
        arrays = numbers.numpy(), positions.numpy(), predicted.cells[index].numpy()
        found[index] = BondExample(*arrays, bonds, np.abs(bonds.length - length))
    return found


def _shortest(bonds: Bonds, n_atoms: int) -> Bonds:
    """Bonds up to `DRAWN_LENGTH` times the distance to an atom's nearest neighbour."""
    nearest = np.full(n_atoms, np.inf)
    np.minimum.at(nearest, bonds.first, bonds.length)
    short = bonds.length <= DRAWN_LENGTH * nearest[bonds.first]
    return Bonds(*(column[short] for column in bonds))


def summarise(
    predicted: PredictedUncertainty, errors: dict[str, np.ndarray], finite: np.ndarray, which: np.ndarray
) -> dict[str, Any] | None:
    """Comparison of bounds with errors on some crystals.

    Args:
        predicted: Uncertainties of S crystals.
        errors: ``coordinates`` and ``bonds`` in A, ``(S,)``.
        finite: Crystals with a finite prediction, ``(S,)`` bool; the others are left out.
        which: Indices of the crystals to compare.

    Returns:
        ``crystals`` (count) and ``left_out`` (without a bound or a prediction); Spearman's ``rho`` of the
        bound at 90 % against both errors; ``coverage`` by level and, at 90 %, for crystals ``inside`` and
        ``outside`` of the training distribution; ``surest``, the mean coordinate error of the crystals with
        the lowest bounds; the ``median_bound``. None if no crystal has a bound.
    """
    bound = predicted.bounds[LEVEL]
    known = which[finite[which] & ~np.isnan(bound[which])]
    if not len(known):
        return None
    coordinates, bound, flagged = errors["coordinates"][known], bound[known], predicted.outside[known] != ""
    return {
        "crystals": len(known),
        "left_out": len(which) - len(known),
        "rho": {key: spearman(bound, errors[key][known]) for key in ("coordinates", "bonds")},
        "coverage": {str(level): coverage(predicted.bounds[level][known], coordinates) for level in LEVELS},
        "inside": coverage(bound[~flagged], coordinates[~flagged]),
        "outside": coverage(bound[flagged], coordinates[flagged]),
        "surest": {str(share): error_of_lowest(bound, coordinates, share) for share in LOWEST_BOUNDS},
        "median_bound": float(np.median(bound)),
    }


def shorten(row: dict[str, Any]) -> dict[str, Any]:
    """The entries of a result of `summarise` that the table of regimes has."""
    return {key: row[key] for key in ("crystals", "left_out", "rho", "coverage", "median_bound")}


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of ``(n,)`` and ``(n,)``; equal values share the mean of their ranks.

    Pairs with NaN are left out. The result is NaN for fewer than two pairs or a constant input.
    """
    known = ~(np.isnan(first) | np.isnan(second))
    ranks = [_ranks(values[known]) for values in (first, second)]
    a, b = (rank - rank.mean() if len(rank) else rank for rank in ranks)
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm else np.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[group]


def coverage(bounds: np.ndarray, errors: np.ndarray) -> dict[str, Any]:
    """Share of crystals whose error, A ``(S,)``, does not exceed the bound; NaN bounds are left out.

    Returns:
        ``crystals`` (count), the ``share`` in % and its Wilson ``interval`` for independent crystals (Wilson,
        J. Am. Stat. Assoc. 22, 209, 1927); NaN without crystals.
    """
    known = ~np.isnan(bounds)
    n, below = int(known.sum()), int((errors[known] <= bounds[known]).sum())
    if not n:
        return {"crystals": 0, "share": np.nan, "interval": [np.nan, np.nan]}
    z, p = NormalDist().inv_cdf(0.5 + CONFIDENCE / 200), below / n
    centre = p + z**2 / (2 * n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # For p = 0 and p = 1 rounding could move an end of the interval beyond 0 or 100 %.
    ends = [float(np.clip(100 * (centre + side) / (1 + z**2 / n), 0, 100)) for side in (-half, half)]
    return {"crystals": n, "share": 100 * p, "interval": ends}


def error_of_lowest(bounds: np.ndarray, errors: np.ndarray, share: float) -> float:
    """Mean of the errors ``(S,)`` of the ``share`` of crystals, in %, with the lowest bounds ``(S,)``.

    Crystals with equal bounds count with the mean of their errors. The number of crystals is rounded up.
    """
    _, group, counts = np.unique(bounds, return_inverse=True, return_counts=True)
    means = np.bincount(group, errors) / counts
    return float(means[np.sort(group)[: int(np.ceil(len(bounds) * share / 100))]].mean())


def uncertainty_table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of the table of one block, from results of `summarise` by relaxer."""

    def column(row: dict[str, Any]) -> list[str]:
        return [
            str(row["crystals"]),
            *(format_number(rho, 2) for rho in row["rho"].values()),
            *(_covered(row["coverage"][str(level)]) for level in LEVELS),
            *(f"{_covered(row[side])} of {row[side]['crystals']}" for side in ("inside", "outside")),
            *(format_number(error, 4) for error in row["surest"].values()),
            format_number(row["median_bound"], 4),
        ]

    labels = [
        "crystals with a bound",
        "Spearman's rho, coordinates",
        "Spearman's rho, bonds",
        *(f"coverage at {level} %, %" for level in LEVELS),
        f"coverage at {LEVEL} %, not flagged, %",
        f"coverage at {LEVEL} %, flagged, %",
        *(f"coordinates, surest {share} %, Å" for share in LOWEST_BOUNDS),
        f"median bound at {LEVEL} %, Å",
    ]
    columns = [labels, *map(column, rows.values())]
    return markdown_table(["", *rows], [list(row) for row in zip(*columns, strict=True)])


def regime_uncertainty_table(groups: Sequence[tuple[str, dict[str, dict[str, Any]]]]) -> list[str]:
    """Lines of the table of regimes, from their titles and results of `shorten` by relaxer."""
    rows = [
        [
            title,
            relaxer,
            str(row["crystals"]),
            _covered(row["coverage"][str(LEVEL)]),
            format_number(row["median_bound"], 4),
            format_number(row["rho"]["coordinates"], 2),
        ]
        for title, by_relaxer in groups
        for relaxer, row in by_relaxer.items()
    ]
    head = ["crystals with a bound", f"coverage at {LEVEL} %, %", f"median bound at {LEVEL} %, Å"]
    return markdown_table(["", "", *head, "Spearman's rho, coordinates"], rows)


def _covered(part: dict[str, Any]) -> str:
    low, high = part["interval"]
    return f"{part['share']:.1f} ({low:.1f} to {high:.1f})" if part["crystals"] else "-"


NOTE = (
    f"Spearman's rho compares the bound on the coordinate error at {LEVEL} % with the errors of coordinates "
    "and bonds. Coverage is the share of crystals whose coordinate error does not exceed the bound, with its "
    f"{CONFIDENCE} % interval (Wilson, for independent crystals). Surest: the crystals with the lowest "
    "bounds. Flagged: crystals out of distribution."
)
