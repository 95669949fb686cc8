"""Candidates by name: what is made, from what, and what is thrown away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from ase import Atoms

from repose.crystal.volumes import Volumes, fit_volumes
from repose.data.candidates import Candidate, read_candidates, read_info
from repose.data.dataset import INFO, Dataset
from repose.data.generate.chemistry import SYMBOLS, Chemistry
from repose.data.generate.decoration import bulk, xmno
from repose.data.generate.distortion import CLOSEST, closeness
from repose.data.generate.duplicates import Known
from repose.data.generate.perovskites import perovskites
from repose.data.generate.prototypes import library, read_prototypes
from repose.data.generate.settings import GenerateSettings
from repose.data.generate.structure_builder import Draft, Ingredients, Parent
from repose.data.generate.substitution import near, subst
from repose.data.generate.volumes import default_volumes
from repose.data.pairing import Refusal
from repose.errors import DatasetError, InvalidCrystalError, nearest

T = TypeVar("T")
Drafts = Callable[[Ingredients, np.random.Generator], Iterator[Draft | None]]
DRAFTS: dict[str, Drafts] = {
    "bulk": bulk,
    "subst": subst,
    "near": near,
    "xmno": xmno,
    "perovskites": perovskites,
}
# Files of this folder with a function `candidates(n, rng, parents)` of their own.
MODULES = ("sheets", "layered", "defects")
PRESETS = (*DRAFTS, *MODULES)
NEED_PARENTS = ("subst", "near")
FILL_PROTOTYPES = ("bulk", "xmno")
# So many drafts in a row thrown away mean that there is nothing new to be made. Those without elements count
# little: they cost little, and where few elements are allowed most are of this kind.
PATIENCE = 500
WITHOUT_ELEMENTS = 0.02


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
    """Make candidates: unrelaxed crystals that differ from each other and from what is excluded.

    They depend on the preset, the seed, the settings and the files alone, and the first ones do not depend
    on how many are asked for: a larger set begins with the smaller one.

    Args:
        preset: One of `PRESETS`.
        n: How many. Where the preset cannot make as many that differ, it ends before.
        seed: Source of all randomness.
        parents: Datasets (their relaxed states), candidates or files of crystals to start from.
        prototypes: Structures to fill with elements beside those of `library`.
        exclude: Datasets, candidates or files whose crystals are not to be made again.
        settings: What may be asked of a preset.
        volumes: Guess of relaxed volumes; `default_volumes` if not given.
        rejected: Counts what is thrown away, by reason.
        refused: Takes the crystals that could not be read, with the reason.

    Raises:
        DatasetError: The preset is unknown, needs parents or takes none, or a path holds nothing to read.
    """
    settings, rejected = settings or GenerateSettings(), Counter() if rejected is None else rejected
    refused = [] if refused is None else refused
    _check_asked(preset, parents, prototypes, settings)
    starts = _read(parents, refused)
    if preset in NEED_PARENTS and not starts:
        raise DatasetError(
            f"'{preset}' starts from relaxed crystals; name a dataset or files of them with --parents."
        )
    known = Known()
    known.exclude((crystal.atoms, crystal.prototype) for crystal in _read(exclude, refused))
    # The preset is part of the seed: two presets with one seed do not share their random numbers.
    rng = np.random.default_rng([seed, *preset.encode()])
    if preset in MODULES:
        make = import_module(f"repose.data.generate.{preset}").candidates
        # More than asked for, since some will be thrown away.
        asked = n if known.empty else n + PATIENCE
        made = make(asked, rng, [parent.atoms for parent in starts])
        kept = _not_excluded(made, known, rejected)
        return (_named(preset, seed, k, candidate) for k, candidate in enumerate(islice(kept, n)))
    chemistry, volumes = Chemistry(settings.elements or SYMBOLS), volumes or default_volumes()
    volumes.predict(chemistry.numbers)  # complains of noble gases now, rather than at the first one drawn
    given = Ingredients(
        chemistry=chemistry,
        volumes=volumes,
        prototypes=library(),
        own_prototypes=_taken(read_prototypes(prototypes), refused),
        parents=starts,
        max_atoms=settings.max_atoms,
        volume_spread=settings.volume_spread,
        strain=settings.strain,
        rattle=settings.rattle,
    )
    accepted = _accepted(DRAFTS[preset](given, rng), known, rejected)
    return (_named(preset, seed, k, candidate) for k, candidate in enumerate(islice(accepted, n)))


def _check_asked(
    preset: str, parents: Sequence[Path], prototypes: Sequence[Path], settings: GenerateSettings
) -> None:
    """Refuse what a preset would pass over in silence."""
    if preset not in PRESETS:
        raise DatasetError(
            f"preset must be one of {', '.join(PRESETS)}; got '{preset}'.{nearest(preset, PRESETS)}"
        )
    if prototypes and preset not in FILL_PROTOTYPES:
        raise DatasetError(f"'{preset}' fills no prototypes of yours; {' and '.join(FILL_PROTOTYPES)} do.")
    if parents and preset in DRAFTS and preset not in NEED_PARENTS:
        raise DatasetError(f"'{preset}' starts from prototypes and takes no --parents; subst and near do.")
    if preset in MODULES and (given := sorted(settings.model_dump(exclude_defaults=True))):
        raise DatasetError(f"'{preset}' has no setting {', '.join(given)}; leave it away.")


def _accepted(drafts: Iterator[Draft | None], known: Known, rejected: Counter[str]) -> Iterator[Candidate]:
    """What becomes of drafts, until nothing new has come for long."""
    idle = 0.0
    for draft in drafts:
        made = "no elements fit" if draft is None else _candidate(draft, known)
        if isinstance(made, Candidate):
            idle = 0.0
            yield made
        else:
            rejected[made] += 1
            idle += WITHOUT_ELEMENTS if draft is None else 1.0
            if idle >= PATIENCE:
                return


def _candidate(draft: Draft, known: Known) -> Candidate | str:
    """A candidate, or why a draft is none."""
    if closeness(draft.atoms) < CLOSEST:
        return "atoms too close"
    try:
        candidate = Candidate.from_atoms("", draft.atoms, draft.tags)
    except InvalidCrystalError:
        return "no crystal"
    # Last, since what is new is remembered.
    return known.find(draft.atoms, draft.tags.get("prototype", ""), draft.species) or candidate


def _not_excluded(made: Iterator[Candidate], known: Known, rejected: Counter[str]) -> Iterator[Candidate]:
    """What a module of its own made, which sees itself to the candidates' differing from each other."""
    for candidate in made:
        if known.excludes(candidate.to_atoms(), candidate.tags.get("prototype", "")):
            rejected["excluded"] += 1
        else:
            yield candidate


def _named(preset: str, seed: int, k: int, candidate: Candidate) -> Candidate:
    """With the seed in its id, so that sets made with different seeds can be put together."""
    return replace(candidate, id=f"{preset}-{seed}-{k:06d}", tags={"preset": preset, **candidate.tags})


def read_parents(path: Path) -> Iterator[Parent | Refusal]:
    """Crystals to start from: the relaxed states of a dataset, candidates, or files of crystals.

    Yields:
        Crystals, and refusals of those that cannot be read.

    Raises:
        DatasetError: There is nothing to read.
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


def _read(paths: Sequence[Path], refused: list[Refusal]) -> list[Parent]:
    return _taken((item for path in paths for item in read_parents(path)), refused)


def _taken(items: Iterable[T | Refusal], refused: list[Refusal]) -> list[T]:
    """What was read; refusals go where they are collected."""
    taken: list[T] = []
    for item in items:
        if isinstance(item, Refusal):
            refused.append(item)
        else:
            taken.append(item)
    return taken


def licences(paths: Sequence[Path]) -> list[str]:
    """What datasets and candidates among these paths say of how they may be used, each once."""
    named = [
        Dataset(path).info if (path / INFO).is_file() else read_info(path) for path in paths if path.is_dir()
    ]
    return list(dict.fromkeys(info.licence for info in named if info is not None and info.licence))


def volumes_of(paths: Sequence[Path], refused: list[Refusal] | None = None) -> Volumes:
    """Fit a guess of volumes to the relaxed crystals of datasets or files.

    Args:
        paths: Datasets, candidates or files of crystals.
        refused: Takes the crystals that could not be read, with the reason.

    Raises:
        DatasetError: There is nothing to read.
    """
    crystals = _read(paths, [] if refused is None else refused)
    return fit_volumes(
        [crystal.atoms.numbers for crystal in crystals],
        [crystal.atoms.get_volume() for crystal in crystals],
        [crystal.prototype for crystal in crystals],
    )
