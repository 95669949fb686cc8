"""Batches for training and validation: augmented inputs, batched by their number of edges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from repose.config import SamplingSettings
from repose.crystal import symmetry
from repose.crystal.batch import CrystalBatch
from repose.crystal.batching import batches_by_cost
from repose.crystal.graph import PeriodicGraph
from repose.crystal.lattice import periodic_projector
from repose.data.dataset import Pair
from repose.models.network import Network
from repose.training.stopwatch import part

# Crystals in a batch that counts edges.
COUNT_BATCH = 64
# Largest distance in A of an atom from its symmetric position, for perturbations that keep the space group.
SYMPREC = 1e-2
# Space groups that are kept, some 5 kB each: finding one takes most of the time of a random input.
GROUPS = 50_000
# Largest isotropic strain of a perturbation.
MAX_DILATION = 0.3
# Function that returns the edges of every crystal, e.g. `repose.training.reading.EdgeCounts`.
EdgeCounter = Callable[[Sequence[Pair]], list[int]]


@dataclass(frozen=True, eq=False)
class Sample:
    """Starting geometry and its graph from `Network.prepare`, and the relaxed crystals."""

    start: CrystalBatch
    graph: PeriodicGraph
    target: CrystalBatch

    def to(self, device: torch.device) -> Sample:
        """Copy on another device."""
        return Sample(self.start.to(device), self.graph.to(device), self.target.to(device))


def crystal(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> CrystalBatch:
    """One crystal in float32 as a batch; shapes as in `repose.data.dataset.Pair`."""
    return CrystalBatch.single(numbers, positions, cell, pbc, torch.float32)


def collate(network: Network[Any], pairs: Sequence[Pair]) -> Sample:
    """Batch pairs, and build the graph of the unrelaxed crystals."""
    with part("collate"):
        inputs = inputs_of(pairs)
        relaxed = [pair.relaxed_positions for pair in pairs], [pair.relaxed_cell for pair in pairs]
        targets = _stacked(pairs, *relaxed)
    with part("graphs"):
        return Sample(*network.prepare(inputs), targets)


def inputs_of(pairs: Sequence[Pair]) -> CrystalBatch:
    """The unrelaxed crystals of pairs."""
    return _stacked(pairs, [pair.positions for pair in pairs], [pair.cell for pair in pairs])


def _stacked(
    pairs: Sequence[Pair], positions: Sequence[np.ndarray], cells: Sequence[np.ndarray]
) -> CrystalBatch:
    numbers, pbc = [pair.numbers for pair in pairs], [pair.pbc for pair in pairs]
    charges = [pair.charges for pair in pairs]
    return CrystalBatch.stack(numbers, positions, cells, pbc, torch.float32, charges)


def target_of(pair: Pair) -> CrystalBatch:
    """The relaxed crystal of a pair."""
    return crystal(pair.numbers, pair.relaxed_positions, pair.relaxed_cell, pair.pbc)


def draw(pair: Pair, settings: SamplingSettings, rng: np.random.Generator) -> Pair:
    """Random input, in place of the unrelaxed crystal, and the relaxed crystal; without the path.

    The input is the unrelaxed crystal, a frame of its path, a perturbed copy of the relaxed crystal, the
    relaxed crystal, or a crystal between it and the unrelaxed one, in shares given by the settings. Pairs of
    equal crystals are perturbed instead of the rest, if any are.
    """
    shares = (settings.relaxed, settings.denoising, settings.interpolated, settings.path_frames)
    kind = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))
    same = np.array_equal(pair.positions, pair.relaxed_positions)
    same = same and np.array_equal(pair.cell, pair.relaxed_cell)
    if kind == 0:
        positions, cell = pair.relaxed_positions, pair.relaxed_cell
    elif kind == 1 or (same and settings.denoising):
        positions, cell = perturb(pair, settings, rng)
    elif kind == 2:
        positions, cell = interpolate(pair, settings, rng)
    elif kind == 3 and len(pair.path) > 2:
        frame = pair.path[rng.integers(1, len(pair.path) - 1)]
        positions, cell = frame.positions, frame.cell
    else:
        positions, cell = pair.positions, pair.cell
    numbers, geometries = pair.numbers, [(positions, cell), (pair.relaxed_positions, pair.relaxed_cell)]
    if rng.random() < settings.rewritten and pair.pbc.all():
        numbers, geometries = equivalent_cell(numbers, geometries, rng)
    (positions, cell), (relaxed_positions, relaxed_cell) = geometries
    changed = {"relaxed_positions": relaxed_positions, "relaxed_cell": relaxed_cell}
    if pair.charges is not None:  # also of a double cell
        changed["charges"] = np.resize(pair.charges, len(numbers))
    positions = noisy(positions, settings, rng)
    return replace(pair, numbers=numbers, positions=positions, cell=cell, path=(), **changed)


def noisy(positions: np.ndarray, settings: SamplingSettings, rng: np.random.Generator) -> np.ndarray:
    """Positions with normal noise of the settings (RelaxNet, section 5.5)."""
    return positions + rng.normal(0.0, settings.noise, positions.shape) if settings.noise else positions


def equivalent_cell(
    numbers: np.ndarray, geometries: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Describe a crystal in another random lattice basis, and in half of the cases by a double cell.

    All geometries, positions ``(n, 3)`` and cell ``(3, 3)`` in A of the same n atoms, get the same change.
    The result has n or 2n atoms.
    """
    basis = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], (3, 1))
    if rng.random() < 0.5:  # add one lattice vector to another
        a, b = rng.permutation(3)[:2]
        basis[a] += rng.choice([-1, 1]) * basis[b]
    if rng.random() < 0.5:
        copy = np.eye(3)[rng.integers(3)]
        numbers = np.concatenate([numbers, numbers])
        geometries = [
            (np.concatenate([r, r + copy @ cell]), (np.eye(3) + np.diag(copy)) @ cell)
            for r, cell in geometries
        ]
    return numbers, [(positions, basis @ cell) for positions, cell in geometries]


def interpolate(
    pair: Pair, settings: SamplingSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Crystal between the relaxed and the unrelaxed one of a pair.

    Positions and cell are linear in a weight, that of the unrelaxed crystal, drawn by `SamplingSettings`.
    """
    weight = 10 ** (-settings.decades * rng.random()) if settings.decades else rng.random()
    return (
        pair.relaxed_positions + weight * (pair.positions - pair.relaxed_positions),
        pair.relaxed_cell + weight * (pair.cell - pair.relaxed_cell),
    )


def perturb(
    pair: Pair, settings: SamplingSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Strain the relaxed crystal of a pair and displace its atoms; mean fractional coordinates are kept.

    A share of the perturbations, given by the settings, is averaged over the space group of the relaxed
    crystal, as most relaxations keep it; their root mean square before the average is kept, too.
    """
    sizes = 10 ** (-settings.decades * rng.random(3)) if settings.decades else np.array([1, 1, rng.random()])
    strain = rng.normal(0.0, sizes[0] * settings.strain, (3, 3))
    dilation = np.clip(rng.normal(0.0, sizes[1] * settings.dilation), -MAX_DILATION, MAX_DILATION)
    strain = (strain + strain.T) / 2 + np.eye(3) * dilation
    if not pair.pbc.all():  # vacuum is not strained
        span = periodic_projector(pair.relaxed_cell, pair.pbc)
        strain = span @ strain @ span
    rattle = rng.normal(0.0, sizes[2] * settings.rattle, pair.relaxed_positions.shape)
    if rng.random() < settings.symmetric:
        strain, rattle = symmetrised(pair, strain, rattle)
    gradient = np.eye(3) + strain
    return pair.relaxed_positions @ gradient + rattle - rattle.mean(axis=0), pair.relaxed_cell @ gradient


def symmetrised(pair: Pair, strain: np.ndarray, rattle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average a strain ``(3, 3)`` and displacements ``(n, 3)`` in A over a relaxed crystal's space group.

    Each keeps its root mean square, unless the average is zero.
    """
    group, cell = _space_group(pair), pair.relaxed_cell.astype(float)
    if group.n_operations == 1:
        return strain, rattle
    inverse = np.linalg.inv(cell)
    rotations = inverse @ group.point_group.transpose(0, 2, 1) @ cell  # rows: x' = x @ Q
    mean_strain = (rotations.transpose(0, 2, 1) @ strain @ rotations).mean(axis=0)
    mean_rattle = group.mean(rattle @ inverse @ group.rotations.transpose(0, 2, 1)) @ cell
    return _with_size(mean_strain, strain), _with_size(mean_rattle, rattle)


@lru_cache(GROUPS)
def _space_group(pair: Pair) -> symmetry.SpaceGroup:
    """Space group of a relaxed crystal."""
    positions, cell = pair.relaxed_positions.astype(float), pair.relaxed_cell.astype(float)
    return symmetry.find_space_group(pair.numbers, positions, cell, pair.pbc, SYMPREC)


def _with_size(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Scale an average to the norm of ``like``; zero if all but rounding of it cancelled."""
    size, wanted = np.linalg.norm(values), np.linalg.norm(like)
    return values * (wanted / size) if size > 1e-3 * wanted else np.zeros_like(values)


class TrainingBatches(IterableDataset[Sample]):
    """Training batches of a pseudo-epoch, with graphs from `Network.prepare`.

    Every pass over the data has a new random order; batches are filled up to the limit of edges or of
    crystals. They depend on seed, epoch and rank only, so a resumed run has the same batches as an
    uninterrupted run.
    The default of ``edge_counter`` is `edge_counts`, which builds all graphs.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        network: Network[Any],
        settings: SamplingSettings,
        seed: int,
        edge_counter: EdgeCounter | None = None,
    ) -> None:
        super().__init__()
        self.pairs = list(pairs)
        self.network = network
        self.settings = settings
        self.seed = seed
        self.epoch = 0
        self.rank, self.world = 0, 1
        self.sizes = (edge_counter or partial(edge_counts, network))(self.pairs)

    def plan(self) -> list[list[int]]:
        """Indices of the crystals of every batch of this epoch and rank."""
        rng = np.random.default_rng([self.seed, self.epoch])
        steps, crystals = self.settings.epoch_steps, self.settings.crystals_per_batch
        passes = count() if steps else range(1)
        order = (int(index) for _ in passes for index in rng.permutation(len(self.pairs)))
        cost = self.sizes.__getitem__ if crystals is None else lambda index: 1
        batches = batches_by_cost(order, cost, crystals or self.settings.edges_per_batch)
        planned = list(islice(batches, steps * self.world if steps else None))
        each = max(1, len(planned) // self.world)  # equally many for every process
        return [planned[(self.rank + k * self.world) % len(planned)] for k in range(each)]

    def __iter__(self) -> Iterator[Sample]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = list(enumerate(self.plan()))
        for position, indices in batches[first::stride]:
            rng = np.random.default_rng([self.seed, self.epoch, self.rank, position])
            yield self.sample([self.pairs[i] for i in indices], rng)

    def sample(self, pairs: Sequence[Pair], rng: np.random.Generator) -> Sample:
        """Batch of random inputs of these crystals."""
        with part("random inputs"):
            drawn = [draw(pair, self.settings, rng) for pair in pairs]
        return collate(self.network, drawn)


class ValidationBatches(IterableDataset[Sample]):
    """Batches of validation crystals in their unrelaxed states, in a fixed order; see `TrainingBatches`."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        network: Network[Any],
        edges_per_batch: int,
        edge_counter: EdgeCounter | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.world = 0, 1
        sizes = (edge_counter or partial(edge_counts, network))(pairs)
        self.network = network
        order = np.argsort(sizes, kind="stable").tolist()
        batches = batches_by_cost(order, sizes.__getitem__, edges_per_batch)
        self.batches = [[pairs[index] for index in indices] for indices in batches]

    def __iter__(self) -> Iterator[Sample]:
        # Every process needs a batch: with fewer batches than processes, each takes all.
        shared = len(self.batches) >= self.world
        for pairs in self.batches[self.rank :: self.world] if shared else self.batches:
            yield self.sample(pairs)

    def sample(self, pairs: Sequence[Pair]) -> Sample:
        """Batch of these crystals in their unrelaxed states."""
        return collate(self.network, pairs)


def edge_counts(network: Network[Any], pairs: Sequence[Pair]) -> list[int]:
    """Edges of every unrelaxed crystal, counted by building the network's graphs."""
    counts = []
    for first in range(0, len(pairs), COUNT_BATCH):
        some = pairs[first : first + COUNT_BATCH]
        _, graph = network.prepare(inputs_of(some))
        counts += torch.bincount(graph.system_index, minlength=len(some)).tolist()
    return counts
