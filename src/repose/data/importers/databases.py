"""Import of pairs from ASE databases and from pymatgen JSON."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repose.data.dataset import Pair
from repose.data.pairing import Refusal, attempt, describe, path_to_pair, states_to_pair
from repose.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

STATES = ("unrelaxed", "relaxed")
# Keys of a JSON entry; the first one present is used.
IDS = ("id", "material_id", "mp_id", "name")
INPUTS = ("unrelaxed", "initial", "input", "unrelaxed_structure", "initial_structure")
OUTPUTS = ("relaxed", "final", "output", "relaxed_structure", "final_structure")


def import_ase_db(path: Path, *, align: bool = True) -> Iterator[Pair | Refusal]:
    """Import pairs and paths from a database of `ase.db` (``.db`` or ``.json``).

    Key-value pairs of a row: rows with the same ``pair`` are one crystal. They are either two rows with
    ``state="unrelaxed"`` and ``state="relaxed"``, whose atoms are matched; or any number of rows with
    ``step`` = 0, 1, ..., the frames of a path, with their energies, forces and stresses, unchanged.
    ``split`` is the split of the crystal; other keys become tags::

        db.write(before, pair="GaAs-7", state="unrelaxed", split="train", prototype="ZnS")
        db.write(after, pair="GaAs-7", state="relaxed")

    ``align`` removes a rigid rotation of relaxed crystals; see `repose.data.pairing.states_to_pair`.

    Raises:
        DatasetError: It is not a database, or no row has the key ``pair``.
    """
    from ase.db import connect

    kind = "json" if path.suffix == ".json" else "db"
    rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    cached: dict[int, Any] = {}
    try:
        database = connect(str(path), type=kind, use_lock_file=False)
        for row in database.select(include_data=False):
            keys = row.key_value_pairs
            if "pair" in keys:
                rows.setdefault(str(keys["pair"]), []).append((row.id, keys))
                if kind == "json":  # `get` would parse the whole file for every row
                    cached[row.id] = row
    except Exception as error:  # errors of sqlite3, json and ase
        raise DatasetError(f"{path} cannot be read as an ASE database: {describe(error)}.") from None
    if not rows:
        raise DatasetError(
            f"{path}: no row has the key 'pair'; the rows of one crystal share pair=NAME and differ in "
            "state='unrelaxed'|'relaxed', or by step=0, 1, ... along a path."
        )

    def read_atoms(number: int) -> Atoms:
        return (cached[number] if cached else database.get(id=number)).toatoms()

    def make_pair(name: str) -> Pair:
        first = rows[name][0][1]
        key = "step" if "step" in first else "state"
        numbers: dict[Any, int] = {}
        tags: dict[str, str] = {}
        for number, keys in rows[name]:
            if key not in keys or keys[key] in numbers:
                fault = "has no" if key not in keys else "repeats the"
                raise DatasetError(f"row {number} of {path} {fault} '{key}'.")
            numbers[keys[key]] = number
            tags |= {k: str(v) for k, v in keys.items() if k not in ("pair", "state", "step", "split")}
        split = next((str(keys["split"]) for _, keys in rows[name] if "split" in keys), "")
        if key == "step":
            steps = [read_atoms(numbers[step]) for step in sorted(numbers)]
            return path_to_pair(name, steps, split=split, tags=tags)
        if set(numbers) != set(STATES):
            states = ", ".join(map(repr, numbers))
            raise DatasetError(
                f"its rows in {path} have the states {states}; expected 'unrelaxed' and 'relaxed'."
            )
        before, after = (read_atoms(numbers[state]) for state in STATES)
        return states_to_pair(name, before, after, align=align, split=split, tags=tags)

    for name in rows:
        yield attempt(name, make_pair, name)


def import_pymatgen_json(path: Path, *, align: bool = True) -> Iterator[Pair | Refusal]:
    """Import pairs from JSON (``.json``, ``.jsonl``, or these with ``.gz``) with structures of pymatgen.

    The file holds a list of entries, a mapping from id to entry, one entry, or (``.jsonl``) one entry a line.
    An entry holds an id (``id``, ``material_id``, ``mp_id`` or ``name``), the input (``unrelaxed``,
    ``initial`` or ``input``) and the relaxed crystal (``relaxed``, ``final`` or ``output``), both as
    ``Structure.as_dict()``. ``split`` is its split; other texts and numbers become tags. ``.jsonl`` is read
    line by line, ``.json`` as a whole. For ``align`` see `import_ase_db`.

    Raises:
        DatasetError: The file cannot be read, or is not of this form.
    """
    for index, (key, entry) in enumerate(_entries(path)):
        own = _first(entry, IDS)
        name = ("" if own is None else str(own)) or key or f"{path.name}#{index}"
        if isinstance(entry, Exception):
            yield Refusal(name, f"{path}, entry {index} is not JSON: {describe(entry)}.")
        else:
            yield attempt(name, _entry_to_pair, name, entry, align)


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield key (empty if there is none) and content (or the error) of every entry."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
            if path.name.removesuffix(".gz").endswith(".jsonl"):
                for line in filter(str.strip, handle):
                    try:
                        entry: Any = json.loads(line)
                    except ValueError as error:
                        entry = error
                    yield "", entry
                return
            whole = json.load(handle)
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {describe(error)}.") from None
    if isinstance(whole, dict) and _first(whole, INPUTS) is None:
        yield from ((str(key), entry) for key, entry in whole.items())
    elif isinstance(whole, dict):
        yield "", whole
    elif isinstance(whole, list):
        yield from (("", entry) for entry in whole)
    else:
        raise DatasetError(f"{path} must hold a list or a mapping of entries; got {type(whole).__name__}.")


def _first(entry: Any, keys: tuple[str, ...]) -> Any:
    """Return the value of the first of some keys in an entry, or None."""
    return next((entry[key] for key in keys if key in entry), None) if isinstance(entry, dict) else None


def _entry_to_pair(name: str, entry: Any, align: bool) -> Pair:
    if not isinstance(entry, dict):
        raise DatasetError(
            f"'{name}' must be a mapping with the input and the relaxed crystal; got {type(entry).__name__}."
        )
    states = []
    for keys, which in ((INPUTS, STATES[0]), (OUTPUTS, STATES[1])):
        value = _first(entry, keys)
        if value is None:
            raise DatasetError(
                f"'{name}' has no {which} crystal; expected one of the keys {', '.join(keys)}."
            )
        states.append(_to_atoms(value, which))
    skip = {*IDS, *INPUTS, *OUTPUTS, "split"}
    tags = {k: str(v) for k, v in entry.items() if k not in skip and isinstance(v, str | int | float)}
    return states_to_pair(name, *states, align=align, split=str(entry.get("split", "")), tags=tags)


def _to_atoms(value: Any, which: str) -> Atoms:
    from ase import Atoms
    from pymatgen.core import Structure

    try:
        structure = Structure.from_dict(value)
    except Exception as error:  # pymatgen raises any error
        raise DatasetError(f"the {which} crystal is not a pymatgen Structure: {describe(error)}.") from None
    if not structure.is_ordered:
        raise DatasetError(
            f"the {which} crystal {structure.formula} has partially occupied sites; order it first."
        )
    return Atoms(
        numbers=[site.specie.Z for site in structure],
        positions=structure.cart_coords,
        cell=structure.lattice.matrix,
        pbc=structure.lattice.pbc,
    )
