"""Columns of Parquet tables as arrays: numbers are copied from Arrow buffers, not made one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.crystal.frame import Frame
from repose.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa


def values(column: pa.Array) -> list[Any]:
    """Values of a column of text or numbers; None where null."""
    found = column.to_numpy(zero_copy_only=False).tolist()
    if not column.null_count:
        return found
    return [value if known else None for value, known in zip(found, _known(column), strict=True)]


def lengths(column: pa.Array) -> np.ndarray:
    """Items of every list of a column, int; 0 where null."""
    return column.value_lengths().fill_null(0).to_numpy()


def arrays(column: pa.Array, dtype: type = float) -> Iterator[Any]:
    """Lists of a column as arrays, each with memory of its own.

    Args:
        column: Rows are lists of numbers, or lists of vectors with three components; a row may be null.
        dtype: Type of the arrays.

    Yields:
        ``(n,)`` or ``(n, 3)`` for a list of n items; None where null.

    Raises:
        DatasetError: A vector is null or has another number of components.
    """
    flat, first = _flat(column.flatten()), 0
    for n, known in zip(lengths(column).tolist(), _known(column), strict=True):
        yield flat[first : first + n].astype(dtype) if known else None
        first += n


def frames(column: pa.Array) -> Iterator[tuple[Frame, ...]]:
    """Lists of a column as relaxation paths; empty where null.

    Args:
        column: A frame is a struct of positions, cell, energy, forces and stress; units as in `Frame`.

    Raises:
        DatasetError: As `arrays`.
    """
    field = column.flatten().field
    every = map(
        Frame,
        arrays(field("positions")),
        arrays(field("cell")),
        values(field("energy")),
        arrays(field("forces")),
        arrays(field("stress")),
    )
    for n in lengths(column):
        yield tuple(islice(every, n))


def mappings(column: pa.Array) -> Iterator[dict[str, str]]:
    """Maps of a column from text to text as dictionaries; empty where null."""
    import pyarrow as pa

    entry = pa.struct([("key", pa.string()), ("value", pa.string())])
    listed = column.cast(pa.list_(entry))
    items = listed.flatten()
    every = zip(values(items.field("key")), values(items.field("value")), strict=True)
    for n in lengths(listed):
        yield dict(islice(every, n))


def _known(column: pa.Array) -> list[bool]:
    return column.is_valid().to_numpy(zero_copy_only=False).tolist()


def _flat(items: pa.Array) -> np.ndarray:
    """Numbers ``(n,)``, or vectors ``(n, 3)``."""
    import pyarrow as pa

    if not pa.types.is_nested(items.type):
        return items.to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths(items) != 3)
    if len(wrong):
        raise DatasetError(
            f"every vector must have three components; {len(wrong)} of {len(items)} have not, "
            f"the first {items[int(wrong[0])].as_py()}."
        )
    return items.flatten().to_numpy(zero_copy_only=False).reshape(-1, 3)
