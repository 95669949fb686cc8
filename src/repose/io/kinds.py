"""Types of structures, and their values in JSON; imports neither ASE nor pymatgen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core.structure import IStructure

    Crystal: TypeAlias = Atoms | IStructure
else:
    Crystal = Any


def is_atoms(structure: object) -> bool:
    """Return whether this is an `ase.Atoms`."""
    return _is(structure, "ase.atoms", "Atoms")


def is_structure(structure: object) -> bool:
    """Return whether this is a pymatgen Structure or IStructure."""
    return _is(structure, "pymatgen.core.structure", "IStructure")


def to_jsonable(value: Any) -> Any:
    """Convert a value for JSON: numpy and objects with ``as_dict`` become lists, numbers, dictionaries.

    Raises:
        TypeError: JSON cannot represent the value.
    """
    if isinstance(value, np.generic | np.ndarray):  # np.float64 is also a float
        return to_jsonable(value.tolist())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {k if isinstance(k, str) else str(to_jsonable(k)): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if hasattr(value, "as_dict"):
        return to_jsonable(value.as_dict())
    if type(value).__name__ == "Spacegroup":  # stored in info by ASE's readers
        return value.symbol
    raise TypeError(f"{type(value).__name__} is not JSON.")


def _is(structure: object, module: str, name: str) -> bool:
    # A class whose module is not imported has no instances.
    return isinstance(structure, getattr(sys.modules.get(module), name, ()))


def results_of(crystal: Any) -> dict[str, Any]:
    """Results of the calculator of a crystal, ``calc``, which a pymatgen Structure may have, too."""
    results = getattr(getattr(crystal, "calc", None), "results", None) or {}
    return {name: value for name, value in results.items() if value is not None}
