"""Space groups found, predictions projected onto them, lattice vectors held."""

import warnings
from dataclasses import replace

import ase.spacegroup.symmetrize as oracle
import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, mx2
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from repose.crystal import symmetry
from repose.crystal.symmetry import (
    SpaceGroup,
    constrain_cell,
    find_space_group,
    idealise,
    polar,
    space_group_number,
    symmetrise,
)
from repose.errors import ConfigError, InvalidCrystalError, ShapeError

TOLERANCE = 1e-8
repeatable = settings(derandomize=True, max_examples=8, deadline=None)
seeds = st.integers(0, 2**32 - 1)

# Expected space group and number of operations, with the crystal.
CRYSTALS = {
    "rock salt, primitive": (225, 48, bulk("NaCl", "rocksalt", a=5.64)),
    "rock salt, conventional": (225, 192, bulk("NaCl", "rocksalt", a=5.64, cubic=True)),
    "fluorite": (225, 48, bulk("CaF2", "fluorite", a=5.46)),
    "perovskite": (
        221,
        48,
        crystal(
            ["Sr", "Ti", "O"],
            [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
            spacegroup=221,
            cellpar=[3.905, 3.905, 3.905, 90, 90, 90],
        ),
    ),
    "wurtzite": (186, 12, bulk("ZnO", "wurtzite", a=3.25, c=5.2, u=0.38)),
    "diamond": (227, 192, bulk("C", "diamond", a=3.57, cubic=True)),
    "quartz": (
        152,
        6,
        crystal(
            ["Si", "O"],
            [(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.4524)],
            spacegroup=152,
            cellpar=[4.92, 4.92, 5.41, 90, 90, 120],
        ),
    ),
    "hexagonal": (
        176,
        12,
        crystal(
            ["Si", "N", "N"],
            [(0.174, 0.768, 0.25), (1 / 3, 2 / 3, 0.25), (0.33, 0.03, 0.25)],
            spacegroup=176,
            cellpar=[7.6, 7.6, 2.91, 90, 90, 120],
        ),
    ),
    "monoclinic": (
        14,
        4,
        crystal(
            ["Zr", "O", "O"],
            [(0.275, 0.04, 0.208), (0.07, 0.332, 0.345), (0.45, 0.757, 0.479)],
            spacegroup=14,
            cellpar=[5.15, 5.21, 5.32, 90, 99.2, 90],
        ),
    ),
    "sheet": (187, 12, mx2("MoS2", kind="2H", a=3.18, thickness=3.19, vacuum=8)),
    "one atom": (229, 48, bulk("Fe", "bcc", a=2.87)),
    # Longer along a than along b, so that its lattice has no threefold axis: a third of 72 operations.
    "supercell": (194, 24, bulk("Mg", "hcp", a=3.21, c=5.21).repeat((3, 1, 1))),
}
every_crystal = st.sampled_from(sorted(CRYSTALS))


def take(name, rng=None):
    """Numbers, positions, cell and pbc of a crystal; with ``rng`` turned, shuffled, shifted and unwrapped."""
    atoms = CRYSTALS[name][2]
    pbc = np.array([True, True, name != "sheet"])
    numbers, positions, cell = atoms.numbers, atoms.get_positions(), np.array(atoms.cell)
    if rng is not None:
        order, turn = rng.permutation(len(numbers)), random_rotation(rng)
        images = rng.integers(-2, 3, size=positions.shape) * pbc @ cell
        positions = ((positions + images) @ turn)[order] + rng.normal(size=3)
        numbers, cell = numbers[order], cell @ turn
    return numbers, positions, cell, pbc


def random_rotation(rng):
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def with_cell(positions, cell, new_cell):
    """Positions with the same fractional coordinates in another cell."""
    return positions @ np.linalg.solve(cell, new_cell)


def predict(rng, positions, cell, size=0.05):
    """A random prediction: atoms moved, lattice strained and a little turned."""
    new_cell = cell @ (np.eye(3) + size * rng.normal(size=(3, 3)))
    return with_cell(positions, cell, new_cell) + 2 * size * rng.normal(size=positions.shape), new_cell


def asymmetry(group, positions, cell):
    """How far (A) the operations of a group are from mapping a crystal onto itself: atoms and lattice."""
    fractional, metric, worst = positions @ np.linalg.inv(cell), cell @ cell.T, 0.0
    for w, shift, atoms in zip(group.rotations, group.translations, group.permutations, strict=True):
        miss = fractional @ w.T + shift - fractional[atoms]
        worst = max(worst, np.abs((miss - np.rint(miss)) @ cell).max())
        worst = max(worst, np.abs(w.T @ metric @ w - metric).max() / np.sqrt(metric.max()))
    return worst


def kept_number(name):
    """Space group that a projection guarantees: the one found, unless the lattice carries less (Cmcm)."""
    return 63 if name == "supercell" else CRYSTALS[name][0]


def close(one, other, tolerance=TOLERANCE):
    return all(np.abs(a - b).max() < tolerance for a, b in zip(one, other, strict=True))


# --- finding -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRYSTALS)
def test_known_space_groups(name):
    number, operations, _ = CRYSTALS[name]
    for rng in (None, np.random.default_rng(0)):
        numbers, positions, cell, pbc = take(name, rng)
        group = find_space_group(numbers, positions, cell, pbc)
        assert (group.number, group.n_operations) == (number, operations)
        assert space_group_number(numbers, positions, cell) == number
        assert asymmetry(group, positions, cell) < TOLERANCE
        assert (numbers[group.permutations] == numbers).all()


def test_symbol_and_trivial_group():
    group = find_space_group(*take("rock salt, primitive"))
    assert group.symbol == "Fm-3m"
    trivial = SpaceGroup.trivial(3)
    assert (trivial.number, trivial.symbol, trivial.n_operations) == (1, "P1", 1)
    assert trivial.permutations.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("failure", ["none", "raises"])
def test_failing_search_gives_p1(monkeypatch, failure):
    def search(cell, symprec):
        if failure == "raises":
            raise RuntimeError("too close distance between atoms")

    monkeypatch.setattr(spglib, "get_symmetry_dataset", search)
    numbers, positions, cell, pbc = take("perovskite")
    assert find_space_group(numbers, positions, cell, pbc).n_operations == 1
    assert space_group_number(numbers, positions, cell) == 1


@pytest.mark.parametrize("odd", ["overlapping", "nan", "infinite", "flat"])
def test_odd_crystals_give_p1(odd):
    numbers, positions, cell, pbc = take("diamond")
    if odd == "overlapping":
        positions = np.zeros_like(positions)
    elif odd == "flat":
        cell = np.diag([4.0, 4.0, 0.0])
    else:
        positions = np.full_like(positions, np.nan if odd == "nan" else np.inf)
    assert find_space_group(numbers, positions, cell, pbc).n_operations == 1
    assert space_group_number(numbers, positions, cell) == 1


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_space_group(*take("quartz")).number == 152


def test_left_handed_cell():
    numbers, positions, cell, pbc = take("quartz")
    cell = cell[[1, 0, 2]]
    group = find_space_group(numbers, positions, cell, pbc)
    rng = np.random.default_rng(0)
    projected = symmetrise(group, positions, cell, *predict(rng, positions, cell))
    assert group.n_operations == 6
    assert asymmetry(group, *projected) < TOLERANCE


def test_wrong_arguments():
    numbers, positions, cell, pbc = take("diamond")
    with pytest.raises(ShapeError, match=r"numbers must be \(8,\)"):
        find_space_group(numbers[:3], positions, cell, pbc)
    with pytest.raises(ShapeError, match=r"cell must be \(3, 3\)"):
        find_space_group(numbers, positions, cell[None], pbc)
    with pytest.raises(ShapeError, match=r"positions must be \(N, 3\)"):
        find_space_group(numbers, positions[None], cell, pbc)
    with pytest.raises(ConfigError, match="symprec must be a positive length"):
        find_space_group(numbers, positions, cell, pbc, symprec=-1.0)


def test_vacuum_carries_no_translation():
    # Two equal sheets half a cell apart: stacked without end if c is periodic, a bilayer if it is not.
    sheet = CRYSTALS["sheet"][2]
    pair = sheet.repeat((1, 1, 2))
    pair.positions += [0.3, 0.2, 0.1]
    args = pair.numbers, pair.positions, np.array(pair.cell)
    stacked = find_space_group(*args, [True, True, True])
    bilayer = find_space_group(*args, [True, True, False])
    assert (stacked.n_operations, bilayer.n_operations) == (24, 12)
    same_side = bilayer.rotations[:, 2, 2] == 1
    assert np.abs(bilayer.translations[same_side, 2]).max() < TOLERANCE
    # Not only modulo lattice vectors: along c the operations map the atoms as they are.
    height = pair.positions[:, 2] / pair.cell[2, 2]
    images = bilayer.rotations[:, 2, 2, None] * height + bilayer.translations[:, 2, None]
    assert np.abs(images - height[bilayer.permutations]).max() < TOLERANCE


def test_molecule_and_mixed_directions():
    pair = Atoms("CsCl", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=[4.12] * 3)
    args = pair.numbers, pair.positions, np.array(pair.cell)
    counts = [find_space_group(*args, pbc).n_operations for pbc in ([1, 1, 1], [1, 1, 0], [0, 0, 0])]
    assert counts == [48, 8, 6]  # m-3m; a polar double layer, 4mm; a molecule along 111, 3m


def test_operations_that_are_no_group(monkeypatch):
    group = find_space_group(*take("wurtzite"))
    assert symmetry._is_group(group.rotations, group.permutations)
    assert not symmetry._is_group(group.rotations[:-1], group.permutations[:-1])
    assert not symmetry._is_group(group.rotations[:0], group.permutations[:0])
    monkeypatch.setattr(symmetry, "_is_group", lambda *_: False)
    assert find_space_group(*take("wurtzite")).number == 1


def test_large_supercell_keeps_site_symmetry(monkeypatch):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)
    args = atoms.numbers, atoms.positions, np.array(atoms.cell), [True] * 3
    assert find_space_group(*args).n_operations == 8 * 192
    monkeypatch.setattr(symmetry, "MAX_IMAGES", 10_000)
    monkeypatch.setattr(symmetry, "IMAGES_AT_A_TIME", 1000)
    group = find_space_group(*args)
    assert (group.number, group.n_operations) == (225, 48)
    assert asymmetry(group, *args[1:3]) < TOLERANCE


@repeatable
@given(seeds)
def test_atom_finder_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    n, tolerance = rng.integers(1, 40), 10 ** rng.uniform(-3, 0)
    cell = rng.normal(size=(3, 3)) * rng.uniform(1, 8)
    numbers = rng.integers(1, 3, size=n)
    # Many atoms exactly on the borders of bins.
    fractional = np.where(rng.random((n, 3)) < 0.5, rng.integers(-4, 5, size=(n, 3)) / 4, rng.random((n, 3)))
    noise = rng.normal(size=(5, n, 3)) * tolerance / 2 @ np.linalg.inv(cell)
    images = fractional + noise + rng.integers(-3, 4, size=(5, n, 3))
    difference = images[:, :, None] - fractional
    distance = np.linalg.norm((difference - np.rint(difference)) @ cell, axis=-1)  # (5, n, n)
    distance[:, numbers[:, None] != numbers] = np.inf
    found = symmetry._AtomFinder(numbers, fractional, cell, tolerance)(images)
    near = distance.min(axis=-1) < tolerance
    assert ((found >= 0) == near).all()
    chosen = np.take_along_axis(distance, found[..., None], axis=-1)[..., 0]
    assert np.abs(chosen - distance.min(axis=-1))[near].max(initial=0) < TOLERANCE


# --- projecting ----------------------------------------------------------------------------------------


@repeatable
@given(every_crystal, seeds)
def test_projection_is_symmetric_and_idempotent(name, seed):
    rng = np.random.default_rng(seed)
    numbers, positions, cell, pbc = take(name, rng)
    group = find_space_group(numbers, positions, cell, pbc)
    prediction = predict(rng, positions, cell)
    before = [a.copy() for a in (positions, cell, *prediction)]
    projected = symmetrise(group, positions, cell, *prediction)
    assert close(before, (positions, cell, *prediction), 1e-300)
    assert asymmetry(group, *projected) < TOLERANCE
    assert space_group_number(numbers, *projected, symprec=1e-5) >= kept_number(name)
    # Projecting twice is projecting once, and what is symmetric already stays as it is.
    assert close(symmetrise(group, positions, cell, *projected), projected, 1e-10)
    assert close(symmetrise(group, positions, cell, positions, cell), (positions, cell), 1e-10)


@pytest.mark.parametrize("name", CRYSTALS)
def test_every_crystal_is_projected(name):
    # Hypothesis draws only some of the crystals above; here each has its turn.
    rng = np.random.default_rng(1)
    numbers, positions, cell, pbc = take(name, rng)
    group = find_space_group(numbers, positions, cell, pbc)
    prediction = predict(rng, positions, cell)
    assert asymmetry(group, *prediction) > 1e-3
    projected = symmetrise(group, positions, cell, *prediction)
    assert asymmetry(group, *projected) < TOLERANCE
    assert space_group_number(numbers, *projected, symprec=1e-5) >= kept_number(name)


# Where all atoms lie on special sites transposed rotations do no harm; and W is not W^T in hexagonal axes.
@pytest.mark.parametrize("name", ["hexagonal", "quartz"])
@pytest.mark.parametrize("fault", ["transposed rotations", "inverse permutations", "no averaging"])
def test_checker_rejects_broken_projections(name, fault):
    rng = np.random.default_rng(2)
    numbers, positions, cell, pbc = take(name)
    group = find_space_group(numbers, positions, cell, pbc)
    broken = {
        "transposed rotations": replace(group, rotations=group.rotations.transpose(0, 2, 1)),
        "inverse permutations": replace(group, permutations=np.argsort(group.permutations, axis=1)),
        "no averaging": SpaceGroup.trivial(len(numbers)),
    }[fault]
    projected = symmetrise(broken, positions, cell, *predict(rng, positions, cell))
    assert asymmetry(group, *projected) > 1e-4


@repeatable
@given(every_crystal, seeds)
def test_equivariance(name, seed):
    rng = np.random.default_rng(seed)
    numbers, positions, cell, pbc = take(name, rng)
    prediction = predict(rng, positions, cell)
    group = find_space_group(numbers, positions, cell, pbc)
    expected, expected_cell = symmetrise(group, positions, cell, *prediction)
    turn, order = random_rotation(rng), rng.permutation(len(numbers))
    turned = positions[order] @ turn, cell @ turn
    group = find_space_group(numbers[order], *turned, pbc)
    result = symmetrise(group, *turned, prediction[0][order] @ turn, prediction[1] @ turn)
    assert close(result, (expected[order] @ turn, expected_cell @ turn))


@repeatable
@given(seeds)
def test_p1_leaves_the_prediction_alone(seed):
    rng = np.random.default_rng(seed)
    cell = np.diag([4.0, 5.0, 6.0]) + rng.normal(size=(3, 3)) * 0.5
    positions = np.array([[0.1, 0.2, 0.3], [0.4, 0.45, 0.7], [0.8, 0.7, 0.1]]) @ cell
    group = find_space_group([6, 7, 8], positions, cell, [True] * 3)
    prediction = predict(rng, positions, cell)
    assert group.number == group.n_operations == 1
    assert close(symmetrise(group, positions, cell, *prediction), prediction, 1e-300)


@pytest.mark.parametrize("name", ["rock salt, conventional", "perovskite"])
def test_cubic_stays_cubic(name):
    rng = np.random.default_rng(3)
    numbers, positions, cell, pbc = take(name)
    prediction = predict(rng, positions, cell)
    _, projected = symmetrise(find_space_group(numbers, positions, cell, pbc), positions, cell, *prediction)
    metric = projected @ projected.T
    assert np.abs(metric - np.eye(3) * np.trace(metric) / 3).max() < TOLERANCE
    # The edge is the mean stretch, so a uniform expansion goes through whole.
    _, larger = symmetrise(
        find_space_group(numbers, positions, cell, pbc), positions, cell, positions, 1.1 * cell
    )
    assert close([larger], [1.1 * cell])


def test_rotation_of_the_prediction_is_kept():
    rng = np.random.default_rng(4)
    numbers, positions, cell, pbc = take("wurtzite")
    group, turn = find_space_group(numbers, positions, cell, pbc), random_rotation(rng)
    prediction = predict(rng, positions, cell)
    expected = [a @ turn for a in symmetrise(group, positions, cell, *prediction)]
    assert close(symmetrise(group, positions, cell, *(a @ turn for a in prediction)), expected)


def test_drift_survives_only_along_polar_axes():
    numbers, positions, cell, pbc = take("wurtzite")
    group = find_space_group(numbers, positions, cell, pbc)
    drift = np.array([0.1, 0.2, 0.3])
    drifted, _ = symmetrise(group, positions, cell, positions + drift, cell)
    assert close([drifted], [positions + np.array([0, 0, 0.3])])
    numbers, positions, cell, pbc = take("diamond")
    group = find_space_group(numbers, positions, cell, pbc)
    assert close(symmetrise(group, positions, cell, positions + drift, cell), (positions, cell))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["wurtzite", "quartz", "monoclinic", "diamond"])
def test_against_ase(name):
    rng = np.random.default_rng(5)
    numbers, positions, cell, pbc = take(name, rng)
    atoms = Atoms(numbers, positions, cell=cell, pbc=True)
    operations = oracle.prep_symmetry(atoms, symprec=1e-3)
    inverse = np.linalg.inv(cell)
    vectors, strain = 0.1 * rng.normal(size=positions.shape), 0.05 * rng.normal(size=(3, 3))
    strain = strain + strain.T
    group = find_space_group(numbers, positions, cell, pbc)
    moved, _ = symmetrise(group, positions, cell, positions + vectors, cell)
    assert close([moved - positions], [oracle.symmetrize_rank1(cell, inverse, vectors, *operations)])
    _, strained = symmetrise(group, positions, cell, positions, cell @ (np.eye(3) + strain))
    expected = cell @ (np.eye(3) + oracle.symmetrize_rank2(cell, inverse, strain, operations[0]))
    assert close([strained], [expected])


@repeatable
@given(st.sampled_from(["rock salt, conventional", "quartz", "monoclinic", "sheet"]), seeds)
def test_input_symmetric_within_symprec(name, seed):
    rng = np.random.default_rng(seed)
    numbers, positions, cell, pbc = take(name, rng)
    noisy = predict(rng, positions, cell, size=5e-6)
    group = find_space_group(numbers, *noisy, pbc)
    assert (group.number, group.n_operations) == CRYSTALS[name][:2]
    prediction = predict(rng, positions, cell)
    # The translations fit the atoms as they are: on average no operation misses.
    fractional = noisy[0] @ np.linalg.inv(noisy[1])
    for w, shift, atoms in zip(group.rotations, group.translations, group.permutations, strict=True):
        miss = fractional @ w.T + shift - fractional[atoms]
        assert np.abs((miss - np.rint(miss)).mean(axis=0)).max() < TOLERANCE
    # The small asymmetry of the input stays, no more; projecting again changes nothing.
    projected = symmetrise(group, *noisy, *prediction)
    assert 1e-6 < asymmetry(group, *projected) < 1e-3
    assert close(symmetrise(group, *noisy, *projected), projected)
    assert close(symmetrise(group, *noisy, *noisy), noisy)
    ideal = idealise(group, *noisy)
    assert close(ideal, noisy, 1e-3)
    assert asymmetry(group, *ideal) < TOLERANCE
    assert close(idealise(group, *ideal), ideal)
    assert asymmetry(group, *symmetrise(group, *ideal, *prediction)) < TOLERANCE


def test_impossible_predictions_are_refused():
    numbers, positions, cell, pbc = take("diamond")
    group = find_space_group(numbers, positions, cell, pbc)
    with pytest.raises(InvalidCrystalError, match="handedness of the input"):
        symmetrise(group, positions, cell, positions, -cell)
    with pytest.raises(InvalidCrystalError, match="must be finite"):
        symmetrise(group, positions, cell, positions, cell * np.nan)
    with pytest.raises(InvalidCrystalError, match="NaN or infinity"):
        symmetrise(group, positions, cell, positions * np.nan, cell)
    with pytest.raises(ShapeError, match=r"must be \(8, 3\)"):
        symmetrise(group, positions[:2], cell, positions[:2], cell)


# --- holding lattice vectors ---------------------------------------------------------------------------


@repeatable
@given(seeds)
def test_sheet_keeps_its_vacuum(seed):
    rng = np.random.default_rng(seed)
    numbers, positions, cell, pbc = take("sheet", rng)
    new_positions, new_cell = predict(rng, positions, cell)
    held = constrain_cell(cell, new_cell, "c")
    assert (held[2] == cell[2]).all()
    assert np.abs(held[:2] @ cell[2]).max() < TOLERANCE  # no tilt
    assert close([held[:2] @ held[:2].T], [new_cell[:2] @ new_cell[:2].T])  # lengths and angle as predicted
    assert np.linalg.det(held) > 0
    # Whatever is predicted for the vacuum has no influence.
    assert close([constrain_cell(cell, new_cell * np.array([[1], [1], [1.3]]), {"c"})], [held])
    # After projecting, holding c keeps the symmetry, even though the prediction was turned.
    group = find_space_group(numbers, positions, cell, pbc)
    new_positions, new_cell = symmetrise(group, positions, cell, new_positions, new_cell)
    held = constrain_cell(cell, new_cell, "c")
    assert asymmetry(group, with_cell(new_positions, new_cell, held), held) < TOLERANCE


@pytest.mark.parametrize("seed", range(3))
def test_monoclinic_vectors_held(seed):
    rng = np.random.default_rng(seed)
    numbers, positions, cell, pbc = take("monoclinic", rng)
    group = find_space_group(numbers, positions, cell, pbc)
    new_positions, new_cell = symmetrise(group, positions, cell, *predict(rng, positions, cell))
    for axes in ("b", "c", "ac", "bc", "ab"):
        index = ["abc".index(letter) for letter in axes]
        held = constrain_cell(cell, new_cell, axes)
        assert (held[index] == cell[index]).all()
        assert np.abs(held[1] @ held[[0, 2]].T).max() < TOLERANCE
        assert asymmetry(group, with_cell(new_positions, new_cell, held), held) < TOLERANCE
        assert np.abs(held - cell).max() > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_free_vectors_are_as_predicted(seed):
    rng = np.random.default_rng(seed)
    cell = take("rock salt, primitive", rng)[2]  # no angle is 90 degrees
    _, new_cell = predict(rng, np.zeros((1, 3)), cell)
    for axes in ("a", "b", "c", "ab", "ac", "bc"):
        index = ["abc".index(letter) for letter in axes]
        free = np.setdiff1d(range(3), index)
        held = constrain_cell(cell, new_cell, axes)
        assert close([held[free] @ held[free].T], [new_cell[free] @ new_cell[free].T])
        if len(index) == 1:  # so are the angles to the held vector; two held vectors may have another angle
            cosines = [c[free] @ c[index[0]] / np.linalg.norm(c[index[0]]) for c in (held, new_cell)]
            assert close(cosines[:1], cosines[1:])


@pytest.mark.parametrize("axes", ["", "a", "b", "c", "ab", "ac", "bc", "abc"])
@pytest.mark.parametrize("name", ["perovskite", "sheet", "monoclinic", "one atom", "quartz"])
def test_held_exactly_and_input_unchanged(name, axes):
    rng = np.random.default_rng(7)
    _, positions, cell, _ = take(name, rng)
    _, new_cell = predict(rng, positions, cell)
    before = cell.copy(), new_cell.copy()
    index = ["abc".index(letter) for letter in axes]
    for choice in (axes, set(axes)):
        held = constrain_cell(cell, new_cell, choice)
        assert (held[index] == cell[index]).all()
    assert close(before, (cell, new_cell), 1e-300)
    assert close([constrain_cell(cell, cell, axes)], [cell])
    if not axes:
        assert (held == new_cell).all()
        assert held is not new_cell
    elif axes != "abc":
        turn = random_rotation(rng)
        assert close([constrain_cell(cell @ turn, new_cell @ turn, axes)], [held @ turn])
        assert close([constrain_cell(cell, held, axes)], [held])


def test_half_turn_of_a_sheet():
    # A prediction upside down: still brought back into the plane, with its own lengths.
    cell = np.diag([3.0, 4.0, 20.0])
    held = constrain_cell(cell, 1.1 * cell * [[1], [-1], [-1]], "c")
    assert close([held @ held.T], [np.diag([3.3**2, 4.4**2, 400.0])])
    assert np.linalg.det(held) > 0


def test_wrong_axes():
    cell = np.eye(3)
    with pytest.raises(ConfigError, match=r"letters out of 'abc'.*got 'x'"):
        constrain_cell(cell, cell, "x")
    with pytest.raises(InvalidCrystalError, match="handedness of the input"):
        constrain_cell(cell, -cell, "c")


def test_polar_decomposition():
    rng = np.random.default_rng(0)
    for gradient in (np.eye(3) + 0.3 * rng.random((3, 3)), random_rotation(rng)):
        stretch, rotation = polar(gradient)
        assert close([stretch @ rotation, stretch, rotation @ rotation.T], [gradient, stretch.T, np.eye(3)])
        assert np.linalg.eigvalsh(stretch).min() > 0
    assert close([stretch], [np.eye(3)])
