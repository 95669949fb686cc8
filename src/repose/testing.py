"""Checks that every relaxer must pass; use them on your own (`check_relaxer`).

Each check changes the input in a way that must not change the physics, relaxes both, and compares.
All are meant for float64, where the differences of a sound model are around 1e-12 A.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repose.crystals import CrystalBatch
from repose.errors import ReposeError
from repose.models.base import Relaxer
from repose.models.network import Geometry
from repose.nn.ops import segment_mean


class ContractError(ReposeError, AssertionError):
    """A relaxer broke one of the promises that every relaxer makes."""


def rotation(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Positions AND cell turned by a random rotation: the answer must turn with them.

    Args:
        relaxer: What is checked.
        batch: Crystals in float64.
        seed: Source of randomness.

    Returns:
        Largest difference of a position or lattice vector component in A.
    """
    return _turned(relaxer, batch, seed, sign=1.0)


def reflection(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """As `rotation`, with an improper rotation."""
    return _turned(relaxer, batch, seed, sign=-1.0)


def translation(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Every crystal moved as a whole: the answer must be the same crystal, moved as a whole.

    How far it moves is not compared: under a change of the cell a rigid translation is kept either in
    Cartesian or in fractional coordinates, not in both.

    Returns:
        As `rotation`.
    """
    moved = batch.positions + _normal(batch, seed, batch.n_crystals, 3)[batch.crystal] * 3
    return _difference(
        _centred(relaxer.predict(batch), batch),
        _centred(relaxer.predict(batch.with_geometry(moved, batch.cells)), batch),
    )


def atom_order(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Atoms of every crystal in another order: every atom must get the same answer.

    Returns:
        As `rotation`.
    """
    shuffled = torch.argsort(batch.crystal + torch.rand(batch.n_atoms, generator=_generator(seed)))
    other = CrystalBatch(
        batch.numbers[shuffled], batch.positions[shuffled], batch.cells, batch.crystal[shuffled], batch.pbc
    )
    expected, got = relaxer.predict(batch), relaxer.predict(other)
    return _difference(Geometry(expected.positions[shuffled], expected.cells), got)


def batch_composition(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Every crystal alone: the answer must not depend on its neighbours in the batch.

    Returns:
        As `rotation`.
    """
    alone = [relaxer.predict(crystal) for crystal in batch]
    joined = Geometry(torch.cat([a.positions for a in alone]), torch.cat([a.cells for a in alone]))
    return _difference(relaxer.predict(batch), joined)


def input_unchanged(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """The batch must hold the same numbers after relaxing it.

    Returns:
        As `rotation`.
    """
    before = Geometry(batch.positions.clone(), batch.cells.clone())
    relaxer.predict(batch)
    return _difference(before, Geometry(batch.positions, batch.cells))


CHECKS: dict[str, Callable[[Relaxer, CrystalBatch, int], float]] = {
    "rotation": rotation,
    "reflection": reflection,
    "translation": translation,
    "atom order": atom_order,
    "batch composition": batch_composition,
    "input unchanged": input_unchanged,
}


def check_relaxer(
    relaxer: Relaxer, batch: CrystalBatch, tolerance: float = 1e-8, seed: int = 0
) -> dict[str, float]:
    """Run all checks.

    Args:
        relaxer: What is checked; it must compute in the batch's floating-point type.
        batch: A few crystals, float64, among them one of a single atom and some that are centrosymmetric.
        tolerance: Largest difference allowed in A.
        seed: Source of randomness.

    Returns:
        Largest difference in A by check.

    Raises:
        ContractError: A difference exceeds the tolerance or is not finite; names the check.
    """
    found = {name: check(relaxer, batch, seed) for name, check in CHECKS.items()}
    broken = {name: value for name, value in found.items() if not value <= tolerance}
    if broken:
        listed = ", ".join(f"{name} by {value:.2g} A" for name, value in broken.items())
        raise ContractError(f"relaxer '{relaxer.name}' breaks {listed}; at most {tolerance:g} A is allowed.")
    return found


def _turned(relaxer: Relaxer, batch: CrystalBatch, seed: int, sign: float) -> float:
    q, _ = torch.linalg.qr(_normal(batch, seed, 3, 3))
    q = q * (torch.linalg.det(q) * sign)
    expected = relaxer.predict(batch)
    got = relaxer.predict(batch.with_geometry(batch.positions @ q, batch.cells @ q))
    return _difference(Geometry(expected.positions @ q, expected.cells @ q), got)


def _centred(geometry: Geometry, batch: CrystalBatch) -> Geometry:
    mean = segment_mean(geometry.positions, batch.crystal, batch.n_crystals)
    return Geometry(geometry.positions - mean[batch.crystal], geometry.cells)


def _difference(a: Geometry, b: Geometry) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(batch: CrystalBatch, seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64).to(batch.positions)
