"""A new model family is trained by the command without edits outside its folder."""

import json
from dataclasses import replace

import pytest

from repose.data.dataset import DatasetInfo, write_dataset
from repose.relaxer.loading import load
from support.crystals import random_pairs
from support.toy_family import toy_family  # noqa: F401


@pytest.mark.usefixtures("toy_family")
def test_a_new_family_is_trained_by_the_command(tmp_path, repose):
    pairs = [replace(pair, split="train" if k else "val") for k, pair in enumerate(random_pairs(4))]
    write_dataset(tmp_path / "data", DatasetInfo(name="pairs"), pairs)
    settings = {"model": {"features": 4}, "max_epochs": 1, "sampling": {"epoch_steps": 2}}
    config, out = tmp_path / "toy.json", tmp_path / "run"
    config.write_text(json.dumps(settings))
    status, _, errors = repose(
        "train",
        "--model",
        "toy",
        "--data",
        tmp_path / "data",
        "--out",
        out,
        "--config",
        tmp_path / "toy.json",
    )
    assert status == 0, errors
    relaxer = load(out / "model", "cpu")
    assert relaxer.config.family == "toy"
    assert float(relaxer.network.strain) != 0
