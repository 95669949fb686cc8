"""Crystals of a split of datasets, and their numbers of edges."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from repose.atomic_write import replacing_file
from repose.data.dataset import Dataset, Pair
from repose.data.frames import select_paths
from repose.errors import DatasetError
from repose.models.network import Network
from repose.training.samples import edge_counts
from repose.training.stopwatch import part

# Increase if graphs change for the same settings: stored counts of other versions are ignored.
VERSION = 1


def read_split(
    datasets: Sequence[Dataset],
    split: str,
    *,
    crystals: int | None = None,
    paths: bool = True,
    frames: int | None = None,
    without: Collection[str] = (),
) -> list[list[Pair]]:
    """Read the crystals of one split of several datasets.

    Args:
        datasets: A dataset that is given twice is read twice.
        split: ``"train"``, ``"val"`` or ``"test"``.
        crystals: Number of crystals, chosen by the smallest hashes of their ids; equal ids count once. None
            reads all.
        paths: Read the paths too.
        frames: Choose among the crystals that have a path of so many frames with energies and forces, if
            there are any.
        without: Chemical systems to leave out.

    Returns:
        The crystals of every dataset, in order.

    Raises:
        DatasetError: There are no crystals, or a dataset cannot be read.
    """
    chosen = None
    if crystals is not None:
        ids = {name for dataset in datasets for name in dataset.ids(split)}
        if frames is not None:
            pairs = chain.from_iterable(dataset.read(split) for dataset in datasets)
            ids = {pair.id for pair in pairs if select_paths([pair], frames).pairs} or ids
        chosen = choose(ids, crystals)
    found = [list(dataset.read(split, paths=paths, ids=chosen)) for dataset in datasets]
    if without:
        found = [[pair for pair in pairs if pair.chemical_system not in without] for pairs in found]
    if not any(found):
        names = ", ".join(str(dataset.directory) for dataset in datasets)
        raise DatasetError(f"no crystal is in the {split} split of {names}; see 'repose data split --help'.")
    return found


def chemical_systems(directories: Iterable[Path]) -> set[str]:
    """The chemical systems of all crystals of datasets."""
    return {pair.chemical_system for path in directories for pair in Dataset(path).read(paths=False)}


def choose(ids: Iterable[str], n: int) -> set[str]:
    """The n different ids with the smallest hashes; a smaller choice is part of every larger one."""
    return set(sorted(set(ids), key=lambda name: hashlib.sha256(name.encode()).digest())[:n])


class EdgeCounts:
    """Edges of unrelaxed crystals in a network's graph, stored with their datasets between runs.

    Counts are stored by a hash of the crystal: they remain valid if a dataset is split, joined or copied. The
    file name has a hash of all that `Network.prepare` depends on: family, starting geometry, settings of the
    graph, and atomic volumes if the start is rescaled. A damaged file is replaced. Counts of a dataset that
    cannot be written are not stored. ``datasets`` are directories and the crystals read from each, which are
    counted and stored at the first call.
    """

    def __init__(self, network: Network[Any], datasets: Iterable[tuple[Path, Sequence[Pair]]] = ()) -> None:
        self.network = network
        self._datasets = list(datasets)
        self._known: dict[int, int] = {}

    def __call__(self, pairs: Sequence[Pair]) -> list[int]:
        """Edges of every crystal."""
        with part("counting edges"):
            while self._datasets:
                self._load(*self._datasets.pop())
            return self._count(pairs)

    def _load(self, directory: Path, pairs: Sequence[Pair]) -> None:
        """Read the stored counts of a dataset, and store those of further crystals."""
        path = directory / f".edges-{_key(self.network)}.npy"
        stored = _read(path)
        self._known |= stored
        counts = dict(zip(map(_hash, pairs), self._count(pairs), strict=True))
        if counts.keys() <= stored.keys():
            return
        try:
            with replacing_file(path) as new:
                np.save(new, np.array(list((stored | counts).items()), dtype=np.uint64))
        except OSError as error:
            logging.getLogger(__name__).info("edge counts are not stored in %s: %s", directory, error)

    def _count(self, pairs: Sequence[Pair]) -> list[int]:
        keys = [_hash(pair) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._known}
        self._known |= zip(new, edge_counts(self.network, list(new.values())), strict=True)
        return [self._known[key] for key in keys]


def _key(network: Network[Any]) -> str:
    settings = network.settings
    parts = [VERSION, network.family, settings.start, settings.graph.model_dump(mode="json")]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    if settings.start == "rescaled":
        for name, buffer in network.named_buffers():
            if name.rpartition(".")[2] == "atomic_volumes":
                digest.update(buffer.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _hash(pair: Pair) -> int:
    """64-bit hash of a crystal."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (pair.numbers, pair.pbc, pair.positions, pair.cell):
        digest.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(digest.digest(), "little")


def _read(path: Path) -> dict[int, int]:
    """Stored counts by hash of the crystal; empty if the file is missing or damaged."""
    try:
        with path.open("rb") as stream:
            stored = np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError):
        return {}
    return dict(stored.tolist()) if stored.dtype == np.uint64 and stored.shape[1:] == (2,) else {}
