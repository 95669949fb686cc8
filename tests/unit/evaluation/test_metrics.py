"""Metrics against numbers worked out by hand, and the symmetries that each has."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import periodic_graph
from repose.evaluation.metrics import METRICS, errors, matches
from repose.models.prediction import Geometry
from support.crystals import fcc, make_crystal, perovskite, random_crystal, random_rotation, rock_salt

CLOSE = {"rtol": 0, "atol": 1e-8}


def geometry(batch):
    return Geometry(batch.positions, batch.cells)


def disturbed(batch, seed, size=0.15):
    """Another geometry of the same crystals: strained, and every atom displaced."""
    rng = np.random.default_rng(seed)
    strain = torch.tensor(np.eye(3) + rng.uniform(-size / 3, size / 3, (batch.n_crystals, 3, 3)))
    step = torch.tensor(rng.uniform(-size, size, (batch.n_atoms, 3)))
    positions = (batch.positions[:, None] @ strain[batch.system_index]).squeeze(1) + step
    return Geometry(positions, batch.cells @ strain)


def test_a_perfect_prediction_has_no_error(crystals):
    target = disturbed(crystals, 0)
    for key, values in errors(crystals, target, target).items():
        torch.testing.assert_close(values, torch.zeros(5, dtype=torch.float64), **CLOSE, msg=key)


def test_one_displaced_atom_by_hand():
    # A 20 A cube whose two atoms, 2 A apart, see no other image within 6 A: two edges, one each way.
    batch = make_crystal([8, 8], [[0, 0, 0], [0.1, 0, 0]], 20 * np.eye(3))
    step = torch.tensor([[0, 0, 0], [0.3, 0, 0]], dtype=torch.float64)
    predicted = Geometry(batch.positions + step, batch.cells)
    found = errors(batch, predicted, geometry(batch))
    assert found["coordinates"].item() == pytest.approx(0.3 / 6, abs=1e-12)
    assert found["bonds"].item() == pytest.approx(0.3, abs=1e-12)
    for key in ("lattice", "shape", "volume"):
        assert found[key].item() == 0


def test_strained_cube_by_hand():
    # 4 A against 5 A: every number of the definition in one's head.
    batch = make_crystal([84], [[0.5, 0.5, 0.5]], 4 * np.eye(3))
    target = make_crystal([84], [[0.5, 0.5, 0.5]], 5 * np.eye(3))
    found = errors(batch, geometry(batch), geometry(target))
    assert found["coordinates"].item() == pytest.approx(0.5)
    assert found["lattice"].item() == pytest.approx(3 / 9)
    assert found["shape"].item() == pytest.approx(9 * 3**0.5)
    assert found["volume"].item() == pytest.approx(125 - 64)
    assert found["relative_volume"].item() == pytest.approx(100 * (125 - 64) / 125)
    # Neighbours within 6 A of a 4 A cube: 6 at 4 A and 12 at 4 sqrt(2) A, each longer by a quarter.
    assert found["bonds"].item() == pytest.approx((6 + 12 * 2**0.5) / 18)
    # The shape is in products of lattice vectors, not of Cartesian axes: here a.b, which counts twice, is 3
    # instead of 0, and b.b is 17 instead of 16.
    batch = make_crystal([84], [[0, 0, 0]], np.diag([3.0, 4.0, 5.0]))
    sheared = make_crystal([84], [[0, 0, 0]], np.array([[0.0, 3, 0], [-4, 1, 0], [0, 0, 5]]))
    assert errors(batch, geometry(sheared), geometry(batch))["shape"].item() == pytest.approx(19**0.5)


def test_equations_25_to_28_of_deeprelax():
    """Of displacements so small that no image matters; equation 25 is a mean over x, y and z too."""
    batch = random_crystal(3)
    predicted, target = disturbed(batch, 1, 0.05), disturbed(batch, 2, 0.05)
    found = errors(batch, predicted, target)
    (p, l_p), (t, l_t) = ((g.positions.numpy(), g.cells[0].numpy()) for g in (predicted, target))
    graph = periodic_graph(batch, 6.0, 50)
    pairs = list(zip(graph.receiver.tolist(), graph.sender.tolist(), graph.shift.numpy(), strict=True))
    bonds = [
        abs(np.linalg.norm(p[j] + k @ l_p - p[i]) - np.linalg.norm(t[j] + k @ l_t - t[i]))
        for i, j, k in pairs
    ]
    volumes = [abs(cell[0] @ np.cross(cell[1], cell[2])) for cell in (l_p, l_t)]
    expected = {
        "coordinates": np.abs(p - t).sum() / (3 * len(p)),  # eq. 25
        "bonds": sum(bonds) / len(bonds),  # eq. 26
        "lattice": np.abs(l_p - l_t).sum() / 9,  # eq. 27
        "volume": abs(volumes[0] - volumes[1]),  # eq. 28
    }
    for key, value in expected.items():
        assert found[key].item() == pytest.approx(value, abs=1e-10, rel=0), key


def test_the_two_images_differ_as_defined():
    # Along a 10 A axis the target is 3 A from the input, and 6 A (or 4 A through the border) from the
    # prediction.
    cell = 10 * np.eye(3)
    batch = make_crystal([8], [[0.5, 0.5, 0.5]], cell)
    predicted = make_crystal([8], [[0.2, 0.5, 0.5]], cell)
    target = make_crystal([8], [[0.8, 0.5, 0.5]], cell)
    found = errors(batch, geometry(predicted), geometry(target))
    assert found["coordinates"].item() == pytest.approx(6 / 3)
    assert found["coordinates_predicted_image"].item() == pytest.approx(4 / 3)


def test_the_image_is_one_of_the_target_cell():
    # The input's cell is 10 A long, the target's 11 A: an atom at 10.5 A is half an angstrom from zero.
    batch = make_crystal([8, 8], [[0, 0, 0], [0.3, 0.3, 0.3]], 10 * np.eye(3))
    target = Geometry(batch.positions.clone(), 11.0 * torch.eye(3, dtype=torch.float64)[None])
    target.positions[0, 0] = 10.5
    found = errors(batch, geometry(batch), target)
    assert found["coordinates"].item() == pytest.approx(0.5 / 6)


def test_an_atom_that_follows_a_sheared_cell_is_right_in_any_image():
    # Along the long axis a shear carries the atom 3 A, more than half of the short axis of 4 A.
    batch = make_crystal([8, 8], [[0, 0, 0], [0.1, 0.1, 0.75]], np.diag([4.0, 4.0, 40.0]))
    sheared = batch.cells.clone()
    sheared[0, 2, 0] = 4.0
    right = Geometry(batch.positions + torch.tensor([[0, 0, 0], [3.0, 0, 0]]).double(), sheared)
    for key, values in errors(batch, right, right).items():
        assert values.item() == pytest.approx(0, abs=1e-12), key


@given(seed=st.integers(0, 10**6), of_target=st.booleans())
def test_lattice_vectors_added_to_target_or_prediction_change_nothing(seed, of_target):
    batch = random_crystal(seed)
    states = [disturbed(batch, seed), disturbed(batch, seed + 1)]
    before = errors(batch, *states)
    shift = torch.tensor(np.random.default_rng(seed).integers(-2, 3, (batch.n_atoms, 3)).astype(float))
    positions, cells = states[of_target]
    states[of_target] = Geometry(positions + shift @ cells[0], cells)
    after = errors(batch, *states)
    for key in before:
        torch.testing.assert_close(after[key], before[key], **CLOSE, msg=key)


@given(seed=st.integers(0, 10**6), reflect=st.booleans())
def test_turning_everything_leaves_bonds_shape_and_volume(seed, reflect):
    batch = random_crystal(seed)
    rotation = random_rotation(seed, reflect)
    predicted, target = disturbed(batch, seed), disturbed(batch, seed + 1)

    def turn(g):
        return Geometry(g.positions @ rotation, g.cells @ rotation)

    turned = batch.with_geometry(*turn(geometry(batch)))
    before, after = errors(batch, predicted, target), errors(turned, turn(predicted), turn(target))
    for key in ("bonds", "shape", "volume"):
        torch.testing.assert_close(after[key], before[key], **CLOSE, msg=key)
    # Absolute Cartesian components are not invariant, as the papers define them: the test sees a rotation.
    assert abs(after["lattice"] - before["lattice"]).item() > 1e-8


@given(seed=st.integers(0, 10**6))
def test_shape_does_not_see_a_turned_prediction_and_lattice_does(seed):
    batch = random_crystal(seed)
    target = disturbed(batch, seed)
    rotation = random_rotation(seed)
    turned = Geometry(target.positions @ rotation, target.cells @ rotation)
    found = errors(batch, turned, target)
    assert found["shape"].item() == pytest.approx(0, abs=1e-8)
    assert found["volume"].item() == pytest.approx(0, abs=1e-8)
    assert found["bonds"].item() == pytest.approx(0, abs=1e-8)
    assert found["lattice"].item() > 1e-3


@given(seed=st.integers(0, 10**6))
def test_a_common_translation_changes_nothing(seed):
    batch = random_crystal(seed)
    predicted, target = disturbed(batch, seed), disturbed(batch, seed + 1)
    by = torch.tensor(np.random.default_rng(seed).uniform(-9, 9, 3))
    before = errors(batch, predicted, target)
    after = errors(
        batch.with_geometry(batch.positions + by, batch.cells),
        Geometry(predicted.positions + by, predicted.cells),
        Geometry(target.positions + by, target.cells),
    )
    for key in before:
        torch.testing.assert_close(after[key], before[key], **CLOSE, msg=key)


def test_a_batch_in_any_order_gives_what_single_crystals_give():
    parts = [random_crystal(1), rock_salt(), fcc(), perovskite(), random_crystal(7)]
    predicted = [disturbed(part, 3) for part in parts]
    target = [disturbed(part, 4) for part in parts]
    single = [errors(*three) for three in zip(parts, predicted, target, strict=True)]
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        together = errors(
            CrystalBatch.collate([parts[i] for i in order]),
            *(
                Geometry(torch.cat([g[i].positions for i in order]), torch.cat([g[i].cells for i in order]))
                for g in (predicted, target)
            ),
        )
        assert set(together) == {metric.key for metric in METRICS}
        for key, values in together.items():
            torch.testing.assert_close(values, torch.cat([single[i][key] for i in order]), **CLOSE, msg=key)


def test_a_crystal_without_neighbours_has_no_bond_error():
    lonely = make_crystal([2], [[0, 0, 0]], 9 * np.eye(3))
    batch = CrystalBatch.collate([lonely, fcc()])
    found = errors(batch, geometry(batch), geometry(batch))["bonds"]
    assert torch.isnan(found[0])
    assert found[1] == 0


def test_matches():
    salt, other = rock_salt(), perovskite()
    batch = CrystalBatch.collate([salt, other, other, salt])
    # As it is but scaled, which the matcher ignores; one oxygen far off; a turned copy; a flat cell.
    far = other.positions.clone()
    far[4] += 0.9
    rotation = random_rotation(1)
    flat = salt.cells.clone()
    flat[0, 2] = flat[0, 0] + flat[0, 1]
    predicted = Geometry(
        torch.cat([salt.positions * 1.1, far, other.positions @ rotation, salt.positions]),
        torch.cat([salt.cells * 1.1, other.cells, other.cells @ rotation, flat]),
    )
    assert matches(batch, predicted, geometry(batch)).tolist() == [True, False, True, False]
