"""Geometry of ideal monolayers: bond lengths from tabulated parameters, and builders of sheets.

A monolayer is periodic along a and b, which lie in the xy plane, and has vacuum along c, which is z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repose.data.generate.slabs import center_in_vacuum

if TYPE_CHECKING:
    from ase import Atoms

# Elements of a sheet, by role.
Symbols = tuple[str, ...]
# Returns the lattice constant and further lengths (A), as a builder expects them, for given elements.
Lengths = Callable[[Symbols], tuple[float, tuple[float, ...]]]
Builder = Callable[[Symbols], "Atoms"]

# Absolute charges of anions.
CHARGE = {
    **dict.fromkeys(("F", "Cl", "Br", "I"), 1),
    **dict.fromkeys(("O", "S", "Se", "Te"), 2),
    **dict.fromkeys(("N", "P", "As", "Sb"), 3),
    **dict.fromkeys(("C", "Si", "Ge", "Sn"), 4),
}
# (r, c) of elements that pymatgen's table lacks; r is fitted to PtS2, PtSe2 and PtTe2.
MISSING = {"Pt": (1.33, 1.5), "Os": (1.34, 1.5), "Au": (1.35, 1.5)}

HEXAGONAL = np.array([[1.0, 0.0], [-0.5, 0.75**0.5]])
SQUARE = np.eye(2)
# Fractional coordinates of atoms in a plane: A, B, C in a hexagonal lattice; P, Q, R in a square one.
SITES = {
    "A": ((0.0, 0.0),),
    "B": ((1 / 3, 2 / 3),),
    "C": ((2 / 3, 1 / 3),),
    "P": ((0.0, 0.0), (0.5, 0.5)),
    "Q": ((0.0, 0.5),),
    "R": ((0.5, 0.0),),
}
# Minimum height of a bond between two planes, relative to its length. If the lateral distance requires it,
# the bond becomes longer than given.
MIN_RISE = 0.3
# Distance of anions from the axis of an empty octahedron in units of a; in CrI3 it is 5% larger than in close
# packing. If a pair of atoms fills the octahedron, the distance follows the pair within these bounds.
OUTWARD = 1.05 / 3
OUTWARD_RANGE = (0.29, 0.39)


@cache
def ionic_bond(cation: str, anion: str, neighbours: float) -> float:
    """Return a bond length in A by bond valence.

    The valence of the bond is the charge of the anion over its number of neighbours. Source: O'Keeffe and
    Brese, J. Am. Chem. Soc. 113, 3226 (1991).

    Args:
        cation: Symbol.
        anion: Symbol; one of `CHARGE`.
        neighbours: Number of cations around the anion.
    """
    (r1, c1), (r2, c2) = _bond_valence_parameters(cation), _bond_valence_parameters(anion)
    length = r1 + r2 - r1 * r2 * (c1**0.5 - c2**0.5) ** 2 / (c1 * r1 + c2 * r2)
    return float(length - 0.37 * np.log(CHARGE[anion] / neighbours))


def covalent_bond(first: str, second: str) -> float:
    """Return the sum of two covalent radii in A."""
    from ase.data import atomic_numbers, covalent_radii

    return float(covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]])


def stacked_planes(planes: str, lengths: Lengths) -> Builder:
    """Return a builder of sheets that are stacked planes of atoms.

    Args:
        planes: Role and site (see `SITES`) of each plane from the bottom: ``"1B 0A 1B"``.
        lengths: Returns the lattice constant, and the bond between each plane and the next; a bond of 0 puts
            both into one plane.
    """
    layers = [(int(role), SITES[site]) for role, site in planes.split()]
    lattice = HEXAGONAL if planes[1] in "ABC" else SQUARE
    lateral = [_lateral_distance(below, above, lattice) for (_, below), (_, above) in pairwise(layers)]

    def build(symbols: Symbols) -> Atoms:
        a, bonds = lengths(symbols)
        rises = [_rise(bond, a * distance) for bond, distance in zip(bonds, lateral, strict=True)]
        heights = np.cumsum([0.0, *rises])
        sites = [
            (symbols[role], *xy, z) for (role, plane), z in zip(layers, heights, strict=True) for xy in plane
        ]
        return _sheet(sites, a * lattice)

    return build


def honeycomb(lengths: Lengths) -> Builder:
    """Return a builder of edge-sharing octahedra of which one third is empty (CrI3) or has a pair (MnPS3).

    Roles are metal, pair (if there is one) and anion.

    Args:
        lengths: Returns the lattice constant and the bond of metal and anion; with a pair also the bond of
            pair and anion, and the bond in the pair.
    """

    def build(symbols: Symbols) -> Atoms:
        a, (bond, *pair) = lengths(symbols)

        def height(u: float) -> float:
            """Return the height of anions at a distance u from the axis of the empty octahedron."""
            return _rise(bond, a * ((2 / 3 - u) ** 2 + 1 / 9 - (2 / 3 - u) / 3) ** 0.5)

        u, half = OUTWARD, pair[1] / 2 if pair else 0.0
        if pair:
            lateral = max(pair[0] ** 2 - (height(u) - half) ** 2, 0.0) ** 0.5
            u = float(np.clip(lateral / a, *OUTWARD_RANGE))
        sites = [(symbols[0], 1 / 3, 2 / 3, 0.0), (symbols[0], 2 / 3, 1 / 3, 0.0)]
        sites += [(symbols[1], 0.0, 0.0, sign * half) for sign in (1, -1) if pair]
        anions = ((u, 0.0), (0.0, u), (-u, -u))
        sites += [(symbols[-1], s * x, s * y, s * height(u)) for s in (1, -1) for x, y in anions]
        return _sheet(sites, a * HEXAGONAL)

    return build


def puckered(lengths: Lengths) -> Builder:
    """Return a builder of sheets like black phosphorus: zigzag chains along a at two heights.

    Args:
        lengths: Returns the lattice constant a along the chains, the bond, and the lattice constant b.
    """

    def build(symbols: Symbols) -> Atoms:
        a, (bond, b) = lengths(symbols)
        width = max(bond**2 - a**2 / 4, 0.0) ** 0.5 / b  # of a chain, fractional
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


def _bond_valence_parameters(symbol: str) -> tuple[float, float]:
    from pymatgen.core import Element
    from pymatgen.core.bond_valence import BV_PARAMS

    if symbol in MISSING:
        return MISSING[symbol]
    parameters = BV_PARAMS[Element(symbol)]
    return parameters["r"], parameters["c"]


def _sheet(sites: Sequence[tuple[str, float, float, float]], vectors: NDArray[np.float64]) -> Atoms:
    """Return a sheet of symbols at fractional x, y and heights in A, with lattice vectors ``(2, 2)``."""
    from ase import Atoms

    cell = np.eye(3)
    cell[:2, :2] = vectors
    positions = np.array([site[1:] for site in sites]) @ cell
    return center_in_vacuum(Atoms([site[0] for site in sites], positions, cell=cell))


def _rise(bond: float, lateral: float) -> float:
    """Return the height of a bond in A from its length and its lateral distance."""
    return max(bond**2 - lateral**2, (MIN_RISE * bond) ** 2) ** 0.5


def _lateral_distance(below: Sequence[tuple], above: Sequence[tuple], lattice: NDArray[np.float64]) -> float:
    """Return the shortest lateral distance between sites of two planes in lattice constants."""
    images = np.array(list(product((-1, 0, 1), repeat=2)))
    differences = np.array([np.subtract(u, v) for u in above for v in below])
    return float(np.linalg.norm((differences[:, None] + images) @ lattice, axis=-1).min())
