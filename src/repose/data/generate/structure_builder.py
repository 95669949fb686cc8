"""Trial structures: prototypes decorated with elements, at estimated volumes and away from equilibrium."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from repose.crystal.elements import element_table
from repose.crystal.volumes import Volumes
from repose.data.generate.chemistry import ElementSampler
from repose.data.generate.distortion import rattled, rescaled, strained
from repose.data.generate.prototypes import Prototype

if TYPE_CHECKING:
    from ase import Atoms

# Standard deviation of log V by severity; both severities are equally likely.
SPREADS = {"mild": 0.08, "severe": 0.20}
# Fraction of distorted structures, standard deviation of the strain, range of that of displacements (A).
DISTORTED, STRAIN, RATTLE = 0.65, 0.02, (0.02, 0.12)


@cache
def default_volumes() -> Volumes:
    """Return the shipped table of atomic volumes; see ``tools/make_volumes.py``."""
    table = resources.files("repose.data.generate").joinpath("volumes.csv")
    return Volumes.parse(table.read_text(encoding="utf-8"))


@dataclass(frozen=True, eq=False)
class Parent:
    """A relaxed crystal to start from, with the label of its prototype, if known."""

    id: str
    atoms: Atoms
    prototype: str = ""


@dataclass(frozen=True, eq=False)
class TrialStructure:
    """A structure that becomes a candidate if it passes all checks.

    Attributes:
        atoms: The structure.
        tags: How it was made.
        species: Elements of the prototype's species in their order, e.g. ``Sr-O-Ti``; empty if unknown.
    """

    atoms: Atoms
    tags: dict[str, str] = field(default_factory=dict)
    species: str = ""


@dataclass(frozen=True, eq=False)
class StructureBuilder:
    """Inputs of a preset, and the steps that presets share; None is the default of the preset.

    Attributes:
        sampler: Samples elements.
        volumes: Estimates volumes.
        prototypes: Structure prototypes.
        user_prototypes: Prototypes of the user, of any size and number of species.
        parents: Relaxed crystals.
        max_atoms: Maximum number of atoms in a cell.
        volume_spread: Standard deviation of log V.
        strain: Standard deviation of the strain components.
        rattle: Maximum standard deviation of displacements in A.
    """

    sampler: ElementSampler
    volumes: Volumes
    prototypes: Sequence[Prototype] = ()
    user_prototypes: Sequence[Prototype] = ()
    parents: Sequence[Parent] = ()
    max_atoms: int | None = None
    volume_spread: float | None = None
    strain: float | None = None
    rattle: float | None = None

    def decorate(
        self,
        prototype: Prototype,
        elements: Sequence[int],
        rng: np.random.Generator,
        scale: float | None = None,
        **tags: str,
    ) -> TrialStructure:
        """Return a distorted crystal of a prototype, near its estimated relaxed volume.

        Args:
            prototype: The structure prototype.
            elements: Atomic number of each species.
            rng: Random number generator.
            scale: Ratio of relaxed to estimated volume; replaces the factor of the prototype.
            **tags: Further tags.
        """
        severity = ("mild", "severe")[int(rng.random() < 0.5)]
        spread = SPREADS[severity] if self.volume_spread is None else self.volume_spread
        numbers = np.array(elements)[prototype.species]
        label = (prototype.parent_label or prototype.label) if scale is None else ""
        estimate = self.volumes.predict(numbers, label) * (scale or 1.0)
        volume = estimate * np.exp(rng.normal(0.0, spread))
        atoms, start = self.distort(prototype.decorate(elements, volume), rng)
        tags = {"prototype": prototype.label, "severity": severity, "start": start, **tags}
        return TrialStructure(atoms, tags, "-".join(element_table()["symbol"][list(elements)]))

    def distort(
        self,
        atoms: Atoms,
        rng: np.random.Generator,
        fraction: float = DISTORTED,
        strain: float = STRAIN,
        rattle: tuple[float, float] = RATTLE,
    ) -> tuple[Atoms, str]:
        """Strain and rattle a fraction of all crystals; settings of the builder override the defaults.

        Returns:
            The crystal, and ``"rattled"`` or ``"symmetric"``.
        """
        low, high = rattle if self.rattle is None else (min(rattle[0], self.rattle), self.rattle)
        if rng.random() >= fraction:
            return atoms, "symmetric"
        atoms = strained(atoms, strain if self.strain is None else self.strain, rng)
        return rattled(atoms, rng.uniform(low, high), rng), "rattled"

    @staticmethod
    def perturb_volume(atoms: Atoms, spread: float, rng: np.random.Generator) -> Atoms:
        """Return a copy with a normally distributed change of log V of standard deviation ``spread``."""
        return rescaled(atoms, atoms.get_volume() * np.exp(rng.normal(0.0, spread)))

    def scale_from_parent(self, atoms: Atoms, parent: Parent) -> Atoms:
        """Return a copy at the parent's volume times the ratio of the estimates for both crystals."""
        change = self.volumes.predict(atoms.numbers) / self.volumes.predict(parent.atoms.numbers)
        return rescaled(atoms, parent.atoms.get_volume() * change)
