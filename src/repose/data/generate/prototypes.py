"""Prototypes: crystals whose species are waiting for elements."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from repose.crystal.elements import element_table
from repose.data.candidates import read_candidates
from repose.data.generate.chemistry import LAST
from repose.data.pairing import Refusal


@dataclass(frozen=True, eq=False)
class Prototype:
    """A structure type of n atoms and k species, of no size.

    Attributes:
        label: AFLOW label, e.g. ``AB3C_cP5_221_a_c_b``; of a user's own structure its name.
        species: Which species an atom is, ``(n,)`` int in 0...k-1, in the alphabetical order of the elements
            of the crystal that the type is known by, which is that of the letters in an AFLOW label.
        original: Atomic numbers of these elements, ``(k,)``.
        fractional: Fractional coordinates, ``(n, 3)``.
        cell: Lattice vectors as rows, ``(3, 3)``, of volume 1.
        family: Label of the prototype that this one is made of, if it is; they pack atoms alike.
    """

    label: str
    species: np.ndarray
    original: np.ndarray
    fractional: np.ndarray
    cell: np.ndarray
    family: str = ""

    @classmethod
    def from_atoms(cls, label: str, atoms: Atoms) -> Prototype:
        """Take species and shape from a crystal."""
        symbols = sorted(set(atoms.get_chemical_symbols()))
        cell = atoms.cell.array
        return cls(
            label=label,
            species=np.array([symbols.index(symbol) for symbol in atoms.get_chemical_symbols()]),
            original=Atoms(symbols).numbers,
            fractional=atoms.positions @ np.linalg.inv(cell),
            cell=cell / np.cbrt(abs(np.linalg.det(cell))),
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Atoms of every species."""
        return tuple(np.bincount(self.species).tolist())

    @property
    def most_electronegative(self) -> int:
        """The species that is most electronegative in the crystal that the type is known by."""
        return int(element_table()["electronegativity"][self.original].argmax())

    def fill(self, elements: Sequence[int], volume: float) -> Atoms:
        """A crystal of this type.

        Args:
            elements: Atomic number of every species.
            volume: Of the cell in A^3.
        """
        cell = self.cell * np.cbrt(volume)
        return Atoms(np.array(elements)[self.species], self.fractional @ cell, cell=cell, pbc=True)


@cache
def library() -> tuple[Prototype, ...]:
    """Primitive cells of binary to quaternary types of the AFLOW library, up to 20 atoms; by label.

    Sources: Mehl et al., Comput. Mater. Sci. 136, S1 (2017); Hicks et al., ibid. 161, S1 (2019), as the
    package pymatgen distributes them; see ``tools/make_prototypes.py``.
    """
    return tuple(Prototype.from_atoms(atoms.info["prototype"], atoms) for atoms in _library_atoms())


@cache
def _library_atoms() -> tuple[Atoms, ...]:
    from ase.io.extxyz import read_xyz

    file = resources.files("repose.data.generate").joinpath("prototypes.extxyz")
    every: Any = slice(None)  # which the function takes, though it is annotated otherwise
    return tuple(read_xyz(io.StringIO(file.read_text(encoding="utf-8")), index=every))


@cache
def decorated() -> tuple[Prototype, ...]:
    """Ordered derivatives of the `library`: one orbit of a species that has several becomes a species itself.

    Labels are those of the parents with a number, e.g. ``AB_hP8_194_ac_f-1``.
    """
    derived = []
    for parent, atoms in zip(library(), _library_atoms(), strict=True):
        orbits = atoms.arrays["orbit"]
        several: list[int] = []
        for letter in range(len(parent.original)):
            found = np.unique(orbits[parent.species == letter]).tolist()
            # Of two orbits, either leaves the other: the same type twice.
            several += found if len(found) > 2 else found[1:]
        for k, orbit in enumerate(several):
            species = parent.species.copy()
            species[orbits == orbit] = len(parent.original)
            original = np.append(parent.original, parent.original[parent.species[orbit]])
            derived.append(
                replace(
                    parent,
                    label=f"{parent.label}-{k + 1}",
                    species=species,
                    original=original,
                    family=parent.label,
                )
            )
    return tuple(derived)


def select(
    prototypes: Sequence[Prototype], max_atoms: int | None = None, n_species: int | None = None
) -> list[Prototype]:
    """Those of at most so many atoms, and of this number of species; None is any."""
    return [
        p
        for p in prototypes
        if (max_atoms is None or len(p.species) <= max_atoms)
        and (n_species is None or len(p.original) == n_species)
    ]


def read_prototypes(paths: Sequence[Path]) -> Iterator[Prototype | Refusal]:
    """A user's own structures as prototypes.

    Their label is the entry ``prototype`` of extended XYZ, or else the name.

    Yields:
        Prototypes, and refusals of what cannot be read or is no bulk crystal.

    Raises:
        DatasetError: A path holds nothing to read.
    """
    for item in itertools.chain.from_iterable(map(read_candidates, paths)):
        if isinstance(item, Refusal):
            yield item
        elif not item.pbc.all():
            yield Refusal(item.id, "it is not periodic in all directions, which a prototype must be.")
        elif item.numbers.max() > LAST:
            yield Refusal(item.id, f"it holds elements beyond number {LAST}, of which nothing is tabulated.")
        else:
            yield Prototype.from_atoms(item.tags.get("prototype", item.id), item.to_atoms())
