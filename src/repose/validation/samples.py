"""Test crystals of datasets, and the structures from which they are relaxed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms

from repose.data.candidates import Candidate
from repose.data.dataset import Dataset, Pair
from repose.errors import ConfigError, DatasetError
from repose.evaluation.metrics import coordinate_error, move_to_image
from repose.evaluation.regimes import quarters
from repose.evaluation.runner import to_batch, trivial_relaxers
from repose.models.checkpoint import CONFIG, WEIGHTS, find_model
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.baselines import Rescale
from repose.validation.settings import ValidationSettings

INPUT = "input"


class Source(NamedTuple):
    """Source of starting structures.

    Attributes:
        name: Name in tables.
        fingerprint: Hash of the weights.
        model: Name or directory of a model, a relaxer, or None for the input.
    """

    name: str
    fingerprint: str
    model: str | Relaxer | None


def find_sources(models: Sequence[str], fit: Sequence[Path]) -> list[Source]:
    """Return the input, Rescale if there are crystals to fit it, and models.

    Args:
        models: Names or directories.
        fit: Datasets whose train splits fit Rescale.

    Raises:
        ConfigError: Two starts have the same name.
        ModelError: A model does not exist.
    """
    found = [Source(INPUT, INPUT, None)]
    pairs = (pair for path in fit for pair in Dataset(path).read("train", paths=False))
    for relaxer in trivial_relaxers(pairs):
        if isinstance(relaxer, Rescale):
            volumes = np.round(relaxer.atomic_volumes.numpy(), 4).tobytes()
            found.append(Source(relaxer.name, hashlib.sha256(volumes).hexdigest(), relaxer))
    for model in models:
        directory = find_model(model)
        digest = hashlib.sha256((directory / WEIGHTS).read_bytes() + (directory / CONFIG).read_bytes())
        found.append(Source(Path(model).name, digest.hexdigest(), str(model)))
    names = [source.name for source in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"expected models with distinct names; got {', '.join(names[1:])}.")
    return found


def crystal_key(pair: Pair, settings: ValidationSettings, fingerprint: str = "") -> str:
    """Return a hash of the crystal, the calculator, the settings and the weights of a start."""
    relaxation = settings.relaxation.model_dump(exclude={"batch_atoms"}, exclude_defaults=True)
    about = [settings.potential, relaxation, settings.symmetry, fingerprint]
    if ":" in settings.calculator and not settings.calculator.startswith("repose."):
        about += [settings.calculator, settings.options]  # modules may have classes of the same name
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    geometry = pair.positions, pair.cell, pair.relaxed_positions, pair.relaxed_cell
    for array in (pair.numbers, pair.pbc, *(part.astype(float) for part in geometry)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]


def unrelaxed(pair: Pair) -> Atoms:
    """Return the input of a pair, with charges if they are known."""
    return Atoms(pair.numbers, pair.positions, cell=pair.cell, pbc=pair.pbc, charges=pair.charges)


def coordinate_errors(pairs: Sequence[Pair], predicted: Sequence[Atoms]) -> np.ndarray:
    """Return the errors of coordinates in A, as `repose evaluate` does, ``(S,)``."""
    batch, target = to_batch(pairs)
    positions = torch.from_numpy(np.concatenate([atoms.positions for atoms in predicted]))
    geometry = Geometry(positions, torch.from_numpy(np.stack([atoms.cell.array for atoms in predicted])))
    near = Geometry(move_to_image(geometry, batch.positions, batch.system_index), geometry.cells)
    return coordinate_error(near, target, batch.positions, batch.system_index).numpy()


@dataclass(frozen=True, eq=False)
class CrystalSet:
    """Crystals of one dataset.

    Attributes:
        name: Name of the dataset.
        chosen: Crystals to relax, in the order of the hashes of their ids.
        crystals: Number of crystals in the split.
        quarters: Quarter of every chosen crystal by the input's error of coordinates among all crystals of
            the split, 0 to 3.
    """

    name: str
    chosen: tuple[Pair, ...]
    crystals: int
    quarters: tuple[int, ...]


def read_sets(
    directories: Sequence[Path], split: str, n: int | None = None, max_atoms: int | None = None
) -> list[CrystalSet]:
    """Read datasets, and choose crystals by the smallest hashes of their ids.

    Args:
        directories: Datasets.
        split: ``"train"``, ``"val"`` or ``"test"``.
        n: Number of crystals of each dataset; None for all.
        max_atoms: Atoms of the largest crystal to choose; None for any number.

    Raises:
        DatasetError: A dataset cannot be read, is given twice, or has no such crystal.
    """
    paths = [directory.resolve() for directory in directories]
    if twice := [str(own) for own, path in zip(directories, paths, strict=True) if paths.count(path) > 1]:
        raise DatasetError(f"expected distinct datasets; got the same one as {', '.join(twice)}.")
    datasets = [Dataset(directory) for directory in directories]
    names = [dataset.info.name for dataset in datasets]
    found = []
    for name, dataset in zip(names, datasets, strict=True):
        pairs = list(dataset.read(split, paths=False))
        small = [k for k, p in enumerate(pairs) if max_atoms is None or len(p.numbers) <= max_atoms]
        if not small:
            size = "" if max_atoms is None else f" of at most {max_atoms} atoms"
            raise DatasetError(f"no crystal{size} is in the {split} split of {dataset.directory}.")
        groups = quarters(coordinate_errors(pairs, [unrelaxed(pair) for pair in pairs]))
        chosen = sorted(small, key=lambda k: hashlib.sha256(pairs[k].id.encode()).digest())[:n]
        name = name if names.count(name) == 1 else f"{name} ({dataset.directory})"
        parts = tuple(pairs[k] for k in chosen), len(pairs), tuple(int(groups[k]) for k in chosen)
        found.append(CrystalSet(name, *parts))
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample(Candidate):
    """A crystal to relax from several starts.

    Attributes:
        pair: Input and relaxed crystal.
        dataset: Name of its dataset.
        missing: Names of the starts without a row.
    """

    pair: Pair
    dataset: str
    missing: tuple[str, ...]

    @classmethod
    def of(cls, pair: Pair, dataset: str, missing: Sequence[str], key: str) -> Sample:
        """Make a sample whose id is ``key``."""
        geometry: dict[str, Any] = {n: getattr(pair, n) for n in ("numbers", "pbc", "positions", "cell")}
        return cls(id=key, **geometry, pair=pair, dataset=dataset, missing=tuple(missing))
