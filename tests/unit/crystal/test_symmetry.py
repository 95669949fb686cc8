"""Space groups that are found: numbers, operations, failures, tolerances."""

import warnings

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from hypothesis import given

from repose.crystal import symmetry
from repose.crystal.symmetry import (
    SpaceGroup,
    find_space_group,
    space_group_number,
    symmetrise,
)
from repose.errors import ConfigError, ShapeError
from support.symmetric_crystals import CRYSTALS, TOLERANCE, asymmetry, predict, repeatable, seeds, take


@pytest.mark.parametrize("name", CRYSTALS)
def test_known_space_groups(name):
    number, operations, _ = CRYSTALS[name]
    for rng in (None, np.random.default_rng(0)):
        numbers, positions, cell, pbc = take(name, rng)
        group = find_space_group(numbers, positions, cell, pbc)
        assert (group.number, group.n_operations) == (number, operations)
        assert space_group_number(numbers, positions, cell) == number
        assert asymmetry(group, positions, cell) < TOLERANCE
        assert (numbers[group.permutations] == numbers).all()


def test_symbol_and_trivial_group():
    group = find_space_group(*take("rock salt, primitive"))
    assert group.symbol == "Fm-3m"
    trivial = SpaceGroup.trivial(3)
    assert (trivial.number, trivial.symbol, trivial.n_operations) == (1, "P1", 1)
    assert trivial.permutations.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("failure", ["none", "raises"])
def test_failing_search_gives_p1(monkeypatch, failure):
    def search(cell, symprec):
        if failure == "raises":
            raise RuntimeError("too close distance between atoms")

    monkeypatch.setattr(spglib, "get_symmetry_dataset", search)
    numbers, positions, cell, pbc = take("perovskite")
    assert find_space_group(numbers, positions, cell, pbc).n_operations == 1
    assert space_group_number(numbers, positions, cell) == 1


@pytest.mark.parametrize("odd", ["overlapping", "nan", "infinite", "flat"])
def test_odd_crystals_give_p1(odd):
    numbers, positions, cell, pbc = take("diamond")
    if odd == "overlapping":
        positions = np.zeros_like(positions)
    elif odd == "flat":
        cell = np.diag([4.0, 4.0, 0.0])
    else:
        positions = np.full_like(positions, np.nan if odd == "nan" else np.inf)
    assert find_space_group(numbers, positions, cell, pbc).n_operations == 1
    assert space_group_number(numbers, positions, cell) == 1


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_space_group(*take("quartz")).number == 152


def test_left_handed_cell():
    numbers, positions, cell, pbc = take("quartz")
    cell = cell[[1, 0, 2]]
    group = find_space_group(numbers, positions, cell, pbc)
    rng = np.random.default_rng(0)
    projected = symmetrise(group, positions, cell, *predict(rng, positions, cell))
    assert group.n_operations == 6
    assert asymmetry(group, *projected) < TOLERANCE


def test_wrong_arguments():
    numbers, positions, cell, pbc = take("diamond")
    with pytest.raises(ShapeError, match=r"numbers must be \(8,\)"):
        find_space_group(numbers[:3], positions, cell, pbc)
    with pytest.raises(ShapeError, match=r"cell must be \(3, 3\)"):
        find_space_group(numbers, positions, cell[None], pbc)
    with pytest.raises(ShapeError, match=r"positions must be \(N, 3\)"):
        find_space_group(numbers, positions[None], cell, pbc)
    with pytest.raises(ConfigError, match="symprec must be a positive length"):
        find_space_group(numbers, positions, cell, pbc, symprec=-1.0)


def test_vacuum_carries_no_translation():
    # Two equal sheets half a cell apart: stacked without end if c is periodic, a bilayer if it is not.
    sheet = CRYSTALS["sheet"][2]
    pair = sheet.repeat((1, 1, 2))
    pair.positions += [0.3, 0.2, 0.1]
    args = pair.numbers, pair.positions, np.array(pair.cell)
    stacked = find_space_group(*args, [True, True, True])
    bilayer = find_space_group(*args, [True, True, False])
    assert (stacked.n_operations, bilayer.n_operations) == (24, 12)
    same_side = bilayer.rotations[:, 2, 2] == 1
    assert np.abs(bilayer.translations[same_side, 2]).max() < TOLERANCE
    # Not only modulo lattice vectors: along c the operations map the atoms as they are.
    height = pair.positions[:, 2] / pair.cell[2, 2]
    images = bilayer.rotations[:, 2, 2, None] * height + bilayer.translations[:, 2, None]
    assert np.abs(images - height[bilayer.permutations]).max() < TOLERANCE


def test_molecule_and_mixed_directions():
    pair = Atoms("CsCl", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=[4.12] * 3)
    args = pair.numbers, pair.positions, np.array(pair.cell)
    counts = [find_space_group(*args, pbc).n_operations for pbc in ([1, 1, 1], [1, 1, 0], [0, 0, 0])]
    assert counts == [48, 8, 6]  # m-3m; a polar double layer, 4mm; a molecule along 111, 3m


def test_operations_that_are_no_group(monkeypatch):
    group = find_space_group(*take("wurtzite"))
    assert symmetry._is_group(group.rotations, group.permutations)
    assert not symmetry._is_group(group.rotations[:-1], group.permutations[:-1])
    assert not symmetry._is_group(group.rotations[:0], group.permutations[:0])
    monkeypatch.setattr(symmetry, "_is_group", lambda *_: False)
    assert find_space_group(*take("wurtzite")).number == 1


def test_large_supercell_keeps_site_symmetry(monkeypatch):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)
    args = atoms.numbers, atoms.positions, np.array(atoms.cell), [True] * 3
    assert find_space_group(*args).n_operations == 8 * 192
    monkeypatch.setattr(symmetry, "MAX_IMAGES", 10_000)
    monkeypatch.setattr(symmetry, "IMAGES_AT_A_TIME", 1000)
    group = find_space_group(*args)
    assert (group.number, group.n_operations) == (225, 48)
    assert asymmetry(group, *args[1:3]) < TOLERANCE


@repeatable
@given(seeds)
def test_atom_finder_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    n, tolerance = rng.integers(1, 40), 10 ** rng.uniform(-3, 0)
    cell = rng.normal(size=(3, 3)) * rng.uniform(1, 8)
    numbers = rng.integers(1, 3, size=n)
    # Many atoms exactly on the borders of bins.
    fractional = np.where(rng.random((n, 3)) < 0.5, rng.integers(-4, 5, size=(n, 3)) / 4, rng.random((n, 3)))
    noise = rng.normal(size=(5, n, 3)) * tolerance / 2 @ np.linalg.inv(cell)
    images = fractional + noise + rng.integers(-3, 4, size=(5, n, 3))
    difference = images[:, :, None] - fractional
    distance = np.linalg.norm((difference - np.rint(difference)) @ cell, axis=-1)  # (5, n, n)
    distance[:, numbers[:, None] != numbers] = np.inf
    found = symmetry._AtomFinder(numbers, fractional, cell, tolerance)(images)
    near = distance.min(axis=-1) < tolerance
    assert ((found >= 0) == near).all()
    chosen = np.take_along_axis(distance, found[..., None], axis=-1)[..., 0]
    assert np.abs(chosen - distance.min(axis=-1))[near].max(initial=0) < TOLERANCE
