"""Run relaxers over datasets and score every prediction."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import volume
from repose.data.dataset import Pair
from repose.errors import ConfigError, DatasetError, InvalidCrystalError, ShapeError
from repose.evaluation.metrics import BOND_CUTOFF, BOND_NEIGHBOURS, errors, matches
from repose.evaluation.report import Crystal, Report, Scores
from repose.evaluation.uncertainty import Uncertainty, examples
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.baselines import Dummy, Rescale, fit_atomic_volumes

# Fits a published-size network into the memory of a laptop.
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
) -> Report:
    """Score relaxers, after the trivial Dummy and Rescale, on pairs of unrelaxed and relaxed crystals.

    A prediction that is not finite, or whose cell is flat, counts as Dummy's for that crystal, and the report
    names it; what the relaxer said about its error does not count.

    Args:
        relaxers: What is compared; names must differ from each other and from the trivial ones.
        datasets: Pairs by name of the dataset, each read once; every dataset is a block of the report.
        train: Pairs that Rescale is fitted to; without any there is no Rescale.
        split: What the pairs are called in the report.
        match: Also compute the match rate, which takes longer than everything else.
        edges_per_batch: Crystals are packed until their estimated neighbours exceed this.
        progress: Called with the number of crystals just done.

    Returns:
        Errors of every crystal, with tables and files made of them.

    Raises:
        ConfigError: Two relaxers have one name.
        DatasetError: There are no pairs, or a crystal is not valid; names it.
    """
    everyone = [*trivial_relaxers(train), *relaxers]
    names = [relaxer.name for relaxer in everyone]
    if len(set(names)) != len(names):
        raise ConfigError(f"relaxers need names of their own; got {', '.join(names)}.")
    crystals: list[Crystal] = []
    collected = {name: _Columns() for name in names}
    for dataset, pairs in datasets.items():
        for index, packed in enumerate(pack(pairs, edges_per_batch)):
            batch, target = to_batch(packed)
            crystals += [facts(pair, dataset) for pair in packed]
            for relaxer in everyone:
                if index == 0:
                    # Lazy imports and the first kernels are not the relaxer's speed.
                    relaxer.estimate(batch.split()[0])
                collected[relaxer.name].add(relaxer, batch, target, match)
            if progress is not None:
                progress(len(packed))
    if not crystals:
        raise DatasetError(f"no crystal to evaluate: the {split} split of {', '.join(datasets)} is empty.")
    return Report(split, tuple(crystals), tuple(columns.scores(name) for name, columns in collected.items()))


def trivial_relaxers(train: Iterable[Pair]) -> list[Relaxer]:
    """Dummy, and Rescale fitted to the relaxed volumes of training pairs where there are any."""
    fitted = [(pair.numbers, abs(float(np.linalg.det(pair.relaxed_cell)))) for pair in train]
    if not fitted:
        return [Dummy()]
    numbers, volumes = zip(*fitted, strict=True)
    return [Dummy(), Rescale(fit_atomic_volumes(numbers, np.array(volumes)))]


def to_batch(pairs: Sequence[Pair]) -> tuple[CrystalBatch, Geometry]:
    """Unrelaxed crystals as one float64 batch, and their relaxed geometry.

    Raises:
        DatasetError: A crystal, unrelaxed or relaxed, is not valid; names it.
    """
    unrelaxed = CrystalBatch.collate([_crystal(pair, pair.positions, pair.cell) for pair in pairs])
    relaxed = [_crystal(pair, pair.relaxed_positions, pair.relaxed_cell) for pair in pairs]
    positions = torch.cat([crystal.positions for crystal in relaxed])
    return unrelaxed, Geometry(positions, torch.cat([crystal.cells for crystal in relaxed]))


def pack(pairs: Iterable[Pair], edges_per_batch: int) -> Iterator[list[Pair]]:
    """Group pairs, in order, until their estimated neighbours exceed a budget; at least one a group."""
    group, edges = list[Pair](), 0
    for pair in pairs:
        estimate = estimate_edges(pair)
        if group and edges + estimate > edges_per_batch:
            yield group
            group, edges = [], 0
        group.append(pair)
        edges += estimate
    if group:
        yield group


def estimate_edges(pair: Pair) -> int:
    """Neighbours to expect in the unrelaxed crystal's graph, from its density."""
    n = len(pair.numbers)
    density = n / max(abs(float(np.linalg.det(pair.cell))), 1e-3)
    return math.ceil(n * min(BOND_NEIGHBOURS, density * 4 / 3 * math.pi * BOND_CUTOFF**3))


def _crystal(pair: Pair, positions: np.ndarray, cell: np.ndarray) -> CrystalBatch:
    try:
        return CrystalBatch(
            numbers=torch.tensor(pair.numbers, dtype=torch.int64),
            positions=torch.tensor(positions, dtype=torch.float64),
            cells=torch.tensor(cell, dtype=torch.float64)[None],
            system_index=torch.zeros(len(pair.numbers), dtype=torch.int64),
            pbc=torch.tensor(pair.pbc, dtype=torch.bool)[None],
        )
    except (ShapeError, InvalidCrystalError) as error:
        raise DatasetError(f"crystal '{pair.id}' of the dataset is not valid: {error}") from None


def facts(pair: Pair, dataset: str) -> Crystal:
    """What the report says of a crystal, whatever is predicted."""
    from ase.symbols import Symbols

    return Crystal(
        id=pair.id,
        dataset=dataset,
        formula=Symbols(pair.numbers).get_chemical_formula("hill"),
        n_atoms=len(pair.numbers),
        input_volume=abs(float(np.linalg.det(pair.cell))),
        target_volume=abs(float(np.linalg.det(pair.relaxed_cell))),
    )


@dataclass
class _Columns:
    """What one relaxer did, batch by batch."""

    errors: list[dict[str, np.ndarray]] = field(default_factory=list)
    volumes: list[np.ndarray] = field(default_factory=list)
    finite: list[np.ndarray] = field(default_factory=list)
    seconds: list[np.ndarray] = field(default_factory=list)
    uncertainty: list[Uncertainty] = field(default_factory=list)

    def add(self, relaxer: Relaxer, batch: CrystalBatch, target: Geometry, match: bool) -> None:
        start = time.perf_counter()
        # The answer comes back to the CPU, which waits for the device: no other synchronisation is needed.
        estimate = relaxer.estimate(batch)
        seconds = time.perf_counter() - start
        predicted, finite = finite_or_input(batch, estimate.geometry)
        values = {key: value.numpy() for key, value in errors(batch, predicted, target).items()}
        if match:
            values["match"] = 100.0 * matches(batch, predicted, target)
        self.errors.append(values)
        self.volumes.append(volume(predicted.cells).numpy())
        self.finite.append(finite.numpy())
        self.seconds.append(np.full(len(batch), seconds / len(batch)))
        drawable = examples(batch, predicted, target, estimate, finite)
        self.uncertainty.append(Uncertainty.of(estimate, drawable))

    def scores(self, name: str) -> Scores:
        return Scores(
            relaxer=name,
            values={key: np.concatenate([part[key] for part in self.errors]) for key in self.errors[0]},
            volumes=np.concatenate(self.volumes),
            finite=np.concatenate(self.finite),
            seconds=np.concatenate(self.seconds),
            uncertainty=Uncertainty.join(self.uncertainty),
        )


def finite_or_input(batch: CrystalBatch, predicted: Geometry) -> tuple[Geometry, torch.Tensor]:
    """Replace crystals with a number that is not finite, or with a flat cell, by the input, whole.

    Args:
        batch: The unrelaxed crystals.
        predicted: Any numbers.

    Returns:
        A geometry of crystals, and which of them were such before, ``(S,)`` bool.
    """
    bad = ~(predicted.cells.isfinite().flatten(1).all(dim=1) & (volume(predicted.cells) > 0))
    bad[batch.system_index[~predicted.positions.isfinite().all(dim=1)]] = True
    geometry = Geometry(
        torch.where(bad[batch.system_index, None], batch.positions, predicted.positions),
        torch.where(bad[:, None, None], batch.cells, predicted.cells),
    )
    return geometry, ~bad
