"""A crystal of a dataset: as an object, as a row of Parquet tables, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.crystal.frame import Frame
from repose.data import columns

if TYPE_CHECKING:
    import pyarrow as pa

GEOMETRY = ("positions", "cell", "relaxed_positions", "relaxed_cell")
COLUMNS = ("id", "split", "numbers", "pbc", *GEOMETRY, "path", "tags")


@dataclass(frozen=True, eq=False)
class Pair:
    """An unrelaxed crystal of n atoms and what it relaxes to.

    Attributes:
        id: Unique name in the dataset.
        numbers: Atomic numbers, ``(n,)`` int.
        pbc: Periodic directions, ``(3,)`` bool.
        positions: Unrelaxed, A, ``(n, 3)``.
        cell: Unrelaxed, rows, A, ``(3, 3)``.
        relaxed_positions: A, ``(n, 3)``; atom k is input atom k, in the image nearest to it.
        relaxed_cell: Rows, A, ``(3, 3)``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        path: Frames from unrelaxed to relaxed, where known.
        tags: Free columns: prototype, how the input was made, ...
    """

    id: str
    numbers: np.ndarray
    pbc: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    relaxed_positions: np.ndarray
    relaxed_cell: np.ndarray
    split: str = "train"
    path: tuple[Frame, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def chemical_system(self) -> str:
        """Elements in alphabetical order, joined by dashes: ``"Ca-Mn-O"``."""
        from ase.data import chemical_symbols

        return "-".join(sorted({chemical_symbols[z] for z in self.numbers}))


def schema(single: bool) -> pa.Schema:
    """Columns of a dataset; numbers in float32 if ``single``, energies always in float64."""
    import pyarrow as pa

    vectors = pa.list_(pa.list_(pa.float32() if single else pa.float64(), 3))
    frame = pa.struct(
        [
            ("positions", vectors),
            ("cell", vectors),
            ("energy", pa.float64()),
            ("forces", vectors),
            ("stress", vectors),
        ]
    )
    return pa.schema(
        [
            ("id", pa.string()),
            ("split", pa.string()),
            ("numbers", pa.list_(pa.int32())),
            ("pbc", pa.list_(pa.bool_())),
            ("positions", vectors),
            ("cell", vectors),
            ("relaxed_positions", vectors),
            ("relaxed_cell", vectors),
            ("path", pa.list_(frame)),
            ("tags", pa.map_(pa.string(), pa.string())),
        ]
    )


def to_row(pair: Pair) -> dict[str, Any]:
    """A crystal as plain values, for Parquet and JSON."""

    def rows(array: np.ndarray | None) -> list[list[float]] | None:
        return None if array is None else np.asarray(array, dtype=float).tolist()

    return {
        "id": pair.id,
        "split": pair.split,
        "numbers": pair.numbers.tolist(),
        "pbc": pair.pbc.tolist(),
        "positions": rows(pair.positions),
        "cell": rows(pair.cell),
        "relaxed_positions": rows(pair.relaxed_positions),
        "relaxed_cell": rows(pair.relaxed_cell),
        "path": [
            {
                "positions": rows(frame.positions),
                "cell": rows(frame.cell),
                "energy": frame.energy,
                "forces": rows(frame.forces),
                "stress": rows(frame.stress),
            }
            for frame in pair.path
        ],
        "tags": list(pair.tags.items()),
    }


def to_pairs(rows: pa.RecordBatch) -> Iterator[Pair]:
    """Crystals of a part's rows, decoded one after another; without the column ``path`` they have no path.

    Raises:
        DatasetError: A vector of theirs has not three components.
    """
    every = zip(
        columns.values(rows["id"]),
        columns.arrays(rows["numbers"], np.int64),
        columns.arrays(rows["pbc"], bool),
        *(columns.arrays(rows[name]) for name in GEOMETRY),
        columns.values(rows["split"]),
        columns.frames(rows["path"]) if "path" in rows.schema.names else repeat((), len(rows)),
        columns.mappings(rows["tags"]),
        strict=True,
    )
    return starmap(Pair, every)


def to_pair(row: dict[str, Any]) -> Pair:
    """The inverse of `to_row`."""

    def array(values: Any) -> np.ndarray | None:
        return None if values is None else np.array(values, dtype=float)

    return Pair(
        id=row["id"],
        split=row["split"],
        numbers=np.array(row["numbers"], dtype=np.int64),
        pbc=np.array(row["pbc"], dtype=bool),
        positions=np.array(row["positions"], dtype=float),
        cell=np.array(row["cell"], dtype=float),
        relaxed_positions=np.array(row["relaxed_positions"], dtype=float),
        relaxed_cell=np.array(row["relaxed_cell"], dtype=float),
        path=tuple(
            Frame(
                positions=np.array(frame["positions"], dtype=float),
                cell=np.array(frame["cell"], dtype=float),
                energy=frame["energy"],
                forces=array(frame["forces"]),
                stress=array(frame["stress"]),
            )
            for frame in row["path"] or ()
        ),
        tags=dict(row["tags"] or ()),
    )
