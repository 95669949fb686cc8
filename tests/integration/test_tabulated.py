"""Inference from tables, in blocks and in reduced precision: the numbers of the plain operators."""

import copy

import numpy as np
import pytest
import torch

from repose import native
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import ROW, periodic_graph
from repose.nn.kernels import fused
from repose.nn.kernels.radial_tables import SplineTable, place
from repose.nn.radial import GaussianBasis
from repose.relaxer import direct
from repose.relaxer.direct import DirectRelaxer
from repose.testing import check_relaxer
from support.crystals import fcc, make_crystal, perovskite, random_crystal, rock_salt
from support.networks import NETWORKS, difference, relaxers


@pytest.fixture(scope="module")
def batch() -> CrystalBatch:
    return CrystalBatch.collate([random_crystal(1), fcc(), random_crystal(2), rock_salt(), perovskite()])


@pytest.mark.parametrize("name", NETWORKS)
def test_tabulated_is_plain(name, batch):
    plain, tabulated = relaxers(name, "plain", "tabulated")
    expected = plain.predict(batch)
    assert difference(expected, (batch.positions, batch.cells)) > 1e-2  # or else nothing is compared
    assert difference(expected, tabulated.predict(batch)) < 1e-4
    assert tabulated.network.layers[0].message.table is not None


@pytest.mark.parametrize("name", NETWORKS)
def test_what_splines_leave_out_is_small(name, batch):
    plain, tabulated = relaxers(name, "plain", "tabulated", double=True)
    assert difference(plain.predict(batch), tabulated.predict(batch)) < 2e-5


@pytest.mark.parametrize("name", ["e3relax, ours", "e3relax-h2", "reposenet"])
def test_tabulated_keeps_the_contract(name, batch):
    check_relaxer(relaxers(name, "tabulated", double=True)[0], batch)


def test_blocks_of_any_size_give_the_same(batch, monkeypatch):
    (relaxer,) = relaxers("e3relax-h2", "tabulated", double=True)
    expected = relaxer.predict(batch)
    monkeypatch.setitem(fused.BLOCK_BYTES, "cpu", 1.0)
    assert difference(expected, relaxer.predict(batch)) < 1e-12


@pytest.mark.parametrize("name", ["e3relax", "reposenet"])
def test_without_a_compiler_it_runs_all_the_same(name, batch, monkeypatch):
    monkeypatch.setattr(native, "library", lambda *source, **numbers: None)
    with pytest.warns(UserWarning, match="Install gcc or clang"):
        plain, compiled = relaxers(name, "plain", "compiled")
    assert not compiled.network.layers[0].message.compiled
    assert difference(plain.predict(batch), compiled.predict(batch)) < 1e-4


def test_kernels_are_used_by_default(batch):
    (relaxer,) = relaxers("e3relax", "auto")
    assert relaxer.path == "compiled"
    assert relaxer.network.layers[0].message.compiled == (native.compiler() is not None)


def test_long_work_on_a_gpu_is_compiled(batch, monkeypatch):
    (relaxer,) = relaxers("e3relax", "tabulated")
    relaxer.path = "auto"  # as on a GPU, where compiling takes longer
    asked = []
    monkeypatch.setattr(relaxer.network, "accelerate", lambda compiled: asked.append(compiled))
    relaxer.predict(batch)
    assert asked == []
    monkeypatch.setattr(direct, "COMPILE_AFTER", 0.0)
    for _ in range(3):
        relaxer.predict(batch)
    assert asked == [True]


@pytest.mark.parametrize("name", ["e3relax, ours", "e3relax-h2", "reposenet"])
@pytest.mark.parametrize("path", ["plain", "tabulated", "compiled"])
def test_reduced_precision_is_near(name, path, batch):
    (plain,) = relaxers(name, "plain")
    reduced = DirectRelaxer(copy.deepcopy(plain.network), plain.config, path=path, precision="bfloat16")
    expected, got = plain.predict(batch), reduced.predict(batch)
    assert got.positions.dtype == batch.positions.dtype
    moved = difference(expected, (batch.positions, batch.cells))
    assert 1e-6 < difference(expected, got) < 0.02 * moved + 0.01


def test_splines_follow_the_filters_to_the_reach_and_beyond():
    torch.manual_seed(0)
    radial, linear = GaussianBasis(64, 30.0), torch.nn.Linear(64, 16)
    distance = torch.cat([torch.rand(2000) * 32, torch.tensor([0.0, 30.0, 1e4])])
    table = SplineTable(linear, radial, scale=0.5)
    assert (table(place(distance, radial)) - 0.5 * linear(radial(distance))).abs().max() < 3e-6


def test_tables_are_not_saved_with_the_weights():
    (relaxer,) = relaxers("e3relax", "tabulated")
    assert set(relaxer.network.state_dict()) == set(NETWORKS["e3relax"]().state_dict())


def test_rows_hold_every_edge_once():
    lonely = make_crystal([3], [[0, 0, 0]], np.eye(3) * 9.0)
    batch = CrystalBatch.collate([lonely, rock_salt(), lonely, random_crystal(3)])
    graph = periodic_graph(batch, 4.0)
    rows = graph.rows
    assert rows.edge.shape == rows.valid.shape == (len(rows.owner), ROW)
    kept = rows.edge[rows.valid.bool()]
    assert torch.equal(kept, torch.arange(graph.n_edges))
    receivers = rows.owner.unsqueeze(1).expand_as(rows.edge)[rows.valid.bool()]
    assert torch.equal(receivers, graph.receiver)
    assert (rows.valid.sum(1) > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_crystal_without_neighbours(name):
    lonely = make_crystal([3], [[0, 0, 0]], np.eye(3) * 9.0)
    plain, tabulated = relaxers(name, "plain", "tabulated")
    for relaxer in (plain, tabulated):
        relaxer.network.settings = relaxer.network.settings.model_copy(
            update={"graph": relaxer.network.settings.graph.model_copy(update={"self_images": False})}
        )
    assert difference(plain.predict(lonely), tabulated.predict(lonely)) < 1e-4
