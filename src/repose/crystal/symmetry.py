"""Space group of one crystal, and symmetrisation of predictions.

Works on one crystal at a time, in numpy float64; a cell holds lattice vectors as ROWS, so that
``cartesian = fractional @ cell``. An operation (W, w) sends the fractional COLUMN x to ``W x + w``,
as in the International Tables and in spglib; with our rows that reads ``fractional @ W.T + w``.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repose.crystal.deformation import checked_cell, deformation_gradient, determinant, polar
from repose.errors import ConfigError, InvalidCrystalError, ShapeError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# No primitive or conventional cell has more operations; only supercells of a perfect crystal do.
MAX_OPERATIONS = 192
# Largest number of images (operations times atoms) to find for a supercell: about a second.
MAX_IMAGES = 1_000_000
# Images found at once, some 30 MB of memory.
IMAGES_AT_A_TIME = 100_000
# Digits of the nine entries of a rotation in one number, exact for entries up to 63.
DIGITS = 127 ** np.arange(9)
CORNERS = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """Operations that map one crystal of N atoms onto itself; M operations, a group.

    They may be fewer than those of ``number``: vacuum and the given lattice can remove operations. A
    supercell that is longer along a than along b has no threefold axis.

    Attributes:
        number: Space group of the crystal taken as periodic in all three directions, 1 to 230.
        symbol: Its international short symbol, e.g. ``"Fm-3m"``.
        rotations: W, integers in the basis of the lattice, ``(M, 3, 3)``, acting on fractional COLUMNS.
        translations: w, fractional, ``(M, 3)``.
        permutations: Operation g sends atom k onto atom ``permutations[g, k]``, ``(M, N)``.
    """

    number: int
    symbol: str
    rotations: Integers
    translations: Floats
    permutations: Integers

    @property
    def n_operations(self) -> int:
        """Number of operations M."""
        return len(self.rotations)

    @cached_property
    def point_group(self) -> Integers:
        """The different rotations, ``(R, 3, 3)``."""
        return self.rotations[_distinct(self.rotations)[0]]

    def cartesian(self, rotations: Integers, cell: Floats) -> Floats:
        """Rotations ``(M, 3, 3)`` as matrices Q of Cartesian ROWS, ``x' = x @ Q``.

        They are orthogonal to rounding, even if the cell has the symmetry only within symprec.
        """
        ideal = _ideal_cell(self.point_group, cell)
        return np.linalg.inv(ideal) @ rotations.transpose(0, 2, 1) @ ideal

    def mean(self, images: Floats) -> Floats:
        """Mean over the operations of images ``(M, N, 3)`` of vectors of the atoms, at the new atoms."""
        arrived = np.empty_like(images)
        arrived[np.arange(self.n_operations)[:, None], self.permutations] = images
        return arrived.mean(axis=0)

    @classmethod
    def trivial(cls, n_atoms: int) -> SpaceGroup:
        """P1: the identity alone."""
        return cls(1, "P1", np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)), np.arange(n_atoms)[None])


def find_space_group(
    numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, symprec: float = 1e-3
) -> SpaceGroup:
    """Find the operations that map a crystal onto itself, and where they send each atom.

    There is no lattice translation along a direction that is not periodic: an operation is kept only if it
    does not mix this direction with periodic ones and maps the atoms without wrapping along it. The mirror
    plane of a sheet is kept at any height; a translation by half of the vacuum is not.

    A perfect supercell has as many pure translations as primitive cells; where listing all operations
    would cost too much (`MAX_IMAGES`), those that leave one atom in place are kept, the atom of highest
    site symmetry. If spglib finds no space group, P1 is returned.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: Cartesian positions in A, wrapped or not, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)`` bool.
        symprec: Largest distance in A of an atom from the image of another.

    Returns:
        The space group; its translations are refined to fit the atoms on average.

    Raises:
        ShapeError: An array has the wrong shape.
        ConfigError: ``symprec`` is not positive.
    """
    numbers = np.asarray(numbers)
    positions, cell = _geometry(positions, cell)
    periodic = np.asarray(pbc, dtype=bool)
    if numbers.shape != (len(positions),) or periodic.shape != (3,):
        raise ShapeError(
            f"numbers must be ({len(positions)},), one per position, and pbc (3,); "
            f"got {numbers.shape} and {periodic.shape}. Pass one crystal at a time."
        )
    dataset = _dataset(numbers, positions, cell, symprec)
    if dataset is None:
        return SpaceGroup.trivial(len(numbers))
    number, symbol = int(dataset.number), str(dataset.international)
    rotations, translations = np.asarray(dataset.rotations, dtype=np.int64), np.asarray(dataset.translations)
    keep = ~(rotations != 0)[:, periodic[:, None] != periodic].any(axis=1)
    if keep.sum() == 1:
        return replace(SpaceGroup.trivial(len(numbers)), number=number, symbol=symbol)
    fractional = positions @ np.linalg.inv(cell)
    tolerance = 3 * symprec  # spglib's translations, not refined yet, may add to the misfit of two atoms
    if keep.sum() > MAX_OPERATIONS and keep.sum() * len(numbers) > MAX_IMAGES:
        keep &= _site_symmetry(dataset, fractional, cell, tolerance)
    rotations, translations = rotations[keep], translations[keep]
    find = _AtomFinder(numbers, fractional, cell, tolerance)
    permutations = np.empty((len(rotations), len(numbers)), dtype=np.int64)
    valid = np.empty(len(rotations), dtype=bool)
    step = max(1, IMAGES_AT_A_TIME // len(numbers))
    for start in range(0, len(rotations), step):
        part = slice(start, start + step)
        images = fractional @ rotations[part].transpose(0, 2, 1) + translations[part, None]  # (m, N, 3)
        permutations[part] = atoms = find(images)
        bijective = (np.sort(atoms, axis=1) == np.arange(len(numbers))).all(axis=1)
        difference = images - fractional[atoms]
        shifts = np.rint(difference)
        valid[part] = bijective
        translations[part] -= (difference - shifts).mean(axis=1)
        if not periodic.all():
            # The same lattice vector for all atoms belongs to the operation; different ones are wrapping.
            valid[part] &= ~(np.ptp(shifts, axis=1) != 0)[:, ~periodic].any(axis=1)
            translations[part] -= np.where(periodic, 0.0, shifts[:, 0])
    rotations, translations, permutations = rotations[valid], translations[valid], permutations[valid]
    if not _is_group(rotations, permutations):
        return SpaceGroup.trivial(len(numbers))
    return SpaceGroup(number, symbol, rotations, translations, permutations)


def space_group_number(
    numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, symprec: float = 1e-3
) -> int:
    """Space group number, 1 to 230, of a crystal taken as periodic; 1 if it cannot be found.

    Arguments as for `find_space_group`.
    """
    dataset = _dataset(np.asarray(numbers), *_geometry(positions, cell), symprec)
    return 1 if dataset is None else int(dataset.number)


def symmetrise(
    group: SpaceGroup, positions: ArrayLike, cell: ArrayLike, new_positions: ArrayLike, new_cell: ArrayLike
) -> tuple[Floats, Floats]:
    """Project a predicted geometry onto the space group of its input.

    The deformation of the cell is split into stretch and rotation; the stretch is averaged over the point
    group and the rotation kept. The fractional displacements are averaged over all operations,
    ``u[permutations[g, k]] = mean over g of W_g u_k``. A translation of the whole crystal is kept only along
    directions that are invariant under all operations (polar axes).

    Deviations of the input from exact symmetry, within symprec, are kept; the geometry from `idealise` as
    input removes them.

    Args:
        group: Space group of the input.
        positions: Input positions in A, ``(N, 3)``.
        cell: Input lattice vectors as rows in A, ``(3, 3)``.
        new_positions: Predicted positions in A, atom k at the image nearest to input atom k, ``(N, 3)``.
        new_cell: Predicted lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        Positions ``(N, 3)`` and cell ``(3, 3)`` in A; new arrays, nothing wrapped.

    Raises:
        ShapeError: An array has the wrong shape.
        InvalidCrystalError: The prediction is not finite, or its cell is flat or inverted.
    """
    positions, cell = _geometry(positions, cell)
    new_positions, new_cell = _geometry(new_positions, new_cell)
    if not positions.shape == new_positions.shape == (group.permutations.shape[1], 3):
        raise ShapeError(
            f"positions and new_positions must be ({group.permutations.shape[1]}, 3) as in the group; "
            f"got {positions.shape} and {new_positions.shape}. Find the group of this very input."
        )
    if not np.isfinite(new_positions).all():
        raise InvalidCrystalError("the predicted positions hold NaN or infinity; they cannot be symmetrised.")
    gradient = deformation_gradient(cell, new_cell)
    if group.n_operations == 1:
        return new_positions.copy(), new_cell.copy()
    stretch, rotation = polar(gradient)
    cartesian = group.cartesian(group.point_group, cell)
    stretch = (cartesian.transpose(0, 2, 1) @ stretch @ cartesian).mean(axis=0)
    final_cell = cell @ stretch @ rotation
    fractional = new_positions @ np.linalg.inv(new_cell)
    displacement = fractional - positions @ np.linalg.inv(cell)
    mean = group.mean(displacement @ group.rotations.transpose(0, 2, 1))
    return (fractional + (mean - displacement)) @ final_cell, final_cell


def idealise(group: SpaceGroup, positions: ArrayLike, cell: ArrayLike) -> tuple[Floats, Floats]:
    """Move a crystal that has its space group within symprec to the nearest geometry that has it exactly.

    Arguments as for `symmetrise`. Returns positions ``(N, 3)`` and cell ``(3, 3)`` in A, not rotated,
    nothing wrapped. Raises ShapeError if an array has the wrong shape.
    """
    positions, cell = _geometry(positions, cell)
    fractional = positions @ np.linalg.inv(cell)
    images = fractional @ group.rotations.transpose(0, 2, 1) + group.translations[:, None]
    residual = images - fractional[group.permutations]
    ideal = _ideal_cell(group.point_group, cell)
    return (fractional + group.mean(residual - np.rint(residual))) @ ideal, ideal


class _AtomFinder:
    """Finder of the atoms of one crystal at given positions, by hashing into bins of about 1 A."""

    def __init__(self, numbers: NDArray[Any], fractional: Floats, cell: Floats, tolerance: float) -> None:
        self.fractional, self.cell, self.tolerance = fractional, cell, tolerance
        spacing = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)  # of lattice planes, (3,) A
        # Wider than twice the tolerance, so that an atom with its surroundings touches two bins an axis at
        # most; the upper limit keeps the keys of cells with huge vacuum within 64 bits.
        self.bins = np.clip(spacing / max(1.0, 2 * tolerance), 1, 4096).astype(np.int64)
        self.species = np.unique(numbers, return_inverse=True)[1].reshape(-1)
        keys = self._keys(fractional + CORNERS[:, None] * (tolerance / spacing))  # (8, N)
        entries = np.unique(keys * len(numbers) + np.arange(len(numbers)))  # one per bin touched
        self.keys, self.atoms = np.divmod(entries, len(numbers))

    def _keys(self, fractional: Floats) -> Integers:
        # The last `%` is for tiny negative coordinates, which wrap to 1.0 exactly.
        i, j, k = np.moveaxis((np.mod(fractional, 1.0) * self.bins).astype(np.int64) % self.bins, -1, 0)
        return ((self.species * self.bins[0] + i) * self.bins[1] + j) * self.bins[2] + k

    def __call__(self, images: Floats) -> Integers:
        """Atoms ``(m, N)`` nearest to images ``(m, N, 3)`` of all atoms; -1 where none is near enough."""
        keys = self._keys(images)
        first, last = (np.searchsorted(self.keys, keys, side=side) for side in ("left", "right"))
        nearest = np.full(keys.shape, -1)
        best = np.full(keys.shape, self.tolerance**2)
        for offset in range(int((last - first).max(initial=0))):
            found = np.minimum(first + offset, len(self.atoms) - 1)
            difference = images - self.fractional[self.atoms[found]]
            square = (((difference - np.rint(difference)) @ self.cell) ** 2).sum(axis=-1)
            better = (first + offset < last) & (square < best)
            nearest[better], best[better] = self.atoms[found][better], square[better]
        return nearest


def _site_symmetry(dataset: Any, fractional: Floats, cell: Floats, tolerance: float) -> NDArray[np.bool_]:
    """Operations ``(M,)`` that leave in place the atom of highest site symmetry; always a group."""
    best = np.zeros(len(dataset.rotations), dtype=bool)
    # One atom an orbit; a perfect supercell has few orbits.
    for atom in np.unique(dataset.equivalent_atoms)[:50]:
        move = dataset.rotations @ fractional[atom] + dataset.translations - fractional[atom]
        stays = np.linalg.norm((move - np.rint(move)) @ cell, axis=1) < tolerance
        best = stays if stays.sum() > best.sum() else best
    return best


def _is_group(rotations: Integers, permutations: Integers) -> bool:
    """Return whether every product of two operations is among them, which makes a finite set a group."""
    if not len(rotations):
        return False
    first, kind = _distinct(rotations)
    matrices = rotations[first]
    products = matrices[:, None] @ matrices  # (R, R, 3, 3)
    # The keys of the matrices ascend.
    product = np.searchsorted(_rotation_keys(matrices), _rotation_keys(products)).clip(max=len(matrices) - 1)
    if (matrices[product] != products).any():
        return False
    image = permutations[:, 0]  # with the rotation, the image of one atom identifies an operation
    known = np.zeros((len(matrices), permutations.shape[1]), dtype=bool)
    known[kind, image] = True
    step = max(1, IMAGES_AT_A_TIME // len(rotations))
    parts = (slice(start, start + step) for start in range(0, len(rotations), step))
    return all(known[product[kind[part]][:, kind], permutations[part][:, image]].all() for part in parts)


def _rotation_keys(rotations: Integers) -> Integers:
    """Numbers ``(...)`` that identify rotations ``(..., 3, 3)``."""
    return (rotations.reshape(*rotations.shape[:-2], 9) * DIGITS).sum(axis=-1)


def _distinct(rotations: Integers) -> tuple[Integers, Integers]:
    """First index of every different rotation, sorted by its key, and for every rotation its place there."""
    _, first, kind = np.unique(_rotation_keys(rotations), return_index=True, return_inverse=True)
    return first, kind


def _dataset(numbers: NDArray[Any], positions: Floats, cell: Floats, symprec: float) -> Any:
    """Symmetry dataset of spglib, or None if it fails."""
    # spglib kills the process on a negative symprec and on NaN.
    if not 0 < symprec < np.inf:
        raise ConfigError(f"symprec must be a positive length in A, 1e-3 for most purposes; got {symprec}.")
    finite = len(positions) and np.isfinite(positions).all() and np.isfinite(cell).all()
    if not finite or abs(determinant(cell)) < 1e-6:
        return None
    import spglib

    search: Any = spglib.get_symmetry_dataset
    # spglib 2.7 and 2.8 warn at every call without this option, which other versions do not have.
    options = {"_throw": True} if "_throw" in _parameters(search) else {}
    fractional = positions @ np.linalg.inv(cell)
    try:
        return search((cell, fractional - np.floor(fractional), numbers), symprec=symprec, **options)
    except Exception:  # any failure of spglib: the crystal is treated as P1
        return None


@cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _ideal_cell(point_group: Integers, cell: Floats) -> Floats:
    """The cell nearest to ``cell``, not rotated, whose metric has the point group exactly."""
    metric = (point_group.transpose(0, 2, 1) @ (cell @ cell.T) @ point_group).mean(axis=0)
    return cell @ polar(np.linalg.solve(cell, np.linalg.cholesky(metric)))[0]


def _geometry(positions: ArrayLike, cell: ArrayLike) -> tuple[Floats, Floats]:
    positions = np.asarray(positions, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ShapeError(f"positions must be (N, 3); got {positions.shape}. Pass one crystal at a time.")
    return positions, checked_cell(cell)
