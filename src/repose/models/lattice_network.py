"""Base of the families with lattice nodes: starting geometry, embedding, and layer-wise refinement."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from repose.config import NetworkSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.elements import MAX_NUMBER
from repose.crystal.graph import PeriodicGraph
from repose.crystal.lattice import follow_cell
from repose.errors import ConfigError
from repose.models.initial_structure import initial_structure
from repose.models.network import Network
from repose.models.prediction import Geometry, Prediction
from repose.models.uncertainty.head import UncertaintyHead
from repose.nn.element_embedding import ElementEmbedding
from repose.nn.equivariant import mlp
from repose.nn.lattice_nodes import EdgesToLattice, LatticeUpdate, LatticeView
from repose.nn.messages import EdgeGeometry, compiles
from repose.nn.ops import safe_norm, segment_mean, unit
from repose.nn.radial import GaussianBasis


class LatticeNodeSettings(NetworkSettings):
    """Hyperparameters that families with lattice nodes share."""

    uncertainty_head: bool = Field(
        default=True,
        description="predict errors of atoms and of the strain (ours); geometries do not depend on it",
    )
    lattice_nodes: bool = Field(
        default=True, description="False: ablation, nine numbers from the mean of the scalars change the cell"
    )
    refinement: bool = Field(
        default=True, description="False: ablation, geometry moves in the last layer only"
    )
    shared_axes: bool = Field(
        default=True, description="one set of weights for a, b and c, so that their order does not matter"
    )
    lattice_features: Literal["geometry", "embedding"] = Field(
        default="geometry",
        description="initial lattice nodes: scalars and vectors from the lattice vectors (geometry); or, as "
        "published, learned scalars for each lattice vector, and zero vectors (embedding)",
    )
    lattice_update: Literal["residual", "gated"] = Field(
        default="residual",
        description="update of lattice nodes: their scalars times 1 + tanh (residual), or tanh (gated), "
        "equation 11 as printed",
    )
    half_width: bool = Field(
        default=False, description="half as many hidden features in φ of messages, as in the released code"
    )
    keep_vectors: bool = Field(
        default=True,
        description="add messages from the lattice to the atoms' vectors (ours) instead of replacing them",
    )
    edge_channels: int = Field(
        default=0,
        ge=0,
        description="channels of messages from edges straight to lattice nodes (ours); 0 is the papers, "
        "where lattice nodes see no anisotropy of neighbours that are symmetric about an atom",
    )


S = TypeVar("S", bound=LatticeNodeSettings)


class LayerState(NamedTuple):
    """Features and geometry between two layers.

    Attributes:
        x: Scalars of atoms, ``(N, F)``.
        v: Vectors of atoms, ``(N, 3, F)``.
        y: Scalars of lattice nodes, ``(S, 3, F)``.
        w: Vectors of lattice nodes, ``(S, 3, 3, F)``.
        positions: A, ``(N, 3)``.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
    """

    x: Tensor
    v: Tensor
    y: Tensor
    w: Tensor
    positions: Tensor
    cells: Tensor


class LatticeNetwork(Network[S]):
    """A stack of `RefinementLayer` on atoms and lattice nodes.

    ``start="rescaled"`` scales the input to the volume predicted from its composition, fitted on the training
    split.
    """

    layer_type: ClassVar[type[RefinementLayer]]
    heads = ("uncertainty_head",)

    @property
    def gate_inputs(self) -> int:
        """Number of angular inputs to messages; 0 if they have none."""
        return 0

    def __init__(self, settings: S) -> None:
        super().__init__(settings)
        f, r = settings.features, settings.n_basis
        self.basis = GaussianBasis(r, settings.reach)
        self.embedding = ElementEmbedding(f, settings.embedding, settings.property_noise)
        # A^3 per atom of every element; filled by the training task when start = "rescaled".
        self.atomic_volumes: Tensor
        self.register_buffer("atomic_volumes", torch.zeros(MAX_NUMBER + 1))
        kinds = 1 if settings.shared_axes else 3
        embedded = settings.lattice_nodes and settings.lattice_features == "embedding"
        if embedded and settings.shared_axes and not settings.edge_channels:
            raise ConfigError(
                "lattice_features='embedding' with shared_axes=true gives a, b and c the same features in "
                "every layer; set shared_axes=false, or edge_channels."
            )
        if embedded:
            self.lattice_embedding = nn.Parameter(torch.randn(kinds, f))
        elif settings.lattice_nodes:
            self.lattice_scalars = nn.ModuleList(mlp(r, f, f) for _ in range(kinds))
            self.lattice_vectors = nn.Parameter(torch.randn(kinds, f))
        self.layers = nn.ModuleList(
            self.layer_type(settings, self.basis, moves=settings.refinement or last)
            for last in [False] * (settings.layers - 1) + [True]
        )
        self.uncertainty_head = UncertaintyHead(f) if settings.uncertainty_head else None

    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """Starting geometry and its graph; see `Network.prepare`."""
        return initial_structure(batch, self.settings, self.atomic_volumes)

    def compiles(self) -> bool:
        """See `Network.compiles`."""
        return compiles(self.settings.features, self.gate_inputs, next(self.parameters()))

    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """Refine the geometry layer by layer; see `Network.forward`."""
        x = self.embedding(batch.numbers)
        v = x.new_zeros(len(x), 3, self.settings.features)
        state = LayerState(x, v, *self._lattice_features(batch.cells), batch.positions, batch.cells)
        geometries = []
        for layer in self.layers:
            state = layer(state, batch.system_index, graph)
            if layer.moves:
                geometries.append(Geometry(state.positions, state.cells))
        scales = None
        if self.uncertainty_head is not None:
            scales = self.uncertainty_head(
                state.x, Geometry(batch.positions, batch.cells), geometries[-1], batch.system_index
            )
        return Prediction(geometries, segment_mean(state.x, batch.system_index, len(batch)), scales)

    def _lattice_features(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars ``(S, 3, F)`` and vectors ``(S, 3, 3, F)``; see ``lattice_features`` of the settings."""
        if not self.settings.lattice_nodes or self.settings.lattice_features == "embedding":
            zero = cells.new_zeros(len(cells), 3, self.settings.features)
            y = zero + self.lattice_embedding if self.settings.lattice_nodes else zero
            return y, zero.unsqueeze(2).expand(-1, -1, 3, -1)
        length = self.basis(safe_norm(cells))  # (S, 3, R)
        parts = length.chunk(len(self.lattice_scalars), dim=1)
        y = torch.cat([net(part) for net, part in zip(self.lattice_scalars, parts, strict=True)], dim=1)
        # In units of 10 A, so that features are of order one.
        return y, cells.unsqueeze(-1) / 10 * self.lattice_vectors.unsqueeze(1)


class RefinementLayer(nn.Module):
    """One layer: new features, then new positions and cells.

    With ``frame="affine"`` atoms follow the deformation of the cell, plus displacements of zero
    mean: a translation-invariant network cannot predict the affine displacement, which depends on the
    position. A fractional shift of the input then shifts the prediction by the same fractional vector.

    ``edge_channels`` adds messages from edges to lattice nodes, see `repose.nn.lattice_nodes.EdgesToLattice`.

    Args:
        settings: Hyperparameters of the network.
        basis: Radial basis, shared by all layers.
        moves: Change positions and cell in this layer.
        residual: See `LatticeUpdate`.
        mixing: See `LatticeUpdate`.
    """

    def __init__(
        self,
        settings: LatticeNodeSettings,
        basis: GaussianBasis,
        moves: bool,
        residual: bool = False,
        mixing: bool = False,
    ) -> None:
        super().__init__()
        f = settings.features
        self.moves = moves
        self.affine = settings.frame == "affine"
        self.basis = basis
        self.lattice_update: LatticeUpdate | None = None
        self.edges_to_lattice: EdgesToLattice | None = None
        self.cell_head: nn.Sequential | None = None
        if settings.lattice_nodes:
            keep_scalars = settings.lattice_update == "residual"
            self.lattice_update = LatticeUpdate(
                f, settings.shared_axes, settings.edge_channels, residual, mixing, keep_scalars
            )
            if settings.edge_channels:
                self.edges_to_lattice = EdgesToLattice(f, settings.n_basis, settings.edge_channels)
        else:
            # Ablation, as in DeepRelax: nine numbers from the mean of the scalars. They are invariant, so the
            # change is expressed in the lattice vectors of the crystal, which rotate with it.
            self.cell_head = mlp(f, f, 9)

    @abstractmethod
    def forward(self, state: LayerState, system_index: Tensor, graph: PeriodicGraph) -> LayerState:
        """Return the state after this layer; ``system_index`` is the crystal of every atom, ``(N,)``."""

    def update_lattice(
        self, x: Tensor, v: Tensor, state: LayerState, edges: EdgeGeometry, system_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Atoms and edges to lattice: new ``y``, ``w``, and the change of the cells in A, ``(S, 3, 3)``."""
        y, w, cells = state.y, state.w, state.cells
        if self.lattice_update is not None:
            anisotropy = None
            if self.edges_to_lattice is not None:
                anisotropy = self.edges_to_lattice(x, edges, cells, system_index)
            return self.lattice_update(x, v, y, w, system_index, anisotropy)
        if not self.moves or self.cell_head is None:
            return y, w, torch.zeros_like(cells)
        mixing = self.cell_head(segment_mean(x, system_index, len(cells))).view(-1, 3, 3)
        return y, w, mixing @ cells / 10

    def move(
        self, state: LayerState, step: Tensor, change: Tensor, system_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New positions and cells in A from displacements ``(N, 3)`` and changes of cells ``(S, 3, 3)``."""
        positions, cells = state.positions, state.cells + change
        if self.affine:
            step = step - segment_mean(step, system_index, len(cells))[system_index]
            positions = follow_cell(positions, state.cells, cells, system_index)
        return positions + step, cells


def lattice_view(
    positions: Tensor, cells: Tensor, system_index: Tensor, basis: GaussianBasis, tips: bool
) -> LatticeView:
    """Lattice vectors relative to the atoms: from their tips, see `to_tips`, or the vectors alone.

    Args:
        positions: A, ``(N, 3)``.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
        system_index: Crystal of every atom, ``(N,)``.
        basis: Expands the distances.
        tips: Use tips; otherwise the vectors alone, which are equal for all atoms of a crystal.
    """
    offset = to_tips(positions, cells, system_index) if tips else -cells
    return LatticeView(basis(safe_norm(offset)), unit(offset), None if tips else system_index)


def to_tips(positions: Tensor, cells: Tensor, system_index: Tensor) -> Tensor:
    """Vectors from the tip of every lattice vector to every atom in A, ``(N, 3, 3)`` (atom, vector, xyz).

    Positions are relative to the mean of the crystal; arguments as in `lattice_view`.
    """
    return centred(positions, system_index, len(cells)).unsqueeze(1) - cells[system_index]


def centred(positions: Tensor, system_index: Tensor, n: int) -> Tensor:
    """Positions ``(N, 3)`` relative to the mean of their crystal."""
    return positions - segment_mean(positions, system_index, n)[system_index]


def along_and_across(positions: Tensor, cells: Tensor, system_index: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of positions parallel (signed) and perpendicular to the lattice vectors in A, each ``(N, 3)``."""
    direction = unit(cells)[system_index]  # (N, 3 axes, 3)
    relative = centred(positions, system_index, len(cells)).unsqueeze(1)
    along = (relative * direction).sum(-1)
    return along, safe_norm(torch.linalg.cross(relative, direction, dim=-1))
