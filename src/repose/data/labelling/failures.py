"""Crystals that could not be labelled, with the reason, beside the dataset of those that could."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repose.atomic_write import replacing_file
from repose.data.candidates import Candidate
from repose.data.pairing import Refusal

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

FAILED = "failed.parquet"


@dataclass(frozen=True)
class Failure:
    """A candidate without a label; lists as they stand on disk, empty where nothing is known.

    Attributes:
        id: Of the candidate.
        reason: Why, in words.
        numbers: Atomic numbers, ``[n]``.
        pbc: Periodic directions, ``[3]``.
        positions: Of the candidate, A, ``[n, 3]``.
        cell: Rows, A, ``[3, 3]``.
        last_positions: Where it was given up, A, ``[n, 3]``.
        last_cell: Rows, A, ``[3, 3]``.
        steps: Steps that it took.
        tags: Of the candidate.
    """

    id: str
    reason: str
    numbers: list[int] = field(default_factory=list)
    pbc: list[bool] = field(default_factory=list)
    positions: list[list[float]] = field(default_factory=list)
    cell: list[list[float]] = field(default_factory=list)
    last_positions: list[list[float]] = field(default_factory=list)
    last_cell: list[list[float]] = field(default_factory=list)
    steps: int = 0
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        candidate: Candidate | Refusal,
        reason: str = "",
        last: tuple[np.ndarray, np.ndarray] | None = None,
        steps: int = 0,
    ) -> Failure:
        """Failure of a candidate, or of one that could not even be read.

        Args:
            candidate: The candidate; a refusal brings its own reason.
            reason: Why it failed.
            last: Positions and cell where it was given up.
            steps: Steps that it took.
        """
        if isinstance(candidate, Refusal):
            return cls(candidate.id, candidate.reason)
        return cls(
            id=candidate.id,
            reason=reason,
            numbers=candidate.numbers.tolist(),
            pbc=candidate.pbc.tolist(),
            positions=candidate.positions.tolist(),
            cell=candidate.cell.tolist(),
            last_positions=[] if last is None else last[0].tolist(),
            last_cell=[] if last is None else last[1].tolist(),
            steps=steps,
            tags=candidate.tags,
        )

    @property
    def kind(self) -> str:
        """The reason up to its colon: ``"not converged"``, ``"exploded"``, ..."""
        return self.reason.partition(":")[0]

    def to_row(self) -> dict[str, Any]:
        """For JSON and Parquet."""
        return asdict(self)


def write_failures(directory: Path, failures: Iterable[Failure]) -> None:
    """Write ``failed.parquet`` into a directory, atomically; nothing if there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [failure.to_row() | {"tags": list(failure.tags.items())} for failure in failures]
    if rows:
        with replacing_file(directory / FAILED) as new:
            pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), new, compression="zstd")


def read_failures(directory: Path) -> list[Failure]:
    """The failures recorded in a directory; none if it has no ``failed.parquet``."""
    import pyarrow.parquet as pq

    path = directory / FAILED
    if not path.is_file():
        return []
    rows = pq.ParquetFile(path).read().to_pylist()
    return [Failure(**row | {"tags": dict(row["tags"])}) for row in rows]


def _schema() -> pa.Schema:
    import pyarrow as pa

    vectors = pa.list_(pa.list_(pa.float64()))
    return pa.schema(
        [
            ("id", pa.string()),
            ("reason", pa.string()),
            ("numbers", pa.list_(pa.int32())),
            ("pbc", pa.list_(pa.bool_())),
            ("positions", vectors),
            ("cell", vectors),
            ("last_positions", vectors),
            ("last_cell", vectors),
            ("steps", pa.int32()),
            ("tags", pa.map_(pa.string(), pa.string())),
        ]
    )
