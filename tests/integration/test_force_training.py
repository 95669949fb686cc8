"""Training on what acts on crystals: what is drawn, the loss, and the commands a user types."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from repose import load
from repose.config import TrainSettings
from repose.data.dataset import DatasetInfo, write_dataset
from repose.data.importers.formats import import_extxyz
from repose.errors import ConfigError, DatasetError, ModelError
from repose.models.checkpoint import load_config, load_model
from repose.models.initial_structure import build_graph
from repose.models.prediction import Motion
from repose.training.forces import (
    STEP,
    STRAIN,
    ForceTask,
    collate_frames,
    compress,
    force_loss,
    force_task,
    labelled,
    pseudo_huber,
    residuals,
    subtract_reference,
)
from repose.training.run import train
from support.paths import PATHS
from support.tiny import random_relaxer

TINY = {"features": 8, "layers": 2, "n_basis": 8, "embedding": "properties", "start": "rescaled"}


@pytest.fixture(scope="module")
def pairs():
    """Crystals of the sample file with two labelled frames or more."""
    found = labelled(list(import_extxyz(PATHS)))
    assert len(found) > 3
    return found


@pytest.fixture(scope="module")
def dataset(pairs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / "paths"
    split = [replace(pair, split="val" if k == 0 else "train") for k, pair in enumerate(pairs)]
    write_dataset(directory, DatasetInfo(name="paths", calculator="CHGNet"), split)
    return directory


def settings(**changes) -> TrainSettings:
    values = {
        "target": "forces",
        "model": TINY,
        "sampling": {"edges_per_batch": 1500, "epoch_steps": 4},
        "learning_rate": 3e-3,
        "max_epochs": 2,
    }
    return TrainSettings.parse({**values, **changes})


def network(**options):
    return random_relaxer("reposenet", **{**TINY, **options}).network.float().train().requires_grad_(True)


def sample_of(pairs, frame=0):
    return collate_frames(network(), pairs, [pair.path[frame] for pair in pairs])


def test_a_sample_is_the_frame_where_it_stands(pairs):
    """Volumes are not rescaled; the virial is minus stress times volume per atom."""
    sample = sample_of(pairs)
    first = np.stack([pair.path[0].cell for pair in pairs])
    assert np.allclose(sample.start.cells, first, atol=1e-5)
    pair, frame = pairs[0], pairs[0].path[-1]
    calm = replace(frame, stress=1e-6 * np.diag([1.0, 2.0, 3.0]), forces=1e-5 * frame.forces)
    acting = collate_frames(network(), [pair], [calm]).forces
    volume = abs(np.linalg.det(frame.cell)) / len(pair.numbers)
    assert np.allclose(acting.virials[0], -calm.stress * volume, rtol=1e-4, atol=1e-12)
    centred = calm.forces - calm.forces.mean(axis=0)
    assert np.allclose(acting.forces, centred, rtol=1e-3, atol=1e-9)
    assert acting.energies[0].item() == pytest.approx(frame.energy / len(pair.numbers), rel=1e-5)
    moved = sample.to(torch.device("cpu"))
    assert torch.equal(moved.forces.virials, sample.forces.virials)


def test_energies_are_those_beyond_the_elements(pairs):
    """Energies that are sums over atoms leave nothing."""
    reference = np.linspace(-8, 3, 119)
    sums = [
        replace(p, path=tuple(replace(f, energy=reference[p.numbers].sum()) for f in p.path)) for p in pairs
    ]
    assert all(abs(f.energy) < 1e-9 for pair in subtract_reference(sums, reference) for f in pair.path)
    task, _ = force_task(network(), settings(), pairs, pairs)
    left = [f.energy / len(p.numbers) for p in task.train_batches.pairs for f in (p.path[0], p.path[-1])]
    assert np.std(left) < np.std([f.energy / len(p.numbers) for p in pairs for f in p.path])


def test_compression_keeps_directions_and_small_lengths():
    vectors = torch.tensor([[1e-4, 0.0, 0.0], [0.0, 3.0, 4.0], [0.0, 0.0, -1e6]])
    short = compress(vectors, 2.0)
    assert torch.allclose(short[0], vectors[0], rtol=1e-3)
    assert torch.allclose(short[1], vectors[1] / (1 + 5 / 2))
    assert short[2, 2].item() == pytest.approx(-2.0, rel=1e-4)
    assert torch.isfinite(compress(torch.zeros(2, 3, 3), 5.0)).all()


def test_lengths_are_squares_below_and_lengths_above():
    assert pseudo_huber(torch.tensor([[1e-3, 0.0]]), 0.1).item() == pytest.approx(1e-6 / 0.2, rel=1e-2)
    assert pseudo_huber(torch.tensor([[30.0, 40.0]]), 0.1).item() == pytest.approx(49.9, rel=1e-4)


def test_the_loss_vanishes_where_the_layers_say_what_acts(pairs):
    acting, owner = (sample := sample_of(pairs)).forces, sample.start.system_index
    right = Motion(STEP * acting.forces, STRAIN * acting.virials)
    assert force_loss(right, acting, owner).item() == pytest.approx(0.0, abs=1e-6)
    wrong = right._replace(steps=-right.steps)
    assert force_loss(wrong, acting, owner).item() > 0.01
    assert torch.allclose(residuals(wrong, acting)[0], -2 * acting.forces, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_readouts_at_rest_turn_with_the_crystal(pairs, tied):
    net = random_relaxer("reposenet", tied=tied).network
    batch = sample_of(pairs).start.to(dtype=torch.float64)
    turn = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )[0]
    turned = batch.with_geometry(batch.positions @ turn, batch.cells @ turn)
    before, scalars = net.readout_forces(batch, build_graph(batch, net.settings.graph))
    after, same = net.readout_forces(turned, build_graph(turned, net.settings.graph))
    assert len(before) == net.settings.layers
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one.steps @ turn, other.steps, atol=1e-8)
        assert torch.allclose(turn.T @ one.strains @ turn, other.strains, atol=1e-8)
        assert one.steps.abs().max() > 1e-6
    assert torch.allclose(scalars, same, atol=1e-8)


def test_nothing_moves_in_the_first_layer_of_either_way(pairs):
    """The first layer of a forward pass sees the crystal at rest: its displacements are those read out."""
    net = random_relaxer("reposenet", layers=1).network
    batch = sample_of(pairs).start.to(dtype=torch.float64)
    graph = build_graph(batch, net.settings.graph)
    (motion,), _ = net.readout_forces(batch, graph)
    cells = net(batch, graph).geometry.cells
    assert torch.allclose(cells, batch.cells @ torch.linalg.matrix_exp(motion.strains), atol=1e-10)


def test_it_learns(pairs):
    """Adam on one batch brings the loss down, energies too."""
    torch.manual_seed(0)
    task, said = force_task(network(features=16), settings(), pairs, pairs)
    assert said == f"{sum(len(p.path) for p in pairs)} frames of {len(pairs)} crystals"
    sample = task.train_batches.sample(pairs[:4], np.random.default_rng(0))
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(60):
        loss = task.loss(task.predict(task.network, sample), sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    errors = task.errors(task.predict(task.network, sample), sample)
    assert set(errors) == {name for name, _ in ForceTask.reported} | {"score"}


def test_frames_without_labels_are_left_out(pairs):
    first, *rest = pairs
    bare = replace(first, path=(*first.path, replace(first.path[0], stress=None)))
    assert len(labelled([bare, *rest])[0].path) == len(first.path)
    with pytest.raises(DatasetError, match="got 0 such crystals for training"):
        force_task(network(), settings(), [replace(first, path=())], pairs)
    with pytest.raises(ConfigError, match="family 'e3relax' cannot be trained on forces; family 'reposenet'"):
        force_task(random_relaxer("e3relax").network, settings(), pairs, pairs)


def test_frames_are_not_recycled(dataset, tmp_path):
    run = settings(sampling={"recycled": 0.5})
    with pytest.raises(ConfigError, match=r"sampling\.recycled is for training on relaxed crystals"):
        train("reposenet", [dataset], tmp_path / "run", run, device="cpu", progress="none")


def test_from_forces_to_relaxed_crystals(dataset, tmp_path):
    """A run on forces begins a run on relaxed crystals; alone it relaxes none."""
    out = tmp_path / "forces"
    train("reposenet", [dataset], out, settings(), device="cpu", progress="none")
    config = load_config(out / "model")
    assert config.target == "forces"
    assert config.calibration is None
    assert set(config.test_error) == {"val forces (eV/A)", "val virial (eV/atom)", "val energy (eV/atom)"}
    assert "frames of" in config.trained_on
    with pytest.raises(
        ModelError, match="trained on forces and does not relax; train a model from it: repose train"
    ):
        load(out)
    before = load_model(out / "model")[0].state_dict()
    run = settings(target="relaxed", model={"passes": 2}, learning_rate=1e-9, max_epochs=1)
    model = train(
        "reposenet", [dataset], tmp_path / "tuned", run, init_from=out, device="cpu", progress="none"
    )
    network = load_model(model)[0]
    after = network.state_dict()
    assert torch.allclose(
        before["layers.0.readout.vector.weight"], after["layers.0.readout.vector.weight"], atol=1e-6
    )
    assert network.passes == 2  # weights do not depend on it, so the start need not have it
    assert load(model).relax is not None
    written = json.loads((tmp_path / "tuned" / "train.json").read_text())
    assert written["settings"]["target"] == "relaxed"


def test_a_run_on_forces_goes_on(dataset, tmp_path, monkeypatch):
    """Stopped after an epoch, with the energies' head: weights are those of a run that was not stopped."""
    whole = train("reposenet", [dataset], tmp_path / "whole", settings(), device="cpu", progress="none")
    begin = ForceTask.on_train_epoch_start

    def stop(self):
        if self.trainer.current_epoch == 1:
            raise KeyboardInterrupt
        begin(self)

    def run():
        return train("reposenet", [dataset], tmp_path / "again", settings(), device="cpu", progress="none")

    monkeypatch.setattr(ForceTask, "on_train_epoch_start", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run()
    monkeypatch.setattr(ForceTask, "on_train_epoch_start", begin)
    again = run()
    one, other = (load_model(model)[0].state_dict() for model in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
