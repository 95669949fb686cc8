"""Candidates by elements put into prototypes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from repose.data.generate.chemistry import Chemistry, atomic_number
from repose.data.generate.prototypes import Prototype, decorated, select
from repose.data.generate.structure_builder import Draft, Ingredients

MAX_ATOMS = 12
# How often prototypes of two, three and four species are drawn, and of any other number.
_SPECIES, _OTHER_SPECIES = {2: 0.45, 3: 0.45, 4: 0.1}, 0.05
# How often an ordered derivative is drawn for every prototype of the library.
_DERIVED = 0.3
# How elements are drawn: balancing charges, like those that the prototype is known by, or all metals.
_WAYS = {"salt": 0.5, "alike": 0.3, "intermetallic": 0.2}
# Share of salts whose most electronegative site stays that of the anion.
_ANION_STAYS = 0.7
# Of the likeness to elements that the prototype is known by, on the scale of `chemistry.distances`.
_WIDTH = 2.0

XMNO_ATOMS = 20
XMNO = (("Mg", "Ca", "Ba", "Sr"), "Mn", "O")


def bulk(given: Ingredients, rng: np.random.Generator) -> Iterator[Draft | None]:
    """Endless drafts: a prototype, elements for its species, a guessed volume, some strain and displacements.

    Tag ``chemistry`` says how the elements were drawn.

    Yields:
        Drafts, and None where no elements were found for a prototype.
    """
    prototypes, shares = _weigh(given)
    while prototypes:
        prototype = prototypes[rng.choice(len(prototypes), p=shares)]
        way = str(rng.choice(list(_WAYS), p=list(_WAYS.values())))
        elements = _draw(way, prototype, given.chemistry, rng)
        yield None if elements is None else given.fill(prototype, elements, rng, chemistry=way)


def _weigh(given: Ingredients) -> tuple[list[Prototype], np.ndarray]:
    """Prototypes that may be drawn, ordered derivatives among them, and how often each is."""
    size = given.max_atoms or MAX_ATOMS
    known = [*select(given.prototypes, size), *select(given.own_prototypes, given.max_atoms)]
    kept = [*known, *select(decorated(), size)]
    weights = np.array([1.0] * len(known) + [_DERIVED] * (len(kept) - len(known)))
    n_species = np.array([len(prototype.original) for prototype in kept])
    for n in set(n_species.tolist()):
        weights[n_species == n] *= _SPECIES.get(n, _OTHER_SPECIES) / weights[n_species == n].sum()
    return kept, weights / (weights.sum() or 1.0)


def _draw(way: str, prototype: Prototype, chemistry: Chemistry, rng: np.random.Generator) -> list[int] | None:
    if way == "intermetallic":
        return chemistry.complete({}, range(len(prototype.original)), rng)
    if way == "alike":
        chosen: list[int] = []
        for number in prototype.original.tolist():
            like = chemistry.alike(number, _WIDTH, rng, other_than=chosen)
            if like is None:
                return None
            chosen.append(like)
        return chosen
    if rng.random() < _ANION_STAYS:
        anion = prototype.most_electronegative
    else:
        anion = int(rng.integers(len(prototype.original)))
    # Sites of one anion that are two species of an ordered derivative take two anions.
    anions = np.flatnonzero(prototype.original == prototype.original[anion])
    return chemistry.salt(prototype.counts, anions.tolist(), rng)


def xmno(given: Ingredients, rng: np.random.Generator) -> Iterator[Draft | None]:
    """Endless drafts of Mg, Ca, Ba or Sr with Mn and O: all ternary prototypes, their species in any order.

    All come in random order, whether charges balance or not, and then again at other volumes.
    """
    prototypes = select(given.prototypes, given.max_atoms or XMNO_ATOMS, n_species=3)
    prototypes += select(given.own_prototypes, given.max_atoms, n_species=3)
    allowed = set(given.chemistry.numbers.tolist())
    metals = [z for z in map(atomic_number, XMNO[0]) if z in allowed]
    others = [atomic_number(symbol) for symbol in XMNO[1:]]
    combinations = [
        (prototype, order) for prototype in prototypes for x in metals for order in permutations([x, *others])
    ]
    while combinations:
        for k in rng.permutation(len(combinations)):
            prototype, order = combinations[k]
            yield given.fill(prototype, order, rng)
