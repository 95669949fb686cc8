"""Candidates: the same every time, balanced, of unbiased volume, and none twice."""

import json
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
import typer
from ase import Atoms
from ase.build import bulk as ase_bulk
from ase.data import atomic_numbers
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from repose.cli.generate import generate as generate_command
from repose.crystal.volumes import ROLES, Volumes, fit_volumes, roles
from repose.data.candidates import read_candidates
from repose.data.dataset import DatasetInfo, Pair, write_dataset
from repose.data.generate import presets
from repose.data.generate.chemistry import SYMBOLS, Chemistry, distances, is_balanced, oxidation_states
from repose.data.generate.distortion import CLOSEST, closeness, rattled, resized, strained
from repose.data.generate.duplicates import Known, reduced_formula
from repose.data.generate.perovskites import tilted, untilted
from repose.data.generate.presets import DRAFTS, GenerateSettings, generate
from repose.data.generate.prototypes import decorated, library
from repose.data.generate.volumes import default_volumes
from repose.errors import ConfigError, DatasetError, ShapeError

# Measured lattice constants in A by structure; the table was fitted to crystals that a potential relaxed.
MEASURED = {
    "rocksalt": {"LiF": 4.026, "NaCl": 5.640, "KBr": 6.600, "MgO": 4.212, "CaO": 4.811, "MnO": 4.445,
                 "PbS": 5.936, "TiN": 4.24, "BaO": 5.523, "SnTe": 6.327},
    "zincblende": {"GaAs": 5.653, "InP": 5.869, "ZnS": 5.420, "CdTe": 6.482, "CuCl": 5.416, "AlSb": 6.136},
    "cesiumchloride": {"CsCl": 4.123, "TlBr": 3.97, "NiAl": 2.887, "CuZn": 2.95, "AuCd": 3.32},
    "fluorite": {"CaF2": 5.463, "CeO2": 5.411, "BaF2": 6.200, "UO2": 5.470, "SrCl2": 6.98},
}  # fmt: skip
# Prototypes of the library with the same structure.
LABELS = {"rocksalt": "AB_cF8_225_a_b", "zincblende": "AB_cF8_216_c_a", "cesiumchloride": "AB_cP2_221_b_a"}


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """A dataset of relaxed crystals."""
    crystals = {
        "nacl": ase_bulk("NaCl", "rocksalt", 5.64),
        "gaas": ase_bulk("GaAs", "zincblende", 5.65),
        "nial": ase_bulk("NiAl", "cesiumchloride", 2.89),
        "caf2": ase_bulk("CaF2", "fluorite", 5.46),
        "tio2": untilted("cubic").fill([38, 8, 22], 59.5),
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


@pytest.mark.parametrize("preset", list(DRAFTS))
def test_candidates_are_crystals_and_the_same_every_time(preset, parents):
    first = make(preset, 30, 3, parents)
    assert len(first) == 30
    assert len({c.id for c in first}) == 30
    for candidate in first:
        atoms = candidate.to_atoms()
        assert closeness(atoms) >= CLOSEST
        assert atoms.get_volume() > 5
        assert candidate.tags["preset"] == preset
        assert candidate.tags["start"] in ("symmetric", "rattled")
        assert candidate.tags["severity"]
        assert "parent" in candidate.tags or "prototype" in candidate.tags
    # A larger set begins with the smaller one; another seed gives others.
    assert all(map(same, first[:12], make(preset, 12, 3, parents)))
    assert not any(map(same, first, make(preset, 30, 4, parents)))


def test_modules_get_ids_with_their_seed(monkeypatch, parents):
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


def test_charges_balance():
    salts = [c for c in make("bulk", 150) if c.tags["chemistry"] == "salt"]
    assert len(salts) > 40
    assert {c.tags["chemistry"] for c in make("bulk", 60)} == {"salt", "alike", "intermetallic"}
    for candidate in salts:
        present = set(candidate.numbers.tolist())
        able = [k for n in (1, 2) for k in combinations(present & set(Chemistry().anions), n)]
        assert any(is_balanced(candidate.numbers, anions) for anions in able), candidate.to_atoms().symbols


@given(
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    where=st.integers(0, 3),
)
def test_drawn_salts_balance(counts, seed, where):
    chemistry, anion = Chemistry(), where % len(counts)
    drawn = chemistry.salt(counts, [anion], np.random.default_rng(seed))
    if drawn is None:
        return
    assert len(set(drawn)) == len(counts)
    numbers = np.repeat(drawn, counts)
    assert is_balanced(numbers, [drawn[anion]])
    # The check itself tells balanced from unbalanced: one more anion spoils it for single-valued cations.
    if all(len(oxidation_states(z)) == 1 for z in drawn if z != drawn[anion]):
        assert not is_balanced(np.append(numbers, drawn[anion]), [drawn[anion]])


def test_only_elements_that_were_asked_for():
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


def test_default_elements_leave_out_what_is_rare():
    assert len(SYMBOLS) == 78
    assert not set(SYMBOLS) & {"He", "Ar", "Xe", "Tc", "Pm", "Po", "Rn", "Ac", "Pa", "Np", "Pu"}


def test_likeness_is_that_of_the_periodic_table():
    apart = distances()
    like = [("Na", "K"), ("Ti", "Zr"), ("Cl", "Br"), ("La", "Nd"), ("Fe", "Co")]
    unlike = [("Na", "Cl"), ("Ti", "O"), ("Cs", "Be"), ("La", "S"), ("Fe", "F")]
    as_numbers = [[apart[atomic_numbers[a], atomic_numbers[b]] for a, b in pairs] for pairs in (like, unlike)]
    assert max(as_numbers[0]) < 1.7 < 3 < min(as_numbers[1])
    rng = np.random.default_rng(0)
    drawn = Counter(Chemistry().alike(atomic_numbers["Fe"], 0.8, rng, other_than=[26]) for _ in range(200))
    assert 26 not in drawn
    assert set(drawn) <= {z for z in range(1, 104) if apart[26, z] < 2.5}


def test_guessed_volumes_of_measured_crystals_are_unbiased():
    table, ratios = default_volumes(), []
    for structure, crystals in MEASURED.items():
        for formula, a in crystals.items():
            atoms = ase_bulk(formula, structure, a)
            ratios.append(atoms.get_volume() / table.predict(atoms.numbers, LABELS.get(structure, "")))
    # Those that nature makes are a little denser than most of what can be put together.
    assert abs(np.median(ratios) - 1) < 0.08
    assert 0.7 < min(ratios) < max(ratios) < 1.3


def test_bulk_candidates_scatter_around_the_guess():
    table = default_volumes()
    made = make("bulk", 200)
    ratio = {"mild": [], "severe": []}
    for c in made:
        label = c.tags["prototype"].split("-")[0]
        ratio[c.tags["severity"]].append(np.log(abs(np.linalg.det(c.cell)) / table.predict(c.numbers, label)))
    for severity, spread in (("mild", 0.08), ("severe", 0.2)):
        assert abs(np.median(ratio[severity])) < 0.05
        # Strain adds 2-3% to what was asked for.
        assert 0.8 * spread < np.std(ratio[severity]) < 1.3 * spread


def synthetic(rng, n=400):
    """Crystals of ten elements whose volumes follow the form of the guess, some of which are far off."""
    elements = np.array([3, 11, 19, 12, 20, 13, 22, 8, 16, 17])
    atomic = dict(zip(elements.tolist(), rng.uniform(8, 40, len(elements)), strict=True))
    numbers = [
        np.repeat(rng.choice(elements, k, replace=False), rng.integers(1, 5, k))
        for k in rng.integers(2, 4, n)
    ]
    labels = [str(rng.choice(["dense", "open", ""])) for _ in range(n)]
    factor = {"dense": 0.9, "open": 1.1, "": 1.0}
    volumes = np.array(
        [
            sum(atomic[z] for z in of.tolist()) * factor[label]
            for of, label in zip(numbers, labels, strict=True)
        ]
    )
    far = rng.random(n) < 0.05
    return numbers, volumes * np.exp(rng.normal(0, 0.05, n) + 0.8 * far), labels


@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_fit_guesses_systems_that_it_never_saw(seed):
    numbers, volumes, labels = synthetic(np.random.default_rng(seed))
    held_out = np.array([hash(tuple(sorted(set(z.tolist())))) % 5 == 0 for z in numbers])
    kept = np.flatnonzero(~held_out)
    table = fit_volumes([numbers[k] for k in kept], volumes[kept], [labels[k] for k in kept])
    ratio = [volumes[k] / table.predict(numbers[k], labels[k]) for k in np.flatnonzero(held_out)]
    assert abs(np.median(ratio) - 1) < 0.05
    assert table.prototypes["dense"] / table.prototypes["open"] == pytest.approx(0.9 / 1.1, rel=0.05)


def test_fit_stands_in_for_elements_never_seen_and_says_so():
    numbers, volumes, _ = synthetic(np.random.default_rng(0))
    table = fit_volumes(numbers, volumes)
    assert table.crystals[ROLES.index("cation"), atomic_numbers["Fe"]] == 0
    assert 5 < table.predict(np.array([26, 8])) / 2 < 60
    with pytest.raises(DatasetError, match=r"elements with atomic numbers \[2\]"):
        table.predict(np.array([2, 8]))
    with pytest.raises(ShapeError, match="got 1 crystals, 2 volumes"):
        fit_volumes([np.array([8])], [1.0, 2.0])


def test_volumes_survive_the_file(tmp_path):
    table = default_volumes()
    table.save(tmp_path / "volumes.csv")
    again = Volumes.parse((tmp_path / "volumes.csv").read_text())
    for numbers in ([11, 17], [29, 30], [38, 22, 8, 8, 8], [92, 8, 8]):
        assert again.predict(np.array(numbers)) == pytest.approx(table.predict(np.array(numbers)), rel=1e-3)
    assert again.prototypes == table.prototypes
    assert np.array_equal(
        again.crystals[np.isfinite(again.atomic)], table.crystals[np.isfinite(table.atomic)]
    )


def test_roles_follow_electronegativity():
    def named(*symbols):
        return [ROLES[k] for k in roles(np.array([atomic_numbers[s] for s in symbols]))]

    assert named("Na", "Cl") == ["cation", "anion"]
    assert named("Ni", "Al") == ["metallic", "metallic"]
    assert named("Ba", "Ti", "O", "N") == ["cation", "cation", "anion", "anion"]
    assert named("Fe", "P", "O") == ["cation", "cation", "anion"]


def test_library_holds_primitive_cells_of_volume_one():
    prototypes = library()
    assert len(prototypes) == 205
    assert all(abs(abs(np.linalg.det(p.cell)) - 1) < 1e-9 for p in prototypes)
    for p in prototypes:
        # The stoichiometry in the label, as A2BC4, is that of the species in their order.
        counts = np.array(p.counts) // np.gcd.reduce(p.counts)
        letters = "".join(f"{a}{n if n > 1 else ''}" for a, n in zip("ABCD", counts, strict=False))
        assert p.label.split("_")[0] == letters, p.label


def test_derivatives_split_one_orbit_each():
    derived, labels = decorated(), {p.label: p for p in library()}
    assert len(derived) > 100
    for p in derived:
        parent = labels[p.family]
        assert len(p.species) == len(parent.species)
        assert len(p.counts) == len(parent.counts) + 1
        assert min(p.counts) > 0


@pytest.mark.parametrize(
    ("glazer", "number", "atoms"),
    [("a0a0c+", 127, 10), ("a0a0c-", 140, 10), ("a0b-b-", 74, 10), ("a-a-a-", 167, 10), ("a-a-c+", 62, 20),
     ("a+a+a+", 204, 20)],
)  # fmt: skip
def test_tilts_have_the_space_groups_of_glazer(glazer, number, atoms):
    # Howard and Stokes, Acta Cryst. B 54, 782 (1998), table 1.
    from pymatgen.core import Lattice, Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    p = tilted(glazer, 7)
    found = SpacegroupAnalyzer(Structure(Lattice(p.cell), p.species + 11, p.fractional), symprec=1e-4)
    assert (found.get_space_group_number(), len(p.species)) == (number, atoms)
    # Octahedra stay octahedra: six anions around B, all equally far within a second order of the angle.
    atoms = p.fill([56, 8, 22], 60 * len(p.species) / 5)
    b = int(np.flatnonzero(atoms.numbers == 22)[0])
    near = np.sort((atoms * (2, 2, 2)).get_all_distances(mic=True)[b][(atoms * (2, 2, 2)).numbers == 8])[:6]
    assert np.ptp(near) < 0.03 * near.mean()


def test_nothing_comes_twice(parents):
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
            apart = abs(a.get_volume() / len(a) / (b.get_volume() / len(b)) - 1)
            alike = matcher.fit(AseAtomsAdaptor.get_structure(a), AseAtomsAdaptor.get_structure(b))
            assert not alike or apart > 0.049
    # Otherwise nothing was looked at.
    assert pairs > 0 or len(by_formula) == 40


def test_known_tells_same_from_different():
    rng, known = np.random.default_rng(0), Known()
    salt = ase_bulk("NaCl", "rocksalt", 5.64)
    assert known.find(salt) is None
    # Another cell, rattled; elements swapped on equivalent sites of one prototype.
    assert known.find(rattled(salt * (2, 1, 1), 0.03, rng)) == "duplicate"
    assert known.find(ase_bulk("ClNa", "rocksalt", 5.6)) == "duplicate"
    # Another volume, another structure, another composition.
    assert known.find(resized(salt, 1.2 * salt.get_volume())) is None
    assert known.find(ase_bulk("NaCl", "cesiumchloride", 3.5)) is None
    assert known.find(ase_bulk("KCl", "rocksalt", 5.64)) is None
    elsewhere = Known()
    elsewhere.exclude([(salt, "")])
    assert elsewhere.find(resized(salt, 1.2 * salt.get_volume())) == "excluded"
    assert elsewhere.find(ase_bulk("NaCl", "cesiumchloride", 3.5)) is None
    labelled = Known()
    labelled.exclude([(rattled(salt, 1.0, rng), "AB_cF8_225_a_b")])
    assert labelled.find(salt, "AB_cF8_225_a_b", "Cl-Na") == "excluded"
    assert labelled.find(salt, "AB_cP2_221_b_a", "Cl-Na") is None


def test_excluded_crystals_are_not_made_again(tmp_path):
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


def test_what_cannot_go_on_ends():
    rejected = Counter()
    few = GenerateSettings(elements=("Na", "Cl"), max_atoms=2, volume_spread=0.0)
    made = make("bulk", 1000, settings=few, rejected=rejected)
    assert 0 < len(made) < 40
    assert rejected["duplicate"] >= presets.PATIENCE / 2
    assert make("xmno", 5, settings=GenerateSettings(elements=("Na", "Cl"))) == []


def test_substitution_keeps_the_cell_and_names_its_parent(parents):
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


def test_near_starts_a_few_percent_off(parents):
    relaxed = {pair.id: abs(np.linalg.det(pair.relaxed_cell)) for pair in presets.Dataset(parents)}
    made = [c for c in make("near", 40, parents=parents) if c.tags["severity"] == "same"]
    change = np.array([np.log(abs(np.linalg.det(c.cell)) / relaxed[c.tags["parent"]]) for c in made])
    assert len(change) > 3
    assert 0.001 < np.abs(change).mean() < 0.06


def test_own_structures_are_prototypes_too(tmp_path):
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
        "it is not periodic in all directions, which a prototype must be.",
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


def test_wrong_requests_say_what_to_do(tmp_path, parents):
    with pytest.raises(DatasetError, match=r"got 'bulc'\. Did you mean 'bulk'"):
        generate("bulc", 1)
    for preset in presets.NEED_PARENTS:
        with pytest.raises(DatasetError, match="starts from relaxed crystals; name a dataset"):
            generate(preset, 1)
    with pytest.raises(DatasetError, match="takes no --parents"):
        generate("bulk", 1, parents=[parents])
    with pytest.raises(DatasetError, match="fills no prototypes"):
        generate("near", 1, parents=[parents], prototypes=[parents])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no crystals"):
        generate("near", 1, parents=[tmp_path / "empty"])


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0.0, 0.1))
def test_strain_is_symmetric_and_leaves_open_directions(seed, size):
    atoms = Atoms(
        "BN", [[0, 0, 5], [1.25, 0.72, 5]], cell=[[2.5, 0, 0], [-1.25, 2.17, 0], [0, 0, 10]], pbc=[1, 1, 0]
    )
    moved = strained(atoms, size, np.random.default_rng(seed))
    change = np.linalg.solve(atoms.cell.array, moved.cell.array)
    assert np.allclose(change, change.T, atol=1e-12)
    assert np.allclose(moved.cell.array[2], [0, 0, 10])
    assert np.allclose(moved.get_scaled_positions(), atoms.get_scaled_positions())
    atoms.pbc = True
    bulk = strained(atoms, size, np.random.default_rng(seed))
    assert size < 1e-6 or not np.allclose(bulk.cell.array[2], [0, 0, 10])


def test_closeness_sees_images():
    assert closeness(Atoms("Cu", cell=[1.32 * 2] * 3, pbc=True)) == pytest.approx(1.0)
    assert closeness(Atoms("Cu", cell=[1.32, 5, 5], pbc=True)) == pytest.approx(0.5)
    assert closeness(Atoms("Cu", cell=[1.32, 5, 5], pbc=False)) == 1.0
    # Across the boundary: 0.1 and 0.9 of 5 A are 1 A apart.
    assert closeness(Atoms("H2", [[0.5, 0, 0], [4.5, 0, 0]], cell=[5, 5, 5], pbc=True)) == 1.0
    assert closeness(Atoms("Na2", [[0.5, 0, 0], [4.5, 0, 0]], cell=[9, 9, 9], pbc=True)) == 1.0
    assert closeness(Atoms("Na2", [[0.5, 0, 0], [4.5, 0, 0]], cell=[5, 9, 9], pbc=True)) < 0.4


app = typer.Typer()
app.command()(generate_command)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_writes_what_it_says(tmp_path, parents):
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
    # What exists may be built upon: nothing of it comes again.
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
