"""Parts of a batch on several threads: the same results, errors, and the number of threads afterwards."""

import multiprocessing
import os
import threading

import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph, periodic_graph
from repose.relaxer import side_by_side
from support.crystals import random_crystal
from support.networks import relaxers


@pytest.fixture
def batch():
    return CrystalBatch.collate([random_crystal(seed, 3 + seed % 9) for seed in range(24)])


@pytest.fixture
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(side_by_side, "LEAST_ATOMS", 8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_parts_are_consecutive_crystals_of_about_equal_size(batch, parts, monkeypatch):
    monkeypatch.setattr(side_by_side, "LEAST_ATOMS", 8)
    found = side_by_side.split(batch, parts)
    assert len(found) <= parts
    joined = CrystalBatch.collate(found)
    for name in ("numbers", "positions", "cells", "system_index", "pbc"):
        assert torch.equal(getattr(joined, name), getattr(batch, name))
    if parts < 4:
        assert len(found) == parts
        largest = int(batch.counts.max())
        assert all(abs(part.n_atoms - batch.n_atoms / parts) <= largest for part in found)


def test_small_batches_and_single_crystals_are_not_split(batch):
    assert len(side_by_side.split(random_crystal(1), 4)) == 1
    assert len(side_by_side.split(batch, 4)) == batch.n_atoms // side_by_side.LEAST_ATOMS


@pytest.mark.parametrize("name", ["reposenet", "e3relax-h2"])
def test_results_are_those_of_one_thread(name, batch, two_threads):
    (relaxer,) = relaxers(name, "tabulated", double=True)
    together = relaxer._forward(batch)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = relaxer._forward(batch)
    for (one, distances, graph), (expected, other, whole) in [(together, alone)]:
        assert torch.allclose(one.geometry.positions, expected.geometry.positions, atol=1e-10)
        assert torch.allclose(one.geometry.cells, expected.geometry.cells, atol=1e-10)
        for field in ("crystals", "atoms", "bonds", "strains"):
            assert torch.allclose(getattr(one.expected, field), getattr(expected.expected, field), atol=1e-10)
        assert torch.allclose(distances, other, atol=1e-8)
        assert torch.equal(graph.sender, whole.sender)
        assert torch.equal(graph.system_index, whole.system_index)


def test_graphs_are_joined(batch):
    parts = batch.split()
    graphs = [periodic_graph(part, 4.0) for part in parts]
    joined, whole = PeriodicGraph.joined(graphs, [1] * len(parts)), periodic_graph(batch, 4.0)
    for name in ("receiver", "sender", "shift", "system_index", "n_atoms"):
        one, other = getattr(joined, name), getattr(whole, name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_parts_run_at_the_same_time_each_on_one_thread(batch, two_threads):
    barrier = threading.Barrier(2, timeout=20)

    def function(part):
        barrier.wait()
        return torch.get_num_threads()

    assert side_by_side.each(function, batch, 1e9) == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_part_is_raised(batch, two_threads, failing):
    first = batch.numbers[0]

    def function(part):
        if bool(part.numbers[0] == first) == (failing == 0):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        side_by_side.each(function, batch, 1e9)
    assert torch.get_num_threads() == 2
    assert side_by_side.each(len, batch, 1e9) != []  # not locked


@pytest.mark.parametrize(("work", "threads"), [(1e3, 1), (1e9, 2)])
def test_little_work_is_done_by_one_thread(work, threads, two_threads):
    one = random_crystal(1)
    assert side_by_side.each(lambda part: torch.get_num_threads(), one, work) == [threads]
    assert torch.get_num_threads() == 2


def test_a_second_call_is_not_split(batch, two_threads):
    def function(part):
        return len(side_by_side.each(len, batch, 1e9))

    assert side_by_side.each(function, batch, 1e9) == [1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_threads_of_its_own(batch, two_threads):
    assert len(side_by_side.each(len, batch, 1e9)) == 2  # the threads of this process have started
    relaxer = relaxers("reposenet", "compiled")[0]
    relaxer.predict(batch)
    child = multiprocessing.get_context("fork").Process(target=relaxer.predict, args=(batch,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
