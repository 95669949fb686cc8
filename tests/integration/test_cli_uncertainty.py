"""Uncertainty on the command line: `repose relax`, `repose calibrate` and `repose models`."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

import repose
from repose.cli import main
from repose.cli.relax_table import shown_bound
from repose.crystal.batch import CrystalBatch
from repose.data.dataset import DatasetInfo, write_dataset
from repose.evaluation.metrics import coordinate_error
from repose.models.checkpoint import load_config, load_model, save_model
from repose.models.prediction import Geometry
from repose.training.samples import crystal, target_of
from support.crystals import random_pairs
from support.tiny import CALIBRATION, random_relaxer, save_random_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a folder of three models: calibrated, not calibrated, and without an uncertainty head."""
    folder = tmp_path_factory.mktemp("models")
    save_random_model(folder / "calibrated", calibration=CALIBRATION)
    save_random_model(folder / "fresh")
    save_random_model(folder / "silent", uncertainty_head=False)
    return folder


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run a command line in an empty folder; return exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["repose", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capfd.readouterr()

    return command


@pytest.fixture
def oxides(run):
    """Return a file with a crystal like the training data and one that is out of distribution."""
    path = Path("two.extxyz")
    write(path, [bulk("CaO", "rocksalt", a=4.6), bulk("MgO", "rocksalt", a=4.3)])
    return path


def dataset(directory, train=20, val=19, test=0, change=lambda pair: pair):
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    named = (
        replace(pair, split=split) for pair, split in zip(random_pairs(len(splits)), splits, strict=True)
    )
    write_dataset(directory, DatasetInfo(name="mine"), map(change, named))
    return directory


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


# repose relax


def test_the_table_has_the_bound_and_marks_what_is_outside(run, models, oxides):
    status, out, err = run("relax", oxides, "--model", models / "calibrated", "--out", "relaxed")
    assert status == 0, err
    known, strange = repose.load(models / "calibrated", "cpu").relax(read(oxides, index=":"))
    rows = [line for line in out.splitlines() if "relaxed" in line and oxides.name in line and "[" in line]
    (column,) = (k for k, head in enumerate(re.split("[┃|]", out.splitlines()[1])) if "± Å" in head)
    cells = [re.split("[│|]", row)[column].strip() for row in rows]
    assert cells[1].startswith("! ")
    for cell, result in zip((cells[0], cells[1][2:]), (known, strange), strict=True):
        assert 0 <= float(cell) - result.uncertainty < 0.01
    (remark,) = (line for line in out.splitlines() if line.startswith("!"))
    assert remark.startswith(f"! {oxides}, crystal 1: out of distribution")
    assert strange.outside == "no training crystal contains O-Mg together"
    assert strange.outside in remark
    assert "1 out of distribution" in out


def test_json_has_the_bound_and_why_a_crystal_is_outside(run, models, oxides):
    status, out, _ = run("relax", oxides, "--model", models / "calibrated", "--json", "--quiet")
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    results = repose.load(models / "calibrated", "cpu").relax(read(oxides, index=":"))
    assert [line["outside"] for line in lines] == [None, "no training crystal contains O-Mg together"]
    assert {line["status"] for line in lines} == {"relaxed"}
    assert [line["uncertainty"] for line in lines] == pytest.approx([r.uncertainty for r in results])
    strains = [result.strain_uncertainty for result in results]
    assert [line["strain_uncertainty"] for line in lines] == pytest.approx(strains)
    assert all(line["uncertainty"] > 0 and line["strain_uncertainty"] > 0 for line in lines)


@pytest.mark.parametrize("name", ["fresh", "silent"])
def test_without_calibration_there_is_no_bound(run, models, oxides, name):
    _, out, _ = run("relax", oxides, "--model", models / name, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["uncertainty"], line["outside"]) for line in lines] == [(None, None)] * 2
    _, out, _ = run("relax", oxides, "--model", models / name)
    assert "± Å" in out
    assert "!" not in out


@pytest.mark.parametrize(
    ("bound", "outside", "shown"),
    [
        (0.12, None, "0.12"),
        (0.07, None, "0.07"),
        (0.121, None, "0.13"),  # a bound is rounded up
        (1e-5, None, "0.01"),
        (2.5, "far", "! 2.50"),
        (None, None, "-"),
        (None, "far", "! -"),
    ],
)
def test_how_a_bound_is_shown(bound, outside, shown):
    assert shown_bound(bound, outside) == shown


def test_what_cannot_be_bounded_has_no_bound(run, tmp_path):
    """DeepRelax predicts errors of bonds; an atom without neighbours within the cutoff has none."""
    model = save_random_model(tmp_path / "m", "deeprelax", CALIBRATION)
    write("lonely.extxyz", Atoms("Cs", cell=[8.5, 8.5, 8.5], pbc=True))
    _, out, _ = run("relax", "lonely.extxyz", "--model", model, "--json")
    line = json.loads(out)
    assert (line["status"] in ("relaxed", "suspect"), line["uncertainty"]) == (True, None)
    assert "repose_uncertainty" not in Path("relaxed/lonely.extxyz").read_text()


def test_extended_xyz_carries_the_bound(run, models, oxides):
    _, out, _ = run("relax", oxides, "--model", models / "calibrated", "--out", "first", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    frames = read("first/two.extxyz", index=":")
    for name in ("uncertainty", "outside"):
        assert [atoms.info.get(f"repose_{name}") for atoms in frames] == [line[name] for line in lines]
    # A second relaxation by a model without bounds removes them.
    run("relax", "first/two.extxyz", "--model", models / "fresh", "--out", "second")
    frames = read("second/two.extxyz", index=":")
    assert [atoms.info for atoms in frames] == [{"repose_index": 0}, {"repose_index": 1}]


# repose calibrate


def test_calibrated_in_place_it_covers_what_it_was_calibrated_on(run, models, tmp_path):
    model, data = save_random_model(tmp_path / "m"), dataset(tmp_path / "data")
    before = repose.load(model, "cpu")
    status, out, err = run("calibrate", model, "--data", data)
    assert status == 0, err
    assert "calibrated on 19 crystals of mine" in out
    calibration = load_config(model).calibration
    for level, factor in calibration.factors.items():
        assert re.search(rf"coordinates\W+{level}\W+{factor:.3g}", out)
    assert (calibration.on, calibration.crystals, list(calibration.factors)) == ("mine", 19, [50, 80, 90, 95])

    held_out = random_pairs(39)[20:]
    batch = CrystalBatch.collate([crystal(p.numbers, p.positions, p.cell, p.pbc) for p in held_out])
    target = CrystalBatch.collate(list(map(target_of, held_out)))
    after = repose.load(model, "cpu").relax_batch(batch)
    old = before.predict(batch)
    torch.testing.assert_close(after.geometry.positions, old.positions)
    errors = coordinate_error(
        after.geometry, Geometry(target.positions, target.cells), batch.positions, target.system_index
    )
    for level, rank in ((50, 10), (80, 16), (90, 18), (95, 19)):  # ceil(20 level)
        assert int((errors <= after.bounds[level] * (1 + 1e-4)).sum()) == rank


def test_out_leaves_the_old_model_as_it_is(run, models, tmp_path):
    data, before = dataset(tmp_path / "data", test=10), contents(models / "fresh")
    arguments = ["calibrate", models / "fresh", "--data", data, "--split", "test", "--out", "new", "--json"]
    status, out, _ = run(*arguments, "--quiet")
    assert status == 0
    line = json.loads(out)
    assert (line["model"], line["crystals"], line["on"], line["left_out"]) == ("new", 10, "mine", 0)
    assert list(line["factors"]) == ["50", "80", "90"]  # ten are too few for 95 %
    assert {"atoms", "bonds", "strains"} <= line.keys()
    assert contents(models / "fresh") == before
    assert load_config(Path("new")).calibration.factors[90] == line["factors"]["90"]
    assert run(*arguments)[0] == 0  # a model may be replaced


def test_a_network_may_be_applied_another_number_of_times(run, models, tmp_path):
    """Prediction and bounds are those of the new number of passes; weights are unchanged."""
    data, model = (
        dataset(tmp_path / "data"),
        save_random_model(tmp_path / "m", "reposenet", calibration=CALIBRATION),
    )
    status, _, err = run("calibrate", model, "--data", data, "--out", "thrice", "--passes", 3)
    assert status == 0, err
    once, thrice = load_model(model), load_model(Path("thrice"))
    assert (once[0].passes, thrice[0].passes) == (1, 3)
    assert thrice[1].calibration.factors != once[1].calibration.factors
    for name, value in once[0].state_dict().items():
        if "out_of_distribution." not in name:
            torch.testing.assert_close(thrice[0].state_dict()[name], value, rtol=0, atol=0)
    before = contents(models / "fresh")
    status, _, err = run("calibrate", models / "fresh", "--data", data, "--passes", 2)
    assert (status, contents(models / "fresh")) == (2, before)
    assert "family 'e3relax' has no setting 'passes'" in err


def test_a_model_without_an_uncertainty_head(run, models, tmp_path):
    """The command in the message adds the head, keeps all predictions, and calibrates."""
    data = dataset(tmp_path / "data", train=4, val=10)
    status, out, err = run("calibrate", models / "silent", "--data", data, "--out", "new")
    assert (status, out, Path("new").exists()) == (2, "", False)
    assert '{"model": {"uncertainty_head": true}, "trunk_rate": 0}' in err
    command = re.search(r"repose (train .*?) \(or", err)[1].replace("DIR", str(data)).replace("RUN", "run")
    short = ["--set", "max_epochs=1", "--set", "sampling.epoch_steps=1", "--device", "cpu", "--quiet"]
    assert run(*shlex.split(command), *short)[0] == 0
    batch = CrystalBatch.collate([crystal(p.numbers, p.positions, p.cell, p.pbc) for p in random_pairs(3)])
    old, new = (repose.load(model, "cpu").relax_batch(batch) for model in (models / "silent", "run"))
    torch.testing.assert_close(new.geometry.positions, old.geometry.positions)
    assert (old.bounds, bool((new.bounds[90] > 0).all())) == ({}, True)
    model = save_random_model(tmp_path / "published", "deeprelax", bond_uncertainty=False)
    status, _, err = run("calibrate", model, "--data", data)
    assert (status, "bond_uncertainty=true" in err) == (2, True)


def test_models_that_ship_stay_as_they_are(run, models, tmp_path, monkeypatch):
    data, shipped = dataset(tmp_path / "data"), save_random_model(tmp_path / "package" / "m")
    monkeypatch.setattr("repose.models.checkpoint.shipped_models", lambda: {"m": shipped})
    before = contents(shipped)
    for arguments in (["m"], [shipped], [models / "fresh", "--out", shipped]):
        status, _, err = run("calibrate", *arguments, "--data", data)
        assert (status, "a shipped model" in err, "--out DIR" in err) == (2, True, True)
    assert contents(shipped) == before
    assert run("calibrate", "m", "--data", data, "--out", "mine", "--quiet") == (0, "", "")
    _, out, _ = run("models", "--json")
    assert json.loads(out)["calibration"] is None
    monkeypatch.setattr("repose.models.checkpoint.shipped_models", lambda: {"m": Path("mine")})
    _, out, _ = run("models", "--json")
    assert json.loads(out)["calibration"] == {"crystals": 19, "on": "mine"}
    assert re.search(r"calibrated on.*19", run("models")[1].replace("\n", " "))


def test_crystals_that_the_model_refuses_are_left_out(run, tmp_path):
    relaxer = random_relaxer("e3relax")
    config = relaxer.config.model_copy(update={"elements": [8, 12, 13, 22, 25]})  # no barium
    save_model(tmp_path / "m", relaxer.network, config, "# random\n")
    data = dataset(tmp_path / "data", val=40)
    barium = sum(56 in pair.numbers for pair in random_pairs(60)[20:])
    assert 0 < barium < 25
    _, out, _ = run("calibrate", tmp_path / "m", "--data", data, "--json")
    line = json.loads(out)
    assert (line["crystals"], line["left_out"]) == (40 - barium, barium)
    assert "Ba" not in load_config(tmp_path / "m").calibration.element_pairs


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        ({"val": 8}, [], "8 crystals are too few"),
        ({"val": 0}, [], "in the val split"),
        ({"train": 0}, [], "in the train split"),
        ({}, ["--out", "full"], "must be a new folder"),
        ({}, ["--data", "nothing"], "is not a dataset"),
        ({}, ["--split", "train"], "Invalid value"),
    ],
)
def test_what_cannot_be_calibrated_stays_as_it_is(run, tmp_path, sizes, options, words):
    model, data = (
        save_random_model(tmp_path / "m"),
        dataset(tmp_path / "data", **{"train": 5, "val": 10, **sizes}),
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    before, there = contents(model), sorted(path.name for path in tmp_path.iterdir())
    status, out, err = run("calibrate", model, "--data", data, *options)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert contents(model) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == there


def test_a_dataset_given_twice_counts_once(run, models, tmp_path):
    data = dataset(tmp_path / "data", train=5, val=10)
    _, out, _ = run("calibrate", models / "fresh", "--data", data, "--data", data, "--out", "new", "--json")
    assert json.loads(out)["crystals"] == 10


def test_what_is_unlike_the_train_split_is_outside(run, models, tmp_path):
    def without_oxygen(pair):
        return replace(pair, numbers=np.where(pair.numbers == 8, 12, pair.numbers))

    data = dataset(tmp_path / "data", change=without_oxygen)
    run("calibrate", models / "fresh", "--data", data, "--out", "new")
    oxide, metal = repose.load("new", "cpu").relax([bulk("MgO", "rocksalt", a=4.3), bulk("Al")])
    assert "O-Mg" in oxide.outside
    assert "together" not in (metal.outside or "")
