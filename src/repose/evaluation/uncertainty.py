"""Whether what relaxers say about their errors holds: rank correlation, coverage, errors of the surest."""

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
from repose.evaluation.tables import markdown_table, number
from repose.models.prediction import Geometry
from repose.models.uncertainty.calibration import LEVELS
from repose.models.uncertainty.estimate import LEVEL, Bonds, Estimate

SUREST = (25, 50, 75, 100)  # %, of the crystals, by their bound
CONFIDENCE = 95  # %, of the intervals of coverage
# What is drawn: crystals so small that bonds can be told apart, and the bonds to the nearest atoms.
DRAWN_ATOMS, DRAWN_LENGTH = 12, 1.25  # count, times the distance to an atom's nearest neighbour


class Example(NamedTuple):
    """A predicted crystal of few atoms, to be drawn.

    Attributes:
        numbers: Atomic numbers, ``(N,)``.
        positions: Predicted, A, ``(N, 3)``.
        cell: Predicted, A, rows, ``(3, 3)``.
        bonds: Those to the nearest atoms.
        errors: Of the length of these bonds in A, ``(E,)``.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    bonds: Bonds
    errors: np.ndarray


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What one relaxer said about its errors on S crystals.

    Attributes:
        bounds: Bounds on the coordinate error in A for every level of `LEVELS` in %, each ``(S,)``; NaN where
            nothing is said.
        expected: Error behind the bounds, not calibrated, A, ``(S,)``, or NaN.
        outside: Why a crystal lies outside of what the model knows, ``(S,)`` str; empty where it does not, or
            where the model cannot tell.
        violation: What remains to be met of predicted distances in A, ``(S,)``, or NaN.
        examples: Crystals that can be drawn, by index.
    """

    bounds: dict[int, np.ndarray]
    expected: np.ndarray
    outside: np.ndarray
    violation: np.ndarray
    examples: dict[int, Example]

    @classmethod
    def of(cls, estimate: Estimate, examples: dict[int, Example]) -> Uncertainty:
        """What an estimate says; see `examples`."""
        n = len(estimate.geometry.cells)

        def array(values: Tensor | None) -> np.ndarray:
            return np.full(n, np.nan) if values is None else values.detach().cpu().double().numpy()

        return cls(
            {level: array(estimate.bounds.get(level)) for level in LEVELS},
            array(None if estimate.expected is None else estimate.expected.crystals),
            np.array([reason or "" for reason in estimate.outside or [None] * n], dtype=object),
            array(estimate.violation),
            examples,
        )

    @classmethod
    def join(cls, parts: Sequence[Uncertainty]) -> Uncertainty:
        """That of several batches, one after the other."""
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
        """Said of one crystal: ``bound_90`` and those at other levels, and the other attributes by name."""
        return {
            **{f"bound_{level}": float(values[index]) for level, values in self.bounds.items()},
            "expected": float(self.expected[index]),
            "outside": self.outside[index],
            "violation": float(self.violation[index]),
        }


def examples(
    batch: CrystalBatch, predicted: Geometry, target: Geometry, estimate: Estimate, finite: Tensor
) -> dict[int, Example]:
    """Crystals of a batch that are small enough to be drawn, by index.

    Args:
        batch: The unrelaxed crystals.
        predicted: Positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A.
        target: The same, relaxed, in any image.
        estimate: What the relaxer said.
        finite: Crystals whose prediction is one, ``(S,)`` bool.
    """
    if estimate.bonds is None:
        return {}
    # Bonds lead to the images in which the prediction has the atoms, so there the target stands.
    near = move_to_image(target, predicted.positions, batch.system_index)
    counts = batch.counts.tolist()
    atoms = zip(*(t.split(counts) for t in (batch.numbers, predicted.positions, near)), strict=True)
    found = {}
    for index, ((numbers, positions, relaxed), bonds) in enumerate(zip(atoms, estimate.bonds, strict=True)):
        if len(numbers) > DRAWN_ATOMS or not finite[index] or not len(bonds.length):
            continue
        bonds = _shortest(bonds, len(numbers))
        if not np.isfinite(bonds.uncertainty).all():
            continue
        images = torch.from_numpy(bonds.shift).to(target.cells) @ target.cells[index]
        length = (relaxed[bonds.second] + images - relaxed[bonds.first]).norm(dim=1).numpy()
        arrays = numbers.numpy(), positions.numpy(), predicted.cells[index].numpy()
        found[index] = Example(*arrays, bonds, np.abs(bonds.length - length))
    return found


def _shortest(bonds: Bonds, n_atoms: int) -> Bonds:
    """Bonds to the nearest neighbours of an atom and to those hardly farther away."""
    nearest = np.full(n_atoms, np.inf)
    np.minimum.at(nearest, bonds.first, bonds.length)
    short = bonds.length <= DRAWN_LENGTH * nearest[bonds.first]
    return Bonds(*(column[short] for column in bonds))


def summarise(
    said: Uncertainty, errors: dict[str, np.ndarray], finite: np.ndarray, which: np.ndarray
) -> dict[str, Any] | None:
    """How the bounds on some crystals compare with their errors.

    Args:
        said: About S crystals.
        errors: ``coordinates`` and ``bonds`` in A, ``(S,)``.
        finite: Crystals with a prediction, ``(S,)`` bool; what is said of the others does not count.
        which: Indices of the crystals.

    Returns:
        ``crystals`` (count) and ``left_out`` (without a bound or a prediction); Spearman's ``rho`` of the
        bound at 90 % against both errors; ``coverage`` by level and, at 90 %, ``inside`` and ``outside`` of
        what the model knows; the mean error of coordinates of the ``surest``; the ``median_bound``. None if
        no crystal has a bound.
    """
    bound = said.bounds[LEVEL]
    known = which[finite[which] & ~np.isnan(bound[which])]
    if not len(known):
        return None
    coordinates, bound, flagged = errors["coordinates"][known], bound[known], said.outside[known] != ""
    return {
        "crystals": len(known),
        "left_out": len(which) - len(known),
        "rho": {key: spearman(bound, errors[key][known]) for key in ("coordinates", "bonds")},
        "coverage": {str(level): coverage(said.bounds[level][known], coordinates) for level in LEVELS},
        "inside": coverage(bound[~flagged], coordinates[~flagged]),
        "outside": coverage(bound[flagged], coordinates[flagged]),
        "surest": {str(share): surest(bound, coordinates, share) for share in SUREST},
        "median_bound": float(np.median(bound)),
    }


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation, equal values sharing the mean of their ranks.

    Args:
        first: Numbers; a pair with NaN does not count.
        second: As many.

    Returns:
        Between -1 and 1; NaN if there are less than two pairs or if either is constant.
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
    """Share of crystals whose error does not exceed the bound.

    Args:
        bounds: A, ``(S,)``; NaN where there is none, which does not count.
        errors: A, ``(S,)``.

    Returns:
        ``crystals`` (count), the ``share`` in % and its Wilson ``interval``, which takes crystals to be
        independent of each other (Wilson, J. Am. Stat. Assoc. 22, 209, 1927); NaN without crystals.
    """
    known = ~np.isnan(bounds)
    n, below = int(known.sum()), int((errors[known] <= bounds[known]).sum())
    if not n:
        return {"crystals": 0, "share": np.nan, "interval": [np.nan, np.nan]}
    z, p = NormalDist().inv_cdf(0.5 + CONFIDENCE / 200), below / n
    centre = p + z**2 / (2 * n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At p of 0 and 1 an end of the interval is p, but for the last digit.
    ends = [float(np.clip(100 * (centre + side) / (1 + z**2 / n), 0, 100)) for side in (-half, half)]
    return {"crystals": n, "share": 100 * p, "interval": ends}


def surest(bounds: np.ndarray, errors: np.ndarray, share: float) -> float:
    """Mean error of the share of crystals with the lowest bounds; equal bounds count alike.

    Args:
        bounds: ``(S,)``, at least one.
        errors: ``(S,)``.
        share: In %; the number of crystals is rounded up.
    """
    _, group, counts = np.unique(bounds, return_inverse=True, return_counts=True)
    means = np.bincount(group, errors) / counts
    return float(means[np.sort(group)[: int(np.ceil(len(bounds) * share / 100))]].mean())


def uncertainty_table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of the table of one block.

    Args:
        rows: What `summarise` gives, by relaxer.
    """

    def covered(part: dict[str, Any]) -> str:
        low, high = part["interval"]
        return f"{part['share']:.1f} ({low:.1f} to {high:.1f})" if part["crystals"] else "-"

    def column(row: dict[str, Any]) -> list[str]:
        return [
            str(row["crystals"]),
            *(number(rho, 2) for rho in row["rho"].values()),
            *(covered(row["coverage"][str(level)]) for level in LEVELS),
            *(f"{covered(row[side])} of {row[side]['crystals']}" for side in ("inside", "outside")),
            *(number(error, 4) for error in row["surest"].values()),
            number(row["median_bound"], 4),
        ]

    labels = [
        "crystals with a bound",
        "Spearman's rho, coordinates",
        "Spearman's rho, bonds",
        *(f"coverage at {level} %, %" for level in LEVELS),
        f"coverage at {LEVEL} %, not flagged, %",
        f"coverage at {LEVEL} %, flagged, %",
        *(f"coordinates, surest {share} %, Å" for share in SUREST),
        f"median bound at {LEVEL} %, Å",
    ]
    columns = [labels, *map(column, rows.values())]
    return markdown_table(["", *rows], [list(row) for row in zip(*columns, strict=True)])


NOTE = (
    f"Uncertainty is a model's bound on the coordinate error at {LEVEL} %, compared by rank with the errors "
    "of coordinates and bonds. Coverage is the share of crystals whose coordinate error does not exceed the "
    f"bound, with its {CONFIDENCE} % interval (Wilson's; crystals taken to be independent). Surest: the "
    "crystals with the lowest bounds. Flagged: the model says that the crystal lies outside of what it knows."
)
