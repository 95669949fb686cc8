"""Comparison of the bonds of a crystal before and after a relaxation."""

from __future__ import annotations

import numpy as np

from repose.crystal.lattice import periodic_projector
from repose.crystal.neighbours import neighbours

# Atoms are bonded up to this multiple of the sum of their covalent radii.
BOND_FACTOR = 1.25


def bonds_kept(
    numbers: np.ndarray,
    pbc: np.ndarray,
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
) -> float:
    """Return the Jaccard index of the bonds before and after: common bonds over all bonds.

    The crystal before is first scaled to the volume of the one after, so that expansion breaks no bonds.

    Args:
        numbers: Atomic numbers, ``(n,)``.
        pbc: Periodic directions, ``(3,)`` bool.
        before: Positions ``(n, 3)`` and cell ``(3, 3)`` in A.
        after: The same atoms, not wrapped.

    Returns:
        Between 0 and 1; 1 for crystals without bonds.
    """
    expansion = abs(np.linalg.det(after[1])) / abs(np.linalg.det(before[1]))
    factor = expansion ** (1 / max(1, int(pbc.sum())))
    stretch = np.eye(3) + (factor - 1) * periodic_projector(before[1], pbc)
    old = _bonds(numbers, pbc, before[0] @ stretch, before[1] @ stretch)
    new = _bonds(numbers, pbc, *after)
    return len(old & new) / len(old | new) if old | new else 1.0


def _bonds(
    numbers: np.ndarray, pbc: np.ndarray, positions: np.ndarray, cell: np.ndarray
) -> set[tuple[int, ...]]:
    """Return bonds as (atom, atom, cell shift), each in one of its two directions."""
    from ase.data import covalent_radii

    radii = covalent_radii[numbers]
    cutoff = 2 * BOND_FACTOR * float(radii.max())
    first, second, shift, distance = neighbours(positions, cell, pbc, cutoff, half=True)
    shift = np.rint(shift).astype(np.int64)
    bonded = distance < BOND_FACTOR * (radii[first] + radii[second])
    forward = np.column_stack([first, second, shift])[bonded]
    backward = np.column_stack([second, first, -shift])[bonded]
    return {min(tuple(a), tuple(b)) for a, b in zip(forward.tolist(), backward.tolist(), strict=True)}
