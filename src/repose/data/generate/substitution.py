"""Candidates by elements replaced in relaxed crystals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from repose.data.generate.chemistry import Chemistry
from repose.data.generate.structure_builder import Draft, Ingredients, Parent

# Widths on the scale of `repose.data.generate.chemistry.distances`, of which one is drawn.
_WIDTHS = {"close": 1.0, "bold": 2.0}
_VERY_CLOSE = 0.6
# Share of candidates with two elements replaced, where there are two.
_BOTH = 0.3
# Share of distorted ones, and how much.
_SUBST = (0.5, 0.01, (0.01, 0.05))
_NEAR = (0.8, 0.01, (0.01, 0.05))
# Share of `near` with an element replaced, and the spread of log V around where it was or should be.
_REPLACED, _SPREAD = 0.5, 0.02


def subst(given: Ingredients, rng: np.random.Generator) -> Iterator[Draft | None]:
    """Endless drafts: one or two elements of a relaxed crystal replaced by others, in the cell as it is.

    This is how people start from a known crystal. Half are slightly strained and rattled. Severity is
    ``close`` for neighbours in the periodic table, ``bold`` for elements farther away.

    Yields:
        Drafts, and None where an element has none that is like it.
    """
    parents = _fitting(given)
    while parents:
        parent = parents[rng.integers(len(parents))]
        severity = str(rng.choice(list(_WIDTHS)))
        numbers = _replace(parent.atoms.numbers, _WIDTHS[severity], given.chemistry, rng)
        if numbers is None:
            yield None
            continue
        atoms = parent.atoms.copy()
        atoms.numbers = numbers
        if given.volume_spread:
            atoms = given.spread(atoms, given.volume_spread, rng)
        atoms, start = given.disturb(atoms, rng, *_SUBST)
        yield Draft(atoms, _tags(parent, severity=severity, start=start))


def near(given: Ingredients, rng: np.random.Generator) -> Iterator[Draft | None]:
    """Endless drafts close to equilibrium, a few percent off in volume, as starts from databases are.

    Half are relaxed crystals themselves, half have one element replaced by a very similar one and the volume
    changed by what that changes in the guess; most are slightly strained and rattled.
    """
    parents = _fitting(given)
    spread = _SPREAD if given.volume_spread is None else given.volume_spread
    while parents:
        parent = parents[rng.integers(len(parents))]
        atoms, severity = parent.atoms.copy(), "same"
        if rng.random() < _REPLACED:
            numbers = _replace(atoms.numbers, _VERY_CLOSE, given.chemistry, rng, both=0.0)
            if numbers is None:
                yield None
                continue
            atoms.numbers, severity = numbers, "replaced"
            atoms = given.rescaled(atoms, parent)
        atoms, start = given.disturb(given.spread(atoms, spread, rng), rng, *_NEAR)
        yield Draft(atoms, _tags(parent, severity=severity, start=start))


def _fitting(given: Ingredients) -> list[Parent]:
    """Parents that are small enough, and of elements of which enough is known."""
    return [
        parent
        for parent in given.parents
        if (given.max_atoms is None or len(parent.atoms) <= given.max_atoms)
        and given.volumes.covers(parent.atoms.numbers)
    ]


def _replace(
    numbers: np.ndarray, width: float, chemistry: Chemistry, rng: np.random.Generator, both: float = _BOTH
) -> np.ndarray | None:
    """Atomic numbers with one or two elements replaced by different ones that the crystal does not hold."""
    present = np.unique(numbers).tolist()
    many = 2 if len(present) > 1 and rng.random() < both else 1
    replaced = numbers.copy()
    taken = set(present)
    for number in rng.choice(present, many, replace=False).tolist():
        other = chemistry.alike(number, width, rng, other_than=taken)
        if other is None:
            return None
        taken.add(other)
        replaced[numbers == number] = other
    return replaced


def _tags(parent: Parent, **tags: str) -> dict[str, str]:
    prototype = {"prototype": parent.prototype} if parent.prototype else {}
    return {**prototype, **tags, "parent": parent.id}
