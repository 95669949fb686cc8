"""`repose train` on the command line."""

import json
from pathlib import Path

import pytest

from repose.data.dataset import DatasetInfo, write_dataset
from support.training import path_pairs

SMALL = ["model.features=8", "model.layers=1", "model.n_basis=8", "sampling.epoch_steps=2", "max_epochs=2"]


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "data", DatasetInfo(name="data"), path_pairs())
    return tmp_path / "data"


def assignments(*more):
    return [part for setting in (*SMALL, *more) for part in ("--set", setting)]


def test_train_says_where_the_model_is(repose, dataset, tmp_path):
    common = ["train", "--model", "e3relax", "--data", dataset, "--out", tmp_path / "run", "--device", "cpu"]
    status, out, err = repose(*common, *assignments(), "--json")
    assert status == 0, err
    result = json.loads(out)
    assert (Path(result["model"]) / "model.safetensors").is_file()
    assert result["errors"]["val coordinates (A)"] > 0
    assert "epoch 1 step 4: " in err
    assert " edges/s" in err
    # The same command again trains nothing and prints the same.
    status, out, err = repose(*common, *assignments(), "--quiet")
    assert status == 0
    assert result["model"] in out
    assert [line for line in err.splitlines() if not line.startswith("repose: warning: ")] == []
    resolved = json.loads((tmp_path / "run" / "train.json").read_text())["settings"]
    assert resolved["sampling"]["epoch_steps"] == 2
    assert resolved["learning_rate"] == 1e-4


def test_a_profile_lists_the_parts_and_leaves_no_run(repose, dataset, tmp_path):
    common = ["train", "--model", "e3relax", "--data", dataset, "--out", tmp_path / "run", "--device", "cpu"]
    status, out, err = repose(*common, *assignments("sampling.epoch_steps=4"), "--profile")
    assert status == 0, err
    parts = [line.rsplit(maxsplit=2)[0] for line in out.splitlines()]
    assert {"reading", "forward", "backward", "optimizer", "moving average", "validation"} <= set(parts)
    assert parts.index("reading") < parts.index("forward") < parts.index("rest") < parts.index("total")
    assert "in the background, at the same time: random inputs " in out
    assert out.splitlines()[-1].startswith("4 steps of ")
    assert not (tmp_path / "run").exists()
    status, out, err = repose(*common, *assignments(), "--profile", "--json", "--quiet")
    assert status == 0, err
    report = json.loads(out)
    assert report["steps"] == 2
    assert report["edges_per_second"] > 0
    assert sum(report["seconds"].values()) == pytest.approx(report["total"], abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "sampling.epoch_step=3"], "epoch_steps"),
        (["--set", "nonsense"], "NAME=VALUE"),
        (["--set", "model.featurs=3"], "did you mean 'features'"),
        (["--config", "missing.json"], "cannot be read"),
        (["--init-from", "nobody"], "no model 'nobody'"),
    ],
)
def test_wrong_usage(repose, dataset, tmp_path, arguments, words):
    status, out, err = repose(
        "train",
        "--model",
        "e3relax",
        "--data",
        dataset,
        "--out",
        tmp_path / "run",
        "--device",
        "cpu",
        *arguments,
    )
    assert status == 2
    assert words in err
    assert "Traceback" not in err
    assert out == ""


def test_unknown_family_and_dataset(repose, dataset, tmp_path):
    status, _, err = repose("train", "--model", "e3relx", "--data", dataset, "--out", tmp_path / "run")
    assert (status, "e3relax" in err) == (2, True)
    status, _, err = repose("train", "--model", "e3relax", "--data", tmp_path, "--out", tmp_path / "run")
    assert (status, "is not a dataset" in err) == (2, True)
