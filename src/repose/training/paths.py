"""Training on whole relaxation paths, for networks that follow them (RelaxNet)."""

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
from repose.data.frames import equidistant, fit_reference_energies, paths_of
from repose.errors import DatasetError
from repose.evaluation.path_report import RISE
from repose.models.network import Network
from repose.models.prediction import Geometry, Prediction, Trajectory
from repose.nn.ops import safe_norm, segment_mean
from repose.training.losses import scale_loss, validation_errors
from repose.training.samples import (
    Counter,
    Sample,
    TrainingBatches,
    ValidationBatches,
    collate,
    crystal,
    target_of,
)
from repose.training.task import RelaxationTask

# Errors larger than these count linearly, so that crystals squeezed far too tight do not drown the rest.
FORCE, VIRIAL = 1.0, 1.0  # eV/A, eV per atom
# Displacements below this have no direction worth learning, A.
STILL = 1e-3
# Crystals that tell how far energies of the elements are to be shifted.
MOST_SHIFTED = 1000


@dataclass(frozen=True, eq=False)
class PathSample(Sample):
    """A batch of paths.

    Attributes:
        frames: What the crystals do, T frames; stress is NaN where it is not known.
    """

    frames: Trajectory

    def to(self, device: torch.device) -> PathSample:
        """The same on another device."""
        moved = super().to(device)
        return PathSample(
            moved.start, moved.graph, moved.target, Trajectory(*(part.to(device) for part in self.frames))
        )


def collate_paths(
    network: Network[Any], pairs: Sequence[Pair], paths: Sequence[Sequence[Frame]]
) -> PathSample:
    """Join paths of as many frames each, and build the graph of the first ones.

    Args:
        network: Its `prepare` builds the graph.
        pairs: The crystals.
        paths: Frames with energies and forces, as many for every crystal.
    """
    ends = [
        (crystal(pair.numbers, path[0].positions, path[0].cell, pair.pbc), target_of(pair))
        for pair, path in zip(pairs, paths, strict=True)
    ]
    sample = collate(network, ends)
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

    A share ``path_frames`` of the paths begins at a later frame, where enough are left. Noised and rewritten
    crystals have no paths, so those shares do not count.

    Args:
        pairs: Crystals with paths of enough frames.
        network: Says how many frames.
        settings: Budget, pseudo-epoch and augmentation.
        seed: Source of all randomness.
    """

    def sample(self, pairs: Sequence[Pair], rng: np.random.Generator) -> PathSample:
        """See `TrainingBatches.sample`."""
        n = self.network.settings.frames
        paths = [draw_path(pair, n, self.settings, rng) for pair in pairs]
        return collate_paths(self.network, pairs, paths)


def draw_path(pair: Pair, n: int, settings: SamplingSettings, rng: np.random.Generator) -> tuple[Frame, ...]:
    """So many frames of a path, or of what is left of it from a later frame on."""
    spare = len(pair.path) - n
    later = rng.random() < settings.path_frames and spare > 0
    return equidistant(pair.path[rng.integers(1, spare + 1) if later else 0 :], n)


class ValidationPaths(ValidationBatches):
    """Validation crystals with their whole paths; see `ValidationBatches`."""

    def sample(self, pairs: Sequence[Pair]) -> PathSample:
        """See `ValidationBatches.sample`."""
        n = self.network.settings.frames
        return collate_paths(self.network, pairs, [equidistant(pair.path, n) for pair in pairs])


class PathErrors(NamedTuple):
    """What training watches of a path, per crystal: ``(S,)`` each.

    Attributes:
        energy: Mean over frames, eV per atom.
        forces: Mean over frames and components, eV/A.
        rise: Largest rise of the predicted energy from frame to frame, eV per atom.
    """

    energy: Tensor
    forces: Tensor
    rise: Tensor


def path_errors(found: Trajectory, known: Trajectory, system_index: Tensor) -> PathErrors:
    """Errors of energies and forces; ``crystal`` is the crystal of every atom, ``(N,)``."""
    n = found.energies.shape[1]
    atoms = torch.bincount(system_index, minlength=n)
    energy = (found.energies - known.energies).abs().mean(0) / atoms
    forces = segment_mean((found.forces - known.forces).abs().mean((0, -1)), system_index, n)
    return PathErrors(energy, forces, found.energies.diff(dim=0).amax(0) / atoms)


def path_loss(prediction: Prediction, sample: PathSample, weights: PathSettings) -> Tensor:
    """Loss of a path (RelaxNet, equation 7, and the stress).

    Energies count per atom. Displacements and cells count in A, not squared, and squares of forces and
    stresses only up to `FORCE` and `VIRIAL`, since crystals squeezed far too tight have forces ten times
    those of the others. Directions are those of atoms beside the flow of the cell.

    Args:
        prediction: With a trajectory.
        sample: The paths.
        weights: Of the terms.
    """
    found, known = prediction.trajectory, sample.frames
    if found is None:
        raise ValueError("expected a prediction with a trajectory; got one without.")
    owner, n, atoms = sample.start.system_index, len(sample.start), sample.start.counts
    energy = ((found.energies - known.energies) / atoms).abs().mean()
    rise = torch.relu(found.energies.diff(dim=0) / atoms).mean()
    forces = squares(found.forces - known.forces, FORCE).mean((0, -1))
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
        (weights.stress, squares(virial, VIRIAL).mean() if len(virial) else virial.sum()),
        (weights.displacement, torch.stack([(e["coordinates"] + e["lattice"]).mean() for e in moved]).mean()),
        (weights.direction, _direction(found, known, owner)),
    )
    return torch.stack([weight * term for weight, term in terms]).sum()


def _geometries(path: Trajectory) -> list[tuple[Tensor, Tensor]]:
    """Positions and cells of all frames but the first, which is given."""
    return list(zip(path.positions[1:], path.cells[1:], strict=True))


def _direction(found: Trajectory, known: Trajectory, owner: Tensor) -> Tensor:
    """One minus the cosine between displacements, over the whole path, weighted by how far atoms go."""

    def moved(path: Trajectory) -> Tensor:
        flow = deformation(path.cells[0], path.cells[-1])
        return path.positions[-1] - to_cartesian(path.positions[0], flow, owner)

    ours, theirs = moved(found), moved(known)
    length = safe_norm(theirs)
    cosine = (ours * theirs).sum(-1) / (safe_norm(ours) * length + STILL**2)
    far = torch.where(length > STILL, length, 0.0)
    return ((1 - cosine) * far).sum() / (far.sum() + STILL)


def squares(error: Tensor, width: float) -> Tensor:
    """Squares of errors, which go on as straight lines beyond a width."""
    size = error.abs()
    return torch.where(size < width, size.square(), width * (2 * size - width))


class PathTask(RelaxationTask):
    """Supervision of whole paths; see `RelaxationTask`.

    The score is the sum of coordinate and lattice MAE in A at the end, and of the energy MAE over all frames
    in eV per atom.
    """

    train_type, val_type = PathBatches, ValidationPaths

    def loss(self, prediction: Prediction, batch: PathSample) -> Tensor:
        """See `RelaxationTask.loss`."""
        loss = path_loss(prediction, batch, self.settings.paths)
        if prediction.error_scales is None:
            return loss
        scales = scale_loss(prediction.error_scales, prediction.geometry, batch.target, self.settings.images)
        return loss + scales

    def errors(self, prediction: Prediction, batch: PathSample) -> dict[str, Tensor]:
        """See `RelaxationTask.errors`; ``rising`` is the share of crystals whose energy rises on its way."""
        errors = super().errors(prediction, batch)
        if prediction.trajectory is None:
            raise ValueError("expected a prediction with a trajectory; got one without.")
        path = path_errors(prediction.trajectory, batch.frames, batch.start.system_index)
        return errors | {
            "energy": path.energy,
            "forces": path.forces,
            "rising": (path.rise > RISE).to(path.rise),
            "score": errors["score"] + path.energy,
        }


def path_task(
    network: Network[Any],
    settings: TrainSettings,
    train: Sequence[Pair],
    val: Sequence[Pair],
    counts: Counter | None = None,
) -> tuple[PathTask, str]:
    """Task of a family that follows paths, and a line about the training crystals left out.

    Energies of the elements are fitted; those of a network that is trained already are shifted.

    Args:
        network: What is trained.
        settings: How.
        train: Training crystals.
        val: Validation crystals.
        counts: As of `RelaxationTask`.

    Raises:
        DatasetError: There is no path, for training or for validation.
    """
    frames = network.path_frames or 0
    found, held_out = paths_of(train, frames), paths_of(val, frames)
    if not found.pairs or not held_out.pairs:
        raise DatasetError(
            f"family '{network.family}' learns from paths of {frames} frames with energies and forces. "
            f"Training: {found}. Validation: {held_out}. Label crystals with 'repose data label'."
        )
    # Whole paths go on, since training draws frames of its own.
    known, watched = ({pair.id for pair in paths.pairs} for paths in (found, held_out))
    train = [_labelled(pair) for pair in train if pair.id in known]
    val = [_labelled(pair) for pair in val if pair.id in watched]
    reference, scale = network.get_buffer("reference_energies"), network.get_buffer("energy_scale")
    if reference.any():
        reference.add_(energy_shift(network, train[:MOST_SHIFTED], settings.sampling.edges_per_batch))
    else:
        fitted, left = fit_reference_energies(train, frames)
        reference.copy_(torch.as_tensor(fitted))
        scale.fill_(left)
    return PathTask(network, settings, train, val, counts), str(found)


def _labelled(pair: Pair) -> Pair:
    """Without the frames inside its path that have no energy or forces; both ends have them (`paths_of`)."""
    known = [frame for frame in pair.path if frame.energy is not None and frame.forces is not None]
    return replace(pair, path=tuple(known))


@torch.no_grad()
def energy_shift(network: Network[Any], pairs: Sequence[Pair], edges_per_batch: int) -> Tensor:
    """What the energies of the elements lack where a trained network meets energies of another kind.

    Least squares of the difference between known and predicted energies, with the smallest change that does
    it: a code or functional has its own zero of energy for every element, and to learn that would take long.

    Args:
        network: Trained on other energies.
        pairs: Crystals with paths.
        edges_per_batch: Budget of a forward pass.

    Returns:
        eV per atom by atomic number, ``(119,)``; zero for elements that are not there.
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
    shift = np.linalg.lstsq(design, missing, rcond=None)[0]  # the smallest of those that fit best
    shift[~design.any(axis=0)] = 0.0
    return torch.as_tensor(shift).to(network.get_buffer("reference_energies"))
