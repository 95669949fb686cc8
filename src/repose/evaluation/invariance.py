"""Invariance of relaxers to equivalent cells: the table of `repose compare --invariance`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from repose.crystal.batching import batches_by_cost
from repose.crystal.symmetry import find_space_group, idealise, symmetrise
from repose.data.dataset import Pair
from repose.errors import DatasetError
from repose.evaluation.runner import EDGES_PER_BATCH, estimate_edges, to_batch
from repose.evaluation.tables import markdown_table
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.invariance import INVARIANCE_CHECKS

# Tolerances in A: a result keeps the space group of its input within the first, as float32 gives some 1e-5 A.
# Inputs count as symmetric within the second, because results may amplify deviations of the input.
KEPT, EXACT = 1e-3, 1e-5


@dataclass
class Invariance:
    """Dependence of the results of a relaxer on the description of the crystals.

    Attributes:
        relaxer: Its name.
        changes: Largest change of a result in A, by transformation of the input.
        symmetric: Number of crystals with a symmetry other than translations, within `EXACT`.
        kept: Number of these whose predicted geometry, without projection, has the symmetry within `KEPT`.
        broken: Largest deviation of a result from the space group of its input, A.
    """

    relaxer: str
    changes: dict[str, float] = field(default_factory=dict)
    symmetric: int = 0
    kept: int = 0
    broken: float = 0.0

    def add_symmetry(self, pair: Pair, result: Geometry) -> None:
        """Measure the deviation of a result from the space group of its input."""
        group = find_space_group(pair.numbers, pair.positions, pair.cell, pair.pbc)
        ideal, ideal_cell = idealise(group, pair.positions, pair.cell)
        missing = max(np.abs(ideal - pair.positions).max(), np.abs(ideal_cell - pair.cell).max())
        if group.n_operations == 1 or missing > EXACT:
            return
        positions, cell = (np.asarray(part, dtype=np.float64) for part in result)
        ideal, ideal_cell = symmetrise(group, pair.positions, pair.cell, positions, cell)
        # A rigid shift of the crystal does not change its symmetry.
        shift = ideal - positions
        far = max(np.abs(shift - shift.mean(axis=0)).max(), np.abs(ideal_cell - cell).max())
        self.symmetric += 1
        self.kept += bool(far <= KEPT)
        self.broken = max(self.broken, float(far))


def invariances(
    relaxers: Sequence[Relaxer],
    pairs: Iterable[Pair],
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Invariance]:
    """Measure how much the results of each relaxer change for equivalent inputs.

    Args:
        relaxers: Relaxers to compare.
        pairs: Crystals; the unrelaxed states are the inputs.
        seed: Seed of the random rotations, orders, images and bases.
        progress: Called with the number of crystals just done.

    Raises:
        DatasetError: There are no crystals, or one is invalid.
    """
    found = [Invariance(relaxer.name) for relaxer in relaxers]
    n = 0
    batches = batches_by_cost(pairs, estimate_edges, EDGES_PER_BATCH // 4)  # supercells: 4 times as many
    for number, packed in enumerate(batches):
        batch, _ = to_batch(packed)
        for row, relaxer in zip(found, relaxers, strict=True):
            for name, change in INVARIANCE_CHECKS.items():
                row.changes[name] = max(row.changes.get(name, 0.0), change(relaxer, batch, seed + number))
            result = relaxer.predict(batch)
            positions = result.positions.split(batch.counts.tolist())
            for pair, own, cell in zip(packed, positions, result.cells, strict=True):
                row.add_symmetry(pair, Geometry(own, cell))
        n += len(packed)
        if progress is not None:
            progress(len(packed))
    if not n:
        raise DatasetError("no crystal to compare: the split is empty.")
    return found


def table(found: Sequence[Invariance]) -> str:
    """Table in Markdown; changes in A."""
    header = ["", *(f"{name}, Å" for name in INVARIANCE_CHECKS), "space group kept, %", "farthest from it, Å"]
    rows = [
        [
            row.relaxer,
            *(_format(row.changes[name]) for name in INVARIANCE_CHECKS),
            f"{100 * row.kept / row.symmetric:.1f} of {row.symmetric}" if row.symmetric else "-",
            _format(row.broken),
        ]
        for row in found
    ]
    return "\n".join(markdown_table(header, rows)) + "\n"


def as_dicts(found: Sequence[Invariance]) -> list[dict[str, Any]]:
    """Rows for JSON."""
    return [asdict(row) for row in found]


def _format(value: float) -> str:
    return f"{value:.2g}" if value >= 0.01 else f"{value:.0e}"
