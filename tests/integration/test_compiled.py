"""Compiled kernels: the numbers and the gradients of the plain operators, for every family that has them.

All networks have 48 features, so that one compiled kernel serves several tests.
"""

import copy

import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import periodic_graph
from repose.nn.kernels.fused_training import summed
from repose.testing import ALL_CHECKS, check_relaxer
from support.crystals import fcc, perovskite, random_crystal, rock_salt
from support.deeprelax import OURS, check_computation
from support.networks import NETWORKS, difference, relaxers

pytestmark = pytest.mark.xdist_group("compiler")


@pytest.fixture(scope="module")
def batch() -> CrystalBatch:
    return CrystalBatch.collate([random_crystal(1), fcc(), random_crystal(2), rock_salt(), perovskite()])


@pytest.mark.parametrize("name", ["e3relax, ours", "e3relax-h2", "reposenet"])
def test_compiled_is_plain(name, batch):
    plain, compiled = relaxers(name, "plain", "compiled")
    assert compiled.network.layers[0].message.compiled
    assert difference(plain.predict(batch), compiled.predict(batch)) < 1e-4
    alone = [compiled.predict(crystal) for crystal in batch]
    joined = (torch.cat([a.positions for a in alone]), torch.cat([a.cells for a in alone]))
    assert difference(plain.predict(batch), joined) < 1e-4


@pytest.mark.parametrize("options", [{}, OURS], ids=["paper with strain", "ours"])
def test_compiled_deeprelax_is_plain(options, crystals):
    check_computation("compiled", options, crystals)


def test_compiled_reposenet_keeps_the_contract(crystals):
    check_relaxer(relaxers("reposenet", "compiled", double=True)[0], crystals, checks=ALL_CHECKS)


@pytest.mark.parametrize("name", ["e3relax, ours", "e3relax-h2", "reposenet"])
def test_compiled_training_has_the_gradients_of_the_plain_path(name, batch):
    torch.manual_seed(0)
    plain = NETWORKS[name]().double()
    plain.atomic_volumes.fill_(15.0)
    compiled = copy.deepcopy(plain)
    compiled.compile_training()
    assert compiled.layers[0].message.compiled
    for network in (plain, compiled):
        start, graph = network.prepare(batch)
        states = network(start, graph)
        sum(s.positions.square().sum() + s.cells.square().sum() for s in states.layers).backward()
    for (label, expected), got in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        if expected.grad is not None:
            scale = 1 + expected.grad.abs().max()
            assert float((expected.grad - got.grad).abs().max() / scale) < 1e-4, label  # error of the spline


def test_compiled_training_in_mixed_precision(batch):
    torch.manual_seed(0)
    network = NETWORKS["e3relax-h2"]()
    network.compile_training()
    gradients = {}
    for mixed in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            start, graph = network.prepare(batch.to("cpu", torch.float32))
            states = network(start, graph)
        sum((s.cells - start.cells).abs().mean() for s in states.layers).backward()
        parameter = network.layers[0].message.gamma.weight
        gradients[mixed] = parameter.grad.clone()
    assert gradients[True].dtype == torch.float32
    size = gradients[False].norm()
    assert 0 < (gradients[True] - gradients[False]).norm() < 0.1 * size


@pytest.mark.parametrize("gated", [False, True])
def test_compiled_sums_against_finite_differences(gated):
    """All inputs at once, the directions among them, which a network reaches through positions alone."""
    torch.manual_seed(0)
    crystal = rock_salt()
    graph = periodic_graph(crystal, 3.0)
    e, n, f = graph.n_edges, crystal.n_atoms, 48  # the kernels of the networks above
    shapes = [(n, 3 * f), (n, 3, f), (e, 3 * f), (e, 3 * f), (e, 3)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def function(s, v, filters, inner, u):
        return summed(s, v, filters, inner if gated else None, u, graph)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
