"""Samples, batches and losses of training."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from repose.config import SamplingSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import edge_vectors
from repose.crystal.lattice import deformation, to_cartesian
from repose.crystal.symmetry import find_space_group
from repose.data.dataset import Pair
from repose.errors import ConfigError
from repose.models.prediction import Geometry
from repose.models.reposenet.network import ReposeNet
from repose.models.reposenet.settings import ReposeNetSettings
from repose.nn.ops import segment_mean
from repose.training.losses import bond_loss, layerwise_loss, validation_errors
from repose.training.prefetch import Prefetched, prefetched
from repose.training.samples import (
    TrainingBatches,
    crystal,
    draw,
    edge_counts,
    equivalent_cell,
    perturb,
    symmetrised,
    target_of,
)
from repose.training.task import RelaxationTask
from support.crystals import perovskite, rock_salt
from support.training import TINY, path_pairs, tiny_network, train_settings


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return path_pairs()


def network(**changes):
    return tiny_network(**{"start": "input", **changes})


def test_loss_by_hand(pairs):
    """One atom of two off by 0.3 A along x, one cell entry by 0.9 A: means of 0.05 and 0.1 A, twice."""
    target = crystal(np.array([20, 8]), np.zeros((2, 3)), 4 * np.eye(3), np.ones(3, bool))
    positions, cells = target.positions.clone(), target.cells.clone()
    positions[0, 0] += 0.3
    cells[0, 0, 0] += 0.9
    state = Geometry(positions, cells)
    assert layerwise_loss([state, state], target).item() == pytest.approx(2 * (0.05 + 0.1), abs=1e-6)
    errors = {name: value.item() for name, value in validation_errors(state, target).items()}
    assert errors["shape"] == pytest.approx(4.9**2 - 16, rel=1e-5)
    assert errors["volume"] == pytest.approx(0.9 * 16, rel=1e-5)
    weighted = layerwise_loss([state], target, shape_weight=0.1, volume_weight=0.01).item()
    assert weighted == pytest.approx(0.15 + 0.1 * errors["shape"] + 0.01 * errors["volume"], rel=1e-5)
    weighted = layerwise_loss([state], target, dilation_weight=0.5).item()
    assert weighted == pytest.approx(0.15 + 0.5 * np.log(4.9 / 4), rel=1e-5)


def test_loss_is_equation_19(pairs):
    """The printed sums, divided by the count of their numbers: three an atom, nine a cell."""
    target = target_of(pairs[0])
    generator = torch.Generator().manual_seed(0)
    layers, weights = [], [0.5, 1.0, 2.0]
    for _ in weights:
        parts = target.positions, target.cells
        layers.append(Geometry(*(part + torch.randn(part.shape, generator=generator) for part in parts)))
    expected = 0.0
    for alpha, (positions, cells) in zip(weights, layers, strict=True):
        atoms = sum((r - true).abs().sum() for r, true in zip(positions, target.positions, strict=True))
        vectors = sum((l_c - true).abs().sum() for l_c, true in zip(cells[0], target.cells[0], strict=True))
        expected += alpha * (atoms / (3 * target.n_atoms) + vectors / 9)
    loss = layerwise_loss(layers, target, layer_weights=weights)
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(ConfigError, match=r"2 numbers, .* 3 times"):
        layerwise_loss(layers, target, layer_weights=weights[:2])


def test_loss_by_the_image_nearest_to_the_prediction(pairs):
    """Against the 27 images written out; several crystals at once, and a gradient."""
    targets = CrystalBatch.collate([target_of(pair) for pair in pairs[:4]])
    generator = torch.Generator().manual_seed(0)
    shift = torch.randint(-1, 2, targets.positions.shape, generator=generator).float()
    noise = 0.1 * torch.randn(targets.positions.shape, generator=generator)
    moved = targets.positions + to_cartesian(shift, targets.cells, targets.system_index) + noise
    moved.requires_grad_(True)
    state = Geometry(moved, targets.cells)
    images = torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 3)
    expected = []
    for atom, crystal_index in enumerate(targets.system_index):
        candidates = moved[atom] + images @ targets.cells[crystal_index]
        nearest = (candidates - targets.positions[atom]).norm(dim=1).argmin()
        expected.append((candidates[nearest] - targets.positions[atom]).abs().mean())
    expected = segment_mean(torch.stack(expected), targets.system_index, 4)
    got = validation_errors(state, targets, images="predicted")["coordinates"]
    assert torch.allclose(got, expected, atol=1e-5)
    assert got.max() < 0.2 < validation_errors(state, targets)["coordinates"].max()
    loss = layerwise_loss([state], targets, images="predicted")
    assert torch.isfinite(torch.autograd.grad(loss, moved)[0]).all()


def test_a_share_of_batches_begins_where_the_network_ended(pairs):
    """The same batches by the same number, none of them without the setting; the target stays."""
    sampling = {"edges_per_batch": 1500, "recycled": 0.5}
    task = RelaxationTask(network(), train_settings(sampling=sampling), pairs, pairs)
    task.train_batches.rank = 0
    sample = task.train_batches.sample(pairs[:3], np.random.default_rng(0))
    new = [task.recycle(sample, k) for k in range(20)]
    replaced = [batch is not sample for batch in new]
    assert 4 < sum(replaced) < 16
    assert replaced == [task.recycle(sample, k) is not sample for k in range(20)]
    batch = new[replaced.index(True)]
    found = task.network(sample.start, sample.graph).geometry
    assert torch.allclose(batch.start.cells, found.cells, atol=1e-5)
    assert torch.allclose(batch.start.positions, found.positions, atol=1e-5)
    assert not batch.start.positions.requires_grad
    assert batch.target is sample.target
    never = RelaxationTask(network(), train_settings(sampling={"edges_per_batch": 1500}), pairs, pairs)
    assert all(never.recycle(sample, k) is sample for k in range(20))


def test_a_share_of_what_begins_again_begins_once_more_where_there_are_three_passes(pairs):
    """Inputs of the first, the second and the third pass, each less often than the one before."""
    torch.manual_seed(0)
    thrice = ReposeNet(ReposeNetSettings.parse({**TINY, "start": "input", "passes": 3}))
    sampling = {"edges_per_batch": 1500, "recycled": 0.5}
    task = RelaxationTask(thrice, train_settings(sampling=sampling), pairs, pairs)
    task.train_batches.rank = 0
    sample = task.train_batches.sample(pairs[:3], np.random.default_rng(0))
    once = task.network(sample.start, sample.graph).geometry
    twice = task.network(*task.network.prepare_again(sample.start, once)).geometry
    inputs = [task.recycle(sample, k).start.positions for k in range(40)]
    known = sample.start.positions, once.positions, twice.positions
    met = [sum(torch.allclose(found, state, atol=1e-5) for found in inputs) for state in known]
    assert sum(met) == 40
    assert met[0] > 10
    assert min(met[1:]) > 3


def test_batches_depend_on_seed_and_epoch_alone_and_keep_the_budget(pairs):
    sampling = train_settings().sampling

    def batches(seed=0, epoch=0):
        found = TrainingBatches(pairs, network(), sampling, seed)
        found.epoch = epoch
        return list(found)

    first, again, later, other = batches(), batches(), batches(epoch=1), batches(seed=1)
    assert len(first) == sampling.epoch_steps
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.start.positions, b.start.positions)
        assert torch.equal(a.target.cells, b.target.cells)
    for changed in (later, other):
        assert any(
            a.start.positions.shape != b.start.positions.shape
            or not torch.equal(a.start.positions, b.start.positions)
            for a, b in zip(first, changed, strict=True)
        )


def test_packing_by_edges(pairs):
    net = network()
    batches = TrainingBatches(pairs, net, SamplingSettings(edges_per_batch=900, epoch_steps=12), 0)
    plan = batches.plan()
    sizes = edge_counts(net, pairs)
    assert len(plan) == 12
    for batch in plan:
        assert len(batch) == 1 or sum(sizes[i] for i in batch) <= 900
    seen = [i for batch in plan for i in batch]
    assert set(seen[: len(pairs)]) == set(range(len(pairs)))  # every crystal once in a pass


def test_batches_of_crystals_and_epochs_of_one_pass(pairs):
    sampling = SamplingSettings(crystals_per_batch=2, epoch_steps=None)

    def plan(rank, world, data=pairs):
        batches = TrainingBatches(data, network(), sampling, 0)
        batches.rank, batches.world = rank, world
        return batches.plan()

    assert [len(batch) for batch in plan(0, 1, pairs[:5])] == [2, 2, 1]
    assert sorted(i for batch in plan(0, 1) for i in batch) == list(range(len(pairs)))
    shared = [plan(rank, 2, pairs[:5]) for rank in (0, 1)]
    assert [len(own) for own in shared] == [1, 1]  # equally many
    assert not set(shared[0][0]) & set(shared[1][0])
    assert plan(1, 2, pairs[:2]) == plan(0, 1, pairs[:2])  # at least one


def test_ranks_and_workers_share_the_work(pairs):
    sampling = train_settings().sampling

    def plan(rank, world):
        batches = TrainingBatches(pairs, network(), sampling, 0)
        batches.rank, batches.world = rank, world
        return batches.plan()

    one = TrainingBatches(pairs, network(), sampling.model_copy(update={"epoch_steps": 8}), 0).plan()
    assert [b for both in zip(plan(0, 2), plan(1, 2), strict=True) for b in both] == one
    batches = TrainingBatches(pairs, network(), sampling, 0)
    in_processes = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=2)
    in_a_thread = torch.utils.data.DataLoader(Prefetched(batches), batch_size=None)
    for here, *others in zip(batches, in_processes, in_a_thread, in_a_thread, strict=True):
        for other in others:
            assert torch.equal(here.start.positions, other.start.positions)
            assert torch.equal(here.graph.sender, other.graph.sender)
            assert torch.equal(here.target.cells, other.target.cells)


def test_items_are_prepared_ahead_in_order_and_errors_come_in_their_place():
    taken = []

    def items():
        for k in range(5):
            taken.append((k, threading.get_ident()))
            yield k
        raise ValueError("the sixth")

    found = prefetched(items(), ahead=2)
    assert [next(found) for _ in range(2)] == [0, 1]
    assert len(taken) <= 4
    assert [next(found) for _ in range(3)] == [2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(found)
    assert len({thread for _, thread in taken} - {threading.get_ident()}) == 1
    assert list(prefetched([])) == []
    begun = prefetched(items())
    next(begun)
    begun.close()  # ends the thread


def test_crystals_are_batched_at_once_as_one_by_one(pairs):
    columns = ([getattr(p, name) for p in pairs] for name in ("numbers", "positions", "cell", "pbc"))
    stacked = CrystalBatch.stack(*columns, torch.float32)
    single = CrystalBatch.collate([crystal(p.numbers, p.positions, p.cell, p.pbc) for p in pairs])
    for name in ("numbers", "positions", "cells", "system_index", "pbc"):
        assert torch.equal(getattr(stacked, name), getattr(single, name)), name


def test_noised_copies_keep_the_origin_and_the_vacuum(pairs):
    rng = np.random.default_rng(0)
    sampling = SamplingSettings(strain=0.05, dilation=0.05, rattle=0.2)
    for pair in pairs:
        positions, cell = perturb(pair, sampling, rng)
        before = (pair.relaxed_positions @ np.linalg.inv(pair.relaxed_cell)).mean(axis=0)
        assert np.allclose((positions @ np.linalg.inv(cell)).mean(axis=0), before, atol=1e-10)
        assert not np.allclose(cell, pair.relaxed_cell, atol=1e-3)
    sheet = Pair(
        **{**vars(pairs[0]), "pbc": np.array([True, True, False]), "relaxed_cell": np.diag([3.0, 3.0, 20.0])}
    )
    _, cell = perturb(sheet, sampling, rng)
    assert np.allclose(cell[2], [0, 0, 20.0])
    assert np.allclose(cell[:2, 2], 0)
    # The strain of a wire along a is along a, whatever the angle between the vectors that do not repeat.
    tilted = np.array([[3.0, 0.0, 0.0], [0.0, 20.0, 0.0], [0.0, 12.0, 16.0]])
    wire = Pair(
        **{**vars(pairs[0]), "pbc": np.array([True, False, False]), "relaxed_cell": tilted},
    )
    _, cell = perturb(wire, sampling, rng)
    assert np.allclose(cell[1:], tilted[1:], atol=1e-12)
    assert np.allclose(cell[0, 1:], 0, atol=1e-12)
    assert abs(cell[0, 0] - 3.0) > 1e-4


@pytest.mark.parametrize("make", [rock_salt, perovskite])
def test_symmetric_perturbations_keep_the_space_group_and_their_size(make):
    """Of rock salt the volume alone is free, of a perovskite with a displaced B atom its position, too."""
    one = make()
    positions = one.positions.numpy().copy()
    if make is perovskite:
        positions[1] += [0.0, 0.0, 0.2]
    crystals = [one.numbers.numpy(), np.ones(3, bool), positions, one.cells[0].numpy()]
    pair = Pair("a", *crystals, *crystals[2:])
    before = find_space_group(pair.numbers, *crystals[2:], pair.pbc)
    rng = np.random.default_rng(0)
    sampling = SamplingSettings(symmetric=1.0, strain=0.05, dilation=0.02, rattle=0.1)
    for _ in range(5):
        positions, cell = perturb(pair, sampling, rng)
        after = find_space_group(pair.numbers, positions, cell, pair.pbc)
        assert after.number == before.number
        assert not np.allclose(cell, pair.cell, atol=1e-4)
        moved = positions @ np.linalg.inv(cell) - pair.positions @ np.linalg.inv(pair.cell)
        assert np.allclose(moved, 0, atol=1e-9) == (make is rock_salt)
    strain, rattle = rng.normal(size=(3, 3)), rng.normal(size=positions.shape)
    strain = strain + strain.T
    new_strain, new_rattle = symmetrised(pair, strain, rattle)
    assert np.linalg.norm(new_strain) == pytest.approx(np.linalg.norm(strain))
    sizes = 0, np.linalg.norm(rattle)
    assert np.linalg.norm(new_rattle) == pytest.approx(sizes[make is perovskite], abs=1e-9)


def test_inputs_at_all_distances_are_even_in_the_logarithm(pairs):
    """Three decades: the logarithms of the weights of interpolation and of the noise are uniform."""
    rng = np.random.default_rng(0)
    sampling = SamplingSettings(interpolated=1.0, decades=3.0)
    pair = pairs[0]
    way = pair.cell - pair.relaxed_cell
    k = np.unravel_index(np.abs(way).argmax(), way.shape)
    weights = []
    for _ in range(400):
        drawn = draw(pair, sampling, rng)
        weights.append(((drawn.cell - pair.relaxed_cell) / way[k])[k])
        expected = pair.relaxed_positions + weights[-1] * (pair.positions - pair.relaxed_positions)
        assert np.allclose(drawn.positions, expected, atol=1e-6)
    logs = np.log10(weights)
    assert np.allclose(np.quantile(logs, [0, 0.25, 0.5, 0.75, 1]), [-3, -2.25, -1.5, -0.75, 0], atol=0.2)
    relaxed = replace(pair, positions=pair.relaxed_positions, cell=pair.relaxed_cell)
    sampling = SamplingSettings(relaxed=0.25, denoising=0.1, decades=3.0)
    moves = np.array(
        [np.abs(draw(relaxed, sampling, rng).positions - pair.relaxed_positions).mean() for _ in range(400)]
    )
    assert 0.2 < (moves == 0).mean() < 0.3
    low, high = np.log10(np.quantile(moves[moves > 0], [0.1, 0.9]))
    assert 1.2 < high - low < 2.4
    left_alone = draw(relaxed, SamplingSettings(interpolated=1.0), rng)
    assert np.allclose(left_alone.positions, pair.relaxed_positions)


def test_rewriting_changes_the_description_and_not_the_crystal(pairs):
    from ase import Atoms
    from pymatgen.core.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    rng = np.random.default_rng(1)
    doubled = 0
    for pair in pairs * 3:
        states = [(pair.positions, pair.cell), (pair.relaxed_positions, pair.relaxed_cell)]
        numbers, new = equivalent_cell(pair.numbers, states, rng)
        doubled += len(numbers) == 2 * len(pair.numbers)
        for (positions, cell), (new_positions, new_cell) in zip(states, new, strict=True):
            structures = [
                AseAtomsAdaptor.get_structure(Atoms(z, r, cell=c, pbc=True))
                for z, r, c in ((pair.numbers, positions, cell), (numbers, new_positions, new_cell))
            ]
            assert StructureMatcher(0.01, 0.01, 0.1, scale=False).fit(*structures)
        old, rewritten = (
            deformation(*(torch.as_tensor(s[1])[None] for s in pair_of_states))
            for pair_of_states in (states, new)
        )
        assert torch.allclose(old, rewritten, atol=1e-9)
    assert 0 < doubled < 3 * len(pairs)


def test_inputs_are_drawn_as_the_settings_say(pairs):
    pair = pairs[0]
    plain = draw(pair, SamplingSettings(), np.random.default_rng(0))
    assert np.array_equal(plain.positions, pair.positions)
    rng = np.random.default_rng(0)
    inner = {frame.positions[0, 0] for frame in pair.path[1:-1]}
    drawn = {draw(pair, SamplingSettings(path_frames=1.0), rng).positions[0, 0] for _ in range(40)}
    assert drawn <= inner
    assert len(drawn) > 1
    perturbed = draw(pair, SamplingSettings(denoising=1.0), rng)
    assert np.array_equal(perturbed.relaxed_positions, pair.relaxed_positions)
    assert not np.allclose(perturbed.positions, pair.positions, atol=1e-3)
    noisy = [draw(pair, SamplingSettings(noise=0.1), rng).positions - pair.positions for _ in range(200)]
    assert np.std(noisy) == pytest.approx(0.1, rel=0.1)


def test_charges_follow_the_atoms_of_a_double_cell(pairs):
    rng, charged = np.random.default_rng(0), replace(pairs[0], charges=pairs[0].numbers / 10)
    drawn = [draw(charged, SamplingSettings(rewritten=1.0), rng) for _ in range(10)]
    assert len({len(pair.numbers) for pair in drawn}) == 2
    assert all(np.array_equal(pair.charges, pair.numbers / 10) for pair in drawn)


def test_mixed_precision_rounds_features_and_not_geometry(pairs):
    """bfloat16 has steps of 0.03 A at 5 A; what the network adds may be rounded, what it adds to may not."""
    net = network(frame="affine").eval()
    with torch.no_grad():
        for layer in net.layers:  # a network that leaves the cell as it is
            layer.lattice_update.axes[0].head.weight.zero_()
        for pair in pairs:
            start, graph = net.prepare(crystal(pair.numbers, pair.positions, pair.cell, pair.pbc))
            with torch.autocast("cpu", torch.bfloat16):
                state = net(start, graph).geometry
                errors = validation_errors(state, start)
                vectors = edge_vectors(graph, start.positions, start.cells)
            assert torch.equal(vectors, edge_vectors(graph, start.positions, start.cells))
            assert state.cells.dtype == torch.float32
            assert torch.allclose(state.cells, start.cells, atol=1e-5)
            assert errors["volume"].item() < 1e-3
            assert errors["shape"].item() < 1e-4


def test_batches_are_prepared_on_the_cpu_wherever_the_network_is(pairs):
    """The device "meta" stands in for a GPU: nothing on it can be read from the CPU."""
    task = RelaxationTask(network(start="rescaled"), train_settings(), pairs, pairs).to("meta")
    assert next(task.network.parameters()).device.type == "meta"
    for batches in (task.train_batches, task.val_batches):
        sample = next(iter(batches))
        assert sample.start.positions.device.type == "cpu"
        assert torch.isfinite(sample.start.positions).all()


def test_a_step_that_is_not_finite_is_left_out(pairs):
    net = network()
    task = RelaxationTask(net, train_settings(), pairs, pairs)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)

    def step(value):
        before = [p.clone() for p in net.parameters()]
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, 0.01)
        next(net.parameters()).grad.view(-1)[0] = value
        task.configure_gradient_clipping(optimizer, gradient_clip_val=1.0)
        optimizer.step()
        return [not torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True)]

    assert all(step(0.01))
    assert not any(step(float("inf")))
    assert not any(step(float("nan")))


def test_errors_within_the_tolerance_count_as_squares(pairs):
    """0.3 A of one of six components with a tolerance of 0.1 A: 0.09 / 0.4; and a gradient at zero."""
    target = crystal(np.array([20, 8]), np.zeros((2, 3)), 4 * np.eye(3), np.ones(3, bool))
    positions = target.positions.clone()
    positions[0, 0] += 0.3
    state = Geometry(positions.requires_grad_(), target.cells)
    loss = layerwise_loss([state], target, tolerance=0.1)
    assert loss.item() == pytest.approx(0.09 / 0.4 / 6, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, positions)
    assert gradient[0, 0] > 0
    assert (gradient[1] == 0).all()


def test_errors_of_bonds_are_weighted_by_the_inverse_sixth_power(pairs):
    """Zero at the target; of a crystal one percent too long the weighted mean of a percent of the lengths."""
    target = CrystalBatch.collate([target_of(pair) for pair in pairs[:2]])
    _, graph = network().prepare(target)
    state = Geometry(target.positions, target.cells)
    assert bond_loss(state, graph, target).item() == pytest.approx(0, abs=1e-6)
    lengths = edge_vectors(graph, *state).norm(dim=-1)
    expected = []
    for index in range(2):
        own = lengths[graph.system_index == index]
        expected.append((0.01 * own * own**-6).sum() / (own**-6).sum())
    longer = Geometry(1.01 * target.positions, 1.01 * target.cells)
    assert bond_loss(longer, graph, target).item() == pytest.approx(float(np.mean(expected)), rel=1e-3)
