"""Pairs by substitution, from relaxed crystals that share structure types.

The input of a pair is another crystal of the same type, its parent, with the elements of the target. The
target is the relaxed crystal as it was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.crystal.deformation import polar
from repose.data.dataset import SPLITS, Pair
from repose.data.importers.structure_types import (
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
PARENTS_DESCRIPTION = (
    "inputs are substituted relaxed crystals of the train split (of the own split where it has none)"
)


def substitution_pairs(
    crystals: Iterable[Pair],
    assign: Callable[[Pair], str] | None,
    rng: np.random.Generator,
    *,
    per_crystal: int = 1,
    similar: bool = True,
) -> Iterator[Pair | Refusal]:
    """Make pairs of crystals that share their structure type.

    A parent differs from its target in at least one element. Parents of targets of all splits are from the
    train split, so that no test input is a training target. If a type has no other crystal in the train split
    (as when whole types are split), parents are from the split of the target.

    Tags: ``parent`` is its id, ``prototype`` the type (``ABC3_221_1``: formula, space group within 0.1 A,
    running number), ``substituted`` the replaced elements (``Sr>Ba``). Tags of the source are kept, its
    ``prototype`` as ``source_prototype``.

    Args:
        crystals: From `read_relaxed`.
        assign: Returns the split of a crystal; see `repose.data.splits`. None keeps the split of the source.
        rng: Draws parents if ``similar`` is false.
        per_crystal: Maximum number of parents of a target; if more than one, ids are ``ID#1``, ...
        similar: Choose the parents that differ in the fewest elements, and among these the chemically nearest
            (see `repose.data.generate.chemistry.element_distances`).

    Yields:
        Pairs in the order of the crystals, and refusals of crystals without a parent.

    Raises:
        DatasetError: ``per_crystal`` is less than one.
    """
    if per_crystal < 1:
        raise DatasetError(f"parents per crystal must be 1 or more; got {per_crystal}.")
    refused: list[Refusal] = []
    members: list[tuple[StructureType, int]] = []
    types: dict[Any, list[StructureType]] = {}
    counts = Counter[tuple[str, int]]()
    for crystal in crystals:
        try:
            members.append(_add(crystal, types, counts))
        except ReposeError as error:
            refused.append(Refusal(crystal.id, str(error)))
        except Exception as error:  # numpy and other packages may raise any error
            refused.append(Refusal(crystal.id, f"it cannot be mapped onto others: {describe(error)}."))
    for structure_type in dict.fromkeys(structure_type for structure_type, _ in members):
        structure_type.assign_splits(assign, refused)
    yield from refused
    for structure_type, index in members:
        target = structure_type.members[index]
        if target.crystal.split == UNASSIGNED:
            continue
        parents = structure_type.parents(index, per_crystal, None if similar else rng)
        if not parents:
            yield Refusal(target.crystal.id, _no_parent_reason(structure_type))
        for k, (parent, exchange) in enumerate(parents):
            name = target.crystal.id + (f"#{k + 1}" if per_crystal > 1 else "")
            yield attempt(name, _pair, name, structure_type, target, structure_type.members[parent], exchange)


@dataclass(frozen=True, eq=False)
class Member:
    """A crystal of a type as read, and its mapping onto the reference of the type."""

    crystal: Pair
    mapping: Mapping
    sites: Sites


@dataclass(eq=False)
class StructureType:
    """A structure type of k elements: a reference crystal, and the crystals mapped onto it.

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
        """Mappings of the reference onto itself, by their permutation of the classes of sites.

        Class c gets the element of class ``key[c]``: (0, 1) and (1, 0) for rock salt with its two equivalent
        sites.
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

    def assign_splits(self, assign: Callable[[Pair], str] | None, refused: list[Refusal]) -> None:
        """Assign a split to every member, and append members for which this fails to ``refused``."""
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
        """Return at most ``count`` parents of a member, each with the most similar exchange of sites.

        Parents are drawn by ``rng``; without it they are the most similar ones.
        """
        exchanges = list(self.exchanges)
        elements, exchanged = self.elements[target], self.elements[:, np.array(exchanges)]  # (k,), (M, X, k)
        changed = (exchanged != elements).sum(axis=-1)
        fractions = np.bincount(self.reference.classes) / len(self.reference.numbers)
        distance = (_distance_table()[exchanged, elements] * fractions).sum(axis=-1)
        # Distances are at most 99: the number of changed elements has priority.
        score = 1000 * changed + distance
        best = score.argmin(axis=1)
        possible = changed.min(axis=1) > 0
        splits = np.array([member.crystal.split for member in self.members])
        indices = np.flatnonzero(possible & (splits == TRAIN))
        if len(indices) == 0:
            indices = np.flatnonzero(possible & (splits == splits[target]))
        nearest = np.argsort(score.min(axis=1)[indices], kind="stable")
        indices = indices[nearest] if rng is None else rng.permutation(indices)
        return [(int(parent), exchanges[best[parent]]) for parent in indices[:count]]


def _add(
    crystal: Pair, types: dict[Any, list[StructureType]], counts: Counter[tuple[str, int]]
) -> tuple[StructureType, int]:
    """Add a crystal to its structure type; the first crystal of a type is its reference.

    Args:
        crystal: In a primitive cell.
        types: Known types by fingerprint.
        counts: Number of types of each formula and space group.

    Returns:
        The type, and the index of the crystal among its members.
    """
    sites = _sites(crystal)
    formula, number, orbits = fingerprint(sites)
    known = types.setdefault((formula, number, orbits), [])
    best = best_mapping([structure_type.reference for structure_type in known], sites)
    if best is None:
        reference = reduced(sites)
        best = best_mapping([reference], sites)
        if best is None:
            raise InvalidCrystalError("it cannot be mapped onto itself: its cell is too distorted.")
        counts[formula, number] += 1
        known.append(StructureType(f"{formula}_{number}_{counts[formula, number]}", reference))
        best = len(known) - 1, best[1]
    structure_type, mapping = known[best[0]], best[1]
    structure_type.members.append(Member(crystal, mapping, mapping.apply(sites)))
    return structure_type, len(structure_type.members) - 1


def _pair(
    name: str, structure_type: StructureType, target: Member, parent: Member, exchange: tuple[int, ...]
) -> Pair:
    """Return the pair of the parent, with elements, basis and orientation of the target, and the target."""
    from ase.data import chemical_symbols as symbols

    images = (mapping.apply(parent.sites) for mapping in structure_type.exchanges[exchange])
    nearest = min(images, key=lambda sites: misfit(target.sites, sites))
    initial = target.mapping.undo(replace(nearest, numbers=target.sites.numbers))
    relaxed = _sites(target.crystal)
    # Remove the rotation, and the reflection if the parent was mirrored.
    cell = relaxed.cell @ polar(np.linalg.solve(relaxed.cell, initial.cell))[0]
    fractional = initial.fractional + (relaxed.fractional - initial.fractional).mean(axis=0)
    replaced = sorted(set(zip(nearest.numbers.tolist(), target.sites.numbers.tolist(), strict=True)))
    tags = target.crystal.tags | {
        "parent": parent.crystal.id,
        "substituted": " ".join(f"{symbols[a]}>{symbols[b]}" for a, b in replaced if a != b),
    }
    states = _atoms(Sites(relaxed.numbers, fractional, cell)), _atoms(relaxed)
    return states_to_pair(name, *states, split=target.crystal.split, tags=tags)


def _no_parent_reason(structure_type: StructureType) -> str:
    others = len(structure_type.members) - 1
    if not others:
        return f"no other crystal has its structure type, {structure_type.name}; add some, or leave it out."
    return (
        f"none of the {others} other crystals of its structure type, {structure_type.name}, can be its "
        "parent: they are the same compound, or in other splits than train and its own."
    )


def _sites(crystal: Pair) -> Sites:
    fractional = crystal.relaxed_positions @ np.linalg.inv(crystal.relaxed_cell)
    return Sites(crystal.numbers, fractional, crystal.relaxed_cell)


def _atoms(sites: Sites) -> Atoms:
    from ase import Atoms

    return Atoms(sites.numbers, sites.fractional @ sites.cell, cell=sites.cell, pbc=True)


@cache
def _distance_table() -> np.ndarray:
    """Return chemical distances of elements, at most 99, ``(119, 119)``."""
    from repose.data.generate.chemistry import element_distances

    known = element_distances()
    table = np.full((119, 119), 99.0)
    table[: len(known), : len(known)] = np.minimum(known, 99.0)
    np.fill_diagonal(table, 0.0)
    return table
