"""Messages along edges: radial filters, angular gates, sums over neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from repose import native
from repose.crystal.graph import PeriodicGraph, edge_vectors
from repose.nn.equivariant import mlp
from repose.nn.kernels import fused, native_edges, native_messages
from repose.nn.kernels.fused import GateInputs, Summands, in_blocks, in_rows
from repose.nn.kernels.fused_training import summed
from repose.nn.kernels.radial_tables import Place, SplineTable, Tabulated, place, spline
from repose.nn.ops import safe_norm, segment_mean, segment_sum, unit
from repose.nn.radial import GaussianBasis

SCALE = 3**-0.5  # of messages


def compiles(features: int, inputs: int, like: Tensor) -> bool:
    """Return whether kernels for F features and A inputs of a gate compile on the device of ``like``."""
    if like.device.type != "cpu":
        return fused.compiles(features, inputs, like)
    found = native_messages.compiles(features, inputs, like.dtype) and native_edges.compiles(like.dtype)
    if not found:
        native.warn_missing()
    return found


@dataclass(frozen=True, eq=False)
class EdgeGeometry:
    """Lengths and directions of the edges of a graph, for the positions and cells of one layer.

    Attributes:
        graph: The edges.
        distance: Length in A, ``(E,)``.
        direction: Unit vectors from receiver to sender, ``(E, 3)``.
        radial: Expands distances.
        compiled: Use kernels in C, where no gradients are needed.
    """

    graph: PeriodicGraph
    distance: Tensor
    direction: Tensor
    radial: GaussianBasis
    compiled: bool = False

    @classmethod
    def at(
        cls,
        graph: PeriodicGraph,
        positions: Tensor,
        cells: Tensor,
        radial: GaussianBasis,
        compiled: bool = False,
    ) -> EdgeGeometry:
        """Geometry of the edges at positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A.

        Positions may be in double precision; differences are converted to the type of the features. With
        ``compiled`` a kernel in C is used where there is one.
        """
        like: Tensor = radial.centres  # type: ignore[assignment]
        if compiled and positions.device.type == "cpu" and not torch.is_grad_enabled():
            return cls(graph, *native_edges.geometry(graph, positions, cells, like.dtype), radial, True)
        vectors = edge_vectors(graph, positions, cells)
        return cls(graph, safe_norm(vectors).to(like), unit(vectors).to(like), radial)

    def nearer(self, radius: Tensor) -> EdgeGeometry:
        """Edges with distances minus the radii of both atoms ``(N,)``, not below zero."""
        ends = radius[self.graph.receiver] + radius[self.graph.sender]
        return replace(self, distance=(self.distance - ends).clamp(min=0), compiled=False)

    @cached_property
    def basis(self) -> Tensor:
        """Radial basis, ``(E, R)``; not computed if filters are tabulated."""
        return self.radial(self.distance)

    @cached_property
    def place(self) -> Place:
        """Places of the distances in tables of filters."""
        if not self.compiled:
            return place(self.distance, self.radial)
        none, all_of = self.distance.new_zeros(self.graph.n_atoms), torch.ones_like(self.distance)
        return native_edges.places(self.distance, none, all_of, self.graph, self.radial)


class Message(Tabulated):
    """Message passing of E3Relax (equations 1 and 2) and, with a gate on the filters, of E3Relax-H2.

    Scalars are scaled by 1/sqrt(3), vectors by 1/sqrt(F); sums over neighbours are not normalised.

    Args:
        features: Width F.
        n_basis: Radial functions R.
        half_width: Give the hidden layer of φ F/2 features instead of F.
    """

    def __init__(self, features: int, n_basis: int, half_width: bool = False) -> None:
        super().__init__()
        self.features = features
        hidden = features // 2 if half_width else features
        self.phi = mlp(features, hidden, 3 * features)  # φ_h, φ_u, φ_v side by side
        self.gamma = nn.Linear(n_basis, 3 * features)  # γ_h, γ_u, γ_v side by side

    def tabulate(self, radial: GaussianBasis) -> None:
        """See `Tabulated.tabulate`; messages are then summed in blocks or in a compiled kernel."""
        self.table = SplineTable(self.gamma, radial, SCALE)

    def forward(
        self,
        x: Tensor,
        v: Tensor,
        edges: EdgeGeometry,
        gate: AngularGate | None = None,
        extra: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sums of messages over neighbours, ``(N, F)`` and ``(N, 3, F)``.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            v: Vectors of atoms, ``(N, 3, F)``.
            edges: The edges.
            gate: Factor on the filter of every edge.
            extra: Added to the filter of every edge, ``(E, 3F)``.
        """
        graph, s = edges.graph, self.phi(x)
        table = None if self.training else self.table
        natively = self.compiled and x.device.type == "cpu"
        if natively or (table is not None and extra is None):
            inputs = None if gate is None else gate.inputs(edges)
            coefficients = spline(self.gamma, edges.radial, SCALE) if table is None else table.coefficients
            summands = Summands(s, v, coefficients, edges.place, edges.direction, inputs, graph)
            if natively:
                m, mv = native_messages.summed(summands, None if extra is None else SCALE * extra)
            else:
                m, mv = in_rows(summands) if self.compiled else in_blocks(summands)
            return m, mv / math.sqrt(self.features)
        filters = self.gamma(edges.basis)  # (E, 3F)
        if extra is not None:
            filters = filters + extra
        if self.compiled:
            inner = None if gate is None else gate.mix(gate.invariants(edges))
            m, mv = summed(SCALE * s, v, filters, inner, edges.direction, graph)
            return m, mv / math.sqrt(self.features)
        if gate is not None:
            filters = filters * gate(edges)
        weight = SCALE * s[graph.sender] * filters
        scalar, keep, turn = weight.split(self.features, dim=-1)
        vector = v[graph.sender] * keep.unsqueeze(1)  # (E, 3, F)
        vector = vector + turn.unsqueeze(1) * edges.direction.unsqueeze(-1)
        n = len(x)
        return (
            segment_sum(scalar, graph.receiver, n),
            segment_sum(vector, graph.receiver, n) / math.sqrt(self.features),
        )


class AngularGate(nn.Module):
    """Angular gate of E3Relax-H2 on the filter of an edge, of high degree and order.

    The reference direction n_i of an atom is the mean of the unit vectors u_ij of its edges, normalised. The
    gate is 1 + tanh(SiLU(W [u_ij . n_i, q_0 ... q_lmax])), q_l the mean over m of Y_lm(u_ij) Y_lm(n_i), and
    these layer-normalised.

    This differs from the paper in two points. By the addition theorem q_l is the Legendre polynomial
    P_l(u_ij . n_i), which gives equal results without spherical harmonics. And n_i is the mean m divided by
    sqrt(m^2 + fade^2), with Y_l continued to solid harmonics r^l Y_l: at a site with inversion symmetry m is
    rounding noise, and n_i and all invariants of l > 0 go smoothly to zero. An arbitrary direction would
    break the symmetry.

    Args:
        features: Width F.
        lmax: Highest degree.
        fade: Length of the mean below which n_i goes to zero.
    """

    def __init__(self, features: int, lmax: int, fade: float) -> None:
        super().__init__()
        self.lmax = lmax
        self.fade = fade
        self.norm = nn.LayerNorm(lmax + 1)
        self.mix = nn.Linear(lmax + 2, 3 * features)

    def invariants(self, edges: EdgeGeometry) -> Tensor:
        """Return the inputs of the gate, ``(E, lmax + 2)``."""
        graph = edges.graph
        mean = segment_mean(edges.direction, graph.receiver, graph.n_atoms)
        reference = mean / torch.sqrt(mean.square().sum(-1, keepdim=True) + self.fade**2)  # (N, 3)
        cosine = (edges.direction * reference[graph.receiver]).sum(-1)
        square = reference.square().sum(-1)[graph.receiver]
        return torch.cat([cosine.unsqueeze(-1), self.norm(legendre(cosine, square, self.lmax))], dim=-1)

    def forward(self, edges: EdgeGeometry) -> Tensor:
        """Gate ``(E, 3F)``."""
        return 1 + torch.tanh(nn.functional.silu(self.mix(self.invariants(edges))))

    def inputs(self, edges: EdgeGeometry) -> GateInputs:
        """Return the inputs and weights of the gate, for a fused kernel."""
        return GateInputs(self.invariants(edges), self.mix.weight, self.mix.bias)


def legendre(cosine: Tensor, square: Tensor, lmax: int) -> Tensor:
    """Solid Legendre polynomials of degrees 0 to lmax, ``|n|^l P_l(u . n / |n|)``, ``(E, lmax + 1)``.

    They are polynomials in n, and smooth at n = 0.

    Args:
        cosine: Products u . n for unit vectors u and any n, ``(E,)``.
        square: Squares n . n, ``(E,)``.
        lmax: Highest degree.
    """
    values = [torch.ones_like(cosine), cosine]
    for degree in range(1, lmax):  # Bonnet's recursion
        values.append(
            ((2 * degree + 1) * cosine * values[degree] - degree * square * values[degree - 1]) / (degree + 1)
        )
    return torch.stack(values[: lmax + 1], dim=-1)
