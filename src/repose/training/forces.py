"""Training on what acts on crystals where they stand, before training on where they relax to.

A relaxed crystal follows from forces and stresses on the way there, of which a dataset with paths holds many
times as many numbers. A network that has learned these begins the training on relaxed crystals with features
that know how atoms act on each other. Its readouts give displacements and strains in proportion to forces
and stresses, which is what a first step of a relaxation does.
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
from repose.models.initial_structure import graph_of
from repose.models.network import Network
from repose.models.prediction import Motion
from repose.nn.ops import segment_mean
from repose.training.samples import Counter, Sample, TrainingBatches, ValidationBatches, crystal
from repose.training.task import RelaxationTask

# Beyond these, in eV/A and eV per atom, what acts is compressed: crystals squeezed far too tight have forces
# a hundred times those of the others.
FORCE, VIRIAL = 2.0, 5.0
# What a layer is to do for one eV/A, in A, and for one eV per atom: readouts are of order one.
STEP, STRAIN = 0.3, 0.05
# Errors below these count as squares, in eV/A and eV per atom: most frames are nearly relaxed, and a network
# that is punished for every small force says zero everywhere.
SMALL_FORCE, SMALL_VIRIAL = 0.1, 0.2
# Weights in the loss beside forces: of virials and of energies, eV/A for an eV per atom.
VIRIALS, ENERGIES = 0.5, 0.2


class Acting(NamedTuple):
    """What acts on a batch, forces and virials as `compressed`.

    Attributes:
        forces: Zero in the mean over a crystal, eV/A, ``(N, 3)``.
        virials: Minus stress times volume per atom, eV, ``(S, 3, 3)``: positive where it wants to grow.
        energies: Beyond those of the elements, eV per atom, ``(S,)``.
    """

    forces: Tensor
    virials: Tensor
    energies: Tensor


@dataclass(frozen=True, eq=False)
class ForceSample(Sample):
    """A batch of frames, as they stand.

    Attributes:
        acting: What acts on them.
    """

    acting: Acting

    def to(self, device: torch.device) -> ForceSample:
        """The same on another device."""
        moved, acting = super().to(device), Acting(*(part.to(device) for part in self.acting))
        return ForceSample(moved.start, moved.graph, moved.target, acting)


def compressed(values: Tensor, limit: float) -> Tensor:
    """Vectors or matrices with their direction, and lengths x that become x / (1 + x / limit)."""
    flat = values.flatten(1)
    return (flat / (1 + flat.norm(dim=1, keepdim=True) / limit)).view_as(values)


def labelled(pairs: Sequence[Pair]) -> list[Pair]:
    """Crystals with two frames or more that have energy, forces and stress, and with no others."""

    def whole(frame: Frame) -> bool:
        return all(part is not None for part in (frame.energy, frame.forces, frame.stress))

    known = [replace(pair, path=tuple(filter(whole, pair.path))) for pair in pairs]
    return [pair for pair in known if len(pair.path) > 1]


def beyond(pairs: Sequence[Pair], reference: np.ndarray) -> list[Pair]:
    """Crystals whose energies are without those of their elements, eV by atomic number ``(119,)``."""

    def shifted(pair: Pair) -> Pair:
        elements = reference[pair.numbers].sum()
        return replace(pair, path=tuple(replace(f, energy=energy_of(f) - elements) for f in pair.path))

    return [shifted(pair) for pair in pairs]


def energy_of(frame: Frame) -> float:
    """Energy in eV per cell of a frame that has one.

    Raises:
        ValueError: It has none.
    """
    if frame.energy is None:
        raise ValueError("expected a frame with an energy; see `labelled`.")
    return frame.energy


def collate_frames(network: Network[Any], pairs: Sequence[Pair], frames: Sequence[Frame]) -> ForceSample:
    """Join a frame of every crystal.

    Args:
        network: Its settings say how neighbours are found.
        pairs: The crystals.
        frames: One of each, with energy, forces and stress.

    Raises:
        ValueError: A frame has no energy.
    """
    batch = CrystalBatch.collate(
        [crystal(p.numbers, f.positions, f.cell, p.pbc) for p, f in zip(pairs, frames, strict=True)]
    )
    virials, energies = [], []
    for pair, frame in zip(pairs, frames, strict=True):
        n = len(pair.numbers)
        virials.append(-np.asarray(frame.stress) * abs(np.linalg.det(frame.cell)) / n)
        energies.append(energy_of(frame) / n)
    forces = [torch.tensor(np.asarray(frame.forces), dtype=torch.float32) for frame in frames]
    forces = compressed(torch.cat(forces), FORCE)
    acting = Acting(
        forces - segment_mean(forces, batch.system_index, len(batch))[batch.system_index],
        compressed(torch.tensor(np.stack(virials), dtype=torch.float32), VIRIAL),
        torch.tensor(energies, dtype=torch.float32),
    )
    return ForceSample(batch, graph_of(batch, network.settings.graph), batch, acting)


class ForceBatches(TrainingBatches):
    """Training batches of frames, of every crystal one at random; see `TrainingBatches`."""

    def sample(self, pairs: Sequence[Pair], rng: np.random.Generator) -> ForceSample:
        """See `TrainingBatches.sample`."""
        frames = [pair.path[rng.integers(len(pair.path))] for pair in pairs]
        return collate_frames(self.network, pairs, frames)


class ValidationFrames(ValidationBatches):
    """A frame of every validation crystal, of one the first, of the next the second, and so on."""

    def sample(self, pairs: Sequence[Pair]) -> ForceSample:
        """See `ValidationBatches.sample`."""
        frames = [pair.path[k % len(pair.path)] for k, pair in enumerate(pairs)]
        return collate_frames(self.network, pairs, frames)


def differences(motion: Motion, acting: Acting) -> tuple[Tensor, Tensor]:
    """What a layer says of forces, in eV/A ``(N, 3)``, and virials, in eV ``(S, 3, 3)``, less what acts."""
    return motion.steps / STEP - acting.forces, motion.strains / STRAIN - acting.virials


def motion_loss(motion: Motion, acting: Acting, owner: Tensor) -> Tensor:
    """Loss of what a layer says, in eV/A, a scalar.

    Args:
        motion: Read out at rest.
        acting: What acts.
        owner: Crystal of every atom, ``(N,)``.
    """
    forces, virials = differences(motion, acting)
    of_atoms = segment_mean(smooth(forces, SMALL_FORCE), owner, len(virials))
    return (of_atoms + VIRIALS * smooth(virials, SMALL_VIRIAL)).mean()


def smooth(values: Tensor, small: float) -> Tensor:
    """Lengths of vectors ``(n, 3)`` or matrices ``(n, 3, 3)``, as squares where they are small: ``(n,)``."""
    return (values.flatten(1).square().sum(1) + small**2).sqrt() - small


class ForceTask(RelaxationTask):
    """Layer-wise supervision by what acts on frames; see `RelaxationTask`.

    Energies are read from the last scalars by a head that is not part of the model. Logged are
    ``val/forces`` (eV/A) and ``val/virial`` (eV per atom), both compressed, ``val/energy`` (eV per atom,
    without the energies of the elements), and as ``val/score`` their sum.

    Args:
        network: What is trained.
        settings: How.
        train: Training crystals with labelled frames, see `labelled` and `beyond`.
        val: Validation crystals with such.
        counts: As of `RelaxationTask`.
    """

    train_type, val_type = ForceBatches, ValidationFrames
    reported = (("forces", "eV/A"), ("virial", "eV/atom"), ("energy", "eV/atom"))

    def __init__(
        self,
        network: Network[Any],
        settings: TrainSettings,
        train: Sequence[Pair],
        val: Sequence[Pair],
        counts: Counter | None = None,
    ) -> None:
        super().__init__(network, settings, train, val, counts)
        self.energy = nn.Linear(network.settings.features, 1)

    def predict(self, network: Network[Any], batch: ForceSample) -> Any:
        """What the layers read out, and energies in eV per atom, ``(S,)``."""
        motions, scalars = network.at_rest(batch.start, batch.graph)
        energies = self.energy(nn.functional.layer_norm(scalars, scalars.shape[-1:])).squeeze(-1)
        return motions, segment_mean(energies, batch.start.system_index, len(batch.start))

    def loss(self, prediction: Any, batch: ForceSample) -> Tensor:
        """See `RelaxationTask.loss`; in eV/A, of motions summed over layers."""
        motions, energies = prediction
        owner, acting = batch.start.system_index, batch.acting
        moved = torch.stack([motion_loss(motion, acting, owner) for motion in motions])
        return moved.sum() + ENERGIES * (energies - acting.energies).abs().mean()

    def errors(self, prediction: Any, batch: ForceSample) -> dict[str, Tensor]:
        """See `RelaxationTask.errors`."""
        motions, energies = prediction
        owner, acting = batch.start.system_index, batch.acting
        forces, virials = differences(motions[-1], acting)
        errors = {
            "forces": segment_mean(forces.abs().mean(-1), owner, len(virials)),
            "virial": virials.abs().mean((-1, -2)),
            "energy": (energies - acting.energies).abs(),
        }
        return errors | {"score": errors["forces"] + errors["virial"] + errors["energy"]}


def force_task(
    network: Network[Any],
    settings: TrainSettings,
    train: Sequence[Pair],
    val: Sequence[Pair],
    counts: Counter | None = None,
) -> tuple[ForceTask, str]:
    """Task of learning what acts, and a line about the crystals it is learned from.

    Args:
        network: What is trained.
        settings: How.
        train: Training crystals.
        val: Validation crystals.
        counts: As of `RelaxationTask`.

    Raises:
        ConfigError: The family cannot.
        DatasetError: No frame has energy, forces and stress, for training or for validation.
    """
    if not network.learns_forces:
        raise ConfigError(f"family '{network.family}' cannot be trained on forces; family 'repose' can.")
    known, watched = labelled(train), labelled(val)
    if not known or not watched:
        raise DatasetError(
            "learning forces needs paths whose frames have energies, forces and stresses; there are "
            f"{len(known)} such crystals for training and {len(watched)} for validation. "
            "Label crystals with 'repose data label'."
        )
    reference, _ = fit_reference_energies(known, 2)
    task = ForceTask(network, settings, beyond(known, reference), beyond(watched, reference), counts)
    return task, f"{sum(len(pair.path) for pair in known):,} frames of {len(known):,} crystals"
