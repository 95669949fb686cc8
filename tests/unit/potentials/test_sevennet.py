"""SevenNet in batches, against the calculator of its package."""

import copy
import importlib.util

import numpy as np
import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import volume
from repose.errors import MissingExtraError
from repose.io.convert import to_atoms
from repose.potentials.loading import calculator_name, load_potential
from support.crystals import fcc, make_crystal, random_crystal, rock_salt

LONELY = make_crystal([11], [[0.2, 0.1, 0.9]], 7 * np.eye(3))  # no neighbour within the cutoff


@pytest.fixture(scope="module")
def sevennet():
    pytest.importorskip("sevenn")
    return load_potential("sevennet", "cpu")


def sheared() -> CrystalBatch:
    """Rock salt with six different components of the stress."""
    crystal = rock_salt()
    strain = np.array([[0.03, 0.02, -0.01], [0, -0.02, 0.04], [0, 0, 0.05]])
    gradient = torch.from_numpy(np.eye(3) + strain)
    positions = crystal.positions @ gradient + torch.tensor([[0.1, 0.0, 0.05], [0.0, 0.0, 0.0]])
    return crystal.with_geometry(positions, crystal.cells @ gradient)


@pytest.mark.filterwarnings("ignore:No tensor product accelerator")
def test_a_batch_agrees_with_the_package(sevennet):
    """The package evaluates one crystal at a time."""
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator(copy.deepcopy(sevennet.model), "model_instance", device="cpu")
    far = random_crystal(3)
    far = far.with_geometry(far.positions + torch.tensor([7.0, -9.0, 3.0]).double() @ far.cells[0], far.cells)
    batch = CrystalBatch.collate([sheared(), far, LONELY, fcc(3.6)])
    found = sevennet.evaluate(batch)
    assert found.energy.dtype == found.forces.dtype == found.stress.dtype == torch.float64
    forces = np.split(found.forces.numpy(), batch.start[1:-1])
    for k, atoms in enumerate(to_atoms(batch)):
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        assert float(found.energy[k]) == pytest.approx(energy, abs=1e-5 * len(atoms), rel=1e-6)
        size = max(1, np.abs(forces[k]).max())
        np.testing.assert_allclose(forces[k], atoms.get_forces(), atol=1e-5 * size)
        expected = atoms.get_stress(voigt=False)
        np.testing.assert_allclose(found.stress[k], expected, atol=1e-5 * max(0.1, np.abs(expected).max()))
    assert not sevennet.evaluate(LONELY).forces.any()


def test_forces_and_stress_are_derivatives_of_the_energy(sevennet):
    """Finite differences of positions and of a strain, in float32."""
    crystal = sheared()
    move = torch.tensor([[0.5, -0.2, 0.3], [-0.1, 0.4, 0.2]]).double()
    strain = torch.tensor([[0.3, 0.5, -0.4], [0.5, -0.2, 0.1], [-0.4, 0.1, 0.6]]).double()
    found = sevennet.evaluate(crystal)

    def slope(move, strain, h=0.02):
        gradients = [torch.eye(3) + sign * h * strain for sign in (1, -1)]
        positions = [crystal.positions + sign * h * move for sign in (1, -1)]
        ends = [
            crystal.with_geometry(x @ g, crystal.cells @ g) for x, g in zip(positions, gradients, strict=True)
        ]
        above, below = sevennet.evaluate(CrystalBatch.collate(ends)).energy.tolist()
        return (above - below) / (2 * h)

    assert float(-(found.forces * move).sum()) == pytest.approx(slope(move, 0 * strain), rel=0.02)
    work = float((found.stress[0] * strain).sum() * volume(crystal.cells))
    assert work == pytest.approx(slope(0 * move, strain), rel=0.02)


def test_elements_and_name(sevennet):
    assert sevennet.name == calculator_name("sevennet") == "SevenNet-0"
    assert {1, 26, 83, 89, 94} < set(sevennet.elements)
    assert not {84, 88, 95}.intersection(sevennet.elements)


def test_a_missing_package_raises_an_error(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'repose-crystal\[sevenn\]'"):
        load_potential("sevennet", "cpu")
