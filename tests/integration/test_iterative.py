"""Iterative relaxation as a relaxer."""

import numpy as np
import torch
from ase.calculators.emt import EMT

from repose.crystal.batch import CrystalBatch
from repose.relaxer.invariance import atom_order
from repose.relaxer.iterative import IterativeRelaxer
from repose.testing import batch_composition, input_unchanged
from support.crystals import make_crystal


def fcc_of(number: int, a: float) -> CrystalBatch:
    return make_crystal([number], [[0, 0, 0]], a / 2 * (np.ones((3, 3)) - np.eye(3)))


def test_emt_metals_reach_their_lattice_constants():
    """EMT's own equilibrium: 3.59 A for Cu, 4.06 A for Au (Jacobsen, Stoltze, Norskov 1996)."""
    relaxer = IterativeRelaxer(EMT(), "emt", fmax=1e-3)
    _, cells = relaxer.predict(CrystalBatch.collate([fcc_of(29, 3.8), fcc_of(79, 3.9)]))
    lattice_constants = (4 * torch.linalg.det(cells).abs()) ** (1 / 3)
    assert torch.allclose(lattice_constants, torch.tensor([3.59, 4.06], dtype=torch.float64), atol=0.02)
    assert relaxer.converged == [True, True]
    assert all(steps > 1 for steps in relaxer.steps)


def test_stops_at_the_largest_number_of_steps():
    relaxer = IterativeRelaxer(EMT(), "emt", fmax=1e-6, max_steps=2)
    relaxer.predict(fcc_of(29, 3.9))
    assert relaxer.converged == [False]
    assert relaxer.steps == [2]


def test_contract_of_an_optimizer():
    """Changes that leave the optimization path the same give the same result."""
    layered = make_crystal([29, 79], [[0, 0, 0], [0.5, 0.5, 0.48]], np.diag([2.7, 2.7, 3.9]))
    batch = CrystalBatch.collate([layered, fcc_of(29, 3.7)])
    relaxer = IterativeRelaxer(EMT(), "emt", fmax=0.01)
    assert batch_composition(relaxer, batch) < 1e-10
    assert input_unchanged(relaxer, batch) == 0
    assert atom_order(relaxer, batch) < 1e-3
