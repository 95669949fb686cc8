"""Evenly spaced frames of relaxation paths, for models that predict whole paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from repose.crystal.elements import MAX_NUMBER
from repose.data.rows import Pair
from repose.errors import DatasetError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class SelectedPaths:
    """Crystals whose paths have enough frames with labels, and the numbers of those left out.

    Attributes:
        frames: Frames of every path, at least 2.
        pairs: Crystals with the selected frames as ``path``. Each frame has an energy (eV) and forces
            ``(n, 3)`` (eV/A), and a stress ``(3, 3)`` (eV/A^3) where it is known.
        too_short: Crystals without a path, or with fewer frames.
        unlabelled: Crystals with a selected frame that lacks energy or forces.
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


def evenly_spaced(path: Sequence[T], n: int) -> tuple[T, ...]:
    """Return n evenly spaced frames of a path, or all frames if there are fewer.

    Args:
        path: All frames, from unrelaxed to relaxed.
        n: Number of frames. The first and the last are always included, so that 1 gives 2; 0 gives none.
    """
    if len(path) <= n or n == 0:
        return tuple(path[:n])
    return tuple(path[k] for k in np.linspace(0, len(path) - 1, max(2, n)).round().astype(int))


def select_paths(pairs: Iterable[Pair], n: int) -> SelectedPaths:
    """Select n frames of every path that has them, with energies and forces.

    Args:
        pairs: Crystals, with a path or without.
        n: Number of frames; see `evenly_spaced`.

    Raises:
        DatasetError: n is below 2.
    """
    if n < 2:
        raise DatasetError(f"expected at least 2 frames of a path, the first and the last; got {n}.")
    kept, too_short, unlabelled = [], 0, 0
    for pair in pairs:
        chosen = evenly_spaced(pair.path, n)
        if len(chosen) < n:
            too_short += 1
        elif any(frame.energy is None or frame.forces is None for frame in chosen):
            unlabelled += 1
        else:
            kept.append(replace(pair, path=chosen))
    return SelectedPaths(n, tuple(kept), too_short, unlabelled)


def fit_reference_energies(pairs: Sequence[Pair], n: int) -> tuple[np.ndarray, float]:
    """Fit an energy per atom to each element, by least squares over the energies of frames.

    Args:
        pairs: Crystals with paths.
        n: Frames of each path that are used; see `evenly_spaced`.

    Returns:
        Energies in eV by atomic number, ``(119,)``, zero for elements without data; and the spread of the
        residuals in eV per atom: the standard deviation of a normal distribution with the same median of
        absolute values, which outliers hardly change.
    """
    frames = [(pair.numbers, frame.energy) for pair in pairs for frame in evenly_spaced(pair.path, n)]
    counts = np.stack([np.bincount(z, minlength=MAX_NUMBER + 1) / len(z) for z, _ in frames])
    energies = np.array([energy / len(z) for z, energy in frames if energy is not None])
    present = counts.any(axis=0)
    reference = np.zeros(MAX_NUMBER + 1)
    reference[present] = np.linalg.lstsq(counts[:, present], energies, rcond=None)[0]
    return reference, float(np.median(np.abs(energies - counts @ reference)) / 0.6745)
