"""Import of relaxed crystals without inputs, from tables with CIF, datasets, files and folders."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from repose.data.dataset import INFO, Dataset, Pair
from repose.data.importers.cif_pairs import ID_COLUMNS
from repose.data.importers.structure_types import Sites, primitive
from repose.data.pairing import UNASSIGNED, Refusal, attempt, check_crystal, check_split, describe
from repose.errors import DatasetError, InvalidCrystalError, ReposeError


def read_relaxed(paths: Iterable[Path]) -> Iterator[Pair | Refusal]:
    """Read relaxed crystals from tables, datasets, files and folders.

    Args:
        paths: Tables (``.csv``, ``.csv.gz``) with a column ``cif`` and one of ids (``material_id``, ``id``,
            ...), where ``split`` is the split and other columns become tags; datasets of Repose (their
            relaxed crystals); files and folders for `repose.io.files`.

    Yields:
        Crystals as pairs whose input is the relaxed structure, in primitive cells, with the source's split
        if any; and refusals. A broken crystal or source does not affect others. A repeated id is refused.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            for name, crystal, tags in _read(path):
                if isinstance(crystal, str):
                    yield Refusal(name, crystal)
                elif name in seen:
                    yield Refusal(name, f"{path}: this id was already read from {seen[name]}.")
                else:
                    item = attempt(name, _to_pair, name, crystal, dict(tags))
                    if isinstance(item, Pair):
                        seen[name] = path
                    yield item
        except ReposeError as error:
            yield Refusal(path.name, str(error))


def _read(path: Path) -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Yield id, crystal (or the reason why it cannot be read) and tags of everything in a source."""
    from ase import Atoms

    if not path.exists():
        raise DatasetError(f"{path} does not exist.")
    if (path / INFO).is_file():
        for pair in Dataset(path).read(paths=False):
            atoms = Atoms(pair.numbers, pair.relaxed_positions, cell=pair.relaxed_cell, pbc=pair.pbc)
            # These tags describe the pair, not the relaxed crystal.
            tags = {k: v for k, v in pair.tags.items() if k not in ("atom_order", "origin")}
            yield pair.id, atoms, tags | {"split": pair.split}
    elif path.name.lower().removesuffix(".gz").endswith(".csv"):
        yield from _read_table(path)
    else:
        yield from _read_files(path)


def _read_table(path: Path) -> Iterator[tuple[str, Any, dict[str, str]]]:
    from repose.io.cif import read_cif

    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table: {describe(error)}.") from None
    titles = {str(title).strip().lower(): title for title in (rows[0] if rows else {}) if title}
    key = next((titles[name] for name in ID_COLUMNS if name in titles), None)
    if key is None or "cif" not in titles:
        raise DatasetError(
            f"{path} must have a column cif and one of {', '.join(ID_COLUMNS)}; "
            f"it has {', '.join(titles) or 'no rows'}."
        )
    for index, row in enumerate(rows):
        name = (row[key] or "").strip() or f"{path.name}#{index}"
        tags = {t: v for t, v in row.items() if t and v and t not in (key, titles["cif"])}
        try:
            crystal: Any = read_cif(row[titles["cif"]] or "")[-1]
        except InvalidCrystalError as error:
            crystal = error
        yield name, str(crystal) if isinstance(crystal, Exception) else crystal, tags


def _read_files(path: Path) -> Iterator[tuple[str, Any, dict[str, str]]]:
    from repose.io.files import find, read

    files = find(str(path))
    if not files:
        raise DatasetError(f"{path} holds no crystals, no table and no dataset.")
    for file, shown in files:
        for entry in read(file):
            name = f"{shown}#{entry.index}" if entry.many else shown
            if entry.reason is not None:
                yield name, entry.reason, {}
                continue
            info = dict(getattr(entry.crystal, "info", {}))
            if "id" in info and "step" in info:
                # Unrelaxed frames must not become relaxed crystals.
                yield shown, "it holds relaxation paths; convert it with 'repose data import' first.", {}
                break
            tags = {k: str(v) for k, v in info.items() if isinstance(v, str | int | float | np.generic)}
            yield tags.pop("id", name), entry.crystal, tags


def _to_pair(name: str, crystal: Any, tags: dict[str, str]) -> Pair:
    """Return a crystal in a primitive cell as a pair with identical input and relaxed structure."""
    from repose.io.convert import to_atoms, to_batch

    (atoms,) = to_atoms(to_batch(crystal))
    check_crystal(atoms, "relaxed")
    if not atoms.pbc.all():
        raise InvalidCrystalError(
            f"it is periodic along {int(atoms.pbc.sum())} of its lattice vectors; only bulk crystals can be "
            "paired. To treat it as one, set pbc along the vacuum, too."
        )
    split = check_split(tags.pop("split", UNASSIGNED))
    sites = Sites(atoms.numbers, atoms.positions @ np.linalg.inv(atoms.cell.array), atoms.cell.array)
    reduced = primitive(sites)
    numbers, positions, cell = atoms.numbers, atoms.positions, atoms.cell.array
    if reduced is not sites:
        numbers, positions, cell = reduced.numbers, reduced.fractional @ reduced.cell, reduced.cell
        tags["cell"] = f"primitive, 1/{len(atoms) // len(numbers)}"
    return Pair(
        id=name,
        numbers=numbers.astype(np.int64),
        pbc=np.array(atoms.pbc),
        positions=positions,
        cell=cell,
        relaxed_positions=positions,
        relaxed_cell=cell,
        split=split,
        tags=tags,
    )
