"""Pairs by substitution, from any collection of relaxed crystals that share structure types.

The input is another crystal of the same type, its parent, with its cell and positions and the elements of
the target: where people start who replace elements in a known crystal. The target is the relaxed crystal
as it stands in the collection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.crystal.symmetry import polar
from repose.data.dataset import SPLITS, Pair
from repose.data.importers.structure_types import (
    GOOD,
    SAME_SITES,
    Mapping,
    Sites,
    best_mapping,
    fingerprint,
    mappings,
    misfit,
    reduced,
)
from repose.data.pairing import UNASSIGNED, Refusal, attempt, describe, states_to_pair
from repose.errors import DatasetError, InvalidCrystalError, ReposeError

if TYPE_CHECKING:
    from ase import Atoms

TRAIN = SPLITS[0]
PARENTS = "inputs are substituted relaxed crystals of the train split (of the own split where it has none)"


def substitution_pairs(
    crystals: Iterable[Pair],
    assign: Callable[[Pair], str] | None,
    rng: np.random.Generator,
    *,
    per_crystal: int = 1,
    similar: bool = True,
) -> Iterator[Pair | Refusal]:
    """Make pairs of crystals that share their structure type.

    A parent differs from its target in at least one element. Parents are crystals of the train split, for
    targets of all splits: nothing that a model is tested on is ever an input that it was trained on. Only
    where a type has no other crystal in the train split (as when whole types are split), parents come from
    the target's own split.

    Tags: ``parent`` is its id, ``prototype`` the type (``ABC3_221_1``: formula, space group within 0.1 A,
    running number), ``substituted`` the elements that were replaced (``Sr>Ba``). Tags of the source are kept,
    its ``prototype`` as ``source_prototype``.

    Args:
        crystals: From `read_relaxed`.
        assign: Split of a crystal; see `repose.data.splits`. None keeps the source's.
        rng: Draws parents where they need not be similar.
        per_crystal: Parents of every target, as far as there are; with more than one, ids are ``ID#1``, ...
        similar: Take the parents that differ in the fewest elements, and among these the chemically nearest
            (see `repose.data.generate.chemistry.distances`); else any.

    Yields:
        Pairs in the order of the crystals, and refusals of those without a parent.

    Raises:
        DatasetError: ``per_crystal`` is less than one.
    """
    if per_crystal < 1:
        raise DatasetError(f"parents per crystal must be 1 or more; got {per_crystal}.")
    refused: list[Refusal] = []
    placed: list[tuple[Prototype, int]] = []
    types: dict[Any, list[Prototype]] = {}
    running = Counter[tuple[str, int]]()
    for crystal in crystals:
        try:
            placed.append(_place(crystal, types, running))
        except ReposeError as error:
            refused.append(Refusal(crystal.id, str(error)))
        except Exception as error:  # linear algebra and other packages raise anything
            refused.append(Refusal(crystal.id, f"it cannot be laid onto others: {describe(error)}."))
    for prototype in dict.fromkeys(prototype for prototype, _ in placed):
        prototype.settle(assign, refused)
    yield from refused
    for prototype, index in placed:
        target = prototype.members[index]
        if target.crystal.split == UNASSIGNED:
            continue
        chosen = prototype.parents(index, per_crystal, None if similar else rng)
        if not chosen:
            yield Refusal(target.crystal.id, _why_alone(prototype))
        for k, (parent, exchange) in enumerate(chosen):
            name = target.crystal.id + (f"#{k + 1}" if per_crystal > 1 else "")
            yield attempt(name, _pair, name, prototype, target, prototype.members[parent], exchange)


@dataclass(frozen=True, eq=False)
class Member:
    """A crystal of a type: as it was read, and as the type's reference is written."""

    crystal: Pair
    mapping: Mapping
    sites: Sites


@dataclass(eq=False)
class Prototype:
    """A structure type of k elements: a reference crystal, and the crystals laid onto it.

    Attributes:
        name: Formula, space group and running number.
        reference: The first crystal of this type, in a reduced cell.
        members: Crystals of this type.
    """

    name: str
    reference: Sites
    members: list[Member] = field(default_factory=list)

    @cached_property
    def exchanges(self) -> dict[tuple[int, ...], list[Mapping]]:
        """Mappings of the reference onto itself, by what they do to the classes of its sites.

        Class c takes the element of class ``key[c]``: (0, 1) and (1, 0) for rock salt, whose two sites are
        alike.
        """
        found: dict[tuple[int, ...], list[Mapping]] = {}
        classes = self.reference.classes
        first = np.unique(classes, return_index=True)[1]
        for mapping in mappings(self.reference, self.reference, SAME_SITES):
            found.setdefault(tuple(classes[mapping.order[first]].tolist()), []).append(mapping)
        return found

    @cached_property
    def elements(self) -> np.ndarray:
        """Atomic numbers by member and class, ``(M, k)``."""
        first = np.unique(self.reference.classes, return_index=True)[1]
        return np.stack([member.sites.numbers[first] for member in self.members])

    def settle(self, assign: Callable[[Pair], str] | None, refused: list[Refusal]) -> None:
        """Give every member its split, and say of which that cannot be done."""
        for k, member in enumerate(self.members):
            try:
                tags = {f"source_{k}" if k == "prototype" else k: v for k, v in member.crystal.tags.items()}
                crystal = replace(member.crystal, tags=tags | {"prototype": self.name})
                crystal = crystal if assign is None else replace(crystal, split=assign(crystal))
                if crystal.split == UNASSIGNED:
                    raise DatasetError("the source names no split for it; split by chemical-system or a tag.")
            except ReposeError as error:
                refused.append(Refusal(member.crystal.id, str(error)))
                crystal = replace(member.crystal, split=UNASSIGNED)
            self.members[k] = replace(member, crystal=crystal)

    def parents(
        self, target: int, count: int, rng: np.random.Generator | None
    ) -> list[tuple[int, tuple[int, ...]]]:
        """Members to start from, and the exchange of sites that makes each most like the target.

        Args:
            target: Index of the member that is to be reached.
            count: How many, at most.
            rng: Draw them; None: take the most similar.
        """
        exchanges = list(self.exchanges)
        wanted, offered = self.elements[target], self.elements[:, np.array(exchanges)]  # (k,), (M, X, k)
        changed = (offered != wanted).sum(axis=-1)
        share = np.bincount(self.reference.classes) / len(self.reference.numbers)
        distance = (_unlikeness()[offered, wanted] * share).sum(axis=-1)
        # No distance exceeds 99, so that the number of elements always decides first.
        score = 1000 * changed + distance
        best = score.argmin(axis=1)
        possible = changed.min(axis=1) > 0
        splits = np.array([member.crystal.split for member in self.members])
        where = np.flatnonzero(possible & (splits == TRAIN))
        if len(where) == 0:
            where = np.flatnonzero(possible & (splits == splits[target]))
        if rng is None:
            where = where[np.argsort(score.min(axis=1)[where], kind="stable")]
        else:
            where = rng.permutation(where)
        return [(int(parent), exchanges[best[parent]]) for parent in where[:count]]


def _place(
    crystal: Pair, types: dict[Any, list[Prototype]], running: Counter[tuple[str, int]]
) -> tuple[Prototype, int]:
    """Lay a crystal onto the reference of its type; the first of a type is its reference.

    Args:
        crystal: In a primitive cell.
        types: Those known, by fingerprint; a new one is added.
        running: How many there are of each formula and space group.

    Returns:
        The type, and the crystal's place among its members.
    """
    sites = _sites(crystal)
    formula, number, orbits = fingerprint(sites)
    alike = types.setdefault((formula, number, orbits), [])
    mapping, prototype = None, None
    for known in alike:
        found = best_mapping(known.reference, sites)
        if found is not None and (mapping is None or found.misfit < mapping.misfit):
            mapping, prototype = found, known
            if found.misfit < GOOD:
                break
    if mapping is None or prototype is None:
        prototype = Prototype(f"{formula}_{number}_{running[formula, number] + 1}", reduced(sites))
        mapping = best_mapping(prototype.reference, sites)
        if mapping is None:
            raise InvalidCrystalError("it could not be laid onto itself: its cell is too distorted.")
        running[formula, number] += 1
        alike.append(prototype)
    prototype.members.append(Member(crystal, mapping, mapping.apply(sites)))
    return prototype, len(prototype.members) - 1


def _pair(name: str, prototype: Prototype, target: Member, parent: Member, exchange: tuple[int, ...]) -> Pair:
    """The parent with the target's elements, written and oriented as the target is; and the target."""
    offered = (mapping.apply(parent.sites) for mapping in prototype.exchanges[exchange])
    nearest = min(offered, key=lambda sites: misfit(target.sites, sites))
    start = target.mapping.undo(replace(nearest, numbers=target.sites.numbers))
    goal = _sites(target.crystal)
    # The rotation, and the reflection if the parent had to be mirrored, are of no meaning to the input.
    cell = goal.cell @ polar(np.linalg.solve(goal.cell, start.cell))[0]
    fractional = start.fractional + (goal.fractional - start.fractional).mean(axis=0)
    replaced = sorted(set(zip(nearest.numbers.tolist(), target.sites.numbers.tolist(), strict=True)))
    tags = target.crystal.tags | {
        "parent": parent.crystal.id,
        "substituted": " ".join(f"{_symbol(a)}>{_symbol(b)}" for a, b in replaced if a != b),
    }
    states = _atoms(Sites(goal.numbers, fractional, cell)), _atoms(goal)
    return states_to_pair(name, *states, split=target.crystal.split, tags=tags)


def _why_alone(prototype: Prototype) -> str:
    others = len(prototype.members) - 1
    if not others:
        return f"no other crystal read is of its structure type, {prototype.name}; add some, or leave it out."
    return (
        f"none of the {others} other crystals of its structure type, {prototype.name}, can be its parent: "
        "they are the same compound, or in other splits than train and its own."
    )


def _sites(crystal: Pair) -> Sites:
    fractional = crystal.relaxed_positions @ np.linalg.inv(crystal.relaxed_cell)
    return Sites(crystal.numbers, fractional, crystal.relaxed_cell)


def _atoms(sites: Sites) -> Atoms:
    from ase import Atoms

    return Atoms(sites.numbers, sites.fractional @ sites.cell, cell=sites.cell, pbc=True)


def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[number]


@cache
def _unlikeness() -> np.ndarray:
    """How unlike elements are, at most 99, ``(119, 119)``."""
    from repose.data.generate.chemistry import distances

    known = distances()
    table = np.full((119, 119), 99.0)
    table[: len(known), : len(known)] = np.minimum(known, 99.0)
    np.fill_diagonal(table, 0.0)
    return table
