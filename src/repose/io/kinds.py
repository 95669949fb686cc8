"""Which library a structure comes from, and its values as JSON has them; imports neither ASE nor pymatgen."""

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
    """Whether this is an `ase.Atoms`; imports nothing."""
    return _is(structure, "ase.atoms", "Atoms")


def is_structure(structure: object) -> bool:
    """Whether this is a pymatgen Structure or IStructure; imports nothing."""
    return _is(structure, "pymatgen.core.structure", "IStructure")


def plain(value: Any) -> Any:
    """A value as JSON has it: numpy and objects with ``as_dict`` become lists, numbers and dictionaries.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(value, np.generic | np.ndarray):  # np.float64 is a float, too
        return plain(value.tolist())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {k if isinstance(k, str) else str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    if type(value).__name__ == "Spacegroup":  # ASE's readers leave one in info
        return value.symbol
    raise TypeError(f"{type(value).__name__} is not JSON.")


def _is(structure: object, module: str, name: str) -> bool:
    # Nobody can hold an instance of a class whose module was never imported.
    return isinstance(structure, getattr(sys.modules.get(module), name, ()))
