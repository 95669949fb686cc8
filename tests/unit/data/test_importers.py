"""Importers: every layout gives the same pairs, and errors name the broken crystal."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from hypothesis import given
from hypothesis import strategies as st

from repose.data.importers import extxyz
from repose.data.importers.extxyz import import_extxyz
from repose.data.importers.formats import Source, detect_format, find_sources, import_source, import_sources
from repose.data.pairing import Refusal, path_to_pair
from repose.data.splits import GroupSplit
from repose.errors import DatasetError
from support.reference_pairs import IDS, PATHS, REFERENCE, assert_same, split_up, states

seeds = st.integers(0, 2**31)


# ---- extended XYZ


def test_paths_keep_energies_forces_stresses_and_continuity():
    pairs, refused = split_up(import_extxyz(PATHS))
    assert [p.id for p in pairs] == IDS
    assert not refused
    text = PATHS.read_text().splitlines()
    pair = pairs[0]
    frames = [a for a in read(PATHS, ":") if a.info["id"] == pair.id]
    assert len(pair.path) == len(frames) == 9
    # The numbers of the first comment line, read by hand.
    assert f"energy={pair.path[0].energy!r}" in text[1]
    stress = text[1].split('stress="')[1].split('"')[0].split()
    np.testing.assert_array_equal(pair.path[0].stress, np.array(stress, dtype=float).reshape(3, 3).T)
    np.testing.assert_array_equal(
        pair.path[0].forces, [[float(x) for x in s.split()[4:7]] for s in text[2:9]]
    )
    assert pair.tags == {"prototype": "AB5C_tP7_123_b_ci_a", "severity": "severe", "start": "symmetric"}
    np.testing.assert_array_equal(pair.relaxed_positions, frames[-1].positions)
    np.testing.assert_array_equal(pair.relaxed_cell, frames[-1].cell.array)
    assert pair.path[-1].energy < pair.path[0].energy


def frames_of_file():
    return read(PATHS, ":")


@given(seeds)
def test_frames_may_be_in_any_order(tmp_path_factory, seed):
    frames = frames_of_file()
    path = tmp_path_factory.mktemp("shuffled") / "shuffled.extxyz"
    write(path, [frames[k] for k in np.random.default_rng(seed).permutation(len(frames))], format="extxyz")
    pairs, refused = split_up(import_extxyz(path))
    assert not refused
    assert {p.id for p in pairs} == set(IDS)
    for pair in pairs:
        assert_same(pair, REFERENCE[pair.id])
        assert len(pair.path) == len(REFERENCE[pair.id].path)


def test_crystals_are_yielded_as_they_are_read(monkeypatch):
    """When the first crystal is yielded, only its own frames have been parsed."""
    parsed, original = [], extxyz.parse_frame
    monkeypatch.setattr(extxyz, "parse_frame", lambda frame: parsed.append(1) or original(frame))
    first = next(iter(import_extxyz(PATHS)))
    assert len(parsed) == len(first.path)


@pytest.mark.parametrize("compressed", [False, True])
def test_in_a_file_that_is_cut_off_only_the_incomplete_crystal_is_refused(tmp_path, compressed):
    """The last crystal lacks its relaxed structure; as a pair it would be a wrong training target."""
    content = PATHS.read_bytes()
    path = tmp_path / ("cut.extxyz.gz" if compressed else "cut.extxyz")
    if compressed:
        whole = gzip.compress(content + content.replace(b"id=", b"id=second-"))
        path.write_bytes(whole[:-2000])
    else:
        path.write_bytes(content[:-500])
    pairs, refused = split_up(import_extxyz(path))
    good = {p.id for p in pairs}
    assert set(IDS[:-1]) <= good
    assert [r.id for r in refused][-1] == path.name
    lost = refused[0].id
    assert lost not in good
    assert "cut off" in refused[0].reason
    for pair in pairs:
        assert_same(pair, REFERENCE[pair.id.removeprefix("second-")])


def test_a_path_that_ends_before_its_relaxed_state_is_refused(tmp_path):
    """A file that is cut between two frames is detected by n_steps."""
    frames = [
        a for a in frames_of_file() if not (a.info["id"] == IDS[1] and a.info["step"] == a.info["n_steps"])
    ]
    write(tmp_path / "x.extxyz", frames, format="extxyz")
    pairs, refused = split_up(import_extxyz(tmp_path / "x.extxyz"))
    assert len(pairs) == 5
    (refusal,) = refused
    assert refusal.id == IDS[1]
    assert "relaxed structure is missing" in refusal.reason


def break_number(lines):
    lines[3] = lines[3].replace("0.", "zero.")


def drop_id(lines):
    lines[1] = lines[1].replace("id=", "material_id=")


def swap_species(lines):
    lines[2] = "Xe" + lines[2][2:]


def repeat_step(lines):
    lines[1] = lines[1].replace("step=0", "step=99999 n_steps=99999")
    lines.extend(lines[:9])


@pytest.mark.parametrize(
    ("spoil", "fault", "message"),
    [
        (break_number, IDS[0], "frame 0: it cannot be read"),
        (drop_id, "x.extxyz", "no id="),
        (swap_species, IDS[0], "same atoms"),
        (repeat_step, IDS[0], "appears twice"),
    ],
)
def test_a_broken_frame_affects_only_its_own_crystal(tmp_path, spoil, fault, message):
    lines = PATHS.read_text().splitlines()
    spoil(lines)
    (tmp_path / "x.extxyz").write_text("\n".join(lines) + "\n")
    pairs, refused = split_up(import_extxyz(tmp_path / "x.extxyz"))
    assert {p.id for p in pairs} >= set(IDS[1:])
    assert refused[0].id == fault
    assert message in refused[0].reason


def test_an_id_in_two_files_is_refused(tmp_path):
    write(tmp_path / "again.extxyz", [a for a in frames_of_file() if a.info["id"] == IDS[2]], format="extxyz")
    sources = find_sources([PATHS, tmp_path])
    pairs, refused = split_up(import_sources(sources, assign=GroupSplit()))
    assert len(pairs) == 6
    (refusal,) = refused
    assert refusal.id == IDS[2]
    assert "again.extxyz" in refusal.reason
    assert str(PATHS) in refusal.reason


def test_one_frame_is_not_a_path():
    with pytest.raises(DatasetError, match="1 frame"):
        path_to_pair("x", [states(REFERENCE[IDS[0]])[0]])


@pytest.mark.parametrize("content", [b"", b"\x00\xff\x13binary", b"not a number\n"])
def test_files_that_are_not_extended_xyz_are_refusals(tmp_path, content):
    (tmp_path / "x.extxyz").write_bytes(content)
    (refusal,) = import_source(Source(tmp_path / "x.extxyz", "extxyz"))
    assert isinstance(refusal, Refusal)
    assert refusal.id == "x.extxyz"


# ---- folders of CIF pairs

LAYOUTS = {
    "c2db": ("CIF", "{}_unrelaxed", "{}_relaxed"),
    "mp": ("CIF", "{}_U", "{}_R"),
    "defects": ("CIF_POSCAR", "{}_unrelaxed", "{}_relaxed"),
    "xmno": (".", "{}_unrelaxed", "{}_relaxed"),
}
SPLIT_OF = dict(zip(IDS, ("train", "train", "val", "train", "test", "test"), strict=True))


def make_layout(root: Path, layout: str) -> Path:
    """Write real crystals in a layout of the published archives."""
    folder, before, after = LAYOUTS[layout]
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, pair in REFERENCE.items():
        for pattern, atoms in zip((before, after), states(pair), strict=True):
            write(root / folder / f"{pattern.format(name)}.cif", atoms, format="cif")
    for split in ("train", "val", "test"):
        names = [name for name in IDS if SPLIT_OF[name] == split]
        if layout == "xmno":
            rows = [(f"{name}_{state}", -1.5) for name in names for state in ("unrelaxed", "relaxed")]
            target = root / f"id_prop_{split}_all.csv"
        else:
            title = "mp_id" if layout == "mp" else "atoms_id"
            rows = [("", title, "formula"), *((k, name, f"F{k}") for k, name in enumerate(names))]
            target = root / f"{split}.csv"
        with target.open("w", newline="") as handle:
            csv.writer(handle).writerows(rows)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_of_cif_pairs(tmp_path, layout):
    root = make_layout(tmp_path / layout, layout)
    assert detect_format(root) == "cif-pairs"
    pairs, refused = split_up(import_sources(find_sources([root])))
    assert not refused
    assert {p.id: p.split for p in pairs} == SPLIT_OF
    for pair in pairs:
        expected = REFERENCE[pair.id]
        np.testing.assert_array_equal(pair.numbers, expected.numbers)
        # CIF has no orientation: invariants must be equal to the digits of the file.
        for mine, theirs in zip(states(pair), states(expected), strict=True):
            np.testing.assert_allclose(mine.cell.cellpar(), theirs.cell.cellpar(), atol=2e-4)
            np.testing.assert_allclose(
                mine.get_all_distances(mic=True), theirs.get_all_distances(mic=True), atol=2e-3
            )
        # Displacements in fractional coordinates.
        mine, theirs = (
            p.relaxed_positions @ np.linalg.inv(p.relaxed_cell) - p.positions @ np.linalg.inv(p.cell)
            for p in (pair, expected)
        )
        np.testing.assert_allclose(mine, theirs, atol=2e-4)
        if layout != "xmno":
            assert pair.tags["formula"].startswith("F")


def test_errors_of_cif_pairs_affect_no_other_crystal(tmp_path):
    root = make_layout(tmp_path / "c2db", "c2db")
    cifs = root / "CIF"
    relaxed = [cifs / f"{name}_relaxed.cif" for name in IDS]
    relaxed[0].write_text(relaxed[0].read_text()[:300])  # truncated
    relaxed[1].unlink()
    relaxed[2].write_text(relaxed[2].read_text().replace(" 1.0000", " 0.5000"))  # partial occupancy
    relaxed[3].write_bytes(b"\x00\x01\x02\xff")
    with (root / "train.csv").open("a") as handle:
        handle.write(f"9,{IDS[4]},leaks\n")
    pairs, refused = split_up(import_sources(find_sources([root])))
    assert [p.id for p in pairs] == [IDS[5]]
    reasons = {r.id: r.reason for r in refused}
    assert reasons.keys() == set(IDS[:5])
    assert f"{IDS[1]}_unrelaxed.cif" in reasons[IDS[1]]
    assert "partial occupancy" in reasons[IDS[2]]
    assert str(relaxed[3]) in reasons[IDS[3]]
    assert "train.csv and test.csv" in reasons[IDS[4]]


def test_crystals_in_no_table_are_counted(tmp_path):
    root = make_layout(tmp_path / "c2db", "c2db")
    (root / "val.csv").unlink()
    with pytest.warns(UserWarning, match=rf"has no val\.csv; crystals in no table .* 1, e\.g\. {IDS[2]}"):
        pairs, refused = split_up(import_sources(find_sources([root])))
    assert not refused
    assert {p.id for p in pairs} == set(IDS) - {IDS[2]}


def test_a_folder_without_tables_has_no_split(tmp_path):
    root = make_layout(tmp_path / "mp", "mp")
    for table in root.glob("*.csv"):
        table.unlink()
    sources = find_sources([root])
    assert len(split_up(import_sources(sources, assign=GroupSplit()))[0]) == 6
    pairs, refused = split_up(import_sources(sources))
    assert not pairs
    assert "names no split" in refused[0].reason


# ---- ASE databases


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_ase_databases_of_pairs_and_paths(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    with connect(path, use_lock_file=False) as database:
        for name in IDS[:2]:
            before, after = states(REFERENCE[name])
            after.wrap()
            database.write(after, pair=name, state="relaxed")
            database.write(before, pair=name, state="unrelaxed", split="val", family="oxide")
        for k, frame in enumerate(REFERENCE[IDS[3]].path):
            atoms = Atoms(REFERENCE[IDS[3]].numbers, frame.positions, cell=frame.cell, pbc=True)
            stress = frame.stress.ravel()[[0, 4, 8, 5, 2, 1]]
            atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces, stress=stress)
            database.write(atoms, pair=IDS[3], step=k)
        database.write(before, pair="half", state="unrelaxed")
        database.write(before, pair="other", state="melted")
        database.write(before)
    assert detect_format(path) == "ase-db"
    pairs, refused = split_up(import_source(Source(path, "ase-db")))
    assert [p.id for p in pairs] == [IDS[0], IDS[1], IDS[3]]
    for pair in pairs:
        assert_same(pair, REFERENCE[pair.id])
    assert (pairs[0].split, pairs[0].tags) == ("val", {"family": "oxide"})
    for mine, theirs in zip(pairs[2].path, REFERENCE[IDS[3]].path, strict=True):
        assert mine.energy == pytest.approx(theirs.energy, abs=1e-9)
        np.testing.assert_allclose(mine.stress, theirs.stress, atol=1e-6)
    assert [r.id for r in refused] == ["half", "other"]
    assert "'melted'" in refused[1].reason


def test_a_database_without_the_key_pair_is_refused(tmp_path):
    with connect(tmp_path / "x.db", use_lock_file=False) as database:
        database.write(states(REFERENCE[IDS[0]])[0])
    (refusal,) = import_source(Source(tmp_path / "x.db", "ase-db"))
    assert "pair=NAME" in refusal.reason


# ---- pymatgen JSON


def entry(name, keys=("unrelaxed", "relaxed")):
    from pymatgen.io.ase import AseAtomsAdaptor

    return {
        k: AseAtomsAdaptor.get_structure(a).as_dict()
        for k, a in zip(keys, states(REFERENCE[name]), strict=True)
    }


def forms():
    listed = [{"id": name, "split": "test", "source": "ICSD", **entry(name)} for name in IDS[:3]]
    mapped = {name: entry(name, ("initial", "final")) for name in IDS[:3]}
    return {
        "list.json": json.dumps(listed),
        "map.json": json.dumps(mapped),
        "list.json.gz": json.dumps(listed),
        "lines.jsonl": "\n".join(map(json.dumps, listed)),
        "lines.jsonl.gz": "\n".join(map(json.dumps, listed)),
    }


def write_text(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", forms())
def test_forms_of_pymatgen_json(tmp_path, name):
    path = write_text(tmp_path / name, forms()[name])
    assert detect_format(path) == "pymatgen-json"
    pairs, refused = split_up(import_source(Source(path, "pymatgen-json"), align=False))
    assert not refused
    assert [p.id for p in pairs] == IDS[:3]
    for pair in pairs:
        assert_same(pair, REFERENCE[pair.id])
        if not name.startswith("map"):
            assert (pair.split, pair.tags) == ("test", {"source": "ICSD"})


def test_one_entry_alone(tmp_path):
    path = write_text(tmp_path / "one.json", json.dumps({"material_id": "mp-1", **entry(IDS[0])}))
    (pair,) = import_source(Source(path, "pymatgen-json"), align=False)
    assert pair.id == "mp-1"
    assert_same(pair, REFERENCE[IDS[0]])


def test_invalid_entries_affect_no_other(tmp_path):
    disordered = entry(IDS[0])
    disordered["relaxed"]["sites"][0]["species"][0]["occu"] = 0.5
    lines = [
        json.dumps({"id": "good", **entry(IDS[0])}),
        json.dumps({"id": "disordered", **disordered}),
        "{ not JSON",
        json.dumps({"id": "alone", "unrelaxed": entry(IDS[0])["unrelaxed"]}),
        json.dumps({"id": "wrong", "unrelaxed": {}, "relaxed": {}}),
        json.dumps({"id": "good too", **entry(IDS[1])}),
    ]
    path = write_text(tmp_path / "x.jsonl", "\n".join(lines))
    pairs, refused = split_up(import_source(Source(path, "pymatgen-json")))
    assert [p.id for p in pairs] == ["good", "good too"]
    assert [r.id for r in refused] == ["disordered", "x.jsonl#2", "alone", "wrong"]
    for refusal, word in zip(refused, ("partially", "not JSON", "no relaxed", "not a pymatgen"), strict=True):
        assert word in refusal.reason


# ---- finding sources


def test_unknown_formats_and_files_are_refused(tmp_path):
    (tmp_path / "x.cif.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for path, kind, message in (
        (tmp_path / "x.cif.txt", "auto", "--format"),
        (tmp_path / "empty", "auto", "nothing to import"),
        (tmp_path / "missing", "auto", "does not exist"),
        (PATHS, "xyz", "format must be"),
    ):
        with pytest.raises(DatasetError, match=message):
            find_sources([path], kind)
