"""Distortions of crystals: strain, random displacements and scaling; and a check for short bonds."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from repose.crystal.neighbours import neighbours


def strained(atoms: Atoms, size: float, rng: np.random.Generator) -> Atoms:
    """Return a copy under a random symmetric strain along periodic directions, scaled with the cell.

    ``size`` is the standard deviation of the strain components.
    """
    strain = rng.normal(0.0, size, (3, 3))
    strain = (strain + strain.T) / 2
    if not atoms.pbc.all():
        from repose.crystal.lattice import periodic_projector  # imports torch

        projector = periodic_projector(atoms.cell.array, atoms.pbc)
        strain = projector @ strain @ projector
    new = atoms.copy()
    new.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return new


def rattled(atoms: Atoms, size: float, rng: np.random.Generator) -> Atoms:
    """Return a copy with normally distributed displacements of standard deviation ``size`` in A."""
    new = atoms.copy()
    new.positions += rng.normal(0.0, size, new.positions.shape)
    return new


def rescaled(atoms: Atoms, volume: float) -> Atoms:
    """Return a copy that is scaled isotropically to a volume in A^3."""
    new = atoms.copy()
    new.set_cell(atoms.cell.array * np.cbrt(volume / atoms.get_volume()), scale_atoms=True)
    return new


def min_bond_ratio(atoms: Atoms) -> float:
    """Return the smallest distance of two atoms or images over the sum of their covalent radii, at most 1."""
    radii = covalent_radii[atoms.numbers]
    cutoff = float(2 * radii.max())
    first, second, _, distance = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, half=True)
    if not len(distance):
        return 1.0
    return min(1.0, float((distance / (radii[first] + radii[second])).min()))
