"""Structure types of monolayers, as in C2DB, with the elements that may form them.

Ratios of a lattice constant to a bond, and scales of bonds, were fitted once, a number or two a prototype, to
known sheets (2 to 31 of them, 130 in all), so that none comes out too large or too small in the median.
Single sheets are off by 2% (root mean square), FeSe's kind by 4%, puckered ones across their chains by 10%.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement, product

import numpy as np

from repose.data.generate.monolayers import (
    CHARGE,
    Builder,
    Measures,
    Symbols,
    covalent_bond,
    honeycomb,
    ionic_bond,
    puckered,
    stacked,
)

Bond = Callable[[Symbols], float]

HALOGENS, CHALCOGENS = ("F", "Cl", "Br", "I"), ("O", "S", "Se", "Te")
PNICTOGENS, TETRELS = ("P", "As", "Sb", "Bi"), ("Si", "Ge", "Sn")
EARLY_METALS = ("Sc", "Ti", "V", "Cr", "Y", "Zr", "Nb", "Mo", "Hf", "Ta", "W")
LATE_METALS = ("Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ru", "Rh", "Pd", "Ag", "Cd", "Os", "Ir", "Pt", "Au", "Hg")
TRANSITION_METALS = (*EARLY_METALS, "La", "Re", *LATE_METALS)
OTHER_METALS = ("Be", "Mg", "Ca", "Sr", "Ba", "Al", "Ga", "In", "Tl", "Ge", "Sn", "Pb", "Sb", "Bi")
METALS = TRANSITION_METALS + OTHER_METALS
# With chalcogens their d electrons bind along the plane and make octahedra narrow and tall.
NARROW = ("V", "Nb", "Ta", "Cr", "Mo", "W", "Mn", "Re")


@dataclass(frozen=True)
class Prototype:
    """A structure type of monolayers.

    Attributes:
        name: What tags call it.
        compositions: Gives the elements that may form it, by role.
        build: Makes the ideal monolayer of such elements, centred in vacuum.
        layered: Whether such sheets stack by van der Waals forces; others have dangling bonds.
    """

    name: str
    compositions: Callable[[], Iterable[Symbols]]
    build: Builder
    layered: bool = True


@cache
def prototypes() -> dict[str, Prototype]:
    """All prototypes by name, in an order that does not change."""
    prism, octahedron = _covalent(0, 1, 0.926), _ionic(0, 1)
    table = (
        Prototype(
            "MoS2-2H",
            lambda: _salts((*EARLY_METALS, "Mn", "Re"), CHALCOGENS, 2),
            stacked("1B 0A 1B", _scaled(1.318, prism, prism)),
        ),
        Prototype(
            "MoSSe-2H",
            lambda: _janus((*EARLY_METALS, "Mn", "Re"), CHALCOGENS),
            stacked("1B 0A 2B", _scaled(1.318, prism, _covalent(0, 2, 0.926))),
        ),
        Prototype(
            "CdI2-1T",
            lambda: _salts(METALS, CHALCOGENS + HALOGENS, 2),
            stacked("1B 0A 1C", _octahedra(octahedron, octahedron)),
        ),
        Prototype(
            "MoSSe-1T",
            lambda: (*_janus(METALS, CHALCOGENS), *_janus(METALS, HALOGENS)),
            stacked("1B 0A 2C", _octahedra(octahedron, _ionic(0, 2))),
        ),
        Prototype(
            "BiTeI",
            lambda: _two_anions(METALS, ("S", "Se", "Te"), ("Cl", "Br", "I")),
            stacked("1B 0A 2C", _scaled(1.409, octahedron, _ionic(0, 2))),
        ),
        Prototype(
            "BN",
            lambda: (*product(("C", *TETRELS), ("C",)), *_octets()),
            stacked("0B 1C", lambda s: (3**0.5 * ionic_bond(s[0], s[1], 3), (0.0,))),
        ),
        Prototype(
            "silicene",
            lambda: (*_pairs(reversed(TETRELS)), *_octets()),
            stacked("0B 1C", _scaled(1.72, _single_bond)),
            layered=False,
        ),
        Prototype(
            "arsenene",
            lambda: _pairs(PNICTOGENS),
            stacked("0B 1C", _scaled(1.435, _covalent(0, 1, 1.045))),
        ),
        Prototype(
            "phosphorene",
            lambda: _pairs(PNICTOGENS),
            puckered(_chains(_covalent(0, 1, 1.04), 1.48, 2.0)),
        ),
        Prototype(
            "GeS",
            lambda: product((*TETRELS, "Pb"), CHALCOGENS),
            puckered(_chains(_ionic(0, 1, scale=1.04), 1.52, 1.64)),
        ),
        Prototype(
            "GaS",
            lambda: (
                *product(("B", "Al", "Ga", "In", "Tl"), ("O", "S", "Se", "Te")),
                *product(TETRELS, ("N", "P", "As", "Sb")),
            ),
            stacked("1B 0A 0A 1B", _gallium_sulfide),
        ),
        Prototype(
            "FeSe",
            lambda: _salts(TRANSITION_METALS, ("S", "Se", "Te"), 1),
            stacked("1R 0P 1Q", _scaled(1.55, *2 * [_covalent(0, 1, 0.947)])),
        ),
        Prototype(
            "PbO",
            lambda: product(("Ge", "Sn", "Pb"), ("O", "S")),
            stacked("0R 1P 0Q", _scaled(1.70, *2 * [_ionic(0, 1, 4, scale=1.0)])),
        ),
        Prototype(
            "PbFCl",
            lambda: (
                *_two_anions(METALS, ("O",), ("Cl", "Br", "I")),
                *_two_anions(METALS, ("F",), ("Cl", "Br", "I")),
            ),
            stacked("2Q 0R 1P 0Q 2R", _matlockite),
        ),
        Prototype(
            "M2X",
            lambda: product((*EARLY_METALS, "La"), ("C", "N")),
            stacked("0B 1A 0C", _scaled(1.444, *2 * [_covalent(0, 1, 0.9)])),
            layered=False,
        ),
        Prototype(
            "M2XT2",
            lambda: product((*EARLY_METALS, "La"), ("C", "N"), ("O", "F", "Cl")),
            stacked("2C 0B 1A 0C 2B", _mxene),
        ),
        Prototype(
            "CrI3",
            lambda: _salts(TRANSITION_METALS, HALOGENS, 3),
            honeycomb(_scaled(2.525, _ionic(0, 1, 2, scale=1.01))),
        ),
        Prototype(
            "BiI3",
            lambda: _salts(OTHER_METALS, HALOGENS, 3),
            honeycomb(_scaled(2.525, _ionic(0, 1, 2, scale=1.01))),
        ),
        Prototype(
            "MnPS3",
            lambda: ((metal, "P", x) for metal in _of_charge(METALS, 2) for x in ("S", "Se")),
            honeycomb(_with_pairs(2.345, 4)),
        ),
        Prototype(
            "CrGeTe3",
            lambda: product(_of_charge(METALS, 3), TETRELS, ("S", "Se", "Te")),
            honeycomb(_with_pairs(2.45, 3)),
        ),
    )
    return {prototype.name: prototype for prototype in table}


@cache
def compositions(name: str) -> tuple[Symbols, ...]:
    """Every composition of a prototype once, in an order that does not change."""
    return tuple(dict.fromkeys(prototypes()[name].compositions()))


# Lengths


def _ionic(cation: int, anion: int, neighbours: int = 3, scale: float = 1.02) -> Bond:
    """`ionic_bond` between two roles, by default 2% longer: so sheets are as thick as known."""
    return lambda s: scale * ionic_bond(s[cation], s[anion], neighbours)


def _covalent(first: int, second: int, scale: float) -> Bond:
    """`covalent_bond` between two roles, scaled."""
    return lambda s: scale * covalent_bond(s[first], s[second])


def _single_bond(symbols: Symbols) -> float:
    """Bond of a buckled sheet, of valence 1 at most."""
    first, second = symbols
    return ionic_bond(first, second, max(3, CHARGE[second]))


def _scaled(ratio: float, *bonds: Bond) -> Measures:
    """Bonds, and their mean times a ratio as lattice constant."""

    def measures(symbols: Symbols) -> tuple[float, tuple[float, ...]]:
        lengths = tuple(bond(symbols) for bond in bonds)
        return ratio * float(np.mean(lengths)), lengths

    return measures


def _octahedra(*bonds: Bond) -> Measures:
    plain, narrow = _scaled(1.409, *bonds), _scaled(1.31, *bonds)
    return lambda s: (narrow if s[0] in NARROW and CHARGE[s[1]] == 2 else plain)(s)


def _chains(bond: Bond, along: float, across: float) -> Measures:
    """Both lattice constants of a puckered sheet as ratios to its bond."""
    return lambda s: (along * bond(s), (bond(s), across * bond(s)))


def _gallium_sulfide(symbols: Symbols) -> tuple[float, tuple[float, ...]]:
    metal, anion = symbols
    bond = 1.02 * ionic_bond(metal, anion, 3)
    return 1.532 * bond, (bond, covalent_bond(metal, metal), bond)


def _matlockite(symbols: Symbols) -> tuple[float, tuple[float, ...]]:
    metal, inside, outside = symbols
    inner, outer = ionic_bond(metal, inside, 4), 1.02 * ionic_bond(metal, outside, 4)
    return 1.664 * inner, (outer, inner, inner, outer)


def _mxene(symbols: Symbols) -> tuple[float, tuple[float, ...]]:
    metal, centre, end = symbols
    inner, outer = 0.92 * covalent_bond(metal, centre), ionic_bond(metal, end, 3)
    return 1.40 * inner, (outer, inner, inner, outer)


def _with_pairs(ratio: float, charge: int) -> Measures:
    """Octahedra of which a third holds a pair of atoms of this charge."""

    def measures(symbols: Symbols) -> tuple[float, tuple[float, ...]]:
        metal, centre, anion = symbols
        # Three anions share the charge of an atom of the pair; each has the rest for its two metals.
        to_pair, to_metal = charge / 3, (CHARGE[anion] - charge / 3) / 2
        bond = ionic_bond(metal, anion, CHARGE[anion] / to_metal)
        return ratio * bond, (
            bond,
            ionic_bond(centre, anion, CHARGE[anion] / to_pair),
            1.03 * covalent_bond(centre, centre),
        )

    return measures


# Elements


def _of_charge(metals: Sequence[str], charge: int) -> list[str]:
    """Those metals that are known with an oxidation state."""
    from pymatgen.core import Element

    return [
        metal
        for metal in metals
        if charge in (*Element(metal).icsd_oxidation_states, *Element(metal).common_oxidation_states)
    ]


def _salts(metals: Sequence[str], anions: Sequence[str], per_metal: int) -> Iterator[Symbols]:
    """Metals and anions that balance, so many anions a metal."""
    for anion in anions:
        yield from ((metal, anion) for metal in _of_charge(metals, CHARGE[anion] * per_metal))


def _two_anions(metals: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Iterator[Symbols]:
    """A metal with one anion each of two groups, balanced."""
    for one, other in product(first, second):
        yield from ((metal, one, other) for metal in _of_charge(metals, CHARGE[one] + CHARGE[other]))


def _janus(metals: Sequence[str], anions: Sequence[str]) -> Iterator[Symbols]:
    """A metal between two different anions of one group."""
    for one, other in combinations(anions, 2):
        yield from _two_anions(metals, (one,), (other,))


def _octets() -> Iterator[Symbols]:
    """Pairs with eight valence electrons, III-V and II-VI."""
    yield from product(("B", "Al", "Ga", "In"), ("N", "P", "As", "Sb"))
    yield from product(("Be", "Mg", "Zn", "Cd", "Hg"), CHALCOGENS)


def _pairs(elements: Iterable[str]) -> Iterator[Symbols]:
    """Two elements, or one twice."""
    return combinations_with_replacement(elements, 2)
