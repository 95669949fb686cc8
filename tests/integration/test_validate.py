"""`repose validate` with EMT on metals: rows of all starts, failures, and continuing after kills."""

import json
import multiprocessing
import os
import signal
from contextlib import suppress
from dataclasses import replace
from multiprocessing.util import register_after_fork

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from repose.cli import app
from repose.data.dataset import DatasetInfo, Pair, write_dataset
from repose.errors import ConfigError, DatasetError
from repose.potentials.ase import AsePotential
from repose.potentials.settings import LbfgsSettings
from repose.validation.run import validate
from repose.validation.samples import Source, crystal_key, find_sources, read_sets
from repose.validation.settings import ValidationSettings
from support.processes import close_files, eventually
from support.tiny import Known, save_tiny_model

METALS = ("Al", "Cu", "Ni", "Ag", "Au", "Pd", "Pt")
EMT_PATH = "ase.calculators.emt:EMT"
SETTINGS = ValidationSettings(calculator=EMT_PATH)
VARIABLE = ("seconds_predicting", "seconds_relaxing")


def alloys(n, split="test", seed=0):
    """Displaced alloys in cells that are too large; their "relaxed" crystals are undisplaced."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        atoms = bulk("Cu", "fcc", a=3.9, cubic=True)
        atoms.symbols[:2], atoms.symbols[2:] = METALS[k % 7], METALS[k // 7 % 7]
        positions = atoms.positions * 1.04 + rng.normal(0, 0.05, (4, 3))
        cell = atoms.cell.array
        geometry = positions, 1.04 * cell, atoms.positions, cell
        made.append(Pair(f"{split}-{k}", atoms.numbers, np.ones(3, bool), *geometry, split=split))
    return made


@pytest.fixture
def dataset(tmp_path):
    pairs = [*alloys(5), *alloys(4, "train")]
    write_dataset(tmp_path / "alloys", DatasetInfo(name="alloys"), pairs)
    return tmp_path / "alloys"


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch):
    """Fork workers, which is faster."""
    monkeypatch.setattr("repose.data.labelling.workers.START_METHOD", "fork")


def sources(*fit):
    """The input, Rescale, and a relaxer that shrinks the cell to the relaxed one."""
    return [*find_sources([], fit), Source("known", "1", Known(np.eye(3) / 1.04))]


def run(*arguments):
    return CliRunner().invoke(app, ["validate", *map(str, arguments)])


def rows_of(crystals):
    return {
        (crystal.id, name): {key: value for key, value in row.items() if key not in VARIABLE}
        for crystal in crystals
        for name, row in crystal.rows.items()
    }


def test_every_start_is_relaxed_with_the_calculator(dataset, tmp_path):
    done = validate(read_sets([dataset], "test", 2), sources(dataset), SETTINGS, tmp_path / "out")
    pairs = {pair.id: pair for pair in alloys(5)}
    assert len(done) == 2
    for crystal in done:
        pair = pairs[crystal.id]
        assert list(crystal.rows) == ["input", "Rescale", "known"]
        for name, row in crystal.rows.items():
            assert row["converged"]
            assert row["evaluations"] == row["steps"] + 1
            assert row["seconds_relaxing"] > 0 <= row["seconds_predicting"]
            assert row["energy_end"] < row["energy_start"]
            assert row["energy_end"] == pytest.approx(crystal.rows["input"]["energy_end"], abs=2e-3)
            atoms = bulk("Cu", cubic=True)
            atoms.numbers, atoms.calc = pair.numbers, EMT()
            atoms.set_cell(pair.relaxed_cell)
            atoms.positions = pair.relaxed_positions
            assert row["energy_target"] == pytest.approx(atoms.get_potential_energy() / 4)
            if name == "known":
                atoms.positions = pair.positions / 1.04
                assert row["energy_start"] == pytest.approx(atoms.get_potential_energy() / 4)
        assert crystal.rows["known"]["coordinates"] < crystal.rows["input"]["coordinates"]


def test_symmetry_is_kept(tmp_path):
    """A stretched prediction of bcc copper stays cubic; free, it relaxes to fcc, which has a lower energy."""
    atoms = bulk("Cu", "bcc", a=2.9, cubic=True)
    geometry = atoms.positions, atoms.cell.array, atoms.positions, atoms.cell.array
    pair = Pair("bcc", atoms.numbers, np.ones(3, bool), *geometry, split="test")
    write_dataset(tmp_path / "set", DatasetInfo(name="set"), [pair])
    starts = [Source("input", "input", None), Source("stretched", "1", Known(np.diag([1.15, 0.95, 0.95])))]
    sets, gained = read_sets([tmp_path / "set"], "test"), {}
    for symmetry in ("keep", "free"):
        settings = SETTINGS.model_copy(update={"symmetry": symmetry})
        (done,) = validate(sets, starts, settings, tmp_path / "out")
        gained[symmetry] = done.rows["input"]["energy_end"] - done.rows["stretched"]["energy_end"]
    assert abs(gained["keep"]) < 1e-3
    assert gained["free"] > 0.01


def test_failures_are_rows_with_their_reason(dataset, tmp_path, monkeypatch):
    """The calculator fails for platinum, a model lacks nickel, and a crystal has an unknown element."""
    pairs = alloys(7)
    pairs[0] = replace(pairs[0], id="iron", numbers=np.array([26, 26, 13, 13]))
    write_dataset(dataset, DatasetInfo(name="alloys"), pairs)
    evaluate = AsePotential.evaluate

    def failing(self, batch):
        if 78 in batch.numbers:
            raise RuntimeError("the SCF cycle did not converge")
        return evaluate(self, batch)

    monkeypatch.setattr(AsePotential, "evaluate", failing)
    monkeypatch.setattr(AsePotential, "elements", {13, 28, 29, 46, 47, 78, 79})
    lacking = Known()
    lacking.elements = {13, 29, 46, 47, 78, 79}
    starts = [*find_sources([], []), Source("lacking", "1", lacking)]
    done = rows_of(validate(read_sets([dataset], "test"), starts, SETTINGS, tmp_path / "out"))
    assert len(done) == 14
    assert done["iron", "input"]["lacking"] == done["iron", "lacking"]["lacking"] == ["Fe"]
    reason = "the calculator failed: RuntimeError: the SCF cycle did not converge"
    assert done["test-6", "input"]["failure"] == done["test-6", "input"]["target_failure"] == reason
    assert done["test-6", "lacking"]["energy_start"] is None
    assert done["test-2", "lacking"]["failure"].startswith(
        "no prediction: the training data of the model lack"
    )
    assert done["test-2", "lacking"]["steps"] is None
    assert done["test-2", "input"]["failure"] is None


def test_command_writes_tables_and_continues(dataset, tmp_path):
    model, out = save_tiny_model(tmp_path / "tiny"), tmp_path / "out"
    options = ["--data", dataset, "--calculator", EMT_PATH, "--out", out, "--workers", 1, "--n", 3]
    first = run(*options, "--json", "--set", "relaxation.max_steps=40")
    report = json.loads(first.stdout)
    assert first.exit_code == (1 if report["failures"] else 0), first.output
    assert (report["calculator"], report["fmax"], report["max_steps"]) == ("EMT", 0.05, 40)
    (block,) = report["blocks"]
    assert (block["crystals_of_split"], block["chosen"], block["complete"]) == (5, 3, 3)
    # Nothing is left to do; the model is added, without time for its relaxations.
    options += ["--max-steps", 40]
    again = run(*options, "--json", "--hours", 0)
    assert json.loads(again.stdout) == report
    waiting = run(*options, "--model", model, "--hours", 0)
    assert waiting.exit_code == 1
    assert "3 crystals are not finished" in waiting.stdout
    complete = run(*options, "--model", model, "--plots", "--groups")
    names = {"validate.json", "table.md", "per_crystal.parquet", "steps.png", "energies.png", "rows"}
    assert {path.name for path in out.iterdir()} == names
    assert complete.stdout == (out / "table.md").read_text()
    assert "| tiny (or input) " in complete.stdout
    assert "### quarter" in complete.stdout
    table = pq.read_table(out / "per_crystal.parquet")
    assert table["start"].to_pylist() == ["input", "Rescale", "tiny"] * 3
    result = json.loads((out / "validate.json").read_text())
    assert result["models"]["tiny"]["model"] == "tiny"
    assert result["rescale_fitted_on"] == ["alloys"]


def test_wrong_usage(dataset, tmp_path):
    options = ["--data", dataset, "--calculator", EMT_PATH, "--out", tmp_path / "out"]
    for more, message in (
        (["--model", "no-such-model"], "no model 'no-such-model'"),
        (["--calculator", "no_such:X", "--workers", 1], "the module cannot be imported"),
        (["--data", f"{dataset}/../{dataset.name}"], "expected distinct datasets"),
        (
            ["--calculator", "ase.calculators.mixing:LinearCombinationCalculator", "--workers", 1],
            "cannot be made",
        ),
        (["--max-atoms", 3], "no crystal of at most 3 atoms is in the test split"),
        (["--set", "symetry=keep"], "did you mean 'symmetry'?"),
    ):
        result = run(*options, *more)
        assert result.exit_code == 2
        assert message in result.stderr
    with pytest.raises(DatasetError, match="is not a dataset"):
        read_sets([tmp_path], "test")
    model = save_tiny_model(tmp_path / "tiny")
    with pytest.raises(ConfigError, match="distinct names; got tiny, tiny"):
        find_sources([str(model), str(model)], [])


def test_keys_of_rows():
    """Rows of named calculators and of the package's own stay valid; classes of the same name differ."""
    geometry = np.zeros((1, 3)), 3 * np.eye(3)
    pair = Pair("Cu", np.array([29]), np.ones(3, bool), *geometry, *geometry)

    def key(calculator, **options):
        return crystal_key(pair, ValidationSettings(calculator=calculator, options=options), "1")

    assert key("chgnet") == "651439e9baeb41fd720f6c6c"
    assert key("repose.potentials.gpaw:pbe", keep="composition") == "3b21e77fcb075e792a8ec93f"
    keys = [key("a:C"), key("b:C"), key("a.b:C"), key("a:C", x=1), key("a:C", x="1"), key(EMT_PATH)]
    assert len({*keys}) == len(keys)


def test_calculators_of_the_same_name_do_not_share_rows(dataset, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    out, found = tmp_path / "out", []
    for name, scale in (("one", 1), ("two", 2)):
        (tmp_path / f"calc_{name}.py").write_text(CALCULATOR.format(scale))
        options = ["--data", dataset, "--n", 1, "--out", out, "--workers", 1, "--json"]
        result = run(*options, "--calculator", f"calc_{name}:C")
        (block,) = json.loads(result.stdout)["blocks"]
        found.append(block["groups"]["all"]["starts"]["input"]["energy_above_relaxed"]["median"])
        assert ("are replaced" in result.stderr) == (name == "two")
    assert "import_path calc_one:C" in result.stderr
    assert found[1] == pytest.approx(2 * found[0], rel=0.05)
    again = run(*options, "--calculator", "calc_two:C", "--hours", 0)
    assert again.stdout == result.stdout
    assert not again.stderr


CALCULATOR = """
from ase.calculators.emt import EMT
from ase.calculators.mixing import LinearCombinationCalculator


class C(LinearCombinationCalculator):
    def __init__(self):
        super().__init__([EMT()], [{}])
"""


def validate_in_a_group(dataset, out):
    """Validate with two workers, as the leader of a process group."""
    os.setsid()
    # A forked worker would hold the lock of its parent, which a spawned one does not inherit.
    register_after_fork(validate_in_a_group, lambda _: close_files(".claim"))
    validate(read_sets([dataset], "test", 3), sources(), SLOW, out, workers=2)


SLOW = ValidationSettings(calculator=EMT_PATH, relaxation=LbfgsSettings(fmax=0.01))


def test_after_kills_the_rows_are_the_same(dataset, tmp_path):
    """Rows of finished starts survive `kill -9`; the others are computed again."""
    out, sets = tmp_path / "out", read_sets([dataset], "test", 3)
    whole = rows_of(validate(sets, sources(), SLOW, tmp_path / "whole"))

    def lines():
        return sum(path.read_text().count("\n") for path in (out / "rows").glob("ledger-*"))

    for _ in range(2):
        before = lines()
        process = multiprocessing.get_context("fork").Process(target=validate_in_a_group, args=(dataset, out))
        process.start()
        eventually(lambda p=process, n=before: lines() > n or not p.is_alive(), 60)
        with suppress(ProcessLookupError):  # it may have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    assert lines() > 0
    assert rows_of(validate(sets, sources(), SLOW, out)) == whole
