"""Frames out of relaxation paths, for models that learn the whole path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from repose.data.dataset import Pair
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


def fit_reference_energies(pairs: Sequence[Pair], n: int) -> tuple[np.ndarray, float]:
    """Energy of an atom of every element, by least squares over frames of paths.

    Args:
        pairs: Crystals with paths of at least n frames, those taken with energies.
        n: Frames to take of every path; see `equidistant`.

    Returns:
        eV per atom by atomic number, ``(119,)``, zero for elements never seen; and how far frames lie
        from it, eV per atom: the standard deviation, were errors normal, by their median.
    """
    from repose.crystal.elements import MAX_NUMBER

    frames = [(pair.numbers, frame.energy) for pair in pairs for frame in equidistant(pair.path, n)]
    counts = np.stack([np.bincount(z, minlength=MAX_NUMBER + 1) / len(z) for z, _ in frames])
    energies = np.array([energy / len(z) for z, energy in frames if energy is not None])
    seen = counts.any(axis=0)
    reference = np.zeros(MAX_NUMBER + 1)
    reference[seen] = np.linalg.lstsq(counts[:, seen], energies, rcond=None)[0]
    # Energies squeezed far too high would make the scale of all.
    left = np.abs(energies - counts @ reference)
    return reference, float(np.median(left) / 0.6745)


def _check_count(n: int) -> None:
    if n < 2:
        raise DatasetError(f"a path has at least 2 frames, the first and the last; got n = {n}.")
