"""Import of folders of CIF pairs with tables of splits: the archives of DeepRelax, E3Relax and E3Relax-H2.

Layouts, which are detected:

* C2DB, layered, JARVIS, custom: ``CIF/ID_unrelaxed.cif`` and ``CIF/ID_relaxed.cif``; ``train.csv``,
  ``val.csv``, ``test.csv`` with a column ``atoms_id``.
* Materials Project: ``CIF/ID_U.cif`` and ``CIF/ID_R.cif``; column ``mp_id``.
* X-Mn-O: ``ID_unrelaxed.cif`` and ``ID_relaxed.cif`` in the folder itself (or in ``CIF``);
  ``id_prop_train_all.csv`` etc. without header, with a row of file name and energy for every structure.

Without tables, crystals have no split. CIF has no periodic directions: sheets are read as periodic along the
vacuum.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from repose.data.dataset import SPLITS, Pair
from repose.data.pairing import UNASSIGNED, Refusal, attempt, describe, states_to_pair
from repose.errors import DatasetError, InvalidCrystalError

if TYPE_CHECKING:
    from ase import Atoms

FOLDERS = ("CIF", "CIF_POSCAR", "cif", "cifs", ".")
TABLES = ("{}.csv", "id_prop_{}_all.csv", "id_prop_{}.csv")
ID_COLUMNS = ("atoms_id", "mp_id", "material_id", "cif_id", "id")
# Suffixes of the names of the unrelaxed and the relaxed file.
ENDINGS = (("_unrelaxed", "_relaxed"), ("_U", "_R"), ("_unopt", "_opt"))
_ALL_ENDINGS = sum(ENDINGS, ())


@dataclass
class _Entry:
    """Splits (with the names of their tables) and tags of a crystal."""

    tables: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def holds_cifs(folder: Path) -> bool:
    """Return whether there are CIFs in a folder or in its folder ``CIF``."""
    return any(True for name in FOLDERS for _ in (folder / name).glob("*.cif"))


def has_tables(folder: Path) -> bool:
    """Return whether a folder has tables of splits."""
    return any(_table(folder, split) is not None for split in SPLITS)


def import_cif_pairs(folder: Path, *, align: bool = True) -> Iterator[Pair | Refusal]:
    """Import pairs from a folder; see the module for its layouts.

    Splits are from the tables; other columns become tags. Refused are crystals without one of the files, and
    crystals in two tables (test data would leak into training). Crystals in no table are left out, with a
    warning. ``align`` removes a rigid rotation; see `repose.data.pairing.states_to_pair`.

    Raises:
        DatasetError: It is not such a folder, or a table cannot be read.
    """
    if not folder.is_dir() or not holds_cifs(folder):
        raise DatasetError(f"{folder} is not a folder with CIFs, in itself or in a folder CIF.")
    tabled, names = _read_tables(folder), _names(folder)
    if tabled:
        _warn_of_unlisted(folder, tabled, names)
    entries = tabled or {name: _Entry() for name in names}
    if not entries:
        endings = " or ".join(f"{unrelaxed}.cif/{relaxed}.cif" for unrelaxed, relaxed in ENDINGS)
        raise DatasetError(f"{folder} holds CIFs but no pairs; their names must end in {endings}.")
    for name, entry in entries.items():
        if len(entry.tables) > 1:
            yield Refusal(name, f"it is in {' and '.join(entry.tables.values())}; keep it in one of them.")
        else:
            split = next(iter(entry.tables), UNASSIGNED)
            yield attempt(name, _pair, folder, name, split, entry.tags, align)


def _warn_of_unlisted(folder: Path, entries: dict[str, _Entry], names: list[str]) -> None:
    """Warn of a missing table, and of crystals that are in none."""
    missing = [TABLES[0].format(split) for split in SPLITS if _table(folder, split) is None]
    unlisted = [name for name in names if name not in entries]
    parts = [f"{folder} has no {' and no '.join(missing)}"] if missing else []
    if unlisted:
        parts.append(f"crystals in no table of {folder} are left out: {len(unlisted)}, e.g. {unlisted[0]}")
    if parts:
        warnings.warn("; ".join(parts), stacklevel=2)


def _read_state(path: Path) -> Atoms:
    """Return the crystal of a CIF (of the last block), in the standard orientation.

    Raises:
        DatasetError: The file cannot be read, or holds no ordered crystal.
    """
    from repose.io.cif import read_cif

    try:
        crystal = read_cif(path.read_text(encoding="utf-8", errors="replace"))[-1]
    except (OSError, InvalidCrystalError) as error:
        crystal = error
    if isinstance(crystal, Exception):
        raise DatasetError(f"{path}: {crystal}")
    return crystal


def _pair(folder: Path, name: str, split: str, tags: dict[str, str], align: bool) -> Pair:
    for inside in FOLDERS:
        for endings in ENDINGS:
            files = [folder / inside / f"{name}{end}.cif" for end in endings]
            if all(file.is_file() for file in files):
                unrelaxed, relaxed = map(_read_state, files)
                return states_to_pair(name, unrelaxed, relaxed, align=align, split=split, tags=tags)
    raise DatasetError(
        f"its files {name}_unrelaxed.cif and {name}_relaxed.cif (or _U/_R, _unopt/_opt) are not both in "
        f"{folder} or its folder CIF; found {', '.join(_files(folder, name)) or 'neither'}."
    )


def _files(folder: Path, name: str) -> list[str]:
    """Return the names of the files of a crystal."""
    names = [f"{name}{end}.cif" for end in _ALL_ENDINGS]
    return [file for file in names for inside in FOLDERS if (folder / inside / file).is_file()]


def _names(folder: Path) -> list[str]:
    """Return the names of all crystals with at least one file, in alphabetical order."""
    stems = (path.stem for inside in FOLDERS for path in (folder / inside).glob("*.cif"))
    return sorted({name for stem in stems if (name := _without_ending(stem)) != stem})


def _without_ending(name: str) -> str:
    """Return ID of ``ID_relaxed`` and of ``ID_unrelaxed``, with or without ``.cif``."""
    name = name.removesuffix(".cif")
    return next((name.removesuffix(end) for end in _ALL_ENDINGS if name.endswith(end)), name)


def _read_tables(folder: Path) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for split in SPLITS:
        if (path := _table(folder, split)) is not None:
            for name, tags in _read_table(path, folder):
                entries.setdefault(name, _Entry(tags=tags)).tables[split] = path.name
    return entries


def _table(folder: Path, split: str) -> Path | None:
    """Return the table of a split, if there is one."""
    paths = (folder / pattern.format(split) for pattern in TABLES)
    return next((path for path in paths if path.is_file()), None)


def _read_table(path: Path, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the crystals of a table, with the other columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle) if row and any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read: {describe(error)}.") from None
    if not rows:
        return
    columns = [title.strip().lower() for title in rows[0]]
    column = next((columns.index(name) for name in ID_COLUMNS if name in columns), None)
    has_header = column is not None or not _files(folder, _without_ending(rows[0][0].strip()))
    titles = rows.pop(0) if has_header else []
    column = column or 0
    for row in rows:
        if len(row) > column:
            cells = enumerate(zip(titles, row, strict=False))
            tags = {title: value for k, (title, value) in cells if k != column and title and value}
            name = row[column].strip()
            yield name if _files(folder, name) else _without_ending(name), tags
