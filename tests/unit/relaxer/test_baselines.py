"""Dummy and Rescale, the trivial baselines."""

import numpy as np
import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import to_fractional, volume
from repose.errors import ShapeError
from repose.relaxer.baselines import Dummy, Rescale, fit_atomic_volumes
from support.crystals import fcc, perovskite, random_crystal, rock_salt


def exact_data(seed=0):
    """Compositions of five elements and volumes exactly linear in them."""
    rng = np.random.default_rng(seed)
    atomic = np.zeros(119)
    atomic[[3, 8, 12, 26, 56]] = [14.0, 9.5, 18.2, 11.1, 40.0]
    numbers = [rng.choice([3, 8, 12, 26, 56], rng.integers(1, 9)) for _ in range(40)]
    return numbers, np.array([atomic[z].sum() for z in numbers]), atomic


def test_fit_recovers_volumes_that_are_linear():
    numbers, volumes, atomic = exact_data()
    np.testing.assert_allclose(fit_atomic_volumes(numbers, volumes, ridge=0), atomic, rtol=0, atol=1e-8)


def test_fit_by_hand():
    # Pure A at 10, pure B at 20 A^3 per atom: mean 15, and a ridge of one crystal goes half-way there.
    numbers = [np.array([3]), np.array([8, 8])]
    fitted = fit_atomic_volumes(numbers, np.array([10.0, 40.0]), ridge=1)
    np.testing.assert_allclose(fitted[[3, 8]], [12.5, 17.5], rtol=0, atol=1e-12)
    assert np.count_nonzero(fitted) == 2


def test_ridge_regularises_towards_the_mean():
    numbers, volumes, _ = exact_data()
    mean = np.mean(volumes / [len(z) for z in numbers])
    fitted = fit_atomic_volumes(numbers, volumes, ridge=1e9)
    np.testing.assert_allclose(fitted[[3, 8, 12, 26, 56]], mean, rtol=0, atol=1e-5)


def test_ridge_with_elements_that_always_occur_together():
    numbers = [np.array([11, 17])] * 3 + [np.array([29])]
    fitted = fit_atomic_volumes(numbers, np.array([40.0, 40, 40, 12]))
    assert fitted[11] == pytest.approx(fitted[17])
    assert np.isfinite(fitted).all()


@pytest.mark.parametrize(("numbers", "volumes"), [([], []), ([np.array([3])], [1.0, 2.0])])
def test_fit_needs_one_volume_per_crystal(numbers, volumes):
    with pytest.raises(ShapeError, match="one volume for each"):
        fit_atomic_volumes(numbers, np.array(volumes))


def test_dummy_returns_the_input(crystals):
    positions, cells = Dummy().predict(crystals)
    assert torch.equal(positions, crystals.positions)
    assert torch.equal(cells, crystals.cells)


def test_rescale_reaches_the_volume_and_keeps_fractional_coordinates_and_shape(crystals):
    atomic = np.linspace(5, 30, 119)
    positions, cells = Rescale(atomic).predict(crystals)
    wanted = torch.tensor([atomic[part.numbers].sum() for part in crystals])
    torch.testing.assert_close(volume(cells), wanted, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        to_fractional(positions, cells, crystals.system_index),
        to_fractional(crystals.positions, crystals.cells, crystals.system_index),
        rtol=0,
        atol=1e-10,
    )
    ratio = cells / crystals.cells.where(crystals.cells != 0, torch.nan)
    spread = ratio.flatten(1).nan_to_num(0).amax(1) - ratio.flatten(1).nan_to_num(1e9).amin(1)
    torch.testing.assert_close(spread, torch.zeros_like(spread), rtol=0, atol=1e-10)


def test_rescale_leaves_unseen_elements_and_impossible_volumes_alone():
    atomic = np.full(119, 12.0)
    atomic[8] = 0.0  # never seen
    atomic[13] = -3.0  # an extrapolation gone wrong
    batch = CrystalBatch.collate([rock_salt(), fcc(), random_crystal(3), perovskite()])
    batch = CrystalBatch(
        torch.where(batch.system_index == 2, 26, batch.numbers),
        batch.positions,
        batch.cells,
        batch.system_index,
        batch.pbc,
    )
    positions, cells = Rescale(atomic).predict(batch)
    same = torch.tensor([True, True, False, True])
    assert torch.equal(cells[same], batch.cells[same])
    assert torch.equal(positions[same[batch.system_index]], batch.positions[same[batch.system_index]])
    assert volume(cells)[2].item() == pytest.approx(12.0 * int(batch.counts[2]))


def test_rescale_keeps_the_type_of_the_batch():
    positions, cells = Rescale(np.full(119, 12.0)).predict(perovskite().to(dtype=torch.float32))
    assert positions.dtype == cells.dtype == torch.float32


def test_rescale_refuses_a_table_of_another_length():
    with pytest.raises(ShapeError, match=r"\(119,\)"):
        Rescale(np.ones(94))
