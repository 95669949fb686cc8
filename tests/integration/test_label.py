"""`repose data label`: paths from any calculator, and continuing after processes are killed."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.util import register_after_fork
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from typer.testing import CliRunner

from repose.atomic_write import locked_directory
from repose.cli.data import app
from repose.crystal.frame import Frame
from repose.data.candidates import (
    Candidate,
    CandidatesInfo,
    read_candidates,
    read_info,
    write_candidates,
)
from repose.data.compact import compact
from repose.data.dataset import Dataset
from repose.data.labelling.bonds import bonds_kept
from repose.data.labelling.failures import read_failures
from repose.data.labelling.label import label, to_label
from repose.data.labelling.settings import LabelSettings
from repose.data.pairing import Refusal
from repose.data.splits import GroupSplit
from repose.errors import ConfigError, DatasetError
from repose.potentials.batched_lbfgs import RelaxationRun, Start
from repose.potentials.settings import LbfgsSettings
from support.crystals import rock_salt
from support.processes import children, close_files, eventually

METALS = ("Al", "Cu", "Ni", "Ag", "Au", "Pd", "Pt")
EMT_PATH = "ase.calculators.emt:EMT"
# One that is slow enough to be killed while it runs, and one that ends its process.
CALCULATORS = """
import os, time
from ase.calculators.emt import EMT

class Slow(EMT):
    def calculate(self, *arguments, **options):
        time.sleep(0.012)
        super().calculate(*arguments, **options)

class Crashing(EMT):
    def calculate(self, atoms, *arguments, **options):
        if "Pt" in atoms.symbols:
            os._exit(9)
        super().calculate(atoms, *arguments, **options)
"""


def alloys(n: int, seed: int = 0) -> list[Candidate]:
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        atoms = bulk("Cu", "fcc", a=rng.uniform(3.8, 4.2), cubic=True)
        atoms.symbols[:2], atoms.symbols[2:] = METALS[k % 7], METALS[k // 7 % 7]
        atoms.positions += rng.normal(0, 0.05, (4, 3))
        made.append(Candidate.from_atoms(f"alloy-{k}", atoms, {"prototype": "fcc"}))
    return made


@pytest.fixture
def candidates(tmp_path) -> Path:
    write_candidates(tmp_path / "candidates", CandidatesInfo(preset="alloys", seed=0), alloys(12))
    return tmp_path / "candidates"


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch):
    """Fork workers, which is faster; commands in a separate process spawn them."""
    monkeypatch.setattr("repose.data.labelling.workers.START_METHOD", "fork")


def settings(**changes) -> LabelSettings:
    return LabelSettings(calculator=EMT_PATH, **changes)


def run(*arguments):
    return CliRunner().invoke(app, ["label", *map(str, arguments)])


def contents(directory: Path) -> dict:
    return {
        pair.id: (pair.split, pair.relaxed_cell.tolist(), pair.relaxed_positions.tolist(), len(pair.path))
        for pair in Dataset(directory)
    }


def test_candidates_round_trip(candidates):
    read = list(read_candidates(candidates))
    assert read_info(candidates).count == len(read) == 12
    for before, after in zip(alloys(12), read, strict=True):
        assert (before.id, before.tags) == (after.id, after.tags)
        assert np.array_equal(before.numbers, after.numbers)
        assert np.allclose(before.positions, after.positions, atol=1e-7)
        assert np.allclose(before.cell, after.cell, atol=1e-7)


def test_invalid_candidates_do_not_affect_others(tmp_path):
    good, bad = alloys(2)
    on_top = bad.to_atoms()
    on_top.positions[1] = on_top.positions[0]
    write(tmp_path / "x.extxyz", [good.to_atoms(), on_top, good.to_atoms()])
    first, second, third = read_candidates(tmp_path / "x.extxyz")
    assert isinstance(second, Refusal)
    assert "atoms 0 and 1" in second.reason
    assert (first.id, third.id) == ("x.extxyz#0", "x.extxyz#2")


def test_whole_paths_with_energies_forces_and_stresses(candidates, tmp_path):
    out = tmp_path / "set"
    result = run(candidates, "--out", out, "--calculator", EMT_PATH, "--workers", 2, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["labelled"], report["failed"], report["left"]) == (12, 0, 0)
    dataset = Dataset(out)
    assert dataset.info.calculator == "EMT, relaxed to 0.05 eV/A"
    assert dataset.info.source == "alloys candidates, seed 0"
    assert not (tmp_path / "set.labelling").exists()
    pairs = list(dataset)
    assert [pair.id for pair in pairs] == [f"alloy-{k}" for k in range(12)]
    for pair in pairs:
        assert pair.split == GroupSplit()(pair)
        assert len(pair.path) == int(pair.tags["n_steps"]) + 1
        for frame in pair.path:
            atoms = bulk("Cu", cubic=True)
            atoms.numbers = pair.numbers
            atoms.set_cell(frame.cell)
            atoms.positions = frame.positions
            atoms.calc = EMT()
            assert atoms.get_potential_energy() == pytest.approx(frame.energy, abs=1e-9)
            assert np.allclose(atoms.get_forces(), frame.forces, atol=1e-9)
            assert np.allclose(atoms.get_stress(voigt=False), frame.stress, atol=1e-9)
        assert np.linalg.norm(pair.path[-1].forces, axis=1).max() <= 0.05
        assert np.array_equal(pair.path[-1].positions, pair.relaxed_positions)


def test_more_candidates_are_added(candidates, tmp_path):
    out = tmp_path / "set"
    label([candidates], out, settings(), GroupSplit())
    before = contents(out)
    write_candidates(candidates, CandidatesInfo(preset="alloys"), alloys(16))
    dataset, state = label([candidates], out, settings(), GroupSplit())
    assert (state.labelled, state.left, len(dataset)) == (16, 0, 16)
    after = contents(out)
    assert {name: after[name] for name in before} == before
    # Other labels do not go into the same dataset.
    with pytest.raises(ConfigError, match=r"has labels of 'EMT, relaxed to 0.05 eV/A'"):
        label([candidates], out, settings(relaxation=LbfgsSettings(fmax=0.1)), GroupSplit())


def test_failures_are_recorded_with_their_reason(tmp_path):
    fine, slow, strange = alloys(3)
    far = slow.to_atoms()
    far.positions += np.random.default_rng(0).normal(0, 0.3, (4, 3))
    iron = strange.to_atoms()
    iron.symbols[:] = "Fe"
    write_candidates(
        tmp_path / "c",
        CandidatesInfo(),
        [fine, Candidate.from_atoms("far", far, {"prototype": "fcc"}), Candidate.from_atoms("iron", iron)],
    )
    out = tmp_path / "set"
    result = run(tmp_path / "c", "--out", out, "--calculator", EMT_PATH, "--workers", 1,
                 "--set", "relaxation.max_steps=5")  # fmt: skip
    assert result.exit_code == 1
    assert "failed: 1 not converged" in result.stdout
    failures = {failure.id: failure for failure in read_failures(out)}
    assert failures["far"].kind == "not converged"
    assert failures["far"].steps == 5
    assert np.array(failures["far"].last_positions).shape == (4, 3)
    assert failures["far"].tags == {"prototype": "fcc"}
    assert failures["iron"].reason.startswith("the calculator failed: ")
    assert [pair.id for pair in Dataset(out)] == [fine.id]
    # They are not tried again.
    again = run(tmp_path / "c", "--out", out, "--calculator", EMT_PATH, "--json",
                "--set", "relaxation.max_steps=5")  # fmt: skip
    assert json.loads(again.stdout)["failed"] == 2


def test_without_labels_no_dataset_is_written(tmp_path):
    (candidate,) = alloys(1)
    write_candidates(tmp_path / "c", CandidatesInfo(), [candidate])
    with pytest.raises(DatasetError, match=r"no crystal is labelled.*not converged"):
        label(
            [tmp_path / "c"], tmp_path / "set", settings(relaxation=LbfgsSettings(max_steps=1)), GroupSplit()
        )
    assert not (tmp_path / "set").exists()


def test_a_missing_calculator_is_reported_once(candidates, tmp_path):
    result = run(candidates, "--out", tmp_path / "set", "--calculator", "no_such:X", "--workers", 2)
    assert result.exit_code == 2
    assert "calculator no_such:X: the module cannot be imported" in result.stderr


def test_frames_are_evenly_spaced(candidates, tmp_path):
    dataset, _ = label([candidates], tmp_path / "set", settings(frames=4), GroupSplit())
    for pair in dataset:
        assert len(pair.path) == 4
        assert np.allclose(pair.path[0].positions, pair.positions)
        assert np.array_equal(pair.path[-1].positions, pair.relaxed_positions)


def test_a_crystal_with_other_bonds_fails():
    salt = rock_salt()
    (candidate,) = [
        Candidate(
            "salt", salt.numbers.numpy(), salt.pbc[0].numpy(), salt.positions.numpy(), salt.cells[0].numpy()
        )
    ]
    run = RelaxationRun(Start(candidate, salt), LbfgsSettings())
    broken = np.diag([3.0, 3.0, 12.0])
    steps = [(candidate.positions, candidate.cell), (np.array([[0.0, 0, 0], [0, 0, 6]]), broken)]
    run.frames = [Frame(r, c, 0.0, np.zeros((2, 3)), np.zeros((3, 3))) for r, c in steps]
    made = to_label(run, settings(bonds_kept=0.5))
    assert made.kind == "another crystal"
    assert made.last_cell == broken.tolist()


def test_bonds_kept_counts_bonds():
    salt = rock_salt()
    numbers, pbc = salt.numbers.numpy(), salt.pbc[0].numpy()
    positions, cell = salt.positions.numpy(), salt.cells[0].numpy()
    assert bonds_kept(numbers, pbc, (positions, cell), (1.2 * positions, 1.2 * cell)) == 1.0
    # The oxygen moves to the next cell: the same bonds, with other shifts, since positions are continuous.
    assert bonds_kept(numbers, pbc, (positions, cell), (positions + np.array([[0, 0, 0], cell[0]]), cell)) < 1
    # Towards the tetrahedral site four of its six bonds, and some new ones.
    moved = positions * [[1.0], [0.75]]
    assert 0 < bonds_kept(numbers, pbc, (positions, cell), (moved, cell)) < 1


def command(candidates, out, calculator, *more):
    return [
        sys.executable, "-m", "repose", "data", "label", str(candidates), "--out", str(out),
        "--calculator", calculator, "--workers", "2", "--quiet", *more,
    ]  # fmt: skip


def label_in_a_group(candidates: Path, out: Path) -> None:
    """Label with two workers, as the leader of a process group."""
    os.setsid()
    # A forked worker would hold the lock of its parent, which a spawned one does not inherit.
    register_after_fork(label_in_a_group, lambda _: close_files(".claim"))
    label([candidates], out, LabelSettings(calculator="calculators:Slow"), GroupSplit(), workers=2)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_after_ten_kills_the_dataset_is_the_same(tmp_path, monkeypatch):
    """Kill the whole group, the parent alone, or a worker alone: no finished crystal is lost or changed."""
    (tmp_path / "calculators.py").write_text(CALCULATORS)
    monkeypatch.syspath_prepend(tmp_path)
    write_candidates(tmp_path / "c", CandidatesInfo(), alloys(30))
    slow = settings().model_copy(update={"calculator": "calculators:Slow"})
    label([tmp_path / "c"], tmp_path / "uninterrupted", slow, GroupSplit())
    working = tmp_path / "set.labelling"
    dice = random.Random(0)
    finished = [0]
    kills = 0

    def lines() -> int:
        with suppress(FileNotFoundError):  # already merged into the dataset
            return sum(path.read_text().count("\n") for path in working.glob("ledger-*"))
        return 0

    for kind in [*("group", "parent", "worker") * 3, "group"]:
        process = multiprocessing.get_context("fork").Process(
            target=label_in_a_group, args=(tmp_path / "c", tmp_path / "set")
        )
        process.start()
        # Wait for the first finished crystal, since starting takes long on a slow machine.
        eventually(lambda p=process: lines() > finished[-1] or not p.is_alive(), 90)
        time.sleep(dice.uniform(0.0, 0.3))
        if not process.is_alive():
            break
        kills += 1
        if kind == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif kind == "parent":
            process.kill()
        else:
            # There is none if all crystals are finished.
            for child in children(process.pid)[:1]:
                os.kill(child, signal.SIGKILL)
            time.sleep(dice.uniform(0.0, 0.3))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == 0:
            break
        finished.append(lines())
    assert kills > 5
    assert finished == sorted(finished)
    assert finished[1] < 30
    assert finished[-1] > 0
    label([tmp_path / "c"], tmp_path / "set", slow, GroupSplit(), workers=2)
    assert contents(tmp_path / "set") == contents(tmp_path / "uninterrupted")
    assert [p.id for p in Dataset(tmp_path / "set")] == [p.id for p in Dataset(tmp_path / "uninterrupted")]


def test_a_crystal_that_kills_its_process_fails_and_the_others_are_labelled(tmp_path):
    (tmp_path / "calculators.py").write_text(CALCULATORS)
    write_candidates(tmp_path / "c", CandidatesInfo(), alloys(8))  # alloy-6 is the first with platinum
    out = tmp_path / "set"
    result = subprocess.run(
        command(tmp_path / "c", out, "calculators:Crashing"),
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    (failure,) = read_failures(out)
    assert failure.id == "alloy-6"
    assert failure.reason == "the process died: 2 times (exit status 9) while computing this crystal."
    assert len(Dataset(out)) == 7


def test_hours_zero_writes_the_dataset(candidates, tmp_path):
    out = tmp_path / "set"
    with pytest.raises(DatasetError, match="no crystal is labelled"):
        label([candidates], out, settings(), GroupSplit(), hours=0)
    dataset, state = label([candidates], out, settings(), GroupSplit(), hours=1)
    assert (len(dataset), state.left) == (12, 0)


def test_a_crystal_beyond_the_time_limit_fails(candidates, tmp_path):
    result = run(candidates, "--out", tmp_path / "set", "--calculator", EMT_PATH, "--minutes", "0")
    assert result.exit_code == 2
    assert "too slow: not converged after 1 steps" in result.output


def test_a_folder_is_locked(candidates, tmp_path):
    with locked_directory(tmp_path / "set.labelling", "labelling"):
        result = run(candidates, "--out", tmp_path / "set", "--calculator", EMT_PATH)
    assert result.exit_code == 2
    assert "another process is labelling in" in result.stderr
    assert not (tmp_path / "set").exists()


def test_compact_datasets_are_small_and_the_same(candidates, tmp_path):
    dataset, _ = label([candidates], tmp_path / "set", settings(), GroupSplit(), licence="MIT")
    small = compact([dataset.directory, dataset.directory], tmp_path / "small", frames=3, share=0.5)
    assert small.info.calculator == dataset.info.calculator
    assert small.info.licence == "MIT"
    kept = 0
    for before, after in zip(dataset, small, strict=True):
        assert (before.id, before.split, before.tags) == (after.id, after.split, after.tags)
        assert np.abs(before.relaxed_positions - after.relaxed_positions).max() < 1e-6
        if after.path:
            kept += 1
            assert len(after.path) == 3
            assert after.path[-1].energy == before.path[-1].energy
            assert np.abs(after.path[0].forces - before.path[0].forces).max() < 1e-5
    assert 0 < kept < 12
    size = sum(part.stat().st_size for part in small.parts)
    assert size < 0.5 * sum(part.stat().st_size for part in dataset.parts)
    other, _ = label(
        [candidates], tmp_path / "other", settings(relaxation=LbfgsSettings(fmax=0.1)), GroupSplit()
    )
    with pytest.raises(DatasetError, match="labels come from one calculator"):
        compact([dataset.directory, other.directory], tmp_path / "mixed")
