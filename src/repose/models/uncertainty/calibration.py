"""Bounds that hold: split-conformal calibration of expected errors on crystals that were held out.

A model expects an error for every crystal; on crystals it was not trained on, the ratio of the true error to
the expected one is known. A bound at a level of 90 % is the expected error times the ratio that 90 % of these
crystals stay below, with the correction for their finite number. It then holds for at least that share of
further crystals of the same kind, however good the model is (Lei et al., J. Am. Stat. Assoc. 113, 1094,
2018). It says nothing about crystals of another kind, so inputs unlike the training crystals are named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from repose.config import Settings
from repose.crystal.elements import symbol
from repose.models.uncertainty.estimate import LEVEL, Errors

LEVELS = (50, 80, 90, 95)  # %
IN_DISTRIBUTION = 99  # %, of the crystals held out lie within the latent distance that counts as known


class Calibration(Settings):
    """Contents of ``calibration`` in ``config.json``."""

    on: str = Field(description="crystals it was made on")
    crystals: int = Field(description="how many these were")
    factors: dict[int, float] = Field(
        description="level in % to the bound on the coordinate error over the error expected"
    )
    atoms: float = Field(description="the same at 90 % for atoms")
    bonds: float = Field(description="the same at 90 % for bonds")
    strains: float | None = Field(default=None, description="the same at 90 % for strains")
    farthest: float = Field(description="latent distance beyond which a crystal counts as unlike training")
    neighbours: dict[str, str] = Field(
        description="element to the elements that stood with it in a crystal in training"
    )

    def bounds(self, expected: Errors) -> dict[int, Tensor]:
        """Bounds on the coordinate error in A by level, each ``(S,)``."""
        return {level: factor * expected.crystals for level, factor in self.factors.items()}

    def outside(self, numbers: Tensor, distance: float) -> str | None:
        """Why a crystal lies outside of what the model knows, or None.

        Args:
            numbers: Atomic numbers, ``(N,)``.
            distance: Its latent distance.
        """
        reasons = []
        unseen = []
        elements = sorted(set(numbers.tolist()))
        for position, first in enumerate(elements):
            partners = self.neighbours.get(symbol(first), "").split()
            unseen += [
                f"{symbol(first)}-{symbol(second)}"
                for second in elements[position:]
                if second != first and symbol(second) not in partners
            ]
        if unseen:
            reasons.append(f"no training crystal held {', '.join(unseen)} together")
        if not distance <= self.farthest:
            reasons.append(
                f"it is unlike the training crystals: {distance:.1f} from them, where "
                f"{IN_DISTRIBUTION} % of those held out lie within {self.farthest:.1f}"
            )
        return "; ".join(reasons) or None


def conformal_factor(errors: np.ndarray, expected: np.ndarray, level: float = LEVEL) -> float:
    """Ratio of error to expected error that a share of further cases stays below.

    Args:
        errors: True errors of n cases.
        expected: What the model expected of them.
        level: Share in %.

    Returns:
        The ``ceil((n + 1) level)``-th smallest ratio; infinite if there are too few cases for the level.
    """
    ratios = np.sort(errors / np.maximum(expected, 1e-12))
    rank = math.ceil((len(ratios) + 1) * level / 100)
    return float(ratios[rank - 1]) if rank <= len(ratios) else math.inf


def neighbours(crystals: Iterable[np.ndarray], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which elements stood together.

    Args:
        crystals: Atomic numbers ``(N,)`` of every crystal.
        before: What a model that was fine-tuned had seen already.
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
    """The value that a share of them, in %, does not exceed."""
    return float(torch.quantile(values.double(), level / 100, interpolation="higher"))
