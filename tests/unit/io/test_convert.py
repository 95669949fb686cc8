"""ASE, pymatgen and files: nothing is lost, reordered, wrapped or mirrored on the way."""

import gzip
import io
import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, mx2
from ase.constraints import FixAtoms
from ase.io import write as ase_write
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from repose.crystal.batch import CrystalBatch
from repose.errors import ConfigError
from repose.io.cif import write_cif
from repose.io.convert import formula, to_atoms, to_batch
from repose.io.files import find, kind_of, read, write
from support.crystals import random_crystal


def distances(atoms):
    """All shortest distances between atoms, which see neither wrapping nor orientation."""
    return atoms.get_all_distances(mic=True)


def entry(path):
    (only,) = read(path)
    assert only.reason is None, only.reason
    return only.crystal


@given(seed=st.integers(0, 10_000))
def test_batch_to_ase_and_back(seed):
    batch = random_crystal(seed)
    (atoms,) = to_atoms(batch)
    again = to_batch(atoms)
    for name in ("numbers", "positions", "cells", "pbc"):
        assert torch.equal(getattr(batch, name), getattr(again, name))


@given(seed=st.integers(0, 10_000))
def test_pymatgen_and_ase_agree(seed):
    (atoms,) = to_atoms(random_crystal(seed))
    one, other = to_batch(atoms), to_batch(AseAtomsAdaptor.get_structure(atoms))
    assert torch.equal(one.numbers, other.numbers)
    assert torch.allclose(one.cells, other.cells, atol=1e-10)
    assert torch.allclose(one.positions, other.positions, atol=1e-10)


def test_batches_of_several_split_into_atoms():
    batch = CrystalBatch.collate([random_crystal(1), random_crystal(2)])
    assert [len(atoms) for atoms in to_atoms(batch)] == batch.counts.tolist()


def test_input_is_not_shared():
    atoms = bulk("MgO", "rocksalt", a=4.2)
    batch = to_batch(atoms)
    batch.positions.add_(1)
    batch.cells.mul_(2)
    assert atoms == bulk("MgO", "rocksalt", a=4.2)


def test_oxidation_states_and_deuterium():
    structure = Structure(Lattice.cubic(4), ["Fe3+", "D"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert to_batch(structure).numbers.tolist() == [26, 1]


def test_initial_charges_and_site_charges():
    atoms = bulk("MgO", "rocksalt", a=4.2)
    assert to_batch(atoms).charges is None
    atoms.set_initial_charges([1.5, -1.5])
    assert to_batch(atoms).charges.tolist() == [1.5, -1.5]
    structure = Structure(Lattice.cubic(4), ["Mg"], [[0, 0, 0]], site_properties={"charge": [2.0]})
    assert to_batch(structure).charges.tolist() == [2.0]
    atoms.set_initial_charges([np.nan, 0.0])
    assert to_batch(atoms).charges is None


def test_formula():
    assert formula([8, 38, 22, 8, 8]) == "SrTiO3"


@pytest.mark.parametrize("form", ["cif", "poscar", "extxyz", "json"])
@pytest.mark.parametrize("zipped", [False, True])
def test_round_trip(form, zipped, tmp_path):
    (atoms,) = to_atoms(random_crystal(3))
    atoms = atoms[[0, 2, 1, *range(3, len(atoms))]]  # elements not in blocks
    suffix = {"cif": ".cif", "poscar": ".vasp", "extxyz": ".extxyz", "json": ".json"}[form]
    path = tmp_path / "deep" / f"x{suffix}"
    write(atoms, path, form)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file left
    if zipped:
        path = path.with_name(path.name + ".gz")
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    again = to_batch(entry(path))
    assert again.numbers.tolist() == atoms.numbers.tolist()
    (back,) = to_atoms(again)
    np.testing.assert_allclose(distances(back), distances(atoms), atol=1e-6)
    assert back.get_volume() == pytest.approx(atoms.get_volume())


def test_vacuum_and_constraints_survive(tmp_path):
    sheet = mx2("MoS2", vacuum=8)
    sheet.pbc = [True, True, False]
    sheet.set_constraint(FixAtoms([0]))
    for form, name in (("extxyz", "a.extxyz"), ("json", "a.json")):
        write(sheet, tmp_path / name, form)
        assert to_batch(entry(tmp_path / name)).pbc.tolist() == [[True, True, False]]
    write(sheet, tmp_path / "POSCAR", "poscar")
    assert entry(tmp_path / "POSCAR").constraints[0].index.tolist() == [0]
    structure = entry(tmp_path / "a.json")
    assert structure.site_properties["selective_dynamics"] == [[False] * 3, [True] * 3, [True] * 3]
    write(structure, tmp_path / "CONTCAR", "poscar")
    assert "Selective" in (tmp_path / "CONTCAR").read_text()


def test_files_of_many_crystals(tmp_path):
    crystals = [bulk("MgO", "rocksalt", a=a) for a in (4.1, 4.2, 4.3)]
    ase_write(tmp_path / "a.extxyz", crystals)
    ase_write(tmp_path / "a.traj", crystals)
    ase_write(tmp_path / "a.db", crystals)
    ase_write(tmp_path / "a.cif", crystals)
    structures = [AseAtomsAdaptor.get_structure(atoms).as_dict() for atoms in crystals]
    (tmp_path / "a.json").write_text(json.dumps(structures))
    for name in ("a.extxyz", "a.traj", "a.db", "a.cif", "a.json"):
        entries = list(read(tmp_path / name))
        assert [e.index for e in entries] == [0, 1, 2]
        assert all(e.many for e in entries)
        volumes = [float(np.linalg.det(to_batch(e.crystal).cells[0])) for e in entries]
        assert volumes == pytest.approx([atoms.get_volume() for atoms in crystals])


def test_good_crystals_of_a_broken_file_are_read(tmp_path):
    cif = "".join(write_cif(a.numbers, a.positions, a.cell.array, "x") for a in (bulk("Al"), bulk("Cu")))
    (tmp_path / "a.cif").write_text(
        cif.replace("Al1 Al 0.0000000000 0.0000000000 0.0000000000 1", "Al1 Al 0 0 0 0.5")
    )
    first, second = read(tmp_path / "a.cif")
    assert "partial occupancy: site 'Al1'" in first.reason
    assert second.crystal.get_chemical_symbols() == ["Cu"]


def test_json_cannot_make_us_import_things(tmp_path, monkeypatch):
    structure = AseAtomsAdaptor.get_structure(bulk("Al")).as_dict()
    structure["sites"][0]["properties"] = {"x": {"@module": "evil_module", "@class": "Evil"}}
    (tmp_path / "a.json").write_text(json.dumps(structure))
    imported = []
    original = __import__

    def watch(name, *args, **kwargs):
        imported.append(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr("builtins.__import__", watch)
    (only,) = read(tmp_path / "a.json")
    assert "evil_module" not in imported
    assert only.crystal is not None


def test_standard_input(monkeypatch):
    stream = io.StringIO()
    ase_write(stream, [bulk("Al"), bulk("Cu")], format="extxyz")
    monkeypatch.setattr("sys.stdin", io.StringIO(stream.getvalue()))
    assert [e.crystal.get_chemical_formula() for e in read("-")] == ["Al", "Cu"]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.cif", "A.CIF", "b.c.cif.gz"], "cif"),
        (["POSCAR", "POSCAR_x.gz", "CONTCAR", "b.vasp"], "poscar"),
        (["c.xyz", "c.extxyz.gz"], "extxyz"),
        (["d.json.gz"], "json"),
        (["e.traj"], "traj"),
        (["e.traj.gz", "notes.txt", "cif"], None),
    ],
)
def test_kinds_by_name(names, kind):
    assert {kind_of(name) for name in names} == {kind}


def test_find(tmp_path):
    for name in ("b/POSCAR", "a/POSCAR", "a/notes.txt", ".hidden/x.cif", "relaxed/y.cif", "z.cif"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x")
    names = [name for _, name in find(str(tmp_path), skip=tmp_path / "relaxed")]
    assert names == ["z.cif", "a/POSCAR", "b/POSCAR"]
    assert find(str(tmp_path / "*" / "POSCAR")) == [(str(tmp_path / d / "POSCAR"), "POSCAR") for d in "ab"]
    assert find(str(tmp_path / "*.xyz")) == []
    # A name that only looks like a pattern is a file.
    (tmp_path / "a[1].cif").write_text("x")
    assert find(str(tmp_path / "a[1].cif")) == [(str(tmp_path / "a[1].cif"), "a[1].cif")]


def test_writing_replaces_or_leaves_alone(tmp_path):
    path = tmp_path / "a.cif"
    path.write_text("old")
    with pytest.raises(ConfigError, match="format must be one of"):
        write(bulk("Al"), path, "xsf")
    assert path.read_text() == "old"
    write(bulk("Al"), path, "cif")
    assert len(entry(path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.cif"]
    assert isinstance(entry(path), Atoms)
