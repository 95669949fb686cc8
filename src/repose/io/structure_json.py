"""JSON of pymatgen Structures, read without importing classes named in files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.errors import InvalidCrystalError
from repose.io.exchange import as_structure
from repose.io.kinds import to_jsonable

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Entries of `Structure.as_dict`; other entries belong to derived classes.
_KNOWN = {"@module", "@class", "@version", "charge", "lattice", "sites", "properties"}
# Identifiers beside a structure, which are kept in its properties.
_NAMES = ("id", "material_id", "entry_id", "task_id")


def read_json(text: str) -> Iterator[tuple[Structure, tuple[str, ...]] | InvalidCrystalError]:
    """Read pymatgen Structures: one, a list of them, or a dictionary of them by id.

    A structure may be the value of ``"structure"``, as in entries of databases; ``id``, ``material_id``,
    ``entry_id`` and ``task_id`` beside it are added to its ``properties``. Properties that are objects of
    classes (``"@module"``) remain dictionaries, except for magnetic moments (Magmom) and numpy arrays.

    Args:
        text: The whole file.

    Yields:
        A structure with messages for the user, or an error with the reason.

    Raises:
        ValueError: The text is not JSON.
    """
    values = json.loads(text)
    if isinstance(values, dict) and values and not _holds_structure(values):
        inner = list(values.values())
        if all(isinstance(value, dict) and _holds_structure(value) for value in inner):
            values = [{"structure": v.get("structure", v), **_names(v, key)} for key, v in values.items()]
    for value in values if isinstance(values, list) else [values]:
        entry = value.get("structure", value) if isinstance(value, dict) else None
        if not isinstance(entry, dict) or not {"lattice", "sites"} <= entry.keys():
            kind = f" of class {entry['@class']}" if isinstance(entry, dict) and "@class" in entry else ""
            yield InvalidCrystalError(
                f"it is no pymatgen Structure{kind}; expected an object with 'lattice' and 'sites', or a "
                "list of them."
            )
            continue
        try:
            structure = _structure(entry)
        except Exception as error:  # pymatgen raises any error for invalid input
            text = " ".join(str(error).split())[:200]
            yield InvalidCrystalError(
                f"it is no complete pymatgen Structure ({type(error).__name__}: {text})."
            )
            continue
        if entry is not value:
            for name, identifier in _names(value).items():
                structure.properties.setdefault(name, identifier)
        other = sorted(entry.keys() - _KNOWN)
        kind = entry.get("@class", "Structure")
        yield structure, (f"data of {kind} are not read: {', '.join(other)}",) if other else ()


def write_json(crystal: Any) -> tuple[str, list[str]]:
    """JSON of a crystal as a pymatgen Structure.

    Args:
        crystal: `ase.Atoms` or a pymatgen Structure; classes outside of pymatgen are written as Structure.

    Returns:
        The text, and names of the dropped data.
    """
    from pymatgen.core.structure import IStructure

    structure, dropped = as_structure(crystal)
    try:
        values = structure.as_dict()
        if not type(structure).__module__.startswith("pymatgen.") or "sites" not in values:
            raise TypeError(f"{type(structure).__name__} would not be read by pymatgen.")
        to_jsonable({k: v for k, v in values.items() if k not in _KNOWN})
    except (TypeError, AttributeError):  # as_dict of Slab fails where an attribute is None
        values = IStructure.as_dict(structure)
        values |= {"@module": "pymatgen.core.structure", "@class": "Structure"}
        dropped.append(f"data of {type(structure).__name__}")
    for site in values["sites"]:
        site["properties"] = _kept(site["properties"], "site property", dropped)
    values["properties"] = _kept(values["properties"], "info", dropped)
    return json.dumps(to_jsonable(values)) + "\n", list(dict.fromkeys(dropped))


def _holds_structure(value: dict[Any, Any]) -> bool:
    return {"lattice", "sites"} <= value.keys() or isinstance(value.get("structure"), dict)


def _names(value: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """Identifiers of a crystal; its key in a dictionary of structures is its id."""
    found = {name: value[name] for name in _NAMES if isinstance(value.get(name), str | int)}
    return found if key is None else {"id": key, **found}


def _structure(entry: dict[str, Any]) -> Structure:
    from pymatgen.core import Structure

    # Properties are set later, because from_dict would convert them to objects.
    sites = []
    for site in entry["sites"]:
        species = [
            {"occu": 1, **{k: v for k, v in kind.items() if k != "@module"}} for kind in site["species"]
        ]
        for kind in species:  # older versions of pymatgen have {"properties": {"spin": 5}}
            if isinstance(kind.get("properties"), dict):
                kind.setdefault("spin", kind["properties"].get("spin"))
                kind.setdefault("oxidation_state", None)
        sites.append({"species": species, "abc": site["abc"], "label": site.get("label")})
    lattice = {k: v for k, v in entry["lattice"].items() if not k.startswith("@")}
    structure = Structure.from_dict({"lattice": lattice, "sites": sites, "charge": entry.get("charge")})
    for site, given in zip(structure, entry["sites"], strict=True):
        site.properties = {k: _value(v) for k, v in (given.get("properties") or {}).items()}
    properties = entry.get("properties")
    if isinstance(properties, dict):
        structure.properties = {k: _value(v) for k, v in properties.items()}
    return structure


def _value(value: Any) -> Any:
    """Convert magnetic moments and numpy arrays; other values remain as in the file."""
    kind = (value.get("@module"), value.get("@class")) if isinstance(value, dict) else None
    if kind == ("pymatgen.electronic_structure.core", "Magmom"):
        from pymatgen.electronic_structure.core import Magmom

        return Magmom(_value(value["moment"]), saxis=_value(value.get("saxis", [0, 0, 1])))
    if kind == ("numpy", "array") and str(value.get("dtype"))[:3] in ("int", "flo", "boo"):
        return np.array(value["data"], dtype=value["dtype"]).tolist()
    return value


def _kept(properties: dict[Any, Any] | None, what: str, dropped: list[str]) -> dict[str, Any]:
    """Properties that JSON can represent; names of the others are added to ``dropped``."""
    kept = {}
    for name, value in (properties or {}).items():
        try:
            kept[_strict(str(to_jsonable(name)))] = _strict(to_jsonable(value))
        except (TypeError, ValueError, RecursionError):
            dropped.append(f"{what}: {name}")
    return kept


def _strict(value: Any) -> Any:
    """Value that every JSON reader accepts; NaN, a missing value, becomes null.

    Raises:
        ValueError: It has infinity, an integer of more than 64 bits, or text that is not Unicode.
    """
    if isinstance(value, dict):
        return {_strict(name): _strict(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, float) and not math.isfinite(value):
        if math.isinf(value):
            raise ValueError("JSON has no infinity.")
        return None
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("JSON integers have 64 bits.")
    return value
