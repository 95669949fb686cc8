"""Which site of one crystal is which site of another of the same structure type, whatever elements sit there.

Two crystals are of one type here if a change of basis, a rigid shift, a change of volume and small
displacements turn one into the other so that atoms of one element land on atoms of one element.
Cells hold lattice vectors as ROWS in A: ``cartesian = fractional @ cell``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from repose.crystal.symmetry import find_space_group

# How far atoms of a larger cell may be from exact copies of each other for it to be reduced (A).
PRIMITIVE = 0.01
# Relaxed atoms sit this near to the places that symmetry gives them (A).
SYMPREC = 0.1
# Lattices of one type differ by less in the lengths of their vectors (relative, at equal volume) and in
# their angles (degrees): pymatgen's StructureMatcher has the same bounds.
LENGTHS, ANGLES = 0.2, 5.0
# Largest misfit (see `misfit`) of two crystals of one type; also pymatgen's.
SAME_TYPE = 0.3
# Sites may be exchanged where that costs no more than this: they then have the same surroundings.
SAME_SITES = 0.1
# A mapping this good needs no better.
GOOD = 0.03
# Distances in hand at one time: bounds the memory, some 50 MB.
DISTANCES = 1_000_000


@dataclass(frozen=True, eq=False)
class Sites:
    """A crystal of n atoms.

    Attributes:
        numbers: Atomic numbers, ``(n,)``.
        fractional: Fractional coordinates, not wrapped, ``(n, 3)``.
        cell: Rows, A, ``(3, 3)``.
    """

    numbers: np.ndarray
    fractional: np.ndarray
    cell: np.ndarray

    @cached_property
    def classes(self) -> np.ndarray:
        """Which atoms are of one element, by increasing atomic number: 0, 1, ..., ``(n,)``."""
        return np.unique(self.numbers, return_inverse=True)[1]

    @property
    def spacing(self) -> float:
        """Cube root of the volume per atom, A."""
        return float((abs(np.linalg.det(self.cell)) / len(self.numbers)) ** (1 / 3))


@dataclass(frozen=True, eq=False)
class Mapping:
    """A change of basis, order, origin and images that lays a crystal onto another.

    Attributes:
        basis: Rows of the new cell in terms of the old, whole numbers of determinant 1 or -1, ``(3, 3)``.
        order: Old atom that becomes atom k, ``(n,)``.
        shift: Added to the fractional coordinates in the new basis, ``(n, 3)``.
        misfit: See `misfit`.
    """

    basis: np.ndarray
    order: np.ndarray
    shift: np.ndarray
    misfit: float

    def apply(self, sites: Sites) -> Sites:
        """The crystal as the other one is written."""
        fractional = sites.fractional[self.order] @ np.linalg.inv(self.basis) + self.shift
        return Sites(sites.numbers[self.order], fractional, self.basis @ sites.cell)

    def undo(self, sites: Sites) -> Sites:
        """The inverse of `apply`, for any crystal written like the other one."""
        back = np.argsort(self.order)
        fractional = ((sites.fractional - self.shift) @ self.basis)[back]
        return Sites(sites.numbers[back], fractional, np.linalg.solve(self.basis, sites.cell))


def primitive(sites: Sites) -> Sites:
    """The crystal in a primitive cell; itself, untouched, where its cell is one already."""
    import spglib

    if np.gcd.reduce(np.bincount(sites.classes)) == 1:
        return sites  # one formula unit
    wrapped = sites.fractional - np.floor(sites.fractional)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, of its own internals
        try:
            crystal: Any = (sites.cell, wrapped, sites.numbers)
            found = spglib.standardize_cell(crystal, to_primitive=True, no_idealize=True, symprec=PRIMITIVE)
        except Exception:  # whatever spglib dislikes
            found = None
    if found is None or len(found[2]) >= len(sites.numbers):
        return sites
    cell, fractional, numbers = found
    return Sites(np.asarray(numbers, dtype=np.int64), np.asarray(fractional), np.asarray(cell))


def fingerprint(sites: Sites) -> tuple[str, int, tuple[tuple[int, ...], ...]]:
    """What crystals of one type share, found at little cost.

    Args:
        sites: In a primitive cell.

    Returns:
        Formula of the cell with letters for elements, the rarest first (``"ABC3"``); space group number
        within 0.1 A; for every element the sizes of its orbits, sorted.
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
    formula = "".join(f"{_letter(k)}{count if count > 1 else ''}" for k, count in enumerate(counts))
    return formula, group.number, tuple(sorted(sizes))


def _letter(k: int) -> str:
    """A to Z, then A', B', ...: as many elements as there may be."""
    return chr(ord("A") + k % 26) + "'" * (k // 26)


def reduced(sites: Sites) -> Sites:
    """The crystal in the shortest lattice vectors (Minkowski)."""
    from ase.geometry import minkowski_reduce

    cell, basis = minkowski_reduce(sites.cell)
    return Sites(sites.numbers, sites.fractional @ np.linalg.inv(basis), np.asarray(cell))


def misfit(reference: Sites, other: Sites) -> float:
    """How much two crystals of the same volume per atom would differ, atom by atom as they are written.

    Returns:
        Square root of the mean squared displacement without its mean, in units of `Sites.spacing`, squared
        and added to the squared norm of the strain: what neighbours one spacing apart move by.
    """
    return float(_misfits(reference, other.fractional[None], other.cell[None])[0])


def _misfits(reference: Sites, fractional: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The `misfit` of T crystals ``(T, n, 3)``, ``(T, 3, 3)``."""
    moved = fractional - reference.fractional
    scaled = _mean_cell(reference.cell, cells) * np.cbrt(len(reference.numbers))
    moved = (moved - moved.mean(axis=1, keepdims=True)) @ scaled
    stretches = np.linalg.svd(np.linalg.solve(reference.cell, cells), compute_uv=False)  # (T, 3)
    strain = stretches / np.cbrt(stretches.prod(axis=1, keepdims=True)) - 1
    return np.sqrt((moved**2).sum(axis=2).mean(axis=1) + (strain**2).sum(axis=1))


def best_mapping(reference: Sites, other: Sites) -> Mapping | None:
    """The mapping of one crystal onto another of its type with the least misfit; None if it is of another."""
    best: Mapping | None = None
    for found in mappings(reference, other, SAME_TYPE):
        if best is None or found.misfit < best.misfit:
            best = found
        if best.misfit < GOOD:
            break
    return best


def mappings(reference: Sites, other: Sites, tolerance: float) -> Iterator[Mapping]:
    """Find the ways of laying one crystal onto another so that elements land on elements, one on one.

    Changes of basis come from the lattices alone (pymatgen). For each, an atom of the rarest kind tries every
    place of a kind equally rare, and atoms are assigned by distance whatever their element; assignments
    that mix elements are dropped. Improper changes of basis count: a crystal and its mirror image have the
    same energy.

    Args:
        reference: In a primitive, `reduced` cell.
        other: In a primitive cell.
        tolerance: Largest `misfit`.

    Yields:
        Mappings of ``other`` onto ``reference``, in no order.
    """
    n = len(reference.numbers)
    counts, other_counts = (np.bincount(sites.classes) for sites in (reference, other))
    if len(other.numbers) != n or not np.array_equal(np.sort(counts), np.sort(other_counts)):
        return
    host = int(np.argmin(counts[reference.classes]))
    guests = np.flatnonzero(other_counts[other.classes] == counts.min())
    trials = [(basis, guest) for basis in _bases(reference, other) for guest in guests]
    step = max(1, DISTANCES // n**2)
    for start in range(0, len(trials), step):
        bases, tried = map(np.array, zip(*trials[start : start + step], strict=True))  # (T, 3, 3), (T,)
        fractional = other.fractional @ np.linalg.inv(bases)  # (T, n, 3)
        cells = bases @ other.cell
        order, places = _assign(
            reference.fractional,
            fractional,
            fractional[np.arange(len(tried)), tried] - reference.fractional[host],
            _mean_cell(reference.cell, cells),
        )
        met = np.flatnonzero(_elements_meet_elements(reference.classes, other.classes[order]))
        for t, found in zip(met, _misfits(reference, places[met], cells[met]), strict=True):
            if found <= tolerance:
                yield Mapping(bases[t], order[t], places[t] - fractional[t, order[t]], float(found))


def _bases(reference: Sites, other: Sites) -> Iterator[np.ndarray]:
    """Changes of basis that make the other lattice like the reference's."""
    from pymatgen.core import Lattice

    mine, theirs = (Lattice(sites.cell / sites.spacing) for sites in (reference, other))
    for _, _, basis in theirs.find_all_mappings(mine, LENGTHS, ANGLES, skip_rotation_matrix=True):
        if round(abs(np.linalg.det(basis))) == 1:
            yield np.rint(basis)


def _assign(
    reference: np.ndarray, fractional: np.ndarray, origins: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms nearest to those of the reference, one on one, for T trial bases and origins.

    Args:
        reference: Fractional coordinates, ``(n, 3)``.
        fractional: Of the other crystal in every basis, ``(T, n, 3)``.
        origins: To be subtracted from them, ``(T, 3)``.
        cells: That measure distances, ``(T, 3, 3)``.

    Returns:
        Order ``(T, n)``, and fractional coordinates in that order, in the images nearest to the reference and
        without drift, ``(T, n, 3)``.
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
    # The guest alone may be off its place: the mean of all atoms is a better origin.
    for _ in range(2):
        order, placed, drift = nearest(drift)
    return order, placed - drift[:, None]


def _elements_meet_elements(classes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of trials ``(T, n)``, those where every class meets one class alone; both sides have as many."""
    kinds = classes.max() + 1
    met = np.sort(classes * kinds + others, axis=1)
    return (np.diff(met, axis=1) != 0).sum(axis=1) + 1 == kinds


def _mean_cell(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A cell whose metric is the mean of both at a volume of one each; its orientation is its own."""
    metrics = []
    for cell in (first, second):
        cell = cell / np.cbrt(np.abs(np.linalg.det(cell)))[..., None, None]
        metrics.append(cell @ np.swapaxes(cell, -1, -2))
    return np.linalg.cholesky((metrics[0] + metrics[1]) / 2)
