"""Invalid inputs are refused with file and cause, and the others are relaxed."""

import json
import os

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from typer.testing import CliRunner

from repose.cli import app
from repose.io.convert import to_batch
from repose.io.files import read, write
from support.bad_files import BAD, CIF, GOOD, JUNK
from support.tiny import save_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input")
    for name, (text, _) in BAD.items():
        (folder / name).write_text(text)
    for seed, name in enumerate(JUNK):
        (folder / name).write_bytes(np.random.default_rng(seed).bytes(4000))
    write(GOOD, folder / "good.cif", "cif")
    return folder


@pytest.fixture(scope="module")
def lines(folder, tmp_path_factory):
    """Return the JSON lines of a call with all invalid files and a valid one."""
    work = tmp_path_factory.mktemp("output")
    model = save_tiny_model(work / "tiny", elements=range(1, 84))
    names = [str(folder / name) for name in (*BAD, *JUNK, "good.cif", "not_there.cif")]
    arguments = [
        "relax",
        *names,
        str(folder / "*.zzz"),
        "--out",
        str(work / "out"),
        "--model",
        str(model),
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert (work / "out" / "good.cif").is_file()
    return {os.path.basename(line["source"]): line for line in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize("name", BAD)
def test_refused_with_file_and_cause(name, lines):
    line = lines[name]
    assert line["status"] == "refused"
    assert line["output"] is None
    for words in (name, *BAD[name][1]):
        assert words in line["reason"]
    assert "\n" not in line["reason"]


@pytest.mark.parametrize("name", JUNK)
def test_binary_junk(name, lines):
    assert lines[name]["status"] == "refused"
    assert name in lines[name]["reason"]
    assert lines[name]["reason"].isprintable()


def test_the_good_one_is_done(lines):
    assert lines["good.cif"]["status"] == "relaxed"
    assert lines["good.cif"]["formula"] == "Ca4O4"


def test_files_that_are_not_there(lines):
    assert "No such file" in lines["not_there.cif"]["reason"]
    assert "*.zzz" in lines["*.zzz"]["reason"]


def test_occupancy_that_ase_read(tmp_path):
    """ASE stores occupancies in `info`; Atoms with partial occupancies are not ordered."""
    from ase.io import read as ase_read

    (tmp_path / "x.cif").write_text(BAD["partial.cif"][0])
    with pytest.raises(ValueError, match=r"partial occupancy.*O 0.75"):
        to_batch(ase_read(tmp_path / "x.cif"))
    (tmp_path / "x.cif").write_text(CIF)
    assert to_batch(ase_read(tmp_path / "x.cif")).n_atoms == 8


def test_disordered_structure():
    from pymatgen.core import Lattice, Structure

    disordered = Structure(Lattice.cubic(4), ["Na", {"Cl": 0.5, "Br": 0.5}], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(ValueError, match="partial occupancy: site 1"):
        to_batch(disordered)


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (molecule("H2O"), "molecule"),
        (Atoms("Ca", cell=[4, 4, 4]), "not periodic"),
        (Atoms("Ca", cell=[4, 4, 0], pbc=[True, True, False]), "no volume.*across its vacuum"),
        (Atoms("Ca", [[0, np.inf, 0]], cell=[4, 4, 4], pbc=True), r"atom 0 \(Ca\)"),
        (Atoms("Ca", cell=[4, np.nan, 4], pbc=True), "lattice vectors"),
        (Atoms(cell=[4, 4, 4], pbc=True), "no atoms"),
        (Atoms([0], cell=[4, 4, 4], pbc=True), "no known element"),
    ],
)
def test_atoms_that_are_no_crystal(atoms, words):
    with pytest.raises(ValueError, match=words):
        to_batch(atoms)


def test_folder_without_crystals(tmp_path):
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(
        app, ["relax", str(tmp_path / "empty"), "--json", "--model", str(save_tiny_model(tmp_path / "m"))]
    )
    assert result.exit_code == 1
    assert "no crystals" in json.loads(result.stdout)["reason"]


def test_unreadable_file(tmp_path):
    path = tmp_path / "secret.cif"
    path.write_text(CIF)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    (entry,) = read(path)
    assert "Permission denied" in entry.reason
