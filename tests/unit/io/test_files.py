"""Files by name and by content, encodings, JSON, and the formats of ASE: a crystal or a reason, always."""

import copy
import gzip
import io
import json
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixScaled
from ase.db import connect
from ase.io import write as ase_write
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Molecule, Species, Structure
from pymatgen.core.surface import SlabGenerator
from pymatgen.electronic_structure.core import Magmom
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from repose.io.cif import write_cif
from repose.io.convert import fixed_coordinates, formula, to_batch
from repose.io.files import ExtxyzWriter, read, write
from repose.io.kinds import is_atoms
from repose.io.text import decode, guess_format, parse_element, parse_logical, parse_number, read_lines

CAO = bulk("CaO", "rocksalt", a=4.8, cubic=True)
FORMS = {"cif": "x.cif", "poscar": "POSCAR", "extxyz": "x.extxyz", "json": "x.json"}


def rendered(form, folder):
    write(CAO, folder / FORMS[form], form)
    return (folder / FORMS[form]).read_text()


def crystal_of(entries):
    (entry,) = entries
    assert entry.reason is None, entry.reason
    return entry.crystal


def is_cao(crystal):
    batch = to_batch(crystal)
    return formula(batch.numbers.numpy()) == "Ca4O4" and abs(float(batch.cells.det()) - 4.8**3) < 1e-6


# ---------------------------------------------------------------- text

ENCODED = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 big": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old mac": lambda text: text.replace("\n", "\r").encode(),
    "blanks at ends": lambda text: text.replace("\n", " \t\n").encode(),
    "packed": lambda text: gzip.compress(text.encode()),
    "packed utf-16": lambda text: gzip.compress(text.encode("utf-16")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ENCODED)
def test_every_format_in_every_encoding(form, encoding, tmp_path, monkeypatch):
    data = ENCODED[encoding](rendered(form, tmp_path))
    path = tmp_path / "new" / FORMS[form]
    path.parent.mkdir()
    path.write_bytes(data)
    assert is_cao(crystal_of(read(path)))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    (entry,) = read("-")
    assert is_cao(entry.crystal)
    assert (entry.format, entry.source) == (form, "-")


@pytest.mark.parametrize("form", ["cif", "poscar", "extxyz"])
def test_latin_letters(form, tmp_path):
    text = {
        "cif": lambda t: t.replace("data_x", "data_x\n_publ_author_name '\u00c5str\u00f6m'"),
        "poscar": lambda t: "\u00c5" + t,
        "extxyz": lambda t: t.replace("Properties", 'by="\u00c5str\u00f6m" Properties'),
    }[form](rendered(form, tmp_path))
    for encoding in ("latin-1", "utf-8"):
        (tmp_path / FORMS[form]).write_bytes(text.encode(encoding))
        assert is_cao(crystal_of(read(tmp_path / FORMS[form])))


@given(text=st.text(), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_decoding(text, encoding):
    expected = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    if encoding == "utf-8" and text.encode()[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return
    assert decode(text.encode(encoding)) == expected


@given(data=st.binary())
def test_decoding_anything(data):
    text = decode(data)
    assert isinstance(text, str)
    assert "\r" not in text


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@given(
    data=st.binary()
    | st.builds(
        str.encode,
        st.text(st.sampled_from("a \n\r\u00e5\u2028\x0b\x85")),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"]),
        st.just("replace"),
    )
)
def test_lines_of_a_file_are_those_of_its_text(pack, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "lines.xyz"
    path.write_bytes(pack(data))
    text, lines = decode(data), read_lines(str(path))
    if data[:2] == b"\x1f\x8b":
        return
    assert (lines is None) == (not text.strip())
    assert lines is None or list(lines) == text.removesuffix("\n").split("\n")


@pytest.mark.parametrize(
    ("word", "value"),
    [("1", 1.0), ("-1.", -1.0), ("+.5", 0.5), ("1.0D+00", 1.0), ("1d0", 1.0), ("2.5E-1", 0.25),
     ("1Q2", 100.0), ("0.1-100", 1e-101), ("nan", None), ("inf", None), ("1_0", None), ("1/3", None),
     ("0,5", None), ("", None), ("-", None), (".", None), ("1e", None), ("2024-01-01", None),
     ("-0.5-0.5", None), ("0x1", None)],
)  # fmt: skip
def test_numbers(word, value):
    assert parse_number(word) == value


@pytest.mark.parametrize(
    ("word", "value"),
    [("T", True), ("t", True), (".TRUE.", True), (".t.", True), ("true", True), ("F", False), ("f", False),
     (".FALSE.", False), (".F", False), ("False", False), ("FFF", None), ("TTF", None), ("1", None),
     ("yes", None), ("", None), (".", None)],
)  # fmt: skip
def test_logical_values(word, value):
    assert parse_logical(word) is value


@pytest.mark.parametrize(
    ("word", "symbol"),
    [("Fe", "Fe"), ("FE", "Fe"), ("fe", "Fe"), ("O", "O"), ("o", "O"), ("SI", "Si"), ("Fe3+", "Fe"),
     ("O2-", "O"), ("Fe+3", "Fe"), ("Na+", "Na"), ("Cl1-", "Cl"), ("Fe1", "Fe"), ("D", "H"), ("X", None),
     ("Vac", None), ("Du1", None), ("T1", None), ("T", None), ("Q", None), ("Nb0.8", None), ("Nb/Zr", None),
     ("Fe_pv", None), ("FeO", None), ("", None), ("1", None), ("Fe+3-", None), ("Ow", None)],
)  # fmt: skip
def test_elements(word, symbol):
    assert parse_element(word) == symbol


# ---------------------------------------------------------------- content


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["structure.txt", "crystal", "data.dat", "x.bak"])
def test_files_whose_names_say_nothing(form, name, tmp_path):
    text = rendered(form, tmp_path)
    assert guess_format(text) == form
    (tmp_path / name).write_text(text)
    (entry,) = read(tmp_path / name)
    assert is_cao(entry.crystal)
    assert entry.format == form


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "hello", "Dear editor,\nplease find\n", "1 2 3\n4 5 6\n", "{not json", "[1, 2, 3]",
     "data_x\nhello\n", "3\nhello\nworld\n", "x\n1.0\n1 0 0\n", "a,b,c\n1,2,3\n", "\x00\x01\x02", "5"],
)  # fmt: skip
def test_unclear_content(text, tmp_path, monkeypatch):
    assert guess_format(text) is None
    (tmp_path / "x.txt").write_text(text)
    (entry,) = read(tmp_path / "x.txt")
    assert entry.crystal is None
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    (entry,) = read("-")
    assert entry.crystal is None
    assert "unknown kind" in entry.reason or "empty" in entry.reason


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("8\n1.0\n4 0 0\n0 4 0\n0 0 4\nFe\n1\nDirect\n0 0 0\n", "poscar"),
        ("x\n-60\n4 0 0\n0 4 0\n0 0 4\n2\nDirect\n0 0 0\n0.5 0.5 0.5\n", "poscar"),
        ("\n1.0\n4 0 0\n0 4 0\n0 0 4\nFe Cr\nNi\n1 1\n1\nDirect\n0 0 0\n", "poscar"),
        ("[x]\n1.0D0\n4. 0. 0.\n0 4 0\n0 0 4\nFe\n1\nDirect\n0 0 0\n", "poscar"),
        ("\n\n1\n\nFe 0 0 0\n", "extxyz"),
        ("2\nlattice=[[4,0,0],[0,4,0],[0,0,4]]\nFe 0 0 0\n", "extxyz"),
        ('\n  [ {"lattice": 1}]', "json"),
        ("# by hand\nDATA_x\n  _cell_length_a 4\n", "cif"),
    ],
)
def test_content(text, form):
    assert guess_format(text) == form


def test_standard_input_of_many(monkeypatch):
    stream = io.StringIO()
    ase_write(stream, [bulk("Al"), bulk("Cu")], format="extxyz")
    cif = "".join(write_cif(a.numbers, a.positions, a.cell.array, "x") for a in (bulk("Al"), bulk("Cu")))
    for text in (stream.getvalue(), cif):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        entries = list(read("-"))
        assert [entry.crystal.get_chemical_formula() for entry in entries] == ["Al", "Cu"]
        assert all(entry.many for entry in entries)


# ---------------------------------------------------------------- JSON


def two(**options):
    return Structure(Lattice.cubic(4), ["Ca", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]], **options)


def json_entries(values, tmp_path):
    (tmp_path / "x.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return list(read(tmp_path / "x.json"))


def test_ways_to_hold_structures(tmp_path):
    one, other = two().as_dict(), two(properties={"id": 7}).as_dict()
    for values, ids in (
        (one, [None]),
        ([one, other], [None, 7]),
        ({"structure": one}, [None]),
        ({"structure": one, "id": "a", "energy": -1.0}, ["a"]),
        ([{"structure": one, "id": "a"}, {"id": 3, "structure": other}], ["a", 7]),
        ({"a": one, "b": other}, ["a", 7]),
        ({"a": {"structure": one}, "b": {"structure": other}}, ["a", 7]),
    ):
        entries = json_entries(values, tmp_path)
        assert [entry.crystal.properties.get("id") for entry in entries] == ids
        assert all(len(entry.crystal) == 2 for entry in entries)
    (entry,) = json_entries({"structure": one, "material_id": "mp-1", "entry_id": "e"}, tmp_path)
    assert entry.crystal.properties == {"material_id": "mp-1", "entry_id": "e"}
    entry = ComputedStructureEntry(two(), -1.0, entry_id="mp-2")
    assert crystal_of(json_entries(json.dumps(entry.as_dict()), tmp_path)).properties == {"entry_id": "mp-2"}


def test_a_bad_one_leaves_the_others(tmp_path):
    good, bad = two().as_dict(), two().as_dict()
    del bad["sites"][1]["abc"]
    first, second, third, last = json_entries([good, bad, {"a": 1}, good], tmp_path)
    assert "no complete pymatgen Structure (KeyError" in second.reason
    assert "no pymatgen Structure" in third.reason
    assert to_batch(first.crystal).n_atoms == to_batch(last.crystal).n_atoms == 2


@pytest.mark.parametrize(
    "values",
    [1, "x", None, [], {}, [1], [None], [[two().as_dict()]], {"lattice": 1, "sites": 2},
     {"lattice": {}, "sites": []}, {"lattice": None, "sites": [None]}, {"structure": None},
     {"structure": [1]}, "{", "[" * 5000, '{"a": 1} x', Molecule(["H"], [[0, 0, 0]]).as_dict()],
)  # fmt: skip
def test_no_structures(values, tmp_path):
    (entry,) = json_entries(values, tmp_path)
    assert entry.crystal is None
    assert entry.reason.isprintable()


def test_molecules_are_named(tmp_path):
    (entry,) = json_entries(Molecule(["H"], [[0, 0, 0]]).as_dict(), tmp_path)
    assert "class Molecule" in entry.reason


def test_objects_of_classes_stay_what_they_are(tmp_path):
    """Nothing is imported for them, and they are written again as they came."""
    values = two().as_dict()
    strange = {"@module": "evil_module", "@class": "Evil", "x": [1, {"@module": "os", "@class": "y"}]}
    values["properties"] = {"tool": strange}
    values["sites"][0]["properties"] = {"basis": strange, "coordination": 6}
    values["sites"][1]["properties"] = {"basis": None, "coordination": 4}
    structure = crystal_of(json_entries(values, tmp_path))
    assert structure.properties == {"tool": strange}
    assert structure.site_properties == {"basis": [strange, None], "coordination": [6, 4]}
    assert write(structure, tmp_path / "y.json", "json") == []
    again = json.loads((tmp_path / "y.json").read_text())
    assert again["properties"] == {"tool": strange}
    assert again["sites"][0]["properties"] == {"basis": strange, "coordination": 6}
    assert "evil_module" not in sys.modules


def test_spins_and_moments(tmp_path):
    sites = [[0, 0, 0], [0.5, 0.5, 0.5]]
    structure = Structure(
        Lattice.cubic(4),
        [Species("Fe", 2, spin=5), Species("Fe", None, spin=-5)],
        sites,
        site_properties={"magmom": [Magmom(1.0), Magmom([0, 1, 0])], "flags": np.eye(2)},
    )
    from monty.json import MontyEncoder

    text = json.dumps(structure.as_dict(), cls=MontyEncoder)
    again = crystal_of(json_entries(text, tmp_path))
    assert [site.specie for site in again] == [site.specie for site in structure]
    assert again.site_properties["magmom"] == [Magmom(1.0), Magmom([0, 1, 0])]
    assert again.site_properties["flags"] == [[1, 0], [0, 1]]
    # As older versions wrote spins.
    values = two().as_dict()
    values["sites"][0]["species"] = [
        {"element": "Fe", "oxidation_state": 3.0, "properties": {"spin": 5}, "occu": 1.0}
    ]
    assert crystal_of(json_entries(values, tmp_path))[0].specie == Species("Fe", 3, spin=5)


def test_derived_classes_are_read_as_structures(tmp_path):
    slab = SlabGenerator(two(), (1, 0, 0), 6, 10, primitive=False).get_slab()
    (entry,) = json_entries(json.dumps(slab.as_dict()), tmp_path)
    assert type(entry.crystal) is Structure
    assert len(entry.crystal) == len(slab)
    (remark,) = entry.remarks
    assert "data of Slab are not read" in remark
    assert "miller_index" in remark
    symmetrized = SpacegroupAnalyzer(two()).get_symmetrized_structure()
    assert write(symmetrized, tmp_path / "y.json", "json") == ["data of SymmetrizedStructure"]
    assert crystal_of(read(tmp_path / "y.json")) == two()
    assert Structure.from_file(tmp_path / "y.json") == two()
    assert write(slab, tmp_path / "z.json", "json") == []
    assert json.loads((tmp_path / "z.json").read_text())["miller_index"] == [1, 0, 0]
    assert len(Structure.from_file(tmp_path / "z.json")) == len(slab)


# ---------------------------------------------------------------- ASE's own formats


def test_databases(tmp_path):
    with connect(tmp_path / "x.db") as database:
        database.write(bulk("Al"), material_id="mp-1", gap=1.5)
        sliding = CAO.copy()
        sliding.set_constraint(FixScaled(1, [True, False, False]))
        database.write(sliding)
    first, second = read(tmp_path / "x.db")
    assert first.crystal.info == {"material_id": "mp-1", "gap": 1.5}
    assert fixed_coordinates(second.crystal)[1].tolist() == [True, False, False]
    assert [entry.format for entry in (first, second)] == ["extxyz"] * 2


def test_trajectories(tmp_path):
    noted = bulk("Cu")
    noted.info = {"note": "first line\nsecond line", 3: "three"}
    sliding = CAO.copy()
    sliding.set_constraint(FixScaled(4, [False, False, True]))
    ase_write(tmp_path / "x.traj", [bulk("Al"), noted, sliding])
    entries = list(read(tmp_path / "x.traj"))
    writer = ExtxyzWriter(tmp_path / "x.extxyz")
    for entry in entries:
        assert writer.append(entry.crystal) == []
    writer.close()
    again = list(read(tmp_path / "x.extxyz"))
    assert [len(entry.crystal) for entry in again] == [1, 1, 8]
    assert again[1].crystal.info["note"] == "first line\nsecond line"
    assert fixed_coordinates(again[2].crystal)[4].tolist() == [False, False, True]


# ---------------------------------------------------------------- anything


@given(data=st.data(), form=st.sampled_from(list(FORMS)))
def test_damaged_files_give_entries(data, form, tmp_path_factory):
    """Bytes that are lost, doubled or changed: a crystal or a reason in one line, and never an exception."""
    folder = tmp_path_factory.mktemp("damaged")
    raw = bytearray(rendered(form, folder).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        size = data.draw(st.integers(0, 30))
        raw[at : at + size] = data.draw(st.binary(max_size=10) | st.just(bytes(raw[at : at + size]) * 2))
    (folder / FORMS[form]).write_bytes(raw)
    for entry in read(folder / FORMS[form]):
        assert (entry.crystal is None) == (entry.reason is not None)
        if entry.reason is not None:
            assert "\n" not in entry.reason
            assert len(entry.reason) < 600
        else:
            assert is_atoms(entry.crystal) == (form != "json")


def test_names_that_no_file_can_have():
    (entry,) = read("a\x00b.cif")
    assert entry.crystal is None
    assert entry.reason


def test_entries_hold_what_was_read(tmp_path):
    write(CAO, tmp_path / "POSCAR", "poscar")
    with (tmp_path / "POSCAR").open("a") as stream:
        stream.write("\nsome notes\n")
    (entry,) = read(tmp_path / "POSCAR")
    assert isinstance(entry.crystal, Atoms)
    assert entry.remarks == ("text after the coordinates is not read",)
    assert copy.copy(entry).remarks == entry.remarks
