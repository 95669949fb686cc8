"""POSCAR: every dialect comes out as VASP understands it, or is refused with the line and what is wrong."""

import io

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixScaled
from ase.io import read as ase_read
from ase.io import write as ase_write
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.io.vasp import Poscar

from repose.errors import InvalidCrystalError
from repose.io.convert import fixed_coordinates, to_atoms
from repose.io.files import read, write
from repose.io.poscar import read_poscar
from support.crystals import random_crystal

SITES = [[0, 0, 0], [0.5, 0.5, 0.1], [0.25, 0.5, 0.75]]
CELL = [[4.0, 0, 0], [0.5, 5.0, 0], [0, 0.25, 6.0]]


def poscar(
    comment="x",
    scale="1.0",
    cell=CELL,
    symbols="Mg O",
    counts="1 2",
    mode="Direct",
    sites=SITES,
    ends=("", "", ""),
    after="",
):
    """Text of a POSCAR with one oddity at a time; ``ends`` stand behind the coordinates."""
    rows = [" ".join(map(str, row)) if not isinstance(row, str) else row for row in cell]
    atoms = [site if isinstance(site, str) else " ".join(map(str, site)) for site in sites]
    lines = [comment, scale, *rows, *([] if symbols is None else [symbols]), counts, mode]
    lines += [f"{atom} {end}".rstrip() for atom, end in zip(atoms, ends, strict=True)]
    return "\n".join(lines) + "\n" + after


PLAIN = poscar()
NUMBERS = [12, 8, 8]


def ase(text):
    return ase_read(io.StringIO(text), format="vasp")


def pymatgen(text):
    return Poscar.from_str(text).structure


def same(atoms, other):
    """Compare with Atoms or a Structure of another reader."""
    numbers, positions = getattr(other, "numbers", None), getattr(other, "positions", None)
    if numbers is None:
        numbers, positions = np.array([s.specie.Z for s in other]), other.cart_coords
    cell = other.cell.array if isinstance(other, Atoms) else other.lattice.matrix
    assert atoms.numbers.tolist() == list(numbers)
    np.testing.assert_allclose(atoms.cell.array, cell, atol=1e-10)
    np.testing.assert_allclose(atoms.positions, positions, atol=1e-10)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        poscar(comment=""),
        poscar(comment="Mg O 3 atoms ! of mine"),
        poscar(symbols="  Mg\tO  "),
        poscar(symbols="Mg_pv O_s"),
        poscar(symbols="Mg_pv/6a2f546d O/79d9987ad87"),
        poscar(mode="direct"),
        poscar(mode="  D"),
        poscar(mode="Direct  [A1 B2]"),
        poscar(mode="Cartesian", sites=np.array(SITES) @ CELL),
        poscar(mode="cart", sites=np.array(SITES) @ CELL),
        poscar(mode="K", sites=np.array(SITES) @ CELL),
        poscar(mode="k points", sites=np.array(SITES) @ CELL),
        poscar(scale="  1.0  ! factor"),
        poscar(scale="2.0", cell=np.array(CELL) / 2),
        poscar(scale="2", cell=np.array(CELL) / 2, mode="C", sites=np.array(SITES) @ CELL / 2),
        poscar(ends=("Mg", "O", "O")),
        poscar(ends=("Mg001", "# first", "! second")),
        poscar(symbols="Mg O F", counts="1 2 0"),
        poscar(symbols="Mg O O", counts="1 1 1"),
        poscar(after="\n\n\n"),
        poscar(after="\n" + "0.1E-02 -0.2E-02 0.3E-02\n" * 3),
        poscar(after="Cartesian\n" + "0.1E-02 -0.2E-02 0.3E-02\n" * 3),
        poscar(
            after="Lattice velocities and vectors\n 1\n"
            + "0 0 0\n" * 3
            + "1 0 0\n" * 3
            + "\n"
            + "0 0 1\n" * 3
        ),
    ],
)
def test_as_other_readers(text):
    atoms, _ = read_poscar(text)
    same(atoms, ase(text))
    same(atoms, ase(PLAIN))


@pytest.mark.parametrize(
    "text",
    [
        poscar(symbols="mg o"),
        poscar(symbols="MG O"),
        poscar(symbols="Mg2+ O2-"),
        poscar(symbols="Mg1 O2"),
        poscar(symbols="Mg O ! the elements"),
        poscar(symbols="Mg O # the elements"),
        poscar(symbols="Mg\nO", counts="1\n2"),
        poscar(counts="1 2 ! counts"),
        poscar(counts="1 2 # counts"),
        poscar(counts="1 2 !2"),
        poscar(counts="1 2 atoms"),
        poscar(scale="1.0D+00"),
        poscar(scale="1d0"),
        poscar(scale="0.1Q1"),
        poscar(scale="1.0 1.0 1.0"),
        poscar(cell=["4.0D0 0 0", "0.5d0 5.D+0 .0", "+0.0E0 2.5e-1 0.6D+01"]),
        poscar(cell=["4.0 0 0 ! a", "0.5 5 0 # b", "0, 0.25, 6"]),
        poscar(sites=["0 0 0", "5.0d-1 0.5D0 0.1e0", ".25 .5 7.5D-01"]),
        poscar(sites=["0.0, 0.0, 0.0", "0.5, 0.5, 0.1", "0.25, 0.5, 0.75"]),
        poscar(mode="Fractional"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace(" ", "\t"),
        "\ufeff" + PLAIN,
        PLAIN.rstrip("\n"),
        poscar(after="\nsome notes\nof a user 1 2 3\n"),
        poscar(after="# made by hand\n"),
    ],
)
def test_spellings(text, tmp_path):
    (tmp_path / "POSCAR").write_bytes(text.encode())
    (entry,) = read(tmp_path / "POSCAR")
    assert entry.reason is None
    same(entry.crystal, ase(PLAIN))


@pytest.mark.parametrize("volume", [80.0, 123.456])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
@pytest.mark.parametrize("mode", ["Direct", "Cartesian"])
def test_negative_scale_is_the_volume(volume, order, mode):
    """Also of a left-handed cell: the vectors keep their directions, and the crystal is not mirrored."""
    vectors = np.array(CELL)[order]
    sites = np.array(SITES) if mode == "Direct" else np.array(SITES) @ vectors
    atoms, _ = read_poscar(poscar(scale=f"-{volume}", cell=vectors, mode=mode, sites=sites))
    assert atoms.get_volume() == pytest.approx(volume)
    factor = (volume / abs(np.linalg.det(vectors))) ** (1 / 3)
    np.testing.assert_allclose(atoms.cell.array, factor * vectors, atol=1e-12)
    np.testing.assert_allclose(atoms.positions, factor * np.array(SITES) @ vectors, atol=1e-12)
    assert np.sign(np.linalg.det(atoms.cell.array)) == np.sign(np.linalg.det(vectors))
    same(atoms, pymatgen(poscar(scale=f"-{volume}", cell=vectors, sites=SITES)))


@pytest.mark.parametrize("mode", ["Direct", "Cartesian"])
def test_three_scales_stretch_along_x_y_and_z(mode):
    sites = np.array(SITES) if mode == "Direct" else np.array(SITES) @ CELL
    text = poscar(scale="1.5 2.0 0.5 ! VASP 6", mode=mode, sites=sites)
    atoms, _ = read_poscar(text)
    np.testing.assert_allclose(atoms.cell.array, np.array(CELL) * [1.5, 2.0, 0.5], atol=1e-12)
    np.testing.assert_allclose(atoms.positions, np.array(SITES) @ CELL * [1.5, 2.0, 0.5], atol=1e-12)
    same(atoms, ase(text))


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("T", "F"),
        ("t", "f"),
        (".TRUE.", ".FALSE."),
        (".T.", ".F."),
        ("true", "false"),
        ("True", "False"),
        (".t", ".f"),
    ],
)
@pytest.mark.parametrize("word", ["Selective dynamics", "selective", "S"])
def test_selective_dynamics(true, false, word):
    rows = [f"{false} {false} {false}", f"{true} {true} {false} ! kept", f"{true}  {true}\t{true}"]
    text = poscar(mode=f"{word}\nDirect", ends=rows)
    atoms, remarks = read_poscar(text)
    assert fixed_coordinates(atoms).tolist() == [[True] * 3, [False, False, True], [False] * 3]
    assert {type(c) for c in atoms.constraints} == {FixAtoms, FixScaled}
    assert remarks == ()
    capitals = poscar(mode="Selective dynamics\nDirect", ends=["F F F", "T T F", "T T T"])
    np.testing.assert_array_equal(fixed_coordinates(ase(capitals)), fixed_coordinates(atoms))
    np.testing.assert_array_equal(~np.array(pymatgen(capitals).site_properties["selective_dynamics"]),
                                  fixed_coordinates(atoms))  # fmt: skip


BAD = {
    "glued flags": (poscar(mode="S\nDirect", ends=["FFF", "TTT", "TTT"]), ["line 10", "three flags"]),
    "two flags": (poscar(mode="S\nDirect", ends=["F F", "T T T", "T T T"]), ["line 10", "three flags"]),
    "no flags": (poscar(mode="S\nDirect"), ["line 10", "three flags"]),
    "numbers as flags": (poscar(mode="S\nDirect", ends=["0 0 0", "1 1 1", "1 1 1"]), ["three flags"]),
    "scale of zero": (poscar(scale="0.0"), ["line 2", "not zero"]),
    "two scales": (poscar(scale="1.0 2.0"), ["line 2", "one scaling factor, or three"]),
    "no scale": (poscar(scale="Mg"), ["line 2", "scaling factor"]),
    "negative scales": (poscar(scale="-1 -1 -1"), ["line 2", "positive"]),
    "volume of a plane": (poscar(scale="-50", cell=[[1, 0, 0], [0, 1, 0], [1, 1, 0]]), ["span none"]),
    "short vector": (poscar(cell=["4 0 0", "0 5", "0 0 6"]), ["line 4", "lattice vector", "0 5"]),
    "words for a vector": (poscar(cell=["4 0 0", "0 b 0", "0 0 6"]), ["line 4"]),
    "NaN in the cell": (poscar(cell=["nan 0 0", "0 5 0", "0 0 6"]), ["line 3"]),
    "decimal commas": (poscar(sites=["0,0 0,0 0,0", "0,5 0,5 0,1", "0,2 0,5 0,7"]), ["line 9"]),
    "fractions": (poscar(sites=["1/3 2/3 0", "0 0 0.5", "0 0 0.7"]), ["line 9", "atom 1 of 3"]),
    "unknown element": (poscar(symbols="Mg Oz"), ["'Oz' names no element"]),
    "pseudo-hydrogen": (poscar(symbols="Mg H.75"), ["'H.75' names no element"]),
    "glued symbols": (poscar(symbols="MgO"), ["no element"]),
    "VASP 4": (poscar(symbols=None), ["no line with element symbols", "VASP 4"]),
    "VASP 4 with a telling comment": (poscar(comment="Mg O", symbols=None), ["no line with element symbols"]),
    "fewer counts": (poscar(counts="3"), ["2 elements", "1 counts"]),
    "more counts": (poscar(counts="1 1 1"), ["2 elements", "3 counts"]),
    "count that is no integer": (poscar(counts="1 2.0"), ["2 elements", "1 counts"]),
    "negative count": (poscar(counts="1 -2"), ["2 elements", "1 counts"]),
    "too few atoms": (poscar(counts="1 3"), ["line 12", "atom 4 of 4"]),
    "too many atoms": (poscar(counts="1 1"), ["counts add up to 2", "line 11"]),
    "too many, selective": (
        poscar(counts="1 1", mode="S\nD", ends=["F F F"] * 3),
        ["counts add up to 2", "line 12"],
    ),
    "huge count": (poscar(counts="1 99999999999"), ["add up to"]),
    "blank line inside": (PLAIN.replace("0.5 0.5 0.1", "\n0.5 0.5 0.1"), ["line 10", "atom 2 of 3"]),
    "no kind of coordinates": (PLAIN.replace("Direct\n", ""), ["line 8", "'Direct' or 'Cartesian'"]),
    "blank kind of coordinates": (poscar(mode=""), ["line 8"]),
    "trajectory": (poscar(mode="Direct configuration=     1"), ["XDATCAR"]),
    "cut in the cell": ("\n".join(PLAIN.split("\n")[:4]), ["ends after line 4"]),
    "cut before the counts": ("\n".join(PLAIN.split("\n")[:6]), ["ends after line 6"]),
    "cut in a row": (PLAIN[: PLAIN.rindex(" ")], ["line 11", "atom 3 of 3"]),
    "one line": ("x", ["ends after line 1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused_with_the_line(name, tmp_path):
    text, words = BAD[name]
    (tmp_path / "POSCAR").write_text(text)
    (entry,) = read(tmp_path / "POSCAR")
    assert entry.crystal is None
    for word in words:
        assert word in entry.reason
    assert "\n" not in entry.reason


@pytest.mark.parametrize(
    ("after", "remark"),
    [
        ("", None),
        ("\n \n\t\n", None),
        ("\n" + "0 0 1\n" * 3, "velocities are not read"),
        ("\n" + "0 0 1\n" * 3 + "\n1\n0.5\n" + "0 0 0\n" * 9, "velocities are not read"),
        ("Cartesian\n" + "0 0 1\n" * 3, "velocities are not read"),
        ("\n" + "0 0 1\n" * 2, "velocities end early; they are not read"),
        ("\n0 0 1\n0 0", "velocities end early; they are not read"),
        ("\nvolume 12.3\n", "text after the coordinates is not read"),
        ("made by hand\n", "text after the coordinates is not read"),
    ],
)
def test_remarks_on_what_follows(after, remark):
    atoms, remarks = read_poscar(poscar(after=after))
    assert remarks == (() if remark is None else (remark,))
    same(atoms, ase(PLAIN))
    assert not atoms.has("momenta")


def test_remarks_on_words_behind_coordinates():
    (remark,) = read_poscar(poscar(ends=("O", "O", "Mg")))[1]
    assert "element names behind the coordinates differ" in remark
    (remark,) = read_poscar(poscar(ends=("F F F", "T T T", "T T T")))[1]
    assert "without a line 'Selective dynamics'" in remark


def test_many_symbols_over_several_lines():
    """VASP breaks lines after twenty kinds."""
    symbols, counts = ["Fe", "Cr"] * 12 + ["Ni"], [1, 2] * 12 + [3]
    sites = np.random.default_rng(0).random((sum(counts), 3))
    lines = [" ".join(map(str, part)) for part in (symbols[:20], symbols[20:], counts[:20], counts[20:])]
    text = poscar(
        symbols="\n".join(lines[:2]), counts="\n".join(lines[2:]), sites=sites, ends=[""] * len(sites)
    )
    atoms, _ = read_poscar(text)
    same(atoms, pymatgen(text))


@given(seed=st.integers(0, 10_000), left=st.booleans(), data=st.data())
def test_written_files_are_read_back(seed, left, data, tmp_path_factory):
    (atoms,) = to_atoms(random_crystal(seed))
    if left:
        atoms.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    atoms.positions += 20  # outside of the cell, and so it stays
    fixed = np.array(data.draw(st.lists(st.booleans(), min_size=3 * len(atoms), max_size=3 * len(atoms))))
    fixed = fixed.reshape(-1, 3)
    atoms.set_constraint([FixScaled(k, mask) for k, mask in enumerate(fixed)])
    path = tmp_path_factory.mktemp("poscar") / "POSCAR"
    assert write(atoms, path, "poscar") == []
    text = path.read_text()
    for other in (read_poscar(text)[0], ase(text), pymatgen(text)):
        same(atoms, other)
    np.testing.assert_array_equal(fixed_coordinates(read_poscar(text)[0]), fixed)
    np.testing.assert_array_equal(fixed_coordinates(ase(text)), fixed)
    stream = io.StringIO()
    ase_write(stream, atoms, format="vasp", direct=True)
    same(read_poscar(stream.getvalue())[0], ase(stream.getvalue()))


def test_is_an_error_of_crystals():
    with pytest.raises(InvalidCrystalError, match="line 2"):
        read_poscar("x\n")


@pytest.mark.parametrize("name", ["Mg/Ca", "Mg/O", "Mg/Fe", "Mg/12", "Mg_pv/Ca", "MgCa", "Mg,Ca"])
def test_mixtures_are_no_elements(name):
    from repose.errors import InvalidCrystalError
    from repose.io.poscar import read_poscar

    text = f"x\n1.0\n4.2 0 0\n0 4.2 0\n0 0 4.2\n{name} O\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    with pytest.raises(InvalidCrystalError, match="names no element"):
        read_poscar(text)


@pytest.mark.parametrize("name", ["Mg", "Mg_pv", "Mg_pv/a82e489", "Mg/b592", "Mg_sv_GW"])
def test_names_of_potcars(name):
    from repose.io.poscar import read_poscar

    text = f"x\n1.0\n4.2 0 0\n0 4.2 0\n0 0 4.2\n{name} O\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    assert _symbols(read_poscar(text)) == ["Mg", "O"]


def _symbols(found):
    atoms = found[0] if isinstance(found, tuple) else found
    return atoms.get_chemical_symbols()
