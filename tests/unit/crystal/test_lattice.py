"""Geometry of lattices against brute force and identities."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import (
    deformation,
    nearest_image,
    periodic_projector,
    periodic_span,
    reduced,
    thickest_slab,
    to_cartesian,
    to_fractional,
    vacuum_thickness,
    volume,
)
from support.crystals import fcc, make_crystal, random_crystal, rock_salt

SEEDS = st.integers(0, 10**6)


@given(SEEDS)
def test_fractional_and_back(seed):
    batch = CrystalBatch.collate([random_crystal(seed), random_crystal(seed + 1)])
    fractional = to_fractional(batch.positions, batch.cells, batch.system_index)
    assert torch.allclose(
        to_cartesian(fractional, batch.cells, batch.system_index), batch.positions, atol=1e-12
    )


def test_rows_are_lattice_vectors():
    cell = torch.tensor([[[2.0, 0, 0], [1.0, 3.0, 0], [0, 0, 5.0]]], dtype=torch.float64)
    b_vector = to_cartesian(
        torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64), cell, torch.zeros(1, dtype=torch.long)
    )
    assert b_vector.tolist() == [[1.0, 3.0, 0.0]]


@given(SEEDS)
def test_volume_is_that_of_the_triple_product_for_either_hand(seed):
    cell = random_crystal(seed).cells
    a, b, c = cell[0].numpy()
    assert np.isclose(volume(cell).item(), abs(np.dot(a, np.cross(b, c))))
    assert torch.allclose(volume(cell.flip(1)), volume(cell))


@given(SEEDS)
def test_deformation(seed):
    cells, new = random_crystal(seed).cells, random_crystal(seed + 1).cells
    gradient = deformation(cells, new)
    assert torch.allclose(cells @ gradient, new, atol=1e-10)


@given(SEEDS)
def test_nearest_image_against_brute_force(seed):
    batch = random_crystal(seed)
    vectors = batch.positions * 3
    found = nearest_image(vectors, batch.cells, batch.system_index)
    shifts = torch.cartesian_prod(*[torch.arange(-8.0, 9.0, dtype=torch.float64)] * 3) @ batch.cells[0]
    shortest = (vectors[:, None] + shifts).norm(dim=-1).min(dim=1).values
    assert torch.allclose(found.norm(dim=-1), shortest, atol=1e-10)
    moved = to_fractional(found - vectors, batch.cells, batch.system_index)
    assert torch.allclose(moved, moved.round(), atol=1e-9)


def test_nearest_image_leaves_short_vectors_as_they_are():
    batch = random_crystal(5)
    short = batch.positions * 1e-2
    assert torch.equal(nearest_image(short, batch.cells, batch.system_index), short)


def test_emptiest_slab_by_hand_and_however_atoms_are_written():
    sheet = make_crystal(
        [42, 16, 16], [[0, 0, 0.5], [0.3, 0.6, 0.6], [0.3, 0.6, 0.4]], np.diag([3.0, 3.0, 20.0])
    )
    batch = CrystalBatch.collate([fcc(4.0), sheet, random_crystal(4)])
    slabs = vacuum_thickness(batch.positions, batch.cells, batch.system_index)
    assert torch.allclose(slabs[0], torch.full((3,), 4.0 / 3**0.5, dtype=torch.float64))  # d(111) of fcc
    assert torch.allclose(slabs[1], torch.tensor([2.1, 1.8, 16.0], dtype=torch.float64))
    shifts = torch.randint(-2, 3, (batch.n_atoms, 3), generator=torch.Generator().manual_seed(0)).double()
    moved = batch.positions + to_cartesian(shifts + 0.123, batch.cells, batch.system_index)
    assert torch.allclose(slabs, vacuum_thickness(moved, batch.cells, batch.system_index), atol=1e-10)


def test_the_span_of_periodic_vectors():
    """A bulk crystal, a sheet whose c is tilted, a wire along b, a molecule."""
    cells = torch.tensor([[3.0, 0.1, 0.2], [1.0, 4.0, 0.0], [0.5, 0.7, 9.0]], dtype=torch.float64).repeat(
        4, 1, 1
    )
    pbc = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    span = periodic_span(cells, pbc)
    assert torch.allclose(span[0], torch.eye(3, dtype=torch.float64))
    assert torch.allclose(cells[1, :2] @ span[1], cells[1, :2])
    normal = torch.linalg.cross(cells[1, 0], cells[1, 1])
    assert torch.allclose(normal @ span[1], torch.zeros(3, dtype=torch.float64), atol=1e-12)
    along = cells[2, 1] / cells[2, 1].norm()
    assert torch.allclose(span[2], torch.outer(along, along))
    assert not span[3].any()
    for cell, periodic in zip(cells, pbc, strict=True):
        alone = periodic_span(cell[None], periodic[None])[0]
        assert np.array_equal(periodic_projector(cell.numpy(), periodic.numpy()), alone)


@given(SEEDS)
def test_reduced_cells_span_the_same_lattice_and_are_short(seed):
    rng = np.random.default_rng(seed)
    cell = random_crystal(seed).cells
    basis = torch.eye(3, dtype=torch.float64)
    for _ in range(4):
        one, other = rng.permutation(3)[:2]
        basis[one] += rng.integers(-3, 4) * basis[other]
    found = reduced(basis @ cell)
    change = torch.linalg.solve(cell, found, left=False)
    assert torch.allclose(change, change.round(), atol=1e-9)
    assert torch.allclose(volume(found), volume(cell))
    assert found.norm(dim=-1).max() <= (basis @ cell).norm(dim=-1).max() + 1e-9
    # No vector gets shorter by another one.
    products = (found @ found.mT)[0]
    shares = (products / products.diagonal()).fill_diagonal_(0)
    assert shares.abs().max() < 0.5 + 1e-5


@given(
    change=arrays(np.int64, (3, 3), elements=st.integers(-4, 4)).filter(
        lambda m: 1 <= abs(np.linalg.det(m)) <= 9
    )
)
@settings(max_examples=50)
def test_the_thickest_slab_does_not_depend_on_the_cell(change):
    """A sheet in a basis whose vectors all leave its plane, and in skewed supercells."""
    sheet = Atoms(
        "HH", [[0.0, 0, 0], [1.5, 1.5, 2.0]], cell=[[3.0, 0, 0], [0, 3.2, 0], [0.4, 0.3, 20.0]], pbc=True
    )
    skewed = make_supercell(sheet, change)
    crystal = torch.zeros(len(skewed), dtype=torch.int64)
    cell, positions = torch.tensor(skewed.cell.array)[None], torch.tensor(skewed.positions)
    assert thickest_slab(positions, cell, crystal, 8.0) == pytest.approx(18.0, abs=1e-8)


def test_the_thickest_slab_of_every_crystal_of_a_batch():
    bulk, sheet = rock_salt(4.8), make_crystal([6], [[0, 0, 0]], np.diag([2.5, 2.5, 12.0]))
    batch = CrystalBatch.collate([sheet, bulk, sheet])
    found = thickest_slab(batch.positions, batch.cells, batch.system_index, 2.0)
    assert found[[0, 2]].tolist() == pytest.approx([12.0, 12.0])
    assert 2.0 < found[1] < 3.0
