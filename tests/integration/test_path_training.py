"""Training on whole paths: what is drawn, the loss, and the commands a user types."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.io import read

from repose.config import PathSettings, SamplingSettings
from repose.crystal.lattice import volume
from repose.data.dataset import DatasetInfo, write_dataset
from repose.data.frames import evenly_spaced, fit_reference_energies
from repose.data.importers.formats import Source, import_extxyz, import_source
from repose.errors import DatasetError
from repose.models.prediction import Geometry, Prediction
from repose.training.paths import (
    PathBatches,
    ValidationPaths,
    collate_paths,
    draw_path,
    huber,
    path_errors,
    path_loss,
    path_task,
)
from repose.training.run import TrainSettings
from support.paths import PATHS
from support.tiny import random_relaxer

SMALL = {
    "triplets": 4,
    "frames": 2,
    "n_basis": 8,
    "n_bessel": 2,
    "channels": 2,
    "features": 8,
    "heads": 2,
    "layers": 1,
}
NOTHING = {name: 0.0 for name in PathSettings.model_fields if name != "form"}


@pytest.fixture(scope="module")
def pairs():
    """Crystals with the whole of their paths."""
    return [pair for pair in import_extxyz(PATHS) if len(pair.path) >= 2]


def make_network(**options):
    return random_relaxer("relaxnet", **{**SMALL, **options}).network.float()


def perfect(sample) -> Prediction:
    """What a network would say that knows the paths."""
    frames = [Geometry(*frame) for frame in zip(sample.frames.positions, sample.frames.cells, strict=True)]
    return Prediction(frames[1:], torch.zeros(len(sample.start), 8), trajectory=sample.frames)


def sample_of(pairs, n=2):
    return collate_paths(make_network(frames=n), pairs, [evenly_spaced(pair.path, n) for pair in pairs])


def test_a_sample_holds_the_frames_in_order(pairs):
    sample = sample_of(pairs)
    first = np.concatenate([pair.path[0].positions for pair in pairs])
    last = np.concatenate([pair.path[-1].forces for pair in pairs])
    assert np.allclose(sample.start.positions, first, atol=1e-5)
    assert np.allclose(sample.frames.positions[0], first, atol=1e-5)
    assert np.allclose(sample.frames.forces[-1], last, atol=1e-5)
    assert np.allclose(sample.frames.energies[1], [pair.path[-1].energy for pair in pairs])
    assert sample.frames.stresses.shape == (2, len(pairs), 3, 3)
    moved = sample.to(torch.device("cpu"))
    assert torch.equal(moved.frames.cells, sample.frames.cells)


def test_the_loss_vanishes_for_the_path_itself_and_counts_each_term_alone(pairs):
    sample = sample_of(pairs)
    known, atoms = sample.frames, sample.start.counts
    assert float(path_loss(perfect(sample), sample, PathSettings(rise=0.0))) == pytest.approx(0, abs=1e-4)

    def loss(term, **changed):
        wrong = perfect(sample)._replace(trajectory=known._replace(**changed))
        return float(path_loss(wrong, sample, PathSettings.parse({**NOTHING, term: 1.0})))

    assert loss("energy", energies=known.energies + 0.3 * atoms) == pytest.approx(0.3, rel=1e-4)
    rising = torch.stack([known.energies[0], known.energies[0] + 0.2 * atoms])
    assert loss("rise", energies=rising) == pytest.approx(0.2, rel=1e-4)
    assert loss("rise", energies=rising.flip(0)) == 0
    assert loss("forces", forces=known.forces + 0.5) == pytest.approx(0.25, rel=1e-4)
    assert loss("forces", forces=known.forces + 3.0) == pytest.approx(2 * 3.0 - 1, rel=1e-4)
    shift = 0.1 * atoms[:, None, None] / volume(known.cells)[..., None, None]
    assert loss("stress", stresses=known.stresses + shift) == pytest.approx(0.01, rel=1e-3)
    later = torch.tensor([0.0, 1.0])[:, None, None]
    assert loss("displacement", positions=known.positions + 0.2 * later) == pytest.approx(0.2, rel=1e-4)
    straight = torch.zeros_like(known.positions)
    assert loss("direction", positions=known.positions + straight) == pytest.approx(0, abs=0.05)


def test_unknown_stress_does_not_count(pairs):
    bare = [replace(pair, path=tuple(replace(frame, stress=None) for frame in pair.path)) for pair in pairs]
    sample = sample_of(bare)
    assert sample.frames.stresses.isnan().all()
    answer = perfect(sample)._replace(
        trajectory=sample.frames._replace(stresses=torch.ones_like(sample.frames.stresses))
    )
    assert float(path_loss(answer, sample, PathSettings(rise=0.0))) == pytest.approx(0, abs=1e-4)


def test_huber_go_on_as_lines():
    error = torch.tensor([0.5, -1.0, 2.0, -4.0], requires_grad=True)
    value = huber(error, 1.0)
    assert value.tolist() == pytest.approx([0.25, 1.0, 3.0, 7.0])
    value.sum().backward()
    assert error.grad.tolist() == pytest.approx([1.0, -2.0, 2.0, -2.0])


def test_errors_of_paths_are_per_atom_and_per_crystal(pairs):
    sample = sample_of(pairs)
    known, atoms = sample.frames, sample.start.counts
    energies = known.energies + torch.tensor([[0.0], [0.4]]) * atoms
    wrong = known._replace(energies=energies, forces=known.forces + 0.1)
    found = path_errors(wrong, known, sample.start.system_index)
    assert found.energy.tolist() == pytest.approx([0.2] * len(pairs), rel=1e-4)
    assert found.forces.tolist() == pytest.approx([0.1] * len(pairs), rel=1e-4)
    assert torch.allclose(found.rise, energies.diff(dim=0)[0] / atoms)


def test_paths_may_begin_later(pairs):
    (pair,) = [pair for pair in pairs if len(pair.path) == max(len(other.path) for other in pairs)][:1]
    rng, always = np.random.default_rng(0), SamplingSettings(path_frames=1.0)
    starts = {draw_path(pair, 2, always, rng)[0].energy for _ in range(200)}
    assert starts == {frame.energy for frame in pair.path[1:-1]}
    assert all(draw_path(pair, 2, always, rng)[-1] is pair.path[-1] for _ in range(20))
    assert draw_path(pair, 2, SamplingSettings(path_frames=0.0), rng)[0] is pair.path[0]


def test_noise_is_on_the_inputs_alone(pairs):
    """The reference keeps its frames and labels; validation has no noise."""
    network, settings = make_network(), SamplingSettings(noise=0.1, epoch_steps=5)
    moved = []
    for sample in PathBatches(pairs, network, settings, 0):
        moved.append(sample.start.positions - sample.frames.positions[0])
        known = {tuple(pair.path[0].positions[0].astype(np.float32)) for pair in pairs}
        assert {tuple(row.numpy()) for row in sample.frames.positions[0]} & known
    assert float(torch.cat(moved).std()) == pytest.approx(0.1, rel=0.2)
    (held_out,) = ValidationPaths(pairs, network, 10**6)
    assert torch.equal(held_out.start.positions, held_out.frames.positions[0])


@pytest.mark.parametrize("form", ["per-atom", "published"])
def test_the_static_model_is_trained_on_the_ends_of_paths(pairs, form):
    network = make_network(evolution="static", references=False, frames=5)
    task, _ = path_task(network, TrainSettings.parse({"paths": {"form": form}}), pairs, pairs)
    assert not network.reference_energies.any()
    (batch,) = task.val_batches
    assert batch.frames.energies.shape == (2, len(pairs))
    loss = task.loss(network.train()(batch.start, batch.graph), batch)
    loss.backward()
    gradients = [p.grad for name, p in network.named_parameters() if name.startswith("layers.0.steps")]
    assert gradients
    assert all(bool(gradient.isfinite().all()) and bool(gradient.any()) for gradient in gradients)


def test_batches_are_a_function_of_seed_and_epoch(pairs):
    network, settings = make_network(), SamplingSettings(edges_per_batch=500, epoch_steps=3, path_frames=0.5)
    draws = [list(PathBatches(pairs, network, settings, seed)) for seed in (1, 1, 2)]
    same = [torch.equal(a.frames.energies, b.frames.energies) for a, b in zip(*draws[:2], strict=True)]
    assert len(same) == 3
    assert all(same)
    held_out = list(ValidationPaths(pairs, network, 10**6))
    assert sum(len(sample.start) for sample in held_out) == len(pairs)


def test_reference_energies_are_found_again(pairs):
    atomic = np.zeros(119)
    elements = sorted({int(z) for pair in pairs for z in pair.numbers})
    atomic[elements] = np.linspace(-3, 2, len(elements))

    def with_energies(pair):
        energy = float(atomic[pair.numbers].sum())
        return replace(pair, path=tuple(replace(frame, energy=energy) for frame in pair.path))

    known = [with_energies(pair) for pair in pairs]
    fitted, left = fit_reference_energies(known, 2)
    for pair in known:
        assert fitted[pair.numbers].sum() == pytest.approx(atomic[pair.numbers].sum(), abs=1e-8)
    assert left == pytest.approx(0, abs=1e-8)


def test_fine_tuning_begins_with_the_zeros_of_energy_of_the_new_data(pairs):
    """As from one code to another: every element has a zero of its own."""
    network = make_network()
    path_task(network, TrainSettings(), pairs, pairs)
    before = network.reference_energies.clone()

    def shifted(pair):
        energy = float((0.1 * pair.numbers).sum())
        path = tuple(replace(frame, energy=frame.energy + energy) for frame in pair.path)
        return replace(pair, path=path)

    def errors(known):
        (sample,) = ValidationPaths(known, network, 10**6)
        with torch.no_grad():
            found = network(sample.start, sample.graph).trajectory
        return (found.energies - sample.frames.energies) / sample.start.counts

    network.eval()
    path_task(network, TrainSettings(), pairs, pairs)
    own = errors(pairs)
    path_task(network, TrainSettings(), [shifted(pair) for pair in pairs], pairs)
    elements = sorted({int(z) for pair in pairs for z in pair.numbers})
    assert torch.allclose(errors([shifted(pair) for pair in pairs]), own, atol=1e-4)
    assert float((network.reference_energies - before)[elements].abs().min()) > 0.1
    untouched = [z for z in range(119) if z not in elements]
    assert not network.reference_energies[untouched].any()


def test_frames_without_labels_are_never_drawn(pairs):
    """As steps of a DFT code whose electrons did not converge."""
    (pair,) = [pair for pair in pairs if len(pair.path) >= 4][:1]
    bare = replace(pair.path[1], energy=None, forces=None)
    patchy = replace(pair, path=(pair.path[0], bare, *pair.path[2:]))
    task, _ = path_task(make_network(), TrainSettings(), [patchy], [patchy])
    always = SamplingSettings(path_frames=1.0, epoch_steps=20, edges_per_batch=1)
    batches = PathBatches(task.train_batches.pairs, task.network, always, 0)
    assert all(bool(sample.frames.energies.isfinite().all()) for sample in batches)


def test_without_paths_nothing_can_be_learned(pairs):
    bare = [replace(pair, path=()) for pair in pairs]
    with pytest.raises(DatasetError, match="needs paths of 2 frames"):
        path_task(make_network(), TrainSettings(), bare, pairs)
    with pytest.raises(DatasetError, match="too short"):
        path_task(make_network(frames=50), TrainSettings(), pairs, pairs)


def test_a_model_with_charges_needs_them_for_all_crystals(pairs):
    charged = [replace(pair, charges=np.ones(len(pair.numbers))) for pair in pairs]
    task, _ = path_task(make_network(charges=True), TrainSettings(), charged, charged)
    assert all(sample.start.charges is not None for sample in task.val_batches)
    with pytest.raises(DatasetError, match=rf"1 of {2 * len(pairs)} crystals have none.*OUTCAR"):
        path_task(make_network(charges=True), TrainSettings(), [*charged[1:], pairs[0]], charged)


def test_train_relax_and_read_the_path_again(repose, pairs, tmp_path):
    """As a user would: train, relax with --path, import what came out. Short paths do not count."""
    splits = ["train"] * (len(pairs) - 1) + ["val"]
    split = [replace(pair, split=name) for pair, name in zip(pairs, splits, strict=True)]
    short = [replace(pair, id=f"short-{pair.id}", path=pair.path[:1]) for pair in split]
    write_dataset(tmp_path / "data", DatasetInfo(name="data"), split + short)
    settings = {"model": SMALL, "sampling": {"epoch_steps": 2}, "max_epochs": 2, "paths": {"energy": 2.0}}
    settings |= {"crystals": len(pairs) - 1, "validation_crystals": 1}
    (tmp_path / "train.json").write_text(json.dumps(settings))
    run, crystal, way = tmp_path / "run", tmp_path / "crystal.extxyz", tmp_path / "out" / "way.extxyz"
    status, _, err = repose(
        "train", "--model", "relaxnet", "--data", tmp_path / "data", "--config", tmp_path / "train.json",
        "--out", run, "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    assert f"{len(pairs) - 1} of {len(pairs) - 1} crystals have paths of 2 frames" in err
    assert ", energy " in err
    assert json.loads((run / "train.json").read_text())["settings"]["paths"]["energy"] == 2.0

    atoms = read(PATHS, index=0)
    atoms.calc = None
    atoms.write(crystal)
    options = ("--out", tmp_path / "out", "--path", way, "--symmetry", "free", "--device", "cpu")
    status, out, err = repose("relax", crystal, "--model", run, *options, "--json")
    assert status == 0, err
    frames = read(way, index=":")
    assert len(frames) == 2
    assert np.allclose(frames[0].positions, atoms.positions, atol=1e-4)
    relaxed = read(json.loads(out)["output"])
    assert np.allclose(frames[-1].positions, relaxed.positions, atol=1e-4)
    assert np.isfinite(frames[0].get_potential_energy())
    assert frames[0].get_forces().shape == (len(atoms), 3)
    assert frames[0].get_stress().shape == (6,)
    (again,) = import_source(Source(way, "extxyz"))
    assert len(again.path) == 2
    assert again.path[1].energy == pytest.approx(frames[1].get_potential_energy(), abs=1e-6)

    status, _, err = repose("relax", crystal, "--model", "e3relax", *options)
    assert status == 2
    assert "predicts no paths; use --model relaxnet" in err
    status, _, err = repose("relax", crystal, "--model", run, "--path", crystal, "--out", tmp_path / "o")
    assert status == 2
    assert "would replace an input" in err
