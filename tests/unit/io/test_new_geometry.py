"""A crystal in another geometry: class, properties and constraints stay, results of the old geometry go."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import (
    FixAtoms,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixScaled,
    FixSymmetry,
)
from pymatgen.core import DummySpecies, IStructure, Lattice, Molecule, Species, Structure
from pymatgen.core.interface import GrainBoundary, Interface
from pymatgen.core.surface import SlabGenerator
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from pymatgen.symmetry.structure import SymmetrizedStructure

from repose.errors import InvalidCrystalError
from repose.io.convert import fixed_coordinates, stale_labels, to_batch, with_geometry


class Tagged(Structure):
    """A user's class whose constructor takes something else."""

    def __init__(self, author, structure):
        super().__init__(structure.lattice, structure.species_and_occu, structure.frac_coords)
        self.author = author
        self.first = self[0]


def nacl():
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def grain_boundary():
    base = nacl()
    return GrainBoundary(
        base.lattice, base.species, base.frac_coords, (0, 0, 1), 36.87, (1, 2, 0), (1, 2, 0), base, 2.0,
        (0.1, 0.2), {"grain_label": ["top"] * 4 + ["bottom"] * 4}, base,
    )  # fmt: skip


def interface():
    base = nacl()
    labels = {"interface_label": ["film"] * 4 + ["substrate"] * 4}
    return Interface(base.lattice, base.species, base.frac_coords, labels, gap=2.5, vacuum_over_film=10)


def slab():
    return SlabGenerator(nacl(), (1, 1, 0), 8, 12, primitive=False).get_slab()


def symmetrized():
    return SpacegroupAnalyzer(nacl()).get_symmetrized_structure()


MAKERS = [
    nacl, lambda: IStructure.from_sites(nacl()), slab, grain_boundary, interface, symmetrized,
    lambda: Tagged("me", nacl()),
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
def test_every_class_of_structure(make):
    old = make()
    before = old.copy() if not isinstance(old, Tagged) else Tagged("me", old)
    batch = to_batch(old)
    cell = 1.02 * batch.cells[0].numpy()
    positions = 1.02 * batch.positions.numpy()
    new = with_geometry(old, positions, cell)
    assert type(new) is type(old)
    np.testing.assert_allclose(new.cart_coords, positions, atol=1e-12)
    np.testing.assert_allclose(new.lattice.matrix, cell, atol=1e-12)
    assert [site.lattice for site in new] == [new.lattice] * len(new)
    assert [site.species for site in new] == [site.species for site in old]
    assert new.site_properties == old.site_properties
    # The old one is untouched, and shares nothing that moves.
    assert old == before
    np.testing.assert_array_equal(to_batch(old).positions, batch.positions)
    new.translate_sites([0], [0.1, 0, 0]) if isinstance(new, Structure) else None
    np.testing.assert_array_equal(to_batch(old).positions, batch.positions)


def test_attributes_of_classes():
    for old, names in (
        (slab(), ["miller_index", "oriented_unit_cell", "shift", "reconstruction"]),
        (grain_boundary(), ["rotation_axis", "gb_plane", "init_cell", "vacuum_thickness", "ab_shift"]),
        (interface(), ["gap", "vacuum_over_film", "film_indices"]),
        (Tagged("me", nacl()), ["author"]),
    ):
        new = with_geometry(old, old.cart_coords, old.lattice.matrix)
        for name in names:
            assert getattr(new, name) == getattr(old, name)
    new = with_geometry(Tagged("me", nacl()), nacl().cart_coords + 0.5, nacl().lattice.matrix)
    assert new.first is new[0]
    surface = slab()
    surface.energy = -3.0
    assert stale_labels(surface) == ["energy"]
    assert with_geometry(surface, surface.cart_coords, surface.lattice.matrix).energy is None
    assert surface.energy == -3.0


def test_symmetrized_structures_stay_true():
    old = symmetrized()
    new = with_geometry(old, 1.1 * old.cart_coords, 1.1 * old.lattice.matrix)
    assert isinstance(new, SymmetrizedStructure)
    assert new.equivalent_indices == old.equivalent_indices
    for sites, indices in zip(new.equivalent_sites, new.equivalent_indices, strict=True):
        assert all(site is new[k] for site, k in zip(sites, indices, strict=True))
    assert new.find_equivalent_sites(new[0]) == new.equivalent_sites[0]
    # Where the symmetry is lost, so are its data.
    moved = old.cart_coords.copy()
    moved[0, 0] += 0.3
    broken = with_geometry(old, moved, old.lattice.matrix)
    assert type(broken) is Structure
    np.testing.assert_allclose(broken.cart_coords, moved)
    assert broken.site_properties == old.site_properties


def test_labels_charge_and_properties():
    old = Structure(
        Lattice.cubic(4, pbc=(True, True, False)),
        [Species("Fe", 3, spin=5), "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        charge=1,
        labels=["A", "B"],
        site_properties={"magmom": [5, 0], "forces": [[0, 0, 1], [0, 0, 0]], "velocities": [[0, 0, 1]] * 2},
        properties={"id": "x", "energy": -3.0, "energy_cutoff": 520, "nested": {"a": [1]}},
    )
    assert stale_labels(old) == ["energy", "forces", "velocities"]
    new = with_geometry(old, old.cart_coords, old.lattice.matrix)
    assert (new.labels, new._charge, new.lattice.pbc) == (["A", "B"], 1, (True, True, False))
    assert new.site_properties == {"magmom": [5, 0]}
    assert new.properties == {"id": "x", "energy_cutoff": 520, "nested": {"a": [1]}}
    assert [site.specie for site in new] == [site.specie for site in old]
    new.properties["nested"]["a"].append(2)
    assert old.properties["nested"] == {"a": [1]}
    assert old.properties["energy"] == -3.0


STALE = [
    "energy", "Energy", "free_energy", "REF_energy", "ref_forces", "dft_energy", "dft-energy", "DFT_forces",
    "mace_energy", "mace_forces", "MACE_stress", "virial", "virials", "dft_virial", "stress", "stresses",
    "energies", "energy_per_atom", "formation_energy", "energy_above_hull", "e_above_hull", "total_energy",
    "potentialEnergy", "TotEnergy", "forces", "force", "vasp_force", "dipole", "dft_dipole", "velocities",
    "momenta", "final_magmom", "REF_magmoms", "dft_charges", "fmax", "hessian", "e.total.energy",
    "energy:ref",
]  # fmt: skip
KEPT = [
    "id", "material_id", "energy_cutoff", "cutoff_energy", "forces_weight", "config_energy_weight",
    "energy_key", "stress_weight", "force_field", "force_constant", "initial_magmoms", "initial_charges",
    "magmom", "charge", "tags", "oxi_states", "labels", "source", "config_type", "enforced", "energetic",
    "distress", "hubbard", "external_stress", "energy_units", "step", "spacegroup", "note",
]  # fmt: skip


@pytest.mark.parametrize("name", STALE)
def test_results_by_any_name_go(name):
    atoms = bulk("CaO", "rocksalt", a=4.8)
    atoms.info[name] = -6.4
    atoms.arrays[name] = np.zeros((2, 3))
    assert stale_labels(atoms) == [name]
    new = with_geometry(atoms, atoms.positions, atoms.cell.array)
    assert new.info == {}
    assert new.arrays.keys() == {"numbers", "positions"}
    assert name in atoms.info
    structure = Structure(
        Lattice.cubic(4), ["Fe"], [[0, 0, 0]], site_properties={name: [1]}, properties={name: 1}
    )
    assert stale_labels(structure) == [name]
    new = with_geometry(structure, structure.cart_coords, structure.lattice.matrix)
    assert (new.properties, new.site_properties) == ({}, {})


@pytest.mark.parametrize("name", KEPT)
def test_everything_else_stays(name):
    atoms = bulk("CaO", "rocksalt", a=4.8)
    atoms.info[name] = 1.0
    atoms.arrays[name] = np.ones(2)
    assert stale_labels(atoms) == []
    new = with_geometry(atoms, atoms.positions, atoms.cell.array)
    assert new.info == {name: 1.0}
    assert new.arrays[name].tolist() == [1, 1]


def test_logical_values_and_strange_keys_stay():
    atoms = bulk("Al")
    atoms.info = {"has_forces": True, "energy_ok": np.bool_(False), 3: "energy", ("energy",): 1}
    assert stale_labels(atoms) == []
    assert with_geometry(atoms, atoms.positions, atoms.cell.array).info == atoms.info


class Derived(Structure):
    """A class whose objects are copied with their attributes."""


def test_results_of_calculators_go():
    atoms = bulk("Al")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=np.zeros((1, 3)), magmoms=[1.0])
    assert stale_labels(atoms) == ["energy", "forces", "magmoms"]
    assert with_geometry(atoms, atoms.positions, atoms.cell.array).calc is None
    assert atoms.calc is not None
    structure = Derived(Lattice.cubic(4), ["Cu"], [[0, 0, 0]])
    structure.calc = atoms.calc
    assert stale_labels(structure) == ["energy", "forces", "magmoms"]
    assert not hasattr(with_geometry(structure, np.zeros((1, 3)), 4.1 * np.eye(3)), "calc")
    assert structure.calc is atoms.calc
    atoms.calc = EMT()
    assert stale_labels(atoms) == []


@pytest.mark.parametrize(
    "occupancy",
    [1.0, 0.5, True, "full", "0.5 0.5", ["a"], {}, {"0": 1.0}, {"0": "full"}, {"0": {"Na": "all"}},
     {0: {"Na": 1.0}}, None, np.ones(3)],
)  # fmt: skip
def test_what_is_called_occupancy(occupancy):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info["occupancy"] = occupancy
    assert to_batch(atoms).n_atoms == 2


@pytest.mark.parametrize("shares", [{"Na": 0.5}, {"Na": 0.5, "K": 0.5}, {"Na": 1.0, "K": 0.0}])
def test_partial_occupancy_of_ase(shares):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info["occupancy"] = {"0": shares, "1": {"Cl": 1.0}}
    with pytest.raises(InvalidCrystalError, match="partial occupancy: sites of kind 0"):
        to_batch(atoms)


def test_what_is_no_crystal():
    with pytest.raises(InvalidCrystalError, match=r"got Molecule.*lattice"):
        to_batch(Molecule(["H"], [[0, 0, 0]]))
    with pytest.raises(InvalidCrystalError, match="atom 0 is of no known element"):
        to_batch(Structure(Lattice.cubic(4), [DummySpecies("Xa")], [[0, 0, 0]]))


CUBE = [[4, 0, 0], [0, 5, 0], [0, 0, 6]]
TILTED = [[4, 0, 0], [0, 5, 0], [1, 0, 6]]
HEXAGONAL = [[3, 0, 0], [-1.5, 2.598, 0], [0, 0, 5]]
FCC = [[0, 2, 2], [2, 0, 2], [2, 2, 0]]
TURNED = [[0, 0, 4], [5, 0, 0], [0, 6, 0]]


@pytest.mark.parametrize(
    ("cell", "axes", "fixed"),
    [
        (CUBE, "", ""), (CUBE, "x", "a"), (CUBE, "z", "c"), (CUBE, "xy", "ab"), (CUBE, "xyz", "abc"),
        (TURNED, "z", "a"), (TURNED, "xy", "bc"), (HEXAGONAL, "z", "c"), (HEXAGONAL, "xy", "ab"),
        (HEXAGONAL, "y", "b"), (HEXAGONAL, "xz", None), (HEXAGONAL, "x", None), (TILTED, "z", "c"),
        (TILTED, "y", "b"), (TILTED, "x", None), (TILTED, "xy", None), (FCC, "x", None), (FCC, "xyz", "abc"),
        (FCC, "", ""),
    ],
)  # fmt: skip
def test_constraints_along_x_y_and_z(cell, axes, fixed):
    """Exactly what leaves the atoms the same freedom, and nothing else."""
    atoms = Atoms("Fe2", scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]], cell=cell, pbc=True)
    constraint = FixCartesian([1], [axis in axes for axis in "xyz"])
    atoms.set_constraint(constraint)
    if fixed is None:
        with pytest.raises(InvalidCrystalError, match=f"FixCartesian along {axes} of atom 1"):
            fixed_coordinates(atoms)
        return
    found = fixed_coordinates(atoms)
    assert found.tolist() == [[False] * 3, [axis in fixed for axis in "abc"]]
    # As ASE has it: a step that ASE allows leaves these fractional coordinates as they are, and only these.
    new = atoms.positions + np.array([0.11, 0.23, 0.37])
    before = atoms.get_scaled_positions(wrap=False)
    constraint.adjust_positions(atoms, new)
    moved = np.abs(new @ np.linalg.inv(atoms.cell.array) - before) > 1e-9
    np.testing.assert_array_equal(moved[1], ~found[1])


@pytest.mark.parametrize(
    ("constraints", "fixed"),
    [
        ([FixAtoms([0]), FixAtoms([0]), FixAtoms(mask=[True, False])], [[1, 1, 1], [0, 0, 0]]),
        ([FixAtoms([])], [[0, 0, 0], [0, 0, 0]]),
        ([FixAtoms([-1])], [[0, 0, 0], [1, 1, 1]]),
        ([FixScaled(0, [1, 0, 0]), FixScaled([0, 1], [0, 1, 0])], [[1, 1, 0], [0, 1, 0]]),
        ([FixScaled(0, [0, 0, 0])], [[0, 0, 0], [0, 0, 0]]),
        ([FixCartesian(0, [1, 0, 0]), FixCartesian(0, [0, 1, 0])], [[1, 1, 0], [0, 0, 0]]),
        ([FixCartesian(0, [1, 0, 0]), FixScaled(0, [0, 0, 1])], [[1, 0, 1], [0, 0, 0]]),
    ],
)
def test_constraints_add_up(constraints, fixed):
    atoms = Atoms("Fe2", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=CUBE, pbc=True)
    atoms.set_constraint(constraints)
    assert fixed_coordinates(atoms).astype(int).tolist() == fixed


def test_constraints_that_cannot_be_kept():
    atoms = bulk("CaO", "rocksalt", a=4.8, cubic=True)
    for constraint in (
        FixedPlane(0, [0, 0, 1]),
        FixedLine(0, [0, 0, 1]),
        FixCom(),
        FixInternals(bonds=[[2.0, [0, 1]]]),
    ):
        atoms.set_constraint([FixAtoms([1]), constraint])
        with pytest.raises(InvalidCrystalError, match=type(constraint).__name__):
            fixed_coordinates(atoms)
    atoms.set_constraint(FixSymmetry(atoms))
    assert not fixed_coordinates(atoms).any()


@pytest.mark.parametrize(
    ("flags", "fixed"),
    [
        ([[True, True, False], [True] * 3], [[0, 0, 1], [0, 0, 0]]),
        (np.array([[True, True, False], [True] * 3]), [[0, 0, 1], [0, 0, 0]]),
        ([["T", "T", "F"], None], [[0, 0, 1], [0, 0, 0]]),
        ([[1, 1, 0], (0, 0, 0)], [[0, 0, 1], [1, 1, 1]]),
    ],
)
def test_selective_dynamics_of_pymatgen(flags, fixed):
    structure = Structure(Lattice.cubic(4), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structure.add_site_property("selective_dynamics", flags)
    assert fixed_coordinates(structure).astype(int).tolist() == fixed


@pytest.mark.parametrize("flags", [["yes", True, True], [True], [[True] * 3] * 2, 5, [2, 0, 0]])
def test_selective_dynamics_that_are_none(flags):
    structure = Structure(
        Lattice.cubic(4), ["Fe"], [[0, 0, 0]], site_properties={"selective_dynamics": [flags]}
    )
    with pytest.raises(InvalidCrystalError, match=r"selective_dynamics.*three"):
        fixed_coordinates(structure)
