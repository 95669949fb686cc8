"""Whether an answer depends on the crystal alone: the table of `repose compare --invariance`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from repose.crystal.symmetry import find_space_group, idealise, symmetrise
from repose.data.dataset import Pair
from repose.errors import DatasetError
from repose.evaluation.runner import EDGES_PER_BATCH, pack, to_batch
from repose.evaluation.tables import markdown_table
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.invariance import WRITINGS

# An answer keeps a space group if it lies no farther from it than this, in A: float32 gives some 1e-5 A. What
# of a symmetry the input itself lacks an answer may enlarge, so only inputs count that have it to rounding.
KEPT, EXACT = 1e-3, 1e-5


@dataclass(frozen=True)
class Invariance:
    """How much the answers of a relaxer depend on how crystals are written.

    Attributes:
        relaxer: Its name.
        changes: Largest change of an answer in A, by writing.
        symmetric: How many of the crystals have a symmetry, exactly but for rounding.
        kept: How many of those answers have it, too, before anything is projected.
        broken: Farthest that any answer lies from its input's space group, in A.
    """

    relaxer: str
    changes: dict[str, float]
    symmetric: int
    kept: int
    broken: float


def invariances(
    relaxers: Sequence[Relaxer],
    pairs: Iterable[Pair],
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Invariance]:
    """Write crystals differently, and see how much the answers change.

    Args:
        relaxers: What is compared.
        pairs: Crystals; their unrelaxed states are taken.
        seed: Source of the rotations, orders, images and bases.
        progress: Called with the number of crystals just done.

    Returns:
        A row for every relaxer.

    Raises:
        DatasetError: There are no crystals, or one is not valid.
    """
    rows = [_Row(relaxer) for relaxer in relaxers]
    n = 0
    for number, packed in enumerate(pack(pairs, EDGES_PER_BATCH // 4)):  # a supercell has four times as many
        batch, _ = to_batch(packed)
        for row in rows:
            for name, change in WRITINGS.items():
                row.changes[name] = max(row.changes.get(name, 0.0), change(row.relaxer, batch, seed + number))
            answer = row.relaxer.predict(batch)
            first = 0
            for index, pair in enumerate(packed):
                last = first + len(pair.numbers)
                row.add(pair, Geometry(answer.positions[first:last], answer.cells[index]))
                first = last
        n += len(packed)
        if progress is not None:
            progress(len(packed))
    if not n:
        raise DatasetError("no crystal to write differently: the split is empty.")
    return [row.result() for row in rows]


def table(found: Sequence[Invariance]) -> str:
    """The rows in Markdown; changes in A."""
    header = ["", *(f"{name}, Å" for name in WRITINGS), "space group kept, %", "farthest from it, Å"]
    rows = [
        [
            row.relaxer,
            *(_short(row.changes[name]) for name in WRITINGS),
            f"{100 * row.kept / row.symmetric:.1f} of {row.symmetric}" if row.symmetric else "-",
            _short(row.broken),
        ]
        for row in found
    ]
    return "\n".join(markdown_table(header, rows)) + "\n"


def as_dicts(found: Sequence[Invariance]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [asdict(row) for row in found]


def _short(value: float) -> str:
    return f"{value:.2g}" if value >= 0.01 else f"{value:.0e}"


class _Row:
    """What is collected about one relaxer."""

    def __init__(self, relaxer: Relaxer) -> None:
        self.relaxer = relaxer
        self.changes: dict[str, float] = {}
        self.symmetric = self.kept = 0
        self.broken = 0.0

    def add(self, pair: Pair, answer: Geometry) -> None:
        """See how far an answer lies from the space group of its input."""
        group = find_space_group(pair.numbers, pair.positions, pair.cell, pair.pbc)
        ideal, ideal_cell = idealise(group, pair.positions, pair.cell)
        missing = max(np.abs(ideal - pair.positions).max(), np.abs(ideal_cell - pair.cell).max())
        if group.n_operations == 1 or missing > EXACT:
            return
        positions, cell = (np.asarray(part, dtype=np.float64) for part in answer)
        ideal, ideal_cell = symmetrise(group, pair.positions, pair.cell, positions, cell)
        # A rigid shift of the crystal is none of the symmetry's business.
        shift = ideal - positions
        far = max(np.abs(shift - shift.mean(axis=0)).max(), np.abs(ideal_cell - cell).max())
        self.symmetric += 1
        self.kept += bool(far <= KEPT)
        self.broken = max(self.broken, float(far))

    def result(self) -> Invariance:
        """The row."""
        return Invariance(self.relaxer.name, self.changes, self.symmetric, self.kept, self.broken)
