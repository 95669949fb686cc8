"""DeepRelax: its equations written out, symmetries in float64, options, what it must not hide."""

import math

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from repose.config import TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import to_cartesian
from repose.io import convert
from repose.models.deeprelax.network import DeepRelax, PaEGNNLayer, PairHead, offset_codes, offset_index
from repose.models.deeprelax.settings import DeepRelaxSettings
from repose.nn.messages import EdgeGeometry
from repose.nn.radial import GaussianBasis
from repose.testing import CHECKS, ContractError, check_relaxer
from repose.training.losses import distance_loss, training_loss
from support.crystals import fcc, make_crystal, perovskite, random_crystal, rock_salt
from support.deeprelax import OURS, deeprelax_relaxer

OPTIONS = {
    "paper with strain": {},
    "w/o offsets": {"offsets": False},
    "w/o scales": {"bond_uncertainty": False},
    "neither": {"offsets": False, "bond_uncertainty": False},
    "change": {"distances": "change"},
    "change, affine": {"distances": "change", "frame": "affine"},
    "all anchors": {"anchors": "all"},
    "rescaled": {"start": "rescaled"},
    "likelihood": {"positions": "likelihood", "distances": "change"},
    "ours": OURS,
    "ours, likelihood": {**OURS, "positions": "likelihood"},
}


def fluorite() -> CrystalBatch:
    return convert.to_batch(bulk("CaF2", "fluorite", a=5.5))


# The equations


def test_codes_of_offsets():
    """Equations 2 and 3, number by number."""
    f = 10
    codes = offset_codes(f)
    assert codes.shape == (125, f)
    for k in range(125):
        for even in range(0, f, 2):
            assert codes[k, even] == pytest.approx(math.sin(k / 10000 ** (even / f)), abs=1e-5)
            assert codes[k, even + 1] == pytest.approx(math.cos(k / 10000 ** (even / f)), abs=1e-5)
    assert len(torch.unique(offset_codes(64), dim=0)) == 125


def test_numbers_of_offsets():
    shifts = [(a, b, c) for a in range(-2, 3) for b in range(-2, 3) for c in range(-2, 3)]
    numbers = offset_index(torch.tensor(shifts).double())
    assert numbers.tolist() == [(a + 2) + (b + 2) * 5 + (c + 2) * 25 for a, b, c in shifts]
    assert sorted(numbers.tolist()) == list(range(125))
    beyond = torch.tensor([[-7.0, 3.0, 0.0], [-2.0, 2.0, 0.0]]).double()
    assert offset_index(beyond)[0] == offset_index(beyond)[1]


@pytest.mark.parametrize("offsets", [True, False])
def test_a_layer_is_equations_4_to_7(offsets):
    """Edge by edge and atom by atom, one matrix acting on the concatenation of radial functions and code."""
    torch.manual_seed(0)
    f, n_basis = 6, 9
    layer = PaEGNNLayer(DeepRelaxSettings(features=f, n_basis=n_basis, offsets=offsets)).double()
    network = deeprelax_relaxer().network
    batch, graph = network.prepare(random_crystal(4))
    basis = GaussianBasis(n_basis, 30.0).double()
    edges = EdgeGeometry.at(graph, batch.positions, batch.cells, basis)
    codes = offset_codes(f).double()
    x, v = torch.randn(batch.n_atoms, f).double(), torch.randn(batch.n_atoms, 3, f).double()
    with torch.no_grad():
        got = layer(x, v, edges, codes, offset_index(graph.shift))

        gamma = layer.message.gamma.weight
        if layer.offsets is not None:
            gamma = torch.cat([gamma, layer.offsets.weight], dim=1)  # (3F, R + F)
        m, mv = torch.zeros_like(x), torch.zeros_like(v)
        for i, j, shift in zip(graph.receiver, graph.sender, graph.shift, strict=True):
            r = batch.positions[j] + shift @ batch.cells[0] - batch.positions[i]
            seen = basis(r.norm()[None])[0]
            if offsets:
                k1, k2, k3 = (min(max(int(k), -2), 2) + 2 for k in shift)
                seen = torch.cat([seen, codes[k1 + 5 * k2 + 25 * k3]])
            filters = (gamma @ seen + layer.message.gamma.bias).chunk(3)
            h, u, w = (
                a * b / math.sqrt(3) for a, b in zip(layer.message.phi(x[j]).chunk(3), filters, strict=True)
            )
            m[i] += h
            mv[i] += (u * v[j] + torch.outer(r / r.norm(), w)) / math.sqrt(f)
        m, mv = (x + m) / math.sqrt(2), v + mv  # skip connections

        big_u, big_v = layer.update.mix.weight.chunk(2)
        new_x, new_v = torch.zeros_like(x), torch.zeros_like(v)
        for i in range(batch.n_atoms):
            of_u, of_v = mv[i] @ big_u.T, mv[i] @ big_v.T  # (3, F)
            s1, s2, s3 = layer.update.weights(torch.cat([m[i], of_u.norm(dim=0)])).chunk(3)
            inner = (of_v * of_u).sum(0) / math.sqrt(f)
            new_x[i] = m[i] + (s1 + s2 * inner) / math.sqrt(2)
            new_v[i] = mv[i] + s3 * of_v
    assert graph.n_edges > 50
    assert torch.allclose(got[0], new_x, atol=1e-5)  # safe norms differ from norms by 1e-6
    assert torch.allclose(got[1], new_v, atol=1e-5)


@pytest.mark.parametrize("offsets", [True, False])
def test_distances_are_equation_8(offsets):
    torch.manual_seed(0)
    f, n_basis = 6, 9
    head = PairHead(DeepRelaxSettings(features=f, n_basis=n_basis, offsets=offsets), 2).double()
    batch, graph = deeprelax_relaxer().network.prepare(random_crystal(4))
    edges = EdgeGeometry.at(graph, batch.positions, batch.cells, GaussianBasis(n_basis, 30.0).double())
    codes, offset = offset_codes(f).double(), offset_index(graph.shift)
    x = torch.randn(batch.n_atoms, f).double()
    with torch.no_grad():
        got = head(x, edges, codes, offset)
        seen = head.atom(x)
        parts = [seen[graph.receiver], seen[graph.sender], edges.basis]
        weights = [head.receiver.weight, head.sender.weight, head.radial.weight]
        if head.offsets is not None:
            parts.append(codes[offset])
            weights.append(head.offsets.weight)
        joined = torch.cat(parts, dim=1) @ torch.cat(weights, dim=1).T + head.receiver.bias
        assert torch.allclose(got, head.out(joined), atol=1e-12)


def test_loss_is_equations_11_to_15():
    torch.manual_seed(0)
    batch = CrystalBatch.collate([random_crystal(1), random_crystal(3)])
    relaxed = batch.with_geometry(
        batch.positions + 0.1 * torch.randn(batch.n_atoms, 3).double(),
        batch.cells * torch.tensor([1.02, 0.97]).double().view(-1, 1, 1),
    )
    network = deeprelax_relaxer(frame="affine", anchors="cell").network
    start, graph = network.prepare(batch)
    with torch.no_grad():
        prediction = network(start, graph)
    distances = prediction.distances
    by_hand = []
    for s in range(2):
        gradient = torch.linalg.inv(batch.cells[s]) @ relaxed.cells[s]
        pairs, moves = [], []
        anchors = {int(edge): k for k, edge in enumerate(distances.anchored)}
        for e in (graph.system_index == s).nonzero().flatten().tolist():
            i, j, shift = graph.receiver[e], graph.sender[e], graph.shift[e]
            arrived = relaxed.positions[j] + shift @ relaxed.cells[s]
            true = (arrived - relaxed.positions[i]).norm()
            b = distances.scale[e]
            pairs.append(torch.log(2 * b) + (distances.relaxed[e] - true).abs() / b)
            assert (e in anchors) == (not shift.any())
            if e in anchors:
                k = anchors[e]
                true = (arrived - batch.positions[i] @ gradient).norm()
                b = distances.displaced_scale[k]
                moves.append(torch.log(2 * b) + (distances.displaced[k] - true).abs() / b)
        lattice = sum((layer.cells[s] - relaxed.cells[s]).abs().mean() for layer in prediction.layers)
        by_hand.append(sum(pairs) / len(pairs) + sum(moves) / len(moves) + lattice)
    expected = float(sum(by_hand) / 2)
    assert float(distance_loss(prediction, start, graph, relaxed, True)) == pytest.approx(expected, abs=1e-4)
    assert float(training_loss(prediction, start, graph, relaxed, TrainSettings(), True)) == pytest.approx(
        expected, abs=1e-4
    )


def test_published_form_runs_and_has_its_size():
    network = DeepRelax(DeepRelaxSettings()).eval()
    settings = network.settings
    assert (settings.features, settings.layers, settings.n_basis) == (512, 4, 128)
    assert (settings.graph.cutoff, settings.graph.max_neighbours) == (6.0, 50)
    assert sum(p.numel() for p in network.parameters()) == 19_630_093
    batch = random_crystal(2).to("cpu", torch.float32)
    with torch.no_grad():
        start, graph = network.prepare(batch)
        prediction = network(start, graph)
        geometry, violation = network.solve_positions(prediction, start, graph)
    assert prediction.distances.relaxed.shape == (graph.n_edges,)
    assert (prediction.distances.relaxed >= 0).all()
    assert (prediction.distances.scale > 0).all()
    assert torch.isfinite(geometry.positions).all()
    assert torch.isfinite(violation).all()


# Symmetries


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "likelihood"])
def test_contract(name, crystals):
    check_relaxer(deeprelax_relaxer(**OPTIONS[name]), crystals)


@pytest.mark.parametrize("weights", range(4))
def test_contract_where_the_search_has_work_to_do(weights, crystals):
    """Bounds are mostly met at the start; the most probable positions never are."""
    relaxer = deeprelax_relaxer(weights, **OPTIONS["ours, likelihood"])
    assert relaxer.relax_batch(crystals).violation.min() > 0.01
    check_relaxer(relaxer, crystals)


@pytest.mark.xfail(strict=True, reason="rounding grows to A where distances contradict each other this much")
def test_contract_where_distances_contradict_each_other(crystals):
    check_relaxer(deeprelax_relaxer(2, **OPTIONS["likelihood"]), crystals)


# Distances from random weights contradict each other by whole A unless they build on those there; on the long
# way to the least bad compromise rounding grows, so that not every crystal keeps the contract to 1e-8 A.
SANE = [OURS, {**OURS, "offsets": True}, {**OURS, "bond_uncertainty": False}, {**OURS, "start": "input"}]


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), weights=st.integers(0, 20))
def test_contract_property(seed, weights):
    batch = CrystalBatch.collate([random_crystal(seed), fcc(3.5 + seed % 7 / 5), random_crystal(seed + 1)])
    check_relaxer(deeprelax_relaxer(weights, **SANE[seed % len(SANE)]), batch, seed=seed)


@pytest.mark.parametrize(
    "options", [{}, OURS, {**OURS, "positions": "likelihood"}], ids=["paper", "ours", "likely"]
)
@pytest.mark.parametrize("make", [rock_salt, fluorite, perovskite, fcc])
def test_contract_at_sites_with_inversion_symmetry(make, options):
    check_relaxer(deeprelax_relaxer(**options), make())


def test_the_published_lattice_does_not_turn_with_the_crystal(crystals):
    relaxer = deeprelax_relaxer(lattice="matrix")
    with pytest.raises(ContractError, match="rotation"):
        check_relaxer(relaxer, crystals)
    found = {name: check(relaxer, crystals, 0) for name, check in CHECKS.items()}
    assert found.pop("rotation") > 1e-3
    assert found.pop("reflection") > 1e-3
    assert max(found.values()) < 1e-8


def test_image_of_an_atom_does_not_matter_without_offsets(crystals):
    shifts = torch.randint(-2, 3, (crystals.n_atoms, 3), generator=torch.Generator().manual_seed(0)).double()
    moved = crystals.with_geometry(
        crystals.positions + to_cartesian(shifts, crystals.cells, crystals.system_index), crystals.cells
    )

    def apart(**options) -> float:
        relaxer = deeprelax_relaxer(**{**OURS, **options})
        expected, got = relaxer.predict(crystals), relaxer.predict(moved)
        followed = expected.positions + to_cartesian(shifts, expected.cells, crystals.system_index)
        return max(
            float((expected.cells - got.cells).abs().max()), float((followed - got.positions).abs().max())
        )

    assert apart() < 1e-9
    assert apart(offsets=True) > 1e-6
    assert apart(anchors="cell", positions="likelihood") > 1e-6


@pytest.mark.parametrize("options", [{"lattice": "matrix"}, {}, OURS], ids=["paper", "strain", "ours"])
def test_a_crystal_without_neighbours_and_one_of_a_single_atom(options):
    lonely = make_crystal([3], [[0.2, 0.3, 0.4]], np.eye(3) * 20.0)
    relaxer = deeprelax_relaxer(**options)
    assert relaxer.network.prepare(lonely)[1].n_edges == 0
    alone = relaxer.relax_batch(lonely)
    assert torch.isfinite(alone.geometry.positions).all()
    assert torch.isfinite(alone.geometry.cells).all()
    assert alone.violation.tolist() == [0.0]
    assert torch.isnan(alone.expected.crystals).all()
    both = relaxer.predict(CrystalBatch.collate([lonely, fcc(), rock_salt()]))
    assert torch.allclose(both.positions[:1], alone.geometry.positions, atol=1e-9)
    assert torch.isfinite(both.positions).all()


# Training


def pair(seed: int) -> tuple[CrystalBatch, CrystalBatch]:
    """Two crystals and what they relax to."""
    batch = CrystalBatch.collate([random_crystal(seed, 2), random_crystal(seed + 1, 3)])
    generator = torch.Generator().manual_seed(seed)
    moved = batch.positions + 0.15 * torch.randn(batch.n_atoms, 3, generator=generator).double()
    strain = torch.eye(3).double() + 0.02 * torch.randn(2, 3, 3, generator=generator).double()
    target = batch.with_geometry(moved, batch.cells)
    cells = batch.cells @ (strain + strain.transpose(1, 2)) / 2
    gradient = torch.linalg.solve(batch.cells, cells)
    return batch, target.with_geometry(to_cartesian(target.positions, gradient, batch.system_index), cells)


def test_training_on_two_crystals_ends_at_their_relaxed_positions():
    batch, target = pair(1)
    small = {"layers": 1, "features": 32, "n_basis": 48, "reach": 8.0, "embedding": "free"}
    graph = {"cutoff": 4.5, "max_neighbours": 12, "self_images": False}
    options = {**OURS, **small, "graph": graph, "start": "input", "positions": "likelihood"}
    network = (
        deeprelax_relaxer(calm=False, **options, bond_uncertainty=False).network.requires_grad_(True).train()
    )
    start, graph = network.prepare(batch)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 250)

    def error() -> float:
        with torch.no_grad():
            found, _ = network.solve_positions(network(start, graph), start, graph)
        return float((found.positions - target.positions).abs().mean())

    before = error()
    for _ in range(250):
        optimiser.zero_grad()
        training_loss(network(start, graph), start, graph, target, TrainSettings(), True).backward()
        optimiser.step()
        schedule.step()
    assert before > 0.1
    assert error() < 0.05


@pytest.mark.parametrize("options", [{"lattice": "matrix"}, OURS], ids=["paper", "ours"])
def test_steps_of_training_lower_the_loss_and_scales_follow(options):
    batch, target = pair(2)
    network = deeprelax_relaxer(**options).network.requires_grad_(True).train()
    start, graph = network.prepare(batch)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        prediction = network(start, graph)
        loss = training_loss(prediction, start, graph, target, TrainSettings(), "frame" in options)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5


# Weights that have no effect by construction: nobody reads the last layer's vectors.
IDLE = {"layers.1.message.gamma.weight", "layers.1.update.mix.weight"}


@pytest.mark.parametrize("name", ["paper", *OPTIONS])
def test_every_parameter_learns_and_gradients_are_finite_at_symmetric_sites(name):
    options = OPTIONS.get(name, {"lattice": "matrix"})
    batch = CrystalBatch.collate([fcc(), rock_salt(), perovskite(), fluorite(), random_crystal(1)])
    network = deeprelax_relaxer(**options).network.requires_grad_(True).train()
    network.eval()  # no noise on elements
    start, graph = network.prepare(batch)
    positions = start.positions.clone().requires_grad_(True)
    start = start.with_geometry(positions, start.cells)
    target = batch.with_geometry(batch.positions * 1.01 + 0.01, batch.cells * 1.01)
    follow = network.settings.frame == "affine"
    training_loss(network(start, graph), start, graph, target, TrainSettings(), follow).backward()
    assert torch.isfinite(positions.grad).all()
    for parameter in network.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    idle = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert {n for n in idle if "bias" not in n} <= IDLE
