"""Extended XYZ that we write: any info and any column, and ASE reads the same again."""

import io
import math

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read as ase_read
from ase.io.extxyz import key_val_str_to_dict
from ase.spacegroup import Spacegroup
from hypothesis import given
from pymatgen.core import Lattice, Structure
from pymatgen.electronic_structure.core import Magmom

from repose.errors import InvalidCrystalError
from repose.io.comment_line import format_entry
from repose.io.files import ExtxyzWriter, write
from repose.io.kinds import to_jsonable
from support.rich_crystals import VALUES, entry, equal, rich_atoms, rich_structure


@pytest.mark.parametrize(
    ("info", "dropped", "kept"),
    [
        ({"lattice": "cubic"}, ["info: lattice"], {}),
        ({"Properties": "none"}, ["info: Properties"], {}),
        ({"PBC": 3}, ["info: PBC"], {}),
        ({"stress": "high"}, ["info: stress"], {}),
        ({"virial": [1, 2]}, ["info: virial"], {}),
        ({"energy": "low"}, ["info: energy"], {}),
        ({"x": {1, 2}}, ["info: x"], {}),
        ({"x": b"bytes"}, ["info: x"], {}),
        ({"x": object()}, ["info: x"], {}),
        ({"x": 1 + 2j}, ["info: x"], {}),
        ({"x": [[1], [1, 2]]}, ["info: x"], {}),
        ({"": 1}, ["info: "], {}),
        ({"a b": 1, "a_b": 2}, ["info: a_b"], {"a_b": 1}),
        ({"my key": "x"}, [], {"my_key": "x"}),
        ({1: 2, (1, 2): 3}, [], {"1": 2, "_1_2_": 3}),
        ({"spacegroup": Spacegroup(225)}, [], {"spacegroup": "F m -3 m"}),
        ({"x": np.float32(0.5), "y": np.int64(3), "z": np.bool_(True)}, [], {"x": 0.5, "y": 3, "z": True}),
        ({"x": 10**30, "y": -(10**30)}, [], {"x": 10**30, "y": -(10**30)}),
        ({"x": np.arange(6).reshape(2, 3)}, [], {"x": [[0, 1, 2], [3, 4, 5]]}),
        ({"x": (1, "a", None)}, [], {"x": [1, "a", None]}),
        ({"x": Magmom(2.0).as_dict()}, [], {"x": to_jsonable(Magmom(2.0))}),
    ],
)
def test_entries_of_extended_xyz(info, dropped, kept, tmp_path):
    atoms = bulk("Al")
    atoms.info = info
    assert write(atoms, tmp_path / "x.extxyz", "extxyz") == dropped
    assert to_jsonable(ase_read(tmp_path / "x.extxyz").info) == kept
    assert to_jsonable(entry(tmp_path / "x.extxyz").info) == kept


TEXTS = [
    "", " ", "x", "two words", "two\nlines", "a\r\nb", "tab\there", '"', "'", "\\", "a\\nb", "=", "a=b", "{}",
    "[1, 2]", "T", "False", "12", "007", "1e5", "nan", "1 2 3", "1,2", "_JSON {", "_JSON 1", "\u2028",
    "\x0b\x0c", "\x85", "\u00c5", "\ud800", "'a' \"b\" {c} [d]", "-", "Lattice=3", "energy",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_as_the_same_text(text, tmp_path):
    atoms = bulk("Al")
    atoms.info = {"note": text, "after": 1}
    assert write(atoms, tmp_path / "x.extxyz", "extxyz") == []
    assert len((tmp_path / "x.extxyz").read_text().splitlines()) == 3
    for again in (ase_read(tmp_path / "x.extxyz"), entry(tmp_path / "x.extxyz")):
        assert again.info == {"note": text, "after": 1}
    readable = text != "\ud800"  # half of a pair is no Unicode
    assert write(atoms, tmp_path / "x.json", "json") == ([] if readable else ["info: note"])
    if readable:
        assert Structure.from_file(tmp_path / "x.json").properties == {"note": text, "after": 1}
        assert entry(tmp_path / "x.json").properties == {"note": text, "after": 1}


@pytest.mark.parametrize(
    ("name", "values", "kept"),
    [
        ("x", [1.5, 2.5], True),
        ("x", [1e-12, 1e300], True),
        ("x", [np.nan, np.inf], True),
        ("x", [1, 2], True),
        ("x", [2**40, -(2**40)], True),
        ("x", [2**60 + 1, 0], False),
        ("x", [True, False], True),
        ("x", ["a", "bc"], True),
        ("x", ["a", "b c"], False),
        ("x", ["a", ""], False),
        ("x", [[1, 2], [3, 4]], True),
        ("x", np.zeros((2, 2, 2)), False),
        ("x", np.zeros((2, 0)), False),
        ("x", np.array([None, 1], dtype=object), False),
        ("x", [1 + 2j, 0], False),
        ("pos", [1, 2], False),
        ("Z", [1, 2], False),
        ("species", ["a", "b"], False),
        ("move_mask", ["yes", "no"], False),
        ("forces", ["a", "b"], False),
        ("charge", [1, 2], False),
    ],
)
def test_columns_of_extended_xyz(name, values, kept, tmp_path):
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.arrays[name] = np.asarray(values)
    dropped = write(atoms, tmp_path / "x.extxyz", "extxyz")
    assert dropped == ([] if kept else [f"site property: {name}"])
    for again in (ase_read(tmp_path / "x.extxyz"), entry(tmp_path / "x.extxyz")):
        assert again.get_chemical_symbols() == ["Mg", "O"]
        if kept:
            np.testing.assert_array_equal(again.arrays[name], values)


@given(value=VALUES)
def test_entries_read_back(value):
    text = format_entry("key", value)
    if text is not None:
        assert "\n" not in text
        assert equal(key_val_str_to_dict(text)["key"], value)
    elif not isinstance(value, list | dict):
        raise AssertionError(f"{value!r} has no entry")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"), (np.float64(0.5), "0.5"), (np.float32(0.5), "0.5"), (3, "3"), (np.int64(3), "3"),
        (True, "T"), (np.bool_(False), "F"), ("mp-1", "mp-1"), ("two words", '"two words"'),
        (np.array([1, 2]), '"1 2"'), (np.array([0.5, 2]), '"0.5 2.0"'), (np.array([True, False]), '"T F"'),
        (float("nan"), "nan"), (np.eye(2), '"_JSON [[1.0, 0.0], [0.0, 1.0]]"'),
    ],
)  # fmt: skip
def test_entries_that_every_program_reads(value, text):
    """JSON only where there is nothing plainer."""
    assert format_entry("key", value) == f"key={text}"


def test_many_in_one_file(tmp_path):
    writer = ExtxyzWriter(tmp_path / "x.extxyz")
    assert writer.append(rich_atoms()) == []
    assert writer.append(rich_structure()) == []
    assert writer.append(bulk("Al")) == []
    assert not (tmp_path / "x.extxyz").exists()
    writer.close()
    frames = ase_read(tmp_path / "x.extxyz", index=":")
    assert [atoms.info.get("material_id") for atoms in frames] == ["mp-1", "mp-1", None]
    assert frames[0].info["note"] == "two\nlines"


def test_a_crystal_that_cannot_be_written_leaves_the_others(tmp_path):
    disordered = Structure(Lattice.cubic(4), [{"Fe": 0.5}], [[0, 0, 0]])
    writer = ExtxyzWriter(tmp_path / "x.extxyz")
    writer.append(bulk("Al"))
    with pytest.raises(InvalidCrystalError, match="partial occupancy"):
        writer.append(disordered)
    writer.append(bulk("Cu"))
    writer.close()
    assert [atoms.get_chemical_formula() for atoms in ase_read(tmp_path / "x.extxyz", index=":")] == [
        "Al",
        "Cu",
    ]


def test_columns_that_would_share_a_name(tmp_path):
    atoms = bulk("Al")
    atoms.arrays |= {"x": np.ones((1, 2)), "x1": np.ones(1), "a b": np.ones(1), "a_b": np.ones(1)}
    dropped = write(atoms, tmp_path / "x.extxyz", "extxyz")
    assert dropped == ["site property: x1", "site property: a_b"]
    assert ase_read(tmp_path / "x.extxyz").arrays["x"].tolist() == [[1, 1]]


def test_numbers_keep_all_digits(tmp_path):
    atoms = bulk("Al")
    atoms.info = {"x": math.pi, "y": np.array([math.pi, 1 / 3])}
    atoms.set_array("z", np.array([1 / 3]))
    write(atoms, tmp_path / "x.extxyz", "extxyz")
    again = ase_read(io.StringIO((tmp_path / "x.extxyz").read_text()), format="extxyz")
    assert again.info["x"] == math.pi
    assert again.info["y"].tolist() == [math.pi, 1 / 3]
    assert again.arrays["z"][0] == 1 / 3
