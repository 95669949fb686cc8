"""Connected parts of a crystal: molecules, chains, sheets and frameworks, and the vacuum around them.

The gap of two atoms is their distance minus the sum of their covalent radii (Cordero et al., Dalton Trans.
2832, 2008, as tabulated by ASE): about zero for bonds, 1.5 to 2.5 A for van der Waals contacts, 3.2 A in
solid hydrogen. Pairs with a gap below a limit connect atoms. Closed paths in a connected component add up to
lattice translations, along which it is periodic. The number of independent translations is its dimension:
0 for a molecule, 1 for a chain, 2 for a sheet, 3 for a framework.
"""

from __future__ import annotations

from operator import mul
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repose.crystal.neighbours import Neighbours, neighbours

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
        one, *others = self.translations
        return independent(np.concatenate(self.translations)) if others else one


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


def layout(
    numbers: NDArray[Any],
    positions: NDArray[Any],
    cell: NDArray[Any],
    pbc: NDArray[Any],
    near: Neighbours | None = None,
) -> Layout:
    """Classify a crystal: bulk, molecules, or with vacuum.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
        near: Its `candidates`, if they are known.
    """
    crystal = numbers, positions, cell, pbc
    bonded = components(*crystal, BOND, near)
    if len(bonded.span) == np.sum(pbc):
        return Layout()
    molecular = _molecular(numbers, bonded)
    touching = components(*crystal, CONTACT).span
    if not len(touching):
        return Layout(isolated=True, molecular=molecular)
    if len(touching) == np.sum(pbc):
        return Layout(molecular=molecular)
    span = components(*crystal, VACUUM).span
    empty = _without(span, pbc)
    wide = "".join(axis for axis in _without(touching, pbc) if axis not in empty)
    oblique = bool(len(span) + len(empty) < np.sum(pbc))
    return Layout(molecular=molecular, empty=empty, wide=wide, oblique=oblique)


def _without(span: NDArray[np.int64], pbc: NDArray[Any]) -> str:
    """Periodic lattice vectors, letters out of ``abc``, along which no translation has a component."""
    return "".join(axis for k, axis in enumerate("abc") if pbc[k] and not span[:, k].any())


def components(
    numbers: NDArray[Any],
    positions: NDArray[Any],
    cell: NDArray[Any],
    pbc: NDArray[Any],
    gap: float,
    near: Neighbours | None = None,
) -> Components:
    """Connect atoms through pairs whose gap is below ``gap`` in A; other arguments as for `layout`."""
    first, second, shift, _ = pairs(numbers, positions, cell, pbc, gap, near)
    label, offset = _trees(len(numbers), first, second, shift)
    # Pairs that do not match the offsets close a path to a periodic image.
    closed = offset[first] + shift - offset[second]
    owner = label[first]
    return Components(label, [independent(closed[owner == k]) for k in range(int(label.max()) + 1)])


def _trees(
    n: int, first: NDArray[np.int64], second: NDArray[np.int64], shift: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spanning trees of connected components, whose pairs are as from `pairs`.

    Returns:
        Component of every atom, from 0, ``(n,)``; and the cell offset of its image that the tree connects to
        the first atom of the component, ``(n, 3)``.
    """
    steps: list[list[tuple[int, list[int]]]] = [[] for _ in range(n)]
    for atom, other, cells in zip(first.tolist(), second.tolist(), shift.tolist(), strict=True):
        steps[atom].append((other, cells))
    label, offset = [-1] * n, [(0, 0, 0)] * n
    count = 0
    for root in range(n):
        if label[root] >= 0:
            continue
        label[root], found = count, [root]
        for atom in found:  # grows
            a, b, c = offset[atom]
            for other, (x, y, z) in steps[atom]:
                if label[other] < 0:
                    label[other], offset[other] = count, (a + x, b + y, c + z)
                    found.append(other)
        count += 1
    return np.array(label), np.array(offset)


def candidates(
    numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any], gap: float = BOND
) -> Neighbours:
    """All pairs that may have a gap below ``gap``, by the largest radius; arguments as for `components`."""
    from ase.data import covalent_radii

    return neighbours(positions, cell, pbc, 2 * float(covalent_radii[numbers].max()) + gap)


def pairs(
    numbers: NDArray[Any],
    positions: NDArray[Any],
    cell: NDArray[Any],
    pbc: NDArray[Any],
    gap: float,
    near: Neighbours | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of atoms whose gap is below ``gap``, each in both directions; arguments as for `components`.

    Returns:
        Atoms i ``(E,)`` and j ``(E,)``, cell shifts of j for positions as given ``(E, 3)``, and gaps in A
        ``(E,)``.
    """
    from ase.data import covalent_radii

    radii = covalent_radii[numbers]
    first, second, shift, distance = near or candidates(numbers, positions, cell, pbc, gap)
    found = distance - radii[first] - radii[second]
    close = found < gap
    return first[close], second[close], np.rint(shift[close]).astype(np.int64), found[close]


def independent(vectors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return linearly independent vectors of ``(M, 3)``, short ones first, ``(rank, 3)``."""
    found = list[tuple[int, ...]]()
    # In plain Python, which is faster for a dozen different vectors.
    for vector in sorted(set(map(tuple, vectors.tolist())), key=lambda v: (sum(map(abs, v)), v)):
        if len(found) == 2:
            new = sum(map(mul, _cross(*found), vector))
        else:
            new = any(_cross(found[0], vector) if found else vector)
        found += [vector] if new else []
        if len(found) == 3:
            break
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _cross(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int, int]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


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
