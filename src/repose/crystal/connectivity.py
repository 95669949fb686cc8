"""Connected parts of a crystal: molecules, chains, sheets and frameworks, and the vacuum around them.

Every measure is a gap: the distance of two atoms minus the sum of their covalent radii (Cordero et al.,
Dalton Trans. 2832, 2008, as tabulated by ASE). Bonded atoms have a gap of about zero, van der Waals contacts
of 1.5 to 2.5 A, those in solid hydrogen of 3.2 A. Atoms are connected through pairs whose gap lies below a
limit. A connected component repeats along the lattice translations that its closed walks add up to: none of
them make a finite molecule, one a chain, two a sheet, three a framework.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repose.crystal.neighbours import neighbours

# A; gap of the longest covalent bond. Hydrogen bonds have 0.75 and more, contacts of iodine molecules 0.7.
BOND = 0.6
# A; gap of the longest contact between neighbours. Of 24,048 crystals of the Materials Project only four,
# with more than 200 A^3 an atom, are isolated clusters by this measure, of 33,879 hypothetical inputs none.
CONTACT = 4.0
# A; a larger gap is vacuum on purpose. Hypothetical layered crystals have up to 6 A between their layers.
VACUUM = 6.0

# Elements without which a cluster is no molecule.
NONMETALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 52, 53, 54, 85, 86)
NOBLE_GASES = (2, 10, 18, 36, 54, 86)


class Components(NamedTuple):
    """Connected components of a crystal of N atoms.

    Attributes:
        label: Component of every atom, from 0, ``(N,)``.
        translations: For every component, independent lattice translations along which it repeats, as
            integers in the basis of the cell, ``(rank, 3)``. The rank is its dimension, 0 (molecule) to 3
            (framework).
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
    """Periodic lattice vectors, letters out of ``abc``, that no translation has a part of."""
    return "".join(axis for k, axis in enumerate("abc") if pbc[k] and not span[:, k].any())


def components(
    numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any], gap: float
) -> Components:
    """Connect atoms through pairs with less than a gap between them.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
        gap: Largest distance minus the sum of covalent radii, A.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    first, second, shift, _ = pairs(numbers, positions, cell, pbc, gap)
    n = len(numbers)
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n, n)).tocsr()
    count, label = connected_components(graph, directed=False)
    # A cell offset for every atom along a spanning tree; a pair that disagrees with it closes a walk around
    # the lattice.
    step = dict(zip(zip(first.tolist(), second.tolist(), strict=True), shift, strict=True))
    offset = np.zeros((n, 3), dtype=np.int64)
    for root in np.unique(label, return_index=True)[1]:
        order, parent = breadth_first_order(graph, root)
        for atom in order[1:].tolist():
            offset[atom] = offset[parent[atom]] + step[int(parent[atom]), atom]
    closed = offset[first] + shift - offset[second]
    around = closed.any(axis=1)
    closed, owner = closed[around], label[first[around]]
    return Components(
        label.astype(np.int64), [independent(np.unique(closed[owner == k], axis=0)) for k in range(count)]
    )


def pairs(
    numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any], gap: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of atoms with less than a gap between them, each in both directions.

    Arguments as for `components`.

    Returns:
        Atoms i ``(E,)`` and j ``(E,)``, cells that j is shifted by ``(E, 3)``, for atoms as they are written,
        and the gaps in A ``(E,)``.
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

    A single ion or metal atom without bonds is not a molecule: expanded salts and metals consist of these.
    """
    if len(bonded.span):
        return False
    several = np.bincount(bonded.label) > 1
    nonmetal = np.bincount(bonded.label, np.isin(numbers, NONMETALS)) > 0
    noble = np.bincount(bonded.label, np.isin(numbers, NOBLE_GASES)) > 0
    return bool((several & nonmetal | noble).all())
