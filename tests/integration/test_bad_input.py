"""What users give that is no crystal: refused with the file and the cause, and the rest is done."""

import json
import os

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write as ase_write
from typer.testing import CliRunner

from repose.cli import app
from repose.io.cif import write_cif
from repose.io.convert import to_batch
from repose.io.files import read, write
from support.tiny import save_tiny_model

GOOD = bulk("CaO", "rocksalt", a=4.8, cubic=True)
CIF = write_cif(GOOD.numbers, GOOD.positions, GOOD.cell.array, "CaO")
NO_VOLUME = "CaO\n1.0\n1 0 0\n0 1 0\n1 1 0\nCa\n1\nDirect\n0 0 0\n"
NOT_A_NUMBER = CIF.replace("Ca2 Ca 0.0000000000", "Ca2 Ca nan")
LINE = CIF[CIF.index("O4 ") :]  # of the last atom


def extxyz(atoms, path):
    ase_write(path, atoms, format="extxyz")


# File, how it is made, words that the reason must hold.
BAD = {
    "cut_in_a_row.cif": (CIF[: CIF.index("O3 O") + 12], ["ends early"]),
    "cut_between_rows.cif": (CIF.replace(LINE, ""), ["Ca4O3", "Ca4 O4", "cut off"]),
    "cut_in_the_head.cif": (CIF[: CIF.index("_cell_angle_beta")], ["no complete cell"]),
    "cut_before_atoms.cif": (CIF[: CIF.index("loop_\n_atom")], ["lists no atoms"]),
    "no_operation.cif": (CIF.replace("'x, y, z'", "'a, b, c'"), ["symmetry operations"]),
    "wrong_row.cif": (CIF.replace("Ca2 Ca", "Ca2 Ca Ca"), ["Wrong number"]),
    "partial.cif": (CIF.replace(LINE, LINE[:-2] + "0.75\n"), ["partial occupancy", "O4", "0.75"]),
    "no_coordinates.cif": (CIF.replace("Ca2 Ca 0.0000000000", "Ca2 Ca ?"), ["Ca2", "three finite numbers"]),
    "nan.cif": (NOT_A_NUMBER, ["Ca2", "three finite numbers"]),
    "no_element.cif": (CIF.replace("Ca2 Ca ", "Q2 Qq "), ["Q2", "no known element"]),
    "flat.cif": (CIF.replace("angle_gamma 90.0", "angle_gamma 0.0"), ["volume"]),
    "flat.vasp": (NO_VOLUME, ["no volume"]),
    "vasp4.vasp": (NO_VOLUME.replace("Ca\n1\n", "1\n"), ["element symbols"]),
    "cut.vasp": ("CaO\n1.0\n5 0 0\n0 5 0\n0 0 5\nCa O\n1 1\nDirect\n0 0 0\n", ["cannot be read as poscar"]),
    "nan.extxyz": ('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nFe nan 0.0 0.0\n', ["atom 0 (Fe)", "nan"]),
    "one_site.extxyz": (
        '3\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nCa 0 0 0\nO 2 2 2\nO 2 2 -2\n',
        ["atoms 1 (O) and 2 (O)", "0.00 A apart"],
    ),
    "unknown_symbol.extxyz": ('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nQq 0 0 0\n', ["cannot be read"]),
    "unseen.extxyz": ('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nPu 0 0 0\n', ["never saw", "Pu"]),
    "placeholder.extxyz": (
        '1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nX 0 0 0\n',
        ["atom 0", "no known element"],
    ),
    "cut.extxyz": ('3\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nCa 0 0 0\n', ["cannot be read as extxyz"]),
    "promises.extxyz": ("999999999999\n\nCa 0 0 0\n", ["cannot be read as extxyz"]),
    "water.xyz": ("3\n\nO 0 0 0\nH 1 0 0\nH 0 1 0\n", ["no cell", "molecule"]),
    "not_periodic.extxyz": ('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="F F F"\nCa 0 0 0\n', ["not periodic"]),
    "no_atoms.extxyz": ('0\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\n', []),
    "empty.cif": ("", ["empty"]),
    "blank.vasp": ("  \n\n", ["empty"]),
    "text.cif": ("Dear editor,\nplease find\n", ["not CIF"]),
    "no_blocks.cif": ("# nothing but a comment\n", ["no CIF data block"]),
    "settings.json": (json.dumps({"a": 1}), ["no pymatgen Structure"]),
    "broken.json": ('{"lattice": ', ["cannot be read as json"]),
    "half.json": (json.dumps({"lattice": {"matrix": []}, "sites": [1]}), ["no complete pymatgen Structure"]),
    "notes.txt": ("hello", ["no known kind of file", "CIF"]),
    "nothing.traj": ("", ["empty"]),
    "words.traj": ("hello", ["cannot be read as traj"]),
    "words.db": ("hello", ["cannot be read as db"]),
    "words.cif.gz": ("not zipped", ["cannot be"]),
}
JUNK = ["junk.cif", "junk.vasp", "junk.xyz", "junk.json", "junk.traj", "junk.db", "junk.cif.gz"]


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
    """Every bad file and a good one in one call."""
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
    """ASE keeps occupancies aside; Atoms that carry them are not ordered."""
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
