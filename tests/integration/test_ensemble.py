"""Ensembles: uncertainty as in the paper, one pass for all members, training that survives a kill."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from safetensors.torch import load_file
from typer.testing import CliRunner

from repose.cli import app
from repose.config import TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import deformation
from repose.data.dataset import DatasetInfo, write_dataset
from repose.errors import ConfigError, ModelError
from repose.models.checkpoint import count_parameters, load_model, save_model
from repose.models.ensemble import Ensemble, combine
from repose.models.prediction import Distances, ErrorScales, Geometry, Prediction
from repose.models.uncertainty.expected_errors import expected_errors
from repose.relaxer.direct import DirectRelaxer
from repose.testing import check_relaxer
from repose.training import ensemble as training
from repose.training.ensemble import FINISHED, train_members
from repose.training.run import LAST, train
from support.tiny import random_relaxer
from support.training import path_pairs, train_settings

FAMILIES = ("e3relax", "e3relax-h2", "deeprelax", "reposenet")
# What is free of the published forms' dependence on how the crystal is written, as far as there is.
INVARIANT = {
    "e3relax": {"frame": "affine", "edge_channels": 4},
    "e3relax-h2": {"frame": "affine", "shared_axes": True, "lattice_offset": "axis"},
    "deeprelax": {"offsets": False, "lattice": "strain", "anchors": "all"},
    "reposenet": {},
}


def members(family, count=2, **options):
    return [random_relaxer(family, seed, **options).network for seed in range(count)]


def relaxer(family, networks, **options):
    """An ensemble as a relaxer."""
    config = random_relaxer(family, **options).config.model_copy(update={"members": len(networks)})
    return DirectRelaxer(Ensemble(networks), config, path="plain")


def leaves(values):
    """Tensors of a prediction, in order."""
    if isinstance(values, torch.Tensor):
        return [values]
    return [leaf for part in values for leaf in leaves(part)] if isinstance(values, tuple | list) else []


def same(first, second, tolerance):
    pairs = list(zip(leaves(first), leaves(second), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert torch.allclose(a, b, rtol=0, atol=tolerance)


def predictions(count, scaled=True):
    """Random predictions for two crystals of two atoms with five edges: of distances, and of positions."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    found = []
    for _ in range(count):
        geometry = Geometry(draw(4, 3), 4 * torch.eye(3, dtype=torch.float64) + draw(2, 3, 3))
        anchored = torch.tensor([0, 3])
        lengths = (
            2 + draw(5),
            draw(5) if scaled else None,
            anchored,
            2 + draw(2),
            draw(2) if scaled else None,
        )
        scales = ErrorScales(draw(4), draw(2)) if scaled else None
        found.append((Prediction([geometry], draw(2, 7), scales), Distances(*lengths)))
    by_positions = [prediction for prediction, _ in found]
    by_distances = [p._replace(error_scales=None, distances=distances) for p, distances in found]
    return by_positions, by_distances


def test_distances_by_equations_21_to_24():
    """With T = 5, written out in numpy for both kinds of distances."""
    _, found = predictions(5)
    got = combine(found)
    for kind, scale in (("relaxed", "scale"), ("displaced", "displaced_scale")):
        d = np.array([getattr(p.distances, kind).numpy() for p in found])
        data = np.array([getattr(p.distances, scale).numpy() for p in found])  # exp b
        mean = d.sum(axis=0) / 5  # eq. 22
        w = np.abs(d - mean)  # eq. 21
        total = sum(data[t] + w[t] for t in range(5)) / 5  # eq. 23
        assert np.allclose(getattr(got.distances, kind), mean, rtol=0, atol=1e-14)
        assert np.allclose(getattr(got.distances, scale), total, rtol=0, atol=1e-14)
    # Equation 24 on a graph whose crystals have three edges and two.
    crystals = CrystalBatch(
        torch.tensor([8, 12, 8, 12]),
        got.geometry.positions,
        got.geometry.cells,
        torch.tensor([0, 0, 1, 1]),
        torch.ones(2, 3, dtype=torch.bool),
    )
    _, graph = members("deeprelax", 1)[0].prepare(crystals)
    first, second = (graph.system_index == k for k in (0, 1))
    chosen = torch.cat([first.nonzero()[:3, 0], second.nonzero()[:2, 0]])
    graph = replace(
        graph,
        receiver=graph.receiver[chosen],
        sender=graph.sender[chosen],
        shift=graph.shift[chosen],
        system_index=graph.system_index[chosen],
    )
    errors = expected_errors(got, got.geometry, crystals.system_index, graph)
    total, moved = got.distances.scale.numpy(), got.distances.displaced_scale.numpy()
    assert got.distances.anchored.tolist() == [0, 3]  # the first crystal's, and the second's
    means = [np.append(total[:3], moved[0]).mean(), np.append(total[3:], moved[1]).mean()]
    assert np.allclose(errors.crystals, means, rtol=0, atol=1e-14)
    assert np.allclose(errors.bonds, total, rtol=0, atol=0)


def test_positions_and_strains_by_their_counterpart():
    found, _ = predictions(5)
    got = combine(found)
    positions = np.array([p.geometry.positions.numpy() for p in found])
    cells = np.array([p.geometry.cells.numpy() for p in found])
    moved = np.abs(positions - positions.mean(0)).mean(-1)
    strain = np.array([np.linalg.inv(cells.mean(0)) @ own for own in cells]) - np.eye(3)
    strained = np.sqrt((strain**2).mean((-1, -2)))
    atoms = moved + np.array([p.error_scales.atoms.numpy() for p in found])
    strains = strained + np.array([p.error_scales.strains.numpy() for p in found])
    assert np.allclose(got.geometry.positions, positions.mean(0), rtol=0, atol=1e-14)
    assert np.allclose(got.geometry.cells, cells.mean(0), rtol=0, atol=1e-14)
    assert np.allclose(got.error_scales.atoms, atoms.mean(0), rtol=0, atol=1e-13)
    assert np.allclose(got.error_scales.strains, strains.mean(0), rtol=0, atol=1e-13)
    # Members that say nothing of their errors still have their spread.
    spread = combine([p._replace(error_scales=None) for p in found]).error_scales
    assert np.allclose(spread.atoms, moved.mean(0), rtol=0, atol=1e-13)
    assert np.allclose(spread.strains, strained.mean(0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_member_is_that_member(family, crystals):
    for options in ({}, {"bond_uncertainty" if family == "deeprelax" else "uncertainty_head": False}):
        (member,) = networks = members(family, 1, **options)
        alone = random_relaxer(family, 0, **options)
        with torch.inference_mode():
            inputs = member.prepare(crystals)
            assert all(map(torch.equal, leaves(member(*inputs)), leaves(Ensemble(networks)(*inputs))))
        assert all(map(torch.equal, alone.predict(crystals), relaxer(family, networks).predict(crystals)))


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_members_have_no_model_uncertainty(family, crystals):
    (member,) = members(family, 1)
    ensemble = Ensemble([member, *(random_relaxer(family, 0).network for _ in range(2))]).eval()
    with torch.inference_mode():
        inputs = member.prepare(crystals)
        same(ensemble(*inputs), member(*inputs), 1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_members_at_once_are_members_one_by_one(family, crystals):
    """By vmap and by the loop, in two forms of every family."""
    for options in ({}, {**INVARIANT[family], "start": "rescaled", "embedding": "properties"}):
        ensemble = Ensemble(members(family, **options)).double().eval()
        assert not ensemble.together  # on a CPU
        with torch.inference_mode():
            inputs = ensemble.prepare(crystals)
            for _ in range(2):  # the skeleton is left as it was
                at_once, one_by_one = ensemble.at_once(*inputs), ensemble.one_by_one(*inputs)
                for first, second in zip(at_once, one_by_one, strict=True):
                    same(first, second, 1e-10)
                    assert (first.distances is None) == (second.distances is None)
            assert not torch.allclose(at_once[0].latent, at_once[1].latent)
            same(combine(at_once), ensemble(*inputs), 1e-10)
        assert not any("skeleton" in name for name in ensemble.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_contract(family, crystals):
    options = INVARIANT[family]
    check_relaxer(relaxer(family, members(family, **options), **options), crystals)


@pytest.mark.parametrize("family", FAMILIES)
def test_accelerated_members_say_the_same(family, crystals):
    options = INVARIANT[family]
    plain = relaxer(family, members(family, **options), **options)
    fast = DirectRelaxer(Ensemble(members(family, **options)), plain.config, path="tabulated")
    same(plain.predict(crystals), fast.predict(crystals), 1e-4)
    assert fast.network.accelerated


def test_the_spread_grows_with_the_difference_of_the_members(crystals):
    """Model uncertainty, not only data uncertainty, is in what the relaxer expects."""
    one, other = members("e3relax", 2)
    with torch.no_grad():
        for head in (one.uncertainty_head, other.uncertainty_head):
            for part in (head.atoms, head.strains):
                part[-1].weight.zero_()
                part[-1].bias.fill_(-5.0)
    data = float(np.exp(-5.0))
    expected = relaxer("e3relax", [one, other]).relax_batch(crystals).expected
    alone = relaxer("e3relax", [one]).relax_batch(crystals).expected
    assert torch.allclose(alone.atoms, torch.full_like(alone.atoms, data), rtol=1e-6)
    with torch.inference_mode():
        first, second = (network(*network.prepare(crystals)).geometry for network in (one, other))
    apart = (first.positions - second.positions).abs().mean(-1) / 2
    assert torch.allclose(expected.atoms, data + apart, rtol=0, atol=1e-6)
    half = deformation((first.cells + second.cells) / 2, first.cells) - torch.eye(3).double()
    assert torch.allclose(expected.strains, data + half.square().mean((-1, -2)).sqrt(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_read_again(family, crystals, tmp_path):
    before = relaxer(family, members(family))
    network = before.network.float()
    config = before.config.model_copy(update={"settings": network.settings.model_dump(mode="json")})
    save_model(tmp_path / "model", network, config, "# two\n")
    again, read = load_model(tmp_path / "model")
    assert isinstance(again, Ensemble)
    assert (read.members, len(again.members), again.family) == (2, 2, family)
    after = DirectRelaxer(again, read, path="plain")
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    single_precision = crystals.to(dtype=torch.float32)
    same(before.predict(single_precision), after.predict(single_precision), 1e-5)
    # Weights of all members are counted.
    (single,) = members(family, 1)
    save_model(tmp_path / "one", single.float(), config.model_copy(update={"members": 1}), "# one\n")
    counted = [count_parameters(tmp_path / name) for name in ("model", "one")]
    assert counted[0] == 2 * counted[1]
    weights = sum(parameter.numel() for parameter in again.parameters())
    assert weights == 2 * sum(parameter.numel() for parameter in single.parameters())
    save_model(tmp_path / "model", network, config.model_copy(update={"members": 3}), "# three\n")
    with pytest.raises(ModelError, match="does not fit"):
        load_model(tmp_path / "model")


def test_members_that_differ_are_refused():
    with pytest.raises(ModelError, match="same settings"):
        Ensemble([])
    with pytest.raises(ModelError, match="same settings"):
        Ensemble([*members("e3relax", 1), *members("e3relax", 1, shared_axes=False)])
    with pytest.raises(ModelError, match="same settings"):
        Ensemble([*members("e3relax", 1), *members("deeprelax", 1)])
    one, other = members("e3relax", 2, start="rescaled")
    other.atomic_volumes[8] += 1
    with pytest.raises(ModelError, match="equal atomic volumes"):
        Ensemble([one, other])


# Training


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Some crystals several times: enough to calibrate on."""
    pairs = path_pairs()
    directory = tmp_path_factory.mktemp("data") / "paths"
    held_out = [replace(pairs[-1 - k % 2], split="val", id=f"val-{k}") for k in range(9)]
    shown = [replace(pair, split="train") for pair in pairs[:-2]]
    write_dataset(directory, DatasetInfo(name="paths"), [*shown, *held_out])
    return directory


@pytest.fixture(scope="module")
def chosen() -> TrainSettings:
    return train_settings(max_epochs=2, seed=3, sampling={"edges_per_batch": 1500, "epoch_steps": 2})


def run(dataset, out, settings, count=2, **options):
    return train_members("e3relax", [dataset], out, settings, count, device="cpu", progress="none", **options)


@pytest.fixture(scope="module")
def whole(dataset, chosen, tmp_path_factory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(dataset, out, chosen) == out / "model"
    return out


def test_an_ensemble_is_trained_by_one_command(dataset, chosen, whole, tmp_path):
    network, config = load_model(whole / "model")
    assert isinstance(network, Ensemble)
    assert (config.members, config.name, config.family) == (2, "whole", "e3relax")
    assert config.calibration is not None
    assert (config.calibration.crystals, config.calibration.on) == (9, "paths")
    assert float(network.out_of_distribution.whitening.abs().sum()) > 0
    card = (whole / "model" / "card.md").read_text()
    assert "ensemble of 2 networks" in card
    assert "seeds 3 to 4" in card
    # Its weights are those of ordinary runs with these seeds, whatever was trained before in the process.
    weights = load_file(whole / "model" / "model.safetensors")
    alone = train(
        "e3relax", [dataset], tmp_path, chosen.model_copy(update={"seed": 4}), device="cpu", progress="none"
    )
    single = load_file(alone / "model.safetensors")
    assert len(weights) == 2 * len(single) + 2  # and what the ensemble counts as familiar
    for name, value in single.items():
        assert torch.equal(value, weights[f"members.1.{name}"]), name
    assert any(not torch.equal(single[name], weights[f"members.0.{name}"]) for name in single)
    # The error in config.json is the ensemble's own.
    pairs = {pair.id: pair for pair in training.Dataset(dataset).read("val")}
    errors = training.mean_errors(network, list(pairs.values()), 1500)
    assert errors == config.test_error
    (first, second) = (load_model(whole / f"member-{k}" / "model")[1].test_error for k in (0, 1))
    name = "val lattice (A)"
    assert errors[name] <= (first[name] + second[name]) / 2 + 1e-5  # by the triangle inequality


def test_errors_are_means_over_crystals(dataset, whole):
    network, config = load_model(whole / "model")
    pairs = list(training.Dataset(dataset).read("val"))
    found = []
    for pair in pairs:
        (batch,) = training.ValidationBatches([pair], network, 1500)
        with torch.inference_mode():
            prediction = network(batch.start, batch.graph)
            cells = network.solve_positions(prediction, batch.start, batch.graph)[0].cells
        found.append(np.abs(cells[0].numpy() - pair.relaxed_cell).mean())
    assert config.test_error["val lattice (A)"] == pytest.approx(np.mean(found), abs=2e-5)


def _killed(dataset, out, settings, moment):
    """Train until a moment that the real thing may be killed at, and die there."""
    torch.set_num_threads(1)
    ordinary = training.train

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def until(family, data, directory, own, **options):
        if directory.name == "member-1" and moment == "in the second member":
            from repose.training.task import RelaxationTask

            begin = RelaxationTask.on_train_epoch_start
            RelaxationTask.on_train_epoch_start = lambda task: (
                die() if task.current_epoch == 1 else begin(task)
            )
        return ordinary(family, data, directory, own, **options)

    training.train = until
    if moment == "before the ensemble is written":
        training._join = die
    run(dataset, out, settings)


@pytest.mark.parametrize("moment", ["in the second member", "before the ensemble is written"])
def test_killed_and_resumed_is_the_same_as_never_stopped(
    moment, dataset, chosen, whole, tmp_path, monkeypatch
):
    out = tmp_path / "whole"
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(dataset, out, chosen, moment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (out / "member-0" / FINISHED).is_file()
    assert (out / "member-1" / FINISHED).is_file() == (moment == "before the ensemble is written")
    assert (out / "member-1" / LAST).is_file()
    assert not (out / "model").exists()
    trained = []
    ordinary = training.train
    monkeypatch.setattr(
        training, "train", lambda *args, **kwargs: trained.append(args[2].name) or ordinary(*args, **kwargs)
    )
    run(dataset, out, chosen)
    assert trained == (["member-1"] if moment == "in the second member" else [])
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (whole, out))
    assert all(torch.equal(a[name], b[name]) for name in a)
    first, second = (json.loads((folder / "model" / "config.json").read_text()) for folder in (whole, out))
    assert first == second


def test_members_can_be_added_and_runs_are_not_mixed(dataset, chosen, whole, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="other settings"):
        run(dataset, whole, chosen.model_copy(update={"learning_rate": 1e-3}))
    with pytest.raises(ConfigError, match="holds the run of an ensemble"):
        run(dataset, whole, chosen, 1)
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        run(dataset, tmp_path / "none", chosen, 0)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / LAST).touch()
    with pytest.raises(ConfigError, match="holds the run of one network"):
        run(dataset, tmp_path / "one", chosen)
    with pytest.raises(ConfigError, match="is an ensemble of 2 networks"):
        run(dataset, tmp_path / "tuned", chosen, 1, init_from=whole)


def test_members_on_the_command_line(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train_members", lambda *args, **kwargs: seen.append(args[4]) or tmp_path)
    (tmp_path / "config.json").write_text('{"test_error": {}}')
    command = ["train", "--model", "e3relax", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(app, [*command, "--members", "5"]).exit_code == 0
    assert CliRunner().invoke(app, command).exit_code == 0
    assert seen == [5, 1]
    for wrong in ("0", "-1", "many"):
        assert CliRunner().invoke(app, [*command, "--members", wrong]).exit_code == 2
    assert seen == [5, 1]


def test_too_few_crystals_for_a_calibration(dataset, chosen, whole, tmp_path):
    """The ensemble is written all the same, and a warning says what it lacks."""
    few = tmp_path / "few"
    pairs = list(training.Dataset(dataset).read("train"))
    write_dataset(few, DatasetInfo(name="few"), [*pairs, replace(pairs[0], id="v", split="val")])
    directories = [whole / "member-0", whole / "member-1"]
    with pytest.warns(UserWarning, match="the ensemble gives no uncertainty"):
        training._join(directories, [few], (), tmp_path / "out", chosen)
    network, config = load_model(tmp_path / "out" / "model")
    assert isinstance(network, Ensemble)
    assert config.calibration is None


def test_an_ensemble_of_relaxnet_gives_the_mean_of_its_paths(crystals):
    networks = members("relaxnet", 3)
    together, first = relaxer("relaxnet", networks), relaxer("relaxnet", networks[:1])
    assert together.gives_paths
    paths = together.relax_batch(crystals).paths
    single = [
        DirectRelaxer(network, first.config, path="plain").relax_batch(crystals).paths for network in networks
    ]
    for k, path in enumerate(paths):
        assert len(path) == len(single[0][k]) == networks[0].path_frames
        for frame, own in zip(path, zip(*(one[k] for one in single), strict=True), strict=True):
            for name in ("positions", "cell", "energy", "forces", "stress"):
                mean = np.mean([getattr(each, name) for each in own], axis=0)
                np.testing.assert_allclose(getattr(frame, name), mean, atol=1e-8)
    geometry = together.predict(crystals)
    np.testing.assert_allclose(
        np.concatenate([path[-1].positions for path in paths]), geometry.positions, atol=1e-8
    )
    (result,) = together.relax(bulk("CaO", "rocksalt", a=4.8))
    assert len(result.path) == networks[0].path_frames
