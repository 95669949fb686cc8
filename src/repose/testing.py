"""Checks that every relaxer must pass; use them on your own (`check_relaxer`).

Each check changes the input in a way that must not change the physics, relaxes both, and compares; those
of the writing alone are in `repose.relaxer.invariance`. All are meant for float64, where the differences of a
sound model are around 1e-12 A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from repose.crystal.batch import CrystalBatch
from repose.errors import ReposeError
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.invariance import WRITINGS, difference


class ContractError(ReposeError, AssertionError):
    """A relaxer broke one of the promises that every relaxer makes."""


def batch_composition(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Every crystal alone: the answer must not depend on its neighbours in the batch.

    Args:
        relaxer: What is checked.
        batch: Crystals in float64.
        seed: Not used; all checks take one.

    Returns:
        Largest difference of a position or lattice vector component in A.
    """
    del seed
    alone = [relaxer.predict(crystal) for crystal in batch]
    joined = Geometry(torch.cat([a.positions for a in alone]), torch.cat([a.cells for a in alone]))
    return difference(relaxer.predict(batch), joined)


def input_unchanged(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """The batch must hold the same numbers after relaxing it.

    Returns:
        As `batch_composition`.
    """
    del seed
    before = Geometry(batch.positions.clone(), batch.cells.clone())
    relaxer.predict(batch)
    return difference(before, Geometry(batch.positions, batch.cells))


# What every relaxer promises, and what only those promise whose answer depends on the crystal alone.
ALWAYS = ("rotation", "reflection", "translation", "atom order")
CHECKS: dict[str, Callable[[Relaxer, CrystalBatch, int], float]] = {
    **{name: WRITINGS[name] for name in ALWAYS},
    "batch composition": batch_composition,
    "input unchanged": input_unchanged,
}
STRICT = CHECKS | WRITINGS


def check_relaxer(
    relaxer: Relaxer,
    batch: CrystalBatch,
    tolerance: float = 1e-8,
    seed: int = 0,
    checks: Iterable[str] = tuple(CHECKS),
) -> dict[str, float]:
    """Run checks.

    Args:
        relaxer: What is checked; it must compute in the batch's floating-point type.
        batch: A few crystals, float64, among them one of a single atom and some that are centrosymmetric.
        tolerance: Largest difference allowed in A.
        seed: Source of randomness.
        checks: Names in `STRICT`; by default what every relaxer promises.

    Returns:
        Largest difference in A by check.

    Raises:
        ContractError: A difference exceeds the tolerance or is not finite; names the check.
    """
    found = {name: STRICT[name](relaxer, batch, seed) for name in checks}
    broken = {name: value for name, value in found.items() if not value <= tolerance}
    if broken:
        listed = ", ".join(f"{name} by {value:.2g} A" for name, value in broken.items())
        raise ContractError(f"relaxer '{relaxer.name}' breaks {listed}; at most {tolerance:g} A is allowed.")
    return found
