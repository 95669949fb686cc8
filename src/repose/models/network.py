"""Base class of the networks of all model families.

The contract of a family, a folder ``models/NAME/`` that needs no edit elsewhere:

1. ``settings.py``: a subclass of `NetworkSettings` with the hyperparameters.
2. ``network.py``: a subclass of `Network` with ``@register("name")`` and ``settings_type``.
3. ``prepare(batch)``: starting geometry and its neighbour graph.
4. ``forward(batch, graph)``: a `Prediction`, whose last geometry is the relaxed crystal.
5. The prediction is equivariant under rotation, translation and the order of atoms (`repose.testing`).
6. Crystals of a batch do not influence each other.
7. Optional: ``solve_positions``, ``readout_forces``, ``check_training``, ``compiles`` (with `Tabulated`
   modules).
8. It imports from ``crystal``, ``nn`` and ``models``, never from another family, data or training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from operator import attrgetter
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from repose.config import NetworkSettings, TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph
from repose.errors import ConfigError
from repose.models.prediction import Geometry, Motion, Prediction, is_valid
from repose.models.uncertainty.out_of_distribution import MahalanobisDistance
from repose.nn.kernels.radial_tables import Compiled, Tabulated
from repose.nn.radial import GaussianBasis

S = TypeVar("S", bound=NetworkSettings)

# Settings of `TrainSettings` for the losses of geometries layer by layer, and of predicted distances.
GEOMETRY_LOSS = (
    "layer_weights",
    "tolerance",
    "shape_weight",
    "volume_weight",
    "dilation_weight",
    "bond_weight",
)
DISTANCE_LOSS = "reduction", "lattice_weight"


class Network(Compiled, ABC, Generic[S]):
    """A network that refines the geometry of a batch of crystals.

    Args:
        settings: Hyperparameters, kept as ``settings``.
    """

    settings_type: ClassVar[type[NetworkSettings]]
    family: ClassVar[str]
    # Submodules that map features to predictions; the rest is the trunk, which fine-tuning may freeze.
    heads: ClassVar[tuple[str, ...]] = ()

    # Settings of `TrainSettings` that training of the family does not use.
    unused: ClassVar[tuple[str, ...]] = (*DISTANCE_LOSS, "paths")

    # The forward pass calls autograd, and cannot run in inference mode.
    differentiates: ClassVar[bool] = False

    # Geometry is passed in double precision, whatever the precision of the weights.
    double_geometry: bool = False

    # The family has `readout_forces` and can be trained on forces.
    learns_forces: ClassVar[bool] = False

    # Bytes of memory per edge and feature with the plain operators, measured on a CPU.
    plain_edge_bytes: int = 50

    settings: S
    basis: GaussianBasis  # of families with `Tabulated` modules

    def __init__(self, settings: S) -> None:
        super().__init__()
        self.settings = settings
        self.out_of_distribution = MahalanobisDistance(settings.features)

    @property
    def path_frames(self) -> int | None:
        """Number of frames of the predicted relaxation paths; None for families that predict none."""
        return None

    @property
    def passes(self) -> int:
        """Number of forward passes, each on the geometry predicted by the previous one."""
        return 1

    def check_training(self, settings: TrainSettings) -> None:
        """Check settings where a training run starts; stored models and earlier runs may have any.

        Raises:
            ConfigError: A setting that is not the default has no effect, or hyperparameters contradict each
                other.
        """
        defaults = TrainSettings()
        changed = [name for name in self.unused if attrgetter(name)(settings) != attrgetter(name)(defaults)]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)}: without effect on family '{self.family}'; leave it out."
            )

    @abstractmethod
    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """Return the starting geometry and its neighbour graph, the arguments of `forward`."""

    def prepare_again(self, batch: CrystalBatch, found: Geometry) -> tuple[CrystalBatch, PeriodicGraph]:
        """Return the arguments of `forward` for another pass, on the geometry predicted before.

        Args:
            batch: Input of the previous pass.
            found: Geometry that it predicted. Crystals that are not valid, see `is_valid`, start from
                ``batch`` again.
        """
        valid = is_valid(batch, found)
        positions = torch.where(valid[batch.system_index, None], found.positions, batch.positions)
        cells = torch.where(valid[:, None, None], found.cells, batch.cells)
        return self.prepare(batch.with_geometry(positions, cells))

    @abstractmethod
    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """Predict the relaxed crystals.

        Args:
            batch: Starting geometry from `prepare`.
            graph: Its neighbours.

        Returns:
            Prediction; geometries before the last are for layer-wise supervision.
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
        """Per-layer readouts at the input geometry, used for force training.

        Args:
            batch: Crystals.
            graph: Their neighbours.

        Returns:
            Displacements and strains of each layer, and the last scalars of atoms, ``(N, F)``.

        Raises:
            NotImplementedError: The family cannot be trained on forces.
        """
        raise NotImplementedError(f"family '{self.family}' cannot be trained on forces.")

    def depth(self, name: str) -> int | None:
        """Return the layer of a parameter: 0 before the layers, n in the n-th one, None in the heads."""
        first, _, rest = name.partition(".")
        if first in self.heads:
            return None
        return 1 + int(rest.partition(".")[0]) if first == "layers" else 0

    def compiles(self) -> bool:
        """Return whether the kernels of the family, if any, can be compiled here; compiles them."""
        return False

    def accelerate(self, compiled: bool) -> None:
        """Tabulate all radial filters for inference; weights must not change afterwards.

        Args:
            compiled: Also compile kernels: in C on a CPU, which takes a second once; with `torch.compile` on
                a GPU, which takes some ten seconds in every process.
        """
        compiled = compiled and self.compiles()
        for module in self.modules():
            if isinstance(module, Tabulated) and module.table is None:
                module.tabulate(self.basis)
        self._use_kernels(compiled)

    def compile_training(self) -> None:
        """Compile kernels for training, where the family has any; results are the same."""
        self._use_kernels(self.compiles())

    def _use_kernels(self, compiled: bool) -> None:
        for module in self.modules():
            if isinstance(module, Compiled):
                module.compiled = compiled
