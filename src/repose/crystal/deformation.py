"""Deformation of cells: determinants, stretch and rotation, and cells of which some vectors are held.

In numpy float64, with lattice vectors as rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repose.errors import ConfigError, InvalidCrystalError, ShapeError

Floats = NDArray[np.float64]

# Lattice vectors count as orthogonal if the cosine of their angle is smaller.
ORTHOGONAL = 1e-5


def determinant(matrix: NDArray[Any]) -> float:
    """Determinant of one matrix ``(3, 3)``, in plain Python: ten times faster than by LAPACK."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)


def constrain_cell(cell: ArrayLike, new_cell: ArrayLike, fix_axes: str | Iterable[str]) -> Floats:
    """Hold some lattice vectors of a predicted cell exactly as they are in the input.

    First the prediction is rotated by the smallest rotation that restores the input directions of the held
    vectors (for two vectors in the least-squares sense). Then the component of every other vector along held
    vectors to which it is orthogonal in the input is removed. If the only held vector is orthogonal to both
    others, as in a sheet with vacuum, the rotation restores their normal instead: they keep their predicted
    lengths and angle, and the result does not depend on the predicted vacuum.

    A symmetrised cell keeps its symmetry if the group maps the held vectors onto each other.

    Args:
        cell: Input lattice vectors as rows in A, ``(3, 3)``.
        new_cell: Predicted lattice vectors as rows in A, ``(3, 3)``.
        fix_axes: Vectors to hold, letters out of ``abc``: ``"c"``, ``{"a", "b"}``, or ``""`` for none.

    Returns:
        The constrained cell in A, ``(3, 3)``, a new array.

    Raises:
        ConfigError: ``fix_axes`` has something else than the letters a, b, c.
        ShapeError: A cell is not ``(3, 3)``.
        InvalidCrystalError: The prediction is not finite, or its cell is flat or inverted.
    """
    names = set(fix_axes)
    if not names <= set("abc"):
        raise ConfigError(
            f"fix_axes must be letters out of 'abc', e.g. 'c' for the vacuum of a sheet; got {fix_axes!r}."
        )
    cell, new_cell = checked_cell(cell), checked_cell(new_cell)
    held = np.array([name in names for name in "abc"])
    if held.all() or not held.any():
        return (cell if held.all() else new_cell).copy()
    deformation_gradient(cell, new_cell)  # raises for an invalid cell
    unit, start = (c / np.linalg.norm(c, axis=1, keepdims=True) for c in (cell, new_cell))
    orthogonal = np.abs(unit @ unit.T) < ORTHOGONAL  # (3, 3)
    if held.sum() == 2:
        left, _, right = np.linalg.svd(start[held].T @ unit[held])  # Kabsch: normal goes to normal
        left[:, 2] *= np.linalg.det(left @ right)
        result = new_cell @ left @ right
    else:
        axis, normal = unit[held][0], np.cross(*new_cell[~held])
        if orthogonal[held][0, ~held].all():
            side = np.sign(axis @ np.cross(*cell[~held]))
            start[held] = side * normal / np.linalg.norm(normal)
        result = new_cell @ _smallest_rotation(start[held][0], axis)
    for free in np.flatnonzero(~held):
        directions = unit[held & orthogonal[free]]
        result[free] -= result[free] @ np.linalg.pinv(directions) @ directions
    result[held] = cell[held]
    return result


def polar(gradient: Floats) -> tuple[Floats, Floats]:
    """Split a deformation gradient F into stretch and rotation, ``F = stretch @ rotation``.

    With row vectors the stretch acts first, in the frame of the undeformed crystal.

    Args:
        gradient: F with positive determinant, ``(3, 3)``.

    Returns:
        Symmetric positive stretch and proper rotation, both ``(3, 3)``.
    """
    left, singular, right = np.linalg.svd(gradient)
    return (left * singular) @ left.T, left @ right


def deformation_gradient(cell: Floats, new_cell: Floats) -> Floats:
    """Return F with ``cell @ F = new_cell``; raise unless it is finite with a positive determinant."""
    gradient = np.linalg.solve(cell, new_cell).astype(np.float64)
    if not np.isfinite(gradient).all() or determinant(gradient) < 1e-6:
        raise InvalidCrystalError(
            "the predicted cell must be finite, with the handedness of the input and not flat; got "
            f"{new_cell.tolist()} from {cell.tolist()}. Discard this prediction."
        )
    return gradient


def checked_cell(cell: ArrayLike) -> Floats:
    """Return a cell ``(3, 3)`` in float64; raises ShapeError if it has another shape."""
    cell = np.asarray(cell, dtype=np.float64)
    if cell.shape != (3, 3):
        raise ShapeError(
            f"cell must be (3, 3), lattice vectors as rows; got {cell.shape}. Pass one crystal at a time."
        )
    return cell


def _smallest_rotation(start: Floats, end: Floats) -> Floats:
    """Return the smallest rotation R with ``start @ R = end`` of unit vectors (Rodrigues)."""
    cosine = start @ end
    if cosine < -1 + 1e-9:  # half a turn about any axis orthogonal to it
        axis = np.linalg.svd(start[None])[2][1]
        return 2 * np.outer(axis, axis) - np.eye(3)
    generator = np.outer(start, end) - np.outer(end, start)
    return np.eye(3) + generator + generator @ generator / (1 + cosine)
