"""Predictions projected onto a space group, and lattice vectors that are held."""

from dataclasses import replace

import ase.spacegroup.symmetrize as oracle
import numpy as np
import pytest
from ase import Atoms
from hypothesis import given
from hypothesis import strategies as st

from repose.crystal.deformation import constrain_cell, polar
from repose.crystal.symmetry import (
    SpaceGroup,
    find_space_group,
    idealise,
    space_group_number,
    symmetrise,
)
from repose.errors import ConfigError, InvalidCrystalError, ShapeError
from support.symmetric_crystals import (
    CRYSTALS,
    TOLERANCE,
    asymmetry,
    close,
    every_crystal,
    kept_number,
    predict,
    random_rotation,
    repeatable,
    seeds,
    take,
    with_cell,
)


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
