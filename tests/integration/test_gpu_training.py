"""Training of a staged run by the scripts in tools/gpu, on a CPU and without most packages."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from repose.config import TrainSettings
from repose.data.dataset import DatasetInfo, write_dataset
from repose.models.checkpoint import load_model
from support.paths import ROOT
from support.training import path_pairs

ABSENT = ("ase", "pymatgen", "lightning", "pyarrow", "typer", "rich", "scipy")
SETTINGS = {
    "model": {
        "features": 8,
        "layers": 2,
        "start": "input",
        "volume_feature": True,
        "stays": True,
        "passes": 2,
    },
    "sampling": {
        "edges_per_batch": 1500,
        "path_frames": 0.3,
        "interpolated": 0.3,
        "symmetric": 0.5,
        "recycled": 0.5,
    },
    "images": "predicted",
    "score": "relative",
}


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools" / "gpu")


@pytest.fixture
def stage(tools, tmp_path):
    import stage

    pairs = path_pairs()
    write_dataset(tmp_path / "data", DatasetInfo(name="paths"), pairs)
    config = tmp_path / "settings.json"
    config.write_text(json.dumps(SETTINGS))
    data = ["--data", str(tmp_path / "data")] * 2
    stage.main(["--config", str(config), *data, "--set", "seed=3", "--out", str(tmp_path / "stage")])
    return tmp_path / "stage"


def train(stage, out, steps, tmp_path):
    """Run the training with packages that cannot be imported; returns the lines of its log."""
    for name in ABSENT:
        tmp_path.joinpath(f"{name}.py").write_text("raise ImportError(__name__)")
    options = ["--out", out, "--minutes", 10, "--steps", steps, "--workers", 2, "--device", "cpu", "--plain"]
    command = [sys.executable, stage / "train.py", *options]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_staged_run_trains_and_can_be_loaded_and_continued(stage, tmp_path):
    from trainer import Trainer

    lines = train(stage, tmp_path / "out", 3, tmp_path)
    assert lines[0]["crystals"] == 10  # five, twice
    assert lines[-1]["step"] == 3
    assert np.isfinite(lines[-1]["validation"]["paths"]["score"])
    first, config = load_model(tmp_path / "out" / "model")
    assert config.settings["features"] == 8
    assert config.test_error["val coordinates (A)"] > 0
    saved = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
    run = json.loads((stage / "run.json").read_text())
    again = Trainer.begin(stage, run, TrainSettings.parse(run["settings"]), torch.device("cpu"))
    again.load(saved)
    assert again.step == 3
    assert again.optimizer.state_dict()["state"][0]["step"] == 3
    assert torch.equal(again.average.get_buffer("atomic_volumes"), first.get_buffer("atomic_volumes"))
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, saved["network"][name])
        assert torch.isfinite(value).all()


def test_packed_crystals(tools):
    from packed import pack, unpack

    pairs = path_pairs()
    end = pairs[0]
    pairs.append(replace(end, positions=end.relaxed_positions, cell=end.relaxed_cell, path=()))
    *found, same = unpack(pack(pairs, 4))
    assert np.array_equal(same.positions, same.relaxed_positions)
    assert np.array_equal(same.cell, same.relaxed_cell)
    for pair, got in zip(pairs[:-1], found, strict=True):
        assert np.array_equal(got.numbers, pair.numbers)
        assert np.allclose(got.relaxed_positions, pair.relaxed_positions, atol=1e-6)
        assert np.allclose(got.positions, pair.positions, atol=2e-3)
        assert np.allclose(got.cell, pair.cell, atol=1e-5)
        assert 2 < len(got.path) <= 6
        assert all(any(np.allclose(frame.cell, f.cell, atol=1e-5) for f in pair.path) for frame in got.path)


def test_large_weights_are_written_in_parts(tools, tmp_path, monkeypatch):
    import trainer

    monkeypatch.setattr(trainer, "PART_BYTES", 10)
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(25)))
    trainer.split(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.00", "weights.01", "weights.02"]
    assert b"".join(p.read_bytes() for p in sorted(tmp_path.iterdir())) == bytes(range(25))
