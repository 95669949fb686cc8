"""Matching: order, images, origin and orientation of the relaxed file do not change the pair."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from hypothesis import given
from hypothesis import strategies as st

from repose.data.matching import match, rotation_angle, stretch_and_rotation
from repose.data.pairing import states_to_pair
from repose.errors import InvalidCrystalError
from support.reference_pairs import IDS, REFERENCE, assert_same, states

seeds = st.integers(0, 2**31)


def random_states(rng, n_atoms=None, amplitude=0.3) -> tuple[Atoms, Atoms]:
    """Atoms at least 1.6 A apart, and relaxed ones displaced by less than half of that."""
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
def test_real_crystals_from_shuffled_and_wrapped_files(name):
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


def test_the_assignment_is_optimal():
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


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_image_is_exact_in_a_skewed_cell(seed):
    """Against brute force; rounding fractional differences would be wrong here."""
    rng = np.random.default_rng(seed)
    cell = np.array([[3.0, 0, 0], [2.9, 1.2, 0], [0.3, 2.0, 4.0]])
    unrelaxed = Atoms("ArNe", [[0, 0, 0], [0, 0, 2.0]], cell=cell, pbc=True)
    relaxed = unrelaxed.copy()
    # One atom stays, so that the other's step is no rigid shift.
    relaxed.positions[1] += [0, 0, rng.uniform(-0.3, 0.3)] + rng.uniform(-0.5, 0.5, 3) @ cell * [1, 1, 0]
    step = relaxed.positions[1] - unrelaxed.positions[1]
    relaxed.positions += rng.integers(-5, 6, (2, 3)) @ cell
    shifts = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), -1).reshape(-1, 3)
    pair = states_to_pair("x", unrelaxed, relaxed)
    moved = np.linalg.norm(pair.relaxed_positions - pair.positions, axis=1)
    np.testing.assert_allclose(moved, [0, np.linalg.norm(step + shifts @ cell, axis=1).min()], atol=1e-9)


def test_images_follow_an_expanding_cell():
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
def test_alignment_leaves_a_symmetric_stretch(seed):
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
def test_invalid_pairs_are_refused(change, message):
    unrelaxed, relaxed = states(REFERENCE[IDS[0]])
    changed = change(relaxed)
    with pytest.raises(InvalidCrystalError, match=message):
        states_to_pair("x", unrelaxed, relaxed if changed is None else changed)


def test_the_error_has_both_formulas():
    with pytest.raises(InvalidCrystalError, match=r"unrelaxed ClNa but relaxed Na2"):
        states_to_pair(
            "x", *(Atoms(f, [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True) for f in ("NaCl", "Na2"))
        )
