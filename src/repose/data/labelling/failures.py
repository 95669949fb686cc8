"""Candidates that could not be labelled, with the reason; a file in the dataset of the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from repose.atomic_write import replacing_file
from repose.crystal.frame import Frame
from repose.data.candidates import Candidate
from repose.data.pairing import Refusal

FAILED = "failed.parquet"


@dataclass(frozen=True)
class Failure:
    """A candidate without a label, as plain lists; lists are empty where nothing is known.

    Attributes:
        id: Id of the candidate.
        reason: Kind of failure, a colon, and details.
        numbers: Atomic numbers, ``[n]``.
        pbc: Periodic directions, ``[3]``.
        positions: Candidate, A, ``[n, 3]``.
        cell: Candidate, rows, A, ``[3, 3]``.
        last_positions: Last step of the relaxation, A, ``[n, 3]``.
        last_cell: Last step, rows, A, ``[3, 3]``.
        steps: Number of steps.
        tags: Tags of the candidate.
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
        cls, candidate: Candidate | Refusal, reason: str = "", frames: list[Frame] | None = None
    ) -> Failure:
        """Make the failure of a candidate with the steps of its relaxation; a refusal has its own reason."""
        if isinstance(candidate, Refusal):
            return cls(candidate.id, candidate.reason)
        return cls(
            id=candidate.id,
            reason=reason,
            numbers=candidate.numbers.tolist(),
            pbc=candidate.pbc.tolist(),
            positions=candidate.positions.tolist(),
            cell=candidate.cell.tolist(),
            last_positions=frames[-1].positions.tolist() if frames else [],
            last_cell=frames[-1].cell.tolist() if frames else [],
            steps=len(frames) - 1 if frames else 0,
            tags=candidate.tags,
        )

    @property
    def kind(self) -> str:
        """Reason up to its colon: ``"not converged"``, ``"exploded"``, ..."""
        return self.reason.partition(":")[0]

    def to_row(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def write_failures(directory: Path, failures: Iterable[Failure]) -> None:
    """Write ``failed.parquet`` into a directory, atomically; without failures no file is written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [failure.to_row() | {"tags": list(failure.tags.items())} for failure in failures]
    if not rows:
        return
    vectors = pa.list_(pa.list_(pa.float64()))
    text, numbers, pbc = pa.string(), pa.list_(pa.int32()), pa.list_(pa.bool_())
    types = [text, text, numbers, pbc, *[vectors] * 4, pa.int32(), pa.map_(text, text)]
    schema = pa.schema(list(zip(rows[0], types, strict=True)))
    with replacing_file(directory / FAILED) as new:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), new, compression="zstd")


def read_failures(directory: Path) -> list[Failure]:
    """Read the failures of a dataset directory; none if it has no ``failed.parquet``."""
    import pyarrow.parquet as pq

    path = directory / FAILED
    if not path.is_file():
        return []
    rows = pq.ParquetFile(path).read().to_pylist()
    return [Failure(**row | {"tags": dict(row["tags"])}) for row in rows]
