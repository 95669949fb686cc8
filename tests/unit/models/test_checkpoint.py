"""Models on disk."""

import json

import pytest
import torch

from repose.errors import ModelError
from repose.models.checkpoint import find_model, load_model, save_model, shipped_models
from repose.relaxer.direct import DirectRelaxer
from support.crystals import random_crystal
from support.tiny import random_relaxer


@pytest.fixture
def saved(tmp_path):
    relaxer = random_relaxer("e3relax", embedding="properties")
    save_model(tmp_path / "m", relaxer.network, relaxer.config, "# Card\n")
    return relaxer, tmp_path / "m"


def test_what_is_loaded_predicts_what_was_saved(saved):
    relaxer, directory = saved
    network, config = load_model(directory)
    assert config == relaxer.config
    assert sorted(p.name for p in directory.iterdir()) == ["card.md", "config.json", "model.safetensors"]
    assert all(p.stat().st_mode & 0o444 == 0o444 for p in directory.iterdir())
    crystal = random_crystal(3)
    again = DirectRelaxer(network.double(), config, path=relaxer.path).predict(crystal)
    expected = relaxer.predict(crystal)
    assert torch.equal(again.positions, expected.positions)
    assert torch.equal(again.cells, expected.cells)


def test_saving_again_replaces_the_whole(saved):
    relaxer, directory = saved
    (directory / "stale").touch()
    save_model(directory, relaxer.network, relaxer.config, "# New\n")
    assert not (directory / "stale").exists()
    assert (directory / "card.md").read_text() == "# New\n"
    assert [p.name for p in directory.parent.iterdir()] == ["m"]


def test_a_run_directory_is_found_by_its_model(saved, tmp_path):
    _, directory = saved
    (tmp_path / "run").mkdir()
    directory.rename(tmp_path / "run" / "model")
    assert find_model(tmp_path / "run") == tmp_path / "run" / "model"


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be read"),
        (lambda d: (d / "config.json").write_text("[]"), "format version None"),
        (lambda d: change_config(d, format_version=99), "format version 99"),
        (lambda d: change_config(d, family="e3relaxx"), "Did you mean 'e3relax'"),
        (lambda d: (d / "model.safetensors").write_bytes(b"junk"), "does not fit"),
        (lambda d: (d / "model.safetensors").unlink(), "does not fit"),
        (lambda d: change_config(d, settings={"features": 32}), "does not fit"),
    ],
)
def test_broken_models_are_named(saved, break_it, words):
    _, directory = saved
    break_it(directory)
    with pytest.raises(ModelError, match=words):
        load_model(directory)


def test_unknown_name_says_what_there_is():
    with pytest.raises(ModelError, match="shipped models"):
        find_model("no-such-model")
    assert all(path.is_dir() for path in shipped_models().values())
