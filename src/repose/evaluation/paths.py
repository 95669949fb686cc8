"""Errors of predicted relaxation paths, their energies and forces, against reference paths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.batching import batches_by_cost
from repose.crystal.frame import Frame
from repose.data.dataset import Pair
from repose.data.frames import fit_reference_energies, select_paths
from repose.errors import ConfigError, DatasetError
from repose.evaluation.metrics import aligned_rmsd, coordinate_error, move_to_image
from repose.evaluation.path_results import PathEvaluation, PathScores
from repose.evaluation.results import CrystalInfo
from repose.evaluation.runner import EDGES_PER_BATCH, check_names, estimate_edges, to_batch, trivial_relaxers
from repose.models.prediction import Geometry
from repose.nn.ops import segment_mean
from repose.relaxer.base import Relaxer
from repose.relaxer.batch_relaxation import BatchRelaxation

Path = tuple[Frame, ...]


class PathBatch(NamedTuple):
    """Paths of T frames of S crystals with N atoms in all; float64, NaN for values that are missing.

    Attributes:
        positions: A, ``(T, N, 3)``.
        cells: Rows, A, ``(T, S, 3, 3)``.
        energies: eV per cell, ``(T, S)``.
        forces: eV/A, ``(T, N, 3)``.
    """

    positions: Tensor
    cells: Tensor
    energies: Tensor
    forces: Tensor

    @classmethod
    def join(cls, paths: Sequence[Path]) -> PathBatch:
        """Batch the paths of several crystals, which have equally many frames."""

        def forces(frame: Frame) -> np.ndarray:
            return np.full(frame.positions.shape, np.nan) if frame.forces is None else frame.forces

        frames = list(zip(*paths, strict=True))
        positions = [np.concatenate([frame.positions for frame in row]) for row in frames]
        cells = [[frame.cell for frame in row] for row in frames]
        energies = [[np.nan if frame.energy is None else frame.energy for frame in row] for row in frames]
        columns = (positions, cells, energies, [np.concatenate(list(map(forces, row))) for row in frames])
        return cls(*(torch.from_numpy(np.array(column, dtype=np.float64)) for column in columns))

    def geometry(self, frame: int) -> Geometry:
        """Geometry of all crystals in one frame."""
        return Geometry(self.positions[frame], self.cells[frame])


class ConstantPath(Relaxer):
    """Path of a trivial relaxer: its result in every frame.

    Args:
        relaxer: Dummy or Rescale.
        frames: Number of frames.
        energies: Energies of the elements in eV per atom by atomic number, ``(119,)``, whose sum is the
            predicted energy; forces are then zero. Zero marks elements that were not fitted: they get the
            mean of the others. Without, frames have neither energies nor forces.
    """

    gives_paths = True

    def __init__(self, relaxer: Relaxer, frames: int, energies: np.ndarray | None = None) -> None:
        self.relaxer, self.frames, self.name = relaxer, frames, relaxer.name
        self.energies = energies
        if energies is not None:
            self.energies = np.where(energies == 0, energies[energies != 0].mean(), energies)

    def predict(self, batch: CrystalBatch) -> Geometry:
        """See `Relaxer.predict`."""
        return self.relaxer.predict(batch)

    def relax_batch(self, batch: CrystalBatch) -> BatchRelaxation:
        """See `Relaxer.relax_batch`."""
        geometry, counts = self.predict(batch), batch.counts.tolist()
        frames = [
            Frame(positions.numpy(), cell.numpy())
            for positions, cell in zip(geometry.positions.split(counts), geometry.cells, strict=True)
        ]
        if self.energies is not None:
            energies = [float(self.energies[numbers].sum()) for numbers in batch.numbers.split(counts)]
            frames = [
                replace(frame, energy=energy, forces=np.zeros_like(frame.positions))
                for frame, energy in zip(frames, energies, strict=True)
            ]
        return BatchRelaxation(geometry, paths=[(frame,) * self.frames for frame in frames])


def evaluate_paths(
    relaxers: Sequence[Relaxer],
    datasets: Mapping[str, Iterable[Pair]],
    *,
    train: Iterable[Pair] = (),
    split: str = "test",
    perturb: Sequence[float] = (),
    seed: int = 0,
    edges_per_batch: int = EDGES_PER_BATCH,
    progress: Callable[[int], None] | None = None,
) -> PathEvaluation:
    """Errors of the paths of relaxers, the trivial ones first, on crystals with a reference path.

    Each reference path is reduced to as many evenly spaced frames as the relaxers predict. A path with a
    number that is not finite is scored as Dummy's; the result lists these crystals.

    Args:
        relaxers: Relaxers that give paths, all of the same number of frames.
        datasets: Pairs by name of the dataset, each read once.
        train: Pairs to fit energies of elements, for Dummy, and volumes, for Rescale.
        split: Name of the split, for the tables.
        perturb: Standard deviations in A. For each, all crystals are relaxed again with this normal noise on
            the input coordinates, the same random numbers for all; the reference is unchanged.
        seed: Seed of the noise.
        edges_per_batch: Limit of the estimated edges of a batch.
        progress: Called with the number of crystals just done or left out.

    Raises:
        ConfigError: A relaxer gives no paths, numbers of frames differ, or two relaxers have the same name.
        DatasetError: No crystal has a path of enough frames, or a crystal is invalid.
    """
    for relaxer in relaxers:
        if not relaxer.gives_paths:
            raise ConfigError(
                f"model '{relaxer.name}' gives no paths; models of the family relaxnet do. "
                "Omit --paths to evaluate relaxed crystals only."
            )
    if not relaxers:
        raise ConfigError("evaluating paths needs a model; name one with --model.")
    pairs = {dataset: list(own) for dataset, own in datasets.items()}
    frames = _count_frames(relaxers, [pair for own in pairs.values() for pair in own])
    found = {dataset: select_paths(own, frames) for dataset, own in pairs.items()}
    kept = [pair for paths in found.values() for pair in paths.pairs]
    if not kept:
        counts = "; ".join(f"{dataset}: {paths}" for dataset, paths in found.items())
        raise DatasetError(
            f"no crystal of the {split} split has a reference path. {counts}. "
            "Import whole paths, or label crystals with 'repose data label'."
        )
    if progress is not None:
        progress(sum(map(len, pairs.values())) - len(kept))
    everyone = [*_trivial(list(train), frames), *relaxers]
    check_names(everyone)
    scales = list(dict.fromkeys((0.0, *perturb)))
    scores: dict[tuple[float, str], list[PathScores]] = {(s, r.name): [] for s in scales for r in everyone}
    references: list[PathScores] = []
    noise = _noise(kept, seed)
    for packed in batches_by_cost(kept, estimate_edges, edges_per_batch):
        batch, known = to_batch(packed)[0], PathBatch.join([pair.path for pair in packed])
        references.append(score(known, known, batch))
        shift = torch.from_numpy(np.concatenate([next(noise) for _ in packed]))
        for scale in scales:
            start = batch.with_geometry(batch.positions + scale * shift, batch.cells)
            dummy = everyone[0].relax_batch(start).paths or []
            for relaxer in everyone:
                scores[scale, relaxer.name].append(_run(relaxer, start, batch, known, dummy))
        if progress is not None:
            progress(len(packed))
    joined = {key: PathScores.join(parts) for key, parts in scores.items()}
    return PathEvaluation(
        split,
        frames,
        tuple(
            CrystalInfo.from_pair(pair, dataset) for dataset, paths in found.items() for pair in paths.pairs
        ),
        found,
        PathScores.join(references),
        {scale: {r.name: joined[scale, r.name] for r in everyone} for scale in scales},
    )


def score(
    found: PathBatch,
    known: PathBatch,
    batch: CrystalBatch,
    finite: np.ndarray | None = None,
    seconds: float = 0.0,
) -> PathScores:
    """Errors of paths in every frame.

    Args:
        found: Predicted paths.
        known: Reference paths of the same number of frames.
        batch: The unrelaxed crystals; every reference frame is moved to the periodic images nearest to them.
        finite: Crystals with a finite prediction, ``(S,)`` bool; by default all.
        seconds: Time of the prediction.
    """
    crystal, n, counts = batch.system_index, len(batch), batch.counts.tolist()
    errors = (found.forces - known.forces).abs().mean(dim=-1)  # (T, N)
    lengths = found.forces.norm(dim=-1).split(counts, dim=1)
    coordinates = [
        coordinate_error(found.geometry(k), known.geometry(k), batch.positions, crystal)
        for k in range(len(known.energies))
    ]
    target = move_to_image(known.geometry(-1), batch.positions, crystal)
    ends = zip(found.positions[-1].split(counts), target.split(counts), strict=True)
    return PathScores(
        energies=found.energies.T.numpy(),
        largest=torch.stack([part.amax(dim=1) for part in lengths]).numpy(),
        forces=segment_mean(errors.T, crystal, n).numpy(),
        coordinates=torch.stack(coordinates, dim=1).numpy(),
        aligned=np.array([aligned_rmsd(one.numpy(), other.numpy()) for one, other in ends]),
        finite=np.full(n, True) if finite is None else finite,
        seconds=np.full(n, seconds / n),
    )


def _count_frames(relaxers: Sequence[Relaxer], pairs: Sequence[Pair]) -> int:
    """Number of frames that relaxers predict; the relaxers are warmed up by this."""
    if not pairs:
        raise DatasetError("no crystal to evaluate: the split is empty.")
    first, _ = to_batch(pairs[:1])
    counts = {relaxer.name: len((relaxer.relax_batch(first).paths or [()])[0]) for relaxer in relaxers}
    if len(set(counts.values())) > 1:
        got = ", ".join(f"{name} of {count}" for name, count in counts.items())
        raise ConfigError(f"expected paths of equally many frames; got {got}. Evaluate them separately.")
    return next(iter(counts.values()))


def _trivial(train: Sequence[Pair], frames: int) -> list[Relaxer]:
    """Dummy, and Rescale if there are training crystals."""
    known = select_paths(train, frames).pairs
    energies = fit_reference_energies(known, frames)[0] if known else None
    dummy, *others = trivial_relaxers(train)
    return [ConstantPath(dummy, frames, energies), *(ConstantPath(other, frames) for other in others)]


def _noise(pairs: Sequence[Pair], seed: int) -> Iterator[np.ndarray]:
    """Yield standard normal noise ``(n, 3)`` for each crystal."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=pair.positions.shape) for pair in pairs)


def _run(
    relaxer: Relaxer, start: CrystalBatch, batch: CrystalBatch, known: PathBatch, dummy: Sequence[Path]
) -> PathScores:
    """Score a relaxer on one batch.

    Args:
        relaxer: Relaxer that gives paths.
        start: Input of the relaxer.
        batch: The crystals without noise.
        known: Reference paths.
        dummy: Dummy's paths, which replace paths that are not finite.
    """
    begin = time.perf_counter()
    # The result is copied to the CPU, which synchronises with the device.
    paths = relaxer.relax_batch(start).paths or []
    seconds = time.perf_counter() - begin
    finite = np.array([all(map(_is_finite, path)) for path in paths])
    scored = [path if good else other for path, good, other in zip(paths, finite, dummy, strict=True)]
    return score(PathBatch.join(scored), known, batch, finite, seconds)


def _is_finite(frame: Frame) -> bool:
    """Return whether all numbers of a frame are finite."""
    parts = (frame.positions, frame.cell, frame.energy, frame.forces)
    return all(np.isfinite(part).all() for part in parts if part is not None)
