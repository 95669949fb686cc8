"""Importers: whatever the files did to a crystal, the same pair comes back; what is broken is named."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from hypothesis import given
from hypothesis import strategies as st

from repose.data.importers import Source, detect, find_sources, import_extxyz, import_source, import_sources
from repose.data.matching import match, rotation_angle, stretch_and_rotation
from repose.data.pairing import Refusal, path_to_pair, states_to_pair
from repose.data.splits import GroupSplit
from repose.data.store import Pair
from repose.errors import DatasetError, InvalidCrystalError

PATHS = Path(__file__).parent / "data" / "paths.extxyz"
IDS = [
    *("xmno-531-00125", "xmno-531-00140", "xmno-531-00149"),
    *("bulk-031-00159", "subst-042-00124", "subst-042-00236"),
]
REFERENCE = {pair.id: pair for pair in import_extxyz(PATHS) if isinstance(pair, Pair)}
seeds = st.integers(0, 2**31)


def states(pair: Pair) -> tuple[Atoms, Atoms]:
    return (
        Atoms(pair.numbers, pair.positions, cell=pair.cell, pbc=pair.pbc),
        Atoms(pair.numbers, pair.relaxed_positions, cell=pair.relaxed_cell, pbc=pair.pbc),
    )


def random_states(rng, n_atoms=None, amplitude=0.3) -> tuple[Atoms, Atoms]:
    """Two atoms never nearer than 1.6 A; the relaxed ones moved by less than half of that."""
    n = n_atoms or int(rng.integers(1, 9))
    while True:
        cell = (np.eye(3) + rng.uniform(-0.5, 0.5, (3, 3))) * rng.uniform(4.0, 7.0)
        if np.linalg.det(cell) < 20 * n:
            continue
        unrelaxed = Atoms(rng.choice([8, 22, 38], n), rng.normal(scale=8, size=(n, 3)), cell=cell, pbc=True)
        distances = unrelaxed.get_all_distances(mic=True) + 9 * np.eye(n)
        if distances.min() > 1.6:
            break
    stretch = np.eye(3) + 0.06 * (noise := rng.uniform(-1, 1, (3, 3))) + 0.06 * noise.T
    step = rng.normal(size=(n, 3))
    step *= amplitude * rng.random((n, 1)) / np.linalg.norm(step, axis=1, keepdims=True)
    relaxed = unrelaxed.copy()
    relaxed.set_cell(cell @ stretch, scale_atoms=True)
    relaxed.positions += step
    return unrelaxed, relaxed


def rotation(rng) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def assert_same(pair: Pair, expected: Pair, tolerance=1e-8):
    np.testing.assert_array_equal(pair.numbers, expected.numbers)
    for name in ("positions", "cell", "relaxed_positions", "relaxed_cell"):
        np.testing.assert_allclose(
            getattr(pair, name), getattr(expected, name), rtol=0, atol=tolerance, err_msg=name
        )


def split_up(items):
    items = list(items)
    return [i for i in items if isinstance(i, Pair)], [i for i in items if isinstance(i, Refusal)]


# ---- matching


@given(seeds)
def test_order_images_and_orientation_of_the_relaxed_file_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    unrelaxed, relaxed = random_states(rng)
    expected = states_to_pair("x", unrelaxed, relaxed)
    np.testing.assert_allclose(expected.relaxed_positions, relaxed.positions, rtol=0, atol=1e-9)
    other = relaxed[rng.permutation(len(relaxed))]
    other.positions += rng.integers(-3, 4, (len(other), 3)) @ other.cell.array
    turn = rotation(rng)
    other.set_cell(other.cell.array @ turn)
    other.positions = other.positions @ turn
    assert_same(states_to_pair("x", unrelaxed, other), expected)


@given(seeds)
def test_a_rigid_shift_of_the_file_is_removed(seed):
    rng = np.random.default_rng(seed)
    unrelaxed, relaxed = random_states(rng, n_atoms=6, amplitude=0.15)
    shifted = relaxed[rng.permutation(6)]
    shifted.positions += rng.uniform(0.3, 0.7, 3) @ shifted.cell.array
    pair = states_to_pair("x", unrelaxed, shifted)
    delta = pair.relaxed_positions - relaxed.positions
    # The same crystal but for a translation, by which its displacements have no mean.
    np.testing.assert_allclose(delta, np.broadcast_to(delta.mean(axis=0), delta.shape), rtol=0, atol=1e-9)
    assert pair.tags["origin"] == "shifted"
    moved = pair.relaxed_positions @ np.linalg.inv(pair.relaxed_cell) - pair.positions @ np.linalg.inv(
        pair.cell
    )
    np.testing.assert_allclose(moved.mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("name", IDS)
def test_real_crystals_come_back_from_shuffled_and_wrapped_files(name):
    rng = np.random.default_rng(0)
    unrelaxed, relaxed = states(REFERENCE[name])
    order = rng.permutation(len(relaxed))
    shuffled = relaxed[order]
    shuffled.wrap()
    pair = states_to_pair(name, unrelaxed, shuffled, align=False)
    assert_same(pair, REFERENCE[name])
    assert pair.tags["atom_order"] == "matched"
    wrapped = relaxed.copy()
    wrapped.wrap()
    pair = states_to_pair(name, unrelaxed, wrapped, align=False)
    assert_same(pair, REFERENCE[name])
    assert pair.tags == {}


def test_the_assignment_is_the_best_of_all():
    """Against brute force, with displacements as large as the crystal's distances."""
    from itertools import permutations

    from ase.geometry import find_mic

    rng = np.random.default_rng(3)
    for _ in range(20):
        cell = (np.eye(3) + rng.uniform(-0.6, 0.6, (3, 3))) * 4
        before, after = rng.random((2, 4, 3))
        # Other species order: the file's own cannot be kept.
        found = match(np.array([8, 8, 8, 12]), before, np.array([12, 8, 8, 8]), after, cell, np.ones(3, bool))
        if found.shift.any():
            continue

        def cost(order):
            return (find_mic((after[list(order)] - before) @ cell, cell)[1] ** 2).sum()  # noqa: B023

        assert cost(found.order) == pytest.approx(min(cost((*p, 0)) for p in permutations((1, 2, 3))))


def test_the_nearest_image_is_exact_in_a_skewed_cell():
    """Rounding fractional differences would be wrong here."""
    cell = np.array([[3.0, 0, 0], [2.9, 1.2, 0], [0.3, 2.0, 4.0]])
    rng = np.random.default_rng(1)
    before, after = rng.random((2, 1, 3)) - [[0.5, 0.5, 0]]
    found = match(np.array([8]), before, np.array([8]), after, cell, np.ones(3, bool))
    shifts = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 3), -1).reshape(-1, 3)
    lengths = np.linalg.norm((after - before + shifts) @ cell, axis=1)
    assert np.linalg.norm((after + found.images - found.shift - before) @ cell) <= lengths.min() + 1e-12


def test_a_swelling_cell_does_not_tear_atoms_off():
    """Far from the origin an atom moves by more than half a cell, only because the cell grows."""
    unrelaxed = Atoms("Ar2", [[0.1, 0, 0], [29.0, 2, 2]], cell=[30, 4, 4], pbc=True)
    relaxed = unrelaxed.copy()
    relaxed.set_cell(unrelaxed.cell * 1.6, scale_atoms=True)
    expected = relaxed.positions.copy()
    relaxed.wrap()
    pair = states_to_pair("Ar", unrelaxed, relaxed)
    np.testing.assert_allclose(pair.relaxed_positions, expected, atol=1e-12)


def test_directions_without_period_are_not_wrapped():
    unrelaxed = Atoms("ArNe", [[0, 0, 1], [1.5, 1.5, 1]], cell=[3, 3, 4], pbc=[True, True, False])
    relaxed = unrelaxed.copy()
    relaxed.positions[1] += [3.0, -6.0, 2.5]
    pair = states_to_pair("sheet", unrelaxed, relaxed)
    np.testing.assert_allclose(pair.relaxed_positions - pair.positions, [[0, 0, 0], [0, 0, 2.5]], atol=1e-12)


@given(seeds)
def test_what_is_left_after_alignment_is_a_symmetric_stretch(seed):
    rng = np.random.default_rng(seed)
    unrelaxed, relaxed = random_states(rng)
    turn = rotation(rng)
    relaxed.set_cell(relaxed.cell.array @ turn)
    relaxed.positions = relaxed.positions @ turn
    pair = states_to_pair("x", unrelaxed, relaxed)
    gradient = np.linalg.solve(pair.cell, pair.relaxed_cell)
    np.testing.assert_allclose(gradient, gradient.T, atol=1e-9)
    kept = states_to_pair("x", unrelaxed, relaxed, align=False)
    np.testing.assert_array_equal(kept.relaxed_cell, relaxed.cell.array)


def test_small_rotations_are_measured_and_kept():
    angle = 5e-4
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    assert rotation_angle(turn) == pytest.approx(angle, rel=1e-6)
    unrelaxed = Atoms("Ar", cell=4 * np.eye(3), pbc=True)
    relaxed = Atoms("Ar", cell=4 * turn, pbc=True)
    np.testing.assert_array_equal(states_to_pair("x", unrelaxed, relaxed).relaxed_cell, 4 * turn)


def test_cells_of_other_handedness_are_refused():
    with pytest.raises(InvalidCrystalError, match="handedness"):
        stretch_and_rotation(np.eye(3), np.eye(3)[[1, 0, 2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:-1], "compositions differ"),
        (lambda a: make_supercell(a, np.diag([2, 1, 1])), "a multiple of the other"),
        (lambda a: a.set_positions(a.positions * np.nan), "not finite"),
        (lambda a: a.set_cell(np.zeros((3, 3))), "without volume"),
        (lambda a: a.positions.__setitem__(1, a.positions[0] + 0.1), "atoms 0 and 1 .* 0.17 A apart"),
        (lambda a: a.numbers.__setitem__(0, 0), "no known element"),
        (lambda a: a[:0], "no atoms"),
    ],
)
def test_what_is_not_a_pair_is_refused(change, message):
    unrelaxed, relaxed = states(REFERENCE[IDS[0]])
    changed = change(relaxed)
    with pytest.raises(InvalidCrystalError, match=message):
        states_to_pair("x", unrelaxed, relaxed if changed is None else changed)


def test_a_composition_that_differs_is_told_with_both_formulas():
    with pytest.raises(InvalidCrystalError, match=r"unrelaxed ClNa but relaxed Na2"):
        states_to_pair(
            "x", *(Atoms(f, [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True) for f in ("NaCl", "Na2"))
        )


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
def test_frames_may_stand_in_any_order(tmp_path_factory, seed):
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
    """Streaming: after the first crystal only its own frames have been parsed."""
    import ase.io.extxyz as module

    parsed, original = [], module.read_xyz
    monkeypatch.setattr(module, "read_xyz", lambda *a, **k: parsed.append(1) or original(*a, **k))
    first = next(iter(import_extxyz(PATHS)))
    assert len(parsed) == len(first.path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_off_loses_only_the_crystal_it_cuts(tmp_path, compressed):
    """The last crystal has lost its relaxed end: as a pair it would teach a wrong state."""
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
    """Cut between two frames nothing looks broken, but n_steps tells."""
    frames = [
        a for a in frames_of_file() if not (a.info["id"] == IDS[1] and a.info["step"] == a.info["n_steps"])
    ]
    write(tmp_path / "x.extxyz", frames, format="extxyz")
    pairs, refused = split_up(import_extxyz(tmp_path / "x.extxyz"))
    assert len(pairs) == 5
    (refusal,) = refused
    assert refusal.id == IDS[1]
    assert "relaxed state is missing" in refusal.reason


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
        (break_number, IDS[0], "frame 0 cannot be read"),
        (drop_id, "x.extxyz", "no id="),
        (swap_species, IDS[0], "same atoms"),
        (repeat_step, IDS[0], "appears twice"),
    ],
)
def test_a_broken_frame_costs_only_its_own_crystal(tmp_path, spoil, fault, message):
    lines = PATHS.read_text().splitlines()
    spoil(lines)
    (tmp_path / "x.extxyz").write_text("\n".join(lines) + "\n")
    pairs, refused = split_up(import_extxyz(tmp_path / "x.extxyz"))
    assert {p.id for p in pairs} >= set(IDS[1:])
    assert refused[0].id == fault
    assert message in refused[0].reason


def test_an_id_in_two_files_is_refused_and_named(tmp_path):
    write(tmp_path / "again.extxyz", [a for a in frames_of_file() if a.info["id"] == IDS[2]], format="extxyz")
    sources = find_sources([PATHS, tmp_path])
    pairs, refused = split_up(import_sources(sources, assign=GroupSplit()))
    assert len(pairs) == 6
    (refusal,) = refused
    assert refusal.id == IDS[2]
    assert "again.extxyz" in refusal.reason
    assert str(PATHS) in refusal.reason


def test_one_frame_is_no_path():
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
    "xmno": (".", "{}_unrelaxed", "{}_relaxed"),
}
SPLIT_OF = dict(zip(IDS, ("train", "train", "val", "train", "test", "test"), strict=True))


def make_layout(root: Path, layout: str) -> Path:
    """Real crystals as the published archives have them."""
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
    assert detect(root) == "cif-pairs"
    pairs, refused = split_up(import_sources(find_sources([root])))
    assert not refused
    assert {p.id: p.split for p in pairs} == SPLIT_OF
    for pair in pairs:
        expected = REFERENCE[pair.id]
        np.testing.assert_array_equal(pair.numbers, expected.numbers)
        # CIF forgets the orientation: what is invariant must be the same, to the digits of the file.
        for mine, theirs in zip(states(pair), states(expected), strict=True):
            np.testing.assert_allclose(mine.cell.cellpar(), theirs.cell.cellpar(), atol=2e-4)
            np.testing.assert_allclose(
                mine.get_all_distances(mic=True), theirs.get_all_distances(mic=True), atol=2e-3
            )
        # Displacements beyond the cell's deformation, in the frame of the cell.
        mine, theirs = (
            p.relaxed_positions @ np.linalg.inv(p.relaxed_cell) - p.positions @ np.linalg.inv(p.cell)
            for p in (pair, expected)
        )
        np.testing.assert_allclose(mine, theirs, atol=2e-4)
        if layout != "xmno":
            assert pair.tags["formula"].startswith("F")


def test_faults_of_cif_pairs_are_named_and_cost_no_other_crystal(tmp_path):
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
    assert "partially occupied" in reasons[IDS[2]]
    assert str(relaxed[3]) in reasons[IDS[3]]
    assert "train.csv and test.csv" in reasons[IDS[4]]


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
    assert detect(path) == "ase-db"
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


def test_a_database_without_the_convention_is_told_it(tmp_path):
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
    assert detect(path) == "pymatgen-json"
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


def test_faulty_entries_cost_no_other(tmp_path):
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
