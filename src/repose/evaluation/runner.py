"""Errors of relaxers on datasets of unrelaxed and relaxed crystals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.batching import batches_by_cost
from repose.crystal.lattice import volume
from repose.data.dataset import Pair
from repose.errors import ConfigError, DatasetError, InvalidCrystalError, ShapeError
from repose.evaluation.metrics import BOND_CUTOFF, BOND_NEIGHBOURS, errors, matches
from repose.evaluation.results import CrystalInfo, EvaluationResult, Scores
from repose.evaluation.uncertainty import PredictedUncertainty, examples
from repose.models.initial_structure import is_bulk
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.baselines import Dummy, Rescale, fit_atomic_volumes

# A network of the published size then fits into the memory of a laptop.
EDGES_PER_BATCH = 20_000


def evaluate(
    relaxers: Sequence[Relaxer],
    datasets: Mapping[str, Iterable[Pair]],
    *,
    train: Iterable[Pair] = (),
    split: str = "test",
    match: bool = True,
    edges_per_batch: int = EDGES_PER_BATCH,
    progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Errors of relaxers, the trivial Dummy and Rescale first, on pairs of unrelaxed and relaxed crystals.

    A prediction that is not finite, or whose cell is flat, is scored as Dummy's; the result lists these
    crystals and ignores their uncertainty.

    Args:
        relaxers: Relaxers with distinct names.
        datasets: Pairs by name of the dataset, each read once; every dataset is a block of the tables.
        train: Pairs to fit Rescale; without any, Rescale is left out.
        split: Name of the split, for the tables.
        match: Also compute the match rate, which takes longer than everything else.
        edges_per_batch: Limit of the estimated edges of a batch.
        progress: Called with the number of crystals just done.

    Raises:
        ConfigError: Two relaxers have the same name.
        DatasetError: There are no pairs, or a crystal is invalid.
    """
    everyone = [*trivial_relaxers(train), *relaxers]
    check_names(everyone)
    crystals: list[CrystalInfo] = []
    collected = {relaxer.name: _Columns() for relaxer in everyone}
    for dataset, pairs in datasets.items():
        for index, packed in enumerate(batches_by_cost(pairs, estimate_edges, edges_per_batch)):
            batch, target = to_batch(packed)
            crystals += [CrystalInfo.from_pair(pair, dataset) for pair in packed]
            for relaxer in everyone:
                if index == 0:
                    # Warm up: lazy imports and first kernels are not timed.
                    relaxer.relax_batch(batch.split()[0])
                collected[relaxer.name].add(relaxer, batch, target, match)
            if progress is not None:
                progress(len(packed))
    if not crystals:
        raise DatasetError(f"no crystal to evaluate: the {split} split of {', '.join(datasets)} is empty.")
    scores = tuple(columns.scores(name) for name, columns in collected.items())
    return EvaluationResult(split, tuple(crystals), scores)


def check_names(relaxers: Sequence[Relaxer]) -> None:
    """Check that the names of relaxers differ.

    Raises:
        ConfigError: Two relaxers have the same name.
    """
    names = [relaxer.name for relaxer in relaxers]
    if len(set(names)) < len(names):
        raise ConfigError(f"expected relaxers with distinct names; got {', '.join(names)}.")


def trivial_relaxers(train: Iterable[Pair]) -> list[Relaxer]:
    """Dummy and, if there are bulk crystals to train on, Rescale fitted to their relaxed volumes."""
    fitted = [
        (pair.numbers, abs(float(np.linalg.det(pair.relaxed_cell))))
        for pair in train
        if is_bulk(pair.relaxed_positions, pair.relaxed_cell, pair.pbc)
    ]
    if not fitted:
        return [Dummy()]
    numbers, volumes = zip(*fitted, strict=True)
    return [Dummy(), Rescale(fit_atomic_volumes(numbers, np.array(volumes)))]


def to_batch(pairs: Sequence[Pair]) -> tuple[CrystalBatch, Geometry]:
    """Unrelaxed crystals as one float64 batch, and their relaxed geometry.

    Raises:
        DatasetError: An unrelaxed or relaxed crystal is invalid.
    """
    unrelaxed = CrystalBatch.collate([_crystal(pair, pair.positions, pair.cell) for pair in pairs])
    relaxed = [_crystal(pair, pair.relaxed_positions, pair.relaxed_cell) for pair in pairs]
    positions = torch.cat([crystal.positions for crystal in relaxed])
    return unrelaxed, Geometry(positions, torch.cat([crystal.cells for crystal in relaxed]))


def estimate_edges(pair: Pair) -> int:
    """Edges of the unrelaxed crystal's graph, estimated from its density."""
    n = len(pair.numbers)
    density = n / max(abs(float(np.linalg.det(pair.cell))), 1e-3)
    return math.ceil(n * min(BOND_NEIGHBOURS, density * 4 / 3 * math.pi * BOND_CUTOFF**3))


def _crystal(pair: Pair, positions: np.ndarray, cell: np.ndarray) -> CrystalBatch:
    try:
        return CrystalBatch.single(pair.numbers, positions, cell, pair.pbc, charges=pair.charges)
    except (ShapeError, InvalidCrystalError) as error:
        raise DatasetError(f"crystal '{pair.id}' of the dataset is invalid: {error}") from None


@dataclass
class _Columns:
    """Scores of one relaxer by batch."""

    errors: list[dict[str, np.ndarray]] = field(default_factory=list)
    volumes: list[np.ndarray] = field(default_factory=list)
    finite: list[np.ndarray] = field(default_factory=list)
    seconds: list[np.ndarray] = field(default_factory=list)
    uncertainty: list[PredictedUncertainty] = field(default_factory=list)

    def add(self, relaxer: Relaxer, batch: CrystalBatch, target: Geometry, match: bool) -> None:
        start = time.perf_counter()
        # The result is copied to the CPU, which synchronises with the device.
        relaxed = relaxer.relax_batch(batch)
        seconds = time.perf_counter() - start
        predicted, finite = finite_or_input(batch, relaxed.geometry)
        values = {key: value.numpy() for key, value in errors(batch, predicted, target).items()}
        if match:
            values["match"] = 100.0 * matches(batch, predicted, target)
        self.errors.append(values)
        self.volumes.append(volume(predicted.cells).numpy())
        self.finite.append(finite.numpy())
        self.seconds.append(np.full(len(batch), seconds / len(batch)))
        drawable = examples(batch, predicted, target, relaxed, finite)
        self.uncertainty.append(PredictedUncertainty.from_batch(relaxed, drawable))

    def scores(self, name: str) -> Scores:
        return Scores(
            relaxer=name,
            values={key: np.concatenate([part[key] for part in self.errors]) for key in self.errors[0]},
            volumes=np.concatenate(self.volumes),
            finite=np.concatenate(self.finite),
            seconds=np.concatenate(self.seconds),
            uncertainty=PredictedUncertainty.join(self.uncertainty),
        )


def finite_or_input(batch: CrystalBatch, predicted: Geometry) -> tuple[Geometry, torch.Tensor]:
    """Replace invalid crystals by the input: those with numbers that are not finite or with a flat cell.

    Returns:
        The valid geometry, and a mask of the crystals whose prediction was valid, ``(S,)`` bool.
    """
    bad = ~(predicted.cells.isfinite().flatten(1).all(dim=1) & (volume(predicted.cells) > 0))
    bad[batch.system_index[~predicted.positions.isfinite().all(dim=1)]] = True
    geometry = Geometry(
        torch.where(bad[batch.system_index, None], batch.positions, predicted.positions),
        torch.where(bad[:, None, None], batch.cells, predicted.cells),
    )
    return geometry, ~bad
