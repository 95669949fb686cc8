"""The ASE optimizers: one step, constraints, filters, convergence; going on with another one."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2
from ase.calculators.calculator import SCFError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.filters import ExpCellFilter, FrechetCellFilter, UnitCellFilter
from ase.io import read
from ase.optimize import BFGS, FIRE, BFGSLineSearch
from ase.optimize.precon import PreconLBFGS
from ase.optimize.sciopt import SciPyFminCG
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

import repose
from repose.errors import ConfigError, InvalidCrystalError
from support.tiny import Known

STRAIN = np.array([[1.02, 0.03, 0.0], [0.03, 0.97, -0.01], [0.0, -0.01, 1.05]])
TILTED = [[4.1, 0.3, 0.2], [1.7, 3.9, 0.4], [0.6, 1.1, 4.6]]


@pytest.fixture
def calcium_oxide():
    return bulk("CaO", "rocksalt", a=4.8)


def test_moves_atoms_in_place(model, tmp_path):
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    atoms.rattle(0.1, seed=3)
    before = atoms.copy()
    log = tmp_path / "log"
    with repose.DirectOptimizer(
        atoms, logfile=str(log), trajectory=str(tmp_path / "t.traj"), model=model
    ) as dyn:
        calls = []
        dyn.attach(lambda: calls.append(dyn.nsteps))
        assert not dyn.converged()
        assert not dyn.run(fmax=0.01, steps=10)  # there is no calculator to confirm it
    assert dyn.nsteps == 1
    assert calls == [0, 1]
    assert not dyn.converged()
    assert np.array_equal(atoms.cell, before.cell)
    assert np.abs(atoms.positions - before.positions).max() > 1e-4
    assert "relaxed by tiny" in log.read_text()
    frames = read(tmp_path / "t.traj", index=":")
    np.testing.assert_allclose(frames[0].positions, before.positions)
    np.testing.assert_allclose(frames[-1].positions, atoms.positions)


def test_no_steps(calcium_oxide):
    dyn = repose.DirectOptimizer(calcium_oxide, model=Known(STRAIN))
    assert not dyn.run(steps=0)
    assert list(dyn.irun()) == [False, False]


def test_the_cell_relaxes_with_a_cell_filter(calcium_oxide):
    from ase.filters import StrainFilter

    before = calcium_oxide.copy()
    repose.DirectOptimizer(FrechetCellFilter(calcium_oxide), model=Known(1.1 * np.eye(3))).run()
    np.testing.assert_allclose(calcium_oxide.cell, 1.1 * before.cell.array, atol=1e-12)
    with pytest.raises(ConfigError, match="StrainFilter"):
        repose.DirectOptimizer(StrainFilter(before), model=Known()).run()


def test_masked_axis_stays():
    from ase.filters import FrechetCellFilter

    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    masked = FrechetCellFilter(atoms, mask=[True, True, False, False, False, True])
    repose.DirectOptimizer(masked, model=Known(1.1 * np.eye(3)), symmetry="free").run()
    np.testing.assert_allclose(atoms.cell.lengths(), [4.62, 4.62, 4.2])


def test_a_filter_fixes_hidden_atoms():
    from ase.filters import Filter

    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    before = atoms.positions.copy()
    displacement = np.random.default_rng(0).normal(0, 0.02, (8, 3))
    repose.DirectOptimizer(
        Filter(atoms, indices=[4, 5]), model=Known(None, displacement), symmetry="free"
    ).run()
    moved = np.linalg.norm(atoms.positions - before, axis=1) > 1e-6
    assert moved.tolist() == [False] * 4 + [True] * 2 + [False] * 2


def test_refusal_is_an_error():
    with pytest.raises(InvalidCrystalError, match="no cell"):
        repose.DirectOptimizer(Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]), model=Known()).run()


def test_pymatgen(model):
    from functools import partial

    from ase.calculators.emt import EMT

    structure = Structure(
        Lattice.cubic(3.9), ["Cu"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.52, 0.5]]
    )
    optimizer = partial(repose.DirectOptimizer, model=model)
    relaxed = structure.relax(calculator=EMT(), optimizer=optimizer)
    expected = repose.relax(structure, model=model)
    np.testing.assert_allclose(relaxed.lattice.matrix, expected.lattice.matrix, atol=1e-4)
    np.testing.assert_allclose(relaxed.frac_coords % 1, expected.frac_coords % 1, atol=1e-4)
    fixed = structure.relax(calculator=EMT(), optimizer=repose.DirectOptimizer, relax_cell=False,
                            opt_kwargs={"model": model}, steps=5)  # fmt: skip
    np.testing.assert_allclose(fixed.lattice.matrix, structure.lattice.matrix)
    assert fixed.dynamics["model"] == "tiny"


def tilted():
    return Atoms("MgO", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=TILTED, pbc=True)


@pytest.mark.parametrize("kind", [FrechetCellFilter, ExpCellFilter, UnitCellFilter])
@given(mask=st.lists(st.booleans(), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_no_strain_leaks_through_a_mask(kind, mask, seed):
    """On a tilted cell and with a prediction that is strained and rotated."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    deformation = (np.eye(3) + rng.normal(0, 0.05, (3, 3))) @ turn
    atoms = tilted()
    before = atoms.cell.array.copy()
    repose.DirectOptimizer(kind(atoms, mask=mask), model=Known(deformation), symmetry="free").run()
    change = np.linalg.solve(before, atoms.cell.array)
    strain = change - np.eye(3)  # which is what ASE masks, in all three filters
    allowed = np.array(mask)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    if not all(mask):
        assert np.abs(strain[~allowed]).max() < 1e-8
        assert not allowed.any() or np.abs(strain[allowed]).max() > 1e-6
    else:
        np.testing.assert_allclose(change, deformation, atol=1e-10)
    np.testing.assert_allclose(atoms.get_scaled_positions(), [[0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-10)


@pytest.mark.parametrize("kind", [FrechetCellFilter, ExpCellFilter, UnitCellFilter])
def test_the_mask_is_the_one_of_ase(kind):
    """A long relaxation by ASE reaches cells of the same set, also with masks that are not closed."""
    mask = [True, False, False, True, False, True]
    free = np.array(mask)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.tril(np.full((3, 3), 0.04))), scale_atoms=True)
    atoms.rattle(0.05, seed=0)
    ours, theirs = atoms.copy(), atoms.copy()
    theirs.calc = EMT()
    BFGS(kind(theirs, mask=mask), logfile=None).run(fmax=0.05, steps=30)
    repose.DirectOptimizer(kind(ours, mask=mask), model=Known(STRAIN), symmetry="free").run()
    for cell in (ours.cell.array, theirs.cell.array):
        strain = np.linalg.solve(atoms.cell.array, cell) - np.eye(3)
        assert np.abs(strain[~free]).max() < 1e-8 < np.abs(strain[free]).min()


def test_a_mask_holds_over_two_runs():
    mask = [True, False, False, True, False, True]
    free = np.array(mask)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    atoms = tilted()
    masked = FrechetCellFilter(atoms, mask=mask)
    opt = repose.DirectOptimizer(masked, model=Known(STRAIN), symmetry="free")
    opt.run()
    atoms.rattle(0.01, seed=0)
    opt.run()
    assert np.abs((np.linalg.solve(TILTED, atoms.cell.array) - np.eye(3))[~free]).max() < 1e-8
    assert opt.nsteps == 2


def test_hydrostatic_strain_and_constant_volume():
    for kind in (FrechetCellFilter, UnitCellFilter):
        atoms = tilted()
        volume = np.linalg.det(STRAIN)
        filtered = kind(atoms, hydrostatic_strain=True)
        repose.DirectOptimizer(filtered, model=Known(STRAIN), symmetry="free").run()
        np.testing.assert_allclose(atoms.cell.array, volume ** (1 / 3) * np.array(TILTED), atol=1e-10)
        atoms = tilted()
        repose.DirectOptimizer(kind(atoms, constant_volume=True), model=Known(STRAIN), symmetry="free").run()
        np.testing.assert_allclose(atoms.cell.array, TILTED @ STRAIN / volume ** (1 / 3), atol=1e-10)
    for options, words in (
        ({"scalar_pressure": 0.1}, "scalar_pressure"),
        ({"hydrostatic_strain": True, "constant_volume": True}, "frees nothing"),
        ({"hydrostatic_strain": True, "mask": [1, 1, 0, 0, 0, 0]}, "hydrostatic_strain and a mask"),
        ({"constant_volume": True, "mask": [1, 1, 0, 0, 0, 0]}, "constant_volume and a mask"),
        ({"mask": [0.5, 1, 1, 1, 1, 1]}, "bools"),
    ):
        with pytest.raises(ConfigError, match=words):
            repose.DirectOptimizer(FrechetCellFilter(tilted(), **options), model=Known()).run()


def test_vacuum_is_kept_with_a_warning():
    sheet = mx2("MoS2", a=3.2, vacuum=8)
    sheet.pbc = True
    before = sheet.cell.array[2].copy()
    with pytest.warns(UserWarning, match="lattice vector c is kept"):
        repose.DirectOptimizer(FrechetCellFilter(sheet), model=Known(np.diag([0.97, 0.97, 0.8]))).run()
    assert np.array_equal(sheet.cell.array[2], before)
    assert sheet.cell.lengths()[0] == pytest.approx(0.97 * 3.2)


def test_a_mask_that_excludes_nothing_of_the_strain_changes_nothing():
    stretch = np.diag([1.05, 0.97, 1.0])
    atoms = tilted()
    masked = FrechetCellFilter(atoms, mask=[True, True, False, False, False, False])
    repose.DirectOptimizer(masked, model=Known(stretch), symmetry="free").run()
    np.testing.assert_allclose(atoms.cell.array, TILTED @ stretch, atol=1e-10)


def test_a_mask_cannot_move_an_open_direction():
    atoms = tilted()
    atoms.pbc = [True, True, False]
    masked = FrechetCellFilter(atoms, mask=[True, True, True, False, False, False])
    with pytest.raises(ConfigError, match="not periodic"):
        repose.DirectOptimizer(masked, model=Known(STRAIN), symmetry="free").run()


def test_atoms_that_were_changed_are_relaxed_again(calcium_oxide):
    opt = repose.DirectOptimizer(FrechetCellFilter(calcium_oxide), model=Known(1.1 * np.eye(3)))
    opt.run()
    first = calcium_oxide.cell.array.copy()
    opt.run()  # nothing has changed: a prediction is not relaxed once more
    assert np.array_equal(calcium_oxide.cell.array, first)
    assert opt.nsteps == 1
    calcium_oxide.set_cell(0.9 * first, scale_atoms=True)
    opt.run()
    np.testing.assert_allclose(calcium_oxide.cell.array, 0.99 * first, atol=1e-12)
    assert opt.nsteps == 2


@pytest.mark.parametrize("filtered", [False, True])
def test_converged_only_with_a_calculator(filtered):
    def run(a, fmax, calculator=None):
        atoms = bulk("Cu", "fcc", a=a)
        atoms.calc = calculator
        target = FrechetCellFilter(atoms) if filtered else atoms
        return repose.DirectOptimizer(target, model=Known()).run(fmax=fmax)

    assert not run(3.59, 10.0)
    assert run(3.59, 0.05, EMT())  # 3.59 A is EMT's own lattice constant
    assert run(3.9, 0.05, EMT()) is not filtered  # by symmetry no force acts on the atom, but on the cell
    atoms = bulk("Cu", "fcc", a=3.59, cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = EMT()
    opt = repose.DirectOptimizer(FrechetCellFilter(atoms) if filtered else atoms, model=Known())
    assert not opt.run(fmax=0.01)
    assert opt.run(fmax=100.0)
    assert opt.converged()
    assert list(opt.irun(fmax=0.01)) == [False]
    atoms.rattle(0.01, seed=1)
    assert not opt.converged()  # it does not stand where the step left it


def test_without_stress_the_cell_is_not_converged():
    class NoStress(LennardJones):
        implemented_properties = ("energy", "forces")

    atoms = bulk("Cu", "fcc", a=3.59)
    atoms.calc = NoStress()
    assert repose.DirectOptimizer(atoms, model=Known()).run(fmax=0.05)
    assert not repose.DirectOptimizer(FrechetCellFilter(atoms), model=Known()).run(fmax=1e9)


def test_constraints_of_the_atoms_are_kept(model):
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.set_constraint(FixAtoms([0, 5]))
    before = atoms.positions.copy()
    repose.DirectOptimizer(atoms, model=model, symmetry="free").run()
    moved = np.abs(atoms.positions - before).max(axis=1) > 1e-9
    assert moved.tolist() == [k not in (0, 5) for k in range(8)]


def copper(size=3.9, calculator=EMT, **options):
    atoms = bulk("Cu", "fcc", a=size, cubic=True)
    atoms.rattle(0.05, seed=2)
    atoms.calc = calculator(**options)
    return atoms


@pytest.mark.parametrize("optimizer", [BFGS, FIRE, BFGSLineSearch, PreconLBFGS])
def test_two_stages_end_in_the_minimum(optimizer, tmp_path):
    atoms = copper()
    opt = repose.TwoStageOptimizer(
        FrechetCellFilter(atoms), logfile=tmp_path / "log", trajectory=tmp_path / "t.traj",
        optimizer=optimizer, model=Known(0.93 * np.eye(3)), symmetry="free",
    )  # fmt: skip
    assert opt.start is None
    given = atoms.get_potential_energy()
    assert opt.run(fmax=0.01, steps=200)
    assert (opt.start, opt.converged()) == ("prediction", True)
    frames = read(tmp_path / "t.traj", index=":")
    assert atoms.cell.lengths() == pytest.approx(3.59, abs=0.01)  # as EMT's crystal without defects
    atoms.set_scaled_positions(bulk("Cu", "fcc", cubic=True).get_scaled_positions())
    assert frames[-1].get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert len(frames) == opt.nsteps + 1
    assert frames[0].get_potential_energy() == pytest.approx(given)
    np.testing.assert_allclose(frames[1].cell, 0.93 * frames[0].cell.array, atol=1e-12)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == opt.nsteps + 3  # with a heading and the start
    assert "start from the prediction" in lines[2]
    assert opt.todict().items() >= {"model": "known", "start": "prediction"}.items()


@pytest.mark.parametrize("filtered", [False, True])
def test_two_stages_start_from_the_input_where_it_has_the_lower_energy(filtered):
    ours, theirs = copper(3.62), copper(3.62)
    kind = FrechetCellFilter if filtered else lambda atoms: atoms
    worse = Known(1.2 * np.eye(3), [[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0], [0, 0, 0]])
    opt = repose.TwoStageOptimizer(kind(ours), model=worse, symmetry="free")
    assert opt.run(fmax=0.01)
    assert opt.start == "input"
    reference = BFGS(kind(theirs), logfile=None)
    reference.run(fmax=0.01)
    assert opt.nsteps == reference.nsteps
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-9)
    np.testing.assert_allclose(ours.cell, theirs.cell, atol=1e-9)


def test_two_stages_start_from_the_input_without_a_valid_prediction():
    class Failing(EMT):
        """Fails in large cells."""

        error: type[BaseException] = SCFError

        def calculate(self, atoms=None, *args):
            if atoms.get_volume() > 70:
                raise self.error("no convergence")
            super().calculate(atoms, *args)

    class Crashing(Failing):
        error = RuntimeError

    class Stopped(Failing):
        error = KeyboardInterrupt

    atoms = copper(3.9, Stopped)
    before = atoms.copy()
    opt = repose.TwoStageOptimizer(FrechetCellFilter(atoms), model=Known(1.1 * np.eye(3)))
    with pytest.raises(KeyboardInterrupt):
        opt.run(steps=1)
    assert np.array_equal(atoms.positions, before.positions)
    assert np.array_equal(atoms.cell, before.cell)
    failing = ((Failing, 1.1, "no convergence"), (Crashing, 1.1, "no convergence"))
    for calculator, deformation, words in ((EMT, np.nan, "finite"), *failing):
        atoms = copper(3.9, calculator)
        before = atoms.copy()
        model = Known(deformation * np.eye(3))
        opt = repose.TwoStageOptimizer(FrechetCellFilter(atoms), model=model)
        with pytest.warns(UserWarning, match=words):
            opt.run(steps=1)
        assert opt.start == "input"
        assert 0 < np.abs(atoms.positions - before.positions).max() < 0.5
        assert opt.run(fmax=0.05)


def test_two_stages_keep_constraints_and_the_number_of_steps():
    atoms = copper()
    atoms.set_constraint(FixAtoms([0, 2]))
    before = atoms.positions.copy()
    displacement = [[0, 0, 0], [0, 0, 0.003], [0, 0, 0], [0, 0.002, 0]]
    opt = repose.TwoStageOptimizer(atoms, model=Known(None, displacement), symmetry="free")
    assert list(opt.irun(fmax=1e-3, steps=3)) == [False] * 4
    assert opt.nsteps == 3
    assert opt.run(fmax=1e-3)
    assert (np.abs(atoms.positions - before).max(axis=1) > 0).tolist() == [False, True, False, True]
    assert np.array_equal(atoms.cell.lengths(), [3.9] * 3)
    opt = repose.TwoStageOptimizer(atoms, model=Known(None, displacement))
    assert opt.run(fmax=1e-2)
    assert (opt.nsteps, opt.start) == (0, None)


def test_two_stages_restart(tmp_path):
    atoms = copper()
    restart = tmp_path / "opt.json"
    options = {"restart": restart, "optimizer_kwargs": {"maxstep": 0.05}, "symmetry": "free"}
    repose.TwoStageOptimizer(atoms, model=Known(), **options).run(fmax=1e-4, steps=4)
    model = Known()
    opt = repose.TwoStageOptimizer(atoms, model=model, **options)
    assert opt.run(fmax=1e-4)
    assert opt.start == "input"
    assert not model.batches
    with pytest.raises(ConfigError, match="single steps"):
        repose.TwoStageOptimizer(atoms, model=model, optimizer=SciPyFminCG)


def test_two_stages_by_pymatgen():
    structure = AseAtomsAdaptor.get_structure(copper())
    options = {"model": Known(0.93 * np.eye(3)), "symmetry": "free"}
    for _ in range(2):  # also from a structure that is relaxed already
        structure = structure.relax(EMT(), optimizer=repose.TwoStageOptimizer, opt_kwargs=options, fmax=0.01)
        assert structure.lattice.abc == pytest.approx([3.59] * 3, abs=0.01)
        assert structure.dynamics["optimizer"] == "TwoStageOptimizer"
    assert structure.dynamics["start"] is None
