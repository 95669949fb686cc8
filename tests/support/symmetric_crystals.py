"""Crystals of many space groups, random predictions for them, and how symmetric a crystal is."""

import numpy as np
from ase.build import bulk, mx2
from ase.spacegroup import crystal
from hypothesis import settings
from hypothesis import strategies as st

TOLERANCE = 1e-8
repeatable = settings(derandomize=True, max_examples=8, deadline=None)
seeds = st.integers(0, 2**32 - 1)

# Expected space group and number of operations, with the crystal.
CRYSTALS = {
    "rock salt, primitive": (225, 48, bulk("NaCl", "rocksalt", a=5.64)),
    "rock salt, conventional": (225, 192, bulk("NaCl", "rocksalt", a=5.64, cubic=True)),
    "fluorite": (225, 48, bulk("CaF2", "fluorite", a=5.46)),
    "perovskite": (
        221,
        48,
        crystal(
            ["Sr", "Ti", "O"],
            [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
            spacegroup=221,
            cellpar=[3.905, 3.905, 3.905, 90, 90, 90],
        ),
    ),
    "wurtzite": (186, 12, bulk("ZnO", "wurtzite", a=3.25, c=5.2, u=0.38)),
    "diamond": (227, 192, bulk("C", "diamond", a=3.57, cubic=True)),
    "quartz": (
        152,
        6,
        crystal(
            ["Si", "O"],
            [(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.4524)],
            spacegroup=152,
            cellpar=[4.92, 4.92, 5.41, 90, 90, 120],
        ),
    ),
    "hexagonal": (
        176,
        12,
        crystal(
            ["Si", "N", "N"],
            [(0.174, 0.768, 0.25), (1 / 3, 2 / 3, 0.25), (0.33, 0.03, 0.25)],
            spacegroup=176,
            cellpar=[7.6, 7.6, 2.91, 90, 90, 120],
        ),
    ),
    "monoclinic": (
        14,
        4,
        crystal(
            ["Zr", "O", "O"],
            [(0.275, 0.04, 0.208), (0.07, 0.332, 0.345), (0.45, 0.757, 0.479)],
            spacegroup=14,
            cellpar=[5.15, 5.21, 5.32, 90, 99.2, 90],
        ),
    ),
    "sheet": (187, 12, mx2("MoS2", kind="2H", a=3.18, thickness=3.19, vacuum=8)),
    "one atom": (229, 48, bulk("Fe", "bcc", a=2.87)),
    # Longer along a than along b, so that its lattice has no threefold axis: a third of 72 operations.
    "supercell": (194, 24, bulk("Mg", "hcp", a=3.21, c=5.21).repeat((3, 1, 1))),
}
every_crystal = st.sampled_from(sorted(CRYSTALS))


def take(name, rng=None):
    """Numbers, positions, cell and pbc of a crystal; with ``rng`` turned, shuffled, shifted and unwrapped."""
    atoms = CRYSTALS[name][2]
    pbc = np.array([True, True, name != "sheet"])
    numbers, positions, cell = atoms.numbers, atoms.get_positions(), np.array(atoms.cell)
    if rng is not None:
        order, turn = rng.permutation(len(numbers)), random_rotation(rng)
        images = rng.integers(-2, 3, size=positions.shape) * pbc @ cell
        positions = ((positions + images) @ turn)[order] + rng.normal(size=3)
        numbers, cell = numbers[order], cell @ turn
    return numbers, positions, cell, pbc


def random_rotation(rng):
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def with_cell(positions, cell, new_cell):
    """Positions with the same fractional coordinates in another cell."""
    return positions @ np.linalg.solve(cell, new_cell)


def predict(rng, positions, cell, size=0.05):
    """A random prediction: atoms moved, lattice strained and a little turned."""
    new_cell = cell @ (np.eye(3) + size * rng.normal(size=(3, 3)))
    return with_cell(positions, cell, new_cell) + 2 * size * rng.normal(size=positions.shape), new_cell


def asymmetry(group, positions, cell):
    """How far (A) the operations of a group are from mapping a crystal onto itself: atoms and lattice."""
    fractional, metric, worst = positions @ np.linalg.inv(cell), cell @ cell.T, 0.0
    for w, shift, atoms in zip(group.rotations, group.translations, group.permutations, strict=True):
        miss = fractional @ w.T + shift - fractional[atoms]
        worst = max(worst, np.abs((miss - np.rint(miss)) @ cell).max())
        worst = max(worst, np.abs(w.T @ metric @ w - metric).max() / np.sqrt(metric.max()))
    return worst


def kept_number(name):
    """Space group that a projection guarantees: the one found, unless the lattice carries less (Cmcm)."""
    return 63 if name == "supercell" else CRYSTALS[name][0]


def close(one, other, tolerance=TOLERANCE):
    return all(np.abs(a - b).max() < tolerance for a, b in zip(one, other, strict=True))
