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
from repose.cli.outputs import OutputFiles
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
    told = {(frame.info["calculator"], frame.info["converged"], frame.info["status"]) for frame in frames}
    assert told == {("EMT", True, "relaxed")}
    own = [frame for frame in frames if frame.info["id"] == "metals.extxyz[1]"]
    extra = 2 if lines[1]["start"] == "prediction" else 1
    assert len(own) == lines[1]["steps"] + extra
    assert own[-1].get_potential_energy() == pytest.approx(lines[1]["energy"], abs=1e-6)
    assert np.allclose(own[0].positions, metals[1].positions)


def test_the_table_tells_steps_and_starts(metals, model):
    text = relax("metals.extxyz", "--model", model, *THEN, "--summary", "table.csv", "--max-steps", 50)
    assert "steps" in text
    assert "eV/atom" in text
    assert "4 went on with EMT, " in text
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


def report_rows(file):
    page = Path(file).read_text(encoding="utf-8")
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])["crystals"]


def summary_rows(file):
    with Path(file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_stopped_run_is_continued_in_all_files(metals, model, monkeypatch):
    names = [f"c{k}.vasp" for k in range(6)]
    for k, name in enumerate(names):
        write(name, bulk("Cu", a=3.5 + 0.05 * k), format="vasp")
    arguments = (*names, "--model", model, *THEN, "--threads", 1, "--quiet", "--skip-existing")
    files = ("--summary", "all.csv", "--trajectory", "steps.extxyz", "--report", "all.html")
    monkeypatch.setattr("repose.cli.relax_job.CHUNK_CONTINUED", 2)
    write_output, written = OutputFiles.write, []

    def stop(self, name, *others):
        if name == "c3.vasp" and not written:
            written.append(name)
            raise KeyboardInterrupt
        return write_output(self, name, *others)

    monkeypatch.setattr(OutputFiles, "write", stop)
    CliRunner().invoke(app, ["relax", *map(str, arguments), *files])
    assert sorted(path.name for path in Path("relaxed").iterdir()) == names[:3]
    assert [row["source"] for row in summary_rows("all.csv")] == names[:3]
    for file, end in (("all.csv", "c3.vasp,0,C"), ("steps.extxyz", "1\nLattice"), (".all.html.rows", '{"so')):
        with Path(file).open("a") as stream:  # killed while it wrote
            stream.write(end)
    text = CliRunner().invoke(app, ["relax", *map(str, arguments), *files]).output
    assert text == ""
    assert [row["source"] for row in summary_rows("all.csv")] == names
    assert all(row["energy"] for row in summary_rows("all.csv"))
    assert [row["source"] for row in report_rows("all.html")] == names
    steps = [(frame.info["id"], frame.info["step"]) for frame in read("steps.extxyz", index=":")]
    assert sorted({name for name, _ in steps}) == names
    assert len(steps) == len(set(steps))
    kept = Path("steps.extxyz").read_bytes(), summary_rows("all.csv"), report_rows("all.html")
    relax(*arguments, *files)
    assert (Path("steps.extxyz").read_bytes(), summary_rows("all.csv"), report_rows("all.html")) == kept
    assert not [path.name for path in Path().iterdir() if path.name.startswith(".")]


def test_what_an_earlier_run_lacks_is_said(metals, model):
    write("c.vasp", bulk("Cu", a=3.7), format="vasp")
    write("two.extxyz", [bulk("Cu", a=3.7), bulk("Al", a=3.9)])
    plain = ("c.vasp", "two.extxyz", "--model", model)
    relax(*plain)
    files = ("--summary", "all.csv", "--trajectory", "steps.extxyz", "--report", "all.html")
    continued = (*plain, *THEN, "--skip-existing", *files)
    text = " ".join(relax(*continued).split())
    assert "2 went on with EMT" in text  # extended XYZ tells that they have no energy
    assert "1 more skipped" in text
    assert "c.vasp: skipped, since its output exists, but no energy of it is known" in text
    for place in ("all.csv has no row", "steps.extxyz has no steps", "the report has no row"):
        assert f"c.vasp: skipped, since its output exists, but {place} of it" in text
    assert all(atoms.get_potential_energy() for atoms in read("relaxed/two.extxyz", index=":"))
    relax("c.vasp", "--model", model, "--summary", "all.csv")
    lines = as_json(*continued)  # the summary tells that the first has no energy, too
    assert [line["source"] for line in lines] == ["c.vasp"]
    write("steps.extxyz", metals[:2])
    with pytest.raises(ConfigError, match="cannot be continued"):
        relax(*continued)


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
        ((*THEN, "--trajectory", "relaxed/metals.extxyz"), "is also the file of a relaxed crystal"),
        (("--report", "relaxed/uncertain/metals.extxyz"), "is also the file of a relaxed crystal"),
        (
            ("--summary", "x.html", "--report", "./x.html"),
            "is also the file of --summary; choose another --rep",
        ),
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
