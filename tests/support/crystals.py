"""Small crystals, pairs of them before and after relaxation, and rotations."""

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.data.dataset import Pair


def make_crystal(numbers, fractional, cell, pbc=(True, True, True), dtype=torch.float64) -> CrystalBatch:
    """Return one crystal as a batch, from fractional coordinates."""
    return CrystalBatch.single(numbers, np.asarray(fractional, dtype=float) @ cell, cell, pbc, dtype)


def rock_salt(a: float = 4.8) -> CrystalBatch:
    """Return the primitive cell of CaO."""
    return make_crystal([20, 8], [[0, 0, 0], [0.5, 0.5, 0.5]], a / 2 * (np.ones((3, 3)) - np.eye(3)))


def perovskite(a: float = 3.9) -> CrystalBatch:
    """Return cubic SrTiO3."""
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return make_crystal([38, 22, 8, 8, 8], sites, a * np.eye(3))


def fcc(a: float = 4.05) -> CrystalBatch:
    """Return the primitive cell of aluminium, one atom."""
    return make_crystal([13], [[0, 0, 0]], a / 2 * (np.ones((3, 3)) - np.eye(3)))


def random_crystal(seed: int, n_atoms: int | None = None) -> CrystalBatch:
    """Return atoms at random positions in a skewed cell, without any symmetry."""
    rng = np.random.default_rng(seed)
    n = n_atoms or int(rng.integers(2, 7))
    cell = (np.eye(3) + rng.uniform(-0.35, 0.35, (3, 3))) * rng.uniform(3.5, 6.0)
    return make_crystal(rng.choice([8, 12, 13, 22, 25, 56], n), rng.random((n, 3)), cell)


def random_rotation(seed: int, reflect: bool = False) -> torch.Tensor:
    """Return a rotation, or a rotation with a reflection, ``(3, 3)`` float64."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    wanted = -1.0 if reflect else 1.0
    return q if torch.sign(torch.linalg.det(q)) == wanted else -q


def random_pairs(n: int = 40, start: int = 0) -> list[Pair]:
    """Return pairs whose relaxed crystal is random and whose input is the same, strained and rattled."""
    rng = np.random.default_rng(start)
    pairs = []
    for k in range(start, start + n):
        relaxed = random_crystal(k)
        positions, cell = relaxed.positions.numpy(), relaxed.cells[0].numpy()
        deformation = np.eye(3) + rng.normal(0, 0.03, (3, 3))
        pairs.append(
            Pair(
                id=f"c{k}",
                split="val",
                numbers=relaxed.numbers.numpy(),
                pbc=relaxed.pbc[0].numpy(),
                positions=positions @ deformation + rng.normal(0, 0.1, positions.shape),
                cell=cell @ deformation,
                relaxed_positions=positions,
                relaxed_cell=cell,
            )
        )
    return pairs
