"""Symmetry operations of a CIF: parsing to matrices, and checks that they form a group."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.space_groups import Operations

MAX_OPERATIONS = 500  # for supercells with all their translations
_STEPS = 110880  # resolution of translations in `keys`: a multiple of all usual denominators
_WEIGHTS = np.random.default_rng(0).integers(1, 2**40, size=12)
_TERM = re.compile(r"([+-]?)(\d{1,6}(?:\.\d{0,12})?|\.\d{1,12})?(?:/(\d{1,6}))?\*?([xyz])?")

# Largest `misfit` of a cell and symmetry operations: one per cent of a length, or one degree.
LARGEST_MISFIT = 0.02


def misfit(rotations: NDArray[Any], cell: NDArray[Any]) -> float:
    """Largest change of the metric of a cell by symmetry operations.

    Args:
        rotations: Rotations of fractional column vectors, ``(m, 3, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        Largest change of ``a_i . a_j`` over ``|a_i| |a_j|``.
    """
    metric = cell @ cell.T
    lengths = np.sqrt(np.diagonal(metric))
    change = rotations.transpose(0, 2, 1) @ metric @ rotations - metric
    return float(np.abs(change / np.outer(lengths, lengths)).max())


def fits(rotations: NDArray[Any], cell: NDArray[Any]) -> bool:
    """Return whether operations keep the lengths and angles of a cell; arguments as for `misfit`."""
    return misfit(rotations, cell) < LARGEST_MISFIT


@lru_cache(maxsize=256)
def parse_operations(listed: tuple[str, ...], magnetic: bool = False) -> Operations:
    """Parse operations such as '-x, y+1/2, z'; duplicates are removed.

    Args:
        listed: The operations.
        magnetic: Allow time reversal at the end, ', +1' or ', -1'.

    Returns:
        Rotations ``(m, 3, 3)`` and translations ``(m, 3)`` of fractional column vectors.

    Raises:
        InvalidCrystalError: A text is not an operation.
    """
    seen: dict[Any, tuple[list[list[int]], list[Fraction]]] = {}
    for text in listed:
        rows = text.lower().replace(" ", "").split(",")
        if magnetic and len(rows) == 4 and rows[3] in ("1", "+1", "-1", "m", "-m", "+m"):
            rows = rows[:3]
        parsed = [_row(row) for row in rows]
        if len(rows) != 3 or any(row is None for row in parsed):
            raise InvalidCrystalError(
                f"its symmetry operations cannot be read: {text!r}; expected e.g. '-x, y+1/2, z' in quotes."
            )
        rotation = [row[0] for row in parsed if row]
        translation = [row[1] % 1 for row in parsed if row]
        if round(abs(np.linalg.det(rotation)), 6) != 1:
            raise InvalidCrystalError(f"its symmetry operations cannot be read: {text!r} is no operation.")
        seen[str((rotation, translation))] = rotation, translation
    rotations = np.array([rotation for rotation, _ in seen.values()])
    translations = np.array([[float(t) for t in translation] for _, translation in seen.values()])
    return rotations, translations


def _row(text: str) -> tuple[list[int], Fraction] | None:
    """Coefficients of x, y and z, and the constant, of one coordinate such as '1/2-x+y'."""
    coefficients, constant, at = [0, 0, 0], Fraction(0), 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or not (match.group(2) or match.group(4)) or (at > 0 and not match.group(1)):
            return None
        if match.group(3) and not int(match.group(3)):
            return None
        value = Fraction(match.group(2) or 1) / int(match.group(3) or 1)
        if "." in (match.group(2) or ""):
            near = Fraction(round(24 * value), 24)  # 0.3333
            value = near if abs(near - value) < Fraction(1, 300) else value
        value = -value if match.group(1) == "-" else value
        if match.group(4) is None:
            constant += value
        elif value.denominator != 1 or abs(value) > 9:
            return None
        else:
            coefficients["xyz".index(match.group(4))] += int(value)
        at = match.end()
    return (coefficients, constant) if text else None


def products(first: Operations, second: Operations) -> Operations:
    """Products of two lists of operations, those of the second applied first, without duplicates."""
    rotations = np.einsum("iab,jbc->ijac", first[0], second[0]).reshape(-1, 3, 3)
    moved = np.einsum("iab,jb->ija", first[0], second[1]) + first[1][:, None]
    last = {k: i for i, k in enumerate(keys(rotations, moved.reshape(-1, 3)).tolist())}
    chosen = sorted(last.values())
    return rotations[chosen], moved.reshape(-1, 3)[chosen] % 1


def keys(rotations: NDArray[Any], translations: NDArray[Any]) -> Any:
    """Hash of each operation, equal for operations that are equal modulo lattice translations."""
    steps = np.rint(translations * _STEPS + 0.1).astype(np.int64) % _STEPS
    flat = np.concatenate([rotations.reshape(-1, 9).astype(np.int64), steps], axis=1)
    return flat @ _WEIGHTS


def check_group(rotations: NDArray[Any], translations: NDArray[Any]) -> None:
    """Check that operations form a group.

    Raises:
        InvalidCrystalError: A product of two operations is missing, or there are too many operations.
    """
    if len(rotations) > MAX_OPERATIONS:
        raise InvalidCrystalError(f"it lists {len(rotations)} symmetry operations; expected at most 192.")
    present = keys(rotations, translations)
    flat = rotations.astype(float)
    products = np.rint(np.einsum("iab,jbc->ijac", flat, flat, optimize=True)).reshape(-1, 3, 3)
    moved = np.einsum("iab,jb->ija", flat, translations) + translations[:, None]
    missing = ~np.isin(keys(products, moved.reshape(-1, 3)), present)
    if missing.any():
        first, second = divmod(int(np.flatnonzero(missing)[0]), len(rotations))
        raise InvalidCrystalError(
            f"its {len(rotations)} symmetry operations are no group: the product of number {first + 1} and "
            f"number {second + 1} is not among them. Expected the complete list, centring included."
        )
