"""What candidates are made of, and how a crystal becomes one that is away from equilibrium."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from repose.crystal.elements import element_table
from repose.crystal.volumes import Volumes
from repose.data.generate.chemistry import Chemistry
from repose.data.generate.distortion import rattled, resized, strained
from repose.data.generate.prototypes import Prototype

if TYPE_CHECKING:
    from ase import Atoms

# Spread of log V of a guess: half of all start near the volume they will have, half far from it.
SPREADS = {"mild": 0.08, "severe": 0.20}
# Share of starts that are strained and rattled, standard deviation of strain, and range of that of
# displacements in A.
DISTORTED, STRAIN, RATTLE = 0.65, 0.02, (0.02, 0.12)


@dataclass(frozen=True, eq=False)
class Parent:
    """A relaxed crystal to start from.

    Attributes:
        id: Its name.
        atoms: The crystal.
        prototype: Label of its prototype, empty where unknown.
    """

    id: str
    atoms: Atoms
    prototype: str = ""


@dataclass(frozen=True, eq=False)
class Draft:
    """A crystal that may become a candidate.

    Attributes:
        atoms: The crystal.
        tags: How it was made.
        species: Elements of its prototype's species in their order; empty where unknown.
    """

    atoms: Atoms
    tags: dict[str, str]
    species: str = ""


@dataclass(frozen=True, eq=False)
class Ingredients:
    """What drafts are made of; None stands for a preset's own value.

    Attributes:
        chemistry: Draws elements.
        volumes: Guesses volumes.
        prototypes: Structure types.
        own_prototypes: The user's structure types, of any size and number of species.
        parents: Relaxed crystals.
        max_atoms: Most atoms in a cell.
        volume_spread: Standard deviation of log V.
        strain: Standard deviation of the components of strain.
        rattle: Largest standard deviation of displacements in A.
    """

    chemistry: Chemistry
    volumes: Volumes
    prototypes: Sequence[Prototype] = ()
    own_prototypes: Sequence[Prototype] = ()
    parents: Sequence[Parent] = ()
    max_atoms: int | None = None
    volume_spread: float | None = None
    strain: float | None = None
    rattle: float | None = None

    def fill(
        self,
        prototype: Prototype,
        elements: Sequence[int],
        rng: np.random.Generator,
        scale: float | None = None,
        **tags: str,
    ) -> Draft:
        """Put elements into a prototype, at about the volume that it will relax to, and disturb it.

        Args:
            prototype: The structure type.
            elements: Atomic number of every species.
            rng: Source of randomness.
            scale: Relaxed over guessed volume of such crystals, in place of the prototype's own factor.
            **tags: Further tags.
        """
        severity = ("mild", "severe")[int(rng.random() < 0.5)]
        spread = SPREADS[severity] if self.volume_spread is None else self.volume_spread
        numbers = np.array(elements)[prototype.species]
        label = (prototype.family or prototype.label) if scale is None else ""
        guess = self.volumes.predict(numbers, label) * (scale or 1.0)
        volume = guess * np.exp(rng.normal(0.0, spread))
        atoms, start = self.disturb(prototype.fill(elements, volume), rng)
        named = {"prototype": prototype.label, "severity": severity, "start": start, **tags}
        return Draft(atoms, named, "-".join(element_table()["symbol"][list(elements)]))

    def disturb(
        self,
        atoms: Atoms,
        rng: np.random.Generator,
        share: float = DISTORTED,
        strain: float = STRAIN,
        rattle: tuple[float, float] = RATTLE,
    ) -> tuple[Atoms, str]:
        """Strain and rattle some crystals, and leave the others as they are.

        Args:
            atoms: A crystal.
            rng: Source of randomness.
            share: How many are distorted.
            strain: Standard deviation of the components of strain, if none was asked for.
            rattle: Range of the standard deviation of displacements in A, if none was asked for.

        Returns:
            A crystal, and what was done: ``"rattled"`` or ``"symmetric"``.
        """
        least, most = rattle if self.rattle is None else (min(rattle[0], self.rattle), self.rattle)
        if rng.random() >= share:
            return atoms, "symmetric"
        atoms = strained(atoms, strain if self.strain is None else self.strain, rng)
        return rattled(atoms, rng.uniform(least, most), rng), "rattled"

    @staticmethod
    def spread(atoms: Atoms, size: float, rng: np.random.Generator) -> Atoms:
        """A copy whose volume is changed by a normally distributed factor in log V."""
        return resized(atoms, atoms.get_volume() * np.exp(rng.normal(0.0, size)))

    def rescaled(self, atoms: Atoms, parent: Parent) -> Atoms:
        """A substituted crystal at its parent's volume, times what the guess says of the change."""
        change = self.volumes.predict(atoms.numbers) / self.volumes.predict(parent.atoms.numbers)
        return resized(atoms, parent.atoms.get_volume() * change)
