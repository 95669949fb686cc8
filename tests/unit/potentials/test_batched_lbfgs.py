"""Batched L-BFGS relaxation."""

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from hypothesis import given
from hypothesis import strategies as st

from repose.crystal.batch import CrystalBatch
from repose.crystal.symmetry import find_space_group
from repose.potentials.ase import AsePotential
from repose.potentials.base import Evaluation, Potential
from repose.potentials.batched_lbfgs import Start, StepResults, relax_batched
from repose.potentials.moves import Moves
from repose.potentials.settings import LbfgsSettings
from support.crystals import make_crystal, random_rotation

FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def metal(seed: int, numbers=(29, 79, 29, 79), a: float = 3.9, pbc=(True, True, True)) -> CrystalBatch:
    """A rattled, sheared cube of an alloy with parameters in EMT."""
    rng = np.random.default_rng(seed)
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cell = a * (np.eye(3) + rng.uniform(-0.04, 0.04, (3, 3)))
    return make_crystal(list(numbers), sites + rng.uniform(-0.03, 0.03, (4, 3)), cell, pbc)


def relax(crystals, potential=None, moves=None, **settings):
    potential = potential or AsePotential(EMT())
    starts = (Start(k, crystal, moves) for k, crystal in enumerate(crystals))
    found = {r.key: r for r in relax_batched(potential, starts, LbfgsSettings(**settings))}
    return [found[k] for k in range(len(crystals))]


class Harmonic(Potential):
    """Springs between atoms and fixed places, without stress."""

    name = "springs"
    batch_atoms = 100

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
    found = relax(primitive, fmax=1e-4)
    constants = [(4 * abs(np.linalg.det(r.frames[-1].cell))) ** (1 / 3) for r in found]
    assert constants == pytest.approx([3.59, 4.06], abs=0.01)
    assert all(r.converged and r.failure is None for r in found)


def test_agrees_with_ase():
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from repose.io.convert import to_atoms

    crystal = metal(3)
    (run,) = relax([crystal], fmax=1e-3)
    (atoms,) = to_atoms(crystal)
    atoms.calc = EMT()
    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None)
    optimizer.run(fmax=1e-3, steps=300)
    assert run.frames[-1].energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert abs(np.linalg.det(run.frames[-1].cell)) == pytest.approx(atoms.get_volume(), rel=1e-3)
    assert len(run.frames) <= 1.5 * optimizer.nsteps


@given(st.integers(0, 10_000))
def test_converges_to_a_stationary_point_of_lower_energy(seed):
    (run,) = relax([metal(seed)], fmax=0.02)
    last = run.frames[-1]
    assert run.converged
    assert np.linalg.norm(last.forces, axis=1).max() <= 0.02
    virial = abs(np.linalg.det(last.cell)) * last.stress / 4
    assert np.linalg.norm(virial, axis=1).max() <= 0.02
    assert last.energy < run.frames[0].energy
    assert np.array_equal(run.frames[0].positions, metal(seed).positions.numpy())


FIXED = np.array([[True, False, False], [True, True, True], [False, True, True], [False, False, False]])


@pytest.mark.parametrize(
    "constraints",
    [{}, {"fix_axes": "c"}, {"fix_axes": "ab"}, {"fix_cell": True}, {"fix_axes": "b", "fixed": FIXED}],
)
def test_gradient_is_that_of_the_energy(constraints):
    """Checked by finite differences along a random allowed move, cell included, far from the start."""
    crystal = metal(5)
    moves = Moves(crystal.cells[0].numpy(), **constraints)
    (run,) = relax([crystal], moves=moves, max_steps=1)

    def random_move(seed):
        move = np.random.default_rng(seed).normal(size=run._rows.shape)
        return np.concatenate([moves.displacements(move[:-3]), moves.strain(move[-3:])])

    rows = run._rows + 0.02 * random_move(0)
    potential = AsePotential(EMT())

    def energy_at(rows):
        run._rows = rows
        return float(potential.evaluate(run.current).energy)

    run._rows = rows
    found = potential.evaluate(run.current)
    slope, _ = run.gradient(StepResults(float(found.energy), found.forces.numpy(), found.stress[0].numpy()))
    direction, h = random_move(1), 1e-5
    numeric = (energy_at(rows + h * direction) - energy_at(rows - h * direction)) / (2 * h)
    assert (slope * direction).sum() == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("axes", ["a", "c", "ab", "abc"])
def test_held_vectors_and_fixed_coordinates_stay_as_they_are(axes):
    crystal = metal(8)
    cell = crystal.cells[0].numpy()
    (run,) = relax([crystal], moves=Moves(cell, fix_axes=axes, fixed=FIXED), fmax=1e-3)
    last = run.frames[-1]
    held = np.array([axis in axes for axis in "abc"])
    assert run.converged
    assert len(run.frames) > 3
    assert np.abs(last.cell - cell)[held].max() < 1e-12
    assert held.all() or np.abs(last.cell - cell)[~held].max() > 1e-3
    moved = (
        np.linalg.solve(last.cell.T, last.positions.T).T
        - np.linalg.solve(cell.T, crystal.positions.numpy().T).T
    )
    assert np.abs(moved[FIXED]).max() < 1e-12
    assert np.abs(moved[~FIXED]).min() > 1e-5


def test_a_sheet_stays_orthogonal_to_its_vacuum():
    cell = np.array([[4.2, 0.3, 0], [0.1, 3.8, 0], [0, 0, 15.0]])
    crystal = make_crystal([29, 79], [[0.02, 0, 0.5], [0.5, 0.53, 0.52]], cell)
    (run,) = relax([crystal], moves=Moves(cell, fix_axes="c"), fmax=1e-3)
    last = run.frames[-1].cell
    assert run.converged
    assert np.abs(last[2] - cell[2]).max() < 1e-12
    assert np.abs(last[:2, 2]).max() < 1e-12
    change = np.linalg.solve(cell, last)
    assert np.abs(change - change.T).max() < 1e-12


def test_the_space_group_is_kept_by_a_potential_that_breaks_it():
    """Forces with a constant error in one direction, in a rhombohedral crystal."""

    class Drifting(AsePotential):
        def evaluate(self, batch):
            found = super().evaluate(batch)
            error = 0.05 * torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64)
            sign = torch.where(torch.arange(batch.n_atoms) % 2 == 0, 1.0, -1.0)[:, None]
            return Evaluation(found.energy, found.forces + sign * error, found.stress + error.outer(error))

    cell = 2.9 * (FCC + 0.05 * np.ones((3, 3)))
    crystal = make_crystal([29, 79, 79], [[0, 0, 0], [0.32, 0.32, 0.32], [0.68, 0.68, 0.68]], 1.6 * cell)

    def group_of(frame):
        return find_space_group(crystal.numbers, frame.positions, frame.cell, [True] * 3, symprec=1e-6)

    group = find_space_group(crystal.numbers, crystal.positions, crystal.cells[0], [True] * 3)
    assert group.n_operations == 12
    potential = Drifting(EMT())
    (broken,) = relax([crystal], potential, fmax=0.02)
    assert group_of(broken.frames[-1]).n_operations < 12
    (run,) = relax([crystal], potential, Moves(crystal.cells[0].numpy(), group=group), fmax=0.02)
    assert run.converged
    assert len(run.frames) > 3
    assert all(group_of(frame).n_operations == 12 for frame in run.frames)


def test_known_results_at_the_start_are_not_computed_again():
    class Counting(AsePotential):
        calls = 0

        def evaluate(self, batch):
            self.calls += 1
            return super().evaluate(batch)

    potential, crystal = Counting(EMT()), metal(3)
    (first,) = relax([crystal], potential)
    before, frame = potential.calls, first.frames[0]
    known = StepResults(frame.energy, frame.forces, frame.stress)
    (second,) = relax_batched(potential, iter([Start(0, crystal, None, known)]), LbfgsSettings())
    assert potential.calls == 2 * before - 1
    assert np.array_equal(second.frames[-1].positions, first.frames[-1].positions)
    end = first.frames[-1]
    relaxed = crystal.with_geometry(torch.from_numpy(end.positions), torch.from_numpy(end.cell)[None])
    known = StepResults(end.energy, end.forces, end.stress)
    (third,) = relax_batched(potential, iter([Start(0, relaxed, None, known)]), LbfgsSettings())
    assert third.converged
    assert potential.calls == 2 * before - 1


@pytest.mark.parametrize("turned", [False, True])
def test_an_earlier_structure_gives_the_curvature(turned):
    """One Newton step for equal springs, from two points; the earlier one may be rotated and shifted."""
    places = metal(4).positions + 0.1
    start = metal(4)

    def results(crystal, turn):
        found = Harmonic(places @ turn).evaluate(crystal)
        return StepResults(float(found.energy), found.forces.numpy(), found.stress[0].numpy())

    move = 0.05 * torch.randn(places.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    move = move - move.mean(0)
    turn = random_rotation(1) if turned else torch.eye(3, dtype=torch.float64)
    other = start.with_geometry((start.positions + move) @ turn, start.cells @ turn)
    earlier = other, results(other, turn)
    moves = Moves(start.cells[0].numpy(), fix_cell=True)

    def steps(earlier):
        begin = Start(0, start, moves, results(start, torch.eye(3, dtype=torch.float64)), earlier)
        (run,) = relax_batched(Harmonic(places), iter([begin]), LbfgsSettings(fmax=1e-8))
        assert run.converged
        return len(run.frames) - 1

    assert steps(earlier) == 1
    assert steps(None) == 2  # the first step gives the curvature


def test_the_cell_does_not_rotate():
    (run,) = relax([metal(7)])
    stretch = np.linalg.solve(run.frames[0].cell, run.frames[-1].cell)
    assert np.abs(stretch - stretch.T).max() < 1e-12


@pytest.mark.parametrize("reflect", [False, True])
def test_relaxation_is_equivariant(reflect):
    crystal, turn = metal(2), random_rotation(4, reflect)
    turned = crystal.with_geometry(crystal.positions @ turn, crystal.cells @ turn)
    first, second = relax([crystal, turned], fmax=0.05)
    assert len(first.frames) == len(second.frames)
    assert np.abs(first.frames[-1].positions @ turn.numpy() - second.frames[-1].positions).max() < 1e-6


def test_a_relaxation_does_not_depend_on_the_batch():
    crystals = [metal(seed) for seed in range(5)]
    together = relax(crystals, batch_atoms=12)
    for alone, crystal in zip(together, crystals, strict=True):
        (run,) = relax([crystal], batch_atoms=4)
        assert len(run.frames) == len(alone.frames)
        assert np.array_equal(run.frames[-1].positions, alone.frames[-1].positions)


def test_finished_crystals_are_replaced_at_once():
    places = torch.zeros(1, 3, dtype=torch.float64)
    potential = Harmonic(places.expand(100, 3))
    crystals = [make_crystal([29], [[x, 0, 0]], 4 * np.eye(3)) for x in (0.0, 0.3, 0.0, 0.2, 0.0)]
    found = relax(crystals, potential, batch_atoms=2, fixed_cell=True)
    assert all(r.converged for r in found)
    assert max(potential.sizes) == 2
    # The first converges at once and is replaced while the second is still running.
    assert potential.sizes[:2] == [2, 2]
    assert sum(potential.sizes) == sum(len(r.frames) for r in found)


def test_a_fixed_cell_stays():
    (run,) = relax([metal(1)], fixed_cell=True)
    assert run.converged
    assert np.array_equal(run.frames[-1].cell, run.frames[0].cell)
    assert not np.allclose(run.frames[-1].positions, run.frames[0].positions)


def test_a_sheet_keeps_its_vacuum():
    sheet = make_crystal(
        [29, 29], [[0, 0, 0.5], [0.5, 0.5, 0.5]], np.diag([3.4, 3.7, 14.0]), (True, True, False)
    )
    (run,) = relax([sheet])
    before, after = run.frames[0].cell, run.frames[-1].cell
    assert run.converged
    assert np.array_equal(after[2], before[2])
    assert abs(after[0, 0] - before[0, 0]) > 0.05


def test_failures_have_a_reason_and_do_not_affect_others():
    class Fussy(AsePotential):
        batch_atoms = 100

        def evaluate(self, batch):
            if (batch.numbers == 47).any():
                raise RuntimeError("no silver here")
            return super().evaluate(batch)

    class Broken(AsePotential):
        batch_atoms = 100

        def evaluate(self, batch):
            found = super().evaluate(batch)
            return Evaluation(found.energy * torch.nan, found.forces, found.stress)

    good, silver = metal(0), metal(1, (47,) * 4)
    fine, wrong = relax([good, silver], Fussy(EMT()))
    assert fine.converged
    assert wrong.failure == "the calculator failed: RuntimeError: no silver here"
    (broken,) = relax([good], Broken(EMT()))
    assert broken.failure.startswith("exploded: energy, forces or stress are not finite at step 0")
    (slow,) = relax([good], max_steps=2)
    assert slow.failure.startswith("not converged: the largest force, or stress times volume per atom, is")
    assert len(slow.frames) == 3
    (swollen,) = relax([metal(0, a=5.2)], max_volume_ratio=1.2)
    assert swollen.failure.startswith("exploded: the volume at step")


def test_unfinished_runs_are_discarded_on_request():
    answers = iter([True, True, False])
    source = iter([Start(0, metal(0))])
    left = relax_batched(AsePotential(EMT()), source, LbfgsSettings(fmax=1e-6), lambda: next(answers))
    assert list(left) == []


@pytest.mark.parametrize(("minutes", "converged"), [(0.0, False), (60.0, True)])
def test_a_crystal_has_a_time_limit(minutes, converged):
    potential, source = AsePotential(EMT()), iter([Start("one", metal(1)), Start("two", metal(2))])
    found = list(relax_batched(potential, source, LbfgsSettings(), minutes=minutes))
    assert [run.converged for run in found] == [converged, converged]
    assert all((run.failure is None) is converged for run in found)
    if not converged:
        assert all(run.failure.startswith("too slow: ") and len(run.frames) == 1 for run in found)
