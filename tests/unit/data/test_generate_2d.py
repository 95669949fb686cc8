"""Presets of sheets, stacks of two layers, and sheets with point defects."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, mx2
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import natural_cutoffs, neighbor_list
from pymatgen.core import Element

from repose.data.generate import defects, layered, sheets, slabs
from repose.data.generate.sheet_prototypes import monolayer_prototypes
from repose.data.generate.structure_builder import TrialStructure
from repose.errors import DatasetError, InvalidCrystalError

GENERATORS = {"sheets": sheets, "layered": layered, "defects": defects}
# Lattice constants along a in A: most with PBE, some measured (FeSe, PbO, BiOCl, GeSe's kind).
KNOWN = {
    "MoS2-2H": {"MoS2": 3.18, "MoTe2": 3.55, "WSe2": 3.32, "NbSe2": 3.47, "TaS2": 3.34, "VSe2": 3.33},
    "CdI2-1T": {"TiS2": 3.41, "ZrSe2": 3.79, "SnS2": 3.70, "PtSe2": 3.75, "MgBr2": 3.87, "CdI2": 4.30},
    "MoSSe-2H": {"MoSSe": 3.25, "WSSe": 3.25},
    "BiTeI": {"BiTeI": 4.43, "BiTeCl": 4.27, "SbTeI": 4.32},
    "BN": {"BN": 2.51, "CC": 2.46, "SiC": 3.10, "AlN": 3.13, "BAs": 3.39, "BeO": 2.68},
    "silicene": {"SiSi": 3.87, "SnSn": 4.67, "GaAs": 4.05, "CdS": 4.26},
    "arsenene": {"PP": 3.28, "AsAs": 3.61, "SbSb": 4.12, "BiBi": 4.35},
    "phosphorene": {"PP": 3.30, "AsAs": 3.69},
    "GeS": {"GeS": 3.67, "GeSe": 3.97, "SnSe": 4.30},
    "GaS": {"GaS": 3.63, "GaSe": 3.82, "InSe": 4.09},
    "FeSe": {"FeSe": 3.72, "FeTe": 3.80},
    "PbO": {"PbO": 3.99, "SnO": 3.80},
    "PbFCl": {"BiOCl": 3.89, "LaOCl": 4.12, "CaFCl": 3.89},
    "M2X": {"TiC": 3.07, "NbC": 3.13, "VC": 2.90},
    "M2XT2": {"TiCO": 3.03, "ZrCO": 3.31, "ScCF": 3.26, "VCO": 2.90},
    "CrI3": {"CrI3": 7.00, "CrCl3": 6.05, "ScCl3": 6.42},
    "BiI3": {"BiI3": 7.80, "AlCl3": 5.95},
    "MnPS3": {"MnPS": 6.08, "CdPS": 6.22, "MnPSe": 6.39},
    "CrGeTe3": {"CrGeTe": 6.86, "CrSiTe": 6.81},
}
THICKNESS = {
    ("MoS2-2H", "MoS2"): 3.13,
    ("CdI2-1T", "TiS2"): 2.84,
    ("GaS", "GaSe"): 4.83,
    ("CrI3", "CrI3"): 3.13,
    ("arsenene", "AsAs"): 1.40,
    ("phosphorene", "PP"): 2.10,
    ("BiTeI", "BiTeI"): 3.80,
    ("PbFCl", "BiOCl"): 5.30,
    ("M2XT2", "TiCO"): 4.45,
}


def ideal(prototype, name):
    symbols = tuple(re.findall("[A-Z][a-z]?", name))
    assert symbols in monolayer_prototypes()[prototype].compositions
    return monolayer_prototypes()[prototype].build(symbols)


@pytest.fixture(scope="module")
def mos2():
    return slabs.center_in_vacuum(mx2("MoS2", a=3.184, thickness=3.127))


@pytest.fixture(scope="module")
def wse2():
    return slabs.center_in_vacuum(mx2("WSe2", a=3.319, thickness=3.358))


def bonds(atoms, numbers, reach):
    """Return the lengths of all bonds between two elements, ascending."""
    i, j, d = neighbor_list("ijd", atoms, reach)
    return np.sort(d[(atoms.numbers[i] == numbers[0]) & (atoms.numbers[j] == numbers[1])])


# All presets


@pytest.mark.parametrize("parents", [False, True])
@pytest.mark.parametrize("name", GENERATORS)
def test_candidates_are_reproducible_for_any_number(name, parents, mos2, wse2):
    given = [mos2, wse2] if parents else []
    make = GENERATORS[name].candidates
    few, more, other = (
        list(make(n, np.random.default_rng(seed), given)) for n, seed in ((4, 3), (7, 3), (4, 4))
    )
    assert [len(few), len(more), len({c.id for c in more})] == [4, 7, 7]
    for one, same in zip(few, more, strict=False):
        assert one.id == same.id
        assert one.tags == same.tags
        assert np.array_equal(one.positions, same.positions)
        assert np.array_equal(one.cell, same.cell)
    assert any(a.positions.shape != b.positions.shape or (a.positions != b.positions).any()
               for a, b in zip(few, other, strict=True))  # fmt: skip


@pytest.mark.parametrize("name", GENERATORS)
def test_bonds_are_long_enough_and_sheets_have_vacuum(name):
    for candidate in GENERATORS[name].candidates(20, np.random.default_rng(0)):
        atoms = candidate.to_atoms()
        i, j, apart = neighbor_list("ijd", atoms, 2.5)
        assert (apart > 0.6 * (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])).all()
        assert np.linalg.det(atoms.cell) > 0
        assert candidate.tags["prototype"]
        if candidate.tags.get("kind") == "stack":
            assert atoms.pbc.all()
        else:
            assert atoms.pbc.tolist() == [True, True, False]
            assert np.allclose(atoms.cell[2, :2], 0)
            assert atoms.cell[2, 2] - np.ptp(atoms.positions[:, 2]) == pytest.approx(15.0)


@pytest.mark.parametrize("name", GENERATORS)
def test_parents_without_vacuum_are_refused(name):
    with pytest.raises(InvalidCrystalError, match=r"parent 1 .*no vacuum along c.*Give monolayers"):
        list(GENERATORS[name].candidates(1, np.random.default_rng(0), [graphene(vacuum=8), bulk("Cu")]))


def test_too_many_failed_draws_raise():
    with pytest.raises(DatasetError, match=r"found only 0 of 2 candidates \(sheet\)"):
        list(slabs.draw_candidates(2, "sheet", lambda: None))
    close = slabs.center_in_vacuum(Atoms("C2", [[0, 0, 0], [0, 0, 0.9]], cell=[3, 3, 1]))
    with pytest.raises(DatasetError, match="attempts failed"):
        list(slabs.draw_candidates(1, "sheet", lambda: TrialStructure(close)))


def test_parents_in_any_cell_become_the_same_monolayer(mos2):
    odd = mos2.copy()
    odd.pbc = True
    odd.set_cell([odd.cell[0], odd.cell[0] + odd.cell[1], odd.cell[2] * 0.8 + odd.cell[0]])
    odd.rotate(40, (1, 2, 3), rotate_cell=True)
    odd.positions += 0.47 * odd.cell[2]  # the sheet crosses the boundary of the cell
    odd.wrap()
    before = odd.copy()
    (sheet,) = slabs.standardize_monolayers([odd])
    assert np.array_equal(odd.positions, before.positions)
    assert np.allclose(sheet.cell.angles(), [90, 90, 120], atol=1e-6)
    assert sheet.cell.lengths()[:2] == pytest.approx(mos2.cell.lengths()[:2])
    assert np.ptp(sheet.positions[:, 2]) == pytest.approx(3.127)
    assert bonds(sheet, (42, 16), 4.5) == pytest.approx(bonds(mos2, (42, 16), 4.5))


# Sheets


def test_lattice_constants_of_known_sheets():
    off = {
        (p, name): ideal(p, name).cell.lengths()[0] / a - 1
        for p, known in KNOWN.items()
        for name, a in known.items()
    }
    assert len(off) > 55
    # The preset scales sheets by 3.5%, which must be larger than the bias.
    assert max(map(abs, off.values())) < 0.055
    assert abs(np.median(list(off.values()))) < 0.006
    assert np.sqrt(np.mean(np.square(list(off.values())))) < 0.023


@pytest.mark.parametrize("sheet", THICKNESS)
def test_thickness_of_known_sheets(sheet):
    assert np.ptp(ideal(*sheet).positions[:, 2]) == pytest.approx(THICKNESS[sheet], abs=0.16)


@pytest.mark.parametrize(
    ("prototype", "name", "centre", "neighbours"),
    [
        ("MoS2-2H", "MoS2", "Mo", "S6"),
        ("CdI2-1T", "CdI2", "Cd", "I6"),
        ("BiTeI", "BiTeI", "Bi", "Te3I3"),
        ("BN", "BN", "B", "N3"),
        ("silicene", "SiSi", "Si", "Si3"),
        ("phosphorene", "PP", "P", "P3"),
        ("GaS", "GaSe", "Ga", "Se3Ga"),
        ("FeSe", "FeSe", "Fe", "Se4"),
        ("PbO", "PbO", "O", "Pb4"),
        ("PbFCl", "BiOCl", "O", "Bi4"),
        ("M2X", "TiC", "C", "Ti6"),
        ("M2XT2", "TiCO", "Ti", "C3O3"),
        ("CrI3", "CrI3", "Cr", "I6"),
        ("MnPS3", "MnPS", "Mn", "S6"),
        ("MnPS3", "MnPS", "P", "PS3"),
        ("CrGeTe3", "CrGeTe", "Ge", "GeTe3"),
    ],
)
def test_atoms_have_the_neighbours_of_their_prototype(prototype, name, centre, neighbours):
    atoms = ideal(prototype, name)
    i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.2))
    wanted = Counter(Atoms(neighbours).get_chemical_symbols())
    for k in np.flatnonzero(atoms.numbers == atomic_numbers[centre]):
        # Metals may have further metals as neighbours.
        assert Counter(symbol for symbol in atoms.symbols[j[i == k]] if symbol in wanted) == wanted


def test_every_composition_makes_a_sheet_of_the_same_kind():
    total = 0
    for prototype in monolayer_prototypes().values():
        made = prototype.compositions
        assert len(set(made)) == len(made)
        total += len(made)
        sizes = set()
        for symbols in made[::4]:
            atoms = prototype.build(symbols)
            assert not slabs.too_close(atoms)
            assert set(atoms.symbols) == set(symbols)
            assert 2 < atoms.cell.lengths()[0] < 10
            sizes.add(len(atoms))
        assert len(sizes) == 1
    assert total > 1500


def test_dihalides_and_dichalcogenides_balance():
    for metal, anion in monolayer_prototypes()["CdI2-1T"].compositions:
        charge = {"O": 4, "S": 4, "Se": 4, "Te": 4}.get(anion, 2)
        element = Element(metal)
        assert charge in {*element.icsd_oxidation_states, *element.common_oxidation_states}
    assert ("Zn", "S") not in monolayer_prototypes()["CdI2-1T"].compositions
    assert ("Na", "Cl") not in monolayer_prototypes()["CdI2-1T"].compositions


def test_compositions_are_repeated_only_after_all_of_them():
    sample = sheets.composition_sampler(np.random.default_rng(0))
    drawn = {}
    for _ in range(700):
        prototype, symbols = sample()
        drawn.setdefault(prototype.name, []).append(symbols)
    for name, order in drawn.items():
        n = len(monolayer_prototypes()[name].compositions)
        assert len(set(order[:n])) == min(n, len(order))
    assert any(len(order) > len(monolayer_prototypes()[name].compositions) for name, order in drawn.items())


def test_sheets_are_spread_evenly_around_the_ideal():
    ratios = []
    for candidate in sheets.candidates(150, np.random.default_rng(1)):
        atoms, tags = candidate.to_atoms(), candidate.tags
        prototype = monolayer_prototypes()[tags["prototype"]]
        found = [s for s in prototype.compositions if set(s) == set(atoms.symbols)]
        perfect = prototype.build(found[0])
        assert Counter(atoms.symbols) == Counter(perfect.symbols)
        within = np.sqrt(np.linalg.det(atoms.cell[:2, :2]) / np.linalg.det(perfect.cell[:2, :2]))
        ratios.append((tags["start"], within))
    plain = np.array([r for start, r in ratios if start == "ideal"])
    distorted = np.array([r for start, r in ratios if start == "distorted"])
    assert 0.55 < len(distorted) / len(ratios) < 0.75
    assert abs(plain.mean() - 1) < 0.015
    assert 0.025 < plain.std() < 0.045
    assert np.abs(distorted - 1).max() < 0.15


def test_substitution_keeps_the_parent_and_scales_with_radii(mos2):
    before = mos2.copy()
    made = list(sheets.candidates(30, np.random.default_rng(0), [mos2]))
    assert np.array_equal(mos2.positions, before.positions)
    assert {c.tags["made"] for c in made} == {"substitution"}
    assert len({c.tags["formula"] for c in made}) > 10
    for candidate in made:
        for change in candidate.tags["substituted"].split("+"):
            old, new = change.split(">")
            assert atomic_numbers[old] not in candidate.numbers
            assert atomic_numbers[new] in candidate.numbers
        assert sorted(Counter(candidate.numbers.tolist()).values()) == [1, 2]
    tellurides = [c.cell[0, 0] for c in made if 52 in c.numbers]
    oxides = [c.cell[0, 0] for c in made if 8 in c.numbers]
    assert np.mean(tellurides or [9.0]) > np.mean(oxides or [0.0])


# Layers


@pytest.mark.parametrize(("kind", "sector"), [("hexagonal", 60), ("square", 90)])
def test_supercells_coincide_exactly_at_their_ratio_and_twist(kind, sector):
    lattice = np.array([[1, 0], [-0.5, 0.75**0.5]]) if kind == "hexagonal" else np.eye(2)
    for match in layered.coincidences(kind):
        angle = np.deg2rad(match.twist)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        lower = np.array(match.lower) @ lattice
        upper = np.array(match.upper) @ lattice / match.ratio @ turn
        # The same lattice: each is an integer combination of the other.
        mixing = upper @ np.linalg.inv(lower)
        assert mixing == pytest.approx(np.round(mixing), abs=1e-6)
        assert abs(np.linalg.det(mixing)) == pytest.approx(1)
        assert 0 <= match.twist < sector
    exact = {round(m.twist, 1): m.cells for m in layered.coincidences(kind) if abs(m.ratio - 1) < 1e-9}
    known = {0.0: 1, 21.8: 7, 38.2: 7, 27.8: 13, 32.2: 13, 13.2: 19, 46.8: 19}
    if kind == "square":
        known = {0.0: 1, 36.9: 5, 53.1: 5, 22.6: 13, 67.4: 13, 28.1: 17, 61.9: 17}
    assert exact == {twist: (cells, cells) for twist, cells in known.items()}


def test_twisted_layers_keep_their_geometry(mos2):
    made = [
        c for c in layered.candidates(30, np.random.default_rng(1), [mos2]) if c.tags["made"] == "twisted"
    ]
    assert {c.tags["twist"] for c in made} == {"21.79", "38.21"}
    for candidate in made:
        atoms = candidate.to_atoms()
        assert len(atoms) == 42
        assert float(candidate.tags["strain"]) == 0
        halves = atoms[:21], atoms[21:]
        for half in halves:
            assert bonds(half, (42, 16), 2.6) == pytest.approx(np.full(42, bonds(mos2, (42, 16), 2.6)[0]))
            assert bonds(half, (42, 42), 3.5) == pytest.approx(np.full(42, 3.184))
        # The twist is the difference in the directions between neighbouring metal atoms.
        angles = [_direction(half) for half in halves]
        assert (angles[1] - angles[0]) % 60 == pytest.approx(float(candidate.tags["twist"]), abs=0.01)


def _direction(layer):
    """Return the direction of the bonds between metals in degrees, modulo 60."""
    i, vectors = neighbor_list("iD", layer[layer.numbers == 42], 3.5)
    x, y, _ = vectors[i == 0][0]
    return np.rad2deg(np.arctan2(y, x)) % 60


def test_layers_of_two_kinds_have_opposite_strains(mos2, wse2):
    given = [mos2, slabs.center_in_vacuum(graphene(a=2.46)), wse2]
    made = [c for c in layered.candidates(40, np.random.default_rng(2), given) if c.tags["made"] == "hetero"]
    assert len({c.tags["layers"] for c in made}) >= 3
    lengths = {"MoS2": (42, 42, 3.184), "C": (6, 6, 2.46 / 3**0.5), "WSe2": (74, 74, 3.319)}
    for candidate in made:
        atoms, strain = candidate.to_atoms(), float(candidate.tags["strain"])
        assert len(atoms) <= 60
        assert strain <= 0.02
        ratios = []
        for name in candidate.tags["layers"].split("/"):
            first, second, length = lengths[name]
            found = bonds(atoms, (first, second), 1.2 * length)
            assert np.ptp(found) < 1e-6
            ratios.append(found.mean() / length - 1)
        assert np.abs(ratios).max() == pytest.approx(strain, abs=1e-4)
        # One is stretched as much as the other is compressed.
        assert sum(ratios) == pytest.approx(0, abs=2 * strain**2 + 1e-6)


def test_gaps_between_layers_follow_van_der_waals_radii(mos2):
    turned = layered.oriented(mos2, "half")
    shift = np.array([0.4, 1.1])
    stack = layered.stack(mos2, turned, shift, 0.98, rhombohedral=True)
    assert stack.pbc.all()
    reach = 0.98 * 2 * Element("S").van_der_waals_radius
    # Between the two layers, and between the upper one and the next cell.
    repeated = stack.repeat((1, 1, 2))
    for below, above in pairwise([repeated[k : k + 3] for k in (0, 3, 6)]):
        assert np.linalg.norm(_between(below, above), axis=-1).min() == pytest.approx(reach)
    bilayer = layered.bilayer(mos2, turned, shift, 0.98)
    assert np.linalg.norm(_between(bilayer[:3], bilayer[3:]), axis=-1).min() == pytest.approx(reach)


def test_rhombohedral_stacks_repeat_after_every_layer(mos2):
    stack = layered.stack(mos2, mos2, np.array([0.4, 1.1]), 0.98, rhombohedral=True)
    step = stack.positions[3:] - stack.positions[:3]
    twice = (2 * step - stack.cell.array[2]) @ np.linalg.inv(stack.cell.array)
    assert twice == pytest.approx(np.round(twice), abs=1e-9)


def _between(below, above):
    """Return vectors from atoms of a layer to atoms and in-plane images of the next layer."""
    shifts = np.array([(i, j, 0) for i in range(-3, 4) for j in range(-3, 4)]) @ below.cell.array
    return (above.positions[None] - below.positions[:, None])[:, :, None] + shifts


@pytest.mark.parametrize(
    ("prototype", "name", "turn", "shift", "repeat"),
    [
        ("MoS2-2H", "MoS2", "half", (1 / 3, 2 / 3), 12.30),
        ("MoS2-2H", "WSe2", "half", (1 / 3, 2 / 3), 12.98),
        ("CdI2-1T", "TiS2", "none", (0, 0), 11.40),
        ("CdI2-1T", "SnSe2", "none", (0, 0), 12.28),
        ("BN", "CC", "none", (1 / 3, 2 / 3), 6.71),
        ("CrGeTe3", "CrGeTe", "none", (1 / 3, 2 / 3), 13.7),
        ("FeSe", "FeSe", "none", (0, 0), 11.04),
    ],
)
def test_periods_of_known_stacks(prototype, name, turn, shift, repeat):
    sheet = ideal(prototype, name)
    shift = np.array(shift) @ sheet.cell.array[:2, :2]
    stack = layered.stack(sheet, layered.oriented(sheet, turn), shift, layered.CONTACT)
    assert stack.cell.lengths()[2] == pytest.approx(repeat, rel=0.06)


def test_all_kinds_of_stacking_occur():
    made = list(layered.candidates(50, np.random.default_rng(5)))
    assert {c.tags["made"] for c in made} == {"registry", "slid", "twisted", "hetero"}
    assert {c.tags["kind"] for c in made} == {"stack", "bilayer"}
    assert {"AA", "AB", "slid"} <= {c.tags["registry"] for c in made}
    assert {c.tags["turn"] for c in made} == {"none", "half", "inverted"}
    assert max(len(c.numbers) for c in made) <= 60
    for candidate in made:
        lower, upper = candidate.tags["layers"].split("/")
        assert (lower != upper) == (candidate.tags["made"] == "hetero")
        if candidate.tags["made"] != "hetero":
            assert float(candidate.tags["strain"]) == 0


# Defects


def test_defects_match_their_tag_and_other_atoms_keep_their_positions():
    for candidate in defects.candidates(60, np.random.default_rng(0)):
        tags, atoms = candidate.tags, candidate.to_atoms()
        size = int(tags["supercell"][0])
        sheet = slabs.center_in_vacuum(mx2(tags["host"], "2H", *defects.RELAXED[tags["host"]]))
        host = sheet.repeat((size, size, 1))
        wanted, names = Counter(host.symbols), tags["defect"].split("+")
        assert 1 <= len(names) == int(tags["defects"]) <= 3
        for name in names:
            new, old = re.split("[_@]", name)
            wanted[old] -= "@" not in name
            wanted[new] += 1
        vacancies = wanted.pop("vac", 0)
        assert Counter(atoms.symbols) == +wanted
        # All other atoms keep their positions; with adatoms the sheet is centered again.
        adatoms = sum("@" in name for name in names)
        assert len(atoms) == len(host) - vacancies + adatoms
        kept = atoms.positions[: len(atoms) - adatoms]
        kept[:, 2] += np.median(host.positions[:, 2]) - np.unique(kept[:, 2].round(6))[1]
        assert (np.linalg.norm(kept[:, None] - host.positions, axis=-1).min(axis=1) < 1e-5).all()


def test_no_two_candidates_are_equivalent_by_symmetry():
    # Equivalent crystals have the same distances between the same elements, in any setting.
    seen, groups = set(), Counter()
    for candidate in defects.candidates(150, np.random.default_rng(1)):
        atoms = candidate.to_atoms()
        i, j = np.triu_indices(len(atoms), 1)
        kinds = np.sort(atoms.numbers[[i, j]], axis=0)
        distances = atoms.get_all_distances(mic=True)[i, j].round(3)
        listed = np.sort(np.array([*kinds, distances]).T.copy().view("f8,f8,f8"), axis=0)
        seen.add((candidate.tags["supercell"], listed.tobytes()))
        groups[tuple(candidate.tags[key] for key in ("host", "supercell", "defect"))] += 1
    assert len(seen) == 150
    assert sum(count > 1 for count in groups.values()) >= 5


@pytest.fixture(scope="module")
def host(mos2):
    return defects.Host("MoS2", mos2.repeat((3, 3, 1)))


def test_pairs_of_vacancies_are_equivalent_at_equal_distances(host):
    # In this cell, the distance identifies a pair of sites of given elements up to symmetry.
    metal = host.atoms.numbers == 42
    for first, second in ((~metal, ~metal), (metal, ~metal), (metal, metal)):
        keys, distances = set(), set()
        for i in np.flatnonzero(first):
            for j in np.flatnonzero(second):
                if i != j:
                    states = host.atoms.numbers.copy()
                    states[[i, j]] = defects.VACANCY
                    keys.add(defects.canonical_key(states, host.permutations))
                    distances.add(round(host.distances[i, j], 3))
        assert len(keys) == len(distances) > 1


def test_images_of_defects_under_symmetry_have_the_same_key(host):
    assert len(host.permutations) == 9 * 12
    states = host.atoms.numbers.astype(int)
    sulfur = np.flatnonzero(states == 16)
    states[sulfur[0]] += defects.ADATOM * 8
    states[sulfur[3]] = defects.VACANCY
    states[sulfur[7]] = 34
    key = defects.canonical_key(states, host.permutations)
    for permutation in host.permutations[::7]:
        image = np.empty_like(states)
        image[permutation] = states
        assert defects.canonical_key(image, host.permutations) == key
    states[sulfur[7]] = 52
    assert defects.canonical_key(states, host.permutations) != key


def test_adatoms_are_outside_of_the_sheet(host):
    states = host.atoms.numbers.astype(int)
    top, bottom = np.argmax(host.atoms.positions[:, 2]), np.argmin(host.atoms.positions[:, 2])
    states[[top, bottom]] += defects.ADATOM * 8
    atoms = defects.build_defects(host, states)
    assert atoms.get_chemical_formula("metal") == "Mo9O2S18"
    z = atoms.positions[:, 2]
    assert z[-2:].max() == z.max()
    assert z[-2:].min() == z.min()
    assert np.ptp(z) == pytest.approx(3.127 + 2 * (1.05 + 0.66), abs=0.02)


def test_parents_of_other_sizes_and_elements():
    parents = [slabs.center_in_vacuum(graphene()), ideal("CrI3", "CrI3"), ideal("GaS", "GaSe")]
    made = list(defects.candidates(40, np.random.default_rng(0), parents))
    sizes = {(c.tags["host"], c.tags["supercell"]) for c in made}
    assert sizes == {("C", "4x4"), ("C", "5x5"), ("CrI3", "3x3"), ("GaSe", "3x3"), ("GaSe", "4x4")}
    assert all(23 < len(c.numbers) < 80 for c in made)
    replaced = {n.split("_")[0] for c in made for n in c.tags["defect"].split("+") if n.endswith("_Ga")}
    assert replaced & {"Al", "In", "Tl", "Ge", "Zn", "Sn"}
