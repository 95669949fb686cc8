"""What a neural network of any family offers, and the registry of families."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from repose.config import NetworkSettings
from repose.crystals import CrystalBatch
from repose.errors import ModelError, nearest
from repose.graph import PeriodicGraph
from repose.lattice import volume
from repose.nn.familiarity import Familiarity
from repose.nn.ops import segment_sum

S = TypeVar("S", bound=NetworkSettings)
N = TypeVar("N", bound="Network[Any]")

# A volume that changes by more than this factor is that of a crystal that is lost.
LOST = 8.0


class Geometry(NamedTuple):
    """Positions ``(N, 3)`` in A and cells ``(S, 3, 3)`` in A (rows) after a layer."""

    positions: Tensor
    cells: Tensor


class Scales(NamedTuple):
    """How large errors will be: Laplace scales, which are the means of absolute errors.

    Attributes:
        atoms: Of the components of an atom's position in A, ``(N,)``.
        strains: Of the strain from the predicted cell to the relaxed one, root mean square of its nine
            entries, ``(S,)``.
    """

    atoms: Tensor
    strains: Tensor


class Distances(NamedTuple):
    """Distances in the relaxed crystal, for families that find positions from them (DeepRelax).

    Attributes:
        relaxed: Length of every edge in A, ``(E,)``.
        scale: Laplace scale of these in A, ``(E,)``; None where none is predicted.
        anchored: Edges, ``(P,)`` int64, whose sender also has a known distance from the place where the
            receiver starts, as in the last of the layers.
        displaced: That distance in A, ``(P,)``.
        displaced_scale: Laplace scale of these in A, ``(P,)``, or None.
        exact: Look for the most probable positions, not for some within bounds.
    """

    relaxed: Tensor
    scale: Tensor | None
    anchored: Tensor
    displaced: Tensor
    displaced_scale: Tensor | None
    exact: bool = False


class Trajectory(NamedTuple):
    """The way of S crystals of N atoms in all from input to answer: T frames, both ends included.

    Attributes:
        positions: A, ``(T, N, 3)``.
        cells: Rows, A, ``(T, S, 3, 3)``.
        energies: eV per cell, ``(T, S)``.
        forces: eV/A, the negative gradient of the energy, ``(T, N, 3)``.
        stresses: eV/A^3, dE/dstrain over volume, sign as in ASE, ``(T, S, 3, 3)``.
    """

    positions: Tensor
    cells: Tensor
    energies: Tensor
    forces: Tensor
    stresses: Tensor


class Prediction(NamedTuple):
    """What a network says about a batch.

    Attributes:
        layers: Geometries in A, one a layer, the last of them the answer, or where `distances` has it start.
        latent: Features of every crystal, ``(S, F)``: what tells whether its like was seen in training.
        scales: Errors to expect, for families that predict positions.
        distances: For families that predict them.
        trajectory: The whole way, for families that know it (RelaxNet).
    """

    layers: list[Geometry]
    latent: Tensor
    scales: Scales | None = None
    distances: Distances | None = None
    trajectory: Trajectory | None = None

    @property
    def geometry(self) -> Geometry:
        """The last of the layers."""
        return self.layers[-1]


class Motion(NamedTuple):
    """What a layer wants to do to a batch.

    Attributes:
        steps: Displacements of atoms in A, ``(N, 3)``.
        strains: Symmetric strains of crystals, ``(S, 3, 3)``.
    """

    steps: Tensor
    strains: Tensor


def not_lost(batch: CrystalBatch, found: Geometry) -> Tensor:
    """Which crystals are not lost: finite, and not more than `LOST` times as large or small, ``(S,)`` bool.

    Args:
        batch: Where they began, N atoms in S crystals.
        found: Where they came to, A, of the same shapes.
    """
    ratio = volume(found.cells) / volume(batch.cells)
    broken = (~torch.isfinite(found.positions).all(-1)).to(ratio)  # atoms
    whole = segment_sum(broken, batch.crystal, len(batch)) == 0
    return whole & torch.isfinite(found.cells).all(-1).all(-1) & (ratio > 1 / LOST) & (ratio < LOST)


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

    # Whether it has `at_rest`, and can be trained on forces.
    learns_forces: ClassVar[bool] = False

    # Bytes of memory for an edge and feature on the plain path, measured on a CPU.
    plain_edge_bytes: int = 50

    settings: S

    def __init__(self, settings: S) -> None:
        super().__init__()
        self.settings = settings
        self.familiarity = Familiarity(settings.features)

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
            found: What it made of that. A crystal that is lost, see `not_lost`, begins where it did before,
                so that it does no harm to the others.

        Returns:
            As `prepare`.
        """
        whole = not_lost(batch, found)
        positions = torch.where(whole[batch.crystal, None], found.positions, batch.positions)
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

    def at_rest(self, batch: CrystalBatch, graph: PeriodicGraph) -> tuple[list[Motion], Tensor]:
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


# Families known by name, and the module that registers each when imported.
_MODULES = {
    "deeprelax": "repose.models.deeprelax",
    "e3relax": "repose.models.e3relax",
    "e3relax-h2": "repose.models.e3relax_h2",
    "relaxnet": "repose.models.relaxnet",
    "repose": "repose.models.repose",
}
_FAMILIES: dict[str, type[Network[Any]]] = {}


def register(name: str) -> Callable[[type[N]], type[N]]:
    """Class decorator that enters a family in the registry under its name."""

    def enter(cls: type[N]) -> type[N]:
        cls.family = name
        _FAMILIES[name] = cls
        return cls

    return enter


def families() -> list[str]:
    """Names of the model families that can be trained."""
    return sorted({*_MODULES, *_FAMILIES})


def family(name: str) -> type[Network[Any]]:
    """Class of a model family.

    Raises:
        ModelError: No family has this name.
    """
    if name not in _FAMILIES and name in _MODULES:
        importlib.import_module(_MODULES[name])
    if name not in _FAMILIES:
        raise ModelError(
            f"no model family is called '{name}'; known: {', '.join(families())}.{nearest(name, families())}"
        )
    return _FAMILIES[name]
