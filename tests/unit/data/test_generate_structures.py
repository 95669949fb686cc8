"""Parts of the generator: elements, prototypes, distortions and duplicates."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk as ase_bulk
from ase.data import atomic_numbers
from hypothesis import given
from hypothesis import strategies as st

from repose.data.generate.chemistry import (
    ANIONS,
    DEFAULT_ELEMENTS,
    ElementSampler,
    atomic_number,
    element_distances,
    oxidation_states,
)
from repose.data.generate.distortion import min_bond_ratio, rattled, rescaled, strained
from repose.data.generate.duplicates import DuplicateFilter
from repose.data.generate.perovskites import tilted
from repose.data.generate.presets import generate
from repose.data.generate.prototypes import aflow_prototypes, ordered_derivatives


def is_balanced(numbers, anions):
    """Return whether oxidation states exist that sum to zero, if these elements are anions."""
    charges = {atomic_number(symbol): charge for symbol, (charge, _) in ANIONS.items()}
    elements, counts = np.unique(numbers, return_counts=True)
    states = [(charges[z],) if z in anions else oxidation_states(z) for z in elements.tolist()]
    return any(np.dot(charge, counts) == 0 for charge in product(*states))


def test_charges_balance():
    salts = [c for c in generate("bulk", 150) if c.tags["chemistry"] == "salt"]
    anions = ElementSampler().anions
    assert len(salts) > 40
    assert {c.tags["chemistry"] for c in generate("bulk", 60)} == {"salt", "alike", "intermetallic"}
    for candidate in salts:
        present = set(candidate.numbers.tolist())
        subsets = [k for n in (1, 2) for k in combinations(present & set(anions), n)]
        assert any(is_balanced(candidate.numbers, chosen) for chosen in subsets), candidate.to_atoms().symbols


@given(
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    where=st.integers(0, 3),
)
def test_drawn_salts_balance(counts, seed, where):
    sampler, anion = ElementSampler(), where % len(counts)
    drawn = sampler.balanced(counts, [anion], np.random.default_rng(seed))
    if drawn is None:
        return
    assert len(set(drawn)) == len(counts)
    numbers = np.repeat(drawn, counts)
    assert is_balanced(numbers, [drawn[anion]])
    # With cations of a single oxidation state, a further anion breaks the balance.
    if all(len(oxidation_states(z)) == 1 for z in drawn if z != drawn[anion]):
        assert not is_balanced(np.append(numbers, drawn[anion]), [drawn[anion]])


def test_default_elements_are_common_ones():
    assert len(DEFAULT_ELEMENTS) == 78
    assert not set(DEFAULT_ELEMENTS) & {"He", "Ar", "Xe", "Tc", "Pm", "Po", "Rn", "Ac", "Pa", "Np", "Pu"}


def test_similar_elements_are_neighbours_in_the_periodic_table():
    distances = element_distances()
    similar = [("Na", "K"), ("Ti", "Zr"), ("Cl", "Br"), ("La", "Nd"), ("Fe", "Co")]
    different = [("Na", "Cl"), ("Ti", "O"), ("Cs", "Be"), ("La", "S"), ("Fe", "F")]
    values = [
        [distances[atomic_numbers[a], atomic_numbers[b]] for a, b in pairs] for pairs in (similar, different)
    ]
    assert max(values[0]) < 1.7 < 3 < min(values[1])
    rng = np.random.default_rng(0)
    drawn = Counter(
        ElementSampler().similar(atomic_numbers["Fe"], 0.8, rng, exclude=[26]) for _ in range(200)
    )
    assert 26 not in drawn
    assert set(drawn) <= {z for z in range(1, 104) if distances[26, z] < 2.5}


def test_aflow_prototypes_have_volume_one_and_the_stoichiometry_of_their_label():
    prototypes = aflow_prototypes()
    assert len(prototypes) == 205
    assert all(abs(abs(np.linalg.det(p.cell)) - 1) < 1e-9 for p in prototypes)
    for p in prototypes:
        counts = np.array(p.counts) // np.gcd.reduce(p.counts)
        letters = "".join(f"{a}{n if n > 1 else ''}" for a, n in zip("ABCD", counts, strict=False))
        assert p.label.split("_")[0] == letters, p.label


def test_derivatives_split_one_orbit_each():
    derived, labels = ordered_derivatives(), {p.label: p for p in aflow_prototypes()}
    assert len(derived) > 100
    for p in derived:
        parent = labels[p.parent_label]
        assert len(p.species) == len(parent.species)
        assert len(p.counts) == len(parent.counts) + 1
        assert min(p.counts) > 0


@pytest.mark.parametrize(
    ("glazer", "number", "atoms"),
    [("a0a0c+", 127, 10), ("a0a0c-", 140, 10), ("a0b-b-", 74, 10), ("a-a-a-", 167, 10), ("a-a-c+", 62, 20),
     ("a+a+a+", 204, 20)],
)  # fmt: skip
def test_tilts_have_the_space_groups_of_glazer(glazer, number, atoms):
    # Howard and Stokes, Acta Cryst. B 54, 782 (1998), table 1.
    from pymatgen.core import Lattice, Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    p = tilted(glazer, 7)
    found = SpacegroupAnalyzer(Structure(Lattice(p.cell), p.species + 11, p.fractional), symprec=1e-4)
    assert (found.get_space_group_number(), len(p.species)) == (number, atoms)
    # The six anions around B are equally far to second order in the angle.
    atoms = p.decorate([56, 8, 22], 60 * len(p.species) / 5)
    b = int(np.flatnonzero(atoms.numbers == 22)[0])
    near = np.sort((atoms * (2, 2, 2)).get_all_distances(mic=True)[b][(atoms * (2, 2, 2)).numbers == 8])[:6]
    assert np.ptp(near) < 0.03 * near.mean()


def test_duplicates_and_excluded_crystals_are_found():
    rng, duplicates = np.random.default_rng(0), DuplicateFilter()
    salt = ase_bulk("NaCl", "rocksalt", 5.64)
    assert duplicates.add(salt) is None
    # Another cell, rattled; elements swapped on equivalent sites of one prototype.
    assert duplicates.add(rattled(salt * (2, 1, 1), 0.03, rng)) == "duplicate"
    assert duplicates.add(ase_bulk("ClNa", "rocksalt", 5.6)) == "duplicate"
    # Another volume, another structure, another composition.
    assert duplicates.add(rescaled(salt, 1.2 * salt.get_volume())) is None
    assert duplicates.add(ase_bulk("NaCl", "cesiumchloride", 3.5)) is None
    assert duplicates.add(ase_bulk("KCl", "rocksalt", 5.64)) is None
    excluding = DuplicateFilter()
    excluding.exclude([(salt, "")])
    assert excluding.add(rescaled(salt, 1.2 * salt.get_volume())) == "excluded"
    assert excluding.add(ase_bulk("NaCl", "cesiumchloride", 3.5)) is None
    labelled = DuplicateFilter()
    labelled.exclude([(rattled(salt, 1.0, rng), "AB_cF8_225_a_b")])
    assert labelled.add(salt, "AB_cF8_225_a_b", "Cl-Na") == "excluded"
    assert labelled.add(salt, "AB_cP2_221_b_a", "Cl-Na") is None


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0.0, 0.1))
def test_strain_is_symmetric_and_zero_along_open_directions(seed, size):
    atoms = Atoms(
        "BN", [[0, 0, 5], [1.25, 0.72, 5]], cell=[[2.5, 0, 0], [-1.25, 2.17, 0], [0, 0, 10]], pbc=[1, 1, 0]
    )
    strained_atoms = strained(atoms, size, np.random.default_rng(seed))
    change = np.linalg.solve(atoms.cell.array, strained_atoms.cell.array)
    assert np.allclose(change, change.T, atol=1e-12)
    assert np.allclose(strained_atoms.cell.array[2], [0, 0, 10])
    assert np.allclose(strained_atoms.get_scaled_positions(), atoms.get_scaled_positions())
    atoms.pbc = True
    bulk = strained(atoms, size, np.random.default_rng(seed))
    assert size < 1e-6 or not np.allclose(bulk.cell.array[2], [0, 0, 10])


def test_bond_ratio_includes_periodic_images():
    assert min_bond_ratio(Atoms("Cu", cell=[1.32 * 2] * 3, pbc=True)) == pytest.approx(1.0)
    assert min_bond_ratio(Atoms("Cu", cell=[1.32, 5, 5], pbc=True)) == pytest.approx(0.5)
    assert min_bond_ratio(Atoms("Cu", cell=[1.32, 5, 5], pbc=False)) == 1.0
    # Across the boundary: 0.1 and 0.9 of 5 A are 1 A apart.
    assert min_bond_ratio(Atoms("H2", [[0.5, 0, 0], [4.5, 0, 0]], cell=[5, 5, 5], pbc=True)) == 1.0
    assert min_bond_ratio(Atoms("Na2", [[0.5, 0, 0], [4.5, 0, 0]], cell=[9, 9, 9], pbc=True)) == 1.0
    assert min_bond_ratio(Atoms("Na2", [[0.5, 0, 0], [4.5, 0, 0]], cell=[5, 9, 9], pbc=True)) < 0.4
