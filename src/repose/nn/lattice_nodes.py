"""Exchange between atoms and the three lattice nodes of a crystal (E3Relax, equations 9-18; E3Relax-H2).

Lattice nodes have scalars ``(S, 3, F)`` and vectors ``(S, 3, 3, F)`` with axes (crystal, lattice
vector, Cartesian component, feature). Weights are either shared by a, b and c, and their
contributions to the atoms averaged, so that their order does not matter; or separate and applied one
after another, as in the released code of both families.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from repose.nn.equivariant import SelfUpdate, mlp
from repose.nn.kernels.radial_tables import SplineTable, Tabulated
from repose.nn.messages import EdgeGeometry
from repose.nn.ops import segment_mean, segment_sum, unit
from repose.nn.radial import GaussianBasis

# Rows and columns of the six entries of a symmetric tensor, and their places in the full tensor.
SIX = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))
FULL = torch.tensor([[0, 3, 4], [3, 1, 5], [4, 5, 2]])


class LatticeUpdate(nn.Module):
    """Atoms to lattice: new features of lattice nodes (equations 9-12) and changes of the cell (13).

    Args:
        features: Width F.
        shared_axes: One set of weights for a, b and c, or one each.
        edge_channels: Channels K of `EdgesToLattice`, or 0.
        residual: Add messages of atoms to the nodes' features, as E3Relax-H2, instead of replacing them.
        mixing: Let the three nodes mix before the cell changes (E3Relax-H2).
        keep_scalars: See `SelfUpdate`.
    """

    def __init__(
        self,
        features: int,
        shared_axes: bool,
        edge_channels: int = 0,
        residual: bool = False,
        mixing: bool = False,
        keep_scalars: bool = True,
    ) -> None:
        super().__init__()
        self.axes: Any = nn.ModuleList(
            _AxisUpdate(features, edge_channels, residual, keep_scalars)
            for _ in range(1 if shared_axes else 3)
        )
        self.mixing = AxisMixing(shared_axes) if mixing else None

    def forward(
        self,
        x: Tensor,
        v: Tensor,
        y: Tensor,
        w: Tensor,
        system_index: Tensor,
        edges: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update the lattice nodes.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            v: Vectors of atoms, ``(N, 3, F)``.
            y: Scalars of lattice nodes, ``(S, 3, F)``.
            w: Vectors of lattice nodes, ``(S, 3, 3, F)``.
            system_index: Crystal of every atom, ``(N,)``.
            edges: Outputs of `EdgesToLattice`, if the network has it.

        Returns:
            New ``y``, new ``w``, and the change of the lattice vectors as rows in A, ``(S, 3, 3)``.
        """
        s = len(y)
        mean_x, mean_v = segment_mean(x, system_index, s), segment_mean(v, system_index, s)
        # Each module takes all axes that share its weights: (S, A, ...) with A = 3 or 1.
        nodes = (y, w) if edges is None else (y, w, *edges)
        parts = zip(*(tensor.chunk(len(self.axes), dim=1) for tensor in nodes), strict=True)
        columns = [axis(mean_x, mean_v, *part) for axis, part in zip(self.axes, parts, strict=True)]
        y, w = (torch.cat(column, dim=1) for column in zip(*columns, strict=True))
        if self.mixing is not None:
            y, w = self.mixing(y, w)
        heads = zip(self.axes, w.chunk(len(self.axes), dim=1), strict=True)
        change = torch.cat([axis.head(part).squeeze(-1) for axis, part in heads], dim=1)  # eq. 13
        return y, w, change


class _AxisUpdate(nn.Module):
    """`LatticeUpdate` for the axes that share one set of weights."""

    def __init__(self, features: int, edge_channels: int, residual: bool, keep_scalars: bool) -> None:
        super().__init__()
        self.residual = residual
        self.gamma = mlp(2 * features + edge_channels, features, features)
        self.mix = nn.Linear(features, features, bias=False)
        self.mix_edges = nn.Linear(edge_channels, features, bias=False) if edge_channels else None
        self.update = SelfUpdate(features, keep_scalars)
        self.head = nn.Linear(features, 1, bias=False)  # used by `LatticeUpdate` after mixing

    def forward(
        self,
        mean_x: Tensor,
        mean_v: Tensor,
        y: Tensor,
        w: Tensor,
        q: Tensor | None = None,
        t: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        s, a, f = y.shape
        scalars = [mean_x.unsqueeze(1).expand_as(y), y]
        nv = self.mix(mean_v.unsqueeze(1) + w)  # eq. 10
        if self.mix_edges is not None and q is not None and t is not None:
            scalars.append(q)
            nv = nv + self.mix_edges(t)
        n = self.gamma(torch.cat(scalars, dim=-1))  # eq. 9
        if self.residual:
            n, nv = y + n, w + nv
        new_y, new_w = self.update(n.reshape(s * a, f), nv.reshape(s * a, 3, f))  # eq. 11-12
        return new_y.view(s, a, f), new_w.view(s, a, 3, f)


class AxisMixing(nn.Module):
    """Linear mixing of the three lattice nodes, with a bias for scalars only (E3Relax-H2).

    The published form is a 3 x 3 matrix, which depends on the order of a, b and c. The symmetric form has two
    weights, for the node itself and for the mean of the three. Both are initialised as the identity.

    Args:
        symmetric: Use the form that does not depend on the order.
    """

    def __init__(self, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        start = torch.tensor([1.0, 0.0]) if symmetric else torch.eye(3)
        self.scalars, self.vectors = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        self.bias = nn.Parameter(torch.zeros(1 if symmetric else 3))

    def forward(self, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Mix ``(S, 3, F)`` and ``(S, 3, 3, F)`` along their first axis of length three."""
        mixed = torch.einsum("ab,sbf->saf", self._matrix(self.scalars), y) + self.bias.view(-1, 1)
        return mixed, torch.einsum("ab,sbdf->sadf", self._matrix(self.vectors), w)

    def _matrix(self, weights: Tensor) -> Tensor:
        if not self.symmetric:
            return weights
        return weights[0] * torch.eye(3).to(weights) + weights[1] / 3


class EdgesToLattice(Tabulated):
    """Messages from edges to lattice nodes (ours).

    At a site with inversion symmetry the directions of neighbours cancel, and scalars depend on distances
    only: messages of atoms do not contain the direction of a strained bond. As in the virial, every edge
    contributes its direction u: with weights s_k from its length and its two atoms, T_k is the mean over
    atoms of sum_j s_k u u. Lattice node c receives the vector T_k l_c and the scalar l_c T_k l_c, with l_c of
    unit length.

    Args:
        features: Width F of the atoms' scalars.
        n_basis: Radial functions R.
        channels: Number of weights K.
    """

    def __init__(self, features: int, n_basis: int, channels: int) -> None:
        super().__init__()
        self.receiver = nn.Linear(features, channels)
        self.sender = nn.Linear(features, channels)
        self.radial = nn.Linear(n_basis, channels, bias=False)

    def tabulate(self, radial: GaussianBasis) -> None:
        """See `Tabulated.tabulate`."""
        self.table = SplineTable(self.radial, radial)

    def forward(
        self, x: Tensor, edges: EdgeGeometry, cells: Tensor, system_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scalars ``(S, 3, K)`` and vectors ``(S, 3, 3, K)`` for the lattice nodes.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            edges: The edges.
            cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
            system_index: Crystal of every atom, ``(N,)``.
        """
        along = unit(cells)
        t = torch.einsum("sce,sedk->scdk", along, self.tensors(x, edges, len(cells), system_index))
        return torch.einsum("scdk,scd->sck", t, along), t

    def tensors(self, x: Tensor, edges: EdgeGeometry, n: int, system_index: Tensor) -> Tensor:
        """The symmetric tensors T of n crystals, ``(S, 3, 3, K)``; arguments as for `forward`."""
        graph, rows = edges.graph, edges.graph.rows
        if self.table is not None and not self.training:
            radial = self.table(edges.place)
        else:
            radial = self.radial(edges.basis)
        weight = self.sender(x)[graph.sender] * radial  # (E, K)
        # Six entries of the symmetric tensor, summed along the rows of edges of a receiver, then over those.
        u = edges.direction
        dyad = u[:, SIX[0]] * u[:, SIX[1]]  # (E, 6)
        along_rows = torch.bmm(
            (dyad[rows.edge] * rows.valid.unsqueeze(-1).to(dyad)).mT, weight[rows.edge]
        ) * self.receiver(x)[rows.owner].unsqueeze(1)  # (M, 6, K)
        tensor = segment_sum(along_rows, system_index[rows.owner], n)[:, FULL]  # (S, 3, 3, K)
        return tensor / torch.bincount(system_index, minlength=n).to(tensor.dtype).view(-1, 1, 1, 1)


class LatticeView(NamedTuple):
    """Lattice vectors as inputs of the atoms.

    Attributes:
        seen: Invariants, ``(N, 3, R)`` with axes (atom, lattice vector, function), or ``(S, 3, R)`` if equal
            for all atoms of a crystal.
        direction: Unit vectors from lattice nodes to atoms, ``(N, 3, 3)`` with axes (atom, lattice vector,
            component), or ``(S, 3, 3)``.
        system_index: Crystal of every atom, ``(N,)``, if inputs are by crystal; else None.
    """

    seen: Tensor
    direction: Tensor
    system_index: Tensor | None

    def of_atoms(self, values: Tensor) -> Tensor:
        """Values by atom, from values by atom or by crystal, as `seen`."""
        return values if self.system_index is None else values[self.system_index]

    def split(self, n: int) -> list[LatticeView]:
        """Split the lattice vectors into n parts."""
        parts = zip(self.seen.chunk(n, dim=1), self.direction.chunk(n, dim=1), strict=True)
        return [LatticeView(seen, direction, self.system_index) for seen, direction in parts]


class LatticeToAtoms(nn.Module):
    """Messages from the lattice nodes to every atom (equations 15-18).

    Args:
        features: Width F.
        n_basis: Number R of invariants of an atom and a lattice vector.
        shared_axes: One set of weights for a, b and c, or one each.
        keep_vectors: Add messages to the atoms' vectors instead of replacing them (equation 16).
    """

    def __init__(self, features: int, n_basis: int, shared_axes: bool, keep_vectors: bool) -> None:
        super().__init__()
        self.axes = nn.ModuleList(
            _AxisToAtoms(features, n_basis, keep_vectors) for _ in range(1 if shared_axes else 3)
        )

    def forward(
        self, x: Tensor, v: Tensor, y: Tensor, w: Tensor, view: LatticeView, system_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return new ``x`` and ``v`` of the atoms; arguments as for `LatticeUpdate.forward`."""
        # Each module takes all axes that share its weights at once and averages over them.
        n = len(self.axes)
        groups = zip(self.axes, y.chunk(n, dim=1), w.chunk(n, dim=1), view.split(n), strict=True)
        for axis, *group in groups:
            x, v = axis(x, v, *group, system_index)
        return x, v


class _AxisToAtoms(nn.Module):
    """`LatticeToAtoms` for the A axes that share one set of weights."""

    def __init__(self, features: int, n_basis: int, keep_vectors: bool) -> None:
        super().__init__()
        self.features = features
        self.keep_vectors = keep_vectors
        self.phi = mlp(features, features, 3 * features)
        self.gamma = nn.Linear(n_basis, 3 * features)
        self.fuse = mlp(2 * features, features, features)
        self.mix = nn.Linear(features, features, bias=False)

    def forward(
        self, x: Tensor, v: Tensor, y: Tensor, w: Tensor, view: LatticeView, system_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        filters = view.of_atoms(self.gamma(view.seen))
        gate = self.phi(x).unsqueeze(1) * filters / math.sqrt(3)  # (N, A, 3F)
        scalar, keep, turn = gate.split(self.features, dim=-1)
        n = x.unsqueeze(1) + scalar  # eq. 15
        n = n + self._fused(n, y, system_index)  # eq. 17
        # Vectors enter linearly, so that the mean over the axes can be taken before the rest.
        # A sum of few terms is faster than a product of matrices this small.
        direction, axes = view.of_atoms(view.direction).unsqueeze(-1), turn.shape[1]
        turned = sum((turn[:, a, None] * direction[:, a] for a in range(axes)), torch.zeros_like(v)) / axes
        nv = (v * keep.mean(dim=1).unsqueeze(1) + turned) / math.sqrt(self.features)  # eq. 16, (N, 3, F)
        if self.keep_vectors:
            nv = v + nv
        nv = nv + self.mix(nv + w.mean(dim=1)[system_index]) / math.sqrt(2)  # eq. 18
        return n.mean(dim=1), nv

    def _fused(self, n: Tensor, y: Tensor, system_index: Tensor) -> Tensor:
        """Return ``fuse(cat([n, y]))``, with the first layer applied to y per crystal."""
        first, activation, last = self.fuse
        of_atoms, of_nodes = first.weight.split(self.features, dim=1)  # type: ignore[operator, union-attr]
        nodes = nn.functional.linear(y, of_nodes, first.bias)  # type: ignore[arg-type]
        mixed = nn.functional.linear(n.flatten(0, 1), of_atoms).view_as(
            n
        )  # one product, not one for each atom
        return last(activation(mixed + nodes[system_index]))
