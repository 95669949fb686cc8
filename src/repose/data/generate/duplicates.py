"""Detection of duplicates among new crystals, and of crystals that other data sets already contain."""

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

# New crystals of one structure with a larger relative difference in volume are different inputs.
VOLUME_TOLERANCE = 0.05
# Structure matching takes seconds for larger cells.
_MAX_ATOMS = 60

Formula = tuple[tuple[int, int], ...]


def reduced_formula(numbers: np.ndarray) -> Formula:
    """Return atomic numbers with their counts, divided by the greatest common divisor."""
    elements, counts = np.unique(numbers, return_counts=True)
    divisor = gcd(*counts.tolist())
    return tuple((int(z), int(c) // divisor) for z, c in zip(elements, counts, strict=True))


@dataclass(frozen=True, eq=False)
class _Entry:
    atoms: Atoms
    prototype: str
    species: str = ""
    excluded: bool = False

    @cached_property
    def structure(self) -> Structure:
        from pymatgen.core import Lattice, Structure

        lattice, symbols = Lattice(self.atoms.cell.array), self.atoms.get_chemical_symbols()
        return Structure(lattice, symbols, self.atoms.positions, coords_are_cartesian=True)

    @cached_property
    def volume_per_atom(self) -> float:
        return self.atoms.get_volume() / len(self.atoms)


class DuplicateFilter:
    """Finds crystals that are equal to an earlier crystal or to an excluded one.

    Two crystals with the same reduced formula are equal

    - to an earlier crystal: if volumes per atom differ by at most 5%, and if the same elements are on the
      same sites of one prototype or the structures match;
    - to an excluded crystal: if both have the same prototype label, or, without labels, if the structures
      match, at any volume.

    Structures are matched by pymatgen's `StructureMatcher` with default tolerances, after scaling to the same
    volume, and only if composition and prototype do not decide. Cells above 60 atoms are never matched.
    """

    def __init__(self) -> None:
        from pymatgen.core.structure_matcher import StructureMatcher

        self._entries: dict[Formula, list[_Entry]] = defaultdict(list)
        self._equivalent_species: dict[tuple[str, ...], bool] = {}
        self._matcher = StructureMatcher()

    def exclude(self, crystals: Iterable[tuple[Atoms, str]]) -> None:
        """Add excluded crystals, each with its prototype label (empty if unknown)."""
        for atoms, prototype in crystals:
            entry = _Entry(atoms, prototype, excluded=True)
            self._entries[reduced_formula(atoms.numbers)].append(entry)

    @property
    def empty(self) -> bool:
        """Return whether the filter contains no crystal."""
        return not self._entries

    def is_excluded(self, atoms: Atoms, prototype: str = "") -> bool:
        """Return whether a crystal is equal to an excluded one; the crystal is not added."""
        new = _Entry(atoms, prototype)
        entries = self._entries.get(reduced_formula(atoms.numbers), [])
        return any(old.excluded and self._equal(new, old) for old in entries)

    def add(self, atoms: Atoms, prototype: str = "", species: str = "") -> str | None:
        """Add a crystal unless it is a duplicate; see `TrialStructure` for prototype and species.

        Returns:
            None if the crystal was added, else the reason: ``"excluded"`` or ``"duplicate"``.
        """
        new = _Entry(atoms, prototype, species)
        entries = self._entries[reduced_formula(atoms.numbers)]
        for old in entries:
            if self._equal(new, old):
                return "excluded" if old.excluded else "duplicate"
        entries.append(new)
        return None

    def _equal(self, new: _Entry, old: _Entry) -> bool:
        labelled = bool(new.prototype and old.prototype)
        if labelled and new.prototype != old.prototype:
            return False
        if old.excluded:
            return labelled or self._match(new, old)
        if abs(new.volume_per_atom / old.volume_per_atom - 1) > VOLUME_TOLERANCE:
            return False
        if not (labelled and new.species and old.species):
            return self._match(new, old)
        if new.species == old.species:
            return True
        # Equivalence of two orders of species is a property of the prototype: one match decides for all.
        key = (new.prototype, *sorted((new.species, old.species)))
        if key not in self._equivalent_species:
            self._equivalent_species[key] = self._match(new, old)
        return self._equivalent_species[key]

    def _match(self, new: _Entry, old: _Entry) -> bool:
        if max(len(new.atoms), len(old.atoms)) > _MAX_ATOMS:
            return False
        return bool(self._matcher.fit(new.structure, old.structure))
