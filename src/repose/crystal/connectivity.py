"""Connected parts of a crystal: molecules, chains, sheets and frameworks, and the vacuum around them.

The gap of two atoms is their distance minus the sum of their covalent radii (Cordero et al., Dalton Trans.
2832, 2008, as tabulated by ASE): about zero for bonds, 1.5 to 2.5 A for van der Waals contacts, 3.2 A in
solid hydrogen. Pairs with a gap below a limit connect atoms. Closed paths in a connected component add up to
lattice translations, along which it is periodic. The number of independent translations is its dimension:
0 for a molecule, 1 for a chain, 2 for a sheet, 3 for a framework.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repose.crystal.neighbours import neighbours

# A; largest gap of a covalent bond. Hydrogen bonds have at least 0.75, contacts of iodine molecules 0.7.
BOND = 0.6
# A; largest gap of a contact between neighbours. With it four of 24,048 crystals of the Materials Project
# (more than 200 A^3 per atom) and none of 33,879 hypothetical crystals count as isolated clusters.
CONTACT = 4.0
# A; a larger gap is vacuum. Hypothetical layered crystals have up to 6 A between their layers.
VACUUM = 6.0

# A molecule of several atoms contains at least one of these.
NONMETALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 52, 53, 54, 85, 86)
NOBLE_GASES = (2, 10, 18, 36, 54, 86)


class Components(NamedTuple):
    """Connected components of a crystal of N atoms.

    Attributes:
        label: Component of every atom, from 0, ``(N,)``.
        translations: For every component, independent lattice translations along which it is periodic, as
            integers in the basis of the cell, ``(dimension, 3)``.
    """

    label: NDArray[np.int64]
    translations: list[NDArray[np.int64]]

    @property
    def span(self) -> NDArray[np.int64]:
        """Independent translations of all components together, ``(rank, 3)``."""
        return independent(np.concatenate(self.translations))


class Layout(NamedTuple):
    """Molecules and vacuum in the cell of a crystal.

    Attributes:
        isolated: The atoms form finite clusters far from each other and from their periodic images.
        molecular: The atoms form finite molecules, at any distance.
        empty: Periodic lattice vectors, letters out of ``abc``, along which there is vacuum.
        wide: Periodic lattice vectors with a gap that is larger than a contact and smaller than vacuum.
        oblique: There is vacuum along a direction that is not a lattice vector.
    """

    isolated: bool = False
    molecular: bool = False
    empty: str = ""
    wide: str = ""
    oblique: bool = False


def layout(numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any]) -> Layout:
    """Classify a crystal: bulk, molecules, or with vacuum.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
    """
    crystal = numbers, positions, cell, pbc
    bonded = components(*crystal, BOND)
    if len(bonded.span) == np.sum(pbc):
        return Layout()
    molecular = _molecular(numbers, bonded)
    if not len(bonded.span) and not len(components(*crystal, CONTACT).span):
        return Layout(isolated=True, molecular=molecular)
    span = components(*crystal, VACUUM).span
    empty = _without(span, pbc)
    wide = "".join(axis for axis in _without(components(*crystal, CONTACT).span, pbc) if axis not in empty)
    oblique = bool(len(span) + len(empty) < np.sum(pbc))
    return Layout(molecular=molecular, empty=empty, wide=wide, oblique=oblique)


def _without(span: NDArray[np.int64], pbc: NDArray[Any]) -> str:
    """Periodic lattice vectors, letters out of ``abc``, along which no translation has a component."""
    return "".join(axis for k, axis in enumerate("abc") if pbc[k] and not span[:, k].any())


def components(
    numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any], gap: float
) -> Components:
    """Connect atoms through pairs whose gap is below ``gap`` in A; other arguments as for `layout`."""
    first, second, shift, _ = pairs(numbers, positions, cell, pbc, gap)
    root, offset = _trees(len(numbers), first, second, shift)
    # Pairs that do not match the offsets close a path to a periodic image.
    closed = offset[first] + shift - offset[second]
    around = closed.any(axis=1)
    roots, label = np.unique(root, return_inverse=True)
    closed, owner = closed[around], label[first[around]]
    return Components(label, [independent(np.unique(closed[owner == k], axis=0)) for k in range(len(roots))])


def _trees(
    n: int, first: NDArray[np.int64], second: NDArray[np.int64], shift: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spanning trees of connected components, whose pairs are as from `pairs`.

    Returns:
        For every atom the first atom of its component, the root of its tree, ``(n,)``; and the cell offset of
        the image that the tree connects to the root, ``(n, 3)``.
    """
    order = np.argsort(first, kind="stable")
    first, second, shift = first[order], second[order], shift[order]
    atoms, starts = np.unique(first, return_index=True)
    root, offset = np.arange(n), np.zeros((n, 3), dtype=np.int64)
    while len(first):
        # Every atom joins the neighbour with the smallest root: one step along all trees at once.
        candidates = root[second] * len(first) + np.arange(len(first))
        least, chosen = np.divmod(np.minimum.reduceat(candidates, starts), len(first))
        joins = least < root[atoms]
        if not joins.any():
            break
        joining, chosen = atoms[joins], chosen[joins]
        offset[joining] = offset[second[chosen]] - shift[chosen]
        root[joining] = least[joins]
    return root, offset


def pairs(
    numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any], gap: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of atoms whose gap is below ``gap``, each in both directions; arguments as for `components`.

    Returns:
        Atoms i ``(E,)`` and j ``(E,)``, cell shifts of j for positions as given ``(E, 3)``, and gaps in A
        ``(E,)``.
    """
    from ase.data import covalent_radii

    radii = covalent_radii[numbers]
    first, second, shift, distance = neighbours(positions, cell, pbc, 2 * float(radii.max()) + gap)
    found = distance - radii[first] - radii[second]
    near = found < gap
    first, second = first[near], second[near]
    return first, second, np.rint(shift[near]).astype(np.int64), found[near]


def independent(vectors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return linearly independent vectors of ``(M, 3)``, short ones first, ``(rank, 3)``."""
    vectors = vectors[np.argsort(np.abs(vectors).sum(axis=1), kind="stable")]
    first = vectors[vectors.any(axis=1)][:1]
    if not len(first):
        return first
    normals = np.cross(first, vectors)
    second = vectors[normals.any(axis=1)][:1]
    if not len(second):
        return first
    third = vectors[vectors @ np.cross(first[0], second[0]) != 0][:1]
    return np.concatenate([first, second, third])


def _molecular(numbers: NDArray[Any], bonded: Components) -> bool:
    """Return whether all components are finite molecules: several atoms with a nonmetal, or a noble gas atom.

    Single ions and metal atoms, as in strongly expanded salts and metals, are not molecules.
    """
    if len(bonded.span):
        return False
    several = np.bincount(bonded.label) > 1
    nonmetal = np.bincount(bonded.label, np.isin(numbers, NONMETALS)) > 0
    noble = np.bincount(bonded.label, np.isin(numbers, NOBLE_GASES)) > 0
    return bool((several & nonmetal | noble).all())
