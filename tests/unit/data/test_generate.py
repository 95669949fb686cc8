"""Presets of bulk candidates: reproducible, without duplicates, with clear errors."""

import json
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
import typer
from ase.build import bulk as ase_bulk
from ase.data import atomic_numbers
from ase.io import read, write
from typer.testing import CliRunner

from repose.cli.generate import generate as generate_command
from repose.data.candidates import read_candidates
from repose.data.dataset import DatasetInfo, Pair, write_dataset
from repose.data.generate import presets
from repose.data.generate.distortion import min_bond_ratio
from repose.data.generate.duplicates import reduced_formula
from repose.data.generate.perovskites import untilted
from repose.data.generate.presets import BULK_PRESETS, GenerateSettings, generate
from repose.data.generate.structure_builder import default_volumes
from repose.errors import ConfigError, DatasetError


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """A dataset of relaxed crystals."""
    crystals = {
        "nacl": ase_bulk("NaCl", "rocksalt", 5.64),
        "gaas": ase_bulk("GaAs", "zincblende", 5.65),
        "nial": ase_bulk("NiAl", "cesiumchloride", 2.89),
        "caf2": ase_bulk("CaF2", "fluorite", 5.46),
        "tio2": untilted("cubic").decorate([38, 8, 22], 59.5),
    }
    pairs = [
        Pair(
            id=name,
            numbers=atoms.numbers.astype(np.int64),
            pbc=atoms.pbc,
            positions=1.05 * atoms.positions,
            cell=1.05 * atoms.cell.array,
            relaxed_positions=atoms.positions,
            relaxed_cell=atoms.cell.array,
            tags={"prototype": "AB_cF8_225_a_b"} if name == "nacl" else {},
        )
        for name, atoms in crystals.items()
    ]
    return write_dataset(
        tmp_path_factory.mktemp("parents") / "set", DatasetInfo(name="set", licence="CC0"), pairs
    ).directory


def make(preset, n, seed=0, parents=None, **options):
    needed = [parents] if preset in presets.NEED_PARENTS else []
    return list(generate(preset, n, seed, parents=needed, **options))


def same(a, b):
    return (
        a.id == b.id
        and a.tags == b.tags
        and np.array_equal(a.numbers, b.numbers)
        and np.array_equal(a.positions, b.positions)
        and np.array_equal(a.cell, b.cell)
    )


@pytest.mark.parametrize("preset", list(BULK_PRESETS))
def test_candidates_are_valid_and_reproducible(preset, parents):
    first = make(preset, 30, 3, parents)
    assert len(first) == 30
    assert len({c.id for c in first}) == 30
    for candidate in first:
        atoms = candidate.to_atoms()
        assert min_bond_ratio(atoms) >= presets.MIN_BOND_RATIO
        assert atoms.get_volume() > 5
        assert candidate.tags["preset"] == preset
        assert candidate.tags["start"] in ("symmetric", "rattled")
        assert candidate.tags["severity"]
        assert "parent" in candidate.tags or "prototype" in candidate.tags
    # A larger set begins with the smaller one; another seed gives other candidates.
    assert all(map(same, first[:12], make(preset, 12, 3, parents)))
    assert not any(map(same, first, make(preset, 30, 4, parents)))


def test_ids_contain_the_seed(monkeypatch, parents):
    known = make("bulk", 5)

    class Module:
        @staticmethod
        def candidates(n, rng, parents):
            yield from islice(known, n)

    monkeypatch.setattr(presets, "import_module", lambda name: Module)
    made = list(generate("sheets", 3, seed=7))
    assert [c.id for c in made] == ["sheets-7-000000", "sheets-7-000001", "sheets-7-000002"]
    assert np.array_equal(made[2].positions, known[2].positions)
    with pytest.raises(DatasetError, match="no setting strain"):
        generate("sheets", 3, settings=GenerateSettings(strain=0.1))


def test_only_allowed_elements_are_drawn():
    few = ("Li", "Fe", "Mn", "O", "S")
    numbers = {atomic_numbers[s] for s in few}
    made = make("bulk", 40, settings=GenerateSettings(elements=few))
    assert {z for c in made for z in c.numbers.tolist()} <= numbers
    xmno = make("xmno", 40, settings=GenerateSettings(elements=("Ca", "Mn", "O")))
    assert {tuple(sorted(set(c.numbers.tolist()))) for c in xmno} == {(8, 20, 25)}
    with pytest.raises(DatasetError, match=r"'Fee' is no element\. Did you mean 'Fe'"):
        generate("bulk", 1, settings=GenerateSettings(elements=("Fee",)))
    with pytest.raises(DatasetError, match=r"atomic numbers \[2\]"):
        generate("bulk", 1, settings=GenerateSettings(elements=("He", "Fe", "O")))


def test_volumes_of_bulk_candidates_scatter_around_the_estimate():
    table = default_volumes()
    made = make("bulk", 200)
    ratio = {"mild": [], "severe": []}
    for c in made:
        label = c.tags["prototype"].split("-")[0]
        ratio[c.tags["severity"]].append(np.log(abs(np.linalg.det(c.cell)) / table.predict(c.numbers, label)))
    for severity, spread in (("mild", 0.08), ("severe", 0.2)):
        assert abs(np.median(ratio[severity])) < 0.05
        # Strain adds 2-3%.
        assert 0.8 * spread < np.std(ratio[severity]) < 1.3 * spread


def test_candidates_have_no_duplicates(parents):
    from pymatgen.core.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    rejected = Counter()
    made = make("near", 40, parents=parents, rejected=rejected)
    assert rejected["duplicate"] > 0
    by_formula = {}
    for c in made:
        by_formula.setdefault(reduced_formula(c.numbers), []).append(c.to_atoms())
    matcher, pairs = StructureMatcher(), 0
    for group in by_formula.values():
        for a, b in combinations(group, 2):
            pairs += 1
            difference = abs(a.get_volume() / len(a) / (b.get_volume() / len(b)) - 1)
            equal = matcher.fit(AseAtomsAdaptor.get_structure(a), AseAtomsAdaptor.get_structure(b))
            assert not equal or difference > 0.049
    # The test must compare at least one pair.
    assert pairs > 0 or len(by_formula) == 40


def test_excluded_crystals_are_not_made(tmp_path):
    few = GenerateSettings(elements=("Ca", "Mn", "O"), max_atoms=6)
    old = make("xmno", 15, settings=few)
    atoms = []
    for c in old:
        atoms.append(c.to_atoms())
        atoms[-1].info = {"prototype": c.tags["prototype"]}
    write(tmp_path / "old.extxyz", atoms)
    rejected = Counter()
    new = list(generate("xmno", 15, settings=few, exclude=[tmp_path / "old.extxyz"], rejected=rejected))
    assert new
    assert rejected["excluded"] >= 15
    seen = {(reduced_formula(c.numbers), c.tags["prototype"]) for c in old}
    assert not seen & {(reduced_formula(c.numbers), c.tags["prototype"]) for c in new}


def test_generation_ends_without_new_candidates():
    rejected = Counter()
    few = GenerateSettings(elements=("Na", "Cl"), max_atoms=2, volume_spread=0.0)
    made = make("bulk", 1000, settings=few, rejected=rejected)
    assert 0 < len(made) < 40
    assert rejected["duplicate"] >= presets.MAX_REJECTIONS / 2
    assert make("xmno", 5, settings=GenerateSettings(elements=("Na", "Cl"))) == []


def test_substitution_keeps_the_cell_and_tags_the_parent(parents):
    relaxed = {pair.id: pair for pair in presets.Dataset(parents)}
    kept = 0
    for c in make("subst", 60, parents=parents):
        pair = relaxed[c.tags["parent"]]
        replaced = set(pair.numbers.tolist()) - set(c.numbers.tolist())
        assert 1 <= len(replaced) <= 2
        assert len(set(c.numbers.tolist())) == len(set(pair.numbers.tolist()))
        assert c.tags.get("prototype") == pair.tags.get("prototype")
        if c.tags["start"] == "symmetric":
            kept += 1
            assert np.array_equal(c.cell, pair.relaxed_cell)
            assert np.array_equal(c.positions, pair.relaxed_positions)
        else:
            assert not np.allclose(c.cell, pair.relaxed_cell, atol=1e-4)
    assert 15 < kept < 45


def test_near_changes_volumes_by_a_few_percent(parents):
    relaxed = {pair.id: abs(np.linalg.det(pair.relaxed_cell)) for pair in presets.Dataset(parents)}
    made = [c for c in make("near", 40, parents=parents) if c.tags["severity"] == "same"]
    change = np.array([np.log(abs(np.linalg.det(c.cell)) / relaxed[c.tags["parent"]]) for c in made])
    assert len(change) > 3
    assert 0.001 < np.abs(change).mean() < 0.06


def test_structures_of_the_user_are_prototypes(tmp_path):
    atoms = ase_bulk("ZnS", "wurtzite", 3.8, c=6.2)
    broken = atoms.copy()
    broken.positions[1] = broken.positions[0]
    flat = atoms.copy()
    flat.pbc = [True, True, False]
    write(tmp_path / "mine.extxyz", [atoms, broken, flat])
    refused = []
    made = make(
        "bulk",
        400,
        prototypes=[tmp_path / "mine.extxyz"],
        refused=refused,
        settings=GenerateSettings(max_atoms=4),
    )
    mine = [c for c in made if "mine" in c.tags["prototype"]]
    assert {len(c.numbers) for c in mine} == {4}
    assert [r.reason for r in refused] == [
        refused[0].reason,
        "a prototype must be periodic in all directions.",
    ]
    assert "A apart" in refused[0].reason


def test_settings_override_the_preset(parents):
    asked = GenerateSettings(volume_spread=0.0, strain=0.0, rattle=0.0)
    table = default_volumes()
    for c in make("bulk", 30, settings=asked):
        guess = table.predict(c.numbers, c.tags["prototype"].split("-")[0])
        assert abs(np.linalg.det(c.cell)) == pytest.approx(guess, rel=1e-6)
    assert max(len(c.numbers) for c in make("bulk", 60, settings=GenerateSettings(max_atoms=3))) == 3
    with pytest.raises(ConfigError, match="max_atoms"):
        GenerateSettings.parse({"max_atoms": 0})


def test_errors_of_inputs_say_what_to_do(tmp_path, parents):
    with pytest.raises(DatasetError, match=r"got 'bulc'\. Did you mean 'bulk'"):
        generate("bulc", 1)
    for preset in presets.NEED_PARENTS:
        with pytest.raises(DatasetError, match="starts from relaxed crystals; give a dataset"):
            generate(preset, 1)
    with pytest.raises(DatasetError, match="takes no --parents"):
        generate("bulk", 1, parents=[parents])
    with pytest.raises(DatasetError, match="takes no --prototypes"):
        generate("near", 1, parents=[parents], prototypes=[parents])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no crystals"):
        generate("near", 1, parents=[tmp_path / "empty"])


app = typer.Typer()
app.command()(generate_command)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_writes_candidates(tmp_path, parents):
    out = tmp_path / "out"
    result = run(
        "--preset", "subst", "--n", 8, "--out", out, "--parents", parents, "--set", "strain=0.005", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["count"] == 8
    info = json.loads((out / "candidates.json").read_text())
    assert (info["preset"], info["count"], info["licence"]) == ("subst", 8, "CC0")
    assert info["settings"] == {"strain": 0.005, "parents": ["set"]}
    written = list(read_candidates(out))
    expected = make("subst", 8, parents=parents, settings=GenerateSettings(strain=0.005))
    assert [c.tags for c in written] == [c.tags for c in expected]
    assert all(
        np.allclose(a.positions, b.positions, atol=1e-6) for a, b in zip(written, expected, strict=True)
    )
    assert read(out / "candidates.extxyz", 3).info["preset"] == "subst"
    # Candidates of an earlier run can be excluded.
    more = run(
        "--preset", "subst", "--n", 8, "--out", tmp_path / "more", "--parents", parents, "--exclude", out
    )
    assert more.exit_code == 0, more.output
    assert "excluded" in more.stdout


def test_command_fails_in_one_line(tmp_path, parents):
    out = tmp_path / "out"
    result = run("--preset", "near", "--n", 2, "--out", out)
    assert result.exit_code == 2
    assert result.stderr.startswith("repose: 'near' starts from relaxed crystals")
    assert result.stderr.count("\n") == 1
    assert run("--preset", "bulk", "--n", 2, "--out", parents).exit_code == 2
    short = run("--preset", "xmno", "--n", 500, "--out", out, "--elements", "Ca,Mn,O", "--max-atoms", 3, "-q",
                "--set", "volume_spread=0")  # fmt: skip
    assert short.exit_code == 1
    assert "of 500 different candidates" in short.stderr
    assert (out / "candidates.extxyz").is_file()
