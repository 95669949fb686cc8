"""Training on whole relaxation paths, for families that predict them (RelaxNet)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.config import PathSettings, SamplingSettings, TrainSettings
from repose.crystal.elements import MAX_NUMBER
from repose.crystal.frame import Frame
from repose.crystal.lattice import deformation, to_cartesian, volume
from repose.data.dataset import Pair
from repose.data.frames import evenly_spaced, fit_reference_energies, select_paths
from repose.errors import DatasetError
from repose.evaluation.metrics import ENERGY_RISE
from repose.models.network import Network
from repose.models.prediction import Geometry, Prediction, Trajectory
from repose.nn.ops import safe_norm, segment_mean
from repose.training.losses import scale_loss, validation_errors
from repose.training.samples import (
    EdgeCounter,
    Sample,
    TrainingBatches,
    ValidationBatches,
    collate,
    noisy,
)
from repose.training.task import RelaxationTask

# Larger errors count linearly in the loss, so that strongly compressed crystals do not dominate it.
FORCE_WIDTH, VIRIAL_WIDTH = 1.0, 1.0  # eV/A, eV per atom
# Directions of smaller displacements are ignored, A.
MIN_DISPLACEMENT = 1e-3
# Crystals for the fit of the shift of reference energies.
MAX_SHIFT_CRYSTALS = 1000


@dataclass(frozen=True, eq=False)
class PathSample(Sample):
    """Batch of paths.

    Attributes:
        frames: Reference paths of T frames; stresses that are missing are NaN.
    """

    frames: Trajectory

    def to(self, device: torch.device) -> PathSample:
        """Copy on another device."""
        moved = super().to(device)
        return PathSample(
            moved.start, moved.graph, moved.target, Trajectory(*(part.to(device) for part in self.frames))
        )


def collate_paths(
    network: Network[Any],
    pairs: Sequence[Pair],
    paths: Sequence[Sequence[Frame]],
    starts: Sequence[np.ndarray] | None = None,
) -> PathSample:
    """Batch paths of equally many frames, and build the graph of the first frames.

    Args:
        network: Its `prepare` builds the graph.
        pairs: The crystals.
        paths: Frames with energies and forces of every crystal.
        starts: Positions of the inputs in A, ``(n, 3)`` each; by default those of the first frames.
    """
    first = [
        replace(pair, positions=start, cell=path[0].cell)
        for pair, path, start in zip(pairs, paths, starts or [p[0].positions for p in paths], strict=True)
    ]
    sample = collate(network, first)
    unknown = np.full((3, 3), np.nan)

    def stacked(name: str, join: Any) -> Tensor:
        rows = [join([getattr(path[k], name) for path in paths]) for k in range(len(paths[0]))]
        return torch.tensor(np.stack(rows), dtype=torch.float32)

    stresses = [
        [unknown if f.stress is None else f.stress for f in frames] for frames in zip(*paths, strict=True)
    ]
    frames = Trajectory(
        stacked("positions", np.concatenate),
        stacked("cell", np.stack),
        stacked("energy", np.array),
        stacked("forces", np.concatenate),
        torch.tensor(np.array(stresses), dtype=torch.float32),
    )
    return PathSample(sample.start, sample.graph, sample.target, frames)


class PathBatches(TrainingBatches):
    """Training batches of whole paths; see `TrainingBatches`.

    A share ``path_frames`` of the paths begins at a later frame, if enough frames are left; inputs get the
    ``noise``. Other augmentations are not applied, as perturbed crystals have no paths.

    Args:
        pairs: Crystals with paths of enough frames.
        network: Its settings have the number of frames.
        settings: Limit of edges, pseudo-epoch and augmentation.
        seed: Seed of all random numbers.
    """

    def sample(self, pairs: Sequence[Pair], rng: np.random.Generator) -> PathSample:
        """See `TrainingBatches.sample`."""
        n = self.network.path_frames or 0
        paths = [draw_path(pair, n, self.settings, rng) for pair in pairs]
        starts = [noisy(path[0].positions, self.settings, rng) for path in paths]
        return collate_paths(self.network, pairs, paths, starts)


def draw_path(pair: Pair, n: int, settings: SamplingSettings, rng: np.random.Generator) -> tuple[Frame, ...]:
    """Evenly spaced frames of a path, or of its rest from a random later frame on."""
    spare = len(pair.path) - n
    later = rng.random() < settings.path_frames and spare > 0
    return evenly_spaced(pair.path[rng.integers(1, spare + 1) if later else 0 :], n)


class ValidationPaths(ValidationBatches):
    """Validation crystals with their whole paths; see `ValidationBatches`."""

    def sample(self, pairs: Sequence[Pair]) -> PathSample:
        """See `ValidationBatches.sample`."""
        n = self.network.path_frames or 0
        return collate_paths(self.network, pairs, [evenly_spaced(pair.path, n) for pair in pairs])


class PathErrors(NamedTuple):
    """Validation errors of paths, ``(S,)`` each.

    Attributes:
        energy: Mean over frames, eV per atom.
        forces: Mean over frames and components, eV/A.
        rise: Largest increase of the predicted energy between consecutive frames, eV per atom.
    """

    energy: Tensor
    forces: Tensor
    rise: Tensor


def path_errors(found: Trajectory, known: Trajectory, system_index: Tensor) -> PathErrors:
    """Errors of energies and forces; ``system_index`` is the crystal of every atom, ``(N,)``."""
    n = found.energies.shape[1]
    atoms = torch.bincount(system_index, minlength=n)
    energy = (found.energies - known.energies).abs().mean(0) / atoms
    forces = segment_mean((found.forces - known.forces).abs().mean((0, -1)), system_index, n)
    return PathErrors(energy, forces, found.energies.diff(dim=0).amax(0) / atoms)


def path_loss(prediction: Prediction, sample: PathSample, weights: PathSettings) -> Tensor:
    """Training loss of paths (RelaxNet, equation 7, with a term for the stress; see `PathSettings.form`).

    Energies are per atom. Errors of positions and cells are absolute, in A. Errors of forces and virials are
    squared up to `FORCE_WIDTH` and `VIRIAL_WIDTH` and linear above, because strongly compressed crystals have
    forces ten times larger than others. Directions are those of displacements relative to the cell.

    Args:
        prediction: Prediction with a trajectory.
        sample: Reference paths.
        weights: Weights of the terms.
    """
    found, known = prediction.trajectory, sample.frames
    if found is None:
        raise ValueError("expected a prediction with a trajectory; got one without.")
    if weights.form == "published":
        return published_path_loss(found, known, sample.start.system_index, weights)
    owner, n, atoms = sample.start.system_index, len(sample.start), sample.start.counts
    energy = ((found.energies - known.energies) / atoms).abs().mean()
    rise = torch.relu(found.energies.diff(dim=0) / atoms).mean()
    forces = huber(found.forces - known.forces, FORCE_WIDTH).mean((0, -1))
    virial = (found.stresses - known.stresses) * (volume(known.cells) / atoms)[..., None, None]
    virial = virial[torch.isfinite(known.stresses)]
    moved = [
        validation_errors(Geometry(*ours), sample.target.with_geometry(*theirs))
        for ours, theirs in zip(_geometries(found), _geometries(known), strict=True)
    ]
    terms = (
        (weights.energy, energy),
        (weights.rise, rise),
        (weights.forces, segment_mean(forces, owner, n).mean()),
        (weights.stress, huber(virial, VIRIAL_WIDTH).mean() if len(virial) else virial.sum()),
        (weights.displacement, torch.stack([(e["coordinates"] + e["lattice"]).mean() for e in moved]).mean()),
        (weights.direction, _direction(found, known, owner)),
    )
    return torch.stack([weight * term for weight, term in terms]).sum()


def published_path_loss(found: Trajectory, known: Trajectory, owner: Tensor, weights: PathSettings) -> Tensor:
    """Equation 7 of RelaxNet as printed.

    The set of atoms in the last term, those that move by more than `MIN_DISPLACEMENT`, and the small number
    in its denominator, the same, are not in the paper.

    Args:
        found: Predicted paths.
        known: Reference paths.
        owner: Crystal of every atom, ``(N,)``.
        weights: Weights λ of the terms.
    """
    n = found.energies.shape[1]

    def squared(ours: Tensor, theirs: Tensor) -> Tensor:
        return segment_mean((ours - theirs).square().mean((0, -1)), owner, n).mean()

    ours, theirs = (path.positions[-1] - path.positions[0] for path in (found, known))
    length = theirs.norm(dim=-1)
    far = torch.where(length > MIN_DISPLACEMENT, length, 0.0)
    least = ours.norm(dim=-1).clamp(min=MIN_DISPLACEMENT)
    cosine = (ours * theirs).sum(-1) / (least * length.clamp(min=MIN_DISPLACEMENT))
    return (
        weights.energy * (found.energies - known.energies).abs().mean()
        + weights.rise * torch.relu(found.energies.diff(dim=0)).mean()
        + weights.forces * squared(found.forces, known.forces)
        + weights.displacement * squared(found.positions, known.positions)
        + weights.direction * ((1 - cosine) * far).sum() / (far.sum() + MIN_DISPLACEMENT)
    )


def _geometries(path: Trajectory) -> list[tuple[Tensor, Tensor]]:
    """Positions and cells of all frames but the first, which is the input."""
    return list(zip(path.positions[1:], path.cells[1:], strict=True))


def _direction(found: Trajectory, known: Trajectory, owner: Tensor) -> Tensor:
    """One minus the cosine between total displacements, weighted by the length of the reference."""

    def moved(path: Trajectory) -> Tensor:
        flow = deformation(path.cells[0], path.cells[-1])
        return path.positions[-1] - to_cartesian(path.positions[0], flow, owner)

    ours, theirs = moved(found), moved(known)
    length = safe_norm(theirs)
    cosine = (ours * theirs).sum(-1) / (safe_norm(ours) * length + MIN_DISPLACEMENT**2)
    far = torch.where(length > MIN_DISPLACEMENT, length, 0.0)
    return ((1 - cosine) * far).sum() / (far.sum() + MIN_DISPLACEMENT)


def huber(error: Tensor, width: float) -> Tensor:
    """Twice the Huber loss: squared errors up to a width, linear above."""
    size = error.abs()
    return torch.where(size < width, size.square(), width * (2 * size - width))


class PathTask(RelaxationTask):
    """Training on whole paths; see `RelaxationTask`.

    The score is the coordinate and lattice MAE of the last frame in A, plus the energy MAE over all frames in
    eV per atom.
    """

    train_type, val_type = PathBatches, ValidationPaths

    def loss(self, prediction: Prediction, batch: PathSample) -> Tensor:
        """Training loss of a batch."""
        loss = path_loss(prediction, batch, self.settings.paths)
        if prediction.error_scales is None:
            return loss
        scales = scale_loss(prediction.error_scales, prediction.geometry, batch.target, self.settings.images)
        return loss + scales

    def errors(self, prediction: Prediction, batch: PathSample) -> dict[str, Tensor]:
        """See `RelaxationTask.errors`; ``rising`` is the share of crystals whose predicted energy rises."""
        errors = super().errors(prediction, batch)
        if prediction.trajectory is None:
            raise ValueError("expected a prediction with a trajectory; got one without.")
        path = path_errors(prediction.trajectory, batch.frames, batch.start.system_index)
        return errors | {
            "energy": path.energy,
            "forces": path.forces,
            "rising": (path.rise > ENERGY_RISE).to(path.rise),
            "score": errors["score"] + path.energy,
        }


def path_task(
    network: Network[Any],
    settings: TrainSettings,
    train: Sequence[Pair],
    val: Sequence[Pair],
    edge_counter: EdgeCounter | None = None,
) -> tuple[PathTask, str]:
    """Task of a family that predicts paths, and a description of its training data.

    Reference energies of the elements are fitted, if the network has them; those of a trained network are
    shifted.

    Args:
        network: Network to train.
        settings: Settings of the training.
        train: Training crystals.
        val: Validation crystals.
        edge_counter: See `RelaxationTask`.

    Raises:
        DatasetError: There are no paths for training or for validation, or crystals without charges although
            the network takes them.
    """
    frames = network.path_frames or 0
    found, held_out = select_paths(train, frames), select_paths(val, frames)
    if not found.pairs or not held_out.pairs:
        raise DatasetError(
            f"family '{network.family}' needs paths of {frames} frames with energies and forces. "
            f"Training: {found}. Validation: {held_out}. Label crystals with 'repose data label'."
        )
    # Whole paths are kept, because training draws its own frames.
    known, validated = ({pair.id for pair in paths.pairs} for paths in (found, held_out))
    train = [_labelled_path(pair) for pair in train if pair.id in known]
    val = [_labelled_path(pair) for pair in val if pair.id in validated]
    bare = sum(pair.charges is None for pair in (*train, *val))
    if network.settings.charges and bare:
        raise DatasetError(
            f"model.charges needs charges of atoms; {bare} of {len(train) + len(val)} crystals have none. "
            "Import relaxations of VASP with the OUTCAR beside vasprun.xml, or set model.charges=false."
        )
    if network.settings.references:
        set_reference_energies(network, train, settings.sampling.edges_per_batch)
    return PathTask(network, settings, train, val, edge_counter), str(found)


def set_reference_energies(network: Network[Any], train: Sequence[Pair], edges_per_batch: int) -> None:
    """Fit energies of the elements to paths, or shift those of a trained network; see `energy_shift`."""
    reference, scale = network.get_buffer("reference_energies"), network.get_buffer("energy_scale")
    if reference.any():
        reference.add_(energy_shift(network, train[:MAX_SHIFT_CRYSTALS], edges_per_batch))
    else:
        fitted, left = fit_reference_energies(train, network.path_frames or 0)
        reference.copy_(torch.as_tensor(fitted))
        scale.fill_(left)


def _labelled_path(pair: Pair) -> Pair:
    """Remove frames without energy or forces; the first and last frames have both (`select_paths`)."""
    known = [frame for frame in pair.path if frame.energy is not None and frame.forces is not None]
    return replace(pair, path=tuple(known))


@torch.no_grad()
def energy_shift(network: Network[Any], pairs: Sequence[Pair], edges_per_batch: int) -> Tensor:
    """Shift of the reference energies of a trained network towards those of other data.

    Codes and functionals differ in the zero of energy of every element, which training would learn slowly.
    The shift is the least-squares fit of smallest norm to reference minus predicted energies.

    Args:
        network: Network trained on other energies.
        pairs: Crystals with paths.
        edges_per_batch: Limit of edges in a forward pass.

    Returns:
        eV per atom by atomic number, ``(119,)``; zero for elements without crystals.
    """
    training, fractions, lacking = network.training, [], []
    network.eval()
    paths = ValidationPaths(pairs, network, edges_per_batch)
    for sample in map(paths.sample, paths.batches):
        found, batch = network(sample.start, sample.graph).trajectory, sample.start
        lacking.append((sample.frames.energies - found.energies).mean(0) / batch.counts)
        counts = batch.positions.new_zeros(len(batch), MAX_NUMBER + 1)
        ones = torch.ones_like(batch.positions[:, 0])
        counts.index_put_((batch.system_index, batch.numbers), ones, accumulate=True)
        fractions.append(counts / batch.counts.unsqueeze(1))
    network.train(training)
    design, missing = torch.cat(fractions).double().numpy(), torch.cat(lacking).double().numpy()
    shift = np.linalg.lstsq(design, missing, rcond=None)[0]
    shift[~design.any(axis=0)] = 0.0
    return torch.as_tensor(shift).to(network.get_buffer("reference_energies"))
