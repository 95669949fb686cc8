"""Training runs: they learn, resume after a kill, and agree with one another."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repose.config import TrainSettings
from repose.data import columns
from repose.data.dataset import Dataset, DatasetInfo, Pair, write_dataset
from repose.errors import ConfigError, DatasetError
from repose.models.checkpoint import load_model
from repose.training import reading
from repose.training.run import train
from repose.training.samples import ValidationBatches, edge_counts
from support.training import TINY, path_pairs, train_settings


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return path_pairs()


@pytest.fixture(scope="module")
def dataset(pairs, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "paths"
    write_dataset(directory, DatasetInfo(name="paths", calculator="CHGNet"), pairs)
    return directory


def test_compiling_is_asked_for_and_speed_is_logged(dataset, tmp_path, monkeypatch):
    from repose.models.e3relax.network import E3Relax

    asked = []
    monkeypatch.setattr(E3Relax, "compile_training", lambda network: asked.append(network))
    train("e3relax", [dataset], tmp_path / "run", train_settings(max_epochs=3), device="cpu", compiled=True)
    assert len(asked) == 2  # for training with validation, and for calibration
    assert "train/edges_per_s" in (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text()


def test_epochs_of_one_pass_without_clipping_or_averaging(dataset, tmp_path):
    """The score is the error of coordinates, and the model has the weights of the last step."""
    sampling = {"crystals_per_batch": 2, "epoch_steps": None}
    free = {"sampling": sampling, "clip": None, "ema": 0.0, "score": "coordinates", "max_epochs": 2}
    run(dataset, tmp_path / "run", train_settings(**free))
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 6  # five crystals
    weights = state["state_dict"]
    for name in (name for name in weights if name.startswith("network.")):
        assert torch.equal(weights[name], weights[name.replace("network", "average", 1)])
    rows = [row for row in metrics(tmp_path / "run") if row["val/score"]]
    assert [row["val/score"] for row in rows] == [row["val/coordinates"] for row in rows]


def test_bf16_trains(dataset, tmp_path):
    directory = run(dataset, tmp_path / "run", train_settings(max_epochs=2, precision="bf16"))
    assert all(torch.isfinite(value).all() for value in load_file(directory / "model.safetensors").values())


def run(dataset, out, chosen, **options):
    return train("e3relax", [dataset], out, chosen, device="cpu", progress="none", **options)


def metrics(out):
    """Rows of the log of a run."""
    return list(csv.DictReader((out / "csv" / "version_0" / "metrics.csv").open()))


def test_it_learns(dataset, tmp_path):
    """Four crystals are overfitted to well below the error of where training starts."""
    chosen = train_settings(
        max_epochs=25, sampling={"edges_per_batch": 1500, "epoch_steps": 10}, learning_rate=1e-2
    )
    directory = run(dataset, tmp_path / "run", chosen)
    losses = [float(row["train/loss"]) for row in metrics(tmp_path / "run") if row["train/loss"]]
    assert losses[-1] < 0.6 * losses[0]
    _, config = load_model(directory)
    assert config.trained_on.startswith("paths (")
    assert 8 not in config.elements or 8 in {
        int(z) for p in Dataset(dataset).read("train") for z in p.numbers
    }
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


COMMAND = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from repose.config import TrainSettings
from repose.training import reading
from repose.training.run import train
train("e3relax", [Path(sys.argv[1])], Path(sys.argv[2]), TrainSettings.model_validate_json(sys.argv[3]),
      device="cpu", progress="none")
"""


def test_killed_and_resumed_is_the_same_as_never_stopped(dataset, tmp_path):
    chosen = train_settings(max_epochs=6)
    whole = run(dataset, tmp_path / "whole", chosen)
    command = [sys.executable, "-c", COMMAND, str(dataset), str(tmp_path / "cut"), chosen.model_dump_json()]
    checkpoint = tmp_path / "cut" / "last.ckpt"
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not checkpoint.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    interrupted_at = torch.load(checkpoint, weights_only=True)["global_step"]
    cut = run(dataset, tmp_path / "cut", chosen)
    assert interrupted_at < 24
    states = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "cut")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    a, b = (load_file(directory / "model.safetensors") for directory in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(list((tmp_path / "cut" / "csv").glob("*/metrics.csv"))) >= 1
    leftovers = [p.name for p in (tmp_path / "cut").iterdir() if p.name.startswith(".last")]
    assert len(leftovers) <= 1  # at most the one that the kill cut short


def test_two_processes_train_one_model(dataset, tmp_path):
    """DDP on two CPU processes: one export, and every parameter takes part."""
    script = tmp_path / "ddp.py"
    script.write_text(COMMAND.replace('device="cpu"', 'device="cpu", processes=2'))
    chosen = train_settings(max_epochs=2, model={**TINY, "lattice_offset": "axis", "edge_channels": 4})
    command = [sys.executable, str(script), str(dataset), str(tmp_path / "run"), chosen.model_dump_json()]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 8
    alone = run(dataset, tmp_path / "alone", chosen)
    shared, single = (load_file(d / "model.safetensors") for d in (tmp_path / "run" / "model", alone))
    assert any(not torch.equal(shared[name], single[name]) for name in shared)  # twice the crystals a step


def test_fine_tuning_starts_from_the_weights(dataset, tmp_path):
    first = run(dataset, tmp_path / "first", train_settings(max_epochs=1))
    frozen = train_settings(max_epochs=1, learning_rate=1e-12, model={})
    second = run(dataset, tmp_path / "second", frozen, init_from=first)
    before, after = (
        torch.load(tmp_path / n / "last.ckpt", weights_only=True)["state_dict"] for n in ("first", "second")
    )
    exported = load_file(first / "model.safetensors")
    for name, value in load_file(second / "model.safetensors").items():
        assert torch.allclose(value, exported[name], atol=1e-7), name
    assert before.keys() == after.keys()
    # Elements known before stay known.
    narrow = tmp_path / "narrow"
    only = [p for p in Dataset(dataset) if p.split == "val"]
    write_dataset(narrow, DatasetInfo(name="n"), [replace(only[0], split="train"), replace(only[0], id="v")])
    third = run(narrow, tmp_path / "narrow-run", frozen, init_from=first)
    elements = [set(load_model(directory)[1].elements) for directory in (first, third)]
    assert elements[0] | {int(z) for z in only[0].numbers} == elements[1]
    with pytest.raises(ConfigError, match="differ from those of --init-from"):
        run(dataset, tmp_path / "third", train_settings(model={"features": 16}), init_from=first)


def test_a_run_is_not_mixed_with_another(dataset, tmp_path):
    run(dataset, tmp_path / "run", train_settings(max_epochs=1))
    with pytest.raises(ConfigError, match="other settings"):
        run(dataset, tmp_path / "run", train_settings(max_epochs=2, seed=5))


def test_a_run_from_before_a_setting_existed_continues(dataset, tmp_path):
    run(dataset, tmp_path / "run", train_settings(max_epochs=1))
    path = tmp_path / "run" / "train.json"
    stored = json.loads(path.read_text())
    del stored["settings"]["validation_crystals"], stored["settings"]["sampling"]["crystals_per_batch"]
    path.write_text(json.dumps(stored))
    run(dataset, tmp_path / "run", train_settings(max_epochs=1))
    with pytest.raises(ConfigError, match="other settings"):
        run(dataset, tmp_path / "run", train_settings(max_epochs=1, validation_crystals=1))


def test_epochs_validate_some_crystals_and_calibration_uses_all(pairs, tmp_path, monkeypatch):
    """The chosen ones are the same in every run, and part of every larger choice."""
    held_out = [replace(pair, split="val" if k else "train") for k, pair in enumerate(pairs)]
    data = tmp_path / "data"
    write_dataset(data, DatasetInfo(name="data"), held_out)
    validated, calibrated = [], []
    make = ValidationBatches.__init__

    def spy(batches, chosen, *rest):
        validated.append({pair.id for pair in chosen})
        make(batches, chosen, *rest)

    monkeypatch.setattr(ValidationBatches, "__init__", spy)
    monkeypatch.setattr(
        "repose.training.run.calibrate_model",
        lambda model, train, held_out, *rest, **options: calibrated.append(len(held_out)),
    )
    for n in (2, 2, 3, None):
        run(data, tmp_path / f"{len(validated)}", train_settings(max_epochs=1, validation_crystals=n))
    assert [len(ids) for ids in validated] == [2, 2, 3, 5]
    assert validated[0] == validated[1] < validated[2] < validated[3]
    assert calibrated == [5] * 4


def test_empty_split_is_said(pairs, tmp_path):
    labelled = [Pair(**{**vars(p), "split": "train"}) for p in pairs]
    write_dataset(tmp_path / "d", DatasetInfo(name="d"), labelled)
    with pytest.raises(DatasetError, match="val split"):
        run(tmp_path / "d", tmp_path / "run", train_settings())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rat": 1.0}, "did you mean 'learning_rate'"),
        ({"ema": 1.5}, "'ema'"),
        ({"sampling": {"path_frame": 0.5}}, "'sampling.path_frame', did you mean 'path_frames'"),
    ],
)
def test_settings_are_closed(values, words):
    with pytest.raises(ConfigError, match=words):
        TrainSettings.parse(values)


@pytest.fixture
def frames_decoded(monkeypatch):
    """Crystals whose paths are decoded, a number a row group."""
    calls, frames = [], columns.frames
    monkeypatch.setattr(columns, "frames", lambda column: calls.append(len(column)) or frames(column))
    return calls


@pytest.fixture
def counted(monkeypatch):
    """Crystals whose graphs are built to count their edges."""
    found = []
    monkeypatch.setattr(
        reading, "edge_counts", lambda net, pairs: found.extend(pairs) or edge_counts(net, pairs)
    )
    return found


@pytest.mark.parametrize(("share", "expected"), [(0.0, []), (0.4, [5])])
def test_training_decodes_paths_where_it_draws_from_them(
    pairs, tmp_path, frames_decoded, counted, share, expected
):
    dataset = write_dataset(tmp_path / "set", DatasetInfo(name="set"), pairs).directory
    sampling = {"edges_per_batch": 1500, "epoch_steps": 2, "path_frames": share}
    chosen = train_settings(sampling=sampling, max_epochs=1)

    def go(out):
        with pytest.warns(UserWarning, match="too few for calibration"):
            return train("e3relax", [dataset], out, chosen, device="cpu", progress="none")

    first = go(tmp_path / "one")
    assert frames_decoded == expected
    assert len(counted) == 6
    again = go(tmp_path / "two")
    assert len(counted) == 6  # no graph is built to count its edges
    weights = [(model / "model.safetensors").read_bytes() for model in (first, again)]
    assert weights[0] == weights[1]
