"""Frames out of relaxation paths, for models that learn the whole path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from repose.data.store import Pair
from repose.errors import DatasetError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Paths:
    """Crystals whose paths give enough labelled frames, and how many do not.

    Attributes:
        frames: Frames of every path, at least 2.
        pairs: Their ``path`` holds just the chosen frames, from unrelaxed to relaxed; each has an energy
            (eV) and forces ``(n, 3)`` (eV/A), stress ``(3, 3)`` (eV/A^3) only where it is known.
        too_short: Crystals left out, since their path has fewer frames or none is known.
        unlabelled: Crystals left out, since a chosen frame lacks its energy or forces.
    """

    frames: int
    pairs: tuple[Pair, ...]
    too_short: int
    unlabelled: int

    def __str__(self) -> str:
        total = len(self.pairs) + self.too_short + self.unlabelled
        return (
            f"{len(self.pairs)} of {total} crystals have paths of {self.frames} frames; left out: "
            f"{self.too_short} too short, {self.unlabelled} without energies or forces"
        )


def equidistant(path: Sequence[T], n: int) -> tuple[T, ...]:
    """Frames of a path, evenly spread over its steps; the first and the last are always among them.

    Args:
        path: All frames, from unrelaxed to relaxed.
        n: How many to take, at least 2; none is taken twice.

    Raises:
        DatasetError: n is below 2, or the path has fewer frames.
    """
    _check_count(n)
    if len(path) < n:
        raise DatasetError(f"the path has {len(path)} frames, fewer than the {n} that are asked for.")
    return tuple(path[k] for k in np.linspace(0, len(path) - 1, n).round().astype(int))


def paths_of(pairs: Iterable[Pair], n: int) -> Paths:
    """Choose n frames of the path of every crystal that has them, with energies and forces.

    Args:
        pairs: Crystals, with a path or without.
        n: Frames, at least 2; see `equidistant`.

    Raises:
        DatasetError: n is below 2.
    """
    _check_count(n)
    kept, too_short, unlabelled = [], 0, 0
    for pair in pairs:
        if len(pair.path) < n:
            too_short += 1
            continue
        chosen = equidistant(pair.path, n)
        if any(frame.energy is None or frame.forces is None for frame in chosen):
            unlabelled += 1
        else:
            kept.append(replace(pair, path=chosen))
    return Paths(n, tuple(kept), too_short, unlabelled)


def _check_count(n: int) -> None:
    if n < 2:
        raise DatasetError(f"a path has at least 2 frames, the first and the last; got n = {n}.")
