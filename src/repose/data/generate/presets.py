"""Candidates by preset: trial structures are built, checked, and filtered for duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from ase import Atoms

from repose.crystal.volumes import Volumes, fit_volumes
from repose.data.candidates import Candidate, read_candidates, read_info
from repose.data.dataset import INFO, Dataset
from repose.data.generate.chemistry import DEFAULT_ELEMENTS, ElementSampler
from repose.data.generate.decoration import bulk, xmno
from repose.data.generate.distortion import min_bond_ratio
from repose.data.generate.duplicates import DuplicateFilter
from repose.data.generate.perovskites import perovskites
from repose.data.generate.prototypes import aflow_prototypes, read_prototypes
from repose.data.generate.settings import GenerateSettings
from repose.data.generate.structure_builder import Parent, StructureBuilder, TrialStructure, default_volumes
from repose.data.generate.substitution import near, subst
from repose.data.pairing import Refusal
from repose.errors import DatasetError, InvalidCrystalError, nearest

T = TypeVar("T")
Preset = Callable[[StructureBuilder, np.random.Generator], Iterator[TrialStructure | None]]
BULK_PRESETS: dict[str, Preset] = {
    "bulk": bulk, "subst": subst, "near": near, "xmno": xmno, "perovskites": perovskites,
}  # fmt: skip
# Presets that are modules of this folder with a function `candidates(n, rng, parents)`.
MODULES = ("sheets", "layered", "defects")
PRESETS = (*BULK_PRESETS, *MODULES)
NEED_PARENTS = ("subst", "near")
TAKE_PROTOTYPES = ("bulk", "xmno")
# Structures with shorter bonds, relative to the sum of covalent radii, are rejected.
MIN_BOND_RATIO = 0.6
# Generation ends after so many rejections in a row. A draw without elements is cheap and frequent if few
# elements are allowed, so that it counts less.
MAX_REJECTIONS = 500
NO_ELEMENTS_COUNT = 0.02


def generate(
    preset: str,
    n: int,
    seed: int = 0,
    *,
    parents: Sequence[Path] = (),
    prototypes: Sequence[Path] = (),
    exclude: Sequence[Path] = (),
    settings: GenerateSettings | None = None,
    volumes: Volumes | None = None,
    rejected: Counter[str] | None = None,
    refused: list[Refusal] | None = None,
) -> Iterator[Candidate]:
    """Make candidates: unrelaxed crystals without duplicates and without excluded crystals.

    Candidates depend only on the preset, the seed, the settings and the files. A larger set begins with the
    smaller one.

    Args:
        preset: One of `PRESETS`.
        n: Number of candidates; fewer are made if the preset finds no more new ones.
        seed: Seed of all random numbers.
        parents: Datasets (their relaxed crystals), candidates or files of crystals to start from.
        prototypes: Structures to decorate with elements besides those of `aflow_prototypes`.
        exclude: Datasets, candidates or files of crystals that are not made again.
        settings: Changes to the preset.
        volumes: Estimates relaxed volumes; `default_volumes` if not given.
        rejected: Is filled with the number of rejected structures by reason.
        refused: Is filled with the crystals that could not be read.

    Raises:
        DatasetError: The preset is unknown, lacks an input or does not take one, or a path has no crystals.
    """
    settings, rejected = settings or GenerateSettings(), Counter() if rejected is None else rejected
    refused = [] if refused is None else refused
    _check_inputs(preset, parents, prototypes, settings)
    parent_crystals = _read_all(parents, refused)
    if preset in NEED_PARENTS and not parent_crystals:
        raise DatasetError(
            f"'{preset}' starts from relaxed crystals; give a dataset or files of them with --parents."
        )
    duplicates = DuplicateFilter()
    duplicates.exclude((crystal.atoms, crystal.prototype) for crystal in _read_all(exclude, refused))
    # The preset is part of the seed, so that presets with the same seed have different random numbers.
    rng = np.random.default_rng([seed, *preset.encode()])
    if preset in MODULES:
        make = import_module(f"repose.data.generate.{preset}").candidates
        # Some of the candidates may be excluded.
        count = n if duplicates.empty else n + MAX_REJECTIONS
        made = make(count, rng, [parent.atoms for parent in parent_crystals])
        accepted = _without_excluded(made, duplicates, rejected)
    else:
        sampler = ElementSampler(settings.elements or DEFAULT_ELEMENTS)
        volumes = volumes or default_volumes()
        volumes.predict(sampler.numbers)  # raises at once if an element has no volume
        builder = StructureBuilder(
            sampler=sampler,
            volumes=volumes,
            prototypes=aflow_prototypes(),
            user_prototypes=_collect(read_prototypes(prototypes), refused),
            parents=parent_crystals,
            **settings.model_dump(exclude={"elements"}),
        )
        accepted = _checked(BULK_PRESETS[preset](builder, rng), duplicates, rejected)
    # The seed is part of the id, so that sets of different seeds can be joined.
    return (
        replace(candidate, id=f"{preset}-{seed}-{k:06d}", tags={"preset": preset, **candidate.tags})
        for k, candidate in enumerate(islice(accepted, n))
    )


def _check_inputs(
    preset: str, parents: Sequence[Path], prototypes: Sequence[Path], settings: GenerateSettings
) -> None:
    """Raise for an unknown preset and for inputs that the preset would ignore."""
    if preset not in PRESETS:
        raise DatasetError(
            f"preset must be one of {', '.join(PRESETS)}; got '{preset}'.{nearest(preset, PRESETS)}"
        )
    if prototypes and preset not in TAKE_PROTOTYPES:
        raise DatasetError(f"'{preset}' takes no --prototypes; {' and '.join(TAKE_PROTOTYPES)} do.")
    if parents and preset in BULK_PRESETS and preset not in NEED_PARENTS:
        raise DatasetError(f"'{preset}' takes no --parents; {' and '.join(NEED_PARENTS)} do.")
    if preset in MODULES and (given := sorted(settings.model_dump(exclude_defaults=True))):
        raise DatasetError(f"'{preset}' has no setting {', '.join(given)}; remove it.")


def _checked(
    structures: Iterator[TrialStructure | None], duplicates: DuplicateFilter, rejected: Counter[str]
) -> Iterator[Candidate]:
    """Yield the structures that pass all checks, until too many in a row are rejected."""
    rejections = 0.0
    for structure in structures:
        result = "no elements fit" if structure is None else _check(structure, duplicates)
        if isinstance(result, Candidate):
            rejections = 0.0
            yield result
        else:
            rejected[result] += 1
            rejections += NO_ELEMENTS_COUNT if structure is None else 1.0
            if rejections >= MAX_REJECTIONS:
                return


def _check(structure: TrialStructure, duplicates: DuplicateFilter) -> Candidate | str:
    """Return a candidate, or the reason why the structure is rejected."""
    if min_bond_ratio(structure.atoms) < MIN_BOND_RATIO:
        return "atoms too close"
    try:
        candidate = Candidate.from_atoms("", structure.atoms, structure.tags)
    except InvalidCrystalError:
        return "invalid crystal"
    # The last check, since it adds the structure to the filter.
    prototype = structure.tags.get("prototype", "")
    return duplicates.add(structure.atoms, prototype, structure.species) or candidate


def _without_excluded(
    made: Iterator[Candidate], duplicates: DuplicateFilter, rejected: Counter[str]
) -> Iterator[Candidate]:
    """Yield candidates of a module, which avoids duplicates itself, except excluded ones."""
    for candidate in made:
        if duplicates.is_excluded(candidate.to_atoms(), candidate.tags.get("prototype", "")):
            rejected["excluded"] += 1
        else:
            yield candidate


def read_parents(path: Path) -> Iterator[Parent | Refusal]:
    """Read crystals to start from: relaxed crystals of a dataset, candidates, or files of crystals.

    Yields:
        Crystals, and refusals of those that cannot be read.

    Raises:
        DatasetError: The path contains no crystals.
    """
    if (path / INFO).is_file():
        for pair in Dataset(path).read(paths=False):
            atoms = Atoms(pair.numbers, pair.relaxed_positions, cell=pair.relaxed_cell, pbc=pair.pbc)
            yield Parent(pair.id, atoms, pair.tags.get("prototype", ""))
        return
    for item in read_candidates(path):
        if isinstance(item, Candidate):
            yield Parent(item.id, item.to_atoms(), item.tags.get("prototype", ""))
        else:
            yield item


def _read_all(paths: Sequence[Path], refused: list[Refusal]) -> list[Parent]:
    return _collect(chain.from_iterable(map(read_parents, paths)), refused)


def _collect(items: Iterable[T | Refusal], refused: list[Refusal]) -> list[T]:
    """Return the items that were read, and append refusals to a list."""
    collected = list(items)
    refused += [item for item in collected if isinstance(item, Refusal)]
    return [item for item in collected if not isinstance(item, Refusal)]


def licences(paths: Sequence[Path]) -> list[str]:
    """Return the distinct licences of the datasets and candidates among these paths."""
    infos = [
        Dataset(path).info if (path / INFO).is_file() else read_info(path) for path in paths if path.is_dir()
    ]
    return list(dict.fromkeys(info.licence for info in infos if info is not None and info.licence))


def volumes_of(paths: Sequence[Path], refused: list[Refusal] | None = None) -> Volumes:
    """Fit volumes to the relaxed crystals of datasets, candidates or files; raises as `read_parents`."""
    crystals = _read_all(paths, [] if refused is None else refused)
    return fit_volumes(
        [crystal.atoms.numbers for crystal in crystals],
        [crystal.atoms.get_volume() for crystal in crystals],
        [crystal.prototype for crystal in crystals],
    )
