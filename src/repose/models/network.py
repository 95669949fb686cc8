"""Base class of the networks of all model families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from repose.config import NetworkSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph
from repose.models.prediction import Geometry, Motion, Prediction, is_valid
from repose.models.uncertainty.out_of_distribution import MahalanobisDistance

S = TypeVar("S", bound=NetworkSettings)


class Network(nn.Module, ABC, Generic[S]):
    """A network that refines the geometry of a batch of crystals.

    Args:
        settings: Hyperparameters, kept as ``settings``.
    """

    settings_type: ClassVar[type[NetworkSettings]]
    family: ClassVar[str]
    # Submodules that turn features into answers; the rest is the trunk, which fine-tuning may hold back.
    heads: ClassVar[tuple[str, ...]] = ()

    # Whether a forward pass differentiates, and so cannot run in inference mode.
    differentiates: ClassVar[bool] = False

    # Whether it takes geometry in double precision, whatever the precision of its weights.
    double_geometry: bool = False

    # Whether it has `readout_forces`, and can be trained on forces.
    learns_forces: ClassVar[bool] = False

    # Bytes of memory for an edge and feature on the plain path, measured on a CPU.
    plain_edge_bytes: int = 50

    settings: S

    def __init__(self, settings: S) -> None:
        super().__init__()
        self.settings = settings
        self.out_of_distribution = MahalanobisDistance(settings.features)

    @property
    def path_frames(self) -> int | None:
        """Frames of the paths that it learns and predicts; None for families that know no path."""
        return None

    @property
    def passes(self) -> int:
        """How often it is applied, each time to what it found before."""
        return 1

    @abstractmethod
    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """Geometry to start from and its neighbour graph, both without gradients.

        Args:
            batch: Crystals as the user gave them.

        Returns:
            What `forward` takes.
        """

    def prepare_again(self, batch: CrystalBatch, found: Geometry) -> tuple[CrystalBatch, PeriodicGraph]:
        """What `forward` takes to go on from what it found.

        Args:
            batch: What it began with.
            found: What it made of that. A crystal that is lost, see `is_valid`, begins where it did before,
                so that it does no harm to the others.

        Returns:
            As `prepare`.
        """
        whole = is_valid(batch, found)
        positions = torch.where(whole[batch.system_index, None], found.positions, batch.positions)
        cells = torch.where(whole[:, None, None], found.cells, batch.cells)
        return self.prepare(batch.with_geometry(positions, cells))

    @abstractmethod
    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """Predict the relaxed crystals.

        Args:
            batch: Starting geometry from `prepare`.
            graph: Its neighbours.

        Returns:
            Geometries before the last are for layer-wise supervision.
        """

    def solve_positions(
        self, prediction: Prediction, batch: CrystalBatch, graph: PeriodicGraph
    ) -> tuple[Geometry, Tensor | None]:
        """Final geometry of a prediction; families that predict distances solve for positions here.

        Args:
            prediction: Output of `forward`.
            batch: Input of `forward`.
            graph: Input of `forward`.

        Returns:
            Geometry, and the mean violation of predicted distances in A, ``(S,)``, or None.
        """
        del batch, graph
        return prediction.geometry, None

    def readout_forces(self, batch: CrystalBatch, graph: PeriodicGraph) -> tuple[list[Motion], Tensor]:
        """What is read out while nothing moves, for training on what acts on a crystal where it stands.

        Args:
            batch: Crystals.
            graph: Their neighbours.

        Returns:
            What each layer would do, and the last scalars of atoms, ``(N, F)``.

        Raises:
            NotImplementedError: The family does not learn forces.
        """
        raise NotImplementedError(f"family '{self.family}' does not learn forces.")

    def depth(self, name: str) -> int | None:
        """How deep a parameter lies: 0 before the layers, n in the n-th of them, None in the heads."""
        first, _, rest = name.partition(".")
        if first in self.heads:
            return None
        return 1 + int(rest.partition(".")[0]) if first == "layers" else 0

    def accelerate(self, compiled: bool) -> None:
        """Make ready for inference, as fast as this family can; weights must not change afterwards.

        Args:
            compiled: Let `torch.compile` make kernels, which takes some ten seconds once.
        """
        del compiled

    def compile_training(self) -> None:
        """Let `torch.compile` make kernels for training, where this family has any; the numbers stay."""
