"""Jobs of jobflow and quacc that relax crystals, alone and before jobs of atomate2 and quacc."""

import json
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor, MSONAtoms

import repose
from repose.errors import ConfigError, InvalidCrystalError, MissingExtraError
from repose.relaxer.batch_relaxation import BatchRelaxation
from support.tiny import Known

pytestmark = pytest.mark.xdist_group("workflows")
EMT = "ase.calculators.emt:EMT"


class Bounded(Known):
    """Keeps every crystal, with a bound of 0.25 A."""

    gives_bounds = True

    def relax_batch(self, batch):
        return BatchRelaxation(self.predict(batch), bounds={90: torch.full((batch.n_crystals,), 0.25)})


@pytest.fixture
def atoms():
    atoms = bulk("Cu", "fcc", a=3.9, cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


@pytest.fixture
def structure(atoms):
    return AseAtomsAdaptor.get_structure(atoms)


@pytest.fixture
def jobflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return pytest.importorskip("jobflow")


@pytest.fixture
def quacc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quacc = pytest.importorskip("quacc")
    if quacc.get_settings().WORKFLOW_ENGINE is not None:
        pytest.skip("a workflow engine is set")
    return quacc


def through_json(value):
    return MontyDecoder().decode(json.dumps(value, cls=MontyEncoder))


@pytest.mark.parametrize("kind", ["atoms", "structure"])
def test_jobflow_stores_relaxations(jobflow, model, kind, request):
    from repose.workflows.jobflow import RelaxMaker

    given = request.getfixturevalue(kind)
    if kind == "atoms":
        given = MSONAtoms(given)  # jobflow stores no others
    maker = RelaxMaker(model=model, symmetry="free", then=EMT, fmax=0.01)
    job = maker.make(given)
    assert through_json(job).maker == maker
    store = jobflow.JobStore(jobflow.SETTINGS.JOB_STORE.docs_store)
    jobflow.run_locally(job, store=store, raise_immediately=True, log=False)
    stored = store.get_output(job.uuid)
    assert stored["@class"] == "Relaxation"
    (expected,) = repose.load(model).relax([given], symmetry="free", then=EMT, fmax=0.01, trajectory=True)
    assert stored["energy"] == pytest.approx(expected.energy)
    for result in (MontyDecoder().process_decoded(stored), through_json(expected)):
        assert (result.status, result.converged, result.start) == ("relaxed", True, expected.start)
        assert isinstance(result.structure, Atoms if kind == "atoms" else Structure)
        assert result.summary() | {"seconds": 0} == pytest.approx(expected.summary() | {"seconds": 0})
        np.testing.assert_allclose(result.forces, expected.forces, atol=1e-9)
        np.testing.assert_allclose(result.stress, expected.stress, atol=1e-9)
        np.testing.assert_allclose(result.after.positions, expected.after.positions, atol=1e-9)
    assert len(result.trajectory) == len(expected.trajectory)
    assert result.trajectory[-1].energy == expected.energy


def test_jobs_fail_with_the_reason(jobflow, model, structure):
    from repose.workflows.jobflow import RelaxMaker

    def run(given, **options):
        jobflow.run_locally(RelaxMaker(model=model, **options).make(given), raise_immediately=True, log=False)

    close = structure.copy()
    close.translate_sites([1], [0.49, 0.49, 0])
    with pytest.raises(InvalidCrystalError, match=r"Cu4 cannot be relaxed: .* 0\.08 A apart"):
        run(close)
    with pytest.raises(InvalidCrystalError, match=r"CaO cannot be relaxed: EMT could not go on"):
        run(AseAtomsAdaptor.get_structure(bulk("CaO", "rocksalt", a=4.8)), then=EMT)
    with pytest.raises(ConfigError, match="must be a name"):
        RelaxMaker(then=object())


def test_no_job_starts_from_a_suspect_prediction(jobflow, structure, monkeypatch):
    from repose.workflows.jobflow import RelaxMaker

    monkeypatch.setattr("repose.workflows.single.load_once", lambda *_: Known(3 * np.eye(3)))
    job = RelaxMaker().make(structure)
    result = jobflow.run_locally(job, raise_immediately=True, log=False)[job.uuid][1].output
    assert result.status == "suspect"
    assert result.reason.endswith("The input is returned.")
    assert result.structure == structure


def test_atomate2_starts_from_the_prediction(jobflow, model, structure):
    pytest.importorskip("atomate2")
    from atomate2.ase.jobs import EmtRelaxMaker
    from atomate2.vasp.flows.core import DoubleRelaxMaker
    from atomate2.vasp.jobs.core import RelaxMaker as VaspRelaxMaker

    from repose.workflows.jobflow import PrerelaxMaker, RelaxMaker

    predicted = repose.relax(structure, model=model)

    def same(found):
        np.testing.assert_allclose(found.lattice.matrix, predicted.lattice.matrix, atol=1e-9)
        shift = found.frac_coords - predicted.frac_coords
        np.testing.assert_allclose(shift, np.round(shift), atol=1e-9)

    relax = RelaxMaker(model=model)
    flow = PrerelaxMaker(EmtRelaxMaker(relax_kwargs={"fmax": 0.01}), relax_maker=relax).make(structure)
    outputs = jobflow.run_locally(flow, raise_immediately=True, log=False)
    document = outputs[flow.output.uuid][1].output
    same(document.output.ionic_steps[0].mol_or_struct)
    assert document.structure.lattice.abc == pytest.approx([3.59] * 3, abs=0.01)

    vasp = VaspRelaxMaker()
    flow = PrerelaxMaker(vasp, relax_maker=relax).make(structure)
    first, second = flow.jobs
    assert list(flow.graph.edges(data="properties")) == [(first.uuid, second.uuid, "structure")]
    assert flow.output.structure == second.output.structure  # of VASP's schema
    store = jobflow.JobStore(jobflow.SETTINGS.JOB_STORE.docs_store)
    store.connect()
    first.run(store)
    second.resolve_args(store)
    inputs = vasp.input_set_generator.get_input_set(*second.function_args, potcar_spec=True)
    same(inputs["POSCAR"].structure)
    assert inputs["INCAR"]["IBRION"] == 2

    flow = through_json(PrerelaxMaker(DoubleRelaxMaker(), relax_maker=relax)).make(structure, prev_dir="x")
    assert next(iter(flow.graph.edges(data="properties")))[2] == "structure"
    assert flow.jobs[1].jobs[0].function_kwargs == {"prev_dir": "x"}


def test_quacc_recipe(quacc, model, atoms, monkeypatch):
    from quacc.recipes.emt.core import relax_job as emt_relax_job

    from repose.workflows.quacc import relax_job

    before = atoms.copy()

    @quacc.flow
    def predict_and_relax(atoms):
        predicted = relax_job(atoms, model, additional_fields={"batch": 7})
        return predicted, emt_relax_job(predicted["atoms"], relax_cell=True)

    predicted, relaxed = predict_and_relax(atoms)
    assert atoms == before
    expected = repose.relax(atoms, model=model)
    np.testing.assert_allclose(predicted["atoms"].positions, expected.positions, atol=1e-9)
    assert predicted["input_atoms"]["atoms"] == before
    assert predicted["structure_metadata"]["nsites"] == 4
    assert predicted["batch"] == 7
    assert predicted["relaxation"]["status"] == "relaxed"
    np.testing.assert_allclose(relaxed["trajectory"][0].positions, expected.positions, atol=1e-9)

    # The document of a relaxation that went on has the entries of quacc's own relaxations.
    both = relax_job(atoms, model, then=EMT, fmax=0.01)
    assert set(relaxed) <= set(both)
    assert both["results"]["energy"] == pytest.approx(relaxed["results"]["energy"], abs=1e-3)
    assert both["converged"]
    assert (
        len(both["trajectory"])
        == len(both["trajectory_results"])
        == both["relaxation"]["steps"] + (2 if both["parameters_opt"]["start"] == "prediction" else 1)
    )
    assert through_json(both)["atoms"] == both["atoms"]
    with monkeypatch.context() as patched:
        patched.setattr("repose.workflows.single.load_once", lambda *_: Bounded())
        certain = relax_job(atoms, then=EMT, when_uncertain=0.3)
        assert certain["relaxation"]["uncertainty"] == 0.25
        assert "results" not in certain
        assert "results" in relax_job(atoms, then=EMT, when_uncertain=0.1)
        with pytest.raises(ConfigError, match="belong to then="):
            relax_job(atoms, when_uncertain=0.1)
    fixed = relax_job(atoms, model, relax_cell=False)
    assert np.array_equal(fixed["atoms"].cell, atoms.cell)


def test_quacc_recipe_fails_without_convergence(quacc, model, atoms):
    from repose.workflows.quacc import relax_job

    options = {"model": model, "then": EMT, "fmax": 1e-6, "max_steps": 1}
    with pytest.raises(RuntimeError, match="not converged"):
        relax_job(atoms, **options)
    with quacc.change_settings({"CHECK_CONVERGENCE": False}):
        assert not relax_job(atoms, **options)["converged"]


@pytest.mark.parametrize("name", ["jobflow", "quacc"])
def test_missing_packages_are_named(name, monkeypatch):
    monkeypatch.delitem(sys.modules, f"repose.workflows.{name}", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=rf"repose-crystal\[{name}\]"):
        __import__(f"repose.workflows.{name}")
