"""Writing of extended XYZ from which ASE reads the same info and arrays."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.io.comment_line import format_entry
from repose.io.constraints import to_other_axes
from repose.io.exchange import LABELS

# Entries of the comment line and columns that are used by the format.
_RESERVED_KEYS = {"lattice", "pbc", "properties"}
_RESERVED_COLUMNS = {
    "species", "symbols", "symbol", "element", "elements", "pos", "position", "positions", "numbers",
    "atomic_number", "atomic_numbers", "move_mask", "selective_dynamics", "charge",
}  # fmt: skip
_INT32 = 2**31  # type of integer columns in ASE
_DOUBLE = 2**53  # larger integers are not exact in double precision


def write_frame(atoms: Any) -> tuple[str, list[str]]:
    """Text of a frame: constraints as ``move_mask``; results of the calculator, info and arrays as in ASE.

    ``move_mask`` cannot represent coordinates fixed along directions other than x, y and z. These are written
    to a column ``selective_dynamics``, which `read_extxyz` reads, and are listed as dropped.

    Args:
        atoms: `ase.Atoms`.

    Returns:
        The lines, and names of the dropped data.
    """
    from ase.io.extxyz import per_atom_properties, per_config_properties
    from ase.stress import voigt_6_to_full_3x3_stress

    dropped: list[str] = []
    results = dict(getattr(atoms.calc, "results", None) or {})
    info = atoms.info | {k: v for k, v in results.items() if k in per_config_properties and v is not None}
    stress = np.asarray(info.get("stress"))
    if stress.shape == (6,):
        info["stress"] = voigt_6_to_full_3x3_stress(stress)
    columns = {"species": np.array(atoms.get_chemical_symbols()), "pos": atoms.positions}
    columns |= _constraint_columns(atoms, dropped)
    arrays = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    arrays |= {k: v for k, v in results.items() if k in per_atom_properties and v is not None}
    used = {field for name, column in columns.items() for field in _fields(name, column)}
    for name, values in arrays.items():
        key = re.sub(r"[^\w.+-]+", "_", str(name))
        column = None
        if key not in ("", "Z") and key.lower() not in _RESERVED_COLUMNS:
            column = _column(np.asarray(values), len(atoms))
        number = column is not None and column.dtype.kind in "if"
        if (
            column is None
            or not used.isdisjoint(_fields(key, column))
            or (key in per_atom_properties and not number)
        ):
            dropped.append(LABELS.get(name, name if name in results else f"site property: {name}"))
        else:
            columns[key] = column
            used |= _fields(key, column)
    entries = _entries(info, dropped)
    head = []
    if atoms.cell.any():
        head.append('Lattice="' + " ".join(repr(float(x)) for x in atoms.cell.array.ravel()) + '"')
    head.append("Properties=" + ":".join(f"{name}:{_kind(v)}:{_width(v)}" for name, v in columns.items()))
    head.append('pbc="' + " ".join("T" if flag else "F" for flag in atoms.pbc) + '"')
    texts = [_texts(name, values) for name, values in columns.items()]
    rows = [" ".join(row) for row in zip(*texts, strict=True)]
    return "\n".join([str(len(atoms)), " ".join(head + entries), *rows]) + "\n", dropped


def _fields(name: str, values: NDArray[Any]) -> set[str]:
    """Names of columns in ASE for an array: ``x``, or ``x0``, ``x1`` and so on."""
    return {name} | {f"{name}{k}" for k in range(_width(values)) if _width(values) > 1}


def _entries(info: dict[Any, Any], dropped: list[str]) -> list[str]:
    """Entries of the comment line; invalid keys are made valid: ``1`` and ``my_key``."""
    from ase.io.extxyz import per_config_properties

    entries, taken = list[str](), set[str]()
    for name, value in info.items():
        key = re.sub(r"[^\w.:+-]+", "_", str(name))
        number = np.asarray(value).dtype.kind in "if" if key in (*per_config_properties, "virial") else True
        entry = None
        if key and key not in taken and key.lower() not in _RESERVED_KEYS and number:
            entry = format_entry(key, value)
        if entry is None:
            dropped.append(f"info: {name}")
        else:
            entries.append(entry)
            taken.add(key)
    return entries


def _constraint_columns(atoms: Any, dropped: list[str]) -> dict[str, NDArray[np.bool_]]:
    """Columns with T for free coordinates, along x, y and z or along the lattice vectors."""
    shape = (len(atoms), 3)
    cartesian, scaled = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for constraint in atoms.constraints:
        kind = type(constraint).__name__
        if kind in ("FixAtoms", "FixScaled", "FixCartesian"):
            mask = getattr(constraint, "mask", True)
            (scaled if kind == "FixScaled" else cartesian)[constraint.index] |= mask
        elif f"constraints: {kind}" not in dropped:
            dropped.append(f"constraints: {kind}")
    along = to_other_axes(scaled, atoms.cell.array, np.eye(3))
    cartesian |= along > 0
    columns = {}
    if cartesian.any():
        whole = (cartesian.all(axis=1) | ~cartesian.any(axis=1)).all()
        columns["move_mask"] = ~cartesian[:, 0] if whole else ~cartesian
    if (along < 0).any():
        columns["selective_dynamics"] = ~(scaled & (along < 0))
        dropped.append("constraints of single axes")
    return columns


def _column(values: NDArray[Any], count: int) -> NDArray[Any] | None:
    """Values as a column ``(N,)`` or columns ``(N, m)``; None if the format does not support them."""
    if values.ndim not in (1, 2) or len(values) != count or (values.ndim == 2 and values.shape[1] == 0):
        return None
    if values.dtype.kind in "iu" and values.size and np.abs(values.astype(float)).max() >= _INT32:
        return values.astype(float) if np.abs(values.astype(float)).max() < _DOUBLE else None
    if values.dtype.kind in "OUS":
        words = values.ravel().tolist()
        good = all(isinstance(w, str) and w.isprintable() and re.fullmatch(r"\S+", w) for w in words)
        return values.astype(str) if good else None
    return values if values.dtype.kind in "iufb" else None


def _kind(values: NDArray[Any]) -> str:
    return {"i": "I", "u": "I", "f": "R", "b": "L"}.get(values.dtype.kind, "S")


def _width(values: NDArray[Any]) -> int:
    return 1 if values.ndim == 1 else values.shape[1]


def _texts(name: str, values: NDArray[Any]) -> list[str]:
    """Text of the columns of an array for every atom."""
    table = values.reshape(len(values), -1).tolist()
    if name == "species":
        return [f"{row[0]:<2}" for row in table]
    if name == "pos":
        return [" ".join(f"{x:16.10f}" for x in row) for row in table]
    return [" ".join(("T" if x else "F") if isinstance(x, bool) else str(x) for x in row) for row in table]
