"""Which relaxed atom is which input atom, and in which periodic image.

Files made by other programs may list the relaxed atoms in another order, wrapped into the cell, with
another origin, and in a rotated frame. Here those freedoms are found, in fractional coordinates, and
undone. Cells hold lattice vectors as ROWS in A: ``cartesian = fractional @ cell``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from repose.crystal.symmetry import polar
from repose.errors import InvalidCrystalError

# Displacements up to this leave no doubt about who is who: two atoms never stand closer (A).
CERTAIN = 0.5
# Another order of atoms, or another origin, must make the largest displacement this much smaller
# before the file's own is given up. Less than a half, which is what a new origin gains where one of two
# atoms moves against the other.
MUCH_SHORTER = 0.4
# Rotations smaller than this (radian) come from rounding and from the triangular cells of CIF.
SMALLEST_ROTATION = 1e-3
# Difference vectors handled at once by the search for images; bounds the memory of large cells.
CHUNK = 100_000


@dataclass(frozen=True, eq=False)
class Match:
    """How the relaxed atoms of a file become those of the input: n atoms.

    Attributes:
        order: Relaxed atom of the file that is input atom k, ``(n,)`` int.
        images: Lattice vectors to add to it, ``(n, 3)`` whole numbers.
        shift: Rigid shift of all relaxed atoms that is to be subtracted, fractional, ``(3,)``; exactly zero
            where the file's origin was kept.
        largest: Largest displacement beyond the cell's deformation in A.
    """

    order: np.ndarray
    images: np.ndarray
    shift: np.ndarray
    largest: float


def stretch_and_rotation(cell: np.ndarray, relaxed_cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a deformation: ``relaxed_cell = cell @ stretch @ rotation``.

    Args:
        cell: Before, ``(3, 3)``.
        relaxed_cell: After, ``(3, 3)``.

    Returns:
        Symmetric positive stretch and proper rotation, both ``(3, 3)``.

    Raises:
        InvalidCrystalError: One cell is right-handed and the other left-handed.
    """
    gradient = np.linalg.solve(cell, relaxed_cell)
    if np.linalg.det(gradient) <= 0:
        raise InvalidCrystalError(
            "the unrelaxed and the relaxed cell differ in handedness (one determinant is negative); "
            "write both with lattice vectors in one and the same order."
        )
    return polar(gradient)


def rotation_angle(rotation: np.ndarray) -> float:
    """Angle of a rotation matrix in radian, accurate also when it is small."""
    return 2 * float(np.arcsin(min(1.0, np.linalg.norm(rotation - np.eye(3)) / np.sqrt(8))))


def match(
    numbers: np.ndarray,
    fractional: np.ndarray,
    relaxed_numbers: np.ndarray,
    relaxed_fractional: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
) -> Match:
    """Find order, images and origin that make the atoms' displacements short.

    The file's own order is kept where the species allow it, unless atoms in another order (of equal
    species) move far less (`MUCH_SHORTER`); then, and where the species stand in another order, atoms are
    assigned so that the sum of squared displacements is least (the Hungarian method, species by
    species). A rigid shift is removed only where that, too, makes displacements far shorter: it is then
    a matter of how the file was written, not of physics. Images are the nearest ones under ``cell``,
    exactly (Minkowski-reduced, `ase.geometry.find_mic`).

    Args:
        numbers: Atomic numbers of the input, ``(n,)``.
        fractional: Its fractional coordinates in its own cell, ``(n, 3)``, not wrapped.
        relaxed_numbers: The same species in any order, ``(n,)``.
        relaxed_fractional: Fractional coordinates in the relaxed cell, ``(n, 3)``.
        cell: Cell that measures displacements, best the mean of both, ``(3, 3)`` A.
        pbc: Periodic directions, ``(3,)`` bool.

    Returns:
        The match; ``fractional[k]`` went to ``(relaxed_fractional[order] + images - shift)[k]``.
    """
    search = _Search(numbers, fractional, relaxed_numbers, relaxed_fractional, cell, pbc)
    trials = search.trials()
    best = next(trials)
    while best.largest > CERTAIN and (trial := next(trials, None)) is not None:
        if trial.largest < MUCH_SHORTER * best.largest:
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
        """Matches from the most faithful to the file to the least; later ones cost more."""
        origin = np.zeros(3)
        in_order = np.array_equal(self.numbers, self.relaxed_numbers)
        if in_order:
            yield self.measured(np.arange(len(self.numbers)), origin)
        yield self.measured(self.assigned(origin), origin)
        if in_order:
            first = self.relaxed[0] - self.fractional[0]
            yield self.centred(np.arange(len(self.numbers)), first)
        # One atom of the rarest species tries every place of its kind.
        species, counts = np.unique(self.numbers, return_counts=True)
        rarest = species[counts.argmin()]
        guest = self.relaxed[self.relaxed_numbers == rarest][0]
        for host in self.fractional[self.numbers == rarest]:
            shift = guest - host
            yield self.centred(self.assigned(shift), shift)

    def measured(self, order: np.ndarray, shift: np.ndarray) -> Match:
        """The match with nearest images for a given order and shift."""
        images, lengths = self.nearest(self.relaxed[order] - shift - self.fractional)
        return Match(order, images, shift, float(lengths.max()))

    def centred(self, order: np.ndarray, shift: np.ndarray) -> Match:
        """As `measured`, after moving the mean displacement into the shift."""
        for _ in range(3):
            images, _ = self.nearest(self.relaxed[order] - shift - self.fractional)
            shift = shift + (self.relaxed[order] - shift - self.fractional + images).mean(axis=0)
        return self.measured(order, shift)

    def assigned(self, shift: np.ndarray) -> np.ndarray:
        """Order with the least sum of squared displacements, species by species."""
        from scipy.optimize import linear_sum_assignment

        order = np.empty(len(self.numbers), dtype=np.int64)
        for species in np.unique(self.numbers):
            mine = np.flatnonzero(self.numbers == species)
            theirs = np.flatnonzero(self.relaxed_numbers == species)
            delta = self.relaxed[theirs][None] - shift - self.fractional[mine][:, None]  # (m, m, 3)
            _, lengths = self.nearest(delta.reshape(-1, 3))
            rows, columns = linear_sum_assignment(lengths.reshape(len(mine), len(theirs)) ** 2)
            order[mine[rows]] = theirs[columns]
        return order

    def nearest(self, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whole-number images that make fractional differences ``(m, 3)`` shortest, and lengths in A."""
        from ase.geometry import find_mic

        images, lengths = [], []
        for chunk in np.array_split(delta, len(delta) // CHUNK + 1):
            vectors, norms = find_mic(chunk @ self.cell, self.cell, self.pbc)  # pyright: ignore[reportArgumentType] (takes three)
            images.append(np.rint(vectors @ np.linalg.inv(self.cell) - chunk))
            lengths.append(norms)
        return np.concatenate(images), np.concatenate(lengths)
