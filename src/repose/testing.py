"""Checks of the contract of relaxers; run them on your own relaxer with `check_relaxer`.

Each check changes the input in a way that does not change the physics, relaxes both inputs and compares the
results; see also `repose.relaxer.invariance`. Use them in float64, where differences of a correct relaxer are
around 1e-12 A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from repose.crystal.batch import CrystalBatch
from repose.errors import ReposeError
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.invariance import INVARIANCE_CHECKS, difference


class ContractError(ReposeError, AssertionError):
    """A relaxer fails a check of the contract."""


def batch_composition(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Relax each crystal alone: the result must be that in the batch.

    Args:
        relaxer: Relaxer to check.
        batch: Crystals in float64.
        seed: Not used; all checks have this argument.

    Returns:
        Largest difference of a position or lattice vector component in A.
    """
    del seed
    alone = [relaxer.predict(crystal) for crystal in batch]
    joined = Geometry(torch.cat([a.positions for a in alone]), torch.cat([a.cells for a in alone]))
    return difference(relaxer.predict(batch), joined)


def input_unchanged(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Relax a batch: the input tensors must not change.

    Returns:
        As `batch_composition`.
    """
    del seed
    before = Geometry(batch.positions.clone(), batch.cells.clone())
    relaxer.predict(batch)
    return difference(before, Geometry(batch.positions, batch.cells))


# The contract of every relaxer, and that of relaxers whose results do not depend on the unit cell chosen.
CHECKS: dict[str, Callable[[Relaxer, CrystalBatch, int], float]] = {
    **{name: INVARIANCE_CHECKS[name] for name in ("rotation", "reflection", "translation", "atom order")},
    "batch composition": batch_composition,
    "input unchanged": input_unchanged,
}
ALL_CHECKS = CHECKS | INVARIANCE_CHECKS


def check_relaxer(
    relaxer: Relaxer,
    batch: CrystalBatch,
    tolerance: float = 1e-8,
    seed: int = 0,
    checks: Iterable[str] = tuple(CHECKS),
) -> dict[str, float]:
    """Run checks on a relaxer.

    Args:
        relaxer: Relaxer to check; it must compute in the floating-point type of the batch.
        batch: A few crystals in float64, including one of a single atom and some that are centrosymmetric.
        tolerance: Largest difference allowed in A.
        seed: Seed of the random numbers.
        checks: Names of checks in `ALL_CHECKS`; by default the contract of every relaxer, `CHECKS`.

    Returns:
        Largest difference in A by check.

    Raises:
        ContractError: A difference exceeds the tolerance or is not finite; names the check.
    """
    found = {name: ALL_CHECKS[name](relaxer, batch, seed) for name in checks}
    failed = {name: value for name, value in found.items() if not value <= tolerance}
    if failed:
        listed = ", ".join(f"{name} by {value:.2g} A" for name, value in failed.items())
        raise ContractError(f"relaxer '{relaxer.name}' fails {listed}; at most {tolerance:g} A is allowed.")
    return found
