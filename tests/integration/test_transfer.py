"""Fine-tuning: what is held fixed, what moves slowly, what a model keeps and what it gains."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from repose.config import TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.data.dataset import Dataset, DatasetInfo, Pair, write_dataset
from repose.errors import ConfigError
from repose.models.checkpoint import ModelConfig, load_model, save_model
from repose.models.registry import family
from repose.relaxer.direct import DirectRelaxer
from repose.training.run import train
from repose.training.samples import crystal
from repose.training.task import RelaxationTask, parameter_groups
from support.training import path_pairs

TINY = {"features": 8, "layers": 2, "n_basis": 8, "embedding": "properties", "start": "rescaled"}
# What is neither a layer nor a head.
LATTICE = {"lattice_scalars", "lattice_vectors"}
BEFORE_LAYERS = {
    "deeprelax": {"embedding"},
    "e3relax": {"embedding", *LATTICE},
    "e3relax-h2": {"embedding", *LATTICE},
}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return path_pairs()


@pytest.fixture(scope="module")
def dataset(pairs, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "paths"
    write_dataset(directory, DatasetInfo(name="paths"), pairs)
    return directory


def settings(**changes) -> TrainSettings:
    values = {
        "sampling": {"edges_per_batch": 1500, "epoch_steps": 3, "denoising": 0.3},
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "weight_decay": 0.3,
        "ema": 0.9,
        "max_epochs": 2,
    }
    return TrainSettings.parse({**values, **changes})


def network(name, **changes) -> Any:
    torch.manual_seed(0)
    cls = family(name)
    return cls(cls.settings_type.parse({**TINY, **changes}))


def saved(directory, net, elements: Iterable[int] = range(1, 95)) -> Path:
    """A model directory with the network's weights."""
    config = ModelConfig(
        family=net.family,
        name="before",
        settings=net.settings.model_dump(mode="json"),
        elements=list(elements),
    )
    save_model(directory, net, config, "# before\n")
    return directory


def tune(net, dataset, tmp_path, chosen, **options) -> Path:
    """Fine-tune a network; returns the new model's directory."""
    before = saved(tmp_path / "before", net)
    options = {"init_from": before, "device": "cpu", "progress": "none", **options}
    return train(net.family, [dataset], tmp_path / "run", chosen, **options)


def loaded(directory) -> tuple[Any, ModelConfig]:
    """A model directory; its network is of any family."""
    return load_model(directory)


def predictions(directory, pairs):
    """Positions and cells of all crystals."""
    batch = CrystalBatch.collate([crystal(p.numbers, p.positions, p.cell, p.pbc) for p in pairs])
    return DirectRelaxer(*load_model(directory), path="plain").predict(batch)


def top(name):
    return name.partition(".")[0]


@pytest.mark.parametrize("name", BEFORE_LAYERS)
def test_depth_of_every_weight(name):
    net = network(name, layers=3)
    found: dict[int | None, set[str]] = {}
    for parameter, _ in net.named_parameters():
        found.setdefault(net.depth(parameter), set()).add(top(parameter))
    assert found[0] == BEFORE_LAYERS[name]
    assert found[1] == found[2] == found[3] == {"layers"}
    assert found[None] == {top(n) for n, _ in net.named_parameters()} - BEFORE_LAYERS[name] - {"layers"}


def test_groups_hold_every_weight_once_with_its_rate():
    net = network("deeprelax", layers=3)
    trunk, heads = parameter_groups(net, settings(trunk_rate=0.1, frozen_layers=2, learning_rate=1e-3))
    assert (trunk["lr"], heads["lr"]) == (pytest.approx(1e-4), 1e-3)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    of_trunk, of_heads = ({names[id(p)] for p in group["params"]} for group in (trunk, heads))
    assert {name[:9] for name in of_trunk} == {"layers.2."}
    assert of_heads == {name for name in names.values() if top(name) not in ("embedding", "layers")}
    moving = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert of_trunk | of_heads == moving
    assert all(net.depth(name) in (0, 1, 2) for name in names.values() if name not in moving)


def test_without_settings_everything_moves_at_one_rate():
    net = network("e3relax")
    rates = {id(p): group["lr"] for group in parameter_groups(net, settings()) for p in group["params"]}
    assert rates == dict.fromkeys(map(id, net.parameters()), 1e-2)


@pytest.mark.parametrize(
    ("name", "changes", "fixed"),
    [
        ("deeprelax", {"frozen_layers": 1, "trunk_rate": 0.1}, {0, 1}),
        ("deeprelax", {"trunk_rate": 0.0}, {0, 1, 2}),
        ("e3relax", {"frozen_layers": 1}, {0, 1}),
    ],
)
def test_weights_held_fixed_stay_as_they_are_to_the_bit(dataset, tmp_path, name, changes, fixed):
    """Also under weight decay, in the moving average, and in what is exported from it."""
    net = network(name, frame="affine")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    directory = tune(net, dataset, tmp_path, settings(**changes))
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    exported = load_file(directory / WEIGHTS)
    moved = set()
    for key, _ in net.named_parameters():
        after = state[f"network.{key}"], state[f"average.{key}"], exported[key]
        if net.depth(key) in fixed:
            assert all(torch.equal(value, before[key]) for value in after), key
        elif not any(torch.equal(value, before[key]) for value in after):
            moved.add(net.depth(key))
    assert moved == {net.depth(key) for key, _ in net.named_parameters()} - fixed


def test_a_lower_rate_of_the_trunk_scales_its_step(pairs):
    """Gradients alike, a step of the trunk is a tenth as long, and that of the heads as long as before."""

    def step(rate):
        net = network("deeprelax").double()
        before = {name: value.clone() for name, value in net.named_parameters()}
        task = RelaxationTask(net, settings(trunk_rate=rate), pairs, pairs)
        planned: Any = task.configure_optimizers()
        optimizer = planned["optimizer"]
        generator = torch.Generator().manual_seed(1)
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        return {name: (value - before[name]).detach() for name, value in net.named_parameters()}

    net, whole, tenth = network("deeprelax"), step(1.0), step(0.1)
    for name, length in whole.items():
        scale = 1.0 if net.depth(name) is None else 0.1
        assert torch.allclose(tenth[name], scale * length, rtol=1e-9, atol=1e-15), name
        assert length.abs().max() > 1e-3


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_rates_rise_together_and_keep_their_ratio(dataset, tmp_path, schedule, monkeypatch):
    seen = []
    step = RelaxationTask.optimizer_step

    def watch(task, *args, **kwargs):
        seen.append([group["lr"] for group in task.trainer.optimizers[0].param_groups])
        return step(task, *args, **kwargs)

    monkeypatch.setattr(RelaxationTask, "optimizer_step", watch)
    chosen = settings(trunk_rate=0.1, warmup_steps=4, schedule=schedule, learning_rate=8e-3)
    tune(network("deeprelax"), dataset, tmp_path, chosen)
    trunk, heads = np.array(seen).T
    assert np.allclose(trunk, 0.1 * heads, rtol=1e-12)
    decay = 0.01 + 0.99 * (1 + np.cos(np.pi * np.arange(6) / 6)) / 2 if schedule == "cosine" else np.ones(6)
    assert np.allclose(heads, 8e-3 * decay * np.array([0.25, 0.5, 0.75, 1, 1, 1]), rtol=1e-9)
    rows = (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("lr")
    logged = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert max(logged) > 0.1 * max(heads)  # what is logged is the rate that was set


@pytest.mark.parametrize("changes", [{"trunk_rate": 0.0}, {"frozen_layers": 2}])
def test_nothing_left_to_train_is_said(dataset, tmp_path, changes):
    net = network("e3relax", uncertainty_head=False)
    with pytest.raises(ConfigError, match="freeze every weight"):
        tune(net, dataset, tmp_path, settings(**changes))


def test_stopped_and_gone_on_with_is_the_same_as_never_stopped(dataset, tmp_path, monkeypatch):
    chosen = settings(max_epochs=3, trunk_rate=0.1, frozen_layers=1, warmup_steps=2)
    whole = tune(network("deeprelax"), dataset, tmp_path / "whole", chosen)
    start = RelaxationTask.on_train_epoch_start

    def stop(task):
        if task.trainer.current_epoch == 2:
            raise KeyError("power cut")
        start(task)

    with monkeypatch.context() as patched:
        patched.setattr(RelaxationTask, "on_train_epoch_start", stop)
        with pytest.raises(KeyError, match="power cut"):
            tune(network("deeprelax"), dataset, tmp_path / "cut", chosen)
    cut_at = torch.load(tmp_path / "cut" / "run" / "last.ckpt", weights_only=True)["global_step"]
    cut = tune(network("deeprelax"), dataset, tmp_path / "cut", chosen)
    assert cut_at == 6
    first, second = (
        torch.load(tmp_path / name / "run" / "last.ckpt", weights_only=True) for name in ("whole", "cut")
    )
    assert first["global_step"] == second["global_step"] == 9
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    exported = [load_file(directory / WEIGHTS) for directory in (whole, cut)]
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in exported[0])


@pytest.mark.parametrize("name", ["e3relax", "e3relax-h2"])
def test_an_uncertainty_head_is_added_and_predictions_stay(dataset, pairs, tmp_path, name):
    net = network(name, uncertainty_head=False, frame="affine", property_noise=0.3)
    net.atomic_volumes.fill_(15.0)
    chosen = settings(model={"uncertainty_head": True}, trunk_rate=0.0)
    directory = tune(net, dataset, tmp_path, chosen)
    before, after = predictions(tmp_path / "before", pairs), predictions(directory, pairs)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new)
    # The score stays what it was, and the head that was learned is exported all the same: the last one.
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    exported = load_file(directory / WEIGHTS)
    head = [key for key in exported if key.startswith("uncertainty_head.")]
    assert head
    assert all(torch.equal(exported[key], state[f"average.{key}"]) for key in head)
    assert load_model(directory)[1].settings["uncertainty_head"] is True


def test_elements_of_both_are_known_and_have_volumes(dataset, pairs, tmp_path):
    old = {1, 8, 79}
    new = {int(z) for pair in Dataset(dataset).read("train") for z in pair.numbers}
    assert new - old
    assert new & old
    net = network("e3relax")
    for z in old:
        net.atomic_volumes[z] = 10.0 + z
    before = saved(tmp_path / "model", net, sorted(old))
    directory = tune(net, dataset, tmp_path, settings(), init_from=before)
    after, config = loaded(directory)
    assert set(config.elements) == old | new
    for z, volume in enumerate(after.atomic_volumes.tolist()):
        assert volume == 10.0 + z if z in old else (volume != 0) == (z in new)


def test_cells_of_sheets_are_no_volumes_of_atoms(pairs, tmp_path):
    """Their vacuum would make bulk crystals start far too large."""
    flat = [
        Pair(**{**vars(pair), "pbc": np.array([True, True, False]), "split": "val" if k else "train"})
        for k, pair in enumerate(pairs)
    ]
    write_dataset(tmp_path / "sheets", DatasetInfo(name="sheets"), flat)
    directory = tune(network("e3relax"), tmp_path / "sheets", tmp_path, settings(max_epochs=1))
    assert not loaded(directory)[0].atomic_volumes.any()


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("e3relax", {"uncertainty_head": False}, "model.uncertainty_head differ from those of --init-from"),
        ("e3relax", {"uncertainty_head": True, "features": 16}, r"model\.features .*--model e3relax"),
        ("deeprelax", {"uncertainty_head": True}, "unknown setting 'uncertainty_head'"),
    ],
)
def test_a_model_keeps_its_form(dataset, tmp_path, name, model, words):
    with pytest.raises(ConfigError, match=words):
        tune(network(name), dataset, tmp_path, settings(model=model))
