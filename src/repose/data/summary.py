"""Statistics of a dataset, and warnings about pairs that may be wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from repose.data.dataset import SPLITS, Dataset, Pair

# Pairs outside these limits get a warning.
VOLUME_RATIOS = (0.5, 2.0)
LARGEST_DISPLACEMENT = 3.0  # A
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# Largest number of values of a tag that are counted one by one.
MAX_TAG_VALUES = 12


@dataclass(frozen=True)
class PairWarning:
    """The id of a pair that may be wrong, and the reason."""

    id: str
    reason: str


def volume_change(pair: Pair) -> float:
    """Return the relaxed volume over the unrelaxed one, minus one."""
    return float(abs(np.linalg.det(pair.relaxed_cell)) / abs(np.linalg.det(pair.cell)) - 1)


def largest_displacement(pair: Pair) -> float:
    """Return the largest displacement of an atom in A, apart from deformation and translation of the crystal.

    These are fractional displacements without their mean, converted with the relaxed cell.
    """
    before = pair.positions @ np.linalg.inv(pair.cell)
    delta = pair.relaxed_positions @ np.linalg.inv(pair.relaxed_cell) - before
    return float(np.linalg.norm((delta - delta.mean(axis=0)) @ pair.relaxed_cell, axis=1).max())


def pair_warnings(pair: Pair, change: float, displacement: float) -> list[PairWarning]:
    """Return warnings about a pair, given its `volume_change` and `largest_displacement`."""
    found = []
    low, high = VOLUME_RATIOS
    if not low <= 1 + change <= high:
        found.append(f"relaxed over unrelaxed volume is {1 + change:.2f}, outside [{low:g}, {high:g}]")
    if displacement > LARGEST_DISPLACEMENT:
        found.append(f"an atom moves by {displacement:.1f} A, more than {LARGEST_DISPLACEMENT:g} A")
    return [PairWarning(pair.id, reason) for reason in found]


def summarise(dataset: Dataset) -> dict[str, Any]:
    """Compute statistics of a dataset; paths are not decoded.

    Returns:
        Values for JSON: ``info`` (``dataset.json``), ``splits`` (name to ``crystals``, ``atoms`` [min,
        median, max], ``elements``, ``chemical_systems``, ``paths``, ``frames``), ``elements`` (symbol to
        crystals), ``shared_chemical_systems`` (those in several splits), ``volume_change`` and
        ``max_displacement`` (quantile to value; A), ``tags`` (name to ``crystals``, ``values`` and, for few
        values, ``counts``), ``suspicious`` (id and reason).
    """
    from ase.data import chemical_symbols

    atoms: dict[str, list[int]] = {split: [] for split in SPLITS}
    systems: dict[str, set[str]] = {split: set() for split in SPLITS}
    elements: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    paths, frames = Counter[str](), Counter[str]()
    tags: dict[str, Counter[str]] = {}
    changes, displacements, warnings = [], [], []
    for pair, n_frames in zip(dataset.read(paths=False), dataset.frame_counts(), strict=True):
        atoms[pair.split].append(len(pair.numbers))
        systems[pair.split].add(pair.chemical_system)
        elements[pair.split].update(chemical_symbols[z] for z in set(pair.numbers.tolist()))
        paths[pair.split] += n_frames > 0
        frames[pair.split] += n_frames
        for name, value in pair.tags.items():
            tags.setdefault(name, Counter())[value] += 1
        changes.append(volume_change(pair))
        displacements.append(largest_displacement(pair))
        warnings += pair_warnings(pair, changes[-1], displacements[-1])
    total = sum(elements.values(), Counter[str]())
    splits_of = Counter(system for split in SPLITS for system in systems[split])
    return {
        "info": dataset.info.model_dump(),
        "splits": {
            split: {
                "crystals": len(atoms[split]),
                "atoms": [min(n), float(np.median(n)), max(n)] if (n := atoms[split]) else [],
                "elements": len(elements[split]),
                "chemical_systems": len(systems[split]),
                "paths": paths[split],
                "frames": frames[split],
            }
            for split in SPLITS
        },
        "elements": dict(sorted(total.items(), key=lambda item: (-item[1], item[0]))),
        "shared_chemical_systems": sorted(system for system, count in splits_of.items() if count > 1),
        "volume_change": _quantiles(changes),
        "max_displacement": _quantiles(displacements),
        "tags": {
            name: {
                "crystals": values.total(),
                "values": len(values),
                "counts": dict(values.most_common()) if len(values) <= MAX_TAG_VALUES else {},
            }
            for name, values in sorted(tags.items())
        },
        "suspicious": [asdict(warning) for warning in warnings],
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
