"""Structure types: mappings of the sites of one crystal onto those of another, regardless of elements.

Two crystals have the same structure type if a change of basis, a rigid shift, a change of volume and small
displacements map one onto the other, and atoms of one element onto atoms of one element.
Cells hold lattice vectors as ROWS in A: ``cartesian = fractional @ cell``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from repose.crystal.symmetry import find_space_group

# Tolerance of translations in the reduction to a primitive cell (A).
PRIMITIVE_TOLERANCE = 0.01
# Tolerance of the symmetry of relaxed crystals (A).
SYMPREC = 0.1
# Tolerances of lattices of one type: relative lengths of the vectors at equal volume, and angles (degrees);
# the defaults of pymatgen's StructureMatcher.
LENGTH_TOLERANCE, ANGLE_TOLERANCE = 0.2, 5.0
# Largest misfit (see `misfit`) of two crystals of one type; the default of StructureMatcher.
SAME_TYPE = 0.3
# Largest misfit of a mapping that exchanges equivalent sites of a crystal.
SAME_SITES = 0.1
# Below this misfit, the search for a better mapping stops.
GOOD_MISFIT = 0.03
# Number of distances in memory at a time, some 50 MB.
MAX_DISTANCES = 1_000_000


@dataclass(frozen=True, eq=False)
class Sites:
    """A crystal of n atoms.

    Attributes:
        numbers: Atomic numbers, ``(n,)``.
        fractional: Fractional coordinates, not wrapped, ``(n, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
    """

    numbers: np.ndarray
    fractional: np.ndarray
    cell: np.ndarray

    @cached_property
    def classes(self) -> np.ndarray:
        """Index of the element of every atom, by increasing atomic number: 0, 1, ..., ``(n,)``."""
        return np.unique(self.numbers, return_inverse=True)[1]

    @property
    def spacing(self) -> float:
        """Cube root of the volume per atom, A."""
        return float((abs(np.linalg.det(self.cell)) / len(self.numbers)) ** (1 / 3))


@dataclass(frozen=True, eq=False)
class Mapping:
    """A change of basis, order, origin and periodic images that maps a crystal onto another.

    Attributes:
        basis: Vectors of the new cell as rows in the old basis, integers of determinant 1 or -1, ``(3, 3)``.
        order: Index of the old atom that becomes atom k, ``(n,)``.
        shift: Fractional shift in the new basis, ``(n, 3)``.
        misfit: See `misfit`.
    """

    basis: np.ndarray
    order: np.ndarray
    shift: np.ndarray
    misfit: float

    def apply(self, sites: Sites) -> Sites:
        """Return the crystal in the basis, order and origin of the other one."""
        fractional = sites.fractional[self.order] @ np.linalg.inv(self.basis) + self.shift
        return Sites(sites.numbers[self.order], fractional, self.basis @ sites.cell)

    def undo(self, sites: Sites) -> Sites:
        """Apply the inverse mapping to a crystal in the basis, order and origin of the other one."""
        back = np.argsort(self.order)
        fractional = ((sites.fractional - self.shift) @ self.basis)[back]
        return Sites(sites.numbers[back], fractional, np.linalg.solve(self.basis, sites.cell))


def primitive(sites: Sites) -> Sites:
    """Return the crystal in a primitive cell; the same object if its cell is primitive."""
    import spglib

    if np.gcd.reduce(np.bincount(sites.classes)) == 1:
        return sites  # one formula unit
    wrapped = sites.fractional - np.floor(sites.fractional)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of spglib
        try:
            crystal: Any = (sites.cell, wrapped, sites.numbers)
            found = spglib.standardize_cell(
                crystal, to_primitive=True, no_idealize=True, symprec=PRIMITIVE_TOLERANCE
            )
        except Exception:  # spglib may raise any error
            found = None
    if found is None or len(found[2]) >= len(sites.numbers):
        return sites
    cell, fractional, numbers = found
    return Sites(np.asarray(numbers, dtype=np.int64), np.asarray(fractional), np.asarray(cell))


def fingerprint(sites: Sites) -> tuple[str, int, tuple[tuple[int, ...], ...]]:
    """Return properties that all crystals of one type have in common, at little cost.

    Args:
        sites: In a primitive cell.

    Returns:
        Formula of the cell with letters for elements, the rarest first (``"ABC3"``); space group number
        within 0.1 A; sorted sizes of the orbits of every element.
    """
    group = find_space_group(
        sites.numbers, sites.fractional @ sites.cell, sites.cell, [True] * 3, symprec=SYMPREC
    )
    orbits = group.permutations.min(axis=0)
    sizes = [
        tuple(np.sort(np.unique(orbits[sites.numbers == z], return_counts=True)[1]).tolist())
        for z in np.unique(sites.numbers)
    ]
    counts = sorted(sum(size) for size in sizes)
    letters = [chr(ord("A") + k % 26) + "'" * (k // 26) for k in range(len(counts))]
    formula = "".join(f"{letter}{n if n > 1 else ''}" for letter, n in zip(letters, counts, strict=True))
    return formula, group.number, tuple(sorted(sizes))


def reduced(sites: Sites) -> Sites:
    """Return the crystal with Minkowski-reduced lattice vectors."""
    from ase.geometry import minkowski_reduce

    cell, basis = minkowski_reduce(sites.cell)
    return Sites(sites.numbers, sites.fractional @ np.linalg.inv(basis), np.asarray(cell))


def misfit(reference: Sites, other: Sites) -> float:
    """Return the misfit of two crystals of the same volume per atom, with atoms in the same order.

    Returns:
        Square root of the sum of the mean squared displacement, without its mean and in units of
        `Sites.spacing`, and the squared norm of the strain.
    """
    return float(_misfits(reference, other.fractional[None], other.cell[None])[0])


def _misfits(reference: Sites, fractional: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the `misfit` of T crystals ``(T, n, 3)``, ``(T, 3, 3)``."""
    moved = fractional - reference.fractional
    scaled = _mean_cell(reference.cell, cells) * np.cbrt(len(reference.numbers))
    moved = (moved - moved.mean(axis=1, keepdims=True)) @ scaled
    stretches = np.linalg.svd(np.linalg.solve(reference.cell, cells), compute_uv=False)  # (T, 3)
    strain = stretches / np.cbrt(stretches.prod(axis=1, keepdims=True)) - 1
    return np.sqrt((moved**2).sum(axis=2).mean(axis=1) + (strain**2).sum(axis=1))


def best_mapping(references: Sequence[Sites], other: Sites) -> tuple[int, Mapping] | None:
    """Return the mapping of a crystal with the least misfit, after the index of its reference; or None."""
    best: tuple[int, Mapping] | None = None
    for index, reference in enumerate(references):
        for found in mappings(reference, other, SAME_TYPE):
            if best is None or found.misfit < best[1].misfit:
                best = index, found
            if best[1].misfit < GOOD_MISFIT:
                return best
    return best


def mappings(reference: Sites, other: Sites, tolerance: float) -> Iterator[Mapping]:
    """Find mappings of one crystal onto another that map each element onto one element.

    Changes of basis are the mappings of the lattices (pymatgen), also improper ones: a crystal and its mirror
    image have the same energy. For each basis, an atom of the rarest element is tried at every site of an
    equally rare element, and atoms are assigned by distance regardless of elements. Assignments that mix
    elements are dropped.

    Args:
        reference: In a primitive, `reduced` cell.
        other: In a primitive cell.
        tolerance: Largest `misfit`.

    Yields:
        Mappings of ``other`` onto ``reference``, in no particular order.
    """
    n = len(reference.numbers)
    counts, other_counts = (np.bincount(sites.classes) for sites in (reference, other))
    if len(other.numbers) != n or not np.array_equal(np.sort(counts), np.sort(other_counts)):
        return
    rarest = int(np.argmin(counts[reference.classes]))
    candidates = np.flatnonzero(other_counts[other.classes] == counts.min())
    trials = [(basis, atom) for basis in _bases(reference, other) for atom in candidates]
    step = max(1, MAX_DISTANCES // n**2)
    for start in range(0, len(trials), step):
        bases, atoms = map(np.array, zip(*trials[start : start + step], strict=True))  # (T, 3, 3), (T,)
        fractional = other.fractional @ np.linalg.inv(bases)  # (T, n, 3)
        cells = bases @ other.cell
        order, placed = _assign(
            reference.fractional,
            fractional,
            fractional[np.arange(len(atoms)), atoms] - reference.fractional[rarest],
            _mean_cell(reference.cell, cells),
        )
        matched = np.flatnonzero(_match_elements(reference.classes, other.classes[order]))
        for t, found in zip(matched, _misfits(reference, placed[matched], cells[matched]), strict=True):
            if found <= tolerance:
                yield Mapping(bases[t], order[t], placed[t] - fractional[t, order[t]], float(found))


def _bases(reference: Sites, other: Sites) -> Iterator[np.ndarray]:
    """Yield changes of basis that map the other lattice onto that of the reference."""
    from pymatgen.core import Lattice

    target, lattice = (Lattice(sites.cell / sites.spacing) for sites in (reference, other))
    for _, _, basis in lattice.find_all_mappings(
        target, LENGTH_TOLERANCE, ANGLE_TOLERANCE, skip_rotation_matrix=True
    ):
        if round(abs(np.linalg.det(basis))) == 1:
            yield np.rint(basis)


def _assign(
    reference: np.ndarray, fractional: np.ndarray, origins: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Assign atoms one to one to the nearest atoms of the reference, for T trial bases and origins.

    Args:
        reference: Fractional coordinates, ``(n, 3)``.
        fractional: Those of the other crystal in every basis, ``(T, n, 3)``.
        origins: Origins to subtract from them, ``(T, 3)``.
        cells: Cells for distances, ``(T, 3, 3)``.

    Returns:
        Order ``(T, n)``, and fractional coordinates in that order, in the images nearest to the reference and
        without mean displacement, ``(T, n, 3)``.
    """
    from scipy.optimize import linear_sum_assignment

    trials, atoms = np.arange(len(fractional))[:, None], np.arange(len(reference))

    def nearest(origins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        delta = fractional[:, None] - origins[:, None, None] - reference[:, None]  # (T, n, n, 3)
        images = np.rint(delta)
        squared = (((delta - images) @ cells[:, None]) ** 2).sum(axis=-1)
        order = squared.argmin(axis=-1)
        for t in np.flatnonzero((np.sort(order) != atoms).any(axis=1)):
            order[t] = linear_sum_assignment(squared[t])[1]
        placed = fractional[trials, order] - images[trials, atoms, order]
        return order, placed, (placed - reference).mean(axis=1)

    order, placed, drift = nearest(origins)
    # One atom is a rough origin; the mean displacement of all atoms is a better one.
    for _ in range(2):
        order, placed, drift = nearest(drift)
    return order, placed - drift[:, None]


def _match_elements(classes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether each class is assigned to exactly one class, for T trials ``(T, n)``."""
    count = classes.max() + 1
    pairs = np.sort(classes * count + others, axis=1)
    return (np.diff(pairs, axis=1) != 0).sum(axis=1) + 1 == count


def _mean_cell(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a cell of any orientation whose metric is the mean of both, each at a volume of one."""
    metrics = []
    for cell in (first, second):
        cell = cell / np.cbrt(np.abs(np.linalg.det(cell)))[..., None, None]
        metrics.append(cell @ np.swapaxes(cell, -1, -2))
    return np.linalg.cholesky((metrics[0] + metrics[1]) / 2)
