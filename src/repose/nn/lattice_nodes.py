"""Exchange between atoms and the three lattice nodes of a crystal (E3Relax, equations 9-18; E3Relax-H2).

Lattice nodes have scalars ``(S, 3, F)`` and vectors ``(S, 3, 3, F)`` with axes (crystal, lattice
vector, Cartesian component, feature). Weights are either shared by a, b and c, and their
contributions to the atoms averaged, so that their order does not matter; or separate and applied one
after another, as in the released code of both families.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from repose.nn.equivariant import SelfUpdate, mlp
from repose.nn.messages import EdgeGeometry
from repose.nn.ops import segment_mean, segment_sum, unit


class LatticeUpdate(nn.Module):
    """Atoms to lattice: new features of lattice nodes (equations 9-12) and changes of the cell (13).

    Args:
        features: Width F.
        shared_axes: One set of weights for a, b and c, or one each.
        edge_channels: Channels K of `EdgesToLattice`, or 0.
        residual: Add what comes from the atoms to the nodes' features, as E3Relax-H2 does, or replace them.
        mixing: Let the three nodes mix before the cell changes (E3Relax-H2).
    """

    def __init__(
        self,
        features: int,
        shared_axes: bool,
        edge_channels: int = 0,
        residual: bool = False,
        mixing: bool = False,
    ) -> None:
        super().__init__()
        self.axes = nn.ModuleList(
            _AxisUpdate(features, edge_channels, residual) for _ in range(1 if shared_axes else 3)
        )
        self.mixing = AxisMixing(shared_axes) if mixing else None

    def forward(
        self,
        x: Tensor,
        v: Tensor,
        y: Tensor,
        w: Tensor,
        crystal: Tensor,
        edges: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update the lattice nodes.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            v: Vectors of atoms, ``(N, 3, F)``.
            y: Scalars of lattice nodes, ``(S, 3, F)``.
            w: Vectors of lattice nodes, ``(S, 3, 3, F)``.
            crystal: Crystal of every atom, ``(N,)``.
            edges: What `EdgesToLattice` gives, if the network has it.

        Returns:
            New ``y``, new ``w``, and the change of the lattice vectors as rows in A, ``(S, 3, 3)``.
        """
        s = len(y)
        mean_x, mean_v = segment_mean(x, crystal, s), segment_mean(v, crystal, s)
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

    def __init__(self, features: int, edge_channels: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.gamma = mlp(2 * features + edge_channels, features, features)
        self.mix = nn.Linear(features, features, bias=False)
        self.mix_edges = nn.Linear(edge_channels, features, bias=False) if edge_channels else None
        self.update = SelfUpdate(features)
        self.head = nn.Linear(features, 1, bias=False)

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
    """Lattice nodes mix with each other, scalars with a bias, vectors without (E3Relax-H2).

    The published form is a matrix of 3 x 3, which ties the answer to the order in which a, b and c are
    written. ``symmetric`` leaves two numbers of it, one for a node itself and one for the mean of the three.
    It starts as the identity.

    Args:
        symmetric: Keep only what does not depend on the order.
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


class EdgesToLattice(nn.Module):
    """Messages from edges straight to lattice nodes; ours, not in the papers.

    At a site with inversion symmetry the vectors of an atom vanish, and its scalars know distances
    only, so that no atom can tell the lattice nodes along which axis its bonds are too short. As in the
    virial, every edge here sends its direction u: with weights s_k from its length and its two
    atoms, T_k = mean over atoms of sum_j s_k u u, and lattice node c receives the vector T_k l_c and the
    scalar l_c T_k l_c, with l_c of unit length.

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

    def forward(
        self, x: Tensor, edges: EdgeGeometry, cells: Tensor, crystal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reduce all edges of every crystal.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            edges: The edges.
            cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
            crystal: Crystal of every atom, ``(N,)``.

        Returns:
            Scalars ``(S, 3, K)`` and vectors ``(S, 3, 3, K)`` for the lattice nodes.
        """
        graph, direction = edges.graph, edges.direction
        weight = (
            self.receiver(x)[graph.receiver] * self.sender(x)[graph.sender] * self.radial(edges.basis)
        )  # (E, K)
        dyad = direction.unsqueeze(2) * direction.unsqueeze(1)  # (E, 3, 3)
        per_edge = dyad.flatten(1).unsqueeze(-1) * weight.unsqueeze(1)  # (E, 9, K)
        tensor = segment_sum(per_edge, graph.crystal, len(cells)).unflatten(1, (3, 3))  # (S, 3, 3, K)
        atoms = torch.bincount(crystal, minlength=len(cells)).to(tensor.dtype)
        along = unit(cells)
        t = torch.einsum("sce,sedk->scdk", along, tensor / atoms.view(-1, 1, 1, 1))
        return torch.einsum("scdk,scd->sck", t, along), t


class LatticeToAtoms(nn.Module):
    """Lattice to atoms: every atom hears of the three lattice vectors (equations 15-18).

    Args:
        features: Width F.
        n_basis: Number of functions R of what the atom sees of a lattice vector.
        shared_axes: One set of weights for a, b and c, or one each.
        keep_vectors: Add what comes to the atoms' vectors, or let it replace them.
    """

    def __init__(self, features: int, n_basis: int, shared_axes: bool, keep_vectors: bool = True) -> None:
        super().__init__()
        self.axes = nn.ModuleList(
            _AxisToAtoms(features, n_basis, keep_vectors) for _ in range(1 if shared_axes else 3)
        )

    def forward(
        self, x: Tensor, v: Tensor, y: Tensor, w: Tensor, seen: Tensor, direction: Tensor, crystal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update the atoms.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            v: Vectors of atoms, ``(N, 3, F)``.
            y: Scalars of lattice nodes, ``(S, 3, F)``.
            w: Vectors of lattice nodes, ``(S, 3, 3, F)``.
            seen: What atoms see of the lattice vectors, invariant, ``(N, 3, R)``.
            direction: Unit vectors from lattice nodes to atoms, ``(N, 3, 3)`` with axes (atom, lattice
                vector, component).
            crystal: Crystal of every atom, ``(N,)``.

        Returns:
            New ``x`` and ``v``.
        """
        # Each module takes all axes that share its weights at once and averages over them.
        nodes = (y[crystal], w[crystal], seen, direction)
        groups = zip(*(tensor.chunk(len(self.axes), dim=1) for tensor in nodes), strict=True)
        for axis, group in zip(self.axes, groups, strict=True):
            x, v = axis(x, v, *group)
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
        self, x: Tensor, v: Tensor, y: Tensor, w: Tensor, seen: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        gate = self.phi(x).unsqueeze(1) * self.gamma(seen) / math.sqrt(3)  # (N, A, 3F)
        scalar, keep, turn = gate.split(self.features, dim=-1)
        n = x.unsqueeze(1) + scalar  # eq. 15
        push = v.unsqueeze(1) * keep.unsqueeze(2) + turn.unsqueeze(2) * direction.unsqueeze(-1)
        nv = push / math.sqrt(self.features)  # eq. 16, (N, A, 3, F)
        if self.keep_vectors:
            nv = v.unsqueeze(1) + nv
        n = n + self.fuse(torch.cat([n, y], dim=-1))  # eq. 17
        nv = nv + self.mix(nv + w) / math.sqrt(2)  # eq. 18
        return n.mean(dim=1), nv.mean(dim=1)
