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
from repose.nn.messages import FADE, AngularGate, EdgeGeometry, legendre
from repose.nn.radial import GaussianBasis
from repose.testing import ContractError, check_relaxer
from support.crystals import fcc, perovskite, random_crystal, rock_salt
from support.tiny import random_relaxer

OPTIONS = {
    "paper": {},
    "w/o angular gate": {"angular": False},
    "w/o high degree": {"lmax": 0},
    "w/o lattice nodes": {"lattice_nodes": False},
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


def fluorite() -> CrystalBatch:
    from ase.build import bulk

    from repose.io import convert

    return convert.to_batch(bulk("CaF2", "fluorite", a=5.5))


@pytest.mark.parametrize("make", [rock_salt, fluorite, perovskite, fcc])
def test_contract_at_sites_with_inversion_symmetry(make):
    check_relaxer(make_relaxer(), make())


def test_columns_do_not_turn_with_the_crystal(crystals):
    with pytest.raises(ContractError, match="rotation"):
        check_relaxer(make_relaxer(stacking="columns"), crystals)


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


@pytest.mark.parametrize("degree", range(5))
def test_products_of_harmonics_are_legendre_polynomials(degree):
    """The invariants q_l of the paper, from scipy's harmonics, up to one factor for all degrees."""
    from scipy.special import sph_harm_y

    rng = np.random.default_rng(degree)
    u, n = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in rng.normal(size=(2, 20, 3))
    )
    angles = [(np.arccos(r[:, 2]), np.arctan2(r[:, 1], r[:, 0])) for r in (u, n)]
    products = [
        sph_harm_y(degree, m, *angles[0]) * sph_harm_y(degree, m, *angles[1]).conj()
        for m in range(-degree, degree + 1)
    ]
    expected = 4 * np.pi * np.mean(products, axis=0).real
    cosine = torch.from_numpy((u * n).sum(1))
    got = legendre(cosine, torch.ones_like(cosine), 4)[:, degree]
    assert np.allclose(got, expected, atol=1e-12)


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
    gate = AngularGate(8, 3).double()
    positions = rock_salt().positions
    centred = gate_inputs(positions, gate)
    assert centred[:, 0].abs().max() < 1e-12
    assert torch.allclose(centred, centred[:1].expand_as(centred), atol=1e-12)
    for step in (1e-3, 1e-6, 1e-9):  # as the atom leaves the site, the change is of the order of the step
        moved = positions.clone()
        moved[0, 0] += step
        change = (gate_inputs(moved, gate) - centred).abs().max()
        assert 0 < change < 10 / FADE * step


# Weights that have no effect by construction: what the last lattice nodes know goes nowhere, and the layer
# norm of a single number is zero.
IDLE = ["layers.1.lattice_update.mixing.scalars"]
IDLE_WITH = {
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
    network = E3RelaxH2(E3RelaxH2Settings())
    settings = network.settings
    assert (settings.features, settings.layers, settings.n_basis, settings.lmax) == (512, 4, 128, 3)
    # The paper counts 72.8 million; its lattice nodes may start otherwise, which it does not say.
    published = sum(p.numel() for name, p in network.named_parameters() if "uncertainty_head" not in name)
    assert published == pytest.approx(72.8e6, rel=0.05)
