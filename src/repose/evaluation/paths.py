"""Score predicted relaxation paths, with their energies and forces, against reference paths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.frame import Frame
from repose.data.dataset import Pair
from repose.data.frames import fit_reference_energies, paths_of
from repose.errors import ConfigError, DatasetError
from repose.evaluation.metrics import coordinate_error, move_to_image
from repose.evaluation.path_report import PathReport, Track
from repose.evaluation.runner import EDGES_PER_BATCH, facts, pack, to_batch, trivial_relaxers
from repose.models.prediction import Geometry
from repose.models.uncertainty.estimate import Estimate
from repose.nn.ops import segment_mean
from repose.relaxer.base import Relaxer

Path = tuple[Frame, ...]


class Frames(NamedTuple):
    """Paths of S crystals of N atoms in all, T frames each; float64, NaN where nothing is said.

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
    def join(cls, paths: Sequence[Path]) -> Frames:
        """Crystals of as many frames each, side by side."""

        def forces(frame: Frame) -> np.ndarray:
            return np.full(frame.positions.shape, np.nan) if frame.forces is None else frame.forces

        frames = list(zip(*paths, strict=True))
        positions = [np.concatenate([frame.positions for frame in row]) for row in frames]
        cells = [[frame.cell for frame in row] for row in frames]
        energies = [[np.nan if frame.energy is None else frame.energy for frame in row] for row in frames]
        pushes = [np.concatenate([forces(frame) for frame in row]) for row in frames]
        columns = (positions, cells, energies, pushes)
        return cls(*(torch.from_numpy(np.array(column, dtype=np.float64)) for column in columns))

    def geometry(self, frame: int) -> Geometry:
        """All crystals at one frame."""
        return Geometry(self.positions[frame], self.cells[frame])


class Still(Relaxer):
    """The path of a trivial relaxer: its answer in every frame.

    Args:
        relaxer: Dummy or Rescale.
        frames: How many.
        energies: With these, eV per atom by atomic number ``(119,)``, the energy is that of the elements, and
            forces are zero; without, nothing is said of either. An element that is zero, since the fit never
            saw it, counts as the mean of the others.
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

    def estimate(self, batch: CrystalBatch) -> Estimate:
        """See `Relaxer.estimate`."""
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
        return Estimate(geometry, paths=[(frame,) * self.frames for frame in frames])


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
) -> PathReport:
    """Score the paths of relaxers, after the trivial ones, on crystals whose reference path is known.

    Of every reference path as many frames are taken, evenly spread, as the relaxers predict. A path with a
    number that is not finite counts as Dummy's, whole, and the report names it.

    Args:
        relaxers: All of them give paths, of one number of frames.
        datasets: Pairs by name of the dataset, each read once.
        train: Pairs that energies of elements, for Dummy, and volumes, for Rescale, are fitted to.
        split: What the pairs are called in the report.
        perturb: For every scale, in A, all crystals are relaxed again with so much normal noise on every
            coordinate of the input, the same noise for all scales; what is known stays.
        seed: Of the noise.
        edges_per_batch: Crystals are packed until their estimated neighbours exceed this.
        progress: Called with the number of crystals just done or left out.

    Raises:
        ConfigError: A relaxer gives no paths, or they differ in their number of frames, or two relaxers have
            one name.
        DatasetError: No crystal has a path of enough frames, or one is not valid; names it.
    """
    for relaxer in relaxers:
        if not relaxer.gives_paths:
            raise ConfigError(
                f"model '{relaxer.name}' gives no paths; models of the family relaxnet do. "
                "Leave --paths away to evaluate relaxed crystals alone."
            )
    if not relaxers:
        raise ConfigError("paths are those of a model, and none is given; name one with --model.")
    pairs = {dataset: list(own) for dataset, own in datasets.items()}
    frames = _count_frames(relaxers, [pair for own in pairs.values() for pair in own])
    found = {dataset: paths_of(own, frames) for dataset, own in pairs.items()}
    kept = [pair for paths in found.values() for pair in paths.pairs]
    if not kept:
        said = "; ".join(f"{dataset}: {paths}" for dataset, paths in found.items())
        raise DatasetError(
            f"no crystal of the {split} split has a path to compare with. {said}. "
            "Import whole paths, or label crystals with 'repose data label'."
        )
    if progress is not None:
        progress(sum(map(len, pairs.values())) - len(kept))
    everyone = [*_trivial(list(train), frames), *relaxers]
    if len({relaxer.name for relaxer in everyone}) < len(everyone):
        raise ConfigError(f"relaxers need names of their own; got {', '.join(r.name for r in everyone)}.")
    scales = list(dict.fromkeys((0.0, *perturb)))
    tracks: dict[tuple[float, str], list[Track]] = {(s, r.name): [] for s in scales for r in everyone}
    references: list[Track] = []
    noise = _noise(kept, seed)
    for packed in pack(kept, edges_per_batch):
        batch, known = to_batch(packed)[0], Frames.join([pair.path for pair in packed])
        references.append(score(known, known, batch))
        shift = torch.from_numpy(np.concatenate([next(noise) for _ in packed]))
        for scale in scales:
            start = batch.with_geometry(batch.positions + scale * shift, batch.cells)
            dummy = everyone[0].estimate(start).paths or []
            for relaxer in everyone:
                tracks[scale, relaxer.name].append(_run(relaxer, start, batch, known, dummy))
        if progress is not None:
            progress(len(packed))
    joined = {key: Track.join(parts) for key, parts in tracks.items()}
    return PathReport(
        split,
        frames,
        tuple(facts(pair, dataset) for dataset, paths in found.items() for pair in paths.pairs),
        found,
        Track.join(references),
        {scale: {r.name: joined[scale, r.name] for r in everyone} for scale in scales},
    )


def score(
    found: Frames,
    known: Frames,
    batch: CrystalBatch,
    finite: np.ndarray | None = None,
    seconds: float = 0.0,
) -> Track:
    """Errors of paths, frame by frame.

    Args:
        found: What is predicted.
        known: The reference, as many frames.
        batch: The unrelaxed crystals; every reference frame is moved to the periodic images nearest to them.
        finite: Whether each of the crystals was predicted at all, ``(S,)``; by default all are.
        seconds: That predicting took.
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
    return Track(
        energies=found.energies.T.numpy(),
        largest=torch.stack([part.amax(dim=1) for part in lengths]).numpy(),
        forces=segment_mean(errors.T, crystal, n).numpy(),
        coordinates=torch.stack(coordinates, dim=1).numpy(),
        aligned=np.array([aligned_rmsd(one.numpy(), other.numpy()) for one, other in ends]),
        finite=np.full(n, True) if finite is None else finite,
        seconds=np.full(n, seconds / n),
    )


def kabsch(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation R for which ``points @ R`` lies nearest to the target, in the sum of squares.

    Never a reflection. Where several do as well, as for points on a line or a single one, any of them.

    Args:
        points: ``(n, 3)``, with their mean at the origin.
        target: The same atoms, ``(n, 3)``, with their mean at the origin.

    Returns:
        Orthogonal, of determinant 1, ``(3, 3)``.

    Source: Kabsch, Acta Crystallographica A 32, 922 (1976).
    """
    left, _, right = np.linalg.svd(points.T @ target)
    # The direction that counts least is turned round where the best orthogonal matrix would reflect.
    handed = np.sign(np.linalg.det(left) * np.linalg.det(right))
    return (left * [1.0, 1.0, handed]) @ right


def aligned_rmsd(points: np.ndarray, target: np.ndarray) -> float:
    """Root mean square distance of atoms in A after the best shift and rotation.

    What is aligned are the atoms of one cell, as they stand in space and all with one weight, as if they
    were a molecule; cells are not looked at. A crystal of one atom is always at zero.

    Args:
        points: A, ``(n, 3)``.
        target: The same atoms, in A, ``(n, 3)``.
    """
    points, target = points - points.mean(axis=0), target - target.mean(axis=0)
    difference = points @ kabsch(points, target) - target
    return float(np.sqrt(np.square(difference).sum(axis=1).mean()))


def _count_frames(relaxers: Sequence[Relaxer], pairs: Sequence[Pair]) -> int:
    """Frames of the paths that relaxers predict; they are warm afterwards."""
    if not pairs:
        raise DatasetError("no crystal to evaluate: the split is empty.")
    first, _ = to_batch(pairs[:1])
    counts = {relaxer.name: len((relaxer.estimate(first).paths or [()])[0]) for relaxer in relaxers}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} of {count}" for name, count in counts.items())
        raise ConfigError(f"paths must have as many frames to be compared; got {said}. Evaluate them apart.")
    return next(iter(counts.values()))


def _trivial(train: Sequence[Pair], frames: int) -> list[Relaxer]:
    """Dummy, and Rescale where there are training crystals."""
    known = paths_of(train, frames).pairs
    energies = fit_reference_energies(known, frames)[0] if known else None
    dummy, *others = trivial_relaxers(train)
    return [Still(dummy, frames, energies), *(Still(other, frames) for other in others)]


def _noise(pairs: Sequence[Pair], seed: int) -> Iterator[np.ndarray]:
    """Standard normal noise ``(n, 3)`` for one crystal after another."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=pair.positions.shape) for pair in pairs)


def _run(
    relaxer: Relaxer, start: CrystalBatch, batch: CrystalBatch, known: Frames, dummy: Sequence[Path]
) -> Track:
    """Score a relaxer on one batch.

    Args:
        relaxer: Anything that gives paths.
        start: The crystals as it sees them.
        batch: The crystals before any noise.
        known: The reference.
        dummy: What counts where its own path is not finite.
    """
    begin = time.perf_counter()
    # The answer comes back to the CPU, which waits for the device: no other synchronisation is needed.
    paths = relaxer.estimate(start).paths or []
    seconds = time.perf_counter() - begin
    finite = np.array([all(map(_is_finite, path)) for path in paths])
    told = [path if good else still for path, good, still in zip(paths, finite, dummy, strict=True)]
    return score(Frames.join(told), known, batch, finite, seconds)


def _is_finite(frame: Frame) -> bool:
    """Whether all that a frame says is a number."""
    said = (frame.positions, frame.cell, frame.energy, frame.forces)
    return all(np.isfinite(part).all() for part in said if part is not None)
