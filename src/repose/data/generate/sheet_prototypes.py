"""Structure prototypes of monolayers, as in C2DB, with their possible compositions.

Ratios of lattice constants to bonds, and scales of bonds, were fitted to 130 known sheets, with one or two
parameters per prototype (2 to 31 sheets each), to remove the bias of the median. Root mean square errors of
lattice constants are 2% for flat sheets, 4% for the FeSe type, and 10% across the chains of puckered sheets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement, product

import numpy as np
from ase.data import atomic_numbers

from repose.data.generate.chemistry import oxidation_states
from repose.data.generate.monolayers import (
    CHARGE,
    Builder,
    Lengths,
    Symbols,
    covalent_bond,
    honeycomb,
    ionic_bond,
    puckered,
    stacked_planes,
)

Bond = Callable[[Symbols], float]

HALOGENS, CHALCOGENS = ("F", "Cl", "Br", "I"), ("O", "S", "Se", "Te")
PNICTOGENS, TETRELS = ("P", "As", "Sb", "Bi"), ("Si", "Ge", "Sn")
EARLY_METALS = ("Sc", "Ti", "V", "Cr", "Y", "Zr", "Nb", "Mo", "Hf", "Ta", "W")
LATE_METALS = ("Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ru", "Rh", "Pd", "Ag", "Cd", "Os", "Ir", "Pt", "Au", "Hg")
TRANSITION_METALS = (*EARLY_METALS, "La", "Re", *LATE_METALS)
OTHER_METALS = ("Be", "Mg", "Ca", "Sr", "Ba", "Al", "Ga", "In", "Tl", "Ge", "Sn", "Pb", "Sb", "Bi")
METALS = TRANSITION_METALS + OTHER_METALS
# In dichalcogenides, in-plane d-d bonds of these metals make the octahedra narrow and tall.
NARROW = ("V", "Nb", "Ta", "Cr", "Mo", "W", "Mn", "Re")
# Prototypes with dangling bonds, which do not stack by van der Waals forces.
NOT_LAYERED = ("silicene", "M2X")


@dataclass(frozen=True)
class MonolayerPrototype:
    """A structure prototype of monolayers.

    Attributes:
        name: Name in tags.
        compositions: Possible elements by role, without repetitions, in a fixed order.
        build: Returns the ideal monolayer of given elements, centered in vacuum.
        layered: True for sheets that stack by van der Waals forces; others have dangling bonds.
    """

    name: str
    compositions: tuple[Symbols, ...]
    build: Builder
    layered: bool = True


@cache
def monolayer_prototypes() -> dict[str, MonolayerPrototype]:
    """Return all prototypes by name, in a fixed order."""
    early, group_3_to_6 = (*EARLY_METALS, "Mn", "Re"), (*EARLY_METALS, "La")
    oxides, fluorides = (_two_anions(METALS, (x,), ("Cl", "Br", "I")) for x in ("O", "F"))
    sulfides = product(("B", "Al", "Ga", "In", "Tl"), CHALCOGENS)
    compositions: dict[str, Iterable[Symbols]] = {
        "MoS2-2H": _salts(early, CHALCOGENS, 2),
        "MoSSe-2H": _janus(early, CHALCOGENS),
        "CdI2-1T": _salts(METALS, CHALCOGENS + HALOGENS, 2),
        "MoSSe-1T": (*_janus(METALS, CHALCOGENS), *_janus(METALS, HALOGENS)),
        "BiTeI": _two_anions(METALS, ("S", "Se", "Te"), ("Cl", "Br", "I")),
        "BN": (*product(("C", *TETRELS), ("C",)), *_octets()),
        "silicene": (*_pairs(reversed(TETRELS)), *_octets()),
        "arsenene": _pairs(PNICTOGENS),
        "phosphorene": _pairs(PNICTOGENS),
        "GeS": product((*TETRELS, "Pb"), CHALCOGENS),
        "GaS": (*sulfides, *product(TETRELS, ("N", "P", "As", "Sb"))),
        "FeSe": _salts(TRANSITION_METALS, ("S", "Se", "Te"), 1),
        "PbO": product(("Ge", "Sn", "Pb"), ("O", "S")),
        "PbFCl": (*oxides, *fluorides),
        "M2X": product(group_3_to_6, ("C", "N")),
        "M2XT2": product(group_3_to_6, ("C", "N"), ("O", "F", "Cl")),
        "CrI3": _salts(TRANSITION_METALS, HALOGENS, 3),
        "BiI3": _salts(OTHER_METALS, HALOGENS, 3),
        "MnPS3": product(_of_charge(METALS, 2), ("P",), ("S", "Se")),
        "CrGeTe3": product(_of_charge(METALS, 3), TETRELS, ("S", "Se", "Te")),
    }
    prism, octahedron = _covalent(0, 1, 0.926), _ionic(0, 1)
    halide = _scaled(2.525, _ionic(0, 1, 2, scale=1.01))
    builders: dict[str, Builder] = {
        "MoS2-2H": stacked_planes("1B 0A 1B", _scaled(1.318, prism, prism)),
        "MoSSe-2H": stacked_planes("1B 0A 2B", _scaled(1.318, prism, _covalent(0, 2, 0.926))),
        "CdI2-1T": stacked_planes("1B 0A 1C", _octahedra(octahedron, octahedron)),
        "MoSSe-1T": stacked_planes("1B 0A 2C", _octahedra(octahedron, _ionic(0, 2))),
        "BiTeI": stacked_planes("1B 0A 2C", _scaled(1.409, octahedron, _ionic(0, 2))),
        "BN": stacked_planes("0B 1C", lambda s: (3**0.5 * ionic_bond(s[0], s[1], 3), (0.0,))),
        "silicene": stacked_planes("0B 1C", _scaled(1.72, _single_bond)),
        "arsenene": stacked_planes("0B 1C", _scaled(1.435, _covalent(0, 1, 1.045))),
        "phosphorene": puckered(_chains(_covalent(0, 1, 1.04), 1.48, 2.0)),
        "GeS": puckered(_chains(_ionic(0, 1, scale=1.04), 1.52, 1.64)),
        "GaS": stacked_planes("1B 0A 0A 1B", _gallium_sulfide),
        "FeSe": stacked_planes("1R 0P 1Q", _scaled(1.55, *2 * [_covalent(0, 1, 0.947)])),
        "PbO": stacked_planes("0R 1P 0Q", _scaled(1.70, *2 * [_ionic(0, 1, 4, scale=1.0)])),
        "PbFCl": stacked_planes("2Q 0R 1P 0Q 2R", _matlockite),
        "M2X": stacked_planes("0B 1A 0C", _scaled(1.444, *2 * [_covalent(0, 1, 0.9)])),
        "M2XT2": stacked_planes("2C 0B 1A 0C 2B", _mxene),
        "CrI3": honeycomb(halide),
        "BiI3": honeycomb(halide),
        "MnPS3": honeycomb(_with_pairs(2.345, 4)),
        "CrGeTe3": honeycomb(_with_pairs(2.45, 3)),
    }
    return {
        name: MonolayerPrototype(name, tuple(dict.fromkeys(listed)), builders[name], name not in NOT_LAYERED)
        for name, listed in compositions.items()
    }


# Bond lengths and lattice constants


def _ionic(cation: int, anion: int, neighbours: int = 3, scale: float = 1.02) -> Bond:
    """Return a scaled `ionic_bond` between two roles; the default fits the thickness of known sheets."""
    return lambda s: scale * ionic_bond(s[cation], s[anion], neighbours)


def _covalent(first: int, second: int, scale: float) -> Bond:
    """Return a scaled `covalent_bond` between two roles."""
    return lambda s: scale * covalent_bond(s[first], s[second])


def _single_bond(symbols: Symbols) -> float:
    """Return the bond of a buckled sheet, with a valence of at most 1."""
    first, second = symbols
    return ionic_bond(first, second, max(3, CHARGE[second]))


def _scaled(ratio: float, *bonds: Bond) -> Lengths:
    """Return lengths with the mean bond times a ratio as lattice constant."""

    def lengths(symbols: Symbols) -> tuple[float, tuple[float, ...]]:
        values = tuple(bond(symbols) for bond in bonds)
        return ratio * float(np.mean(values)), values

    return lengths


def _octahedra(*bonds: Bond) -> Lengths:
    """Return lengths of octahedra, which are narrow in dichalcogenides of `NARROW` metals."""
    plain, narrow = _scaled(1.409, *bonds), _scaled(1.31, *bonds)
    return lambda s: (narrow if s[0] in NARROW and CHARGE[s[1]] == 2 else plain)(s)


def _chains(bond: Bond, along: float, across: float) -> Lengths:
    """Return lengths of a puckered sheet with lattice constants as ratios to the bond."""
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


def _with_pairs(ratio: float, charge: int) -> Lengths:
    """Return lengths of octahedra of which a third has a pair of atoms with this charge."""

    def lengths(symbols: Symbols) -> tuple[float, tuple[float, ...]]:
        metal, centre, anion = symbols
        # Each anion shares charge / 3 with the pair and the rest with its two metals.
        to_pair, to_metal = charge / 3, (CHARGE[anion] - charge / 3) / 2
        bond = ionic_bond(metal, anion, CHARGE[anion] / to_metal)
        return ratio * bond, (
            bond,
            ionic_bond(centre, anion, CHARGE[anion] / to_pair),
            1.03 * covalent_bond(centre, centre),
        )

    return lengths


# Compositions


def _of_charge(metals: Sequence[str], charge: int) -> list[str]:
    """Return the metals that have an oxidation state."""
    return [metal for metal in metals if charge in oxidation_states(atomic_numbers[metal])]


def _salts(metals: Sequence[str], anions: Sequence[str], per_metal: int) -> Iterator[Symbols]:
    """Yield charge-balanced metals and anions, with a number of anions per metal."""
    for anion in anions:
        yield from ((metal, anion) for metal in _of_charge(metals, CHARGE[anion] * per_metal))


def _two_anions(metals: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Iterator[Symbols]:
    """Yield a metal with one anion of each of two groups, charge-balanced."""
    for one, other in product(first, second):
        yield from ((metal, one, other) for metal in _of_charge(metals, CHARGE[one] + CHARGE[other]))


def _janus(metals: Sequence[str], anions: Sequence[str]) -> Iterator[Symbols]:
    """Yield a metal with two different anions of one group, charge-balanced."""
    for one, other in combinations(anions, 2):
        yield from _two_anions(metals, (one,), (other,))


def _octets() -> Iterator[Symbols]:
    """Yield III-V and II-VI pairs, which have eight valence electrons."""
    yield from product(("B", "Al", "Ga", "In"), ("N", "P", "As", "Sb"))
    yield from product(("Be", "Mg", "Zn", "Cd", "Hg"), CHALCOGENS)


def _pairs(elements: Iterable[str]) -> Iterator[Symbols]:
    """Return all pairs of elements, including an element with itself."""
    return combinations_with_replacement(elements, 2)
