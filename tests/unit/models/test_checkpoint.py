"""Models on disk."""

import copy
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


def test_weights_in_half_precision_are_computed_in_single(saved, tmp_path):
    """Values that are exact in half precision are stored in it; predictions stay within 1e-4 A."""
    relaxer, directory = saved
    rounded = copy.deepcopy(relaxer.network)
    for name, parameter in rounded.named_parameters():
        if name.endswith("weight"):
            parameter.data = parameter.half().to(parameter.dtype)
    save_model(tmp_path / "half", rounded, relaxer.config, "# Card\n")
    sizes = [(path / "model.safetensors").stat().st_size for path in (tmp_path / "half", directory)]
    assert sizes[0] < 0.75 * sizes[1]
    crystal = random_crystal(3)
    predictions = []
    for path in (tmp_path / "half", directory):
        network, config = load_model(path)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        predictions.append(DirectRelaxer(network, config).predict(crystal))
    for half, single in zip(*predictions, strict=True):
        assert (half - single).abs().max() < 1e-4


def test_saving_a_loaded_model_changes_nothing(tmp_path):
    directory = shipped_models()["defects"]
    save_model(tmp_path / "again", *load_model(directory), (directory / "card.md").read_text())
    for file in directory.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


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
