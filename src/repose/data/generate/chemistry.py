"""Which elements may stand where: oxidation states, likeness, and compositions drawn by them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache

import ase.data
import numpy as np

from repose.crystal.elements import element_table
from repose.errors import DatasetError, nearest

LAST = 103
# Elements up to uranium without noble gases and without what exists in traces only or decays fast.
SYMBOLS = tuple(
    ase.data.chemical_symbols[z]
    for z in range(1, 93)
    if z not in {2, 10, 18, 36, 43, 54, 61, *range(84, 90), 91}
)
# Charge and how often an anion is drawn, after how often they stand in known inorganic crystals.
ANIONS = {
    "O": (-2, 8.0), "S": (-2, 4.0), "F": (-1, 4.0), "Se": (-2, 3.0), "Cl": (-1, 3.0), "N": (-3, 3.0),
    "Te": (-2, 2.5), "Br": (-1, 2.0), "I": (-1, 2.0), "P": (-3, 2.0), "As": (-3, 1.5), "Sb": (-3, 0.7),
    "C": (-4, 0.7), "H": (-1, 1.0), "Si": (-4, 0.5), "Ge": (-4, 0.4), "B": (-3, 0.3), "Bi": (-3, 0.3),
}  # fmt: skip
# Elements that are no cation here: hydrogen and carbon would make molecules, the others are anions.
_NEVER_CATIONS = frozenset(["H", "C", "N", "O", "F", "S", "Cl", "Se", "Br", "I"])
# Elements between metals and nonmetals are drawn less often as cations and in intermetallics.
_METALLOIDS = frozenset(["B", "Si", "P", "Ge", "As", "Sb", "Te"])
_METALLOID_WEIGHT = 0.4
# Scales on which elements differ: Mendeleev number of Pettifor, logarithm of the covalent radius, and
# electronegativity of Pauling. A distance of 1 is about that of neighbours such as Ti and Nb, or Cl and Br.
_SCALES = (10.0, 0.15, 0.35)


def atomic_number(symbol: str) -> int:
    """Atomic number of a symbol.

    Raises:
        DatasetError: There is no such element.
    """
    found = np.flatnonzero(element_table()["symbol"][1:] == symbol)
    if not len(found):
        raise DatasetError(f"'{symbol}' is no element.{nearest(symbol, element_table()['symbol'][1:])}")
    return int(found[0]) + 1


@cache
def oxidation_states(number: int) -> tuple[int, ...]:
    """Positive oxidation states that an element has in crystals, by ICSD and by textbooks; ascending."""
    from pymatgen.core import Element

    element = Element.from_Z(number)
    states = {*element.icsd_oxidation_states, *element.common_oxidation_states}
    return tuple(sorted(int(state) for state in states if state > 0))


@cache
def distances() -> np.ndarray:
    """How unlike elements are, ``(104, 104)``; infinite where a property is not tabulated."""
    table = element_table()
    where = np.stack(
        [table["mendeleev_number"], np.log(table["covalent_radius"]), table["electronegativity"]], axis=1
    ) / np.array(_SCALES)
    apart = np.linalg.norm(where[:, None] - where[None], axis=-1)
    return np.where(np.isnan(apart), np.inf, apart)


class Chemistry:
    """Draws elements for the sites of a crystal.

    Args:
        symbols: Elements to draw from.

    Raises:
        DatasetError: One of them is no element, or none is given.
    """

    def __init__(self, symbols: Sequence[str] = SYMBOLS) -> None:
        if not symbols:
            raise DatasetError("no element is given to draw from.")
        self.numbers = np.array([atomic_number(symbol) for symbol in symbols])
        self.anions = {atomic_number(s): ANIONS[s] for s in ANIONS if s in symbols}
        metals = [s for s in symbols if s not in _NEVER_CATIONS]
        self.metals = np.array([atomic_number(s) for s in metals], dtype=int)
        self._weights = np.array([_METALLOID_WEIGHT if s in _METALLOIDS else 1.0 for s in metals])
        self._by_charge: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for charge in range(1, 8):
            able = np.array([charge in oxidation_states(z) for z in self.metals], dtype=bool)
            # An element of many states is not drawn more often than one of a single state.
            states = np.array([max(1, len(oxidation_states(z))) for z in self.metals])
            self._by_charge[charge] = self.metals[able], (self._weights / states)[able]

    def salt(
        self, counts: Sequence[int], anions: Sequence[int], rng: np.random.Generator
    ) -> list[int] | None:
        """Draw a charge-balanced composition.

        Args:
            counts: Atoms of every species in the cell.
            anions: Which species are anions.
            rng: Source of randomness.

        Returns:
            An element for each species, all different, or None where the draw did not come out balanced.
        """
        if len(anions) > len(self.anions):
            return None
        weights = np.array([weight for _, weight in self.anions.values()])
        drawn = rng.choice(list(self.anions), len(anions), replace=False, p=weights / weights.sum())
        return self.balance(counts, dict(zip(anions, map(int, drawn), strict=True)), rng)

    def balance(
        self, counts: Sequence[int], anions: Mapping[int, int], rng: np.random.Generator
    ) -> list[int] | None:
        """Draw cations that balance given anions.

        All ways to share the charge out are as likely as there are cations for them.

        Args:
            counts: Atoms of every species in the cell.
            anions: Elements of some species; the others are cations.
            rng: Source of randomness.

        Returns:
            An element for each species, all different, or None where the draw did not come out balanced.
        """
        to_balance = -sum(counts[k] * self.anions[z][0] for k, z in anions.items())
        cations = [k for k in range(len(counts)) if k not in anions]
        ways = _charges(tuple(counts[k] for k in cations), to_balance)
        sizes = np.array([math.prod(self._by_charge[c][1].sum() for c in way) for way in ways])
        if not sizes.sum():
            return None
        way = ways[rng.choice(len(ways), p=sizes / sizes.sum())]
        chosen = dict(anions)
        for k, charge in zip(cations, way, strict=True):
            able, weights = self._by_charge[charge]
            chosen[k] = int(rng.choice(able, p=weights / weights.sum()))
        return _all_different([chosen[k] for k in range(len(counts))])

    def complete(
        self, chosen: Mapping[int, int], others: Sequence[int], rng: np.random.Generator
    ) -> list[int] | None:
        """Draw different metals or metalloids for the other species, whatever the charges.

        Args:
            chosen: Elements of some species.
            others: The species that are left.
            rng: Source of randomness.

        Returns:
            An element for each species, all different, or None where they did not come out different.
        """
        if len(others) > len(self.metals):
            return None
        weights = self._weights / self._weights.sum()
        drawn = rng.choice(self.metals, len(others), replace=False, p=weights)
        elements = {**chosen, **dict(zip(others, map(int, drawn), strict=True))}
        return _all_different([elements[k] for k in range(len(elements))])

    def alike(
        self, number: int, width: float, rng: np.random.Generator, other_than: Collection[int] = ()
    ) -> int | None:
        """Draw an element like another one, with probability ``exp(-(distance / width)^2)``.

        Args:
            number: Atomic number of the element to be like.
            width: How unlike it may be; see `distances`.
            rng: Source of randomness.
            other_than: Elements not to draw.

        Returns:
            Its atomic number, or None where none is like it.
        """
        able = self.numbers[~np.isin(self.numbers, list(other_than))]
        weights = np.exp(-((distances()[number, able] / width) ** 2))
        # Far beyond the width, what is left is only the least unlike of the unlike.
        if not weights.size or weights.sum() < 1e-3:
            return None
        return int(rng.choice(able, p=weights / weights.sum()))


def is_balanced(numbers: np.ndarray, anions: Collection[int]) -> bool:
    """Whether some oxidation states of the cations balance the charges of the anions.

    Args:
        numbers: Atomic numbers of a crystal, ``(n,)``.
        anions: Atomic numbers of the elements that are anions.
    """
    charges = {atomic_number(s): charge for s, (charge, _) in ANIONS.items()}
    found, counts = np.unique(numbers, return_counts=True)
    states = [(charges[z],) if z in anions else oxidation_states(z) for z in found.tolist()]
    return any(np.dot(way, counts) == 0 for way in itertools.product(*states))


@cache
def _charges(counts: tuple[int, ...], total: int) -> list[tuple[int, ...]]:
    """Charges from 1 to 7 of species with these counts that add up to a total."""
    ways = itertools.product(range(1, 8), repeat=len(counts))
    return [way for way in ways if sum(c * n for c, n in zip(way, counts, strict=True)) == total]


def _all_different(chosen: list[int]) -> list[int] | None:
    return chosen if len(set(chosen)) == len(chosen) else None
