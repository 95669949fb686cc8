"""Presets that decorate structure prototypes with elements."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from repose.data.generate.chemistry import ElementSampler, atomic_number
from repose.data.generate.prototypes import Prototype, ordered_derivatives, select
from repose.data.generate.structure_builder import StructureBuilder, TrialStructure

MAX_ATOMS = 12
# Sampling weights of prototypes with two, three and four species, and with any other number.
_SPECIES_WEIGHTS, _OTHER_WEIGHT = {2: 0.45, 3: 0.45, 4: 0.1}, 0.05
# Sampling weight of an ordered derivative relative to a prototype of the library.
_DERIVATIVE_WEIGHT = 0.3
# Probabilities of the ways to choose elements: charge-balanced, similar to the reference crystal, any metals.
_CHEMISTRIES = {"salt": 0.5, "alike": 0.3, "intermetallic": 0.2}
# Fraction of salts with the anion on the most electronegative site of the reference crystal.
_ANION_KEEPS_SITE = 0.7
# Width of the similarity to the reference elements, in units of `chemistry.element_distances`.
_WIDTH = 2.0

XMNO_ATOMS = 20
XMNO = (("Mg", "Ca", "Ba", "Sr"), "Mn", "O")


def bulk(builder: StructureBuilder, rng: np.random.Generator) -> Iterator[TrialStructure | None]:
    """Decorate random prototypes, at estimated volumes with some strain and displacements.

    Tag ``chemistry`` is ``salt``, ``alike`` or ``intermetallic``.

    Yields:
        Trial structures, without end; None if no elements were found for a prototype.
    """
    prototypes, weights = _weighted_prototypes(builder)
    while prototypes:
        prototype = prototypes[rng.choice(len(prototypes), p=weights)]
        chemistry = str(rng.choice(list(_CHEMISTRIES), p=list(_CHEMISTRIES.values())))
        elements = _draw_elements(chemistry, prototype, builder.sampler, rng)
        yield builder.decorate(prototype, elements, rng, chemistry=chemistry) if elements else None


def _weighted_prototypes(builder: StructureBuilder) -> tuple[list[Prototype], np.ndarray]:
    """Return allowed prototypes with their ordered derivatives, and sampling probabilities."""
    size = builder.max_atoms or MAX_ATOMS
    originals = [*select(builder.prototypes, size), *select(builder.user_prototypes, builder.max_atoms)]
    prototypes = [*originals, *select(ordered_derivatives(), size)]
    weights = np.where(np.arange(len(prototypes)) < len(originals), 1.0, _DERIVATIVE_WEIGHT)
    n_species = np.array([len(prototype.counts) for prototype in prototypes])
    for n in set(n_species.tolist()):
        weights[n_species == n] *= _SPECIES_WEIGHTS.get(n, _OTHER_WEIGHT) / weights[n_species == n].sum()
    return prototypes, weights / (weights.sum() or 1.0)


def _draw_elements(
    chemistry: str, prototype: Prototype, sampler: ElementSampler, rng: np.random.Generator
) -> list[int] | None:
    reference = prototype.reference_elements
    if chemistry == "intermetallic":
        return sampler.with_metals(len(reference), {}, rng)
    if chemistry == "alike":
        elements: list[int] = []
        for number in reference.tolist():
            similar = sampler.similar(number, _WIDTH, rng, exclude=elements)
            if similar is None:
                return None
            elements.append(similar)
        return elements
    if rng.random() < _ANION_KEEPS_SITE:
        anion = prototype.most_electronegative
    else:
        anion = int(rng.integers(len(reference)))
    # If an ordered derivative splits the sites of the anion into two species, both become anions.
    anions = np.flatnonzero(reference == reference[anion])
    return sampler.balanced(prototype.counts, anions.tolist(), rng)


def xmno(builder: StructureBuilder, rng: np.random.Generator) -> Iterator[TrialStructure | None]:
    """Decorate all ternary prototypes with Mn, O and one of Mg, Ca, Ba, Sr, on all sites.

    Charges need not balance. Each combination occurs once in random order, before all are repeated at other
    volumes.
    """
    prototypes = select(builder.prototypes, builder.max_atoms or XMNO_ATOMS, n_species=3)
    prototypes += select(builder.user_prototypes, builder.max_atoms, n_species=3)
    allowed = set(builder.sampler.numbers.tolist())
    metals = [z for z in map(atomic_number, XMNO[0]) if z in allowed]
    others = [atomic_number(symbol) for symbol in XMNO[1:]]
    combinations = [
        (prototype, order) for prototype in prototypes for x in metals for order in permutations([x, *others])
    ]
    while combinations:
        for k in rng.permutation(len(combinations)):
            prototype, order = combinations[k]
            yield builder.decorate(prototype, order, rng)
