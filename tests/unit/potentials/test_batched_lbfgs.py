"""Relaxation of many crystals side by side."""

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from hypothesis import given
from hypothesis import strategies as st

from repose.crystal.batch import CrystalBatch
from repose.potentials.ase import AsePotential
from repose.potentials.base import Evaluation, Potential
from repose.potentials.batched_lbfgs import descend
from repose.potentials.settings import LbfgsSettings
from support.crystals import make_crystal, random_rotation

FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def metal(seed: int, numbers=(29, 79, 29, 79), a: float = 3.9, pbc=(True, True, True)) -> CrystalBatch:
    """A rattled, sheared cube of an alloy that EMT knows."""
    rng = np.random.default_rng(seed)
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cell = a * (np.eye(3) + rng.uniform(-0.04, 0.04, (3, 3)))
    return make_crystal(list(numbers), sites + rng.uniform(-0.03, 0.03, (4, 3)), cell, pbc)


def walks(crystals, potential=None, **settings):
    potential = potential or AsePotential(EMT())
    found = {w.key: w for w in descend(potential, enumerate(crystals), LbfgsSettings(**settings))}
    return [found[k] for k in range(len(crystals))]


class Harmonic(Potential):
    """Every atom on a spring to its place, and a cell with a volume of its own: everything is known."""

    name = "springs"
    room = 100

    def __init__(self, places: torch.Tensor, spring: float = 5.0) -> None:
        self.places, self.spring = places, spring
        self.sizes: list[int] = []

    def evaluate(self, batch):
        self.sizes.append(batch.n_crystals)
        away = batch.positions - self.places[: batch.n_atoms]
        energy = torch.zeros(batch.n_crystals, dtype=torch.float64).index_add(
            0, batch.system_index, self.spring / 2 * away.square().sum(1)
        )
        return Evaluation(
            energy, -self.spring * away, torch.zeros(batch.n_crystals, 3, 3, dtype=torch.float64)
        )


def test_metals_find_their_lattice_constants():
    """EMT's own equilibrium: 3.59 A for Cu, 4.06 A for Au (Jacobsen, Stoltze, Norskov 1996)."""
    primitive = [make_crystal([z], [[0, 0, 0]], a * FCC) for z, a in ((29, 3.8), (79, 3.9))]
    found = walks(primitive, fmax=1e-4)
    constants = [(4 * abs(np.linalg.det(w.steps[-1].cell))) ** (1 / 3) for w in found]
    assert constants == pytest.approx([3.59, 4.06], abs=0.01)
    assert all(w.arrived and w.fault is None for w in found)


def test_ends_where_ases_own_optimiser_ends():
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from repose.io.convert import to_atoms

    crystal = metal(3)
    (walk,) = walks([crystal], fmax=1e-3)
    (atoms,) = to_atoms(crystal)
    atoms.calc = EMT()
    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None)
    optimizer.run(fmax=1e-3, steps=300)
    assert walk.steps[-1].energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert abs(np.linalg.det(walk.steps[-1].cell)) == pytest.approx(atoms.get_volume(), rel=1e-3)
    assert len(walk.steps) <= 1.5 * optimizer.nsteps


@given(st.integers(0, 10_000))
def test_arrives_at_a_stationary_point_below_the_start(seed):
    (walk,) = walks([metal(seed)], fmax=0.02)
    last = walk.steps[-1]
    assert walk.arrived
    assert np.linalg.norm(last.forces, axis=1).max() <= 0.02
    virial = abs(np.linalg.det(last.cell)) * last.stress / 4
    assert np.linalg.norm(virial, axis=1).max() <= 0.02
    assert last.energy < walk.steps[0].energy
    assert np.array_equal(walk.steps[0].positions, metal(seed).positions.numpy())


def test_the_slope_along_the_rows_is_that_of_the_energy():
    """Checked by finite differences in every coordinate, cell included, far from the start."""
    (walk,) = walks([metal(5)], max_steps=1)
    walk.fault = None
    rows = walk._rows + 0.02 * np.random.default_rng(0).normal(size=walk._rows.shape)
    rows[-3:] = (rows[-3:] + rows[-3:].T) / 2
    potential = AsePotential(EMT())

    def energy_at(rows):
        walk._rows = rows
        return float(potential.evaluate(walk.here).energy)

    walk._rows = rows
    found = potential.evaluate(walk.here)
    here = walk.here
    from repose.potentials.batched_lbfgs import Step

    step = Step(
        here.positions.numpy(),
        here.cells[0].numpy(),
        float(found.energy),
        found.forces.numpy(),
        found.stress[0].numpy(),
    )
    slope, _ = walk._slope(step)
    direction = np.random.default_rng(1).normal(size=rows.shape)
    direction[-3:] = (direction[-3:] + direction[-3:].T) / 2
    h = 1e-5
    numeric = (energy_at(rows + h * direction) - energy_at(rows - h * direction)) / (2 * h)
    assert (slope * direction).sum() == pytest.approx(numeric, rel=1e-6)


def test_the_cell_does_not_turn():
    (walk,) = walks([metal(7)])
    stretch = np.linalg.solve(walk.steps[0].cell, walk.steps[-1].cell)
    assert np.abs(stretch - stretch.T).max() < 1e-12


@pytest.mark.parametrize("reflect", [False, True])
def test_a_turned_crystal_goes_the_same_way(reflect):
    crystal, turn = metal(2), random_rotation(4, reflect)
    turned = crystal.with_geometry(crystal.positions @ turn, crystal.cells @ turn)
    first, second = walks([crystal, turned], fmax=0.05)
    assert len(first.steps) == len(second.steps)
    assert np.abs(first.steps[-1].positions @ turn.numpy() - second.steps[-1].positions).max() < 1e-6


def test_a_way_does_not_depend_on_its_neighbours():
    crystals = [metal(seed) for seed in range(5)]
    together = walks(crystals, batch_atoms=12)
    for alone, crystal in zip(together, crystals, strict=True):
        (walk,) = walks([crystal], batch_atoms=4)
        assert len(walk.steps) == len(alone.steps)
        assert np.array_equal(walk.steps[-1].positions, alone.steps[-1].positions)


def test_those_that_arrive_make_room_for_those_that_wait():
    places = torch.zeros(1, 3, dtype=torch.float64)
    potential = Harmonic(places.expand(100, 3))
    crystals = [make_crystal([29], [[x, 0, 0]], 4 * np.eye(3)) for x in (0.0, 0.3, 0.0, 0.2, 0.0)]
    found = walks(crystals, potential, batch_atoms=2, fixed_cell=True)
    assert all(w.arrived for w in found)
    assert max(potential.sizes) == 2
    # The first arrives at once, and its place is taken while the second is still under way.
    assert potential.sizes[:2] == [2, 2]
    assert sum(potential.sizes) == sum(len(w.steps) for w in found)


def test_a_fixed_cell_stays():
    (walk,) = walks([metal(1)], fixed_cell=True)
    assert walk.arrived
    assert np.array_equal(walk.steps[-1].cell, walk.steps[0].cell)
    assert not np.allclose(walk.steps[-1].positions, walk.steps[0].positions)


def test_a_sheet_keeps_its_vacuum():
    sheet = make_crystal(
        [29, 29], [[0, 0, 0.5], [0.5, 0.5, 0.5]], np.diag([3.4, 3.7, 14.0]), (True, True, False)
    )
    (walk,) = walks([sheet])
    before, after = walk.steps[0].cell, walk.steps[-1].cell
    assert walk.arrived
    assert np.array_equal(after[2], before[2])
    assert abs(after[0, 0] - before[0, 0]) > 0.05


def test_what_cannot_be_relaxed_says_why_and_costs_no_other():
    class Fussy(AsePotential):
        room = 100

        def evaluate(self, batch):
            if (batch.numbers == 47).any():
                raise RuntimeError("no silver here")
            return super().evaluate(batch)

    class Broken(AsePotential):
        room = 100

        def evaluate(self, batch):
            found = super().evaluate(batch)
            return Evaluation(found.energy * torch.nan, found.forces, found.stress)

    good, silver = metal(0), metal(1, (47,) * 4)
    fine, wrong = walks([good, silver], Fussy(EMT()))
    assert fine.arrived
    assert wrong.fault == "the calculator failed: RuntimeError: no silver here"
    (broken,) = walks([good], Broken(EMT()))
    assert broken.fault.startswith("exploded: energy, forces or stress are not finite at step 0")
    (slow,) = walks([good], max_steps=2)
    assert slow.fault.startswith("not converged: the largest force is")
    assert len(slow.steps) == 3
    (swollen,) = walks([metal(0, a=5.2)], largest_swelling=1.2)
    assert swollen.fault.startswith("exploded: the volume at step")


def test_dropped_when_nobody_wants_them_any_more():
    asked = iter([True, True, False])
    left = descend(AsePotential(EMT()), iter([(0, metal(0))]), LbfgsSettings(fmax=1e-6), lambda: next(asked))
    assert list(left) == []


@pytest.mark.parametrize(("minutes", "arrived"), [(0.0, False), (60.0, True)])
def test_a_crystal_has_only_so_long(minutes, arrived):
    potential, source = AsePotential(EMT()), iter([("one", metal(1)), ("two", metal(2))])
    found = list(descend(potential, source, LbfgsSettings(), minutes=minutes))
    assert [walk.arrived for walk in found] == [arrived, arrived]
    assert all((walk.fault is None) is arrived for walk in found)
    if not arrived:
        assert all(walk.fault.startswith("too slow: ") and len(walk.steps) == 1 for walk in found)
