"""`repose data` from the command line."""

import csv
import json
import subprocess
import sys

import pytest
from ase.io import read, write
from typer.testing import CliRunner

from repose.cli.data import app
from repose.data.dataset import Dataset
from support.paths import PATHS


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def dataset(tmp_path):
    out = tmp_path / "set"
    assert (
        run("import", PATHS, "--out", out, "--split-by", "prototype", "--fractions", "0.5,0.2,0.3").exit_code
        == 0
    )
    return out


def test_import_writes_a_described_dataset(tmp_path):
    out = tmp_path / "set"
    result = run("import", PATHS, "--out", out, "--licence", "MIT", "--calculator", "CHGNet 0.3.0", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    info = Dataset(out).info
    assert (info.name, info.licence, info.calculator, info.source) == (
        "set",
        "MIT",
        "CHGNet 0.3.0",
        "paths.extxyz",
    )
    assert "by chemical-system, 80/10/10%" in info.splits
    assert report["counts"] == info.counts
    assert sum(info.counts.values()) == 6
    # Two crystals are Mg-Mn-O.
    assert report["groups"] == {"of": "chemical-system", "count": 5, "in_several_splits": []}
    assert report["refused"] == []
    assert not (out / "refused.csv").exists()


def test_refused_crystals_are_named_and_the_others_imported(tmp_path):
    frames = read(PATHS, ":")
    for atoms in frames:
        if atoms.info["id"] == "subst-042-00124":
            atoms.positions[1] = atoms.positions[0]
    write(tmp_path / "x.extxyz", frames, format="extxyz")
    result = run("import", tmp_path / "x.extxyz", "--out", tmp_path / "set")
    assert result.exit_code == 1
    assert "refused: subst-042-00124: atoms 0 and 1" in result.stderr
    assert len(list(Dataset(tmp_path / "set"))) == 5
    with (tmp_path / "set" / "refused.csv").open(newline="") as handle:
        (row,) = csv.DictReader(handle)
    assert row["id"] == "subst-042-00124"
    # A new split keeps the list of refused crystals.
    assert run("split", tmp_path / "set").exit_code == 0
    assert (tmp_path / "set" / "refused.csv").exists()


def test_nothing_but_refusals_makes_no_dataset(tmp_path):
    (tmp_path / "x.extxyz").write_text("junk\n")
    result = run("import", tmp_path / "x.extxyz", "--out", tmp_path / "set")
    assert result.exit_code == 1
    assert "x.extxyz" in result.stderr
    assert "no crystal" in result.stderr
    assert not (tmp_path / "set").exists()


def test_cif_pairs_keep_the_split_of_their_tables(tmp_path):
    first, last = read(PATHS, "0"), read(PATHS, "8")
    assert first.info["id"] == last.info["id"]
    (tmp_path / "pairs" / "CIF").mkdir(parents=True)
    for split in ("train", "test"):
        write(tmp_path / "pairs" / "CIF" / f"{split}-1_unrelaxed.cif", first, format="cif")
        write(tmp_path / "pairs" / "CIF" / f"{split}-1_relaxed.cif", last, format="cif")
        (tmp_path / "pairs" / f"{split}.csv").write_text(f"atoms_id\n{split}-1\n")
    result = run("import", tmp_path / "pairs", "--out", tmp_path / "set", "--json")
    assert result.exit_code == 0, result.output
    dataset = Dataset(tmp_path / "set")
    assert {p.id: p.split for p in dataset} == {"train-1": "train", "test-1": "test"}
    assert dataset.info.splits.startswith("as the source gives them")
    # The same chemical system is in both splits.
    assert json.loads(result.stdout)["groups"]["in_several_splits"] == ["Mn-O-Sr"]


def test_inspect_counts_what_is_there(dataset):
    summary = json.loads(run("inspect", dataset, "--json").stdout)
    rows = summary["splits"].values()
    assert sum(row["crystals"] for row in rows) == 6
    assert sum(row["paths"] for row in rows) == 6
    assert sum(row["frames"] for row in rows) == PATHS.read_text().count("Lattice=") == 41
    assert summary["elements"]["O"] == summary["elements"]["Mn"] == 3
    # The largest volume change, computed from the frames.
    frames = [a for a in read(PATHS, ":") if a.info["id"] == "bulk-031-00159"]
    swelling = frames[-1].get_volume() / frames[0].get_volume() - 1
    assert summary["volume_change"]["1"] == pytest.approx(swelling)
    assert summary["tags"]["severity"]["counts"] == {"severe": 3, "substituted": 2, "mild": 1}
    assert summary["suspicious"] == []
    text = run("inspect", dataset).stdout
    assert "tag severity: severe 3" in text


def test_inspect_warns_about_suspicious_pairs(tmp_path):
    frames = read(PATHS, ":9")
    frames[-1].set_cell(frames[-1].cell * 1.4, scale_atoms=True)
    frames[-1].positions[0] += [1.2, 0.9, 4.5]
    write(tmp_path / "x.extxyz", frames, format="extxyz")
    assert run("import", tmp_path / "x.extxyz", "--out", tmp_path / "set").exit_code == 0
    result = run("inspect", tmp_path / "set", "--quiet")
    assert result.exit_code == 0
    volume, displacement = result.stdout.splitlines()
    assert volume.startswith("suspicious: xmno-531-00125: relaxed over unrelaxed volume is 2.")
    assert "an atom moves by 4.1" in displacement


def test_split_keeps_groups_together(dataset):
    before = {p.id: p.relaxed_positions.tolist() for p in Dataset(dataset)}
    result = run("split", dataset, "--by", "severity", "--fractions", "0.4,0.3,0.3", "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "checked: 0 of 3 groups by severity in several splits" in result.stdout
    after = list(Dataset(dataset))
    assert {p.id: p.relaxed_positions.tolist() for p in after} == before
    assert len({(p.tags["severity"], p.split) for p in after}) == 3
    assert "'3:severity:GROUP'" in Dataset(dataset).info.splits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["split", "SET", "--by", "spacegroup"], "no tag 'spacegroup'"),
        (["split", "SET", "--fractions", "0.8,0.2"], "three numbers"),
        (["split", "SET", "--fractions", "0.8,0.2,0.2"], "add up to 1"),
        (["split", "SET", "--by", "source"], "at import"),
        (["inspect", "MISSING"], "not a dataset"),
        (["import", PATHS, "--out", "SET", "--format", "xyz"], "format must be"),
        (["import", PATHS, "--out", "OCCUPIED"], "not a dataset"),
        (["import", "MISSING", "--out", "SET"], "does not exist"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_changes_nothing(dataset, tmp_path, arguments, message):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").write_text("years")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {"SET": dataset, "MISSING": tmp_path / "missing", "OCCUPIED": tmp_path / "occupied"}
    result = run(*(names.get(a, a) for a in arguments))
    assert result.exit_code == 2
    # typer prints its messages in boxes.
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_help_of_every_command_has_an_example():
    for command in ("import", "inspect", "split"):
        assert f"Example: repose data {command}" in run(command, "--help").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["label", ".", "--out", "new", "--max-steps", 12], "use --set relaxation.max_steps=VALUE"),
        (["label", ".", "--out", "new", "--fix-cell"], "use --set relaxation.fixed_cell=VALUE"),
        (["label", ".", "--out", "new", "--option=a=b"], "use --set options.NAME=VALUE"),
        (["generate", "--preset", "bulk", "--n", 1, "--out", "new", "--rattle", 0.1], "--set rattle=VALUE"),
        (["label", ".", "--out", "new", "--set", "frame=8"], "did you mean 'frames'"),
        (["label", ".", "--out", "new", "--set", "relaxation.max_stops=8"], "did you mean 'max_steps'"),
        (["label", ".", "--out", "new", "--set", "frames=many"], "'frames': Input should be a valid integer"),
        (
            ["label", ".", "--out", "new", "--set", "frames=8", "--set", "frames.x=1"],
            "'frames' is the value 8",
        ),
        (["generate", "--preset", "bulk", "--n", 1, "--out", "new", "--config", "no.json"], "cannot be read"),
    ],
)
def test_settings_are_checked(repose, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = repose("data", *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_options_replace_set_and_set_replaces_the_file(repose, tmp_path):
    (tmp_path / "settings.json").write_text('{"elements": ["Li", "O"], "max_atoms": 4, "strain": 0.01}')
    common = ["data", "generate", "--preset", "bulk", "--n", 2, "--config", tmp_path / "settings.json", "-q"]
    out = tmp_path / "new"
    assert repose(*common, "--out", out, "--set", "elements=Na,Cl", "--max-atoms", 2)[0] == 0
    info = json.loads((out / "candidates.json").read_text())
    assert info["settings"] == {"elements": ["Na", "Cl"], "max_atoms": 2, "strain": 0.01}


@pytest.mark.parametrize("command", ["data label", "data generate", "train", "bench speed", "bench profile"])
def test_help_lists_the_settings_without_torch(command):
    code = (
        f"import sys; sys.argv = ['repose', *{command.split()!r}, '--help']\n"
        "import repose.cli\n"
        "try: repose.cli.main()\n"
        "except SystemExit:\n"
        "    print([m for m in ('torch', 'numpy', 'ase') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
    assert "Settings, for --set and --config" in done.stdout
