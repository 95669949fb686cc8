"""Matching of the relaxed atoms of a file to the input atoms and their periodic images.

Files of other programs may list the relaxed atoms in another order, wrapped into the cell, with another
origin, and in a rotated frame. The match is found in fractional coordinates. Cells hold lattice vectors as
ROWS in A: ``cartesian = fractional @ cell``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from repose.crystal.deformation import polar
from repose.errors import InvalidCrystalError

# A match with displacements up to this (A) is accepted at once: two atoms are never closer.
UNAMBIGUOUS_DISPLACEMENT = 0.5
# Another match is preferred if its largest displacement is smaller by this factor. A new origin alone gains
# 1/2 where one of two atoms moves relative to the other.
IMPROVEMENT_FACTOR = 0.4
# Smaller rotations (radian) come from rounding and from the triangular cells of CIF.
SMALLEST_ROTATION = 1e-3
# Difference vectors per call of the search for images; limits the memory of large cells.
CHUNK = 100_000


@dataclass(frozen=True, eq=False)
class Match:
    """Assignment of the relaxed atoms of a file to n input atoms.

    Attributes:
        order: Index of the relaxed atom of input atom k, ``(n,)`` int.
        images: Lattice vectors to add to it, ``(n, 3)`` whole numbers.
        shift: Translation to subtract from all relaxed atoms, fractional, ``(3,)``; zero if the origin is
            kept.
        largest: Largest displacement in A, apart from the deformation of the cell.
    """

    order: np.ndarray
    images: np.ndarray
    shift: np.ndarray
    largest: float


def stretch_and_rotation(cell: np.ndarray, relaxed_cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decompose a deformation: ``relaxed_cell = cell @ stretch @ rotation``.

    Returns:
        Symmetric positive stretch and proper rotation, both ``(3, 3)``.

    Raises:
        InvalidCrystalError: One cell is right-handed and the other left-handed.
    """
    gradient = np.linalg.solve(cell, relaxed_cell)
    if np.linalg.det(gradient) <= 0:
        raise InvalidCrystalError(
            "the unrelaxed and the relaxed cell differ in handedness (one determinant is negative); "
            "write the lattice vectors of both in the same order."
        )
    return polar(gradient)


def rotation_angle(rotation: np.ndarray) -> float:
    """Return the angle of a rotation matrix in radian, accurate for small angles too."""
    return 2 * float(np.arcsin(min(1.0, np.linalg.norm(rotation - np.eye(3)) / np.sqrt(8))))


def match(
    numbers: np.ndarray,
    fractional: np.ndarray,
    relaxed_numbers: np.ndarray,
    relaxed_fractional: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
) -> Match:
    """Find order, images and origin that make the displacements of the atoms short.

    The file's order is kept if its elements are in the order of the input. Otherwise, or if another order
    makes displacements much smaller (`IMPROVEMENT_FACTOR`), atoms are assigned with the smallest sum of
    squared displacements (Hungarian method for each element). A translation is removed only if that makes
    displacements much smaller: it then comes from the file, not from the relaxation. Images are the exact
    nearest ones under ``cell`` (Minkowski reduction, `ase.geometry.find_mic`).

    Args:
        numbers: Atomic numbers of the input, ``(n,)``.
        fractional: Fractional coordinates of the input, not wrapped, ``(n, 3)``.
        relaxed_numbers: The same elements in any order, ``(n,)``.
        relaxed_fractional: Fractional coordinates in the relaxed cell, ``(n, 3)``.
        cell: Cell for distances, preferably the mean of both cells, A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)`` bool.

    Returns:
        The match; input atom k is at ``(relaxed_fractional[order] + images - shift)[k]``.
    """
    search = _Search(numbers, fractional, relaxed_numbers, relaxed_fractional, cell, pbc)
    trials = search.trials()
    best = next(trials)
    while best.largest > UNAMBIGUOUS_DISPLACEMENT and (trial := next(trials, None)) is not None:
        if trial.largest < IMPROVEMENT_FACTOR * best.largest:
            best = trial
    return best


@dataclass(frozen=True, eq=False)
class _Search:
    numbers: np.ndarray
    fractional: np.ndarray
    relaxed_numbers: np.ndarray
    relaxed: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray

    def trials(self) -> Iterator[Match]:
        """Yield matches; the first change the file least, the last are the most expensive."""
        origin, file_order = np.zeros(3), np.arange(len(self.numbers))
        in_order = np.array_equal(self.numbers, self.relaxed_numbers)
        if in_order:
            yield self.with_images(file_order, origin)
        yield self.with_images(self.assign(origin), origin)
        if in_order:
            yield self.centred(file_order, self.relaxed[0] - self.fractional[0])
        # Translations that map an atom of the rarest element to each atom of that element.
        elements, counts = np.unique(self.numbers, return_counts=True)
        rarest = elements[counts.argmin()]
        atom = self.relaxed[self.relaxed_numbers == rarest][0]
        for target in self.fractional[self.numbers == rarest]:
            shift = atom - target
            yield self.centred(self.assign(shift), shift)

    def with_images(self, order: np.ndarray, shift: np.ndarray) -> Match:
        """Return the match of an order and a translation, with nearest images."""
        images, lengths = self.nearest(self.relaxed[order] - shift - self.fractional)
        return Match(order, images, shift, float(lengths.max()))

    def centred(self, order: np.ndarray, shift: np.ndarray) -> Match:
        """Return `with_images` with the mean displacement added to the translation."""
        for _ in range(3):
            images, _ = self.nearest(self.relaxed[order] - shift - self.fractional)
            shift = shift + (self.relaxed[order] - shift - self.fractional + images).mean(axis=0)
        return self.with_images(order, shift)

    def assign(self, shift: np.ndarray) -> np.ndarray:
        """Return the order with the smallest sum of squared displacements."""
        from scipy.optimize import linear_sum_assignment

        order = np.empty(len(self.numbers), dtype=np.int64)
        for element in np.unique(self.numbers):
            inputs = np.flatnonzero(self.numbers == element)
            relaxed = np.flatnonzero(self.relaxed_numbers == element)
            delta = self.relaxed[relaxed][None] - shift - self.fractional[inputs][:, None]  # (m, m, 3)
            _, lengths = self.nearest(delta.reshape(-1, 3))
            rows, columns = linear_sum_assignment(lengths.reshape(len(inputs), len(relaxed)) ** 2)
            order[inputs[rows]] = relaxed[columns]
        return order

    def nearest(self, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images that make fractional differences ``(m, 3)`` shortest, and the lengths in A."""
        from ase.geometry import find_mic

        images, lengths = [], []
        for chunk in np.array_split(delta, len(delta) // CHUNK + 1):
            vectors, norms = find_mic(chunk @ self.cell, self.cell, self.pbc)  # pyright: ignore[reportArgumentType] (takes three)
            images.append(np.rint(vectors @ np.linalg.inv(self.cell) - chunk))
            lengths.append(norms)
        return np.concatenate(images), np.concatenate(lengths)
