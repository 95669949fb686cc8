"""DeepRelax: distances in the relaxed crystal, each with an uncertainty; positions follow from them.

Yang et al., "Scalable crystal structure relaxation using an iteration-free deep generative model with
uncertainty quantification", Nature Communications 15, 8148 (2024). Equation numbers are the paper's. The
network is here; `repose.models.deeprelax.positions` finds the positions.

Where this differs from the paper or its released code, and why:

* ``lattice="matrix"`` pools means, not sums, so that a supercell gives the same result. It predicts the
  entries of the cell (equation 9) and is not equivariant. ``lattice="strain"`` (ours) is: it pools a strain
  over edges, each contributing the projector on its direction.
* Offsets are clamped to -2..2. They depend on the periodic image that an atom is written in;
  ``offsets=False`` removes this dependence.
* Maps that the paper writes as one matrix are two-layer networks, as in the released code; the maps of
  equations 8 and 10 share theirs, and the first acts on atoms before pairs are formed, which is the same.
* The scale is ``exp(b)``: equations 11-12 write b for it, equations 18-19 exp(b), as the code does.
* Pairs are the edges of the graph, whole shells of equal distances. The released code adds pairs within the
  cell beyond the cutoff.
* ``distances="change"``, ``positions="likelihood"``, ``frame="affine"``, ``anchors="all"`` and
  ``start="rescaled"`` are ours, see `DeepRelaxSettings`.

Example configuration::

    {"model": {"features": 128, "layers": 3, "lattice": "strain", "offsets": false, "anchors": "all"}}
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from repose.crystal.batch import CrystalBatch
from repose.crystal.elements import MAX_NUMBER
from repose.crystal.graph import PeriodicGraph, edge_vectors
from repose.crystal.lattice import follow_cell, periodic_span
from repose.models.deeprelax.positions import positions_from_distances
from repose.models.deeprelax.settings import DeepRelaxSettings
from repose.models.initial_structure import initial_structure
from repose.models.network import Network
from repose.models.prediction import Distances, Geometry, Prediction
from repose.models.registry import register
from repose.nn.element_embedding import ElementEmbedding
from repose.nn.equivariant import ScaledSiLU, mlp
from repose.nn.kernels.radial_tables import SplineTable, Tabulated
from repose.nn.lattice_nodes import EdgesToLattice
from repose.nn.messages import EdgeGeometry, Message, compiles
from repose.nn.ops import safe_norm, segment_mean
from repose.nn.radial import GaussianBasis

LARGEST_OFFSET = 2
CHANNELS = 64  # tensors behind a strain
# Logarithms of scales in A stay between these, as in the released code but for the lower one.
SCALES = (-6.0, 2.0)


def offset_codes(features: int) -> Tensor:
    """Sinusoidal codes of the 125 offsets (equations 2-3), ``(125, F)``; see `offset_index`."""
    index = torch.arange((2 * LARGEST_OFFSET + 1) ** 3).unsqueeze(1)
    column = torch.arange(features)
    angle = index / 10000 ** ((column - column % 2) / features)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


def offset_index(shift: Tensor) -> Tensor:
    """Number of an offset, ``K = (k1 + 2) + 5 (k2 + 2) + 25 (k3 + 2)``: ``(E, 3)`` gives ``(E,)``."""
    k = shift.long().clamp(-LARGEST_OFFSET, LARGEST_OFFSET) + LARGEST_OFFSET
    return k[:, 0] + 5 * k[:, 1] + 25 * k[:, 2]


class PaEGNNUpdate(nn.Module):
    """Update of a node's scalars and vectors, equations 6 and 7."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.mix = nn.Linear(features, 2 * features, bias=False)  # U and V side by side
        self.weights = mlp(2 * features, features, 3 * features)  # W_s1, W_s2, W_v side by side

    def forward(self, m: Tensor, mv: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of scalars ``(N, F)`` and vectors ``(N, 3, F)``."""
        u, v = self.mix(mv).split(self.features, dim=-1)
        weights = self.weights(torch.cat([m, safe_norm(u, dim=1)], dim=-1))
        s1, s2, sv = weights.split(self.features, dim=-1)
        product = (u * v).sum(dim=1) / math.sqrt(self.features)
        return (s1 + s2 * product) / math.sqrt(2), sv.unsqueeze(1) * v


class PaEGNNLayer(nn.Module):
    """Message passing and updating, equations 4 to 7, with skip connections."""

    def __init__(self, settings: DeepRelaxSettings) -> None:
        super().__init__()
        f = settings.features
        self.message = Message(f, settings.n_basis)
        # γ of a concatenation is the sum of a map of either part.
        self.offsets = nn.Linear(f, 3 * f, bias=False) if settings.offsets else None
        self.update = PaEGNNUpdate(f)

    def forward(
        self, x: Tensor, v: Tensor, edges: EdgeGeometry, codes: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New scalars ``(N, F)`` and vectors ``(N, 3, F)``.

        ``codes`` are those of all offsets, ``(125, F)``; ``offset`` is the number of each edge's, ``(E,)``.
        """
        extra = None if self.offsets is None else self.offsets(codes)[offset]
        m, mv = self.message(x, v, edges, extra=extra)
        x, v = (x + m) / math.sqrt(2), v + mv
        dx, dv = self.update(x, v)
        return x + dx, v + dv


class PairHead(Tabulated):
    """Readout of pairs of atoms from their scalars and the edge between them, equations 8 and 10."""

    def __init__(self, settings: DeepRelaxSettings, outputs: int) -> None:
        super().__init__()
        f = settings.features
        self.atom = nn.Sequential(nn.Linear(f, f), ScaledSiLU())
        self.receiver, self.sender = nn.Linear(f, f), nn.Linear(f, f, bias=False)
        self.radial = nn.Linear(settings.n_basis, f, bias=False)
        self.offsets = nn.Linear(f, f, bias=False) if settings.offsets else None
        self.out = nn.Sequential(ScaledSiLU(), nn.Linear(f, f), ScaledSiLU(), nn.Linear(f, outputs))

    def tabulate(self, radial: GaussianBasis) -> None:
        """See `Tabulated.tabulate`."""
        self.table = SplineTable(self.radial, radial)

    def forward(self, x: Tensor, edges: EdgeGeometry, codes: Tensor, offset: Tensor) -> Tensor:
        """Values ``(E, K)``; arguments as in `PaEGNNLayer.forward`."""
        x = self.atom(x)
        if self.table is not None and not self.training:
            hidden = self.table(edges.place)
        else:
            hidden = self.radial(edges.basis)
        if self.offsets is not None:
            hidden = hidden + self.offsets(codes)[offset]
        graph = edges.graph
        return self.out(hidden + self.receiver(x)[graph.receiver] + self.sender(x)[graph.sender])


class MatrixHead(nn.Module):
    """Change of the nine entries of the cell, equation 9."""

    def __init__(self, features: int) -> None:
        super().__init__()
        f = features
        self.atoms = nn.Sequential(nn.Linear(f, f), ScaledSiLU())
        self.cell = nn.Sequential(nn.Linear(9, f), ScaledSiLU(), nn.Linear(f, f), ScaledSiLU())
        self.out = nn.Sequential(
            nn.Linear(2 * f, f), ScaledSiLU(), nn.Linear(f, f), ScaledSiLU(), nn.Linear(f, 9)
        )

    def forward(self, x: Tensor, cells: Tensor, system_index: Tensor) -> Tensor:
        """New cells in A ``(S, 3, 3)`` from scalars ``(N, F)`` and the cells."""
        pooled = segment_mean(self.atoms(x), system_index, len(cells))
        change = self.out(torch.cat([pooled, self.cell(cells.flatten(1) / 10)], dim=-1))
        return cells + change.view(-1, 3, 3)


class StrainHead(nn.Module):
    """Strain of the crystal from tensors pooled over edges (ours, in the place of equation 9).

    The weights of K tensors and of the unit tensor depend on the tensors' invariants and on the atoms.
    """

    def __init__(self, settings: DeepRelaxSettings) -> None:
        super().__init__()
        f, k = settings.features, CHANNELS
        self.pool = EdgesToLattice(f, settings.n_basis, k)
        self.share = mlp(f + 2 * k, f, k + 1)
        with torch.no_grad():  # small strain at initialisation, where the tensors are large
            self.share[-1].weight.mul_(1e-4)  # type: ignore[operator, union-attr]
            self.share[-1].bias.mul_(0.1)  # type: ignore[operator, union-attr]

    def forward(
        self, x: Tensor, edges: EdgeGeometry, cells: Tensor, system_index: Tensor, pbc: Tensor
    ) -> Tensor:
        """Strained cells in A ``(S, 3, 3)`` from scalars ``(N, F)``, edges, cells and pbc ``(S, 3)``."""
        tensors = self.pool.tensors(x, edges, len(cells), system_index).movedim(-1, 1)  # (S, K, 3, 3)
        trace = torch.diagonal(tensors, dim1=2, dim2=3).sum(-1)
        mean = segment_mean(x, system_index, len(cells))
        share = self.share(torch.cat([mean, trace, safe_norm(tensors.flatten(2))], dim=-1))
        strain = (share[:, :-1, None, None] * tensors).sum(1) + share[:, -1, None, None] * torch.eye(3).to(x)
        # An output of one is a strain of 0.1. Vacuum is not strained.
        span = periodic_span(cells, pbc)
        return cells + cells @ span @ strain @ span / 10


@register("deeprelax")
class DeepRelax(Network[DeepRelaxSettings]):
    """The network of DeepRelax, PaEGNN with heads for distances and the cell."""

    settings_type = DeepRelaxSettings
    heads = ("relaxed", "displaced", "matrix", "strains")

    def __init__(self, settings: DeepRelaxSettings) -> None:
        super().__init__(settings)
        f = settings.features
        self.basis = GaussianBasis(settings.n_basis, settings.reach)
        self.embedding = ElementEmbedding(f, settings.embedding, settings.property_noise)
        # A^3 per atom of every element; filled by the training task.
        self.atomic_volumes: Tensor
        self.register_buffer("atomic_volumes", torch.zeros(MAX_NUMBER + 1))
        self.codes: Tensor
        self.register_buffer("codes", offset_codes(f), persistent=False)
        self.layers = nn.ModuleList(PaEGNNLayer(settings) for _ in range(settings.layers))
        self.relaxed = PairHead(settings, 2)  # distance, logarithm of its scale
        self.displaced = PairHead(settings, 2)
        strain = settings.lattice == "strain"
        self.strains = nn.ModuleList(StrainHead(settings) for _ in range(settings.layers if strain else 0))
        self.matrix = None if strain else MatrixHead(f)

    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """Starting geometry and its graph; see `Network.prepare`."""
        return initial_structure(batch, self.settings, self.atomic_volumes)

    def compiles(self) -> bool:
        """See `Network.compiles`."""
        return compiles(self.settings.features, 0, next(self.parameters()))

    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """Predict cells and distances; positions are the start of `solve_positions`."""
        settings = self.settings
        state, geometries = Geometry(batch.positions, batch.cells), list[Geometry]()
        edges = EdgeGeometry.at(graph, *state, self.basis, self.compiled)
        offset = offset_index(graph.shift)
        x = self.embedding(batch.numbers)
        v = x.new_zeros(len(x), 3, settings.features)
        for index, layer in enumerate(self.layers):
            x, v = layer(x, v, edges, self.codes, offset)
            if self.matrix is None:
                state = self._follow(
                    state, self.strains[index](x, edges, state.cells, batch.system_index, batch.pbc), batch
                )
                geometries.append(state)
                edges = EdgeGeometry.at(graph, *state, self.basis, self.compiled)
        if self.matrix is not None:
            state = self._follow(state, self.matrix(x, state.cells, batch.system_index), batch)
            geometries.append(state)
        of_edges = self.relaxed(x, edges, self.codes, offset)
        anchored = torch.arange(graph.n_edges, device=x.device)
        if settings.anchors == "cell":
            anchored = anchored[(graph.shift == 0).all(dim=1)]
        displaced = self.displaced(x, edges, self.codes, offset)[anchored]
        change, moved = of_edges[:, 0], displaced[:, 0]
        if settings.distances == "change":
            length = safe_norm(edge_vectors(graph, *state))
            change, moved = length + change, length[anchored] + moved
        distances = Distances(
            change.abs(),
            self._scale(of_edges[:, 1]),
            anchored,
            moved.abs(),
            self._scale(displaced[:, 1]),
            settings.positions == "likelihood",
        )
        return Prediction(geometries, segment_mean(x, batch.system_index, len(batch)), distances=distances)

    def solve_positions(
        self, prediction: Prediction, batch: CrystalBatch, graph: PeriodicGraph
    ) -> tuple[Geometry, Tensor | None]:
        """Positions that fit the predicted distances; see `Network.solve_positions`."""
        solution = positions_from_distances(prediction, batch.system_index, graph)
        return Geometry(solution.positions, prediction.geometry.cells), solution.violation

    def _follow(self, state: Geometry, cells: Tensor, batch: CrystalBatch) -> Geometry:
        """Geometry with new cells, in which atoms keep their fractional coordinates in the affine frame."""
        if self.settings.frame == "cartesian":
            return Geometry(state.positions, cells)
        return Geometry(follow_cell(state.positions, state.cells, cells, batch.system_index), cells)

    def _scale(self, logarithm: Tensor) -> Tensor | None:
        """Laplace scale in A, or None without the setting ``bond_uncertainty``."""
        return logarithm.clamp(*SCALES).exp() if self.settings.bond_uncertainty else None
