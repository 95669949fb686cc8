"""DeepRelax: distances in the relaxed crystal, each with an uncertainty; positions follow from them.

Yang et al., "Scalable crystal structure relaxation using an iteration-free deep generative model with
uncertainty quantification", Nature Communications 15, 8148 (2024). Equation numbers are the paper's. The
network is here; `repose.models.deeprelax.positions` finds the positions.

Where this differs from the paper or its released code, and why:

* By default equation 9 pools means, not sums, so that a supercell gives the same result (``pooling``).
  ``lattice="strain"`` (ours) pools a strain over edges, each contributing the projector on its direction;
  equation 9 is not equivariant, this is.
* By default the paper's matrices are two-layer networks, and the cell is the input's plus equation 9
  (``maps``). The released code does the same, with half the width in messages and more layers for edges. The
  maps of equations 8 and 10 share their first layers.
* Constant factors: 1/sqrt(3) and 1/sqrt(F) on messages, 1/sqrt(F) on the products of equation 6, 1/sqrt(2)
  after a skip connection and in equation 6, 1/10 on the cell in equation 9. Directions in equation 5 are unit
  vectors from receiver to sender. All but the last as in the code, up to signs that weights absorb. Norms
  are `repose.nn.ops.safe_norm`.
* Offsets are clamped to -2..2; the code's are not. They depend on the periodic image that an atom is written
  in; ``offsets=False`` removes this dependence. The code's encodings have 128 entries for any F.
* The scale is ``exp(b)``: equations 11-12 write b for it, equations 18-19 exp(b), as the code does. b is
  clamped to -6..2; in the code to -3..3 in the loss and to -5..2 in the solver.
* Distances are absolute values (equation 8); the code sets negative ones to zero.
* The paper does not limit the neighbours within 6 A. Here whole shells of equal distances count, to some 50
  neighbours. The code has the 20 nearest atoms of the cell, at any distance, and images outside the cell that
  are among the 30 nearest neighbours, 29 where rounding makes an atom its own neighbour
  (``graph.within_cell``, ``graph.max_neighbours``, ``graph.ties``).
* Losses are means over crystals of means over pairs (``reduction`` of `TrainSettings`): equations 11 to 14
  are sums, the code takes means over the batch.
* By default positions are not found by Adam (``solver``). The code divides the sums of equation 20 over
  either kind of distances by their number.
* ``distances="change"``, ``positions="likelihood"``, ``frame="affine"``, ``anchors="all"``,
  ``embedding="properties"`` and ``start="rescaled"`` are ours, see `DeepRelaxSettings`.

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
from repose.models.network import GEOMETRY_LOSS, Network
from repose.models.prediction import Distances, Geometry, Prediction
from repose.models.registry import register
from repose.nn.element_embedding import ElementEmbedding
from repose.nn.equivariant import ScaledSiLU, mlp
from repose.nn.kernels.radial_tables import SplineTable, Tabulated
from repose.nn.lattice_nodes import EdgesToLattice
from repose.nn.messages import EdgeGeometry, Message, compiles
from repose.nn.ops import safe_norm, segment_mean, segment_sum
from repose.nn.radial import GaussianBasis

LARGEST_OFFSET = 2
CHANNELS = 64  # tensors behind a strain
# Logarithms of scales in A stay between these, as in the released code but for the lower one.
SCALES = (-6.0, 2.0)


def offset_codes(features: int) -> Tensor:
    """Sinusoidal codes of the 125 offsets (equations 2-3) in float64, ``(125, F)``; see `offset_index`."""
    index = torch.arange((2 * LARGEST_OFFSET + 1) ** 3, dtype=torch.float64).unsqueeze(1)
    column = torch.arange(features, dtype=torch.float64)
    angle = index / 10000 ** ((column - column % 2) / features)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


def offset_index(shift: Tensor) -> Tensor:
    """Number of an offset, ``K = (k1 + 2) + 5 (k2 + 2) + 25 (k3 + 2)``: ``(E, 3)`` gives ``(E,)``."""
    k = shift.long().clamp(-LARGEST_OFFSET, LARGEST_OFFSET) + LARGEST_OFFSET
    return k[:, 0] + 5 * k[:, 1] + 25 * k[:, 2]


def node_map(settings: DeepRelaxSettings, n_in: int, n_out: int) -> nn.Sequential:
    """Map of features of a node, which the paper prints as a matrix, by the setting ``maps``."""
    if settings.maps == "matrices":
        return nn.Sequential(nn.Linear(n_in, n_out, bias=False))
    return mlp(n_in, settings.features, n_out)


class PaEGNNUpdate(nn.Module):
    """Update of a node's scalars and vectors, equations 6 and 7."""

    def __init__(self, settings: DeepRelaxSettings) -> None:
        super().__init__()
        self.features = f = settings.features
        self.mix = nn.Linear(f, 2 * f, bias=False)  # U and V side by side
        self.weights = node_map(settings, 2 * f, 3 * f)  # W_s1, W_s2, W_v side by side

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
        self.message = Message(f, settings.n_basis, half_width=settings.maps == "released")
        if settings.maps == "matrices":
            self.message.phi = node_map(settings, f, 3 * f)  # W_h, W_u, W_v side by side
        # γ of a concatenation is the sum of a map of either part.
        self.offsets = nn.Linear(f, 3 * f, bias=False) if settings.offsets else None
        self.update = PaEGNNUpdate(settings)

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
        f, released = settings.features, settings.maps == "released"
        matrices = settings.maps == "matrices"
        self.atom = nn.Linear(f, f, bias=False) if matrices else nn.Sequential(nn.Linear(f, f), ScaledSiLU())
        self.receiver, self.sender = nn.Linear(f, f), nn.Linear(f, f, bias=False)
        self.radial = nn.Linear(settings.n_basis, f, bias=released)
        self.offsets = nn.Linear(f, f, bias=False) if settings.offsets else None
        self.edge: nn.Module = nn.Identity()
        if released:
            self.edge = nn.Sequential(
                ScaledSiLU(), nn.Linear(f, f), ScaledSiLU(), nn.Linear(f, f, bias=False)
            )
        self.out: nn.Module
        if matrices:
            self.out = nn.Linear(f, outputs)
        else:
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
        hidden = self.edge(hidden)
        return self.out(hidden + self.receiver(x)[graph.receiver] + self.sender(x)[graph.sender])


class MatrixHead(nn.Module):
    """The nine entries of the cell, or their change, equation 9."""

    def __init__(self, settings: DeepRelaxSettings) -> None:
        super().__init__()
        f = settings.features
        self.pool = segment_sum if settings.pooling == "sum" else segment_mean
        self.changes = settings.maps != "matrices"
        if not self.changes:
            self.atoms, self.cell = nn.Linear(f, f, bias=False), nn.Linear(9, f, bias=False)
            self.out = nn.Linear(2 * f, 9)
            return
        self.atoms = nn.Sequential(nn.Linear(f, f), ScaledSiLU())
        self.cell = nn.Sequential(nn.Linear(9, f), ScaledSiLU(), nn.Linear(f, f), ScaledSiLU())
        self.out = nn.Sequential(
            nn.Linear(2 * f, f), ScaledSiLU(), nn.Linear(f, f), ScaledSiLU(), nn.Linear(f, 9)
        )

    def forward(self, x: Tensor, cells: Tensor, system_index: Tensor) -> Tensor:
        """New cells in A ``(S, 3, 3)`` from scalars ``(N, F)`` and the cells."""
        pooled = self.pool(self.atoms(x), system_index, len(cells))
        found = self.out(torch.cat([pooled, self.cell(cells.flatten(1) / 10)], dim=-1)).view(-1, 3, 3)
        return cells + found if self.changes else found


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
    unused = (*GEOMETRY_LOSS, "images", "paths")

    def __init__(self, settings: DeepRelaxSettings) -> None:
        super().__init__(settings)
        f = settings.features
        self.basis = GaussianBasis(settings.n_basis, settings.reach)
        self.embedding = ElementEmbedding(f, settings.embedding, settings.property_noise)
        # A^3 per atom of every element; filled by the training task.
        self.atomic_volumes: Tensor
        self.register_buffer("atomic_volumes", torch.zeros(MAX_NUMBER + 1))
        self.codes: Tensor
        self.register_buffer("codes", offset_codes(f).to(torch.get_default_dtype()), persistent=False)
        self.layers = nn.ModuleList(PaEGNNLayer(settings) for _ in range(settings.layers))
        self.relaxed = PairHead(settings, 2)  # distance, logarithm of its scale
        self.displaced = PairHead(settings, 2)
        strain = settings.lattice == "strain"
        self.strains = nn.ModuleList(StrainHead(settings) for _ in range(settings.layers if strain else 0))
        self.matrix = None if strain else MatrixHead(settings)

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
        solution = positions_from_distances(prediction, batch.system_index, graph, self.settings.solver)
        return Geometry(solution.positions, prediction.geometry.cells), solution.violation

    def _follow(self, state: Geometry, cells: Tensor, batch: CrystalBatch) -> Geometry:
        """Geometry with new cells, in which atoms keep their fractional coordinates in the affine frame."""
        if self.settings.frame == "cartesian":
            return Geometry(state.positions, cells)
        return Geometry(follow_cell(state.positions, state.cells, cells, batch.system_index), cells)

    def _scale(self, logarithm: Tensor) -> Tensor | None:
        """Laplace scale in A, or None without the setting ``bond_uncertainty``."""
        return logarithm.clamp(*SCALES).exp() if self.settings.bond_uncertainty else None
