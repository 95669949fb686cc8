"""Geometry of ideal monolayers: bond lengths from radii, and builders of sheets.

A monolayer is periodic along a and b, which lie in the xy plane, and has vacuum along c, which is z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repose.data.generate.slabs import in_vacuum

if TYPE_CHECKING:
    from ase import Atoms

# Elements of a sheet by role.
Symbols = tuple[str, ...]
# From the elements a lattice constant and further lengths that a builder asks for, A.
Measures = Callable[[Symbols], tuple[float, tuple[float, ...]]]
Builder = Callable[[Symbols], "Atoms"]

# Charge of an anion, without its sign.
CHARGE = {
    **dict.fromkeys(("F", "Cl", "Br", "I"), 1),
    **dict.fromkeys(("O", "S", "Se", "Te"), 2),
    **dict.fromkeys(("N", "P", "As", "Sb"), 3),
    **dict.fromkeys(("C", "Si", "Ge", "Sn"), 4),
}
# Elements without bond-valence parameters: (r, c), r such that PtS2, PtSe2 and PtTe2 come out right.
MISSING = {"Pt": (1.33, 1.5), "Os": (1.34, 1.5), "Au": (1.35, 1.5)}

HEXAGONAL = np.array([[1.0, 0.0], [-0.5, 0.75**0.5]])
SQUARE = np.eye(2)
# Fractional sites of a plane's atoms: A, B, C in a hexagonal lattice; P, Q, R in a square one.
SITES = {
    "A": ((0.0, 0.0),),
    "B": ((1 / 3, 2 / 3),),
    "C": ((2 / 3, 1 / 3),),
    "P": ((0.0, 0.0), (0.5, 0.5)),
    "Q": ((0.0, 0.5),),
    "R": ((0.5, 0.0),),
}
# A bond climbs by at least this share of its length from plane to plane, also where the planes are too wide
# for it: it is then longer than the radii say.
LEAST_RISE = 0.3
# Anions of edge-sharing octahedra stand this much farther from an empty octahedron than in close packing;
# in CrI3 5%. Where a pair of atoms fills it, they follow the pair within these bounds, as fractions of a.
OUTWARD = 1.05 / 3
OUTWARD_RANGE = (0.29, 0.39)


@cache
def ionic_bond(cation: str, anion: str, neighbours: float) -> float:
    """Length of a bond in A, by bond valence.

    O'Keeffe and Brese, J. Am. Chem. Soc. 113, 3226 (1991): from two parameters an element and the valence of
    the bond, which is here the anion's charge shared among its neighbours.

    Args:
        cation: Symbol.
        anion: Symbol; one of `CHARGE`.
        neighbours: Cations around the anion.
    """
    (r1, c1), (r2, c2) = _parameters(cation), _parameters(anion)
    length = r1 + r2 - r1 * r2 * (c1**0.5 - c2**0.5) ** 2 / (c1 * r1 + c2 * r2)
    return float(length - 0.37 * np.log(CHARGE[anion] / neighbours))


def covalent_bond(first: str, second: str) -> float:
    """Sum of two covalent radii in A."""
    from ase.data import atomic_numbers, covalent_radii

    return float(covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]])


def stacked(planes: str, measures: Measures) -> Builder:
    """A builder of sheets that are planes on top of each other.

    Args:
        planes: From the bottom, role and site (see `SITES`) of each: ``"1B 0A 1B"``.
        measures: Gives the lattice constant, and the bond from each plane to the next; a bond of 0 leaves
            both in one plane.
    """
    layers = [(int(role), SITES[site]) for role, site in planes.split()]
    lattice = HEXAGONAL if planes[1] in "ABC" else SQUARE
    lateral = [_lateral(below, above, lattice) for (_, below), (_, above) in pairwise(layers)]

    def build(symbols: Symbols) -> Atoms:
        a, bonds = measures(symbols)
        rises = [_rise(bond, a * part) for bond, part in zip(bonds, lateral, strict=True)]
        heights = np.cumsum([0.0, *rises])
        sites = [
            (symbols[role], *xy, z) for (role, plane), z in zip(layers, heights, strict=True) for xy in plane
        ]
        return _sheet(sites, a * lattice)

    return build


def honeycomb(measures: Measures) -> Builder:
    """A builder of octahedra that share edges, a third of them empty (CrI3), or holding a pair (MnPS3).

    Args:
        measures: Gives the lattice constant, and the bond of metal and anion; with a pair also that of pair
            and anion, and that in the pair. Roles are metal, pair if there is one, anion.
    """

    def build(symbols: Symbols) -> Atoms:
        a, (bond, *pair) = measures(symbols)

        def height(u: float) -> float:
            """Of the anions that stand at u from the axis of the empty octahedron."""
            return _rise(bond, a * ((2 / 3 - u) ** 2 + 1 / 9 - (2 / 3 - u) / 3) ** 0.5)

        u, half = OUTWARD, pair[1] / 2 if pair else 0.0
        if pair:
            lateral = max(pair[0] ** 2 - (height(u) - half) ** 2, 0.0) ** 0.5
            u = float(np.clip(lateral / a, *OUTWARD_RANGE))
        sites = [(symbols[0], 1 / 3, 2 / 3, 0.0), (symbols[0], 2 / 3, 1 / 3, 0.0)]
        sites += [(symbols[1], 0.0, 0.0, sign * half) for sign in (1, -1) if pair]
        around = ((u, 0.0), (0.0, u), (-u, -u))
        sites += [(symbols[-1], s * x, s * y, s * height(u)) for s in (1, -1) for x, y in around]
        return _sheet(sites, a * HEXAGONAL)

    return build


def puckered(measures: Measures) -> Builder:
    """A builder of sheets like black phosphorus: zigzag chains along a, in two heights.

    Args:
        measures: Gives the lattice constant along the chains, the bond, and the lattice constant b across.
    """

    def build(symbols: Symbols) -> Atoms:
        a, (bond, b) = measures(symbols)
        width = max(bond**2 - a**2 / 4, 0.0) ** 0.5 / b  # of a chain
        rise = _rise(bond, b * (0.5 - width))
        first, second = symbols[0], symbols[-1]
        sites = [
            (first, 0.0, -width / 2, rise),
            (second, 0.5, width / 2, rise),
            (first, 0.5, 0.5 - width / 2, 0.0),
            (second, 0.0, 0.5 + width / 2, 0.0),
        ]
        return _sheet(sites, np.diag([a, b]))

    return build


def _parameters(symbol: str) -> tuple[float, float]:
    from pymatgen.core import Element
    from pymatgen.core.bond_valence import BV_PARAMS

    if symbol in MISSING:
        return MISSING[symbol]
    found = BV_PARAMS[Element(symbol)]
    return found["r"], found["c"]


def _sheet(sites: Sequence[tuple[str, float, float, float]], vectors: NDArray[np.float64]) -> Atoms:
    """Symbols at fractional x, y and heights in A, in the lattice of two vectors, ``(2, 2)``."""
    from ase import Atoms

    cell = np.eye(3)
    cell[:2, :2] = vectors
    positions = np.array([site[1:] for site in sites]) @ cell
    return in_vacuum(Atoms([site[0] for site in sites], positions, cell=cell))


def _rise(bond: float, lateral: float) -> float:
    """Height of a bond in A over its projection on the plane."""
    return max(bond**2 - lateral**2, (LEAST_RISE * bond) ** 2) ** 0.5


def _lateral(below: Sequence[tuple], above: Sequence[tuple], lattice: NDArray[np.float64]) -> float:
    """Shortest distance in the plane between two kinds of sites, images included, in lattice constants."""
    images = np.array(list(product((-1, 0, 1), repeat=2)))
    differences = np.array([np.subtract(u, v) for u in above for v in below])
    return float(np.linalg.norm((differences[:, None] + images) @ lattice, axis=-1).min())
