"""Every numbered equation of the DeepRelax paper against a few lines written from it, to 1e-10 in float64.

Equations 16 and 20 are also in `test_deeprelax_positions.py`, 21 to 24 in `test_ensemble.py`, and 25 to 28 in
`test_metrics.py`.
"""

import math

import numpy as np
import pytest
import torch

from repose.config import TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.models.deeprelax.network import (
    DeepRelax,
    MatrixHead,
    PaEGNNLayer,
    offset_codes,
    offset_index,
)
from repose.models.deeprelax.positions import distance_restraints, violations
from repose.models.deeprelax.settings import DeepRelaxSettings
from repose.nn.messages import EdgeGeometry
from repose.nn.ops import EPS
from repose.training.losses import distance_loss, training_loss
from support.crystals import random_crystal
from support.deeprelax import deeprelax_relaxer

CLOSE = {"rtol": 0, "atol": 1e-10}
MAPS = ["networks", "released", "matrices"]
# The forms that the paper prints, at a small size.
PRINTED = {"maps": "matrices", "pooling": "sum", "solver": "adam", "lattice": "matrix"}
SIZE = {"features": 6, "n_basis": 9, "layers": 2}


def norm(vectors: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Length of vectors, less than 1e-6 too short, so that it has a gradient at zero."""
    return (vectors.square().sum(dim) + EPS**2).sqrt() - EPS


def code(shift, features: int) -> torch.Tensor:
    """Equations 2 and 3, number by number."""
    k1, k2, k3 = (min(max(int(k), -2), 2) for k in shift)
    number = (k1 + 2) + (k2 + 2) * 5 + (k3 + 2) * 25
    waves = [
        math.sin(number / 10000 ** (c / features))
        if c % 2 == 0
        else math.cos(number / 10000 ** ((c - 1) / features))
        for c in range(features)
    ]
    return torch.tensor(waves, dtype=torch.float64)


def example(**options):
    """A network, a starting geometry and its graph."""
    network = deeprelax_relaxer(1, **{**SIZE, "lattice": "matrix", **options}).network
    network.codes = offset_codes(network.settings.features)  # in double precision from the start
    start, graph = network.prepare(CrystalBatch.collate([random_crystal(4), random_crystal(3)]))
    assert graph.n_edges > 100
    return network, start, graph


def pairs_of(batch, graph, basis, features):
    """Receiver, sender, unit vector (equation 1), and radial functions with the code, edge by edge."""
    for edge in range(graph.n_edges):
        i, j, shift = graph.receiver[edge], graph.sender[edge], graph.shift[edge]
        r = batch.positions[j] + shift @ batch.cells[graph.system_index[edge]] - batch.positions[i]
        yield i, j, r / r.norm(), torch.cat([basis(norm(r)), code(shift, features)])


def test_codes_of_offsets():
    """Equations 2 and 3."""
    for f in (6, 10):
        assert offset_codes(f).shape == (125, f)
        for k in range(125):
            shift = (k % 5 - 2, k // 5 % 5 - 2, k // 25 - 2)
            assert torch.allclose(offset_codes(f)[k], code(shift, f), **CLOSE)
    assert len(torch.unique(offset_codes(64), dim=0)) == 125


def test_numbers_of_offsets():
    shifts = [(a, b, c) for a in range(-2, 3) for b in range(-2, 3) for c in range(-2, 3)]
    numbers = offset_index(torch.tensor(shifts).double())
    assert numbers.tolist() == [(a + 2) + (b + 2) * 5 + (c + 2) * 25 for a, b, c in shifts]
    assert sorted(numbers.tolist()) == list(range(125))
    beyond = torch.tensor([[-7.0, 3.0, 0.0], [-2.0, 2.0, 0.0]]).double()
    assert offset_index(beyond)[0] == offset_index(beyond)[1]


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("offsets", [True, False])
@torch.no_grad()
def test_a_layer_is_equations_4_to_7(offsets, maps):
    """Edge by edge and atom by atom, one matrix acting on the concatenation of radial functions and code."""
    network, batch, graph = example(offsets=offsets, maps=maps)
    layer: PaEGNNLayer = network.layers[1]
    f, x = 6, torch.randn(batch.n_atoms, 6).double()
    v = torch.randn(batch.n_atoms, 3, f).double()
    edges = EdgeGeometry.at(graph, batch.positions, batch.cells, network.basis)
    got = layer(x, v, edges, network.codes, offset_index(graph.shift))

    gamma = layer.message.gamma.weight
    if offsets:
        gamma = torch.cat([gamma, layer.offsets.weight], dim=1)  # (3F, R + F)
    m, mv = torch.zeros_like(x), torch.zeros_like(v)
    for i, j, direction, seen in pairs_of(batch, graph, network.basis, f):
        filters = (gamma @ seen[: gamma.shape[1]] + layer.message.gamma.bias).chunk(3)
        of_sender = layer.message.phi(x[j]) / math.sqrt(3)
        h, u, w = (a * b for a, b in zip(of_sender.chunk(3), filters, strict=True))
        m[i] += h
        mv[i] += (u * v[j] + torch.outer(direction, w)) / math.sqrt(f)
    m, mv = (x + m) / math.sqrt(2), v + mv  # skip connections

    big_u, big_v = layer.update.mix.weight.chunk(2)
    new_x, new_v = torch.zeros_like(x), torch.zeros_like(v)
    for i in range(batch.n_atoms):
        of_u, of_v = mv[i] @ big_u.T, mv[i] @ big_v.T  # (3, F)
        s1, s2, s3 = layer.update.weights(torch.cat([m[i], norm(of_u, 0)])).chunk(3)
        new_x[i] = m[i] + (s1 + s2 * (of_v * of_u).sum(0) / math.sqrt(f)) / math.sqrt(2)
        new_v[i] = mv[i] + s3 * of_v
    assert torch.allclose(got[0], new_x, **CLOSE)
    assert torch.allclose(got[1], new_v, **CLOSE)


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("offsets", [True, False])
@torch.no_grad()
def test_distances_are_equations_8_and_10(offsets, maps):
    network, batch, graph = example(offsets=offsets, maps=maps)
    f, head, x = 6, network.relaxed, torch.randn(batch.n_atoms, 6).double()
    edges = EdgeGeometry.at(graph, batch.positions, batch.cells, network.basis)
    got = head(x, edges, network.codes, offset_index(graph.shift))
    gamma = torch.cat([head.radial.weight] + ([head.offsets.weight] if offsets else []), dim=1)
    bias = head.radial.bias if maps == "released" else 0.0
    first = torch.cat([head.receiver.weight, head.sender.weight], dim=1)  # of x_i + x_j
    for value, (i, j, _, seen) in zip(got, pairs_of(batch, graph, network.basis, f), strict=True):
        joined = first @ torch.cat([head.atom(x[i]), head.atom(x[j])]) + head.receiver.bias
        h = head.edge(gamma @ seen[: gamma.shape[1]] + bias)
        assert torch.allclose(value, head.out(joined + h), **CLOSE)
    # Distances are absolute values of outputs, here of both signs; those of displaced atoms within the cell.
    outputs = []

    def centred(_, arguments, values):
        outputs.append(values - values.median(dim=0).values)
        return outputs[-1]

    for each in (network.relaxed, network.displaced):
        each.register_forward_hook(centred)
    found = network(batch, graph).distances
    within = (graph.shift == 0).all(dim=1)
    for distances, signed in ((found.relaxed, outputs[0][:, 0]), (found.displaced, outputs[1][within, 0])):
        assert (signed < 0).any()
        assert (signed > 0).any()
        assert torch.equal(distances, torch.where(signed < 0, -signed, signed))


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("pooling", ["mean", "sum"])
@torch.no_grad()
def test_the_cell_is_equation_9(pooling, maps):
    torch.manual_seed(0)
    head = MatrixHead(DeepRelaxSettings(features=6, maps=maps, pooling=pooling)).double()
    batch = CrystalBatch.collate([random_crystal(4), random_crystal(3)])
    x = torch.randn(batch.n_atoms, 6).double()
    got = head(x, batch.cells, batch.system_index)
    for s, cell in enumerate(batch.cells):
        own = head.atoms(x[batch.system_index == s])
        pooled = own.sum(0) if pooling == "sum" else own.mean(0)
        nine = head.out(torch.cat([pooled, head.cell(cell.reshape(9) / 10)]))
        expected = nine.reshape(3, 3) + (0 if maps == "matrices" else cell)
        assert torch.allclose(got[s], expected, **CLOSE)


def printed(network: DeepRelax, batch, graph):
    """Equations 1 to 10 with skip connections, in matrices; the constant factors belong to them.

    Returns the distance and its scale of every edge in both senses, and the cells.
    """
    f, root = network.settings.features, math.sqrt
    pairs = list(pairs_of(batch, graph, network.basis, f))
    x, v = network.embedding.table.weight[batch.numbers], torch.zeros(batch.n_atoms, 3, f).double()
    for layer in network.layers:
        w_h, w_u, w_v = (layer.message.phi[0].weight / root(3)).chunk(3)
        gamma = torch.cat([layer.message.gamma.weight, layer.offsets.weight], dim=1)
        m, mv = torch.zeros_like(x), torch.zeros_like(v)
        for i, j, direction, seen in pairs:
            g_h, g_u, g_v = (gamma @ seen + layer.message.gamma.bias).chunk(3)
            m[i] += (w_h @ x[j]) * g_h  # eq. 4
            turned = (w_u @ x[j]) * g_u * v[j] + torch.outer(direction, (w_v @ x[j]) * g_v)  # eq. 5
            mv[i] += turned / root(f)
        m, mv = (x + m) / root(2), v + mv
        u, w = (mv @ part.T for part in layer.update.mix.weight.chunk(2))
        w_s1, w_s2, w_v = layer.update.weights[0].weight.chunk(3)
        joined = torch.cat([m, norm(u, 1)], dim=1)
        x = m + (joined @ w_s1.T + joined @ w_s2.T * (w * u).sum(1) / root(f)) / root(2)  # eq. 6
        v = mv + (joined @ w_v.T).unsqueeze(1) * w  # eq. 7
    found = []
    for head in (network.relaxed, network.displaced):
        parts = head.receiver.weight, head.sender.weight, torch.eye(f).double()
        f_d, f_b = head.out.weight @ torch.cat(parts, dim=1)
        bias = head.out.weight @ head.receiver.bias + head.out.bias
        gamma, w_d = torch.cat([head.radial.weight, head.offsets.weight], dim=1), head.atom.weight
        joined = torch.stack([torch.cat([w_d @ x[i], w_d @ x[j], gamma @ seen]) for i, j, _, seen in pairs])
        found += [(joined @ f_d + bias[0]).abs(), (joined @ f_b + bias[1]).exp()]  # eq. 8, 10
    head, cells = network.matrix, []
    for s, cell in enumerate(batch.cells):
        atoms = sum(head.atoms.weight @ own for own in x[batch.system_index == s])
        joined = torch.cat([atoms, head.cell.weight / 10 @ cell.reshape(9)])
        cells.append((head.out.weight @ joined + head.out.bias).reshape(3, 3))  # eq. 9
    return [*found, torch.stack(cells)]


@pytest.mark.parametrize("neighbours", ["paper", "released"])
@torch.no_grad()
def test_the_printed_network_is_equations_1_to_10(neighbours):
    graph = {"max_neighbours": None, "self_images": False, "cutoff": 4.5}
    if neighbours == "released":
        graph = {"max_neighbours": 30, "within_cell": 20, "ties": "order", "self_images": False}
    network, batch, graph = example(**PRINTED, graph=graph)
    network.relaxed.out.weight[1] *= 0.1  # within the clamps of scales
    prediction = network(batch, graph)
    distances = prediction.distances
    relaxed, scale, displaced, displaced_scale, cells = printed(network, batch, graph)
    inside = (graph.shift == 0).all(dim=1)
    assert torch.equal(distances.anchored, inside.nonzero().squeeze(1))
    for got, expected in (
        (distances.relaxed, relaxed),
        (distances.scale, scale),
        (distances.displaced, displaced[inside]),
        (distances.displaced_scale, displaced_scale[inside]),
        (prediction.geometry.cells, cells),
    ):
        assert torch.allclose(got, expected, **CLOSE)
    assert torch.equal(prediction.geometry.positions, batch.positions)


@pytest.mark.parametrize("reduction", ["crystals", "mean", "sum"])
@pytest.mark.parametrize("follow", [False, True])
@torch.no_grad()
def test_loss_is_equations_11_to_15(reduction, follow):
    network, start, graph = example(frame="affine" if follow else "cartesian")
    relaxed = start.with_geometry(
        start.positions + 0.1 * torch.randn(start.n_atoms, 3).double(),
        start.cells * torch.tensor([1.02, 0.97]).double().view(-1, 1, 1),
    )
    prediction = network(start, graph)
    distances = prediction.distances
    anchors = {int(edge): k for k, edge in enumerate(distances.anchored)}
    pairs, moves, cells = ([[], []] for _ in range(3))
    for e, s in enumerate(graph.system_index.tolist()):
        i, j, shift = graph.receiver[e], graph.sender[e], graph.shift[e]
        arrived = relaxed.positions[j] + shift @ relaxed.cells[s]
        true = norm(arrived - relaxed.positions[i])
        b = distances.scale[e]
        pairs[s].append(torch.log(2 * b) + (distances.relaxed[e] - true).abs() / b)  # eq. 11
        assert (e in anchors) == (not shift.any())
        if (k := anchors.get(e)) is not None:
            gradient = torch.linalg.solve(start.cells[s], relaxed.cells[s])
            true = norm(arrived - start.positions[i] @ (gradient if follow else torch.eye(3).double()))
            b = distances.displaced_scale[k]
            moves[s].append(torch.log(2 * b) + (distances.displaced[k] - true).abs() / b)  # eq. 12
    for s in range(2):
        cells[s] = list((prediction.geometry.cells[s] - relaxed.cells[s]).abs().flatten())  # eq. 14
    expected = 0.0
    for terms in (pairs, moves, cells):  # eq. 13, 15
        both = torch.stack(terms[0] + terms[1])
        by_crystal = torch.stack([torch.stack(own).mean() for own in terms])
        expected += {"crystals": by_crystal.mean(), "mean": both.mean(), "sum": both.sum()}[reduction]
    settings = TrainSettings(reduction=reduction)
    found = training_loss(prediction, start, graph, relaxed, settings, follow)
    assert torch.allclose(found, expected, **CLOSE)
    default = distance_loss(prediction, start, graph, relaxed, follow)
    assert torch.allclose(default, expected, **CLOSE) == (reduction == "crystals")


@torch.no_grad()
def test_bounds_and_their_loss_are_equations_17_to_20():
    """Loss of positions that are not the start; equation 17 is that of bounds without width."""
    network, start, graph = example(**PRINTED)
    prediction = network(start, graph)
    distances = prediction.distances
    at = start.positions + 0.3 * torch.randn(start.n_atoms, 3).double()
    cells = prediction.geometry.cells
    both, exact = [], []
    for e in range(graph.n_edges):
        i, j, s = graph.receiver[e], graph.sender[e], graph.system_index[e]
        length = norm(at[j] + graph.shift[e] @ cells[s] - at[i])
        d, b = distances.relaxed[e], distances.scale[e].log()
        upper, lower = d + b.exp(), d - b.exp()  # eq. 18, 19
        both.append((length - upper).clamp(min=0) + (lower - length).clamp(min=0))
        exact.append((length - d).abs())
    for k, e in enumerate(distances.anchored.tolist()):
        length = norm(at[graph.sender[e]] - start.positions[graph.receiver[e]])
        d, b = distances.displaced[k], distances.displaced_scale[k].log()
        both.append((length - d - b.exp()).clamp(min=0) + (d - b.exp() - length).clamp(min=0))  # eq. 20
        exact.append((length - d).abs())
    restraints = distance_restraints(prediction, graph)
    assert (restraints.weight == 1).all()
    assert torch.allclose(violations(at, restraints), torch.stack(both), **CLOSE)
    without = prediction._replace(distances=distances._replace(scale=None, displaced_scale=None))
    narrow = violations(at, distance_restraints(without, graph))
    assert torch.allclose(narrow.sum(), sum(exact), **CLOSE)  # eq. 17


@pytest.mark.parametrize("solver", ["adam", "released"])
def test_adam_is_hundred_steps_on_equation_20(solver):
    """Written out with the moments of Kingma and Ba, in numpy; in the authors' code, sums are means."""
    network, start, graph = example(**{**PRINTED, "solver": solver})
    with torch.no_grad():
        prediction = network(start, graph)
    pairs = distance_restraints(prediction, graph)
    first, second, offset, lower, upper, weight, place, held = (column.numpy() for column in pairs)
    of = start.system_index.numpy()[second]
    if solver == "released":
        weight = np.array([1 / ((of == s) & (held == kind)).sum() for s, kind in zip(of, held, strict=True)])
    x, mean, square = start.positions.numpy(), 0.0, 0.0
    for step in range(1, 101):
        r = x[second] + offset - np.where(held[:, None] > 0, place, x[first])
        d = np.sqrt((r**2).sum(1) + EPS**2)
        sign = np.where(d - EPS > upper, 1, np.where(d - EPS < lower, -1, 0))
        pull = (weight * sign / d)[:, None] * r
        gradient = np.zeros_like(x)
        np.add.at(gradient, second, pull)
        np.add.at(gradient, first[held == 0], -pull[held == 0])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        x = x - 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    geometry, violation = network.solve_positions(prediction, start, graph)
    assert np.abs(x - start.positions.numpy()).max() > 0.3
    assert np.allclose(geometry.positions, x, **CLOSE)
    left = violations(geometry.positions, pairs).numpy()
    means = [np.average(left[of == s], weights=weight[of == s]) for s in range(2)]
    assert np.allclose(violation, means, **CLOSE)
