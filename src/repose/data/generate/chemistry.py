"""Elements for the sites of a crystal: oxidation states, similarity, and sampling of compositions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache

import ase.data
import numpy as np

from repose.crystal.elements import element_table
from repose.errors import DatasetError, nearest

# Elements up to uranium without noble gases and without rare or short-lived radioactive elements.
DEFAULT_ELEMENTS = tuple(
    ase.data.chemical_symbols[z]
    for z in range(1, 93)
    if z not in {2, 10, 18, 36, 43, 54, 61, *range(84, 90), 91}
)
# Charge and sampling weight of anions; weights follow their frequency in known inorganic crystals.
ANIONS = {
    "O": (-2, 8.0), "S": (-2, 4.0), "F": (-1, 4.0), "Se": (-2, 3.0), "Cl": (-1, 3.0), "N": (-3, 3.0),
    "Te": (-2, 2.5), "Br": (-1, 2.0), "I": (-1, 2.0), "P": (-3, 2.0), "As": (-3, 1.5), "Sb": (-3, 0.7),
    "C": (-4, 0.7), "H": (-1, 1.0), "Si": (-4, 0.5), "Ge": (-4, 0.4), "B": (-3, 0.3), "Bi": (-3, 0.3),
}  # fmt: skip
# Elements that are never cations here: cations of H and C form molecules, the others are anions.
_NEVER_CATIONS = frozenset(["H", "C", "N", "O", "F", "S", "Cl", "Se", "Br", "I"])
# Metalloids have a smaller weight as cations and in intermetallics.
_METALLOIDS = frozenset(["B", "Si", "P", "Ge", "As", "Sb", "Te"])
_METALLOID_WEIGHT = 0.4
# Units of the element distance: Pettifor's Mendeleev number, logarithm of the covalent radius, Pauling's
# electronegativity. Similar elements such as Ti and Nb, or Cl and Br, have a distance of about 1.
_SCALES = (10.0, 0.15, 0.35)


def atomic_number(symbol: str) -> int:
    """Return the atomic number of a symbol.

    Raises:
        DatasetError: The symbol is unknown.
    """
    found = np.flatnonzero(element_table()["symbol"][1:] == symbol)
    if not len(found):
        raise DatasetError(f"'{symbol}' is no element.{nearest(symbol, element_table()['symbol'][1:])}")
    return int(found[0]) + 1


@cache
def oxidation_states(number: int) -> tuple[int, ...]:
    """Return the positive oxidation states of an element in crystals (ICSD and textbooks), ascending."""
    from pymatgen.core import Element

    element = Element.from_Z(number)
    states = {*element.icsd_oxidation_states, *element.common_oxidation_states}
    return tuple(sorted(int(state) for state in states if state > 0))


@cache
def element_distances() -> np.ndarray:
    """Return dissimilarities of elements, ``(104, 104)``; infinite if a property is not tabulated."""
    table = element_table()
    properties = np.stack(
        [table["mendeleev_number"], np.log(table["covalent_radius"]), table["electronegativity"]], axis=1
    ) / np.array(_SCALES)
    distances = np.linalg.norm(properties[:, None] - properties[None], axis=-1)
    return np.where(np.isnan(distances), np.inf, distances)


class ElementSampler:
    """Samples elements for the k species of a crystal.

    Samples are lists of k different atomic numbers, or None if the draw failed. ``counts`` are the atoms of
    each species in the cell.

    Args:
        symbols: Allowed elements.

    Raises:
        DatasetError: A symbol is unknown, or there are none.
    """

    def __init__(self, symbols: Sequence[str] = DEFAULT_ELEMENTS) -> None:
        if not symbols:
            raise DatasetError("expected at least one element to draw from, got none.")
        self.numbers = np.array([atomic_number(symbol) for symbol in symbols])
        self.anions = {atomic_number(s): ANIONS[s] for s in ANIONS if s in symbols}
        metals = [s for s in symbols if s not in _NEVER_CATIONS]
        self.metals = np.array([atomic_number(s) for s in metals], dtype=int)
        self._weights = np.array([_METALLOID_WEIGHT if s in _METALLOIDS else 1.0 for s in metals])
        self._cations: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for charge in range(1, 8):
            mask = np.array([charge in oxidation_states(z) for z in self.metals], dtype=bool)
            # The weight of an element is shared among its oxidation states.
            n_states = np.array([max(1, len(oxidation_states(z))) for z in self.metals])
            self._cations[charge] = self.metals[mask], (self._weights / n_states)[mask]

    def balanced(
        self, counts: Sequence[int], anions: Sequence[int], rng: np.random.Generator
    ) -> list[int] | None:
        """Sample a charge-balanced composition; ``anions`` are the indices of the species that are anions."""
        if len(anions) > len(self.anions):
            return None
        weights = np.array([weight for _, weight in self.anions.values()])
        drawn = rng.choice(list(self.anions), len(anions), replace=False, p=weights / weights.sum())
        return self.balancing(counts, dict(zip(anions, map(int, drawn), strict=True)), rng)

    def balancing(
        self, counts: Sequence[int], anions: Mapping[int, int], rng: np.random.Generator
    ) -> list[int] | None:
        """Sample cations that balance given anions, which are atomic numbers by index of the species.

        The probability of an assignment of charges is proportional to the number of matching cations.
        """
        charge_to_balance = -sum(counts[k] * self.anions[z][0] for k, z in anions.items())
        cations = [k for k in range(len(counts)) if k not in anions]
        assignments = _charge_assignments(tuple(counts[k] for k in cations), charge_to_balance)
        sizes = np.array([math.prod(self._cations[c][1].sum() for c in charges) for charges in assignments])
        if not sizes.sum():
            return None
        charges = assignments[rng.choice(len(assignments), p=sizes / sizes.sum())]
        elements = dict(anions)
        for k, charge in zip(cations, charges, strict=True):
            candidates, weights = self._cations[charge]
            elements[k] = int(rng.choice(candidates, p=weights / weights.sum()))
        return _if_distinct(elements)

    def with_metals(
        self, n_species: int, elements: Mapping[int, int], rng: np.random.Generator
    ) -> list[int] | None:
        """Sample metals or metalloids for all species but the given ones, without charge balance."""
        others = [k for k in range(n_species) if k not in elements]
        if len(others) > len(self.metals):
            return None
        weights = self._weights / self._weights.sum()
        drawn = rng.choice(self.metals, len(others), replace=False, p=weights)
        return _if_distinct({**elements, **dict(zip(others, map(int, drawn), strict=True))})

    def similar(
        self, number: int, width: float, rng: np.random.Generator, exclude: Collection[int] = ()
    ) -> int | None:
        """Sample the atomic number of an element similar to another one; None if there is no similar element.

        Weights are ``exp(-(distance / width)^2)`` with `element_distances`. Elements in ``exclude`` are not
        drawn.
        """
        candidates = self.numbers[~np.isin(self.numbers, list(exclude))]
        weights = np.exp(-((element_distances()[number, candidates] / width) ** 2))
        # With a vanishing sum the draw would be dominated by the least dissimilar element.
        if not weights.size or weights.sum() < 1e-3:
            return None
        return int(rng.choice(candidates, p=weights / weights.sum()))


@cache
def _charge_assignments(counts: tuple[int, ...], total: int) -> list[tuple[int, ...]]:
    """Return all charges from 1 to 7 of species with these counts that sum to a total."""
    assignments = itertools.product(range(1, 8), repeat=len(counts))
    return [a for a in assignments if sum(c * n for c, n in zip(a, counts, strict=True)) == total]


def _if_distinct(elements: Mapping[int, int]) -> list[int] | None:
    """Return the elements in the order of the species, or None if one occurs twice."""
    if len(set(elements.values())) < len(elements):
        return None
    return [elements[k] for k in range(len(elements))]
