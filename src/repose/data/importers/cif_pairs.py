"""Folders of CIF pairs with tables of their splits: the archives of DeepRelax, E3Relax and E3Relax-H2.

Layouts, all found without being told:

* C2DB, layered, JARVIS, custom: ``CIF/ID_unrelaxed.cif`` and ``CIF/ID_relaxed.cif``; ``train.csv``,
  ``val.csv``, ``test.csv`` with a column ``atoms_id``.
* Materials Project: ``CIF/ID_U.cif`` and ``CIF/ID_R.cif``; column ``mp_id``.
* X-Mn-O: ``ID_unrelaxed.cif`` and ``ID_relaxed.cif`` in the folder itself (or in ``CIF``);
  ``id_prop_train_all.csv`` and its siblings have no header and list the files, relaxed and unrelaxed, each
  with its energy.

A folder without tables is read too; its crystals then have no split. CIF knows no periodic directions:
sheets come out periodic along their vacuum.
"""

from __future__ import annotations

import csv
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
# Ends of the names of the unrelaxed and the relaxed file.
ENDINGS = (("_unrelaxed", "_relaxed"), ("_U", "_R"), ("_unopt", "_opt"))


@dataclass
class _Entry:
    """What the tables say about one crystal."""

    tables: dict[str, str]  # split -> name of the table
    tags: dict[str, str] = field(default_factory=dict)


def holds_cifs(folder: Path) -> bool:
    """Whether a folder looks like CIF pairs: CIFs in it or in its folder ``CIF``."""
    return any(True for name in FOLDERS for _ in (folder / name).glob("*.cif"))


def has_tables(folder: Path) -> bool:
    """Whether tables say which split the crystals of a folder belong to."""
    return any((folder / pattern.format(split)).is_file() for pattern in TABLES for split in SPLITS)


def import_cif_pairs(folder: Path, *, align: bool = True) -> Iterator[Pair | Refusal]:
    """Pairs from a folder; see the module for its layouts.

    Args:
        folder: Holds the tables, and the CIFs or a folder ``CIF`` of them.
        align: Remove a rigid rotation; see `repose.data.pairing.states_to_pair`.

    Yields:
        Pairs with the split of their table; further columns become tags. Refused are crystals that lack a
        file, and those that stand in two tables (the test would leak into training).

    Raises:
        DatasetError: It is not such a folder, or a table cannot be read.
    """
    if not folder.is_dir() or not holds_cifs(folder):
        raise DatasetError(f"{folder} is not a folder with CIFs, in itself or in a folder CIF.")
    entries = _read_tables(folder) or {name: _Entry({}) for name in _names(folder)}
    if not entries:
        endings = " or ".join(f"{unrelaxed}.cif/{relaxed}.cif" for unrelaxed, relaxed in ENDINGS)
        raise DatasetError(f"{folder} holds CIFs but no pairs; their names must end in {endings}.")
    for name, entry in entries.items():
        if len(entry.tables) > 1:
            yield Refusal(
                name, f"it stands in {' and '.join(entry.tables.values())}; leave it in one of them."
            )
        else:
            split = next(iter(entry.tables), UNASSIGNED)
            yield attempt(name, _pair, folder, name, split, entry.tags, align)


def read_state(path: Path) -> Atoms:
    """The crystal in a CIF, in the standard orientation; of several blocks the last.

    Raises:
        DatasetError: It cannot be read, or is no ordered crystal; says which file and why.
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
    files = _find(folder, name)
    if files is None:
        seen = [path.name for end in sum(ENDINGS, ()) for path in _candidates(folder, name + end)]
        raise DatasetError(
            f"its files {name}_unrelaxed.cif and {name}_relaxed.cif (or _U/_R, _unopt/_opt) are not both in "
            f"{folder} or its folder CIF; found {', '.join(seen) or 'neither'}."
        )
    return states_to_pair(name, *map(read_state, files), align=align, split=split, tags=tags)


def _candidates(folder: Path, stem: str) -> list[Path]:
    return [path for name in FOLDERS if (path := folder / name / f"{stem}.cif").is_file()]


def _find(folder: Path, name: str) -> tuple[Path, Path] | None:
    """Unrelaxed and relaxed file of a crystal; both must lie in one folder."""
    for inside in FOLDERS:
        for unrelaxed, relaxed in ENDINGS:
            pair = folder / inside / f"{name}{unrelaxed}.cif", folder / inside / f"{name}{relaxed}.cif"
            if all(path.is_file() for path in pair):
                return pair
    return None


def _names(folder: Path) -> list[str]:
    """Names of all crystals that have at least one file, in alphabetical order."""
    stems = (path.stem for inside in FOLDERS for path in (folder / inside).glob("*.cif"))
    return sorted({name for stem in stems if (name := _without_ending(stem)) != stem})


def _without_ending(name: str) -> str:
    """``ID_relaxed`` and ``ID_unrelaxed`` are both the crystal ID."""
    name = name.removesuffix(".cif")
    for end in sum(ENDINGS, ()):
        if name.endswith(end):
            return name.removesuffix(end)
    return name


def _read_tables(folder: Path) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for split in SPLITS:
        names = [pattern.format(split) for pattern in TABLES]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            continue
        for name, tags in _read_table(path, folder):
            entry = entries.setdefault(name, _Entry({}, tags))
            entry.tables[split] = path.name
    return entries


def _read_table(path: Path, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Crystals of one table, with its other columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle) if row and any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read: {describe(error)}.") from None
    if not rows:
        return
    columns = [title.strip().lower() for title in rows[0]]
    column = next((columns.index(name) for name in ID_COLUMNS if name in columns), None)
    titles = (
        rows.pop(0)
        if column is not None or not _is_crystal(folder, _without_ending(rows[0][0].strip()))
        else []
    )
    column = column or 0
    for row in rows:
        if len(row) > column:
            tags = {
                t: v for k, (t, v) in enumerate(zip(titles, row, strict=False)) if k != column and t and v
            }
            name = row[column].strip()
            yield name if _is_crystal(folder, name) else _without_ending(name), tags


def _is_crystal(folder: Path, name: str) -> bool:
    """Whether the folder holds a file of a crystal of this name."""
    return any(_candidates(folder, name + end) for end in sum(ENDINGS, ()))
