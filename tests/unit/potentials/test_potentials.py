"""Potentials: CHGNet and ASE calculators."""

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import volume
from repose.errors import ConfigError
from repose.io.convert import to_atoms
from repose.potentials.batched_lbfgs import Start, relax_batched
from repose.potentials.loading import calculator_name, load_potential
from repose.potentials.settings import LbfgsSettings
from support.crystals import fcc, make_crystal, perovskite, random_crystal, random_rotation, rock_salt

SHEET = make_crystal(
    [16, 42, 16],
    [[0, 0, 0.6], [1 / 3, 2 / 3, 0.5], [0, 0, 0.4]],
    [[3.2, 0, 0], [-1.6, 2.771, 0], [0, 0, 16]],
    (True, True, False),
)


@pytest.fixture(scope="module")
def chgnet():
    pytest.importorskip("chgnet")
    return load_potential("chgnet", "cpu")


@pytest.fixture(scope="module")
def exact():
    pytest.importorskip("chgnet")
    from repose.potentials.chgnet import CHGNetPotential

    return CHGNetPotential(dtype=torch.float64)


def unusual_crystals() -> CrystalBatch:
    """A skewed cell, an atom many cells away, one with no neighbour within 3 A, a sheet, a dense one."""
    far = random_crystal(3)
    cells_away = torch.tensor([7.0, -9.0, 3.0], dtype=torch.float64)
    far = far.with_geometry(far.positions + cells_away @ far.cells[0], far.cells)
    lonely = make_crystal([11], [[0.2, 0.1, 0.9]], [[4.4, 0, 0], [4.0, 4.5, 0], [0.3, 3.9, 4.6]])
    return CrystalBatch.collate([rock_salt(), far, lonely, SHEET, perovskite(), fcc(3.6)])


def test_chgnet_agrees_with_the_package(chgnet):
    """Energies, forces and stresses are those of the calculator in the package, crystal by crystal."""
    from chgnet.model.dynamics import CHGNetCalculator

    batch = unusual_crystals()
    found = chgnet.evaluate(batch)
    calculator = CHGNetCalculator(chgnet.model, use_device="cpu", verbose=False)
    forces = found.forces.split(batch.counts.tolist())
    for k, atoms in enumerate(to_atoms(batch)):
        atoms.calc = calculator
        assert float(found.energy[k]) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert np.abs(forces[k].numpy() - atoms.get_forces()).max() < 1e-3 * max(1, np.abs(forces[k]).max())
        expected = atoms.get_stress(voigt=False)
        assert np.abs(found.stress[k].numpy() - expected).max() < 1e-3 * max(0.1, np.abs(expected).max())


def test_chgnet_does_not_depend_on_the_batch(chgnet):
    batch = unusual_crystals()
    together = chgnet.evaluate(batch)
    for k, crystal in enumerate(batch):
        alone = chgnet.evaluate(crystal)
        assert float(alone.energy) == pytest.approx(float(together.energy[k]), abs=2e-4)


def test_chgnet_relaxes_in_equal_steps_alone_and_in_a_batch(exact):
    """In float64; in float32 rounding changes long relaxations by some steps."""
    rattle = 0.1 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rattled = perovskite().with_geometry(1.05 * perovskite().positions + rattle, 1.05 * perovskite().cells)
    crystals = [rock_salt(), fcc(3.9), rattled]

    def steps(some):
        runs = relax_batched(exact, (Start(*one) for one in some), LbfgsSettings(max_steps=30))
        return {run.key: (len(run.frames), run.converged) for run in runs}

    together = steps(enumerate(crystals))
    assert len({frames for frames, _ in together.values()}) == 3  # so that the batch changes
    for alone in enumerate(crystals):
        assert steps([alone]) == {alone[0]: together[alone[0]]}


def test_chgnet_forces_are_derivatives_of_the_energy(exact):
    """Finite differences of positions and of a strain."""
    crystal = random_crystal(1)
    generator = torch.Generator().manual_seed(0)
    shift = torch.randn(crystal.positions.shape, generator=generator, dtype=torch.float64)
    strain = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    strain = (strain + strain.T) / 2
    found = exact.evaluate(crystal)
    h = 1e-4

    def energy(sign, move, strain):
        gradient = torch.eye(3, dtype=torch.float64) + sign * h * strain
        positions = (crystal.positions + sign * h * move) @ gradient
        moved = crystal.with_geometry(positions, crystal.cells @ gradient)
        return float(exact.evaluate(moved).energy)

    none = torch.zeros(3, 3, dtype=torch.float64)
    slope = (energy(1, shift, none) - energy(-1, shift, none)) / (2 * h)
    assert -float((found.forces * shift).sum()) == pytest.approx(slope, rel=1e-4)
    slope = (energy(1, 0 * shift, strain) - energy(-1, 0 * shift, strain)) / (2 * h)
    work = float((found.stress[0] * strain).sum() * volume(crystal.cells))
    assert work == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("reflect", [False, True])
def test_chgnet_is_equivariant(chgnet, reflect):
    crystal, turn = random_crystal(5), random_rotation(1, reflect)
    turned = crystal.with_geometry(crystal.positions @ turn, crystal.cells @ turn)
    first, second = chgnet.evaluate(crystal), chgnet.evaluate(turned)
    size = first.forces.abs().max()
    assert (first.forces @ turn - second.forces).abs().max() < 1e-3 * size
    assert float(first.energy) == pytest.approx(float(second.energy), abs=1e-3)


def test_ase_calculator_by_import_path():
    potential = load_potential("ase.calculators.emt:EMT")
    crystal = make_crystal([29], [[0, 0, 0]], 1.9 * (np.ones((3, 3)) - np.eye(3)))
    found = potential.evaluate(CrystalBatch.collate([crystal, crystal]))
    (atoms,) = to_atoms(crystal)
    atoms.calc = EMT()
    assert found.energy.tolist() == [atoms.get_potential_energy()] * 2
    assert np.array_equal(found.stress[0].numpy(), atoms.get_stress(voigt=False))


def test_module_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_potential.py").write_text(
        "from ase.calculators.lj import LennardJones\n\ndef soft(epsilon):\n"
        "    return LennardJones(epsilon=epsilon, sigma=2.5, rc=6.0)\n"
    )
    monkeypatch.chdir(tmp_path)
    potential = load_potential("my_potential:soft", options={"epsilon": 0.02})
    assert potential.calculator.parameters["epsilon"] == 0.02
    assert calculator_name("my_potential:soft", {"epsilon": 0.02}) == "soft (epsilon=0.02)"
    assert calculator_name("chgnet") == "CHGNet 0.3.0"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("chgnt", {}, "Did you mean 'chgnet'?"),
        ("chgnet", {"version": 3}, "takes no options; got version"),
        ("no_such_module:X", {}, "cannot be imported"),
        ("ase.calculators.emt:EMTT", {}, "has no 'EMTT'"),
        ("builtins:dict", {}, "returns a dict; expected an ASE calculator"),
    ],
)
def test_invalid_calculators_are_refused(name, options, said):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        load_potential(name, "cpu", options)
