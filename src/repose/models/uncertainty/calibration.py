"""Split-conformal calibration of expected errors on held-out crystals.

A network predicts an expected error for every crystal. On held-out crystals the ratio of true to expected
error is known. The bound at 90 % is the expected error times the ratio that 90 % of the held-out crystals
stay below, corrected for their finite number. It then holds for at least that share of further crystals of
the same distribution, for any network (Lei et al., J. Am. Stat. Assoc. 113, 1094, 2018). It need not hold for
other crystals, so inputs that are out of distribution are flagged.

One ratio for all would be too large for some crystals and too small for others, e.g. for nearly relaxed ones
and for those far from equilibrium. With enough held-out crystals they are divided into groups of similar
expected error, and the bound is a curve through the bounds of the groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from repose.config import Settings
from repose.crystal.elements import symbol

if TYPE_CHECKING:
    from torch import Tensor

    from repose.models.uncertainty.expected_errors import ExpectedErrors

LEVEL = 90  # %, of bounds whose level is not named
LEVELS = (50, 80, 90, 95)  # %
IN_DISTRIBUTION = 99  # %, share of the held-out crystals that count as in distribution


# Smaller errors count as this one, A (strains: without unit), so that no bound is zero.
SMALLEST = 1e-4
# Held-out cases of a group at least, and groups at most, of a `Curve`.
GROUP, MAX_GROUPS = 150, 12


class Curve(Settings):
    """Bound on an error as a function of the expected error, both in A (strains: without unit)."""

    expected: tuple[float, ...] = Field(description="expected errors, ascending")
    bounds: tuple[float, ...] = Field(description="bounds at these, not descending")

    def __mul__(self, expected: Tensor) -> Tensor:
        """Return the bounds for expected errors of any shape.

        The curve is linear in the logarithms; below and above it the ratio of both is constant.
        """
        import torch

        x, y = (torch.tensor(values).to(expected).log() for values in (self.expected, self.bounds))
        log = expected.clamp(min=1e-12).log()
        right = torch.searchsorted(x, log).clamp(1, len(x) - 1)
        slope = (y[right] - y[right - 1]) / (x[right] - x[right - 1])
        between = y[right - 1] + slope * (log.clamp(x[0], x[-1]) - x[right - 1])
        return (between + log - log.clamp(x[0], x[-1])).exp()

    def __format__(self, spec: str) -> str:
        ratios = [b / e for e, b in zip(self.expected, self.bounds, strict=True)]
        return f"{min(ratios):{spec}} to {max(ratios):{spec}}"


# Bound over expected error: one ratio, or a curve.
Ratio = float | Curve


class Calibration(Settings):
    """Contents of ``calibration`` in ``config.json``."""

    on: str = Field(description="name of the held-out crystals")
    crystals: int = Field(description="number of held-out crystals")
    factors: dict[int, Ratio] = Field(
        description="level in % to the bound on the coordinate error over the expected error"
    )
    atoms: Ratio = Field(description="bound over expected error at 90 %, for atoms")
    bonds: Ratio = Field(description="bound over expected error at 90 %, for bonds")
    strains: Ratio | None = Field(default=None, description="bound over expected error at 90 %, for strains")
    max_distance: float = Field(description="latent distance beyond which a crystal is out of distribution")
    element_pairs: dict[str, str] = Field(
        description="element to the elements that occur with it in a training crystal"
    )

    def bounds(self, expected: ExpectedErrors) -> dict[int, Tensor]:
        """Bounds on the coordinate error in A by level in %, each ``(S,)``."""
        return {level: factor * expected.crystals for level, factor in self.factors.items()}

    def outside(self, numbers: Tensor, distance: float) -> str | None:
        """Reason why a crystal is out of distribution, or None.

        Args:
            numbers: Atomic numbers, ``(N,)``.
            distance: Latent distance of the crystal.
        """
        reasons = []
        elements = [symbol(z) for z in sorted(set(numbers.tolist()))]
        unseen = [
            f"{first}-{second}"
            for position, first in enumerate(elements)
            for second in elements[position + 1 :]
            if second not in self.element_pairs.get(first, "").split()
        ]
        if unseen:
            reasons.append(f"no training crystal contains {', '.join(unseen)} together")
        if not distance <= self.max_distance:
            reasons.append(
                f"it is unlike the training crystals: its features are {distance:.3g} from theirs, and "
                f"those of {IN_DISTRIBUTION} % of held-out crystals within {self.max_distance:.3g}"
            )
        return "; ".join(reasons) or None


def conformal_factor(errors: np.ndarray, expected: np.ndarray, level: float = LEVEL) -> float:
    """Ratio of error to expected error that a share of further cases stays below.

    Args:
        errors: True errors of n cases.
        expected: Expected errors of the same cases.
        level: Share in %.

    Returns:
        The ``ceil((n + 1) level)``-th smallest ratio, of errors of at least `SMALLEST`; infinite if there are
        too few cases for the level.
    """
    ratios = np.sort(np.maximum(errors, SMALLEST) / np.maximum(expected, 1e-12))
    rank = math.ceil((len(ratios) + 1) * level / 100)
    return float(ratios[rank - 1]) if rank <= len(ratios) else math.inf


def fit_bound(errors: np.ndarray, expected: np.ndarray, level: float = LEVEL) -> Ratio:
    """Bound over expected error that a share of further cases stays below.

    Args:
        errors: True errors of n cases.
        expected: Expected errors of the same cases.
        level: Share in %.

    Returns:
        The factor of `conformal_factor`; with at least two groups of `GROUP` cases, a curve through the
        bounds of groups of similar expected error, each from its own cases.
    """
    groups = min(MAX_GROUPS, len(errors) // GROUP)
    if groups < 2:
        return conformal_factor(errors, expected, level)
    parts = np.array_split(np.argsort(expected, kind="stable"), groups)
    at = np.array([np.exp(np.log(np.maximum(expected[part], 1e-12)).mean()) for part in parts])
    factors = [conformal_factor(errors[part], expected[part], level) for part in parts]
    # Of groups with the same expected error the last one has the largest bound.
    distinct = np.concatenate([np.diff(at) > 1e-6 * at[1:], [True]])
    at, bounds = at[distinct], np.maximum.accumulate(at * np.array(factors))[distinct]
    if len(at) < 2:
        return conformal_factor(errors, expected, level)
    columns = {"expected": at, "bounds": bounds}
    return Curve.parse({name: [float(f"{v:.6g}") for v in values] for name, values in columns.items()})


def element_pairs(crystals: Iterable[np.ndarray], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """Elements that occur together in a crystal: for each element the others, joined by spaces.

    Args:
        crystals: Atomic numbers ``(N,)`` of every crystal.
        before: Pairs to include, e.g. those of the model that was fine-tuned.
    """
    from ase.data import atomic_numbers

    partners = {
        atomic_numbers[element]: {atomic_numbers[other] for other in others.split()}
        for element, others in (before or {}).items()
    }
    for numbers in crystals:
        elements = set(numbers.tolist())
        for element in elements:
            partners.setdefault(element, set()).update(elements - {element})
    return {symbol(z): " ".join(map(symbol, sorted(partners[z]))) for z in sorted(partners)}


def quantile(values: Tensor, level: float) -> float:
    """Smallest of the values that a share of them, in %, does not exceed."""
    import torch

    return float(torch.quantile(values.double(), level / 100, interpolation="higher"))
