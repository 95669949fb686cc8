"""Relaxation that goes on from predictions with a potential, and results of it."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from monty.json import MontyDecoder
from pymatgen.io.ase import AseAtomsAdaptor

from repose.crystal.batch import CrystalBatch
from repose.errors import ConfigError
from repose.models.prediction import Geometry
from repose.potentials.ase import AsePotential
from repose.relaxer.base import Relaxer
from repose.relaxer.batch_relaxation import BatchRelaxation
from repose.relaxer.continuation import Continuation, largest_bound
from repose.relaxer.loading import relax


class Scaling(Relaxer):
    """Scales cells by a factor; the bound is the number of atoms times 0.01 A."""

    name = "scaling"
    gives_bounds = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, batch: CrystalBatch) -> Geometry:
        return Geometry(self.factor * batch.positions, self.factor * batch.cells)

    def relax_batch(self, batch: CrystalBatch) -> BatchRelaxation:
        return BatchRelaxation(self.predict(batch), bounds={90: 0.01 * batch.counts.double()})


def alloy(seed: int = 0, size: float = 3.95) -> Atoms:
    atoms = bulk("Cu", "fcc", a=size, cubic=True)
    atoms.numbers[1::2] = 79
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_goes_on_to_the_minimum_that_ase_finds():
    (result,) = Scaling(0.99).relax(alloy(), then=EMT(), fmax=1e-3, trajectory=True)
    assert (result.status, result.converged, result.start) == ("relaxed", True, "prediction")
    assert result.calculator == "EMT"
    atoms = alloy()
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3)
    assert result.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert result.structure.get_volume() == pytest.approx(atoms.get_volume(), rel=1e-3)
    assert result.volume_change == pytest.approx(atoms.get_volume() / alloy().get_volume() - 1, abs=1e-3)
    # The attached results are those of the structure.
    again = result.structure.copy()
    again.calc = EMT()
    assert result.structure.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-9)
    assert np.abs(result.structure.get_forces() - again.get_forces()).max() < 1e-9
    assert np.abs(result.structure.get_stress() - again.get_stress()).max() < 1e-9
    assert np.abs(result.forces).max() < 1e-3
    # The trajectory runs from the input over the prediction to the result.
    frames = result.trajectory
    assert len(frames) == result.steps + 2
    assert frames[0].energy == result.energy_input > frames[1].energy == result.energy_predicted
    assert np.array_equal(frames[0].positions, alloy().positions)
    assert np.array_equal(frames[-1].positions, result.structure.positions)
    assert "repose_uncertainty" not in result.structure.info
    assert result.uncertainty == 0.04


def test_starts_from_the_input_where_it_has_the_lower_energy():
    (result,) = Scaling(1.2).relax(alloy(), then=EMT(), trajectory=True)
    assert (result.start, result.converged) == ("input", True)
    assert result.energy_input < result.energy_predicted
    assert len(result.trajectory) == result.steps + 1
    (other,) = Scaling(1.0).relax(alloy(), then=EMT())
    assert other.steps >= result.steps  # which knows the curvature between prediction and input
    assert other.energy == pytest.approx(result.energy, abs=1e-3)


@pytest.mark.parametrize(("factor", "evaluations"), [(1.0, 1), (0.99, 2)])
def test_an_unchanged_crystal_is_evaluated_once_before_the_first_step(factor, evaluations):
    class Counting(AsePotential):
        calls = 0

        def evaluate(self, batch):
            self.calls += batch.n_crystals
            return super().evaluate(batch)

    potential = Counting(EMT())
    (result,) = Scaling(factor).relax(bulk("Cu", a=3.7, cubic=True), then=potential)
    assert potential.calls == evaluations + result.steps


def test_starts_from_the_input_where_the_prediction_is_invalid():
    class Broken(Scaling):
        def predict(self, batch):
            return Geometry(torch.full_like(batch.positions, torch.nan), batch.cells)

    (result,) = Broken(1).relax(alloy(), then=EMT())
    assert (result.status, result.start, result.converged) == ("relaxed", "input", True)
    assert result.energy_predicted is None
    assert any(remark.startswith("the prediction was suspect:") for remark in result.remarks)


def test_symmetry_and_constraints_are_kept():
    slab = fcc111("Cu", (2, 2, 3), a=3.7, vacuum=8.0, periodic=True)
    slab.rattle(0.05, seed=1)
    slab.set_constraint(FixAtoms([0, 1, 2, 3]))
    (result,) = Scaling(1.0).relax(slab, then=EMT(), fmax=0.01)
    moved = result.structure.get_scaled_positions(wrap=False) - slab.get_scaled_positions(wrap=False)
    assert result.converged
    assert np.abs(moved[:4]).max() < 1e-12
    assert np.abs(moved[4:]).max() > 1e-4
    assert np.array_equal(result.structure.cell[2], slab.cell[2])
    assert np.abs(result.structure.cell - slab.cell)[:2].max() > 1e-2
    (result,) = Scaling(1.0).relax(alloy(), fix_cell=True, then=EMT())
    assert result.converged
    assert np.array_equal(result.structure.cell, alloy().cell)
    perfect = bulk("Cu", "fcc", a=3.8, cubic=True)
    (result,) = Scaling(0.98).relax(perfect, then=EMT())
    assert result.spacegroup_out == result.spacegroup_in == 225


def test_only_uncertain_crystals_go_on():
    crystals = [bulk("Cu", a=3.7), bulk("Cu", a=3.7, cubic=True), bulk("Cu", a=3.7) * (2, 2, 2)]
    crystals += [Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.1]], cell=[3, 3, 3], pbc=True)]
    results = Scaling(0.99).relax(crystals, then=EMT(), when_uncertain=0.03)
    assert [result.steps is not None for result in results] == [False, True, True, False]
    assert [result.status for result in results] == ["relaxed"] * 3 + ["refused"]
    assert results[0].energy is results[0].converged is results[0].start is None
    for share, expected in (("20%", 1), ("34%", 2), ("0%", 0)):
        results = Scaling(0.99).relax(crystals[:3], then=EMT(), when_uncertain=share)
        assert sum(result.steps is not None for result in results) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.1, 1), (0.25, 3), (0.5, 5), (1.0, 10)])
def test_shares_of_bounds(share, expected):
    bounds = 0.05 + np.random.default_rng(0).permutation(10) / 10
    other_batch = bounds * (1 - 1e-7)
    assert sum(other_batch > largest_bound(bounds, share)) == expected
    assert largest_bound([], share) == np.inf or share > 0


def test_what_cannot_go_on_keeps_its_prediction():
    class Failing(AsePotential):
        elements = (29, 79)

        def evaluate(self, batch):
            if batch.n_atoms == 1:
                raise RuntimeError("the calculation crashed")
            return super().evaluate(batch)

    crystals = [alloy(), bulk("Cu"), bulk("Al", cubic=True), alloy(1)]
    seen = []
    results = Scaling(0.99).relax(crystals, then=Failing(EMT()), progress=seen.append)
    assert [result.converged for result in results] == [True, False, False, True]
    assert [result.status for result in results] == ["relaxed", "suspect", "suspect", "relaxed"]
    assert "the calculation crashed" in results[1].reason
    assert "no parameters for Al" in results[2].reason
    for result, atoms in zip(results[1:3], crystals[1:3], strict=True):
        assert result.energy is None
        assert result.structure.get_volume() == pytest.approx(0.99**3 * atoms.get_volume())
    assert seen == sorted(seen)
    assert seen[-1] == 4


def test_a_malformed_result_concerns_its_crystal_alone():
    class Malformed(EMT):
        def calculate(self, atoms=None, *arguments):
            super().calculate(atoms, *arguments)
            if len(atoms) == 1:
                self.results["forces"] = np.zeros((3, 3))
            self.results["energy"] = np.array([self.results["energy"]])  # of shape (1,), as of some codes

    results = Scaling(0.99).relax([bulk("Cu"), alloy()], then=Malformed())
    assert [result.status for result in results] == ["suspect", "relaxed"]
    assert "expected one energy, forces (1, 3)" in results[0].reason
    assert results[0].start is None


def test_a_calculator_without_stress_relaxes_atoms_in_a_fixed_cell():
    class NoStress(EMT):
        implemented_properties = ("energy", "forces")

        def calculate(self, *arguments):
            super().calculate(*arguments)
            self.results.pop("stress", None)

    (result,) = Scaling(0.99).relax(alloy(), then=NoStress(), fix_cell=True)
    assert result.converged
    assert result.stress is None
    assert np.abs(result.structure.get_forces()).max() < 0.05
    (result,) = Scaling(0.99).relax(alloy(), then=NoStress())
    assert "gives no stress; keep the cell fixed" in result.reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ase.calculators.lj:LennardJonesX", "has no"),
        (":EMT", "cannot be imported"),
        ("ase.build:bulk", "cannot be made: TypeError"),
    ],
)
def test_calculators_that_cannot_be_loaded(name, message):
    with pytest.raises(ConfigError, match=message):
        Scaling(1.0).relax(alloy(), then=name)


def test_numbers_of_numpy_are_options():
    (result,) = Scaling(0.99).relax(alloy(), then=EMT(), fmax=np.float32(0.05), max_steps=np.int64(50))
    assert result.converged


def test_a_relaxation_that_does_not_converge_is_suspect_and_keeps_its_last_step():
    (result,) = Scaling(0.99).relax(alloy(), then=EMT(), fmax=1e-6, max_steps=2)
    assert (result.status, result.converged, result.steps) == ("suspect", False, 2)
    assert result.reason.startswith("not converged: the largest force, or stress times volume per atom, is")
    assert result.structure.get_potential_energy() == result.energy < result.energy_predicted


def test_relax_returns_structures_with_energies():
    atoms = relax(alloy(), model=Scaling(0.99), then="ase.calculators.emt:EMT")
    structure = relax(AseAtomsAdaptor.get_structure(alloy()), model=Scaling(0.99), then=EMT())
    assert type(structure).__name__ == "Structure"
    assert structure.calc.results["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)


def test_results_are_msonable_and_tabulated():
    (result,) = Scaling(0.99).relax(alloy(), then=EMT(), trajectory=True)
    stored = json.loads(json.dumps(result.as_dict()))
    restored = MontyDecoder().process_decoded(stored)
    for name in ("energy", "steps", "converged", "start", "calculator", "energy_input", "energy_predicted"):
        assert getattr(restored, name) == getattr(result, name) is not None
    assert np.array_equal(restored.forces, result.forces)
    assert [frame.energy for frame in restored.trajectory] == [frame.energy for frame in result.trajectory]
    row = result.summary()
    assert (row["energy"], row["steps"], row["converged"]) == (result.energy, result.steps, True)
    assert f"converged in {result.steps} steps from the prediction" in repr(result)
    assert "EMT" in result._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmax": 0.1}, "belong to then="),
        ({"then": "chgnot"}, "'chgnet'"),
        ({"then": EMT}, "expected the name of a calculator"),
        ({"then": 3}, "expected the name of a calculator"),
        ({"then": EMT(), "fmax": -1.0}, "fmax must be a positive force"),
        ({"then": EMT(), "max_steps": 0}, "max_steps must be a positive integer"),
        ({"then": EMT(), "max_steps": True}, "max_steps must be a positive integer"),
        ({"then": EMT(), "when_uncertain": True}, "such as 0.1"),
        ({"then": EMT(), "when_uncertain": "nan"}, "got 'nan'"),
        ({"then": EMT(), "when_uncertain": "x%"}, "got 'x%'"),
        ({"then": EMT(), "when_uncertain": "many"}, "such as '20%'"),
        ({"then": EMT(), "when_uncertain": "120%"}, "at most 100%"),
        ({"then": EMT(), "when_uncertain": -0.1}, "such as 0.1"),
        ({"then": Continuation(EMT()), "max_steps": 3}, "a Continuation has them"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        Scaling(1.0).relax(alloy(), **options)


def test_bounds_are_needed_for_going_on_when_uncertain():
    relaxer = Scaling(1.0)
    relaxer.gives_bounds = False
    with pytest.raises(ConfigError, match="is not calibrated"):
        relaxer.relax(alloy(), then=EMT(), when_uncertain=0.1)
