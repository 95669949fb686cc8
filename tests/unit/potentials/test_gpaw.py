"""PBE with GPAW: results, and parameters along a relaxation (without GPAW)."""

import importlib.util

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_stress

from repose.errors import ConfigError, InvalidCrystalError, MissingExtraError
from repose.potentials.gpaw import PlaneWaves, pbe
from repose.potentials.loading import load_potential

GRID = (12, 12, 12)
needs_gpaw = pytest.mark.skipif(importlib.util.find_spec("gpaw") is None, reason="GPAW is not installed")


class Engine(EMT):
    """EMT with an energy that depends on a cutoff, like that of plane waves."""

    def __init__(self, slope, cutoff, gap, fails):
        super().__init__()
        self.slope, self.cutoff, self.gap, self.fails = slope, cutoff, gap, fails
        self.seen = []

    def calculate(self, atoms=None, *arguments, **options):
        super().calculate(atoms, *arguments, **options)
        self.seen.append(atoms.copy())
        if self.fails:
            raise RuntimeError("not converged")
        self.results["energy"] += self.slope * self.cutoff
        self.results["free_energy"] = self.results["energy"] - 1.0

    def get_homo_lumo(self):
        return np.array([4.0, 4.0 + self.gap])

    def get_number_of_grid_points(self):
        return np.array(GRID)


class Recorded(PlaneWaves):
    """PlaneWaves with EMT instead of GPAW."""

    def __init__(self, slope=-0.01, gap=0.0, **options):
        super().__init__(**options)
        self.true_slope, self.gap, self.fails, self.made = slope, gap, False, []

    def make_gpaw(self, parameters, cutoff):
        engine = Engine(self.true_slope, cutoff, self.gap, self.fails)
        self.made.append((parameters, cutoff, engine))
        return engine


@pytest.fixture
def alloy():
    """CuAu in a tetragonal cell, not at the origin."""
    cell = np.diag([2.8, 2.8, 3.7])
    return Atoms("CuAu", np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) @ cell + 0.37, cell=cell, pbc=True)


def test_a_new_crystal_is_computed_at_two_more_cutoffs_with_one_grid(alloy):
    alloy.calc = calculator = Recorded(slope=-0.02, cutoff=400.0)
    energy = alloy.get_potential_energy()
    (above, high, _), (below, low, _), (parameters, cutoff, _) = calculator.made
    assert (high, low, cutoff) == pytest.approx((420.0, 380.0, 400.0))
    assert (above.grid, below.grid, parameters.grid) == ((), GRID, GRID)
    assert (above.dedecut, below.dedecut) == (0.0, 0.0)
    assert parameters.dedecut == pytest.approx(-0.02)
    assert above.mesh == below.mesh == (6, 6, 5)
    assert parameters.mesh == (8, 8, 6)  # CuAu is a metal
    assert parameters.group.symbol == "P4/mmm"
    alone = alloy.copy()
    alone.calc = EMT()
    assert energy == pytest.approx(alone.get_potential_energy() - 0.02 * 400.0, abs=1e-9)
    assert alloy.get_potential_energy(force_consistent=True) == pytest.approx(energy - 1.0)
    np.testing.assert_allclose(alloy.get_stress(), alone.get_stress(), atol=1e-10)


@pytest.mark.parametrize(("gap", "mesh"), [(0.4, (4, 4, 3)), (0.6, (3, 3, 2))])
def test_crystals_with_a_gap_need_fewer_k_points(alloy, gap, mesh):
    alloy.calc = calculator = Recorded(gap=gap, kpoint_density=1.5, insulator_density=1.0)
    alloy.get_potential_energy()
    assert calculator.made[-1][0].mesh == mesh


def test_parameters_are_constant_along_a_relaxation(alloy):
    alloy.calc = calculator = Recorded()
    alloy.get_stress()
    for k in range(4):  # swells enough for a coarser mesh and another grid
        moved = alloy.copy()
        moved.set_cell(alloy.cell.array * (1 + 0.05 * k), scale_atoms=True)
        moved.calc = calculator
        moved.get_stress()
    assert len(calculator.made) == 3
    assert len(calculator.made[-1][2].seen) == 4  # the first of them was known


@pytest.mark.parametrize("change", ["numbers", "pbc", "cell", "positions"])
def test_another_crystal_gets_new_parameters(alloy, change):
    alloy.calc = calculator = Recorded()
    alloy.get_potential_energy()
    other = alloy.copy()
    if change == "numbers":
        other.numbers = other.numbers[::-1]
    elif change == "pbc":
        other.pbc = (True, True, False)
    elif change == "cell":
        other.set_cell(other.cell.array * 1.2, scale_atoms=True)
    else:
        other.positions[1] += [1.0, 0.3, 0.0]
    other.calc = calculator
    other.get_potential_energy()
    assert len(calculator.made) == 6


def test_structures_are_symmetrised_and_shifted_to_the_origin(alloy):
    rng = np.random.default_rng(0)
    noisy = alloy.copy()
    noisy.set_cell(alloy.cell.array + rng.normal(0, 1e-4, (3, 3)), scale_atoms=True)
    noisy.positions += rng.normal(0, 1e-4, (2, 3))
    noisy.calc = calculator = Recorded()
    noisy.get_forces()
    (seen,) = calculator.made[-1][2].seen
    lengths = seen.cell.lengths()
    assert lengths[0] == pytest.approx(lengths[1], abs=1e-12)
    np.testing.assert_allclose(seen.cell.array @ seen.cell.array.T, np.diag(lengths**2), atol=1e-12)
    np.testing.assert_allclose(
        seen.get_scaled_positions(wrap=False), [[0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-12
    )
    np.testing.assert_allclose(seen.cell.array, noisy.cell.array, atol=1e-3)


def test_broken_symmetry_changes_the_space_group_only(alloy):
    alloy.calc = calculator = Recorded()
    alloy.get_potential_energy()
    bent = alloy.copy()
    bent.positions[1] += [0.05, 0.02, 0.01]
    bent.calc = calculator
    bent.get_forces()
    before, after = calculator.made[-2][0], calculator.made[-1][0]
    assert len(calculator.made) == 4
    assert after.group.n_operations < calculator.made[0][0].group.n_operations
    assert (after.mesh, after.grid) == (before.mesh, GRID)
    assert after.dedecut == pytest.approx(-0.01)
    seen = calculator.made[-1][2].seen[-1]
    np.testing.assert_allclose(
        seen.positions[1] - seen.positions[0], bent.positions[1] - bent.positions[0], atol=1e-9
    )


def other_start(alloy, lengths, calculator):
    """The same atoms in another cell, farther than one step of a relaxation."""
    start = alloy.copy()
    start.set_cell(np.diag(lengths), scale_atoms=True)
    start.calc = calculator
    start.get_potential_energy()
    return calculator.made[-1][0]


def test_starts_of_one_composition_share_all_but_the_space_group(alloy):
    alloy.calc = calculator = Recorded(keep="composition")
    alloy.get_potential_energy()
    first = calculator.made[-1][0]
    assert other_start(alloy, [3.3, 3.3, 4.4], calculator) is first  # the same group
    bent = other_start(alloy, [3.3, 3.1, 4.4], calculator)
    cubic = other_start(alloy, [3.6, 3.6, 3.6], calculator)
    assert len(calculator.made) == 5
    orders = [parameters.group.n_operations for parameters in (first, bent, cubic)]
    assert orders == [16, 8, 48]
    for new in (bent, cubic):
        assert (new.mesh, new.grid, new.dedecut) == (first.mesh, first.grid, first.dedecut)
        assert new.use_symmetry
    alloy.numbers = [79, 29]
    other_start(alloy, [2.8, 2.8, 3.7], calculator)
    assert len(calculator.made) == 8


def test_a_grid_without_the_symmetry_of_a_new_start_is_used_without_symmetry(alloy, monkeypatch):
    monkeypatch.setattr(Engine, "get_number_of_grid_points", lambda self: np.array([12, 12, 15]))
    alloy.calc = calculator = Recorded(keep="composition")
    alloy.get_potential_energy()
    cubic = other_start(alloy, [3.0, 3.0, 3.0], calculator)
    assert (cubic.grid, cubic.use_symmetry) == ((12, 12, 15), False)
    assert other_start(alloy, [3.0, 2.9, 3.4], calculator).use_symmetry


def test_translations_must_be_multiples_of_the_grid(monkeypatch):
    """Hexagonal close packing has operations with half of c, which 15 points do not have."""
    monkeypatch.setattr(Engine, "get_number_of_grid_points", lambda self: np.array([12, 12, 15]))
    metal = bulk("Cu", "hcp", a=2.6, c=4.3)
    calculator = Recorded(keep="composition")
    symmetric = []
    for shift in (0.3, 0.0):
        crystal = metal.copy()
        crystal.positions[1] += [shift, 0.5 * shift, 0.7 * shift]
        crystal.calc = calculator
        crystal.get_potential_energy()
        symmetric.append(calculator.made[-1][0].use_symmetry)
    assert symmetric == [True, False]


@pytest.mark.parametrize(("keep", "new"), [("relaxation", 3), ("composition", 1)])
def test_after_a_failure_calculators_are_new_and_in_one_composition_not_the_parameters(alloy, keep, new):
    alloy.calc = calculator = Recorded(keep=keep)
    alloy.get_potential_energy()
    calculator.fails = True
    alloy.positions[1] += 0.01  # breaks the symmetry
    with pytest.raises(RuntimeError, match="not converged"):
        alloy.get_potential_energy()
    calculator.fails, calculator.made = False, []
    alloy.get_potential_energy()
    assert len(calculator.made) == new


def test_a_failure_at_the_first_structure_starts_a_new_run(alloy):
    calculator = Recorded(keep="composition")
    calculator.fails = True
    alloy.calc = calculator
    with pytest.raises(RuntimeError, match="not converged"):
        alloy.get_potential_energy()
    calculator.fails, calculator.made = False, []
    alloy.get_potential_energy()
    assert len(calculator.made) == 3


def test_forces_and_stress_are_those_of_the_input_geometry():
    """Forces and stress of a crystal whose origin was moved, against numerical derivatives."""
    crystal = bulk("Cu", "fcc", a=3.7, cubic=True)
    crystal.numbers[0] = 79
    crystal.positions += [0.3, 0.1, 0.2]
    crystal.positions[1] += [0.1, 0.0, 0.05]
    crystal.calc = Recorded(slope=0.0)
    np.testing.assert_allclose(
        crystal.get_stress(), calculate_numerical_stress(crystal, voigt=True), atol=1e-6
    )
    alone = crystal.copy()
    alone.calc = EMT()
    np.testing.assert_allclose(crystal.get_forces(), alone.get_forces(), atol=1e-9)


@pytest.mark.parametrize("symbol", ["Fe", "Gd", "U"])
def test_magnets_are_refused(symbol):
    magnet = bulk(symbol, "fcc", a=4.5)
    magnet.calc = Recorded()
    with pytest.raises(InvalidCrystalError, match=f"{symbol} may be magnetic"):
        magnet.get_potential_energy()


@pytest.mark.parametrize("setting", ["cutoff", "kpoint_density", "insulator_density", "width"])
def test_settings_must_be_positive(setting):
    with pytest.raises(ConfigError, match=f"{setting} must be positive; got -1"):
        PlaneWaves(**{setting: -1.0})


def test_what_is_kept_must_be_known():
    with pytest.raises(ConfigError, match=r"got 'compositon'\. Did you mean 'composition'"):
        PlaneWaves(keep="compositon")


def test_missing_atoms_raise_an_error():
    with pytest.raises(InvalidCrystalError, match=r"expected atoms; got none\. Set `atoms\.calc`"):
        PlaneWaves().calculate()


def test_a_missing_gpaw_raises_an_error(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="install_gpaw"):
        pbe()


@needs_gpaw
def test_is_a_calculator_for_the_command_line():
    potential = load_potential("repose.potentials.gpaw:pbe", options={"cutoff": 300, "kpoint_density": 2})
    assert potential.name == "pbe"


@needs_gpaw
def test_stress_is_the_slope_of_the_energy_and_forces_vanish_by_symmetry():
    """Silicon at a low cutoff: without the correction the pressure is off by 0.0007 eV/A^3."""
    calculator = pbe(cutoff=200.0, kpoint_density=0.8, insulator_density=0.8)
    volumes, energies, pressures = [], [], []
    for a in (5.35, 5.45):
        crystal = bulk("Si", "diamond", a=a)
        crystal.calc = calculator
        volumes.append(crystal.get_volume())
        energies.append(crystal.get_potential_energy())
        pressures.append(-crystal.get_stress()[:3].mean())
        assert np.abs(crystal.get_forces()).max() < 1e-3
    slope = (energies[0] - energies[1]) / (volumes[1] - volumes[0])
    assert np.mean(pressures) == pytest.approx(slope, abs=4e-4)
    assert pressures[0] - pressures[1] > 0.04
