"""`repose relax --then`: relaxations that go on with a potential, on the command line."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from typer.testing import CliRunner

from repose.cli import app
from repose.errors import ConfigError
from support.commands import as_json, relax
from support.tiny import CALIBRATION, save_random_model

THEN = ("--then", "ase.calculators.emt:EMT")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "calibrated"
    save_random_model(path, calibration=CALIBRATION)
    return str(path)


@pytest.fixture
def metals(tmp_path, monkeypatch):
    """A file with metals of EMT, one rattled, and an element that EMT lacks."""
    monkeypatch.chdir(tmp_path)
    crystals = [bulk("Cu", a=3.75), bulk("Au", a=4.2, cubic=True), bulk("Al", a=3.9) * (2, 2, 1), bulk("Fe")]
    crystals[1].rattle(0.05, seed=0)
    write("metals.extxyz", crystals)
    return crystals


def test_json_lines_and_energies_in_the_files(metals, model):
    lines = as_json("metals.extxyz", "--model", model, *THEN, "--fmax", 0.02, "--trajectory", "steps.extxyz")
    assert [line["converged"] for line in lines] == [True, True, True, False]
    assert [line["status"] for line in lines] == ["relaxed"] * 3 + ["suspect"]
    assert lines[3]["energy"] is None
    relaxed = read("relaxed/metals.extxyz", index=":")
    for line, atoms in zip(lines[:3], relaxed, strict=False):
        again = atoms.copy()
        again.calc = EMT()
        assert line["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert line["energy"] == pytest.approx(again.get_potential_energy(), abs=1e-5)
        assert np.abs(again.get_forces()).max() < 0.021
        assert line["start"] in ("prediction", "input")
        assert line["dropped"] == []
    frames = read("steps.extxyz", index=":")
    assert {frame.info["id"] for frame in frames} == {f"metals.extxyz[{k}]" for k in range(3)}
    own = [frame for frame in frames if frame.info["id"] == "metals.extxyz[1]"]
    extra = 2 if lines[1]["start"] == "prediction" else 1
    assert len(own) == lines[1]["steps"] + extra
    assert own[-1].get_potential_energy() == pytest.approx(lines[1]["energy"], abs=1e-6)
    assert np.allclose(own[0].positions, metals[1].positions)


def test_the_table_tells_steps_and_starts(metals, model):
    text = relax("metals.extxyz", "--model", model, *THEN, "--summary", "table.csv", "--max-steps", 50)
    assert "steps" in text
    assert "eV/atom" in text
    assert "4 went on with the potential" in text
    assert "no parameters" not in text  # EMT raises an error of its own
    assert "EMT could not go on: the calculator failed" in text
    with Path("table.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["converged"] for row in rows] == ["True"] * 3 + ["False"]
    assert float(rows[0]["energy"]) == pytest.approx(EMT_COPPER, abs=1e-2)


EMT_COPPER = -0.007  # eV, of the relaxed crystal


@pytest.mark.parametrize("threads", [1, 2])
def test_only_the_uncertain_share_goes_on(metals, calibrated, threads):
    many = [bulk("Cu", a=3.5 + 0.01 * k) for k in range(40)]
    write("many.extxyz", many)
    arguments = ("many.extxyz", "--model", calibrated, "--threads", threads)
    bounds = np.array([line["uncertainty"] for line in as_json(*arguments)])
    outside = [line["outside"] is not None for line in as_json(*arguments)]
    lines = as_json(*arguments, *THEN, "--when-uncertain", "25%")
    worst = set(np.argsort(bounds)[-10:].tolist())
    for k, line in enumerate(lines):
        goes = k in worst or outside[k] or line["status"] == "suspect"
        assert (line["steps"] is not None) == goes
    lines = as_json(*arguments, *THEN, "--when-uncertain", str(np.median(bounds)))
    assert sum(line["steps"] is not None for line in lines) >= 20


def test_interrupted_work_goes_on(metals, model):
    relax("metals.extxyz", "--model", model, *THEN)
    text = relax("metals.extxyz", "--model", model, *THEN, "--skip-existing")
    assert "skipped" in text


def test_standard_output_is_json_alone(metals, model):
    """In another process: CHGNet prints when it is loaded."""
    pytest.importorskip("chgnet")
    command = [sys.executable, "-m", "repose", "relax", "metals.extxyz", "--model", model, "--json"]
    found = subprocess.run([*command, "--then", "chgnet", "--max-steps", "1"], capture_output=True, text=True)
    assert len([json.loads(line) for line in found.stdout.splitlines()]) == 4, found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fmax", 0.1), "--fmax belongs to --then"),
        (("--trajectory", "a.extxyz"), "--trajectory belongs to --then"),
        (("--then", "chgnett"), "Did you mean 'chgnet'"),
        ((*THEN, "--trajectory", "a.traj"), "--trajectory must be a file that ends in .extxyz"),
        ((*THEN, "--when-uncertain", "0.1"), "--when-uncertain needs a calibrated model"),
        ((*THEN, "--fmax", -1), "fmax must be a positive force"),
    ],
)
def test_wrong_usage(metals, model, arguments, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        relax("metals.extxyz", "--model", model, *arguments)
    assert not Path("relaxed").exists()


def test_a_share_needs_crystals_that_can_be_read_twice(metals, calibrated):
    text = Path("metals.extxyz").read_text()
    result = CliRunner().invoke(
        app, ["relax", "-", "--model", calibrated, *THEN, "--when-uncertain", "20%"], input=text
    )
    assert isinstance(result.exception, ConfigError)
    assert "standard input can be read once" in str(result.exception)
