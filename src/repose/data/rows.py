"""Crystals of a dataset: the class `Pair`, and conversion to and from rows of Parquet tables."""

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
COLUMNS = ("id", "split", "numbers", "pbc", *GEOMETRY, "path", "tags", "charges")


@dataclass(frozen=True, eq=False)
class Pair:
    """An unrelaxed and the relaxed crystal of n atoms.

    Attributes:
        id: Unique name in the dataset.
        numbers: Atomic numbers, ``(n,)`` int.
        pbc: Periodic directions, ``(3,)`` bool.
        positions: Unrelaxed, A, ``(n, 3)``.
        cell: Unrelaxed, rows, A, ``(3, 3)``.
        relaxed_positions: A, ``(n, 3)``; the same order of atoms, in their nearest periodic images.
        relaxed_cell: Rows, A, ``(3, 3)``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        path: Frames from unrelaxed to relaxed; empty if unknown.
        tags: Free columns, such as the prototype.
        charges: Charges of the unrelaxed atoms, ``(n,)``, or None if unknown.
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
    charges: np.ndarray | None = None

    @property
    def chemical_system(self) -> str:
        """Elements in alphabetical order, joined by dashes: ``"Ca-Mn-O"``."""
        from ase.data import chemical_symbols

        return "-".join(sorted({chemical_symbols[z] for z in self.numbers}))


def schema(single: bool) -> pa.Schema:
    """Return the columns of a dataset; numbers in float32 if ``single``, energies always in float64."""
    import pyarrow as pa

    text = pa.string()
    number = pa.float32() if single else pa.float64()
    vectors = pa.list_(pa.list_(number, 3))
    frame = [(name, pa.float64() if name == "energy" else vectors) for name in columns.FRAME]
    return pa.schema(
        [
            ("id", text),
            ("split", text),
            ("numbers", pa.list_(pa.int32())),
            ("pbc", pa.list_(pa.bool_())),
            *((name, vectors) for name in GEOMETRY),
            ("path", pa.list_(pa.struct(frame))),
            ("tags", pa.map_(text, text)),
            ("charges", pa.list_(number)),
        ]
    )


def to_row(pair: Pair) -> dict[str, Any]:
    """Return a crystal as plain values, for Parquet and JSON."""

    def plain(values: np.ndarray | float | None) -> Any:
        return None if values is None else np.asarray(values, dtype=float).tolist()

    return {
        "id": pair.id,
        "split": pair.split,
        "numbers": pair.numbers.tolist(),
        "pbc": pair.pbc.tolist(),
        **{name: plain(getattr(pair, name)) for name in GEOMETRY},
        "path": [{name: plain(getattr(frame, name)) for name in columns.FRAME} for frame in pair.path],
        "tags": list(pair.tags.items()),
        "charges": plain(pair.charges),
    }


def from_row(row: dict[str, Any]) -> Pair:
    """Return the crystal of `to_row`, before or after JSON."""
    import pyarrow as pa

    row = row | {"tags": list(map(tuple, row["tags"]))}  # tuples are lists in JSON
    return next(to_pairs(pa.RecordBatch.from_pylist([row], schema=schema(single=False))))


def to_pairs(rows: pa.RecordBatch) -> Iterator[Pair]:
    """Yield the crystals of table rows; without the columns ``path`` and ``charges`` they have none.

    Raises:
        DatasetError: A vector does not have three components.
    """
    names = rows.schema.names
    fields = zip(
        columns.values(rows["id"]),
        columns.arrays(rows["numbers"], np.int64),
        columns.arrays(rows["pbc"], bool),
        *(columns.arrays(rows[name]) for name in GEOMETRY),
        columns.values(rows["split"]),
        columns.frames(rows["path"]) if "path" in names else repeat((), len(rows)),
        columns.mappings(rows["tags"]),
        columns.arrays(rows["charges"]) if "charges" in names else repeat(None, len(rows)),
        strict=True,
    )
    return starmap(Pair, fields)
