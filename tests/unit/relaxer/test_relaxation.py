"""Relaxation: input paths, uncertainties on structures, repr, tables, dictionaries, types."""

import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2
from ase.constraints import FixScaled
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import IStructure, Lattice, Structure

import repose
from repose.errors import InvalidCrystalError, MissingExtraError
from repose.io.files import write
from repose.relaxer.relaxation import Relaxation
from support.tiny import CALIBRATION, Known, save_random_model

KEPT = (
    "status",
    "reason",
    "volume_change",
    "max_displacement",
    "uncertainty",
    "strain_uncertainty",
    "outside",
    "remarks",
    "source",
    "spacegroup_in",
    "spacegroup_out",
)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    return repose.load(
        save_random_model(tmp_path_factory.mktemp("models") / "calibrated", calibration=CALIBRATION)
    )


@pytest.fixture(scope="module")
def relaxnet(tmp_path_factory):
    return repose.load(save_random_model(tmp_path_factory.mktemp("models") / "relaxnet", "relaxnet"))


@pytest.fixture
def oxide():
    atoms = bulk("CaO", "rocksalt", a=4.8)
    atoms.info["note"] = "mine"
    return atoms


@pytest.fixture
def files(tmp_path, monkeypatch, oxide):
    """A folder of a CIF, an extended XYZ of three frames, a pymatgen JSON and something unreadable."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("one.cif", bulk("MgO", "rocksalt", a=4.2))
    ase.io.write("three.extxyz", [bulk("MgO", "rocksalt", a=a) for a in (4.1, 4.2, 4.3)])
    structure = Structure(Lattice.cubic(4.2), ["Cs+", "Cl-"], [[0, 0, 0], [0.5] * 3])
    structure.to("cscl.json")
    Path("broken.cif").write_text("data_x\n_cell_length_a oops\n")
    Path("deep").mkdir()
    ase.io.write("deep/POSCAR", oxide)
    return tmp_path


def test_paths(files):
    relaxer = Known(1.02 * np.eye(3))
    results = relaxer.relax(
        [Path("three.extxyz"), bulk("Cu", "fcc", a=3.6), "one.cif", "broken.cif", "no.cif"]
    )
    assert [r.status for r in results] == ["relaxed"] * 5 + ["refused"] * 2
    assert [r.source for r in results] == [
        "three.extxyz[0]", "three.extxyz[1]", "three.extxyz[2]", None, "one.cif", "broken.cif", "no.cif",
    ]  # fmt: skip
    assert [r.structure.get_chemical_formula() for r in results[:5]] == ["MgO"] * 3 + ["Cu", "MgO"]
    assert "cannot be opened" in results[-1].reason
    for path in ("three.extxyz", Path("three.extxyz")):
        for given, own in zip(ase.io.read(path, ":"), relaxer.relax(path), strict=True):
            np.testing.assert_allclose(own.structure.cell, 1.02 * given.cell.array, atol=1e-10)
    assert [r.source for r in relaxer.relax("deep")] == ["deep/POSCAR"]
    assert sorted(r.source for r in relaxer.relax("*.cif")) == ["broken.cif", "one.cif"]
    assert isinstance(relaxer.relax("cscl.json")[0].structure, Structure)


def test_relax_returns_the_type_given(files, oxide):
    model = Known(1.02 * np.eye(3))
    structure = Structure(Lattice.cubic(4.2), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
    fixed = IStructure.from_sites(structure)
    assert type(repose.relax(oxide, model=model)) is Atoms
    assert type(repose.relax(structure, model=model)) is Structure
    assert type(repose.relax(fixed, model=model)) is IStructure
    assert [type(s) for s in repose.relax((oxide, structure), model=model)] == [Atoms, Structure]
    assert [type(s) for s in repose.relax(iter([oxide]), model=model)] == [Atoms]
    assert repose.relax([], model=model) == []
    for path in ("one.cif", Path("one.cif"), "cscl.json", "deep"):
        assert type(repose.relax(path, model=model)) is Atoms
    assert len(repose.relax("three.extxyz", model=model)) == 3
    assert len(repose.relax(["three.extxyz"], model=model)) == 3
    both = repose.relax(["one.cif", "cscl.json"], model=model)
    assert [a.get_chemical_formula() for a in both] == ["MgO", "ClCs"]
    with pytest.raises(InvalidCrystalError, match=r"'broken.cif' cannot be relaxed"):
        repose.relax(["one.cif", "broken.cif"], model=model)
    with pytest.raises(InvalidCrystalError, match=r"'no.cif' cannot be relaxed: the file"):
        repose.relax("no.cif", model=model)
    with pytest.raises(InvalidCrystalError, match=r"the crystal cannot be relaxed: expected .* got int"):
        repose.relax(3, model=model)
    sheet = mx2("MoS2", a=3.2, vacuum=9)
    sheet.pbc = True
    with pytest.warns(UserWarning, match="the crystal: 18.0 A without atoms along c"):
        repose.relax(sheet, model=model)


def test_structures_carry_their_bounds(calibrated, oxide):
    strange = bulk("MgO", "rocksalt", a=4.2)
    structure = Structure(Lattice.cubic(4.8), ["Ca", "O"], [[0, 0, 0], [0.5] * 3], properties={"id": 3})
    for given in (oxide, strange, structure, IStructure.from_sites(structure)):
        (result,) = calibrated.relax([given])
        relaxed = result.structure
        assert result.uncertainty > 0
        if isinstance(given, Atoms):
            noted, before = relaxed.info, given.info
            atoms = relaxed.arrays["repose_atom_uncertainty"]
            assert "repose_atom_uncertainty" not in given.arrays
        else:
            noted, before = relaxed.properties, given.properties
            atoms = relaxed.site_properties["repose_atom_uncertainty"]
            assert "repose_atom_uncertainty" not in given.site_properties
        assert noted["repose_uncertainty"] == result.uncertainty
        assert noted.get("repose_outside") == result.outside
        assert ("repose_outside" in noted) == (given is strange)
        np.testing.assert_array_equal(atoms, result.atom_uncertainty)
        assert not any(name.startswith("repose") for name in before)
        # Relaxed again without bounds, it carries none.
        (again,) = Known().relax([relaxed])
        kept = again.structure.info if isinstance(given, Atoms) else again.structure.properties
        assert kept == before
        own = again.structure.arrays if isinstance(given, Atoms) else again.structure.site_properties
        assert "repose_atom_uncertainty" not in own
        assert relaxed.info if isinstance(given, Atoms) else relaxed.properties  # the input keeps its own


def test_extended_xyz_keeps_bounds(calibrated, oxide, tmp_path):
    ase.io.write(tmp_path / "a.extxyz", calibrated.relax([oxide])[0].structure)
    again = ase.io.read(tmp_path / "a.extxyz")
    assert again.info["repose_uncertainty"] > 0
    assert again.arrays["repose_atom_uncertainty"].shape == (2,)


@pytest.mark.parametrize("name", ["POSCAR", "a.cif", "a.json", "a.extxyz"])
def test_bounds_are_not_reported_as_dropped(calibrated, oxide, tmp_path, name):
    del oxide.info["note"]
    structure = Structure(Lattice.cubic(4.8), ["Ca", "O"], [[0, 0, 0], [0.5] * 3])
    for result in calibrated.relax([oxide, structure]):
        form = "poscar" if name == "POSCAR" else name[2:]
        dropped = write(result.structure, tmp_path / name, form)
        assert set(dropped) <= {"orientation of the cell"}


def results_of_all_kinds(calibrated):
    sheet = mx2("MoS2", a=3.2, vacuum=9)
    sheet.pbc = True
    odd = Known(np.nan * np.eye(3)).relax(bulk("CaO", "rocksalt", a=4.8))
    return [
        *calibrated.relax([bulk("CaO", "rocksalt", a=4.8), bulk("MgO", "rocksalt", a=4.2), 3, "no\nfile"]),
        *Known(1.6 * np.eye(3)).relax([bulk("CaO", "rocksalt", a=4.8), sheet]),
        *odd,
        replace(odd[0], reason="x <b> & y\n" * 500, outside="far\n" * 300, remarks=("one\n", "two") * 300),
    ]


def test_short_text(calibrated):
    for result in results_of_all_kinds(calibrated):
        lines = repr(result).splitlines()
        assert len(lines) <= 3
        assert max(map(len, lines)) <= 205
        assert result.status in lines[0]
        page = result._repr_html_()
        assert page.startswith("<table>") and page.endswith("</table>")  # noqa: PT018
        assert page.count("<tr>") == page.count("</tr>") <= 9
        assert "<b>" not in page
    first = results_of_all_kinds(calibrated)[0]
    assert repr(first).startswith("Relaxation(relaxed: CaO, 2 atoms, volume ")
    assert f"{first.uncertainty:.3f} A" in repr(first)


def test_dictionaries(calibrated, relaxnet, oxide):
    oxide.set_constraint(FixScaled(0, [True, False, False]))
    oxide.info |= {3: np.arange(2), "odd": object(), "nested": {1: {"a": np.float64(2)}}}
    structure = Structure(
        Lattice.cubic(4.8), ["Ca2+", "O2-"], [[0, 0, 0], [0.5] * 3], site_properties={"mark": [object(), 1]}
    )
    many = [*calibrated.relax([oxide, structure, 3, "nowhere"]), *relaxnet.relax([oxide])]
    for result in [*many, *results_of_all_kinds(calibrated)]:
        text = json.dumps(result.as_dict())
        values = json.loads(text)
        assert json.dumps(result, cls=MontyEncoder) == text
        assert (values["@module"], values["@class"]) == ("repose.relaxer.relaxation", "Relaxation")
        for again in (Relaxation.from_dict(values), MontyDecoder().process_decoded(values)):
            assert type(again) is Relaxation
            for name in KEPT:
                assert getattr(again, name) == getattr(result, name), name
            assert len(again.path or ()) == len(result.path or ())
            for own, other in zip(again.path or (), result.path or (), strict=True):
                np.testing.assert_array_equal(own.positions, other.positions)
                np.testing.assert_array_equal(own.forces, other.forces)
                assert own.energy == other.energy
            if result.atom_uncertainty is not None:
                np.testing.assert_array_equal(again.atom_uncertainty, result.atom_uncertainty)
                np.testing.assert_array_equal(again.bond_uncertainty.length, result.bond_uncertainty.length)
            if result.n_atoms:
                assert again.formula == result.formula
                assert type(again.structure) is type(result.structure)
    first = Relaxation.from_dict(json.loads(json.dumps(many[0].as_dict()))).structure
    np.testing.assert_array_equal(first.positions, many[0].structure.positions)
    assert first.constraints[0].mask.tolist() == [True, False, False]


def test_results_of_a_calculator_are_restored(calibrated, oxide):
    (result,) = calibrated.relax([oxide])
    forces, stress = np.arange(3.0 * len(oxide)).reshape(-1, 3), np.diag([1.0, 2.0, 3.0])
    for known in (stress, None):
        done = replace(result, energy=-3.5, forces=forces, stress=known)
        again = Relaxation.from_dict(json.loads(json.dumps(done.as_dict()))).structure
        assert again.get_potential_energy() == -3.5
        np.testing.assert_array_equal(again.get_forces(apply_constraint=False), forces)
        assert ("stress" in again.calc.results) == (known is not None)


def test_table(calibrated):
    results = results_of_all_kinds(calibrated)
    table = repose.to_dataframe(results)
    assert len(table) == len(results)
    assert table["status"].tolist() == [r.status for r in results]
    assert table["formula"].tolist()[:3] == ["CaO", "MgO", ""]
    assert np.isnan(table["volume_change"].tolist()[2])  # there is no prediction
    assert table["uncertainty"].dtype == float
    assert table["spacegroup_in"].tolist()[0] == 225
    assert "lattice vector c is kept" in table["remarks"].tolist()[5]
    empty = repose.to_dataframe([])
    assert list(empty.columns) == list(table.columns)
    assert len(empty) == 0


def test_table_without_pandas(calibrated, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"repose-crystal\[notebook\]"):
        repose.to_dataframe([])


def test_progress(calibrated, capfd):
    given = [bulk("CaO", "rocksalt", a=a) for a in (4.7, 4.8, 4.9)]
    seen = []
    calibrated.relax([*given, 3], progress=seen.append)
    assert seen[-1] == 4
    assert capfd.readouterr() == ("", "")
    for progress in (None, False):
        calibrated.relax(given, progress=progress)
        assert capfd.readouterr() == ("", "")
    assert len(repose.relax(given, model=calibrated, progress=True)) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert "3/3" in err
