"""Conversion of columns of Parquet tables to arrays, without Python objects for single numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.crystal.frame import Frame
from repose.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

FRAME = ("positions", "cell", "energy", "forces", "stress")


def values(column: pa.Array) -> list[Any]:
    """Return a column of text or numbers as a list, with None for nulls."""
    found = column.to_numpy(zero_copy_only=False).tolist()
    if not column.null_count:
        return found
    return [value if valid else None for value, valid in zip(found, _valid(column), strict=True)]


def lengths(column: pa.Array) -> np.ndarray:
    """Return the lengths of the lists of a column, int; 0 for nulls."""
    return column.value_lengths().fill_null(0).to_numpy()


def arrays(column: pa.Array, dtype: type = float) -> Iterator[Any]:
    """Yield the lists of a column as arrays ``(n,)`` or ``(n, 3)`` that own their memory; None for nulls.

    Args:
        column: Lists of numbers, or of vectors with three components.
        dtype: Type of the arrays.

    Raises:
        DatasetError: A vector is null or has another number of components.
    """
    flat, first = _flat(column.flatten()), 0
    for n, valid in zip(lengths(column).tolist(), _valid(column), strict=True):
        yield flat[first : first + n].astype(dtype) if valid else None
        first += n


def frames(column: pa.Array) -> Iterator[tuple[Frame, ...]]:
    """Yield the lists of a column as relaxation paths; nulls are empty paths.

    Args:
        column: Lists of structs with the fields of `Frame`.

    Raises:
        DatasetError: See `arrays`.
    """
    structs = column.flatten()
    fields = ((values if name == "energy" else arrays)(structs.field(name)) for name in FRAME)
    every = map(Frame, *fields)
    for n in lengths(column):
        yield tuple(islice(every, n))


def mappings(column: pa.Array) -> Iterator[dict[str, str]]:
    """Yield the maps of a column from text to text as dictionaries; nulls are empty."""
    import pyarrow as pa

    entry = pa.struct([("key", pa.string()), ("value", pa.string())])
    lists = column.cast(pa.list_(entry))
    items = lists.flatten()
    every = zip(values(items.field("key")), values(items.field("value")), strict=True)
    for n in lengths(lists):
        yield dict(islice(every, n))


def _valid(column: pa.Array) -> list[bool]:
    return column.is_valid().to_numpy(zero_copy_only=False).tolist()


def _flat(items: pa.Array) -> np.ndarray:
    """Return numbers as ``(n,)``, or vectors as ``(n, 3)``."""
    import pyarrow as pa

    if not pa.types.is_nested(items.type):
        return items.to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths(items) != 3)
    if len(wrong):
        raise DatasetError(
            f"expected vectors with three components; {len(wrong)} of {len(items)} have another number, the "
            f"first is {items[int(wrong[0])].as_py()}. Import the dataset again."
        )
    return items.flatten().to_numpy(zero_copy_only=False).reshape(-1, 3)
