"""Periodic neighbours against ASE, on ugly cells too."""

from collections import Counter

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import assume, given
from hypothesis import strategies as st

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import edge_vectors, periodic_graph
from repose.errors import ConfigError
from support.crystals import fcc, make_crystal, perovskite, random_crystal, random_rotation, rock_salt


def edges_of(graph):
    shift = graph.shift.round().to(torch.int64).tolist()
    return Counter(zip(graph.receiver.tolist(), graph.sender.tolist(), map(tuple, shift), strict=True))


def oracle(batch, cutoff):
    expected = Counter()
    first = 0
    for crystal in batch:
        atoms = Atoms(
            crystal.numbers,
            crystal.positions.numpy(),
            cell=crystal.cells[0].numpy(),
            pbc=crystal.pbc[0].numpy(),
        )
        i, j, shift = neighbor_list("ijS", atoms, cutoff)
        expected += Counter(
            zip((i + first).tolist(), (j + first).tolist(), map(tuple, shift.tolist()), strict=True)
        )
        first += len(atoms)
    return expected


@given(
    seed=st.integers(0, 10**6),
    cutoff=st.floats(2.0, 9.0),
    pbc=st.tuples(*[st.booleans()] * 3),
    search=st.sampled_from(["cells", "pairs", "native"]),
)
def test_against_ase(seed, cutoff, pbc, search):
    skewed = random_crystal(seed)
    far = skewed.with_geometry(skewed.positions + 40.0, skewed.cells)  # atoms many cells away
    sheet = CrystalBatch(
        skewed.numbers, skewed.positions, skewed.cells, skewed.system_index, torch.tensor(pbc)[None]
    )
    turned = skewed.with_geometry(
        skewed.positions @ random_rotation(seed), skewed.cells @ random_rotation(seed)
    )
    batch = CrystalBatch.collate([far, sheet, turned, fcc(2.5)])
    expected = oracle(batch, cutoff)
    # Ours lets in what lies at the cutoff, whatever rounding says; ASE does not.
    assume(expected == oracle(batch, cutoff + 2e-4))
    assert edges_of(periodic_graph(batch, cutoff, search=search)) == expected


@given(seed=st.integers(0, 10**6), cap=st.integers(1, 60), self_images=st.booleans())
def test_all_pairs_at_once_give_the_same_graph(seed, cap, self_images):
    batch = CrystalBatch.collate([random_crystal(seed), fcc(), random_crystal(seed + 1), rock_salt()])
    one = periodic_graph(batch, 6.0, cap, self_images=self_images)
    other = periodic_graph(batch, 6.0, cap, self_images=self_images, search="pairs")
    for name in ("receiver", "sender", "shift", "system_index"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_pairs_in_parts(monkeypatch):
    batch = CrystalBatch.collate([random_crystal(k) for k in range(5)])
    whole = periodic_graph(batch, 5.0, search="pairs")
    monkeypatch.setattr("repose.crystal.graph.CANDIDATES", 1)
    assert torch.equal(whole.sender, periodic_graph(batch, 5.0, search="pairs").sender)


def test_edge_vectors_point_from_receiver_to_sender():
    batch = perovskite()
    graph = periodic_graph(batch, 3.0)
    vectors = edge_vectors(graph, batch.positions, batch.cells)
    expected = batch.positions[graph.sender] + graph.shift @ batch.cells[0] - batch.positions[graph.receiver]
    assert torch.allclose(vectors, expected)
    assert (vectors.norm(dim=-1) <= 3.0 + 1e-3).all()


@pytest.mark.parametrize(
    "crystal", [rock_salt(), fcc(), perovskite()], ids=["rock salt", "fcc", "perovskite"]
)
@pytest.mark.parametrize("cap", [1, 5, 13, 50])
def test_whole_shells(crystal, cap):
    """No neighbour is left out that is as near as one that is kept."""
    capped, full = periodic_graph(crystal, 6.0, cap), periodic_graph(crystal, 6.0)
    for atom in range(crystal.n_atoms):

        def lengths(graph, atom=atom):
            vectors = edge_vectors(graph, crystal.positions, crystal.cells)
            return np.sort(vectors[graph.receiver == atom].norm(dim=-1).numpy())

        kept, all_of_them = lengths(capped), lengths(full)
        assert len(kept) >= cap
        assert np.sum(all_of_them <= kept[-1] + 1e-6) == len(kept)
        assert np.sum(all_of_them < kept[-1] - 1e-6) < cap


def test_order_cuts_exactly_and_always_alike():
    crystal = fcc()
    graph = periodic_graph(crystal, 6.0, 5, ties="order")
    assert graph.n_edges == 5
    turned = crystal.with_geometry(crystal.positions @ random_rotation(1), crystal.cells @ random_rotation(1))
    assert edges_of(graph) == edges_of(periodic_graph(turned, 6.0, 5, ties="order"))


def test_self_images_replace_self_edges_and_do_not_count():
    batch = CrystalBatch.collate([perovskite(), fcc()])
    graph = periodic_graph(batch, 6.0, 6, self_images=True)
    own = graph.receiver == graph.sender
    for atom in range(batch.n_atoms):
        shifts = {tuple(s) for s in graph.shift[own & (graph.receiver == atom)].int().tolist()}
        # Along a, b and c, and along the sums of two of them (E3Relax, after Matformer).
        assert shifts == {(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)}
    others = torch.bincount(graph.receiver[~own], minlength=batch.n_atoms)
    assert (others[:5] >= 6).all()
    assert others[5] == 0  # an fcc atom has no neighbours but its own images


@given(seed=st.integers(0, 10**6), nearest=st.integers(1, 6), ties=st.sampled_from(["order", "shell"]))
def test_neighbours_within_the_cell_at_any_distance(seed, nearest, ties):
    """Of neighbours only images outside of the cell, and the nearest atoms of the cell (DeepRelax)."""
    batch = CrystalBatch.collate([random_crystal(seed), fcc(), random_crystal(seed + 1, 9), perovskite(30.0)])
    kept = edges_of(periodic_graph(batch, 4.0, 12, ties=ties))
    expected = {edge for edge in kept if edge[2] != (0, 0, 0)}
    distance = torch.cdist(batch.positions, batch.positions)
    for i in range(batch.n_atoms):
        mine = (batch.system_index == batch.system_index[i]).nonzero().squeeze(1)
        others = sorted(mine[mine != i].tolist(), key=lambda j: (round(float(distance[i, j]), 4), j))
        last = distance[i, others[:nearest][-1]] + 1e-4 if others and ties == "shell" else -1
        expected |= {(i, j, (0, 0, 0)) for k, j in enumerate(others) if k < nearest or distance[i, j] <= last}
    graph = periodic_graph(batch, 4.0, 12, ties=ties, within_cell=nearest)
    assert edges_of(graph) == Counter(expected)
    assert (graph.receiver.diff() >= 0).all()
    assert torch.equal(graph.system_index, batch.system_index[graph.receiver])


def test_no_self_images_across_vacuum():
    sheet = make_crystal(
        [6, 6], [[0, 0, 0.5], [1 / 3, 2 / 3, 0.5]], np.diag([2.5, 2.5, 20.0]), (True, True, False)
    )
    graph = periodic_graph(sheet, 6.0, self_images=True)
    assert (graph.shift[:, 2] == 0).all()
    assert graph.n_edges > 6


def test_a_neighbour_exactly_at_the_cutoff_does_not_flicker():
    counts = set()
    for seed in range(10):
        q = random_rotation(seed)
        cubic = make_crystal([14], [[0, 0, 0]], 6.0 * np.eye(3))
        counts.add(periodic_graph(cubic.with_geometry(cubic.positions @ q, cubic.cells @ q), 6.0).n_edges)
    assert counts == {6}


def test_edges_are_sorted_by_receiver(crystals):
    graph = periodic_graph(crystals, 5.0, 12, self_images=True)
    assert (graph.receiver.diff() >= 0).all()
    assert torch.equal(graph.system_index, crystals.system_index[graph.receiver])


@pytest.mark.parametrize(
    "bad", [{"cutoff": -1.0}, {"cutoff": 5.0, "max_neighbours": 0}, {"cutoff": 5.0, "ties": "coin"}]
)
def test_refuses_senseless_settings(bad):
    with pytest.raises(ConfigError, match="must be"):
        periodic_graph(fcc(), **bad)
