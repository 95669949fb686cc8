"""E3Relax: atoms and lattice vectors as equivariant nodes.

Yang, Zhao, Wang, Zhuo, Liu, Shen, "Equivariant Atomic and Lattice Modeling Using Geometric Deep
Learning for Crystal Structure Optimization", arXiv 2511.12243. Equation numbers are the paper's.

Where this differs from the paper or its released code, and why:

* Lattice vectors are rows and the three predicted changes are stacked as rows; the released code
  stacks columns, which is not equivariant.
* Positions enter the lattice-atom interaction relative to the crystal's mean, so that a translated
  crystal gives the same answer (equations 15-16 use absolute positions).
* The lattice-atom interaction stands first in a layer, so that the last one is not without effect;
  lattice nodes start from the direction and length of their vector (the paper's appendix A, which
  would say how, is not public).
* γ of equations 1, 2, 15 and 16 is one linear layer over the radial basis, as in PaiNN: over 128
  Gaussians it already is any function of distance. Vectors keep a residual in equations 4 and 16, and
  sums of two equal parts are divided by sqrt 2.
* ``shared_axes`` gives a, b and c the same weights; the released code has separate ones, which makes
  the answer depend on the order of the axes.
* Neighbours beyond the cap are kept to the end of a shell of equal distances (``graph.ties``).
* ``edge_channels``, ``lattice_offset="axis"``, ``frame="affine"`` and ``start="rescaled"`` are ours: see
  `E3Relax`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repose.config import E3RelaxSettings
from repose.crystals import CrystalBatch
from repose.graph import PeriodicGraph, edge_vectors, periodic_graph
from repose.lattice import deformation, emptiest_slab, to_cartesian, volume
from repose.models.network import Geometry, Network, register
from repose.nn.elements import MAX_NUMBER, ElementEmbedding
from repose.nn.equivariant import Message, SelfUpdate, mlp
from repose.nn.lattice_nodes import EdgesToLattice, LatticeToAtoms, LatticeUpdate
from repose.nn.ops import safe_norm, segment_mean, segment_sum, unit
from repose.nn.radial import GaussianBasis

# An empty slab thicker than this is vacuum on purpose: a van der Waals gap has some 3 A between atoms.
VACUUM = 8.0  # A


@register("e3relax")
class E3Relax(Network[E3RelaxSettings]):
    """The network of E3Relax.

    ``frame="affine"`` lets atoms follow the deformation of the cell before their own displacement is
    added, and takes the mean out of the displacements: under strain an atom moves by an amount that
    depends on where it sits, which a translation-invariant network cannot say. Moving the input by a
    fractional vector then moves the answer by the same fractional vector.

    ``lattice_offset="axis"`` lets atoms see the lattice vectors themselves instead of the way to their tips;
    together with the affine frame the answer then does not depend on the image an atom is written in.

    ``edge_channels`` adds messages from edges to lattice nodes, see `repose.nn.lattice_nodes.EdgesToLattice`.

    ``start="rescaled"`` begins from the input scaled to the volume that the composition suggests, fitted
    on the training split, instead of from the input itself.

    Args:
        settings: Hyperparameters.
    """

    settings_type = E3RelaxSettings

    def __init__(self, settings: E3RelaxSettings) -> None:
        super().__init__(settings)
        f, r = settings.features, settings.n_basis
        self.basis = GaussianBasis(r, settings.reach)
        self.embedding = ElementEmbedding(f, settings.embedding, settings.property_noise)
        # A^3 per atom of every element; filled by the training task when start = "rescaled".
        self.register_buffer("atomic_volumes", torch.zeros(MAX_NUMBER + 1))
        if settings.lattice_nodes:
            self.lattice_scalars = nn.ModuleList(
                mlp(r, f, f) for _ in range(1 if settings.shared_axes else 3)
            )
            self.lattice_vectors = nn.Parameter(torch.randn(1 if settings.shared_axes else 3, f))
        self.layers = nn.ModuleList(
            E3RelaxLayer(settings, self.basis, moves=settings.refinement or last)
            for last in [False] * (settings.layers - 1) + [True]
        )

    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """Starting geometry and its graph; see `Network.prepare`."""
        if self.settings.start == "rescaled":
            batch = self._rescaled(batch)
        graph = self.settings.graph
        return batch, periodic_graph(
            batch, graph.cutoff, graph.max_neighbours, ties=graph.ties, self_images=graph.self_images
        )

    def _rescaled(self, batch: CrystalBatch) -> CrystalBatch:
        atomic: Tensor = self.atomic_volumes  # type: ignore[assignment]
        volumes = atomic.to(batch.positions)[batch.numbers]
        guess = segment_sum(volumes, batch.crystal, batch.n_crystals)
        ratio = guess / volume(batch.cells)
        # What stays as it is: crystals with an element that has no fitted volume, and sheets, wires and
        # slabs, whose cell holds vacuum.
        unknown = segment_sum((volumes <= 0).to(batch.dtype), batch.crystal, batch.n_crystals) > 0
        empty = emptiest_slab(batch.positions, batch.cells, batch.crystal).amax(dim=1)
        vacuum = ~batch.pbc.all(dim=1) | (empty > VACUUM)
        scale = torch.where(unknown | vacuum, 1.0, ratio).pow(1 / 3)
        return batch.with_geometry(
            batch.positions * scale[batch.crystal, None], batch.cells * scale[:, None, None]
        )

    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> list[Geometry]:
        """Refine the geometry layer by layer; see `Network.forward`."""
        positions, cells = batch.positions, batch.cells
        x = self.embedding(batch.numbers)  # (N, F)
        v = x.new_zeros(len(x), 3, self.settings.features)  # (N, 3, F)
        y, w = self._lattice_features(cells)
        states = []
        for layer in self.layers:
            x, v, y, w, positions, cells = layer(x, v, y, w, positions, cells, batch.crystal, graph)
            if layer.moves:
                states.append(Geometry(positions, cells))
        return states

    def _lattice_features(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars ``(S, 3, F)`` from lengths, vectors ``(S, 3, 3, F)`` along the lattice vectors."""
        if not self.settings.lattice_nodes:
            empty = cells.new_zeros(len(cells), 3, self.settings.features)
            return empty, empty.unsqueeze(2).expand(-1, -1, 3, -1)
        length = self.basis(safe_norm(cells))  # (S, 3, R)
        parts = length.chunk(len(self.lattice_scalars), dim=1)
        y = torch.cat([net(part) for net, part in zip(self.lattice_scalars, parts, strict=True)], dim=1)
        # In units of 10 A, so that features are of order one.
        return y, cells.unsqueeze(-1) / 10 * self.lattice_vectors.unsqueeze(1)


class E3RelaxLayer(nn.Module):
    """One layer: lattice to atoms, messages, self-update, positions, atoms to lattice.

    Args:
        settings: Hyperparameters of the network.
        basis: Radial basis, shared by all layers.
        moves: Whether this layer changes positions and cell.
    """

    def __init__(self, settings: E3RelaxSettings, basis: GaussianBasis, moves: bool) -> None:
        super().__init__()
        f = settings.features
        self.moves = moves
        self.affine = settings.frame == "affine"
        self.to_tips = settings.lattice_offset == "tip"
        self.basis = basis
        self.message = Message(f, settings.n_basis)
        self.update = SelfUpdate(f)
        self.lattice_to_atoms: LatticeToAtoms | None = None
        self.lattice_update: LatticeUpdate | None = None
        self.edges_to_lattice: EdgesToLattice | None = None
        self.cell_head: nn.Sequential | None = None
        if settings.lattice_nodes:
            self.lattice_to_atoms = LatticeToAtoms(f, basis, settings.n_basis, settings.shared_axes)
            self.lattice_update = LatticeUpdate(f, settings.shared_axes, settings.edge_channels)
            if settings.edge_channels:
                self.edges_to_lattice = EdgesToLattice(f, settings.n_basis, settings.edge_channels)
        else:
            # Ablation, as DeepRelax does it: nine numbers from the mean of the scalars. Invariant numbers
            # cannot turn with the crystal, so the change is expressed in the crystal's own lattice vectors.
            self.cell_head = mlp(f, f, 9)
        if moves:
            self.weights = mlp(f, f, f)  # g of equation 5
            self.displacement = nn.Linear(f, 1, bias=False)  # W of equation 7

    def forward(
        self,
        x: Tensor,
        v: Tensor,
        y: Tensor,
        w: Tensor,
        positions: Tensor,
        cells: Tensor,
        crystal: Tensor,
        graph: PeriodicGraph,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return new ``x, v, y, w, positions, cells``; shapes as in `repose.nn.lattice_nodes`."""
        if self.lattice_to_atoms is not None:
            # From every atom to the tips of the lattice vectors, (N, 3 axes, 3).
            offset = -cells[crystal]
            if self.to_tips:
                offset = offset + (
                    positions - segment_mean(positions, crystal, len(cells))[crystal]
                ).unsqueeze(1)
            x, v = self.lattice_to_atoms(x, v, y, w, offset, crystal)

        edges = edge_vectors(graph, positions, cells)
        basis, direction = self.basis(safe_norm(edges)), unit(edges)
        m, mv = self.message(x, v, basis, direction, graph.receiver, graph.sender)
        x, v = self.update((x + m) / 2**0.5, v + mv)  # eq. 3-4

        change = torch.zeros_like(cells)
        if self.lattice_update is not None:
            anisotropy = None
            if self.edges_to_lattice is not None:
                anisotropy = self.edges_to_lattice(x, basis, direction, cells, graph, crystal)
            y, w, change = self.lattice_update(x, v, y, w, crystal, anisotropy)  # eq. 9-13
        elif self.moves and self.cell_head is not None:
            mixing = self.cell_head(segment_mean(x, crystal, len(cells))).view(-1, 3, 3)
            change = mixing @ cells / 10
        if self.moves:
            alpha = torch.softmax(self.weights(x), dim=-1).unsqueeze(1)  # eq. 5-6
            step = self.displacement(v).squeeze(-1) + (alpha * v).sum(dim=-1)  # eq. 7, (N, 3)
            new_cells = cells + change  # eq. 14
            if self.affine:
                step = step - segment_mean(step, crystal, len(cells))[crystal]
                positions = to_cartesian(positions, deformation(cells, new_cells), crystal)
            positions, cells = positions + step, new_cells  # eq. 8
        return x, v, y, w, positions, cells
