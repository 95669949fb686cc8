"""E3Relax: symmetries in float64, options, limits."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import to_cartesian, to_fractional
from repose.errors import ConfigError
from repose.models.e3relax.network import E3Relax
from repose.models.e3relax.settings import E3RelaxSettings
from repose.models.prediction import Geometry
from repose.nn import ops
from repose.nn.lattice_nodes import LatticeToAtoms, LatticeUpdate, LatticeView
from repose.nn.messages import EdgeGeometry
from repose.nn.ops import segment_mean
from repose.relaxer.base import Relaxer
from repose.testing import CHECKS, ContractError, check_relaxer
from support.crystals import fcc, make_crystal, perovskite, random_crystal, rock_salt
from support.equations import (
    BASIS,
    assert_equal,
    each,
    equations_1_2,
    equations_3_4,
    equations_5_8,
    equations_9_12,
    equations_13_14,
    equations_15_18,
    radial,
    random_features,
)
from support.tiny import random_relaxer

# The equations as printed, with whole shells of neighbours; for those of the presets see `test_presets.py`.
PUBLISHED = {
    "shared_axes": False,
    "lattice_features": "embedding",
    "lattice_update": "gated",
    "atom_update": "gated",
    "keep_vectors": False,
}

OPTIONS = {
    "default": {},
    "published": PUBLISHED,
    "released": {**PUBLISHED, "atom_update": "residual", "half_width": True},
    "separate axes": {"shared_axes": False},
    "w/o lattice nodes": {"lattice_nodes": False, "lattice_features": "embedding"},
    "w/o refinement": {"refinement": False},
    "w/o self-connecting edges": {"graph": {"self_images": False}},
    "affine": {"frame": "affine"},
    "edge channels": {"frame": "affine", "edge_channels": 4},
    "edge channels, separate axes": {"shared_axes": False, "edge_channels": 4},
    "axis": {"frame": "affine", "lattice_offset": "axis"},
    "rescaled": {"frame": "affine", "start": "rescaled", "embedding": "properties"},
}


make_relaxer = partial(random_relaxer, "e3relax")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_contract(options, crystals):
    check_relaxer(make_relaxer(**options), crystals)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), weights=st.integers(0, 20))
def test_contract_property(seed, weights):
    batch = CrystalBatch.collate([random_crystal(seed), fcc(3.5 + seed % 7 / 5), random_crystal(seed + 1)])
    options = list(OPTIONS.values())[seed % len(OPTIONS)]
    check_relaxer(make_relaxer(weights, **options), batch, seed=seed)


class Broken(Relaxer):
    """A sound relaxer with one fault, which the checks must see."""

    name = "broken"

    def __init__(self, fault):
        self.fault = fault
        self.sound = make_relaxer()

    def predict(self, batch):
        positions, cells = self.sound.predict(batch)
        return self.fault(batch, positions, cells)


FAULTS = {
    "rotation": lambda b, r, c: Geometry(r + torch.tensor([1e-6, 0, 0]), c),
    "reflection": lambda b, r, c: Geometry(r, c * (1 + 1e-6 * torch.linalg.det(c).sign()[:, None, None])),
    "translation": lambda b, r, c: Geometry(r * (1 + 1e-6 * b.positions.norm(dim=-1, keepdim=True)), c),
    "atom order": lambda b, r, c: Geometry(r * (1 + 1e-6 * torch.arange(len(r))[:, None]), c),
    "batch composition": lambda b, r, c: Geometry(r, c * (1 + 1e-6 * len(b))),
    "input unchanged": lambda b, r, c: Geometry(b.positions.add_(1e-6), c),
    "columns": lambda b, r, c: Geometry(r, b.cells + (c - b.cells).mT),  # as the released code stacks them
    "not a number": lambda b, r, c: Geometry(r * torch.nan, c),
}


@pytest.mark.parametrize("name", FAULTS)
def test_checks_see_faults(name, crystals):
    broken = Broken(FAULTS[name])
    expected = {"columns": "rotation", "not a number": "rotation"}.get(name, name)
    assert not CHECKS[expected](broken, crystals, 0) <= 1e-8
    with pytest.raises(ContractError, match=expected):
        check_relaxer(broken, crystals)


def test_order_of_lattice_vectors_does_not_matter_with_shared_axes(crystals):
    relaxer = make_relaxer(graph={"self_images": False})
    cycled = crystals.with_geometry(crystals.positions, crystals.cells[:, [1, 2, 0]])
    expected, got = relaxer.predict(crystals), relaxer.predict(cycled)
    assert torch.allclose(expected.positions, got.positions, atol=1e-10, rtol=0)
    assert torch.allclose(expected.cells[:, [1, 2, 0]], got.cells, atol=1e-10, rtol=0)
    separate = make_relaxer(graph={"self_images": False}, shared_axes=False)
    assert not torch.allclose(
        separate.predict(crystals).cells[:, [1, 2, 0]], separate.predict(cycled).cells, atol=1e-4, rtol=0
    )


def test_affine_frame_follows_the_cell(crystals):
    """Whole crystals moved by a fractional vector move by the same fractional vector."""
    relaxer = make_relaxer(frame="affine")
    shift = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64)
    moved = crystals.with_geometry(
        crystals.positions + (shift @ crystals.cells)[crystals.system_index], crystals.cells
    )
    expected, got = relaxer.predict(crystals), relaxer.predict(moved)
    assert torch.allclose(expected.cells, got.cells, atol=1e-10, rtol=0)
    assert torch.allclose(
        expected.positions + (shift @ expected.cells)[crystals.system_index],
        got.positions,
        atol=1e-10,
        rtol=0,
    )


def test_axis_offset_does_not_see_the_image_of_an_atom(crystals):
    """An atom written one cell further moves by the new lattice vector, and nothing else changes."""
    relaxer = make_relaxer(frame="affine", lattice_offset="axis")
    shifts = torch.randint(-2, 3, (crystals.n_atoms, 3), generator=torch.Generator().manual_seed(0)).double()
    moved = crystals.with_geometry(
        crystals.positions + to_cartesian(shifts, crystals.cells, crystals.system_index), crystals.cells
    )
    expected, got = relaxer.predict(crystals), relaxer.predict(moved)
    assert torch.allclose(expected.cells, got.cells, atol=1e-9, rtol=0)
    followed = expected.positions + to_cartesian(shifts, expected.cells, crystals.system_index)
    assert torch.allclose(followed, got.positions, atol=1e-9, rtol=0)


def test_rescaled_start_has_the_volume_of_the_composition(crystals):
    network = make_relaxer(start="rescaled").network
    network.atomic_volumes[8] = 10.0
    start, _ = network.prepare(crystals)
    expected = (
        segment_mean(network.atomic_volumes[crystals.numbers], crystals.system_index, 5) * crystals.counts
    )
    assert torch.allclose(torch.linalg.det(start.cells).abs(), expected, rtol=1e-10)
    fractional = [to_fractional(b.positions, b.cells, b.system_index) for b in (start, crystals)]
    assert torch.allclose(*fractional, atol=1e-12)


def test_rescaled_start_leaves_unknown_elements_alone(crystals):
    network = make_relaxer(start="rescaled").network
    network.atomic_volumes[8] = 0.0  # oxygen stands in the first and the fourth crystal, and in random ones
    start, _ = network.prepare(crystals)
    has_oxygen = torch.tensor([8 in c.numbers for c in crystals])
    assert torch.equal(start.cells[has_oxygen], crystals.cells[has_oxygen])
    assert not torch.isclose(start.cells[~has_oxygen], crystals.cells[~has_oxygen]).all()


def test_rescaled_start_leaves_vacuum_alone():
    network = make_relaxer(start="rescaled").network
    flat = [[0, 0, 0.5], [0.5, 0.5, 0.5]]
    declared = make_crystal([12, 8], flat, np.diag([3.0, 3.0, 8.0]), (True, True, False))
    undeclared = make_crystal([12, 8], flat, np.diag([3.0, 3.0, 20.0]))
    bulk = make_crystal([12, 8], flat, np.diag([3.0, 3.0, 8.0]))
    start, _ = network.prepare(CrystalBatch.collate([declared, undeclared, bulk]))
    assert torch.equal(start.cells[0], declared.cells[0])
    assert torch.equal(start.cells[1], undeclared.cells[0])
    assert torch.linalg.det(start.cells[2]) == pytest.approx(30.0)


def test_gradients_are_finite_at_zero_vectors():
    """An atom on the crystal's mean, self-images, symmetric sites: no NaN."""
    batch = CrystalBatch.collate([fcc(), rock_salt(), perovskite()])
    network = make_relaxer().network.requires_grad_(True)
    start, graph = network.prepare(batch)
    positions = start.positions.clone().requires_grad_(True)
    states = network(start.with_geometry(positions, start.cells), graph)
    sum(s.positions.square().sum() + s.cells.square().sum() for s in states.layers).backward()
    assert torch.isfinite(positions.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_layers_are_supervised_unless_refinement_is_off(crystals):
    with_refinement = make_relaxer().network
    without = make_relaxer(refinement=False).network
    assert len(with_refinement(*with_refinement.prepare(crystals)).layers) == 2
    assert len(without(*without.prepare(crystals)).layers) == 1


def test_every_parameter_learns(crystals):
    """No weight is without effect, but cell heads of layers that do not move the cell."""
    for options in OPTIONS.values():
        network = make_relaxer(**options).network.requires_grad_(True).train()
        states = network(*network.prepare(crystals))
        geometries = sum(s.positions.square().sum() + s.cells.square().sum() for s in states.layers)
        (geometries + sum(scale.sum() for scale in states.error_scales)).backward()
        idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        unmoved = [] if "refinement" not in options else ["layers.0.lattice_update.axes.0.head.weight"]
        assert [name for name in idle if "bias" not in name] == unmoved


def test_published_size():
    options = {"shared_axes": False, "lattice_features": "embedding", "half_width": True}
    settings = E3RelaxSettings.parse({**options, "uncertainty_head": False})
    assert (settings.features, settings.layers, settings.n_basis) == (512, 4, 128)
    assert (settings.graph.cutoff, settings.graph.max_neighbours) == (6.0, 50)
    # The released network has 74,636,800, with one element less.
    assert sum(weights.numel() for weights in E3Relax(settings).parameters()) == 74_636_800 + 512


@pytest.fixture
def published(monkeypatch):
    """A network of the published form with exact norms, one crystal, and its graph."""
    monkeypatch.setattr(ops, "EPS", 0.0)
    network = make_relaxer(layers=3, n_basis=BASIS, **PUBLISHED).network
    start, graph = network.prepare(random_crystal(5, n_atoms=4))
    return network, start, graph


def test_messages_are_equations_1_and_2(published):
    network, start, graph = published
    x, v = random_features(4)
    block = network.layers[0].message
    edges = EdgeGeometry.at(graph, start.positions, start.cells, network.basis)
    assert_equal(block(x, v, edges), equations_1_2(block, x, v, start.positions, start.cells[0], graph))


def test_atoms_update_by_equations_3_and_4(published):
    block = published[0].layers[0].update
    m, mv = random_features(4)
    assert_equal(block(m, mv), each(lambda *node: equations_3_4(block, *node), m, mv))


def test_lattice_nodes_update_by_equations_9_to_13(published):
    block: LatticeUpdate = published[0].layers[0].lattice_update
    (x, v), (y, w) = random_features(4), random_features(3)
    *nodes, change = block(x, v, y[None], w[None], torch.zeros(4).long())
    new_y, new_w = each(lambda axis, *node: equations_9_12(axis, x, v, *node), block.axes, y, w)
    assert_equal(nodes, (new_y[None], new_w[None]))
    cell = torch.stack([equations_13_14(*node, 0) for node in zip(block.axes, new_w, strict=True)])
    assert_equal(change, cell[None])


def test_lattice_sends_messages_by_equations_15_to_18(published):
    network = published[0]
    block: LatticeToAtoms = network.layers[0].lattice_to_atoms
    (x, v), (y, w) = random_features(4), random_features(3)
    offset = 3 * random_features(4, 3)[1]  # (atom, axis, component)
    view = LatticeView(network.basis(ops.safe_norm(offset)), ops.unit(offset), None)
    got = block(x, v, y[None], w[None], view, torch.zeros(4).long())
    for *node, o in zip(block.axes, y, w, offset.unbind(dim=1), strict=True):
        x, v = from_lattice(node, x, v, o)
    assert_equal(got, (x, v))


def from_lattice(node, x, v, offset):
    """Equations 15 to 18 for one lattice node and all atoms."""
    axis, y, w = node
    return each(
        lambda x, v, o: equations_15_18(axis, x, v, y, w, radial(o.norm()), o / o.norm()), x, v, offset
    )


def test_layers_are_the_published_equations(published):
    """Three layers, all equations; positions in equations 15 and 16 are relative to their mean."""
    network, start, graph = published
    r, cell = start.positions, start.cells[0]
    x, v = network.embedding(start.numbers), torch.zeros(4, 3, 16).double()
    y, w = network.lattice_embedding, torch.zeros(3, 3, 16).double()
    for layer, got in zip(network.layers, network(start, graph).layers, strict=True):
        for *node, l_c in zip(layer.lattice_to_atoms.axes, y, w, cell, strict=True):
            x, v = from_lattice(node, x, v, r - r.mean(dim=0) - l_c)
        messages = equations_1_2(layer.message, x, v, r, cell, graph)
        x, v = each(lambda *node, block=layer.update: equations_3_4(block, *node), *messages)
        axes = layer.lattice_update.axes
        y, w = each(lambda axis, *node, x=x, v=v: equations_9_12(axis, x, v, *node), axes, y, w)
        r = torch.stack([equations_5_8(layer, *atom) for atom in zip(x, v, r, strict=True)])
        cell = torch.stack([equations_13_14(*node) for node in zip(axes, w, cell, strict=True)])
        assert_equal(got, (r, cell[None]))


def test_equal_lattice_nodes_are_refused():
    with pytest.raises(ConfigError, match="shared_axes=false"):
        make_relaxer(lattice_features="embedding")
    make_relaxer(lattice_features="embedding", edge_channels=4)
