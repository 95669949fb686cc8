"""Structure prototypes of bulk crystals: sites whose elements are not chosen yet."""

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
from repose.crystal.volumes import LAST
from repose.data.candidates import read_candidates
from repose.data.pairing import Refusal


@dataclass(frozen=True, eq=False)
class Prototype:
    """A structure type of n atoms and k species, without a length scale.

    Attributes:
        label: AFLOW label, e.g. ``AB3C_cP5_221_a_c_b``; the name of a user's own structure.
        species: Species of each atom, ``(n,)`` int in 0...k-1, in the alphabetical order of the elements of
            the reference crystal, as the letters of an AFLOW label.
        reference_elements: Atomic number of each species in the reference crystal, ``(k,)``.
        fractional: Fractional coordinates, ``(n, 3)``.
        cell: Lattice vectors as rows, ``(3, 3)``, of volume 1.
        parent_label: Label of the prototype that this one is an ordered derivative of, if any.
    """

    label: str
    species: np.ndarray
    reference_elements: np.ndarray
    fractional: np.ndarray
    cell: np.ndarray
    parent_label: str = ""

    @classmethod
    def from_atoms(cls, label: str, atoms: Atoms) -> Prototype:
        """Make a prototype of a reference crystal."""
        symbols = sorted(set(atoms.get_chemical_symbols()))
        cell = atoms.cell.array
        return cls(
            label=label,
            species=np.array([symbols.index(symbol) for symbol in atoms.get_chemical_symbols()]),
            reference_elements=Atoms(symbols).numbers,
            fractional=atoms.positions @ np.linalg.inv(cell),
            cell=cell / np.cbrt(abs(np.linalg.det(cell))),
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of atoms of each species."""
        return tuple(np.bincount(self.species).tolist())

    @property
    def most_electronegative(self) -> int:
        """Index of the species that is most electronegative in the reference crystal."""
        return int(element_table()["electronegativity"][self.reference_elements].argmax())

    def decorate(self, elements: Sequence[int], volume: float) -> Atoms:
        """Return a crystal with one element per species and a cell of this volume in A^3."""
        cell = self.cell * np.cbrt(volume)
        return Atoms(np.array(elements)[self.species], self.fractional @ cell, cell=cell, pbc=True)


@cache
def aflow_prototypes() -> tuple[Prototype, ...]:
    """Return primitive cells of binary to quaternary AFLOW prototypes of up to 20 atoms, sorted by label.

    Sources: Mehl et al., Comput. Mater. Sci. 136, S1 (2017); Hicks et al., ibid. 161, S1 (2019), as
    distributed with pymatgen; see ``tools/make_prototypes.py``.
    """
    return tuple(Prototype.from_atoms(atoms.info["prototype"], atoms) for atoms in _aflow_atoms())


@cache
def _aflow_atoms() -> tuple[Atoms, ...]:
    from ase.io.extxyz import read_xyz

    file = resources.files("repose.data.generate").joinpath("prototypes.extxyz")
    all_frames: Any = slice(None)  # accepted, though the annotation is int
    return tuple(read_xyz(io.StringIO(file.read_text(encoding="utf-8")), index=all_frames))


@cache
def ordered_derivatives() -> tuple[Prototype, ...]:
    """Return ordered derivatives of `aflow_prototypes`.

    Where a species occupies several orbits, one of them becomes a species of its own. Labels are those of the
    parent prototypes with a number, e.g. ``AB_hP8_194_ac_f-1``.
    """
    derivatives = []
    for parent, atoms in zip(aflow_prototypes(), _aflow_atoms(), strict=True):
        orbits = atoms.arrays["orbit"]
        split_orbits: list[int] = []
        for k in range(len(parent.reference_elements)):
            found = np.unique(orbits[parent.species == k]).tolist()
            # Splitting off either of two orbits gives the same prototype.
            split_orbits += found if len(found) > 2 else found[1:]
        for number, orbit in enumerate(split_orbits, start=1):
            elements = parent.reference_elements
            derivatives.append(
                replace(
                    parent,
                    label=f"{parent.label}-{number}",
                    species=np.where(orbits == orbit, len(elements), parent.species),
                    reference_elements=np.append(elements, elements[parent.species[orbit]]),
                    parent_label=parent.label,
                )
            )
    return tuple(derivatives)


def select(
    prototypes: Sequence[Prototype], max_atoms: int | None = None, n_species: int | None = None
) -> list[Prototype]:
    """Return the prototypes with at most ``max_atoms`` atoms and with ``n_species`` species; None is any."""
    sized = [p for p in prototypes if max_atoms is None or len(p.species) <= max_atoms]
    return [p for p in sized if n_species in (None, len(p.counts))]


def read_prototypes(paths: Sequence[Path]) -> Iterator[Prototype | Refusal]:
    """Read a user's own structures as prototypes.

    Labels are the entry ``prototype`` of extended XYZ, or else the name of the structure.

    Yields:
        Prototypes, and refusals of structures that cannot be read or are not bulk crystals.

    Raises:
        DatasetError: A path contains no structures.
    """
    for item in itertools.chain.from_iterable(map(read_candidates, paths)):
        if isinstance(item, Refusal):
            yield item
        elif not item.pbc.all():
            yield Refusal(item.id, "a prototype must be periodic in all directions.")
        elif item.numbers.max() > LAST:
            yield Refusal(item.id, f"elements beyond atomic number {LAST} are not supported.")
        else:
            yield Prototype.from_atoms(item.tags.get("prototype", item.id), item.to_atoms())
