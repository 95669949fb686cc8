"""Synthetic crystals of any size: random fcc alloys with random displacements."""

from __future__ import annotations

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch

# Metals of nearly the same atomic volume that form fcc solid solutions.
ELEMENTS = (27, 28, 29)  # Co, Ni, Cu
VOLUME = 11.3  # A^3 per atom, as also in many oxides
RATTLE = 0.05  # A, standard deviation of every coordinate
CELLS_TRIED = 40


def alloys(n_crystals: int, n_atoms: int, seed: int = 0) -> CrystalBatch:
    """Random alloys of ``n_atoms`` atoms each, float64.

    The density is the same at any size: some 80 neighbours within 6 A.
    """
    rng = np.random.default_rng((seed, n_atoms))
    fractional, cell = _supercell(n_atoms, rng)
    shape = (n_crystals, n_atoms, 3)
    return CrystalBatch(
        numbers=torch.from_numpy(rng.choice(ELEMENTS, n_crystals * n_atoms)),
        positions=torch.from_numpy((fractional @ cell + rng.normal(0, RATTLE, shape)).reshape(-1, 3)),
        cells=torch.from_numpy(cell).repeat(n_crystals, 1, 1),
        system_index=torch.arange(n_crystals).repeat_interleave(n_atoms),
        pbc=torch.ones(n_crystals, 3, dtype=torch.bool),
    )


def _supercell(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Fractional sites ``(n, 3)`` and cell ``(3, 3)`` in A of an fcc supercell with any number n of sites.

    The rows of the matrix [[1, 0, -s], [0, 1, -t], [0, 0, n]] span a superlattice of index n whose sites are
    multiples of the third primitive vector. The most compact cell of several random s and t is taken.
    """
    from ase.geometry import minkowski_reduce

    primitive = (4 * VOLUME) ** (1 / 3) / 2 * (np.ones((3, 3)) - np.eye(3))
    shears = rng.integers(0, n, (CELLS_TRIED, 2))
    cells = [np.array([[1, 0, -s], [0, 1, -t], [0, 0, n]]) @ primitive for s, t in shears]
    cells = [np.asarray(minkowski_reduce(cell)[0]) for cell in cells]
    cell = min(cells, key=lambda cell: np.linalg.norm(cell, axis=1).max())
    fractional = np.arange(n)[:, None] * (primitive[2] @ np.linalg.inv(cell)) % 1.0
    # Sort by position, as supercell builders do; rounding removes numerical noise.
    return fractional[np.lexsort(np.round(fractional, 6).T)], cell
