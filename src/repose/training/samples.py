"""Batches for training: inputs drawn from paths, noised copies, packed by edge count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from repose.config import SamplingSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.batching import batches_by_cost
from repose.crystal.graph import PeriodicGraph
from repose.crystal.lattice import periodic_projector
from repose.data.dataset import Pair
from repose.models.network import Network

# Edges of so many crystals are counted at once.
COUNTED_TOGETHER = 64
# Edges of crystals, e.g. `repose.training.reading.EdgeCounts`.
Counter = Callable[[Sequence[Pair]], list[int]]


@dataclass(frozen=True, eq=False)
class Sample:
    """A batch as the training step takes it.

    Attributes:
        start: Starting geometry from `Network.prepare`.
        graph: Its neighbours.
        target: The relaxed crystals.
    """

    start: CrystalBatch
    graph: PeriodicGraph
    target: CrystalBatch

    def to(self, device: torch.device) -> Sample:
        """The same on another device."""
        return Sample(self.start.to(device), self.graph.to(device), self.target.to(device))


def crystal(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> CrystalBatch:
    """One crystal in float32 as a batch; shapes as in `repose.data.dataset.Pair`."""
    return CrystalBatch.single(numbers, positions, cell, pbc, torch.float32)


def collate(network: Network[Any], drawn: Sequence[tuple[CrystalBatch, CrystalBatch]]) -> Sample:
    """Join (input, target) pairs of single crystals and build the graph of the inputs."""
    inputs, targets = zip(*drawn, strict=True)
    start, graph = network.prepare(CrystalBatch.collate(inputs))
    return Sample(start, graph, CrystalBatch.collate(targets))


def target_of(pair: Pair) -> CrystalBatch:
    """The relaxed crystal of a pair."""
    return crystal(pair.numbers, pair.relaxed_positions, pair.relaxed_cell, pair.pbc)


def draw(
    pair: Pair, settings: SamplingSettings, rng: np.random.Generator
) -> tuple[CrystalBatch, CrystalBatch]:
    """An input and its target: the unrelaxed crystal, a frame of its path, or a noised relaxed one.

    Args:
        pair: What is drawn from.
        settings: How often which.
        rng: Source of randomness.

    Returns:
        Two batches of one crystal each.
    """
    kind = rng.random()
    if kind < settings.denoising:
        positions, cell = perturb(pair, settings, rng)
    elif kind < settings.denoising + settings.path_frames and len(pair.path) > 2:
        frame = pair.path[rng.integers(1, len(pair.path) - 1)]
        positions, cell = frame.positions, frame.cell
    else:
        positions, cell = pair.positions, pair.cell
    numbers, states = pair.numbers, [(positions, cell), (pair.relaxed_positions, pair.relaxed_cell)]
    if rng.random() < settings.rewritten and pair.pbc.all():
        numbers, states = rewrite(numbers, states, rng)
    first, last = (crystal(numbers, positions, cell, pair.pbc) for positions, cell in states)
    return first, last


def rewrite(
    numbers: np.ndarray, states: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Write the same crystal in another lattice basis, and in half of the cases as a double cell.

    Args:
        numbers: Atomic numbers, ``(n,)``.
        states: Positions ``(n, 3)`` and cell ``(3, 3)`` in A of the same atoms; all are rewritten alike.
        rng: Source of randomness.

    Returns:
        Numbers and states of n or 2n atoms.
    """
    basis = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], (3, 1))
    if rng.random() < 0.5:  # a shear: one vector gains another
        a, b = rng.permutation(3)[:2]
        basis[a] += rng.choice([-1, 1]) * basis[b]
    if rng.random() < 0.5:
        copy = np.eye(3)[rng.integers(3)]
        numbers = np.concatenate([numbers, numbers])
        states = [
            (np.concatenate([r, r + copy @ cell]), (np.eye(3) + np.diag(copy)) @ cell) for r, cell in states
        ]
    return numbers, [(positions, basis @ cell) for positions, cell in states]


def perturb(
    pair: Pair, settings: SamplingSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Strain and rattle the relaxed crystal of a pair; the mean fractional coordinate stays.

    Returns:
        Positions ``(n, 3)`` and cell ``(3, 3)`` in A.
    """
    strain = rng.normal(0.0, settings.strain, (3, 3))
    strain = (strain + strain.T) / 2 + np.eye(3) * rng.normal(0.0, settings.dilation)
    if not pair.pbc.all():  # vacuum is not strained
        span = periodic_projector(pair.relaxed_cell, pair.pbc)
        strain = span @ strain @ span
    gradient = np.eye(3) + strain
    rattle = rng.normal(0.0, settings.rattle * rng.random(), pair.relaxed_positions.shape)
    return pair.relaxed_positions @ gradient + rattle - rattle.mean(axis=0), pair.relaxed_cell @ gradient


class TrainingBatches(IterableDataset[Sample]):
    """A pseudo-epoch of training batches, a function of seed, epoch and rank alone.

    Crystals come in a new random order in every pass over the data; batches are filled until the next
    crystal would exceed the budget of edges. A run that is stopped and resumed at an epoch's start
    therefore sees the same batches as one that was not.

    Args:
        pairs: Training crystals.
        network: Its `prepare` builds the graphs.
        settings: Budget, pseudo-epoch and augmentation.
        seed: Source of all randomness.
        counts: Edges of crystals; by default `edge_counts`, which builds all graphs.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        network: Network[Any],
        settings: SamplingSettings,
        seed: int,
        counts: Counter | None = None,
    ) -> None:
        super().__init__()
        self.pairs = list(pairs)
        self.network = network
        self.settings = settings
        self.seed = seed
        self.epoch = 0
        self.rank, self.world = 0, 1
        self.sizes = (counts or partial(edge_counts, network))(self.pairs)

    def plan(self) -> list[list[int]]:
        """Indices of the crystals of every batch of this epoch and rank."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = (int(index) for _ in count() for index in rng.permutation(len(self.pairs)))
        batches = batches_by_cost(order, self.sizes.__getitem__, self.settings.edges_per_batch)
        return list(islice(batches, self.settings.epoch_steps * self.world))[self.rank :: self.world]

    def __iter__(self) -> Iterator[Sample]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = list(enumerate(self.plan()))
        for position, indices in batches[first::stride]:
            rng = np.random.default_rng([self.seed, self.epoch, self.rank, position])
            yield self.sample([self.pairs[i] for i in indices], rng)

    def sample(self, pairs: Sequence[Pair], rng: np.random.Generator) -> Sample:
        """What is drawn from the crystals of a batch."""
        return collate(self.network, [draw(pair, self.settings, rng) for pair in pairs])


class ValidationBatches(IterableDataset[Sample]):
    """Validation crystals from their unrelaxed states, packed by edges, always in one order.

    Args:
        pairs: Crystals.
        network: Its `prepare` builds the graphs.
        edges_per_batch: Budget.
        counts: As of `TrainingBatches`.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        network: Network[Any],
        edges_per_batch: int,
        counts: Counter | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.world = 0, 1
        sizes = (counts or partial(edge_counts, network))(pairs)
        self.network = network
        batches = batches_by_cost(
            np.argsort(sizes, kind="stable").tolist(), sizes.__getitem__, edges_per_batch
        )
        self.batches = [[pairs[index] for index in indices] for indices in batches]

    def __iter__(self) -> Iterator[Sample]:
        # Every process needs something to report: where there is not enough, all of them do all.
        shared = len(self.batches) >= self.world
        for pairs in self.batches[self.rank :: self.world] if shared else self.batches:
            yield self.sample(pairs)

    def sample(self, pairs: Sequence[Pair]) -> Sample:
        """The crystals of a batch from their unrelaxed states."""
        inputs = [crystal(p.numbers, p.positions, p.cell, p.pbc) for p in pairs]
        return collate(self.network, list(zip(inputs, map(target_of, pairs), strict=True)))


def edge_counts(network: Network[Any], pairs: Sequence[Pair]) -> list[int]:
    """Edges of every pair's unrelaxed crystal in the network's graph, found by building the graphs."""
    counts = []
    for first in range(0, len(pairs), COUNTED_TOGETHER):
        some = pairs[first : first + COUNTED_TOGETHER]
        batch = CrystalBatch.collate([crystal(p.numbers, p.positions, p.cell, p.pbc) for p in some])
        _, graph = network.prepare(batch)
        counts += torch.bincount(graph.system_index, minlength=len(some)).tolist()
    return counts
