"""Writing of crystals, with names of the data that a format drops."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from repose.atomic_write import move_into_place, replacing_file, temporary_beside
from repose.errors import ConfigError
from repose.io.exchange import LABELS, as_atoms, supported_constraints
from repose.io.poscar import write_poscar
from repose.io.structure_json import write_json
from repose.io.write_extxyz import write_frame

Format = Literal["cif", "poscar", "extxyz", "json"]
FORMATS: tuple[Format, ...] = ("cif", "poscar", "extxyz", "json")
# Prefix of data added by the relaxation, which are not reported as dropped.
_OWN = "repose_"
# Cells that differ by less have the same orientation.
_SAME_CELL = 1e-3  # A


def write(crystal: Any, path: str | Path, format: Format) -> list[str]:
    """Write one crystal atomically; missing folders are created.

    Args:
        crystal: `ase.Atoms` or a pymatgen Structure; order of sites and images of atoms are kept.
        path: Output file; replaced if it exists.
        format: ``"cif"``, ``"poscar"``, ``"extxyz"`` or ``"json"``.

    Returns:
        Names of the dropped data, e.g. ``["magnetic moments", "info: note"]``.

    Raises:
        ConfigError: The format is unknown.
        InvalidCrystalError: A Structure is disordered, which only JSON supports.
    """
    target = Path(path)
    text, dropped = _rendered(crystal, format, target.stem)
    with replacing_file(target) as new:
        new.write_text(text, encoding="utf-8", newline="\n")
    return dropped


class ExtxyzWriter:
    """Writer of many crystals into one extended XYZ file, which is created or replaced on closing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary_beside(path)
        self._stream = self._temporary.open("w", encoding="utf-8", newline="\n")

    def append(self, crystal: Any) -> list[str]:
        """Add `ase.Atoms` or a pymatgen Structure, and return the names of the dropped data.

        Raises:
            InvalidCrystalError: A Structure is disordered; nothing is added.
        """
        atoms, dropped = as_atoms(crystal)
        text, more = write_frame(atoms)
        self._stream.write(text)
        return list(dict.fromkeys(dropped + more))

    def close(self) -> None:
        """Move the file to its path."""
        self._stream.close()
        move_into_place(self._temporary, self.path)

    def discard(self) -> None:
        """Delete the unfinished file."""
        self._stream.close()
        self._temporary.unlink(missing_ok=True)


def _rendered(crystal: Any, format: Format, name: str) -> tuple[str, list[str]]:
    """Text of a file, and names of the dropped data."""
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}; got '{format}'.")
    if format == "json":
        return write_json(crystal)
    atoms, dropped = as_atoms(crystal)
    if format == "extxyz":
        text, more = write_frame(atoms)
        return text, list(dict.fromkeys(dropped + more))
    fixed, more = supported_constraints(atoms)
    dropped += more
    cell = atoms.cell.array
    if format == "poscar":
        dropped += _dropped(atoms, ())
        text = write_poscar(atoms.numbers.tolist(), atoms.positions, cell, fixed)
        return text, list(dict.fromkeys(dropped))
    from repose.io.cif import write_cif

    labels = _cif_labels(atoms)
    dropped += _dropped(atoms, ("labels",) if labels else ())
    if fixed.any():
        dropped.append("constraints")
    if not np.allclose(cell, atoms.cell.standard_form()[0].array, atol=_SAME_CELL):
        dropped.append("orientation of the cell")
    text = write_cif(atoms.numbers, atoms.positions, cell, name, labels)
    return text, list(dict.fromkeys(dropped))


def _dropped(atoms: Any, kept: tuple[str, ...]) -> list[str]:
    """Names of data other than cell, elements, positions, constraints and the kept arrays."""
    results = getattr(atoms.calc, "results", None) or {}
    kept = ("numbers", "positions", *kept)
    arrays = [name for name in atoms.arrays if name not in kept and not str(name).startswith(_OWN)]
    return [
        *(LABELS.get(name, f"site property: {name}") for name in arrays),
        *(f"info: {name}" for name in atoms.info if not str(name).startswith(_OWN)),
        *(name for name, value in results.items() if value is not None),
        *([] if atoms.pbc.all() else ["which directions are periodic"]),
    ]


def _cif_labels(atoms: Any) -> list[str] | None:
    """Site labels if they are valid in CIF: unique words that begin with the element."""
    labels = [str(label) for label in atoms.arrays.get("labels", ())]
    good = len(set(labels)) == len(labels) and all(
        re.fullmatch(re.escape(symbol) + r"[\w'*+()-]*", label, re.ASCII)
        for symbol, label in zip(atoms.get_chemical_symbols(), labels, strict=False)
    )
    return labels if labels and good else None
