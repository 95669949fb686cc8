"""Pre-training on forces, stresses and energies of frames, before training on relaxed crystals.

A dataset with paths holds many more forces and stresses than relaxed crystals. In pre-training, the readouts
of every layer give displacements and strains in proportion to forces and stresses, as the first step of a
relaxation does. The features are then the start of the training on relaxed crystals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from repose.config import TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.frame import Frame
from repose.data.dataset import Pair
from repose.data.frames import fit_reference_energies
from repose.errors import ConfigError, DatasetError
from repose.models.initial_structure import build_graph
from repose.models.network import Network
from repose.models.prediction import Motion
from repose.nn.ops import segment_mean
from repose.training.samples import EdgeCounter, Sample, TrainingBatches, ValidationBatches
from repose.training.stopwatch import part
from repose.training.task import RelaxationTask

# Limits of compressed forces (eV/A) and virials (eV per atom): strongly compressed crystals have forces a
# hundred times larger than others.
MAX_FORCE, MAX_VIRIAL = 2.0, 5.0
# Readouts for a force of 1 eV/A (displacement in A) and a virial of 1 eV per atom (strain).
STEP, STRAIN = 0.3, 0.05
# Widths of the quadratic part of the loss, eV/A and eV per atom. Most frames are nearly relaxed: a loss that
# is linear at small forces would favour zero everywhere.
FORCE_WIDTH, VIRIAL_WIDTH = 0.1, 0.2
# Weights of virials and energies relative to forces, eV/A per eV and atom.
VIRIAL_WEIGHT, ENERGY_WEIGHT = 0.5, 0.2


class ForceTargets(NamedTuple):
    """Target forces, virials and energies of a batch; forces and virials are compressed, see `compress`.

    Attributes:
        forces: Forces with a mean of zero over each crystal, eV/A, ``(N, 3)``.
        virials: Minus stress times volume per atom, eV, ``(S, 3, 3)``; positive under compression.
        energies: Energies relative to the elements, eV per atom, ``(S,)``.
    """

    forces: Tensor
    virials: Tensor
    energies: Tensor


@dataclass(frozen=True, eq=False)
class ForceSample(Sample):
    """Batch of frames with their target forces."""

    forces: ForceTargets

    def to(self, device: torch.device) -> ForceSample:
        """Copy on another device."""
        moved, forces = super().to(device), ForceTargets(*(part.to(device) for part in self.forces))
        return ForceSample(moved.start, moved.graph, moved.target, forces)


def compress(values: Tensor, limit: float) -> Tensor:
    """Rescale vectors or matrices of norm x to the norm x / (1 + x / limit)."""
    flat = values.flatten(1)
    return (flat / (1 + flat.norm(dim=1, keepdim=True) / limit)).view_as(values)


def labelled(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs reduced to frames with energy, forces and stress, where there are at least two."""

    def complete(frame: Frame) -> bool:
        return all(part is not None for part in (frame.energy, frame.forces, frame.stress))

    known = [replace(pair, path=tuple(filter(complete, pair.path))) for pair in pairs]
    return [pair for pair in known if len(pair.path) > 1]


def subtract_reference(pairs: Sequence[Pair], reference: np.ndarray) -> list[Pair]:
    """Subtract energies of the elements, eV by atomic number ``(119,)``, from the energies of frames."""

    def shifted(pair: Pair) -> Pair:
        elements = reference[pair.numbers].sum()
        return replace(pair, path=tuple(replace(f, energy=energy_of(f) - elements) for f in pair.path))

    return [shifted(pair) for pair in pairs]


def energy_of(frame: Frame) -> float:
    """Energy of a frame in eV per cell.

    Raises:
        ValueError: The frame has no energy.
    """
    if frame.energy is None:
        raise ValueError("expected a frame with an energy; see `labelled`.")
    return frame.energy


def collate_frames(network: Network[Any], pairs: Sequence[Pair], frames: Sequence[Frame]) -> ForceSample:
    """Batch one frame, with energy, forces and stress, of every crystal.

    Raises:
        ValueError: A frame has no energy.
    """
    virials, energies = [], []
    for pair, frame in zip(pairs, frames, strict=True):
        n = len(pair.numbers)
        virials.append(-np.asarray(frame.stress) * abs(np.linalg.det(frame.cell)) / n)
        energies.append(energy_of(frame) / n)
    batch = CrystalBatch.stack(
        [pair.numbers for pair in pairs],
        [frame.positions for frame in frames],
        [frame.cell for frame in frames],
        [pair.pbc for pair in pairs],
        torch.float32,
    )
    forces = [torch.tensor(np.asarray(frame.forces), dtype=torch.float32) for frame in frames]
    forces = compress(torch.cat(forces), MAX_FORCE)
    targets = ForceTargets(
        forces - segment_mean(forces, batch.system_index, len(batch))[batch.system_index],
        compress(torch.tensor(np.stack(virials), dtype=torch.float32), MAX_VIRIAL),
        torch.tensor(energies, dtype=torch.float32),
    )
    with part("graphs"):
        return ForceSample(batch, build_graph(batch, network.settings.graph), batch, targets)


class ForceBatches(TrainingBatches):
    """Training batches with one random frame of every crystal; see `TrainingBatches`."""

    def sample(self, pairs: Sequence[Pair], rng: np.random.Generator) -> ForceSample:
        """See `TrainingBatches.sample`."""
        frames = [pair.path[rng.integers(len(pair.path))] for pair in pairs]
        return collate_frames(self.network, pairs, frames)


class ValidationFrames(ValidationBatches):
    """Validation batches with one frame of every crystal: the first, the second, ... in turn."""

    def sample(self, pairs: Sequence[Pair]) -> ForceSample:
        """See `ValidationBatches.sample`."""
        frames = [pair.path[k % len(pair.path)] for k, pair in enumerate(pairs)]
        return collate_frames(self.network, pairs, frames)


def residuals(motion: Motion, targets: ForceTargets) -> tuple[Tensor, Tensor]:
    """Errors of the readouts of a layer: forces in eV/A ``(N, 3)`` and virials in eV ``(S, 3, 3)``."""
    return motion.steps / STEP - targets.forces, motion.strains / STRAIN - targets.virials


def force_loss(motion: Motion, targets: ForceTargets, system_index: Tensor) -> Tensor:
    """Loss of the readouts of a layer at the input geometry, in eV/A, a scalar."""
    forces, virials = residuals(motion, targets)
    of_atoms = segment_mean(pseudo_huber(forces, FORCE_WIDTH), system_index, len(virials))
    return (of_atoms + VIRIAL_WEIGHT * pseudo_huber(virials, VIRIAL_WIDTH)).mean()


def pseudo_huber(values: Tensor, width: float) -> Tensor:
    """Pseudo-Huber loss of the norms x of vectors ``(n, 3)`` or matrices ``(n, 3, 3)``, ``(n,)``.

    It is ``sqrt(x^2 + width^2) - width``: quadratic below the width, linear above.
    """
    return (values.flatten(1).square().sum(1) + width**2).sqrt() - width


class ForceTask(RelaxationTask):
    """Training of every layer on forces, virials and energies of frames; see `RelaxationTask`.

    Energies are read from the last scalars by a head that is not part of the model. Logs ``val/forces``
    (eV/A) and ``val/virial`` (eV per atom), both compressed, ``val/energy`` (eV per atom, relative to the
    elements), and their sum as ``val/score``. For the crystals see `labelled` and `subtract_reference`.
    """

    train_type, val_type = ForceBatches, ValidationFrames
    reported = (("forces", "eV/A"), ("virial", "eV/atom"), ("energy", "eV/atom"))

    def __init__(
        self,
        network: Network[Any],
        settings: TrainSettings,
        train: Sequence[Pair],
        val: Sequence[Pair],
        edge_counter: EdgeCounter | None = None,
    ) -> None:
        super().__init__(network, settings, train, val, edge_counter)
        self.energy = nn.Linear(network.settings.features, 1)

    def predict(self, network: Network[Any], batch: ForceSample) -> Any:
        """Readouts of the layers, and energies in eV per atom, ``(S,)``."""
        motions, scalars = network.readout_forces(batch.start, batch.graph)
        energies = self.energy(nn.functional.layer_norm(scalars, scalars.shape[-1:])).squeeze(-1)
        return motions, segment_mean(energies, batch.start.system_index, len(batch.start))

    def loss(self, prediction: Any, batch: ForceSample) -> Tensor:
        """Training loss of a batch in eV/A, forces and virials summed over layers."""
        motions, energies = prediction
        layers = [force_loss(motion, batch.forces, batch.start.system_index) for motion in motions]
        return torch.stack(layers).sum() + ENERGY_WEIGHT * (energies - batch.forces.energies).abs().mean()

    def errors(self, prediction: Any, batch: ForceSample) -> dict[str, Tensor]:
        """See `RelaxationTask.errors`."""
        motions, energies = prediction
        forces, virials = residuals(motions[-1], batch.forces)
        errors = {
            "forces": segment_mean(forces.abs().mean(-1), batch.start.system_index, len(virials)),
            "virial": virials.abs().mean((-1, -2)),
            "energy": (energies - batch.forces.energies).abs(),
        }
        return errors | {"score": errors["forces"] + errors["virial"] + errors["energy"]}


def force_task(
    network: Network[Any],
    settings: TrainSettings,
    train: Sequence[Pair],
    val: Sequence[Pair],
    edge_counter: EdgeCounter | None = None,
) -> tuple[ForceTask, str]:
    """Task of force training, see `RelaxationTask`, and a description of its training data.

    Raises:
        ConfigError: The family does not support force training.
        DatasetError: No frame has energy, forces and stress, for training or for validation.
    """
    if not network.learns_forces:
        raise ConfigError(f"family '{network.family}' cannot be trained on forces; family 'reposenet' can.")
    known, held_out = labelled(train), labelled(val)
    if not known or not held_out:
        raise DatasetError(
            "training on forces needs paths whose frames have energies, forces and stresses; got "
            f"{len(known)} such crystals for training and {len(held_out)} for validation. "
            "Label crystals with 'repose data label'."
        )
    reference, _ = fit_reference_energies(known, 2)
    relative = (subtract_reference(known, reference), subtract_reference(held_out, reference))
    task = ForceTask(network, settings, *relative, edge_counter)
    return task, f"{sum(len(pair.path) for pair in known):,} frames of {len(known):,} crystals"
