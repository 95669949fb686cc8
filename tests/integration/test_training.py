"""Training runs: they learn, resume after a kill, and agree with one another."""

import csv
import json
import math
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

from repose.cli.settings import read_settings
from repose.config import TrainSettings
from repose.data import columns
from repose.data.dataset import Dataset, DatasetInfo, Pair, write_dataset
from repose.errors import ConfigError, DatasetError
from repose.models.checkpoint import load_model
from repose.models.network import Network
from repose.models.registry import family
from repose.presets.preset import load_preset
from repose.training import reading
from repose.training.run import train
from repose.training.samples import ValidationBatches, edge_counts
from repose.training.task import RelaxationTask
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


SMALL = {"features": 8, "layers": 1, "n_basis": 8}
NOISY = {**SMALL, "embedding": "properties", "property_noise": 0.3}


def preset_settings(**changes) -> TrainSettings:
    """Settings of a preset for a run of six short epochs; its plateau schedule decays after two."""
    sampling = {"epoch_steps": 3, "crystals_per_batch": 2}
    own = {"max_epochs": 6, "patience": 1, "learning_rate": 0.03, "ema": 0.0, **changes}
    defaults = [family("e3relax").settings_type.training, load_preset("e3relax/c2db").settings]
    short = {"model": SMALL, "sampling": sampling, **own}
    return read_settings(TrainSettings, None, (), defaults=[*defaults, short])


def state_of(out):
    """What a run continues from: the checkpoint without paths and counters of Lightning."""
    state = torch.load(out / "last.ckpt", weights_only=True)
    kept = {name: state[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
    callbacks = {name: value for name, value in state["callbacks"].items() if "Checkpoint" not in name}
    return {**kept, "callbacks": callbacks}


def assert_same(one, other):
    """Compare nested values, tensors to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, dict | list | tuple):
        assert len(one) == len(other)
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_same(one[key], other[key])
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def assert_same_run(one, other):
    """Compare the last states of two runs, and the exported models."""
    assert_same(state_of(one), state_of(other))
    assert_same(*(load_file(out / "model" / "model.safetensors") for out in (one, other)))


def test_killed_and_resumed_is_the_same_as_never_stopped(dataset, tmp_path):
    chosen = preset_settings()
    run(dataset, tmp_path / "whole", chosen)
    command = [sys.executable, "-c", COMMAND, str(dataset), str(tmp_path / "cut"), chosen.model_dump_json()]
    checkpoint = tmp_path / "cut" / "last.ckpt"
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not checkpoint.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert torch.load(checkpoint, weights_only=True)["global_step"] < 18
    run(dataset, tmp_path / "cut", chosen)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert len(list((tmp_path / "cut" / "csv").glob("*/metrics.csv"))) >= 1
    leftovers = [p.name for p in (tmp_path / "cut").iterdir() if p.name.startswith(".last")]
    assert len(leftovers) <= 1  # at most the one that the kill cut short


@pytest.mark.parametrize(
    "changes",
    [{}, {"warmup_steps": 6}, {"schedule": "cosine", "model": NOISY}],
    ids=["plateau", "with warmup", "cosine with noise"],
)
def test_stopped_twice_and_resumed_is_the_same_as_never_stopped(dataset, tmp_path, monkeypatch, changes):
    chosen = preset_settings(**changes)
    run(dataset, tmp_path / "whole", chosen)
    step = RelaxationTask.training_step
    for stop in (8, 13):

        def stopping(task, batch, batch_idx, stop=stop):
            if task.trainer.global_step == stop:
                raise KeyboardInterrupt
            return step(task, batch, batch_idx)

        monkeypatch.setattr(RelaxationTask, "training_step", stopping)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(dataset, tmp_path / "cut", chosen)
        assert torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["global_step"] == stop // 3 * 3
    monkeypatch.setattr(RelaxationTask, "training_step", step)
    run(dataset, tmp_path / "cut", chosen)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    if "schedule" not in changes:
        assert state_of(tmp_path / "whole")["optimizer_states"][0]["param_groups"][0]["lr"] < 0.03


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
    graph = {"cutoff": 5.0, "max_neighbours": 20}
    other = run(dataset, tmp_path / "other", train_settings(max_epochs=1, model={**TINY, "graph": graph}))
    same = train_settings(max_epochs=1, model={"graph": {"cutoff": 5.0}})
    tuned = run(dataset, tmp_path / "tuned", same, init_from=other)
    assert load_model(tuned)[0].settings == load_model(other)[0].settings
    with pytest.raises(ConfigError, match="differ from those of --init-from"):
        run(dataset, tmp_path / "third", train_settings(model={"features": 16}), init_from=first)


def test_settings_without_effect_are_refused_where_a_run_starts(dataset, tmp_path, monkeypatch):
    chosen = train_settings(max_epochs=1, reduction="sum")
    with pytest.raises(ConfigError, match="reduction: without effect"):
        run(dataset, tmp_path / "run", chosen)
    with monkeypatch.context() as before:
        before.setattr(Network, "check_training", lambda *_: None)
        run(dataset, tmp_path / "run", chosen)
    run(dataset, tmp_path / "run", chosen)  # it continues


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


NO_WEIGHTS = dict.fromkeys(("energy", "rise", "forces", "stress", "displacement", "direction"), 0.0)


def test_diverged_training_is_an_error(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"training diverged.* smaller learning_rate"):
        run(dataset, tmp_path / "run", train_settings(max_epochs=1, learning_rate=1e30, ema=0.0))


def test_dropped_gradients_are_counted(dataset, tmp_path):
    chosen = train_settings(max_epochs=1, sampling={"epoch_steps": 3, "noise": 1e30})
    with pytest.warns(UserWarning, match="epoch 0: 3 steps changed no weights"):
        run(dataset, tmp_path / "run", chosen)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rat": 1.0}, "did you mean 'learning_rate'"),
        ({"ema": 1.5}, "'ema'"),
        ({"sampling": {"path_frame": 0.5}}, "'sampling.path_frame', did you mean 'path_frames'"),
        ({"sampling": {"noise": math.nan}}, "'sampling.noise': Input should be a finite number"),
        ({"layer_weights": [0.0, 0.0]}, r"'layer_weights': all weights of the loss are 0; got \[0.0, 0.0\]"),
        ({"paths": NO_WEIGHTS}, "'paths': all weights of the loss are 0; got {'energy': 0.0"),
        ({"paths": {**NO_WEIGHTS, "stress": 1.0, "form": "published"}}, "'paths': all weights"),
        ({"layer_weights": [1.0, math.inf]}, "'layer_weights.1': Input should be a finite number"),
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
