"""Datasets on disk: a directory of Parquet parts, one row per crystal, and ``dataset.json``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from repose.atomic_write import interrupted_version, replacing_directory
from repose.config import Settings
from repose.crystal.batching import batches_by_cost
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
# Parquet columns with dictionary encoding, and with byte stream split, which makes floats 40 % smaller.
_VECTORS = ".list.element.list.element"
REPEATED = ["id", "split", "numbers.list.element", "tags.key_value.key", "tags.key_value.value"]
FLOATS = [
    *(name + _VECTORS for name in GEOMETRY),
    *(f"path.list.element.{name}{_VECTORS}" for name in ("positions", "cell", "forces", "stress")),
    "path.list.element.energy",
    "charges.list.element",
]


class DatasetInfo(Settings):
    """Contents of ``dataset.json``."""

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(description="name of the dataset")
    source: str = Field(default="", description="original files or archive")
    licence: str = Field(default="", description="licence of the data")
    calculator: str = Field(default="", description="calculator or functional of the relaxed crystals")
    splits: str = Field(default="", description="how train, val and test were chosen")
    counts: dict[str, int] = Field(default_factory=dict, description="crystals in each split")


class Dataset:
    """A dataset directory, opened for reading.

    Args:
        directory: Directory of `write_dataset`.

    Raises:
        DatasetError: The directory is not a dataset, or has another format version.
    """

    def __init__(self, directory: str | Path) -> None:
        require("pyarrow", "reading datasets")
        self.directory = Path(directory)
        path = self.directory / INFO
        if not path.is_file():
            complete = interrupted_version(self.directory)
            hint = (
                f"Its last complete version is {complete}: move it back."
                if complete
                else "Make one with 'repose data import FILES --out DIR'."
            )
            raise DatasetError(f"{directory} is not a dataset: it has no {INFO}. {hint}")
        self.info = DatasetInfo.load(path, FORMAT_VERSION, DatasetError)
        self.parts = sorted(self.directory.glob(PARTS))

    def __len__(self) -> int:
        return sum(self.info.counts.values())

    def __iter__(self) -> Iterator[Pair]:
        return self.read()

    def ids(self, split: str | None = None) -> list[str]:
        """Return the ids of one split, or of all crystals, in order; see `read`."""
        return [name for rows in self._rows(["id"], split) for name in columns.values(rows["id"])]

    def frame_counts(self) -> list[int]:
        """Return the number of frames of each path, in order; frames are not decoded."""
        return [n for rows in self._rows(["path"]) for n in columns.lengths(rows["path"]).tolist()]

    def read(
        self, split: str | None = None, *, paths: bool = True, ids: Collection[str] | None = None
    ) -> Iterator[Pair]:
        """Yield the crystals of one split, or of all; other rows and columns are not decoded.

        Args:
            split: ``"train"``, ``"val"``, ``"test"``, or None for all.
            paths: Read the paths. Without them ``Pair.path`` is empty, and reading is much faster.
            ids: Yield only crystals with these ids; None for all.

        Raises:
            DatasetError: The split is unknown, or a part cannot be read.
        """
        names = [name for name in COLUMNS if paths or name != "path"]
        for rows in self._rows(names, split, ids):
            yield from to_pairs(rows)

    def _rows(
        self, names: list[str], split: str | None = None, ids: Collection[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns by name, of the rows that `read` selects."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if split not in (None, *SPLITS):
            raise DatasetError(f"split must be one of {', '.join(SPLITS)}; got '{split}'.")
        for part in self.parts:
            try:
                with pq.ParquetFile(part) as file:
                    for group in range(file.num_row_groups):
                        chosen = _select_rows(file, group, split, ids)
                        if chosen is None or len(chosen):
                            table = file.read_row_group(group, names)
                            yield from (table if chosen is None else table.take(chosen)).to_batches()
            except (OSError, pa.ArrowInvalid) as error:
                raise DatasetError(f"{part} cannot be read: {error}. Import the dataset again.") from None


def _select_rows(
    file: pq.ParquetFile, group: int, split: str | None, ids: Collection[str] | None
) -> np.ndarray | None:
    """Return the indices of the selected rows of a row group; None for all."""
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
    """Write a dataset atomically; an error leaves an older dataset unchanged.

    Args:
        directory: A new or empty directory, or a dataset to replace.
        info: Description; ``counts`` is filled in.
        pairs: Crystals; iterated once, with one part in memory.
        finish: Called with the temporary directory before it is moved, to add files.
        single: Store numbers in float32, except energies; files are less than half as large.

    Raises:
        DatasetError: The directory has other contents, two crystals share an id, one has no split, or there
            are none.
    """
    require("pyarrow", "writing datasets")
    import pyarrow as pa

    target = Path(directory)
    check_target(target)
    with replacing_directory(target) as new:
        counts: dict[str, int] = dict.fromkeys(SPLITS, 0)
        seen = set[str]()

        def rows() -> Iterator[dict[str, Any]]:
            for pair in pairs:
                if pair.id in seen:
                    raise DatasetError(f"two crystals have the id '{pair.id}'; ids must be unique.")
                seen.add(pair.id)
                counts[_check_split(pair.id, pair.split)] += 1
                yield to_row(pair)

        for k, part in enumerate(batches_by_cost(rows(), lambda row: 1, ROWS_PER_PART)):
            _write_part(pa.Table.from_pylist(part, schema=schema(single)), new / f"part-{k:05d}.parquet")
        if not seen:
            raise DatasetError("there is no crystal to write; the reasons are above.")
        write_info(info.model_copy(update={"counts": counts}), new / INFO)
        if finish is not None:
            finish(new)
    return Dataset(target)


def check_target(directory: Path, info: str = INFO, kind: str = "a dataset") -> None:
    """Check that a directory may be written: it is new, empty, or of the kind that has the file ``info``.

    Raises:
        DatasetError: It has other contents.
    """
    if not directory.exists() or (directory / info).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise DatasetError(f"{directory} exists and is not {kind}; choose another --out.")


def resplit(dataset: Dataset, assign: Callable[[Pair], str], how: str) -> Dataset:
    """Assign new splits to the crystals of a dataset, atomically, and open it again.

    Other columns and files are kept.

    Args:
        dataset: Dataset to change.
        assign: Returns the split of a crystal, which has no path; see `repose.data.splits`.
        how: Description for ``dataset.json``.

    Raises:
        DatasetError: A split is unknown or cannot be assigned; the dataset is unchanged.
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
        write_info(dataset.info.model_copy(update={"splits": how, "counts": counts}), new / INFO)
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
        use_dictionary=REPEATED,  # type: ignore[arg-type]  # names are allowed too
        use_byte_stream_split=FLOATS,  # type: ignore[arg-type]
    )


def write_info(info: Settings, path: Path) -> None:
    """Write a description as JSON."""
    path.write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
