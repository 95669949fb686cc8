"""Datasets made small: joined, in single precision, with few frames of the paths or none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from repose.crystal.frame import Frame
from repose.data.dataset import Dataset, DatasetInfo, Pair, write_dataset
from repose.data.frames import equidistant
from repose.errors import DatasetError


def thin(path: Sequence[Frame], frames: int) -> tuple[Frame, ...]:
    """Frames of a path, evenly spread from the first to the last.

    Args:
        path: All frames.
        frames: How many to keep, at least 2, or 0 for none; shorter paths are kept whole.
    """
    if frames == 0:
        return ()
    if len(path) <= frames:
        return tuple(path)
    return equidistant(path, max(2, frames))


def pack(
    sources: Sequence[Path], out: Path, *, frames: int = 6, share: float = 1.0, name: str = ""
) -> Dataset:
    """Join datasets of the same labels into a small one; crystals keep their splits.

    Args:
        sources: Datasets; a crystal whose id came before is left out.
        out: Directory of the new one.
        frames: Frames that are kept of a path; see `thin`.
        share: Share of the crystals, drawn by the hash of their ids, that keep a path at all.
        name: What to call it; the directory's name if empty.

    Raises:
        DatasetError: The datasets have labels of different calculators.
    """
    datasets = [Dataset(path) for path in sources]
    infos = [dataset.info for dataset in datasets]
    if len({info.calculator for info in infos}) > 1:
        found = "; ".join(f"{info.name}: '{info.calculator}'" for info in infos)
        raise DatasetError(f"datasets of one calculator can be packed together; got {found}.")

    def pairs() -> Iterator[Pair]:
        seen = set[str]()
        for pair in (pair for dataset in datasets for pair in dataset.read(paths=frames > 0)):
            if pair.id not in seen:
                seen.add(pair.id)
                digest = hashlib.sha256(pair.id.encode()).digest()
                kept = int.from_bytes(digest[:8], "big") / 2**64 < share
                yield replace(pair, path=thin(pair.path, frames) if kept else ())

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
