"""Compact datasets: joined, in single precision, with few frames per path or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from repose.data.dataset import Dataset, DatasetInfo, Pair, write_dataset
from repose.data.frames import evenly_spaced
from repose.data.splits import hash_fraction
from repose.errors import DatasetError


def compact(
    sources: Sequence[Path], out: Path, *, frames: int = 6, share: float = 1.0, name: str = ""
) -> Dataset:
    """Join datasets with the same labels into a compact one; crystals keep their splits.

    Args:
        sources: Datasets; of crystals with the same id the first is taken.
        out: Directory of the new dataset.
        frames: Evenly spaced frames kept of each path, at least 2; 0 keeps none.
        share: Share of the crystals that keep their path, chosen by the hash of their ids.
        name: Name of the new dataset; that of the directory by default.

    Raises:
        DatasetError: The datasets have labels of different calculators.
    """
    datasets = [Dataset(path) for path in sources]
    infos = [dataset.info for dataset in datasets]
    if len({info.calculator for info in infos}) > 1:
        found = "; ".join(f"{info.name}: '{info.calculator}'" for info in infos)
        raise DatasetError(f"expected datasets whose labels come from one calculator; got {found}.")

    def pairs() -> Iterator[Pair]:
        seen = set[str]()
        for pair in (pair for dataset in datasets for pair in dataset.read(paths=frames > 0)):
            if pair.id not in seen:
                seen.add(pair.id)
                kept = hash_fraction(pair.id) < share
                yield replace(pair, path=evenly_spaced(pair.path, frames) if kept else ())

    def joined(column: str) -> str:
        return "; ".join(dict.fromkeys(str(getattr(info, column)) for info in infos))

    info = DatasetInfo(
        name=name or out.resolve().name,
        source=joined("source"),
        licence=joined("licence"),
        calculator=infos[0].calculator,
        splits=joined("splits"),
    )
    return write_dataset(out, info, pairs(), single=True)
