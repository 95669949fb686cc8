"""Pairs by substitution: geometry of the parent, elements of the target, atom by atom."""

import csv
import gzip
import json

import numpy as np
import pytest
import typer
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from ase.io import write
from ase.spacegroup import crystal
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher
from typer.testing import CliRunner

from repose.cli.pairs import pair as command
from repose.data.dataset import Dataset, DatasetInfo, Pair, write_dataset
from repose.data.importers.relaxed import read_relaxed
from repose.data.importers.substitutions import substitution_pairs
from repose.data.splits import GroupSplit
from repose.errors import DatasetError
from repose.io.cif import write_cif
from support.paths import SHARED
from support.reference_pairs import PATHS, split_up

PEROVSKITES = SHARED / "data" / "perov5_val.csv.gz"


def rock_salt(name, a):
    return bulk(name, "rocksalt", a=a)


def caesium_chloride(name, a):
    return bulk(name, "cesiumchloride", a=a)


def rutile(metal, anion, a, c, u):
    sites = [(0, 0, 0), (u, u, 0)]
    return crystal([metal, anion], sites, spacegroup=136, cellpar=[a, a, c, 90, 90, 90])


def wurtzite(name, a, c, u):
    return bulk(name, "wurtzite", a=a, c=c, u=u)


def perovskite(a_site, b_site, anions, a, shift=0.0, c=None):
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5 + shift], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Atoms([a_site, b_site, *anions], scaled_positions=sites, cell=[a, a, c or a], pbc=True)


def rewritten(atoms, seed, reflect=False):
    """Return the crystal with other lattice vectors, order, origin, images and orientation."""
    rng = np.random.default_rng(seed)
    basis = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]])[rng.permutation(3)]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation)) * (-1 if reflect else 1)
    order = rng.permutation(len(atoms))
    moved = atoms.positions[order] + rng.integers(-1, 2, (len(atoms), 3)) @ atoms.cell.array + rng.random(3)
    return Atoms(atoms.numbers[order], moved @ rotation, cell=basis @ atoms.cell.array @ rotation, pbc=True)


def collection(tmp_path, atoms):
    """Write relaxed crystals to a file."""
    for name, crystal_ in atoms.items():
        crystal_.info = {"id": name}
    write(
        tmp_path / "relaxed.extxyz", list(atoms.values()), format="extxyz", columns=["symbols", "positions"]
    )
    return tmp_path / "relaxed.extxyz"


def make(tmp_path, atoms, assign=lambda pair: "train", **options):
    crystals, refused = split_up(read_relaxed([collection(tmp_path, atoms)]))
    assert refused == []
    pairs, refused = split_up(substitution_pairs(crystals, assign, np.random.default_rng(0), **options))
    return {p.id: p for p in pairs}, {r.id: r.reason for r in refused}


def structure(numbers, positions, cell):
    return Structure(cell, [int(z) for z in numbers], positions, coords_are_cartesian=True)


def is_substituted(pair, parent):
    """Check with pymatgen that the input is the parent with the elements of the tag exchanged."""
    exchange = dict(item.split(">") for item in pair.tags["substituted"].split())
    symbols = [exchange.get(symbol, symbol) for symbol in parent.get_chemical_symbols()]
    expected = structure([atomic_numbers[s] for s in symbols], parent.positions, parent.cell.array)
    matcher = StructureMatcher(ltol=1e-5, stol=1e-5, angle_tol=1e-3, scale=False)
    return matcher.fit(structure(pair.numbers, pair.positions, pair.cell), expected)


def neighbours(numbers, positions, cell):
    """Return number, neighbours and nearest distance of every atom, sorted."""
    from ase.neighborlist import neighbor_list

    atoms = Atoms(numbers, positions, cell=cell, pbc=True)
    first, second, distance = neighbor_list("ijd", atoms, 5.0)
    found = []
    for k in range(len(atoms)):
        mine = first == k
        shell = mine & (distance < distance[mine].min() * 1.2)
        found.append(
            (int(numbers[k]), sorted(numbers[second[shell]].tolist()), round(distance[shell].min(), 6))
        )
    return sorted(found)


ROCK_SALT = {"MgO": 4.21, "CaO": 4.81, "NaCl": 5.64, "KF": 5.34, "TiN": 4.24}


@pytest.fixture
def salts():
    """Return rock salt in five equivalent cells, and caesium chloride."""
    atoms = {name: rock_salt(name, a) for name, a in ROCK_SALT.items()}
    atoms["CaO"] = bulk("CaO", "rocksalt", a=ROCK_SALT["CaO"], cubic=True)[[3, 1, 0, 2, 7, 6, 5, 4]]
    atoms["NaCl"] = rewritten(atoms["NaCl"], 1)
    atoms["KF"] = rewritten(atoms["KF"], 2, reflect=True)
    return atoms | {"CsCl": caesium_chloride("CsCl", 4.12)}


def test_rock_salt_in_equivalent_cells(tmp_path, salts):
    pairs, refused = make(tmp_path, salts)
    assert set(pairs) == set(ROCK_SALT)
    assert list(refused) == ["CsCl"]
    assert "no other crystal" in refused["CsCl"]
    assert {p.tags["prototype"] for p in pairs.values()} == {"AB_225_1"}
    for name, pair in pairs.items():
        parent = pair.tags["parent"]
        assert parent != name
        assert abs(np.linalg.det(pair.cell)) == pytest.approx(ROCK_SALT[parent] ** 3 / 4)
        assert abs(np.linalg.det(pair.relaxed_cell)) == pytest.approx(ROCK_SALT[name] ** 3 / 4)
        # Six neighbours of the other element before and after, at half the lattice constant.
        cation, anion = pair.numbers
        for state, a in (("", ROCK_SALT[parent]), ("relaxed_", ROCK_SALT[name])):
            around = neighbours(
                pair.numbers, getattr(pair, f"{state}positions"), getattr(pair, f"{state}cell")
            )
            half = pytest.approx(a / 2, abs=1e-5)
            assert around == sorted([(cation, [anion] * 6, half), (anion, [cation] * 6, half)])
        # Only the volume of the cell changes.
        deformation = np.linalg.solve(pair.cell, pair.relaxed_cell)
        np.testing.assert_allclose(deformation, deformation[0, 0] * np.eye(3), atol=1e-7)


def test_targets_are_not_changed(tmp_path, salts):
    pairs, _ = make(tmp_path, salts)
    for name in ("MgO", "NaCl", "TiN"):
        np.testing.assert_allclose(pairs[name].relaxed_cell, salts[name].cell.array, atol=1e-7)
        np.testing.assert_allclose(pairs[name].relaxed_positions, salts[name].positions, atol=1e-7)
        np.testing.assert_array_equal(pairs[name].numbers, salts[name].numbers)
        assert "cell" not in pairs[name].tags
    # The cubic cell with eight atoms is reduced to two atoms.
    assert len(pairs["CaO"].numbers) == 2
    assert pairs["CaO"].tags["cell"] == "primitive, 1/4"


def test_similar_means_fewest_and_nearest_elements(tmp_path, salts):
    pairs, _ = make(tmp_path, salts)
    assert (pairs["MgO"].tags["parent"], pairs["MgO"].tags["substituted"]) == ("CaO", "Ca>Mg")
    assert (pairs["CaO"].tags["parent"], pairs["CaO"].tags["substituted"]) == ("MgO", "Mg>Ca")
    # Both sites of rock salt are equivalent, but metals replace metals.
    metals = {"Mg", "Ca", "Na", "K", "Ti"}
    for pair in pairs.values():
        for old, new in (item.split(">") for item in pair.tags["substituted"].split()):
            assert (old in metals) == (new in metals)


def test_a_compound_is_not_its_own_parent(tmp_path):
    atoms = {"a": rock_salt("MgO", 4.2), "b": rock_salt("MgO", 4.3), "c": rock_salt("CaO", 4.8)}
    pairs, refused = make(tmp_path, atoms)
    assert {name: pair.tags["parent"] for name, pair in pairs.items()} == {"a": "c", "b": "c", "c": "a"}
    assert refused == {}
    del atoms["c"]
    pairs, refused = make(tmp_path, atoms)
    assert not pairs
    assert "the same compound" in refused["a"]


@pytest.mark.parametrize(
    "family",
    [
        {
            "TiO2": rutile("Ti", "O", 4.59, 2.96, 0.305),
            "SnO2": rewritten(rutile("Sn", "O", 4.74, 3.19, 0.307), 3),
            "MgF2": rewritten(rutile("Mg", "F", 4.62, 3.05, 0.303), 4, reflect=True),
        },
        {
            "ZnO": wurtzite("ZnO", 3.25, 5.21, 0.382),
            "GaN": rewritten(wurtzite("GaN", 3.19, 5.19, 0.377), 5),
            # The polar axis is reversed, and the crystal is mirrored.
            "AlN": rewritten(wurtzite("AlN", 3.11, 4.98, 0.382)[[2, 3, 0, 1]], 6, reflect=True),
        },
        {
            "BaTiO3": perovskite("Ba", "Ti", "OOO", 4.00, 0.015, c=4.05),
            "PbTiO3": rewritten(perovskite("Pb", "Ti", "OOO", 3.9, -0.03, c=4.15), 7),
            "KNbO3": rewritten(perovskite("K", "Nb", "OOO", 4.0, 0.02, c=4.06), 8, reflect=True),
        },
        {
            # Three kinds of anions on faces that are otherwise equivalent.
            "SrTiNOF": perovskite("Sr", "Ti", "NOF", 3.9),
            "BaTiNOF": rewritten(perovskite("Ba", "Ti", "FNO", 4.1), 9),
            "SrHfNOF": rewritten(perovskite("Sr", "Hf", "OFN", 4.2), 10),
        },
    ],
    ids=["rutile", "wurtzite", "polar perovskite", "anions"],
)
def test_inputs_are_substituted_parents(tmp_path, family):
    pairs, refused = make(tmp_path, family, per_crystal=2)
    assert refused == {}
    assert len(pairs) == 6
    assert len({p.tags["prototype"] for p in pairs.values()}) == 1
    for pair in pairs.values():
        parent = family[pair.tags["parent"]]
        assert is_substituted(pair, parent)
        exchanged = dict(item.split(">") for item in pair.tags["substituted"].split())
        anions = {"N", "O", "F"}
        assert all((old in anions) == (new in anions) for old, new in exchanged.items())
        # Positions are close: no atom was mapped onto a far site or onto the opposite polarity.
        moved = pair.relaxed_positions @ np.linalg.inv(pair.relaxed_cell)
        moved = (moved - pair.positions @ np.linalg.inv(pair.cell)) @ pair.relaxed_cell
        assert np.linalg.norm(moved, axis=1).max() < 0.25
        np.testing.assert_allclose(moved.mean(axis=0), 0, atol=1e-6)


def test_the_check_of_inputs_detects_a_wrong_site(tmp_path):
    family = {"SrTiO3": perovskite("Sr", "Ti", "OOO", 3.9), "BaTiO3": perovskite("Ba", "Ti", "OOO", 4.0)}
    pairs, _ = make(tmp_path, family)
    pair = pairs["BaTiO3"]
    assert is_substituted(pair, family["SrTiO3"])
    pair.numbers[[0, 1]] = pair.numbers[[1, 0]]  # barium on the octahedral site
    assert not is_substituted(pair, family["SrTiO3"])


@pytest.mark.parametrize("seed", range(8))
def test_random_crystals_are_mapped(tmp_path, seed):
    """A crystal of low symmetry with other elements, volume and cell differs only in volume."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 13))
    cell = (np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3))) * (14.0 * n) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[rng.permutation(27)[:n]] / 3
    sites = grid + rng.uniform(-0.05, 0.05, (n, 3))
    kinds = np.r_[0, 0, 1, 2, rng.integers(0, 3, n - 4)]
    one = Atoms(np.array([12, 13, 8])[kinds], scaled_positions=sites, cell=cell, pbc=True)
    two = Atoms(np.array([20, 31, 16])[kinds], scaled_positions=sites, cell=1.15 * cell, pbc=True)
    pairs, refused = make(tmp_path, {"one": one, "two": rewritten(two, seed, reflect=bool(seed % 2))})
    assert refused == {}
    for name, factor in (("one", 1 / 1.15), ("two", 1.15)):
        pair = pairs[name]
        np.testing.assert_allclose(pair.relaxed_cell, factor * pair.cell, atol=1e-6)
        difference = pair.relaxed_positions - factor * pair.positions
        np.testing.assert_allclose(difference, np.broadcast_to(difference[0], (n, 3)), atol=1e-6)


def test_parents_are_of_the_train_split(tmp_path):
    names = ["MgO", "CaO", "SrO", "BaO", "NiO", "FeO", "MnO", "CoO"]
    atoms = {name: rock_salt(name, 4.2 + 0.1 * k) for k, name in enumerate(names)}
    where = dict(zip(names, ["train", "test", "val", "train", "test", "train", "val", "test"], strict=True))
    for similar in (True, False):
        pairs, _ = make(tmp_path, atoms, lambda pair: where[pair.id], per_crystal=8, similar=similar)
        assert {p.id.partition("#")[0]: p.split for p in pairs.values()} == where
        train = {name for name, split in where.items() if split == "train"}
        for name in names:
            parents = {p.tags["parent"] for p in pairs.values() if p.id.startswith(f"{name}#")}
            assert parents == train - {name}


def test_held_out_types_have_parents_of_their_own_split(tmp_path):
    atoms = {name: rock_salt(name, 4.5) for name in ("MgO", "CaO", "SrO")}
    atoms |= {name: caesium_chloride(name, 4.1) for name in ("CsCl", "CsBr", "TlCl")}
    split = {"AB_225_1": "train", "AB_221_1": "test"}
    pairs, refused = make(tmp_path, atoms, lambda pair: split[pair.tags["prototype"]])
    assert refused == {}
    assert {p.split for p in pairs.values() if "Cl" in p.id or "Br" in p.id} == {"test"}
    # One crystal in val and none in train leaves it without a parent.
    lonely = {name: "val" if name == "CsCl" else "test" for name in atoms}
    pairs, refused = make(tmp_path, atoms, lambda pair: lonely[pair.id])
    assert list(refused) == ["CsCl"]
    assert "in other splits" in refused["CsCl"]


def test_parents_that_need_not_be_similar_are_drawn_by_the_seed(tmp_path):
    atoms = {f"{m}O": rock_salt(f"{m}O", 4.4) for m in ("Mg", "Ca", "Sr", "Ba", "Ni", "Fe", "Mn")}
    crystals, _ = split_up(read_relaxed([collection(tmp_path, atoms)]))

    def parents(seed, similar):
        rng = np.random.default_rng(seed)
        found = substitution_pairs(crystals, lambda pair: "train", rng, similar=similar)
        return [item.tags["parent"] for item in found if isinstance(item, Pair)]

    assert parents(1, False) == parents(1, False) != parents(2, False)
    assert parents(1, True) == parents(2, True)


def test_parents_per_crystal_must_be_positive():
    with pytest.raises(DatasetError, match="1 or more"):
        next(substitution_pairs([], None, np.random.default_rng(0), per_crystal=0))


def test_sources_of_every_kind(tmp_path):
    """A table, a folder and a dataset, with errors in each."""

    def cif(name, a):
        atoms = rock_salt(name, a)
        return write_cif(atoms.numbers.tolist(), atoms.positions, atoms.cell.array, name)

    table = [
        {"": "0", "material_id": "mgo", "cif": cif("MgO", 4.2), "band_gap": "7.8", "split": "val"},
        {"": "1", "material_id": "bad", "cif": "data_x\nnonsense"},
        {"": "2", "material_id": "mgo", "cif": cif("MgO", 4.2)},
    ]
    with gzip.open(tmp_path / "table.csv.gz", "wt", newline="") as handle:
        writer = csv.DictWriter(handle, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "CaO.cif").write_text(cif("CaO", 4.8))
    (folder / "broken.cif").write_text("junk")
    (folder / "paths.extxyz").write_text(PATHS.read_text())
    sheet = Atoms("C2", [[0, 0, 5], [1.23, 0.71, 5]], cell=[[2.46, 0, 0], [1.23, 2.13, 0], [0, 0, 15]])
    sheet.pbc = [True, True, False]
    write(folder / "sheet.extxyz", sheet, format="extxyz")
    strontium = rock_salt("SrO", 5.2)
    state = {"positions": strontium.positions, "cell": strontium.cell.array}
    moving = Pair(
        **{"id": "sro", "numbers": strontium.numbers, "pbc": np.ones(3, bool), "split": "test"},
        **{key: 1.1 * value for key, value in state.items()},
        **{f"relaxed_{key}": value for key, value in state.items()},
        tags={"atom_order": "matched", "prototype": "salt"},
    )
    write_dataset(tmp_path / "set", DatasetInfo(name="set"), [moving])
    (tmp_path / "empty.csv").write_text("id,formula\n1,MgO\n")

    sources = [tmp_path / name for name in ("table.csv.gz", "folder", "set", "empty.csv", "missing")]
    crystals, refused = split_up(read_relaxed(sources))
    assert {c.id: (c.split, c.tags) for c in crystals} == {
        "mgo": ("val", {"band_gap": "7.8"}),
        "CaO.cif": ("", {}),
        "sro": ("test", {"prototype": "salt"}),
    }
    assert {c.id: round(abs(np.linalg.det(c.cell)), 3) for c in crystals} == {
        "mgo": round(4.2**3 / 4, 3),
        "CaO.cif": round(4.8**3 / 4, 3),
        "sro": round(5.2**3 / 4, 3),
    }
    reasons = {r.id: r.reason for r in refused}
    assert len(refused) == len(reasons) == 7
    for name, words in {
        "mgo": "already read",
        "bad": "",
        "broken.cif": "",
        "paths.extxyz": "repose data import",
        "sheet.extxyz": "only bulk crystals",
        "empty.csv": "must have a column cif",
        "missing": "does not exist",
    }.items():
        assert words in reasons[name]

    # Splits of the source: one crystal has none.
    pairs, refused = split_up(substitution_pairs(crystals, None, np.random.default_rng(0)))
    assert [r.id for r in refused if "names no split" in r.reason] == ["CaO.cif"]
    pairs, refused = split_up(substitution_pairs(crystals, lambda pair: "train", np.random.default_rng(0)))
    assert {p.id: p.tags.get("source_prototype") for p in pairs} == {
        "mgo": None,
        "CaO.cif": None,
        "sro": "salt",
    }


def run(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_writes_a_described_dataset(tmp_path, salts):
    out = tmp_path / "set"
    options = ("--calculator", "PBE", "--licence", "MIT", "--fractions", "1,0,0", "--json")
    result = run(collection(tmp_path, salts), "--out", out, "--per-crystal", 2, *options)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["counts"] == {"train": 10, "val": 0, "test": 0}
    assert [r["id"] for r in report["refused"]] == ["CsCl"]
    with (out / "refused.csv").open(newline="") as handle:
        assert [row["id"] for row in csv.DictReader(handle)] == ["CsCl"]
    dataset = Dataset(out)
    info = dataset.info
    assert (info.source, info.calculator, info.licence) == ("relaxed.extxyz", "PBE", "MIT")
    assert "train split" in info.splits
    assert {p.id for p in dataset} >= {"MgO#1", "MgO#2", "TiN#2"}
    del salts["CsCl"]
    assert run(collection(tmp_path, salts), "--out", out, "--any", "--seed", 1).exit_code == 0
    assert {p.id for p in Dataset(out)} == set(ROCK_SALT)


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (["--fractions", "0.5,0.5"], "three numbers", 2),
        (["--per-crystal", "0"], "per-crystal", 2),
        (["--split-by", "colour"], "no tag 'colour'", 1),
        (["--split-by", "source"], "names no split", 1),
    ],
)
def test_errors_of_the_command(tmp_path, salts, options, message, status):
    result = run(collection(tmp_path, salts), "--out", tmp_path / "set", *options)
    assert result.exit_code == status
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "set").exists()


@pytest.mark.skipif(not PEROVSKITES.is_file(), reason="the perovskites are not beside the checkout")
def test_real_perovskites(tmp_path):
    with gzip.open(PEROVSKITES, "rt") as handle:
        lines = handle.read().split("_atom_site_occupancy")
    text = "_atom_site_occupancy".join(lines[:61])
    (tmp_path / "some.csv").write_text(text[: text.rindex("# generated")].rsplit("\n", 1)[0] + "\n")
    crystals, refused = split_up(read_relaxed([tmp_path / "some.csv"]))
    assert (len(crystals), refused) == (60, [])
    relaxed = {c.id: c for c in crystals}
    pairs, refused = split_up(substitution_pairs(crystals, GroupSplit(), np.random.default_rng(0)))
    assert len(pairs) > 40
    assert len(pairs) + len(refused) == 60
    assert {c.tags["formula"] for c in crystals} >= {p.tags["formula"] for p in pairs}
    for pair in pairs:
        target, parent = relaxed[pair.id], relaxed[pair.tags["parent"]]
        assert GroupSplit()(parent) == "train"
        # The target is the crystal of the file; the input has the cubic cell of its parent.
        np.testing.assert_allclose(pair.relaxed_cell, target.cell, atol=1e-6)
        np.testing.assert_array_equal(pair.numbers, target.numbers)
        np.testing.assert_allclose(pair.cell @ pair.cell.T, parent.cell @ parent.cell.T, atol=1e-5)
        parent_atoms = Atoms(parent.numbers, parent.positions, cell=parent.cell, pbc=True)
        assert is_substituted(pair, parent_atoms)
        # The first two atoms of every entry are A and B, the others anions.
        if set(pair.numbers[:2].tolist()).isdisjoint(pair.numbers[2:].tolist()):
            before = pair.positions @ np.linalg.inv(pair.cell)
            after = pair.relaxed_positions @ np.linalg.inv(pair.relaxed_cell)
            assert np.linalg.norm((after - before) @ pair.relaxed_cell, axis=1).max() < 1.5
