"""Datasets on disk: a directory of Parquet parts and ``dataset.json``, one row a crystal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from repose.atomic_write import interrupted_version, replacing_directory
from repose.config import Settings
from repose.data import columns
from repose.data.rows import COLUMNS, GEOMETRY, Pair, schema, to_pairs, to_row
from repose.errors import DatasetError, require

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    *(name + _VECTORS for name in GEOMETRY),
    *(f"path.list.element.{name}{_VECTORS}" for name in ("positions", "cell", "forces", "stress")),
    "path.list.element.energy",
]


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
            aside = interrupted_version(self.directory)
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

    def ids(self, split: str | None = None) -> list[str]:
        """Ids of the crystals of one split, or of all, in order, without reading the crystals.

        Raises:
            DatasetError: As `read`.
        """
        return [name for rows in self._rows(["id"], split) for name in columns.values(rows["id"])]

    def frame_counts(self) -> list[int]:
        """Frames of the path of every crystal, in order, 0 without a path; no frame is decoded.

        Raises:
            DatasetError: A part cannot be read.
        """
        return [n for rows in self._rows(["path"]) for n in columns.lengths(rows["path"]).tolist()]

    def read(
        self, split: str | None = None, *, paths: bool = True, ids: Collection[str] | None = None
    ) -> Iterator[Pair]:
        """Yield the crystals of one split, or of all; nothing else is decoded.

        Args:
            split: ``"train"``, ``"val"``, ``"test"`` or None.
            paths: Read the paths. Without them ``Pair.path`` is empty, and reading is much faster.
            ids: Yield only the crystals with these ids; None yields all.

        Raises:
            DatasetError: No such split, or a part cannot be read.
        """
        names = [name for name in COLUMNS if paths or name != "path"]
        for rows in self._rows(names, split, ids):
            yield from to_pairs(rows)

    def _rows(
        self, names: list[str], split: str | None = None, ids: Collection[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Columns by their names, of the rows that `read` would take."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if split not in (None, *SPLITS):
            raise DatasetError(f"split must be one of {', '.join(SPLITS)}; got '{split}'.")
        for part in self.parts:
            try:
                with pq.ParquetFile(part) as file:
                    for group in range(file.num_row_groups):
                        chosen = _chosen(file, group, split, ids)
                        if chosen is None or len(chosen):
                            table = file.read_row_group(group, names)
                            yield from (table if chosen is None else table.take(chosen)).to_batches()
            except (OSError, pa.ArrowInvalid) as error:
                raise DatasetError(f"{part} cannot be read: {error}. Import the dataset again.") from None


def _chosen(
    file: pq.ParquetFile, group: int, split: str | None, ids: Collection[str] | None
) -> np.ndarray | None:
    """Numbers of the rows of a row group that are asked for, ascending; None for all."""
    if split is None and ids is None:
        return None
    keys = file.read_row_group(group, ["split", "id"] if ids is not None else ["split"])
    chosen = np.ones(len(keys), dtype=bool)
    if split is not None:
        chosen &= keys["split"].to_numpy() == split
    if ids is not None:
        chosen &= np.array([name in ids for name in keys["id"].to_numpy()], dtype=bool)
    return np.flatnonzero(chosen)


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

    target = Path(directory)
    check_target(target)
    with replacing_directory(target) as new:
        counts: dict[str, int] = dict.fromkeys(SPLITS, 0)
        seen, rows, part = set[str](), list[dict[str, Any]](), 0

        def flush() -> None:
            nonlocal rows, part
            _write_part(pa.Table.from_pylist(rows, schema=schema(single)), new / f"part-{part:05d}.parquet")
            rows, part = [], part + 1

        for pair in pairs:
            if pair.id in seen:
                raise DatasetError(f"two crystals are called '{pair.id}'; ids must be unique.")
            _check_split(pair.id, pair.split)
            seen.add(pair.id)
            counts[pair.split] += 1
            rows.append(to_row(pair))
            if len(rows) == ROWS_PER_PART:
                flush()
        if rows:
            flush()
        if not seen:
            raise DatasetError("no crystal was left to write; see the refusals above.")
        _write_info(info.model_copy(update={"counts": counts}), new)
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
    """Give every crystal of a dataset a new split, atomically; other columns and files are kept as they are.

    Args:
        dataset: What to change.
        assign: Split of a crystal, which comes without its path; see `repose.data.splits`.
        how: Sentence for ``dataset.json``.

    Returns:
        The dataset, opened again.

    Raises:
        DatasetError: A crystal cannot be assigned; the dataset is then as it was.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    splits = [_check_split(pair.id, assign(pair)) for pair in dataset.read(paths=False)]
    with replacing_directory(dataset.directory) as new:
        first = 0
        for part in dataset.parts:
            table = pq.ParquetFile(part).read()
            column = pa.array(splits[first : first + len(table)], pa.string())
            _write_part(
                table.set_column(table.schema.get_field_index("split"), "split", column), new / part.name
            )
            first += len(table)
        for path in dataset.directory.iterdir():
            if path.is_file() and path.name != INFO and not path.match(PARTS):
                shutil.copy2(path, new)
        counts = {split: splits.count(split) for split in SPLITS}
        _write_info(dataset.info.model_copy(update={"splits": how, "counts": counts}), new)
    return Dataset(dataset.directory)


def _check_split(name: str, split: str) -> str:
    if split not in SPLITS:
        raise DatasetError(f"'{name}' has split '{split}'; expected one of {', '.join(SPLITS)}.")
    return split


def _write_part(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=REPEATING,  # type: ignore[arg-type]  # names are allowed, too
        use_byte_stream_split=FLOATS,  # type: ignore[arg-type]
    )


def _write_info(info: DatasetInfo, directory: Path) -> None:
    (directory / INFO).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
