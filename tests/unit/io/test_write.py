"""Writers: everything is kept or named, and other programs read what was written."""

import json
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled
from ase.io import read as ase_read
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Species, Structure
from pymatgen.electronic_structure.core import Magmom
from pymatgen.io.xyz import XYZ

from repose.io.convert import fixed_coordinates, to_atoms, to_batch
from repose.io.files import FORMATS, write
from repose.io.kinds import is_atoms, to_jsonable
from support.crystals import random_crystal
from support.rich_crystals import SUFFIX, VALUES, entry, equal, rich_atoms, rich_structure

LEFT_BY_POSCAR = {
    "magnetic moments", "charges", "tags", "oxidation states", "site labels", "site property: hubbard",
    "info: material_id", "info: note", "info: nested", "info: 7",
}  # fmt: skip
LEFT = {
    "extxyz": set(),
    "json": set(),
    "poscar": LEFT_BY_POSCAR,
    "cif": LEFT_BY_POSCAR - {"site labels"} | {"constraints"},
}


def info_of(crystal):
    return to_jsonable(crystal.info if is_atoms(crystal) else crystal.properties)


@pytest.mark.parametrize("make", [rich_atoms, rich_structure])
@pytest.mark.parametrize("form", FORMATS)
def test_all_is_kept_or_named(make, form, tmp_path):
    crystal = make()
    path = tmp_path / f"x{SUFFIX[form]}"
    assert set(write(crystal, path, form)) == LEFT[form]
    again = entry(path)
    one, other = to_batch(crystal), to_batch(again)
    assert one.numbers.tolist() == other.numbers.tolist()
    np.testing.assert_allclose(one.positions, other.positions, atol=1e-9)
    np.testing.assert_allclose(one.cells, other.cells, atol=1e-9)
    if form != "cif":
        np.testing.assert_array_equal(fixed_coordinates(crystal), fixed_coordinates(again))
    if form == "extxyz":
        for name, values in rich_atoms().arrays.items():
            np.testing.assert_array_equal(again.arrays[name], values) if name != "positions" else None
    if form == "json":
        assert [str(site.specie) for site in again] == ["Fe2+", "O2-", "Fe", "O2-"]
        assert again.labels == ["Fe1", "O1", "Fe2", "O2"]
        assert again.site_properties == rich_structure().site_properties
    if form in ("extxyz", "json"):
        assert info_of(again) == info_of(rich_structure())


def test_there_and_back_again(tmp_path):
    """extended XYZ to JSON to extended XYZ: the files are the same."""
    write(rich_atoms(), tmp_path / "a.extxyz", "extxyz")
    assert write(entry(tmp_path / "a.extxyz"), tmp_path / "a.json", "json") == []
    assert write(entry(tmp_path / "a.json"), tmp_path / "b.extxyz", "extxyz") == []
    first, second = (ase_read(tmp_path / name) for name in ("a.extxyz", "b.extxyz"))
    assert to_jsonable(first.info) == to_jsonable(second.info)
    for name, values in first.arrays.items():
        np.testing.assert_array_equal(values, second.arrays[name])
    np.testing.assert_array_equal(fixed_coordinates(first), fixed_coordinates(second))


def test_other_programs_read_them(tmp_path):
    for make in (rich_atoms, rich_structure):
        for form in FORMATS:
            path = tmp_path / f"x{SUFFIX[form]}"
            write(make(), path, form)
            if form != "json":
                atoms = ase_read(path, format=None if form != "poscar" else "vasp")
                assert atoms.get_chemical_symbols() == ["Fe", "O", "Fe", "O"]
            if form == "extxyz":
                assert [len(mol) for mol in XYZ.from_file(path).all_molecules] == [4]
            else:
                structure = Structure.from_file(path)
                assert sorted(site.specie.symbol for site in structure) == ["Fe", "Fe", "O", "O"]
    assert sorted(Structure.from_file(tmp_path / "x.cif").labels) == ["Fe1", "Fe2", "O1", "O2"]


def constrained(*constraints, cell=(4, 5, 6)):
    atoms = Atoms("Fe2O2", scaled_positions=np.eye(4)[:, :3] / 2, cell=cell, pbc=True)
    atoms.set_constraint(list(constraints))
    return atoms


FCC = [[0, 2, 2], [2, 0, 2], [2, 2, 0]]
HEXAGONAL = [[3, 0, 0], [-1.5, 2.598, 0], [0, 0, 5]]


@pytest.mark.parametrize(
    ("atoms", "fixed"),
    [
        (constrained(FixAtoms([0, 3])), {0: "abc", 3: "abc"}),
        (constrained(FixAtoms([0]), FixAtoms([0])), {0: "abc"}),
        (constrained(FixAtoms([0, 3]), cell=FCC), {0: "abc", 3: "abc"}),
        (constrained(FixScaled(1, [False, True, False])), {1: "b"}),
        (constrained(FixScaled([1, 2], [True, True, False]), FixAtoms([0])), {0: "abc", 1: "ab", 2: "ab"}),
        (constrained(FixScaled(1, [True] * 3), cell=FCC), {1: "abc"}),
        (constrained(FixScaled(1, [False] * 3), cell=FCC), {}),
        (constrained(FixCartesian(1, [False, False, True])), {1: "c"}),
        (constrained(FixCartesian(1, [False, True, False]), FixScaled(1, [False, False, True])), {1: "bc"}),
        (constrained(FixCartesian([0, 1], [False, False, True]), cell=HEXAGONAL), {0: "c", 1: "c"}),
        (constrained(FixCartesian([0, 1], [False, True, False]), cell=HEXAGONAL), {0: "b", 1: "b"}),
        (constrained(FixScaled([0, 1], [True, True, False]), cell=HEXAGONAL), {0: "ab", 1: "ab"}),
        (constrained(FixScaled([0], [False, False, True]), cell=np.diag([4, 5, 6]) + 1e-4), {0: "c"}),
    ],
)
@pytest.mark.parametrize("form", ["extxyz", "poscar", "json"])
def test_constraints(atoms, fixed, form, tmp_path):
    wanted = np.zeros((4, 3), dtype=bool)
    for k, axes in fixed.items():
        wanted[k] = [axis in axes for axis in "abc"]
    np.testing.assert_array_equal(fixed_coordinates(atoms), wanted)
    path = tmp_path / f"x{SUFFIX[form]}"
    assert write(atoms, path, form) == []
    np.testing.assert_array_equal(fixed_coordinates(entry(path)), wanted)
    if form != "json":
        np.testing.assert_array_equal(
            fixed_coordinates(ase_read(path, format="vasp" if form == "poscar" else None)), wanted
        )


def test_constraints_along_tilted_vectors(tmp_path):
    """ASE knows no such thing in extended XYZ; a column of its own brings them back."""
    atoms = constrained(FixScaled([1], [False, True, False]), FixAtoms([2]), cell=FCC)
    assert write(atoms, tmp_path / "x.extxyz", "extxyz") == ["constraints of single axes"]
    np.testing.assert_array_equal(fixed_coordinates(entry(tmp_path / "x.extxyz")), fixed_coordinates(atoms))
    (constraint,) = ase_read(tmp_path / "x.extxyz").constraints
    assert constraint.index.tolist() == [2]
    # Along x alone, which is along no lattice vector, ASE can and POSCAR cannot.
    atoms = constrained(FixCartesian([1], [True, False, False]), cell=FCC)
    assert write(atoms, tmp_path / "x.extxyz", "extxyz") == []
    assert ase_read(tmp_path / "x.extxyz").constraints[1].mask.tolist() == [True, False, False]
    for form in ("poscar", "json"):
        assert write(atoms, tmp_path / "x", form) == ["constraints: FixCartesian"]


@pytest.mark.parametrize("form", FORMATS)
def test_other_constraints_are_named(form, tmp_path):
    for constraint in (FixedPlane(0, [1, 1, 1]), FixedLine(0, [0, 0, 1])):
        atoms = constrained(constraint, FixAtoms([1]))
        assert f"constraints: {type(constraint).__name__}" in write(atoms, tmp_path / "x", form)


def test_sheets_and_orientations(tmp_path):
    sheet = mx2("MoS2", vacuum=8)
    sheet.pbc = [True, True, False]
    assert write(sheet, tmp_path / "x", "cif") == ["which directions are periodic"]
    assert write(sheet, tmp_path / "x", "poscar") == ["which directions are periodic"]
    assert write(sheet, tmp_path / "x", "extxyz") == []
    assert write(sheet, tmp_path / "x", "json") == []
    assert write(bulk("Al"), tmp_path / "x", "cif") == ["orientation of the cell"]
    assert write(bulk("Al", cubic=True), tmp_path / "x", "cif") == []


def test_results_of_calculators(tmp_path):
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0, forces=np.eye(3)[:2], stress=np.arange(6.0))
    assert write(atoms, tmp_path / "x.extxyz", "extxyz") == []
    results = ase_read(tmp_path / "x.extxyz").calc.results
    assert results["energy"] == -5.0
    np.testing.assert_array_equal(results["forces"], np.eye(3)[:2])
    np.testing.assert_array_equal(results["stress"], np.arange(6.0))
    for form in ("cif", "poscar", "json"):
        assert {"energy", "forces", "stress"} <= set(write(atoms, tmp_path / "x", form))
    structure = Structure(Lattice.cubic(4), ["Cu", "Au"], [[0, 0, 0], [0.5] * 3])
    assert write(structure, tmp_path / "x.extxyz", "extxyz") == []
    structure.calc = atoms.calc
    assert write(structure, tmp_path / "x.extxyz", "extxyz") == []
    assert ase_read(tmp_path / "x.extxyz").get_potential_energy() == -5.0
    for form in ("cif", "poscar", "json"):
        assert {"energy", "forces", "stress"} <= set(write(structure, tmp_path / "x", form))


def test_what_the_relaxation_adds_is_not_missed(tmp_path):
    atoms = bulk("Al", cubic=True)
    atoms.info["repose_uncertainty"] = 0.1
    atoms.set_array("repose_uncertainty", np.ones(4))
    assert write(atoms, tmp_path / "x", "poscar") == []
    write(atoms, tmp_path / "x.extxyz", "extxyz")
    assert ase_read(tmp_path / "x.extxyz").info == {"repose_uncertainty": 0.1}


WORDS = st.one_of(st.text(max_size=3), st.floats(), st.integers(), st.booleans())


def without_nan(value):
    """The value with None for NaN, which JSON does not have."""
    return json.loads(
        json.dumps(to_jsonable(value)), parse_constant=lambda word: None if word == "NaN" else word
    )


@settings(max_examples=60)
@given(
    info=st.dictionaries(st.one_of(st.text(max_size=6), st.integers(), st.just("note")), VALUES, max_size=4),
    column=st.lists(WORDS, min_size=2, max_size=2),
    name=st.text(max_size=5),
    seed=st.integers(0, 100),
)
def test_whatever_crystals_carry(info, column, name, seed, tmp_path_factory):
    """Any info and any column: the files are read by ASE and by us, and what is not dropped is there."""
    (atoms,) = to_atoms(random_crystal(seed, n_atoms=2))
    atoms.info = info
    if name not in ("numbers", "positions"):
        atoms.arrays[name] = np.array(column, dtype=object)
    folder = tmp_path_factory.mktemp("any")
    for form in FORMATS:
        dropped = write(atoms, folder / f"x{SUFFIX[form]}", form)
        assert len(set(dropped)) == len(dropped)
        again = entry(folder / f"x{SUFFIX[form]}")
        assert to_batch(again).numbers.tolist() == atoms.numbers.tolist()
        np.testing.assert_allclose(to_batch(again).cells.det().abs(), atoms.get_volume(), rtol=1e-6)
        if form in ("extxyz", "json"):
            found = info_of(again)
            for key, value in info.items():
                if f"info: {key}" not in dropped and str(key) in found:
                    assert equal(found[str(key)], without_nan(value) if form == "json" else value)
            assert len(found) + sum(d.startswith("info: ") for d in dropped) >= len({*map(str, info)})
        if form == "extxyz":
            theirs = ase_read(folder / "x.extxyz")
            assert to_jsonable(theirs.info).keys() == found.keys()
            np.testing.assert_allclose(theirs.positions, atoms.positions, atol=1e-9)
            assert [len(mol) for mol in XYZ.from_file(folder / "x.extxyz").all_molecules] == [2]
        else:
            assert len(Structure.from_file(folder / f"x{SUFFIX[form]}")) == 2


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (math.nan, None),
        ([1.0, math.nan], [1.0, None]),
        (2**62, 2**62),
        (np.arange(2), [0, 1]),
        ((1, "a"), [1, "a"]),
    ],
)
def test_json_for_every_reader(value, kept, tmp_path):
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.info["x"] = value
    atoms.set_array("y", np.array([1.0, np.nan]))
    assert write(atoms, tmp_path / "x.json", "json") == []
    structure = Structure.from_file(tmp_path / "x.json")
    assert structure.properties == {"x": kept}
    assert structure.site_properties == {"y": [1.0, None]}


@pytest.mark.parametrize("value", [math.inf, [-math.inf], 2**70, {1, 2}, b"x", 1j, object()])
def test_what_json_cannot_hold(value, tmp_path):
    atoms = bulk("Al")
    atoms.info["x"] = value
    assert write(atoms, tmp_path / "x.json", "json") == ["info: x"]
    assert Structure.from_file(tmp_path / "x.json").properties == {}


def test_magnetic_moments_of_pymatgen(tmp_path):
    cell = Lattice.cubic(4.2)
    sites = [[0, 0, 0], [0.5, 0.5, 0.5]]
    for species, moments, expected in (
        (["Fe", "Fe"], [Magmom(2.0), Magmom(-2.0)], [2.0, -2.0]),
        (["Fe", "Fe"], [Magmom([1.0, 0.0, 0.0]), Magmom([0.0, 2.0, 0.0])], [[1, 0, 0], [0, 2, 0]]),
        (["Fe", "Fe"], [Magmom(2.0, saxis=[1, 0, 0]), Magmom([0, 1, 0])], [[2, 0, 0], [0, 1, 0]]),
        ([Species("Fe", 2, spin=5), Species("Fe", 3, spin=-5)], None, [5, -5]),
        (["Fe", "Fe"], [1.5, None], [1.5, 0.0]),
    ):
        properties = {} if moments is None else {"magmom": moments}
        structure = Structure(cell, species, sites, site_properties=properties)
        assert write(structure, tmp_path / "x.extxyz", "extxyz") == []
        np.testing.assert_allclose(ase_read(tmp_path / "x.extxyz").get_initial_magnetic_moments(), expected)
        assert write(structure, tmp_path / "x.json", "json") == []
        again = entry(tmp_path / "x.json")
        assert write(again, tmp_path / "y.extxyz", "extxyz") == []
        np.testing.assert_allclose(ase_read(tmp_path / "y.extxyz").get_initial_magnetic_moments(), expected)
        # Reading it twice changes nothing.
        write(again, tmp_path / "y.json", "json")
        assert json.loads((tmp_path / "x.json").read_text()) == json.loads((tmp_path / "y.json").read_text())
        assert Structure.from_file(tmp_path / "y.json").site_properties == structure.site_properties


def test_total_charge(tmp_path):
    structure = Structure(Lattice.cubic(4), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]], charge=2)
    write(structure, tmp_path / "x.extxyz", "extxyz")
    assert ase_read(tmp_path / "x.extxyz").info == {"charge": 2}
    write(entry(tmp_path / "x.extxyz"), tmp_path / "x.json", "json")
    assert entry(tmp_path / "x.json").charge == 2
