"""E3Relax-H2: symmetries in float64, symmetric sites, options, the gate."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import periodic_graph
from repose.crystal.lattice import to_cartesian
from repose.models.e3relax_h2.network import E3RelaxH2
from repose.models.e3relax_h2.settings import E3RelaxH2Settings
from repose.nn import ops
from repose.nn.messages import AngularGate, EdgeGeometry, legendre
from repose.nn.radial import GaussianBasis
from repose.testing import CHECKS, check_relaxer
from support.crystals import fcc, perovskite, random_crystal, rock_salt
from support.equations import (
    BASIS,
    assert_equal,
    each,
    equations_1_2,
    equations_3_4,
    equations_9_10,
    equations_13_14,
    equations_15_18,
    radial,
    self_interaction,
)
from support.tiny import random_relaxer

# All with whole shells of neighbours; presets cut them, see `test_presets.py`.
OPTIONS = {
    "default": {},
    "released": {"lattice_features": "embedding", "lattice_update": "gated", "half_width": True},
    "w/o angular gate": {"angular": False},
    "w/o high degree": {"lmax": 0},
    "w/o lattice nodes": {"lattice_nodes": False, "lattice_features": "embedding", "shared_axes": True},
    "w/o lattice to atoms": {"lattice_to_atoms": False},
    "w/o parts": {"lattice_offset": "tip"},
    "w/o axis mixing": {"axis_mixing": False},
    "w/o refinement": {"refinement": False},
    "shared axes": {"shared_axes": True},
    "ours": {
        "shared_axes": True,
        "edge_channels": 4,
        "frame": "affine",
        "start": "rescaled",
        "lattice_offset": "axis",
        "keep_vectors": True,
        "embedding": "properties",
    },
}


make_relaxer = partial(random_relaxer, "e3relax-h2")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_contract(options, crystals):
    check_relaxer(make_relaxer(**options), crystals)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), weights=st.integers(0, 20))
def test_contract_property(seed, weights):
    batch = CrystalBatch.collate([random_crystal(seed), fcc(3.5 + seed % 7 / 5), random_crystal(seed + 1)])
    options = list(OPTIONS.values())[seed % len(OPTIONS)]
    check_relaxer(make_relaxer(weights, **options), batch, seed=seed)


def test_the_fade_is_wide_enough_for_single_precision():
    """Rotated crystals with inversion symmetry; a fade of 1e-4 gives errors of 5e-5 A."""
    batch = CrystalBatch.collate([rock_salt(), fcc(), perovskite(), fluorite()]).to(dtype=torch.float32)
    relaxer = make_relaxer(layers=3, graph={"self_images": False})
    relaxer.network.float()
    assert max(CHECKS["rotation"](relaxer, batch, seed) for seed in range(4)) < 3e-5


def fluorite() -> CrystalBatch:
    from ase.build import bulk

    from repose.io import convert

    return convert.to_batch(bulk("CaF2", "fluorite", a=5.5))


@pytest.mark.parametrize("self_images", [True, False])
@pytest.mark.parametrize("make", [rock_salt, fluorite, perovskite, fcc])
def test_contract_at_sites_with_inversion_symmetry(make, self_images):
    """Without edges to six of its images, the reference direction of such a site is rounding noise."""
    check_relaxer(make_relaxer(graph={"self_images": self_images}), make())


def test_order_of_lattice_vectors_does_not_matter_with_shared_axes(crystals):
    relaxer = make_relaxer(shared_axes=True, graph={"self_images": False})
    torch.nn.init.normal_(relaxer.network.layers[0].mixing.scalars)
    expected = relaxer.predict(crystals)
    got = relaxer.predict(crystals.with_geometry(crystals.positions, crystals.cells[:, [1, 2, 0]]))
    assert torch.allclose(expected.positions, got.positions, atol=1e-10, rtol=0)
    assert torch.allclose(expected.cells[:, [1, 2, 0]], got.cells, atol=1e-10, rtol=0)


def test_image_of_an_atom_does_not_matter_with_axis_and_affine_frame(crystals):
    relaxer = make_relaxer(frame="affine", lattice_offset="axis")
    shifts = torch.randint(-2, 3, (crystals.n_atoms, 3), generator=torch.Generator().manual_seed(0)).double()
    moved = crystals.with_geometry(
        crystals.positions + to_cartesian(shifts, crystals.cells, crystals.system_index), crystals.cells
    )
    expected, got = relaxer.predict(crystals), relaxer.predict(moved)
    assert torch.allclose(expected.cells, got.cells, atol=1e-9, rtol=0)
    followed = expected.positions + to_cartesian(shifts, expected.cells, crystals.system_index)
    assert torch.allclose(followed, got.positions, atol=1e-9, rtol=0)


def products_of_harmonics(u, n, lmax):
    """Invariants q_l of the paper, from harmonics with a mean square of one, ``(E, lmax + 1)``."""
    from scipy.special import sph_harm_y

    angles = [(np.arccos(r[:, 2]), np.arctan2(r[:, 1], r[:, 0])) for r in (u.numpy(), n.numpy())]
    values = []
    for degree in range(lmax + 1):
        at_u, at_n = (
            np.stack([sph_harm_y(degree, m, *angle) for m in range(-degree, degree + 1)]) for angle in angles
        )
        values.append(4 * np.pi * (at_u * at_n.conj()).real.mean(axis=0))
    return torch.from_numpy(np.stack(values, axis=1))


def test_products_of_harmonics_are_legendre_polynomials():
    u, n = torch.nn.functional.normalize(torch.randn(2, 20, 3).double(), dim=-1)
    cosine = (u * n).sum(dim=1)
    got = legendre(cosine, torch.ones_like(cosine), 4)
    assert torch.allclose(got, products_of_harmonics(u, n, 4), atol=1e-12)


def gate_by_harmonics(gate, r, cell, graph):
    """Factor on the filter of every edge, ``(E, 3F)``."""
    u = torch.nn.functional.normalize(r[graph.receiver] - r[graph.sender] - graph.shift @ cell, dim=-1)
    means = [u[graph.receiver == i].mean(dim=0) for i in range(len(r))]
    n = torch.stack([mean / mean.norm() for mean in means])[graph.receiver]
    q = gate.norm(products_of_harmonics(u, n, gate.lmax))
    inner = gate.mix(torch.cat([(u * n).sum(dim=1, keepdim=True), q], dim=1))
    return 1 + torch.tanh(torch.nn.functional.silu(inner))


def mixed(block, y, w):
    """Lattice nodes after mixing."""
    rows = zip(block.scalars, block.bias, strict=True)
    return [
        torch.stack([sum(a * node for a, node in zip(row, y, strict=True)) + b for row, b in rows]),
        torch.stack([sum(a * node for a, node in zip(row, w, strict=True)) for row in block.vectors]),
    ]


@pytest.mark.parametrize("update", ["residual", "gated"])
def test_layers_are_the_published_equations(update, monkeypatch):
    """Three layers with exact norms and without a fade."""
    monkeypatch.setattr(ops, "EPS", 0.0)
    options = {"fade": 1e-9, "lattice_features": "embedding", "lattice_update": update}
    network = make_relaxer(layers=3, n_basis=BASIS, **options).network.requires_grad_(False)
    for layer in network.layers:
        for mixing in (layer.mixing, layer.lattice_update.mixing):
            for weights in mixing.parameters():
                torch.nn.init.normal_(weights)
        torch.nn.init.normal_(layer.scale)
    start, graph = network.prepare(random_crystal(5, n_atoms=4))
    r, cell = start.positions, start.cells[0]
    x, v = network.embedding(start.numbers), torch.zeros(4, 3, 16).double()
    y, w = network.lattice_embedding, torch.zeros(3, 3, 16).double()

    def lattice_node(axis, y, w):
        n, nv = equations_9_10(axis, x, v, y, w)
        n, nv = y + n, w + nv
        if update == "residual":
            return self_interaction(axis.update, n, nv)
        scalars, vectors = equations_3_4(axis.update, n, nv)
        return scalars, nv + vectors

    for layer, got in zip(network.layers, network(start, graph).layers, strict=True):
        p = r - r.mean(dim=0)
        for *node, l_c in zip(layer.lattice_to_atoms.axes, y, w, cell, strict=True):
            along, across = p @ l_c / l_c.norm(), torch.linalg.cross(p, l_c[None]).norm(dim=1) / l_c.norm()
            seen = layer.parts(torch.cat([radial(along), radial(across)], dim=1))
            direction = torch.nn.functional.normalize(p - l_c, dim=1)
            x, v = each(
                lambda x, v, *view, node=node: equations_15_18(node[0], x, v, *node[1:], *view),
                *(x, v, seen, direction),
            )
        y, w = mixed(layer.mixing, y, w)
        gate = gate_by_harmonics(layer.gate, r, cell, graph)
        m, mv = equations_1_2(layer.message, x, v, r, cell, graph, gate)
        x, v = each(lambda *node, b=layer.update: self_interaction(b, *node), (x + m) / 2**0.5, v + mv)
        axes = layer.lattice_update.axes
        y, w = mixed(layer.lattice_update.mixing, *each(lattice_node, axes, y, w))
        r = r + layer.scale * v @ layer.displacement.weight[0]
        cell = torch.stack([equations_13_14(*node) for node in zip(axes, w, cell, strict=True)])
        assert_equal(got, (r, cell[None]))


def test_solid_legendre_polynomials_are_homogeneous():
    u, n = torch.nn.functional.normalize(torch.randn(9, 3).double(), dim=-1), torch.randn(9, 3).double()
    length = n.norm(dim=-1)
    unit = legendre((u * n).sum(-1) / length, torch.ones_like(length), 4)
    solid = legendre((u * n).sum(-1), length**2, 4)
    assert torch.allclose(solid, unit * length[:, None] ** torch.arange(5), atol=1e-12)


def gate_inputs(positions: torch.Tensor, gate: AngularGate) -> torch.Tensor:
    crystal = rock_salt()
    graph = periodic_graph(crystal, 3.5)
    return gate.invariants(EdgeGeometry.at(graph, positions, crystal.cells, GaussianBasis(8, 10.0).double()))


def test_a_site_with_inversion_symmetry_has_no_angular_input_and_no_jump():
    torch.manual_seed(0)
    fade = E3RelaxH2Settings().fade
    gate = AngularGate(8, 3, fade).double()
    positions = rock_salt().positions
    centred = gate_inputs(positions, gate)
    assert centred[:, 0].abs().max() < 1e-12
    assert torch.allclose(centred, centred[:1].expand_as(centred), atol=1e-12)
    for step in (1e-3, 1e-6, 1e-9):  # as the atom leaves the site, the change is of the order of the step
        moved = positions.clone()
        moved[0, 0] += step
        change = (gate_inputs(moved, gate) - centred).abs().max()
        assert 0 < change < 10 / fade * step


# Weights that have no effect by construction: what the last lattice nodes know goes nowhere, and the layer
# norm of a single number is zero.
IDLE = ["layers.1.lattice_update.mixing.scalars"]
IDLE_WITH = {
    "released": ["layers.0.mixing.vectors"],
    "w/o high degree": ["layers.0.gate.norm.weight", "layers.1.gate.norm.weight"],
    "w/o refinement": [f"layers.0.lattice_update.axes.{k}.head.weight" for k in range(3)],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_learns(name, crystals):
    network = make_relaxer(**OPTIONS[name]).network.requires_grad_(True).train()
    states = network(*network.prepare(crystals))
    geometries = sum(s.positions.square().sum() + s.cells.square().sum() for s in states.layers)
    (geometries + sum(scale.sum() for scale in states.error_scales)).backward()
    idle = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert {n for n in idle if "bias" not in n} <= {*IDLE, *IDLE_WITH.get(name, [])}


def test_gradients_are_finite_at_zero_vectors():
    batch = CrystalBatch.collate([fcc(), rock_salt(), perovskite(), fluorite()])
    network = make_relaxer().network.requires_grad_(True)
    start, graph = network.prepare(batch)
    positions = start.positions.clone().requires_grad_(True)
    states = network(start.with_geometry(positions, start.cells), graph)
    sum(s.positions.square().sum() + s.cells.square().sum() for s in states.layers).backward()
    assert torch.isfinite(positions.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_published_size():
    settings = E3RelaxH2Settings(lattice_features="embedding", half_width=True, uncertainty_head=False)
    assert (settings.features, settings.layers, settings.n_basis, settings.lmax) == (512, 4, 128, 3)
    # The released network has 72,770,168, with one element less, and one pair of matrices for both mixings.
    count = sum(weights.numel() for weights in E3RelaxH2(settings).parameters())
    assert count == 72_770_168 + 512 + 4 * 21
