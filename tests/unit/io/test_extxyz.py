"""Extended XYZ: every spelling comes out periodic as it is meant, or is refused with what is wrong."""

import gzip
import io
import tracemalloc

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read as ase_read
from ase.io import write as ase_write
from hypothesis import given
from hypothesis import strategies as st

from repose.errors import InvalidCrystalError
from repose.io.convert import fixed_coordinates, stale_labels, to_atoms, to_batch
from repose.io.extxyz import read_extxyz, split_frames
from repose.io.files import read
from repose.io.text import read_lines
from support.crystals import random_crystal

CELL = "4.1 0 0 0.5 4.2 0 0 0.25 4.3"
LATTICE = f'Lattice="{CELL}"'
ROWS = "Cs 0 0 0\nCl 2.05 2.05 2.05\n"


def frame(comment, rows=ROWS, count="2"):
    return f"{count}\n{comment}\n{rows}"


PLAIN = frame(f'{LATTICE} Properties=species:S:1:pos:R:3 pbc="T T T"')


def only(text):
    """The one crystal of a text, and the remarks."""
    (result,) = read_extxyz(text)
    if isinstance(result, InvalidCrystalError):
        raise result
    return result


def ase(text, **options):
    return ase_read(io.StringIO(text), format="extxyz", **options)


def same(atoms, other, pbc=(True, True, True)):
    assert atoms.numbers.tolist() == other.numbers.tolist()
    assert atoms.pbc.tolist() == list(pbc)
    np.testing.assert_allclose(atoms.cell.array, other.cell.array, atol=1e-12)
    np.testing.assert_allclose(atoms.positions, other.positions, atol=1e-12)


@pytest.mark.parametrize(
    "lattice",
    [
        LATTICE,
        f"Lattice='{CELL}'",
        f"Lattice={{{CELL}}}",
        f"Lattice=[{CELL}]",
        f"Lattice=[{CELL.replace(' ', ', ')}]",
        f"Lattice=[{CELL.replace(' ', ',')}]",
        f'Lattice="{CELL.replace(" ", ", ")}"',
        "Lattice=[[4.1,0,0],[0.5,4.2,0],[0,0.25,4.3]]",
        "Lattice=[[4.1, 0, 0], [0.5, 4.2, 0], [0, 0.25, 4.3]]",
        "Lattice={{4.1 0 0} {0.5 4.2 0} {0 0.25 4.3}}",
        'Lattice="[[4.1, 0, 0], [0.5, 4.2, 0], [0, 0.25, 4.3]]"',
        f'Lattice = "{CELL}"',
        f'lattice="{CELL}"',
        f'LATTICE="{CELL}"',
        'Lattice="4.1D0 0 0 0.5d0 4.2 0 .0 2.5E-01 4.3"',
        f'note="no pbc=F here" {LATTICE}',
        f'Origin="0.5 0 0" {LATTICE} Timestep=0',
    ],
)
def test_lattices(lattice):
    for rest in ("", ' pbc="T T T"', " Properties=species:S:1:pos:R:3"):
        same(only(frame(lattice + rest))[0], ase(PLAIN))


@pytest.mark.parametrize("names", ["pbc", "PBC", "Pbc"])
@pytest.mark.parametrize(
    ("value", "flags"),
    [
        ('"T T T"', "TTT"), ('"T T F"', "TTF"), ("[T,T,F]", "TTF"), ("[T, T, F]", "TTF"), ("{T T F}", "TTF"),
        ('"1 1 0"', "TTF"), ("[1,1,0]", "TTF"), ('"True True False"', "TTF"), ('"true true false"', "TTF"),
        ('"TRUE,TRUE,FALSE"', "TTF"), ("[true, true, false]", "TTF"), ('"t t f"', "TTF"), ("TTF", "TTF"),
        ('"110"', "TTF"), ("'.TRUE. .TRUE. .FALSE.'", "TTF"), ("T", "TTT"), ("true", "TTT"), ("1", "TTT"),
        ('"[True, True, True]"', "TTT"), ("F", "FFF"), ("0", "FFF"),
    ],
)  # fmt: skip
def test_periodic_directions(names, value, flags):
    atoms, _ = only(frame(f"{LATTICE} {names}={value}"))
    same(atoms, ase(PLAIN), [flag == "T" for flag in flags])


@pytest.mark.parametrize(
    ("properties", "rows"),
    [
        ("species:S:1:pos:R:3", ROWS),
        ("Species:s:1:Pos:r:3", ROWS),
        ("symbols:S:1:positions:R:3", ROWS),
        ("element:S:1:position:R:3", ROWS),
        ("Z:I:1:pos:R:3", "55 0 0 0\n17 2.05 2.05 2.05\n"),
        ("numbers:I:1:pos:R:3", "55 0 0 0\n17 2.05 2.05 2.05\n"),
        ("pos:R:3:species:S:1", "0 0 0 Cs\n2.05 2.05 2.05 Cl\n"),
        ("id:I:1:species:S:1:pos:R:3", "1 Cs 0 0 0\n2 Cl 2.05 2.05 2.05\n"),
        ("species:S:1:pos:R:3:Z:I:1", "Cs 0 0 0 55\nCl 2.05 2.05 2.05 17\n"),
        ("species:S:1:pos:R:3:element:I:1", "Cs 0 0 0 1\nCl 2.05 2.05 2.05 2\n"),
        ("species:S:1:pos:R:3", "  Cs\t0 0 0   \n Cl 2.05 2.05 2.05\n"),
        ("species:S:1:pos:R:3", "cs 0 0 0\nCL 2.05 2.05 2.05\n"),
        ("species:S:1:pos:R:3", "Cs+ 0 0 0\nCl1- 2.05 2.05 2.05\n"),
        ("species:S:1:pos:R:3", "Cs 0.0D0 0 0\nCl 0.205D+01 2.05d0 20.5E-1\n"),
        ("species:S:1:pos:R:3", "Cs 0 0 0 0.1 comment\nCl 2.05 2.05 2.05 0.2\n"),
    ],
)
def test_columns(properties, rows):
    for key in ("Properties", "properties"):
        same(only(frame(f"{LATTICE} {key}={properties}", rows))[0], ase(PLAIN))


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-32"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace("Properties", 'note="a in \u00c5" Properties').encode("latin-1"),
        PLAIN.replace("Properties", 'note="a in \u00c5\u2028 or \x0b" Properties').encode(),
        b"\n\n" + PLAIN.encode() + b"\n \n\n",
        PLAIN.replace("2\n", "   2   \n", 1).encode(),
        PLAIN.rstrip("\n").encode(),
    ],
)
def test_encodings_and_blanks(data, tmp_path):
    (tmp_path / "x.xyz").write_bytes(data)
    (entry,) = read(tmp_path / "x.xyz")
    assert entry.reason is None
    same(entry.crystal, ase(PLAIN))


def test_three_lengths_are_a_box():
    atoms, remarks = only(frame('Lattice="4.1 4.2 4.3"'))
    np.testing.assert_allclose(atoms.cell.array, np.diag([4.1, 4.2, 4.3]))
    assert any("rectangular" in remark for remark in remarks)


def test_vec_lines():
    text = "2\n\n" + ROWS + "VEC1 4.1 0 0\nVEC2 0.5 4.2 0\nVEC3 0 0.25 4.3\n"
    first, second = read_extxyz(text + PLAIN)
    same(first[0], ase(text))
    same(second[0], ase(PLAIN))
    sheet, _ = only(text.replace("VEC3 0 0.25 4.3\n", ""))
    assert sheet.pbc.tolist() == [True, True, False]


BAD = {
    "six numbers": (frame('Lattice="4 4 4 90 90 90"'), ["Lattice", "nine numbers"]),
    "words": (frame('Lattice="cubic"'), ["Lattice", "nine numbers", "cubic"]),
    "ten numbers": (frame(f'Lattice="{CELL} 1"'), ["nine numbers"]),
    "NaN": (frame('Lattice="nan 0 0 0 4 0 0 0 4"'), ["nine numbers"]),
    "no number": (frame("Lattice"), ["nine numbers"]),
    "two lattices": (frame(f'{LATTICE} lattice="4 0 0 0 4 0 0 0 4"'), ["twice"]),
    "two flags": (frame(f'{LATTICE} pbc="T T"'), ["pbc", "three flags"]),
    "strange flags": (frame(f'{LATTICE} pbc="p p p"'), ["pbc", "three flags", "p p p"]),
    "empty flags": (frame(f'{LATTICE} pbc=""'), ["pbc"]),
    "cell under another key": (frame(f'cell="{CELL}"'), ["'cell'", "Lattice"]),
    "Cell": (frame(f'Cell="{CELL}" pbc="T T T"'), ["'Cell'", "Lattice"]),
    "unknown symbol": (frame(LATTICE, "Cs 0 0 0\nQq 2 2 2\n"), ["line 4", "'Qq'"]),
    "a type": (frame(LATTICE, "1 0 0 0\n2 2 2 2\n"), ["line 3", "'1'"]),
    "mixed": (frame(LATTICE, "Cs0.5Rb0.5 0 0 0\nCl 2 2 2\n"), ["line 3", "Cs0.5Rb0.5"]),
    "atomic number": (
        frame(f"{LATTICE} Properties=Z:I:1:pos:R:3", "55 0 0 0\n170 2 2 2\n"),
        ["1 to 118"],
    ),
    "symbol and number": (
        frame(f"{LATTICE} Properties=species:S:1:Z:I:1:pos:R:3", "Cs 55 0 0 0\nCl 16 2 2 2\n"),
        ["line 4", "Cl", "16"],
    ),
    "short row": (frame(LATTICE, "Cs 0 0 0\nCl 2 2\n"), ["line 4", "4 values", "Cl 2 2"]),
    "word as coordinate": (frame(LATTICE, "Cs 0 0 0\nCl 2 b 2\n"), ["line 4", "numbers"]),
    "decimal comma": (frame(LATTICE, "Cs 0 0 0\nCl 2,0 2,0 2,0\n"), ["line 4", "numbers"]),
    "no species": (frame(f"{LATTICE} Properties=pos:R:3:type:I:1", "0 0 0 1\n2 2 2 1\n"), ["species:S:1"]),
    "no positions": (frame(f"{LATTICE} Properties=species:S:1", "Cs\nCl\n"), ["pos:R:3"]),
    "two coordinates": (frame(f"{LATTICE} Properties=species:S:1:pos:R:2", "Cs 0 0\nCl 2 2\n"), ["pos:R:3"]),
    "type": (frame(f"{LATTICE} Properties=species:S:1:pos:Q:3"), ["NAME:TYPE:COLUMNS"]),
    "number of columns": (frame(f"{LATTICE} Properties=species:S:1:pos:R"), ["NAME:TYPE:COLUMNS"]),
    "column twice": (frame(f"{LATTICE} Properties=species:S:1:pos:R:3:pos:R:3"), ["twice"]),
    "strange move_mask": (
        frame(f"{LATTICE} Properties=species:S:1:pos:R:3:move_mask:L:1", "Cs 0 0 0 T\nCl 2 2 2 yes\n"),
        ["line 4", "T or F", "move_mask"],
    ),
    "too many atoms announced": (frame(LATTICE, count="3"), ["number of atoms"]),
    "too few atoms announced": (frame(LATTICE, count="1"), ["announces 1", "more follow"]),
    "fraction of an atom": (frame(LATTICE, count="2.0"), ["number of atoms", "2.0"]),
    "partial occupancy": (
        frame(f"{LATTICE} Properties=species:S:1:pos:R:3:occupancy:R:1", "Cs 0 0 0 1\nCl 2 2 2 0.5\n"),
        ["partial occupancy", "atom 1 (Cl)", "0.5"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_with_what_is_wrong(name):
    text, words = BAD[name]
    with pytest.raises(InvalidCrystalError) as error:
        to_batch(only(text)[0])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", [n for n in BAD if not n.startswith("partial")])
def test_a_bad_frame_leaves_the_others(name):
    first, second, third = read_extxyz(PLAIN + BAD[name][0] + PLAIN)
    assert isinstance(second, InvalidCrystalError)
    same(first[0], ase(PLAIN))
    same(third[0], ase(PLAIN))


QUOTED = PLAIN.replace("Properties", """note='it says "2"' by="\\"\u00c5str\u00f6m\\"" Properties""")
AWKWARD = {
    "all that is wrong": PLAIN + "".join(PLAIN + text for text, _ in BAD.values()) + PLAIN,
    "wrong count in the middle": QUOTED + BAD["too many atoms announced"][0] + BAD["short row"][0] + QUOTED,
    "blank lines": f"\n \n{PLAIN}\n\n\t\n{QUOTED}\n{PLAIN} \n\n",
    "cut off": PLAIN + QUOTED[:-20],
    "no final line end": PLAIN + QUOTED.rstrip(),
    "molecules": frame("water and no more") * 3 + PLAIN + frame("") * 2 + "the end",
    "one line": "5",
}
WRITTEN = {
    "utf-8": str.encode,
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "latin-1": lambda text: text.encode("latin-1"),
    "utf-16": lambda text: text.encode("utf-16"),
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "packed": lambda text: gzip.compress(text.encode()),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("encoding", WRITTEN)
def test_frames_of_a_file_are_those_of_its_text(name, encoding, tmp_path):
    (tmp_path / "x.xyz").write_bytes(WRITTEN[encoding](AWKWARD[name]))
    expected, entries = list(read_extxyz(AWKWARD[name])), list(read(tmp_path / "x.xyz"))
    assert [entry.index for entry in entries] == list(range(len(expected)))
    assert {entry.many for entry in entries} == {len(expected) > 1}
    for entry, found in zip(entries, expected, strict=True):
        if isinstance(found, InvalidCrystalError):
            assert (entry.crystal, entry.reason) == (None, str(found))
        else:
            assert (entry.crystal, entry.remarks) == found
            assert entry.crystal.info == found[0].info


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_large_files_are_not_held_in_memory(pack, tmp_path):
    path, count = tmp_path / "x.xyz", 20_000
    path.write_bytes(pack(PLAIN.encode() * count))
    tracemalloc.start()
    frames = sum(1 for _ in split_frames(read_lines(str(path)) or ()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames == count
    assert peak < 0.2 * count * len(PLAIN)


def test_frames_without_lattice_and_junk():
    good, junk = read_extxyz(PLAIN + "the end\n")
    same(good[0], ase(PLAIN))
    assert "number of atoms" in str(junk)
    molecule, _ = only("2\nwater and no more\n" + ROWS)
    with pytest.raises(InvalidCrystalError, match="no cell"):
        to_batch(molecule)


@pytest.mark.parametrize(
    ("entry", "key", "value"),
    [
        ("occupancy=1.0", "occupancy", 1.0),
        ('occupancy="full and well"', "occupancy", "full and well"),
        ("occupancy", "occupancy", True),
        ('note="a \\"quoted\\" word"', "note", 'a "quoted" word'),
        ("x=[[1,2],[3,4]]", "x", [[1, 2], [3, 4]]),
        ("virial=strong", "virial", "strong"),
        ('virial="1 2 3 4 5 6"', "virial", [1, 2, 3, 4, 5, 6]),
        ('list="_JSON [\\"a\\", 1]"', "list", ["a", 1]),
        ('broken="_JSON {"', "broken", "_JSON {"),
        ("material_id=mp-1", "material_id", "mp-1"),
        ("formula=a=b", "formula", "a=b"),
    ],
)
def test_other_entries(entry, key, value):
    atoms, _ = only(frame(f"{entry} {LATTICE}"))
    assert np.array_equal(atoms.info[key], value)
    assert to_batch(atoms).n_atoms == 2
    same(atoms, ase(PLAIN))


@pytest.mark.parametrize("entry", ["energy=low", 'stress="1 2"', "dipole=big", "free_energy=?", "magmom=FM"])
def test_results_that_are_no_numbers_do_not_matter(entry):
    atoms, remarks = only(frame(f"{entry} {LATTICE}"))
    assert atoms.calc is None
    assert any("is not read" in remark for remark in remarks)


def test_results_and_arrays_as_ase_reads_them():
    crystal = bulk("MgO", "rocksalt", a=4.2)
    crystal.info |= {"REF_energy": -6.4, "material_id": "mp-1"}
    crystal.set_initial_magnetic_moments([1.0, -1.0])
    crystal.set_tags([3, 4])
    crystal.set_array("REF_forces", np.ones((2, 3)))
    crystal.set_array("names", np.array(["a", "b"]))
    from ase.calculators.singlepoint import SinglePointCalculator

    crystal.calc = SinglePointCalculator(crystal, energy=-6.5, forces=np.eye(3)[:2], stress=np.arange(6.0))
    stream = io.StringIO()
    ase_write(stream, crystal, format="extxyz")
    mine, _ = only(stream.getvalue())
    theirs = ase(stream.getvalue())
    assert mine.info == theirs.info
    assert mine.arrays.keys() == theirs.arrays.keys()
    for name, values in theirs.arrays.items():
        assert np.array_equal(mine.arrays[name], values)
        assert mine.arrays[name].dtype.kind == values.dtype.kind or values.dtype.kind == "O"
    assert mine.calc.results.keys() == theirs.calc.results.keys()
    for name, values in theirs.calc.results.items():
        np.testing.assert_allclose(mine.calc.results[name], values)
    assert stale_labels(mine) == ["REF_energy", "REF_forces", "energy", "forces", "stress"]


@pytest.mark.parametrize(
    ("kind", "flags", "fixed"),
    [
        ("L:1", ["F", "T"], [[True] * 3, [False] * 3]),
        ("L:1", ["false", "true"], [[True] * 3, [False] * 3]),
        ("L:1", ["0", "1"], [[True] * 3, [False] * 3]),
        ("I:1", ["0", "1"], [[True] * 3, [False] * 3]),
        ("L:3", ["T T T", "T T T"], [[False] * 3, [False] * 3]),
        ("L:3", ["F F F", "T T T"], [[True] * 3, [False] * 3]),
        ("L:3", ["T T F", "F F F"], [[False, False, True], [True] * 3]),
        ("L:3", ["1 1 0", "0 0 0"], [[False, False, True], [True] * 3]),
    ],
)
def test_move_mask(kind, flags, fixed):
    rows = f"Cs 0 0 0 {flags[0]}\nCl 2 2 2 {flags[1]}\n"
    box = 'Lattice="4 0 0 0 4 0 0 0 4"'
    atoms, _ = only(frame(f"{box} Properties=species:S:1:pos:R:3:move_mask:{kind}", rows))
    assert fixed_coordinates(atoms).tolist() == fixed
    assert all(isinstance(constraint, FixAtoms | FixCartesian) for constraint in atoms.constraints)


def test_selective_dynamics_along_tilted_vectors():
    rows = "Cs 0 0 0 T F T\nCl 2 2 2 T T T\n"
    atoms, _ = only(frame(f"{LATTICE} Properties=species:S:1:pos:R:3:selective_dynamics:L:3", rows))
    assert fixed_coordinates(atoms).tolist() == [[False, True, False], [False] * 3]


@given(seed=st.integers(0, 10_000), pbc=st.lists(st.booleans(), min_size=3, max_size=3))
def test_what_ase_writes(seed, pbc):
    (atoms,) = to_atoms(random_crystal(seed))
    atoms.pbc = pbc
    stream = io.StringIO()
    ase_write(stream, [atoms, atoms], format="extxyz")
    first, second = read_extxyz(stream.getvalue())
    same(first[0], ase(stream.getvalue(), index=0), pbc)
    same(second[0], ase(stream.getvalue(), index=1), pbc)
