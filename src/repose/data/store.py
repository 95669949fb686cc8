"""Datasets on disk: a directory of Parquet parts and ``dataset.json``, one row a crystal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from repose.atomic import replacing_directory, stepped_aside
from repose.config import Settings
from repose.errors import DatasetError, require
from repose.trajectory import Frame

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
INFO = "dataset.json"
PARTS = "part-*.parquet"
ROWS_PER_PART = 2000
# Columns as Parquet calls them: what repeats is kept once; of numbers the bytes of equal weight stand side
# by side, so that they pack to three fifths.
_VECTORS = ".list.element.list.element"
REPEATING = ["id", "split", "numbers.list.element", "tags.key_value.key", "tags.key_value.value"]
FLOATS = [
    *(name + _VECTORS for name in ("positions", "cell", "relaxed_positions", "relaxed_cell")),
    *(f"path.list.element.{name}{_VECTORS}" for name in ("positions", "cell", "forces", "stress")),
    "path.list.element.energy",
]


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


class DatasetInfo(Settings):
    """Contents of ``dataset.json``."""

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(description="what the dataset is called")
    source: str = Field(default="", description="files or archive it came from")
    licence: str = Field(default="", description="under which it may be used")
    calculator: str = Field(default="", description="calculator or functional of the relaxed states")
    splits: str = Field(default="", description="how train, val and test were made")
    counts: dict[str, int] = Field(default_factory=dict, description="crystals in every split")


class Dataset:
    """A dataset directory, opened for reading.

    Args:
        directory: Written by `write_dataset`.

    Raises:
        DatasetError: It is not a dataset, or of another format version.
    """

    def __init__(self, directory: str | Path) -> None:
        require("pyarrow", "reading datasets")
        self.directory = Path(directory)
        path = self.directory / INFO
        if not path.is_file():
            aside = stepped_aside(self.directory)
            hint = (
                f"Its last complete version is {aside}: move it back."
                if aside
                else "Make one with 'repose data import FILES --out DIR'."
            )
            raise DatasetError(f"{directory} is not a dataset: it holds no {INFO}. {hint}")
        self.info = DatasetInfo.load(path, FORMAT_VERSION, DatasetError)
        self.parts = sorted(self.directory.glob(PARTS))

    def __len__(self) -> int:
        return sum(self.info.counts.values())

    def __iter__(self) -> Iterator[Pair]:
        return self.read()

    def ids(self) -> list[str]:
        """Ids of all crystals, in order, without reading the crystals."""
        import pyarrow.parquet as pq

        return [name for part in self.parts for name in pq.read_table(part, columns=["id"])["id"].to_pylist()]

    def read(self, split: str | None = None) -> Iterator[Pair]:
        """Yield the crystals of one split, or of all.

        Args:
            split: ``"train"``, ``"val"``, ``"test"`` or None.

        Raises:
            DatasetError: No such split, or a part cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if split is not None and split not in SPLITS:
            raise DatasetError(f"split must be one of {', '.join(SPLITS)}; got '{split}'.")
        for part in self.parts:
            try:
                rows = pq.read_table(part).to_pylist()
            except (OSError, pa.ArrowInvalid) as error:
                raise DatasetError(f"{part} cannot be read: {error}. Import the dataset again.") from None
            yield from (to_pair(row) for row in rows if split in (None, row["split"]))


def write_dataset(
    directory: str | Path,
    info: DatasetInfo,
    pairs: Iterable[Pair],
    finish: Callable[[Path], None] | None = None,
    *,
    single: bool = False,
) -> Dataset:
    """Write a dataset, atomically: the directory appears when it is complete.

    An error or an interrupt at any moment leaves an older dataset as it was.

    Args:
        directory: Where; must not exist yet, or be a dataset (which is then replaced).
        info: Description; ``counts`` is filled in here.
        pairs: Crystals; consumed once, a part in memory at a time.
        finish: Called with the complete new directory before it takes its place, to add files.
        single: Store numbers in float32, which is less than half as large; energies stay in float64.

    Returns:
        The dataset, opened.

    Raises:
        DatasetError: The directory holds something else, two crystals share an id, one has no split, or
            there are none.
    """
    require("pyarrow", "writing datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = Path(directory)
    check_target(target)
    with replacing_directory(target) as new:
        counts, seen, rows, part = dict.fromkeys(SPLITS, 0), set[str](), list[dict[str, Any]](), 0

        def flush() -> None:
            nonlocal rows, part
            table = pa.Table.from_pylist(rows, schema=_schema(single))
            pq.write_table(
                table,
                new / f"part-{part:05d}.parquet",
                compression="zstd",
                use_dictionary=REPEATING,  # type: ignore[arg-type]  # names are allowed, too
                use_byte_stream_split=FLOATS,  # type: ignore[arg-type]
            )
            rows, part = [], part + 1

        for pair in pairs:
            if pair.id in seen:
                raise DatasetError(f"two crystals are called '{pair.id}'; ids must be unique.")
            if pair.split not in SPLITS:
                raise DatasetError(
                    f"'{pair.id}' has split '{pair.split}'; expected one of {', '.join(SPLITS)}."
                )
            seen.add(pair.id)
            counts[pair.split] += 1
            rows.append(to_row(pair))
            if len(rows) == ROWS_PER_PART:
                flush()
        if rows:
            flush()
        if not seen:
            raise DatasetError("no crystal was left to write; see the refusals above.")
        described = info.model_copy(update={"counts": counts})
        (new / INFO).write_text(described.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if finish is not None:
            finish(new)
    return Dataset(target)


def check_target(directory: Path) -> None:
    """Make sure that a dataset may be written here.

    Raises:
        DatasetError: Something stands there that is neither a dataset nor an empty directory.
    """
    if not directory.exists() or (directory / INFO).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise DatasetError(f"{directory} exists and is not a dataset; choose another --out.")


def resplit(dataset: Dataset, assign: Callable[[Pair], str], how: str) -> Dataset:
    """Give every crystal of a dataset a new split and rewrite it, atomically; other files in it are kept.

    Args:
        dataset: What to change.
        assign: Split of a crystal; see `repose.data.splits`.
        how: Sentence for ``dataset.json``.

    Returns:
        The dataset, opened again.

    Raises:
        DatasetError: A crystal cannot be assigned; the dataset is then as it was.
    """

    def keep_other_files(new: Path) -> None:
        for path in dataset.directory.iterdir():
            if path.is_file() and path.name != INFO and not path.match(PARTS):
                shutil.copy2(path, new)

    info = dataset.info.model_copy(update={"splits": how})
    pairs = (replace(pair, split=assign(pair)) for pair in dataset)
    return write_dataset(dataset.directory, info, pairs, finish=keep_other_files)


def _schema(single: bool) -> pa.Schema:
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
