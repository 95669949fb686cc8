"""Crystals that were there before: in the same set, or in data that exist already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

# Starts of one crystal that differ by more in volume are two inputs, not one twice.
VOLUME_TOLERANCE = 0.05
# Matching takes seconds for cells beyond this.
_MOST_ATOMS = 60

Formula = tuple[tuple[int, int], ...]


def reduced_formula(numbers: np.ndarray) -> Formula:
    """Atomic numbers with their counts, divided by the greatest common divisor."""
    found, counts = np.unique(numbers, return_counts=True)
    divisor = gcd(*counts.tolist())
    return tuple((int(z), int(c) // divisor) for z, c in zip(found, counts, strict=True))


@dataclass(frozen=True, eq=False)
class _Entry:
    atoms: Atoms
    prototype: str
    species: str
    # Of a crystal elsewhere: however it was started and wherever it relaxed to, it is not to be made again.
    elsewhere: bool

    @cached_property
    def structure(self) -> Structure:
        from pymatgen.core import Lattice, Structure

        lattice, symbols = Lattice(self.atoms.cell.array), self.atoms.get_chemical_symbols()
        return Structure(lattice, symbols, self.atoms.positions, coords_are_cartesian=True)

    @cached_property
    def volume(self) -> float:
        return self.atoms.get_volume() / len(self.atoms)


class Known:
    """Crystals by composition, to be asked whether another one is among them.

    Two crystals are the same if they have one reduced formula and

    - inside a set: volumes per atom within 5%, and the same elements on the same sites of one prototype, or
      structures that match;
    - elsewhere: the same prototype where both name one, or else structures that match, at any volume.

    Structures are matched by pymatgen's `StructureMatcher`, with its default tolerances and scaled to one
    volume, only where composition and prototype leave it open; cells of more than 60 atoms are not.
    """

    def __init__(self) -> None:
        from pymatgen.core.structure_matcher import StructureMatcher

        self._entries: dict[Formula, list[_Entry]] = defaultdict(list)
        self._swaps: dict[tuple[str, ...], bool] = {}
        self._matcher = StructureMatcher()

    def exclude(self, crystals: Iterable[tuple[Atoms, str]]) -> None:
        """Add crystals from elsewhere, each with the label of its prototype, empty where unknown."""
        for atoms, prototype in crystals:
            self._entries[reduced_formula(atoms.numbers)].append(_Entry(atoms, prototype, "", True))

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        return not self._entries

    def excludes(self, atoms: Atoms, prototype: str = "") -> bool:
        """Whether a crystal is among those from elsewhere; it is not added."""
        new = _Entry(atoms, prototype, "", False)
        entries = self._entries.get(reduced_formula(atoms.numbers), [])
        return any(old.elsewhere and self._same(new, old) for old in entries)

    def find(self, atoms: Atoms, prototype: str = "", species: str = "") -> str | None:
        """Look a crystal up, and add it if it is new.

        Args:
            atoms: A crystal.
            prototype: Label of its prototype, empty where unknown.
            species: Elements of the prototype's species in their order, e.g. ``"Sr-O-Ti"``.

        Returns:
            ``"excluded"`` or ``"duplicate"``, or None where it is new.
        """
        new = _Entry(atoms, prototype, species, False)
        entries = self._entries[reduced_formula(atoms.numbers)]
        for old in entries:
            if self._same(new, old):
                return "excluded" if old.elsewhere else "duplicate"
        entries.append(new)
        return None

    def _same(self, new: _Entry, old: _Entry) -> bool:
        labelled = bool(new.prototype and old.prototype)
        if labelled and new.prototype != old.prototype:
            return False
        if old.elsewhere:
            return labelled or self._match(new, old)
        if abs(new.volume / old.volume - 1) > VOLUME_TOLERANCE:
            return False
        if not (labelled and new.species and old.species):
            return self._match(new, old)
        if new.species == old.species:
            return True
        # Whether two species of a prototype may change places is the same for all of its crystals.
        swap = (new.prototype, *sorted((new.species, old.species)))
        if swap not in self._swaps:
            self._swaps[swap] = self._match(new, old)
        return self._swaps[swap]

    def _match(self, new: _Entry, old: _Entry) -> bool:
        if max(len(new.atoms), len(old.atoms)) > _MOST_ATOMS:
            return False
        return bool(self._matcher.fit(new.structure, old.structure))
