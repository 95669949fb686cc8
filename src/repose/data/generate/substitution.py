"""Presets that replace elements in relaxed crystals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from repose.data.generate.chemistry import ElementSampler
from repose.data.generate.structure_builder import Parent, StructureBuilder, TrialStructure

# Widths of the similarity in units of `chemistry.element_distances`; both are equally likely.
_WIDTHS = {"close": 1.0, "bold": 2.0}
_NEAR_WIDTH = 0.6
# Fraction of candidates with two replaced elements, where the parent has two.
_TWO_REPLACED = 0.3
# Fraction of distorted candidates, standard deviation of the strain, range of that of displacements (A).
_SUBST = (0.5, 0.01, (0.01, 0.05))
_NEAR = (0.8, 0.01, (0.01, 0.05))
# Preset `near`: fraction of candidates with a replaced element, and standard deviation of log V.
_REPLACED, _SPREAD = 0.5, 0.02


def subst(builder: StructureBuilder, rng: np.random.Generator) -> Iterator[TrialStructure | None]:
    """Replace one or two elements of relaxed crystals at fixed cell; half are slightly strained and rattled.

    Tag ``severity`` is ``close`` for similar elements and ``bold`` for less similar ones.

    Yields:
        Trial structures, without end; None if an element has no similar one.
    """
    parents = _allowed_parents(builder)
    while parents:
        parent = parents[rng.integers(len(parents))]
        severity = str(rng.choice(list(_WIDTHS)))
        atoms = parent.atoms.copy()
        if not _replace_elements(atoms, _WIDTHS[severity], builder.sampler, rng):
            yield None
            continue
        if builder.volume_spread:
            atoms = builder.perturb_volume(atoms, builder.volume_spread, rng)
        atoms, start = builder.distort(atoms, rng, *_SUBST)
        yield TrialStructure(atoms, _tags(parent, severity, start))


def near(builder: StructureBuilder, rng: np.random.Generator) -> Iterator[TrialStructure | None]:
    """Make structures near equilibrium, a few percent off in volume, as starts from databases are.

    Half are relaxed crystals. The others have one element replaced by a very similar one, and the volume
    scaled by the ratio of the estimates. Most are slightly strained and rattled.

    Yields:
        Trial structures, without end; None if an element has no similar one.
    """
    parents = _allowed_parents(builder)
    spread = _SPREAD if builder.volume_spread is None else builder.volume_spread
    while parents:
        parent = parents[rng.integers(len(parents))]
        atoms, severity = parent.atoms.copy(), "same"
        if rng.random() < _REPLACED:
            if not _replace_elements(atoms, _NEAR_WIDTH, builder.sampler, rng, two=0.0):
                yield None
                continue
            atoms, severity = builder.scale_from_parent(atoms, parent), "replaced"
        atoms, start = builder.distort(builder.perturb_volume(atoms, spread, rng), rng, *_NEAR)
        yield TrialStructure(atoms, _tags(parent, severity, start))


def _allowed_parents(builder: StructureBuilder) -> list[Parent]:
    """Return the parents that are small enough and whose elements all have a volume."""
    return [
        parent
        for parent in builder.parents
        if (builder.max_atoms is None or len(parent.atoms) <= builder.max_atoms)
        and builder.volumes.covers(parent.atoms.numbers)
    ]


def _replace_elements(
    atoms: Atoms, width: float, sampler: ElementSampler, rng: np.random.Generator, two: float = _TWO_REPLACED
) -> bool:
    """Replace one or two elements, in place, by different ones that the crystal does not contain.

    Returns:
        False if an element has no similar one.
    """
    numbers = atoms.numbers.copy()
    present = np.unique(numbers).tolist()
    count = 2 if len(present) > 1 and rng.random() < two else 1
    used = set(present)
    for number in rng.choice(present, count, replace=False).tolist():
        new = sampler.similar(number, width, rng, exclude=used)
        if new is None:
            return False
        used.add(new)
        atoms.numbers[numbers == number] = new
    return True


def _tags(parent: Parent, severity: str, start: str) -> dict[str, str]:
    prototype = {"prototype": parent.prototype} if parent.prototype else {}
    return {**prototype, "severity": severity, "start": start, "parent": parent.id}
