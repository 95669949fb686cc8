"""Crystals moved away from where they were: strained, rattled, and checked for atoms too close."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from repose.crystal.neighbours import neighbours

# Bonds shorter than this share of the sum of covalent radii are none that a relaxation starts from.
CLOSEST = 0.6


def strained(atoms: Atoms, size: float, rng: np.random.Generator) -> Atoms:
    """A copy under a random symmetric strain, along periodic directions only; fractional coordinates stay.

    Args:
        atoms: A crystal.
        size: Standard deviation of the components of the strain.
        rng: Source of randomness.
    """
    strain = rng.normal(0.0, size, (3, 3))
    strain = (strain + strain.T) / 2
    if not atoms.pbc.all():
        from repose.crystal.lattice import periodic_projector  # imports torch

        span = periodic_projector(atoms.cell.array, atoms.pbc)
        strain = span @ strain @ span
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return moved


def rattled(atoms: Atoms, size: float, rng: np.random.Generator) -> Atoms:
    """A copy with normally distributed displacements.

    Args:
        atoms: A crystal.
        size: Standard deviation of a Cartesian component in A.
        rng: Source of randomness.
    """
    moved = atoms.copy()
    moved.positions += rng.normal(0.0, size, moved.positions.shape)
    return moved


def resized(atoms: Atoms, volume: float) -> Atoms:
    """A copy of this volume in A^3, scaled isotropically."""
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array * np.cbrt(volume / atoms.get_volume()), scale_atoms=True)
    return moved


def closeness(atoms: Atoms) -> float:
    """Smallest distance of two atoms, images included, over the sum of their covalent radii.

    Returns:
        The ratio; 1 where all atoms are farther apart than their radii add up to.
    """
    radii = covalent_radii[atoms.numbers]
    cutoff = float(2 * radii.max())
    first, second, _, distance = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, half=True)
    if not len(distance):
        return 1.0
    return min(1.0, float((distance / (radii[first] + radii[second])).min()))
