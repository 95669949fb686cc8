"""Encoder blocks of RelaxNet: features of atoms from their neighbours (section 4.2, figure 2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repose.crystal.graph import PeriodicGraph
from repose.errors import ConfigError
from repose.models.relaxnet.settings import RelaxNetSettings
from repose.nn.bessel import BesselBasis, spherical_harmonics
from repose.nn.equivariant import mlp
from repose.nn.messages import EdgeGeometry
from repose.nn.ops import segment_sum
from repose.nn.radial import GaussianBasis, envelope
from repose.nn.triplets import TripletMessage, Triplets

# Exponent of the polynomial cutoff function.
ENVELOPE_EXPONENT = 5
# Typical number of neighbours; sums over neighbours are divided by its square root.
TYPICAL_NEIGHBOURS = 40
# A step of the hidden positions in A, for outputs of order one.
STEP = 0.1


class EdgeFeatures(nn.Module):
    """Invariant features of an edge: its length, and its angles with the other edges of its receiver.

    The paper's products of spherical Bessel functions and spherical harmonics (equation 6b) depend on the
    coordinate system. Here they are summed over the neighbours of an atom, with weights from their features,
    and multiplied with those of the edge. By the addition theorem the result is a sum of Legendre polynomials
    of the angles between this edge and all others, which is invariant. Gaussians of the length are added.
    With ``expansion="harmonics"`` the products are summed as printed, for each root of the Bessel functions.
    """

    def __init__(self, settings: RelaxNetSettings) -> None:
        super().__init__()
        s = settings
        self.degrees = s.lmax + 1
        self.bessel = BesselBasis(self.degrees, s.n_bessel, s.graph.cutoff)
        self.printed = s.expansion == "harmonics"
        if not self.printed:
            self.radial = nn.Linear(s.n_bessel, s.channels, bias=False)
            self.weights = nn.Linear(s.features, s.channels, bias=False)
        width = s.n_bessel if self.printed else self.degrees * s.channels
        self.mix = nn.Linear(s.n_basis + width, s.features)

    def forward(self, x: Tensor, edges: EdgeGeometry) -> Tensor:
        """Features of edges ``(E, F)`` from scalars of atoms ``(N, F)``."""
        graph = edges.graph
        if self.printed:
            return self.mix(torch.cat([edges.basis, self.expand(edges)], dim=-1))
        radial = self.radial(self.bessel(edges.distance))  # (E, L, C)
        weight = (self.weights(x) / TYPICAL_NEIGHBOURS**0.5)[graph.sender].unsqueeze(1)  # (E, 1, C)
        parts = [edges.basis]
        for degree, harmonics in enumerate(spherical_harmonics(edges.direction, self.degrees)):
            own = harmonics.unsqueeze(-1) * radial[:, degree].unsqueeze(1)  # (E, 2l + 1, C)
            around = segment_sum(own * weight, graph.receiver, graph.n_atoms)
            parts.append((own * around[graph.receiver]).sum(1) / (2 * degree + 1))
        return self.mix(torch.cat(parts, dim=-1))

    def expand(self, edges: EdgeGeometry) -> Tensor:
        """Sums over degrees and orders of Bessel functions times harmonics, equation 6b, ``(E, roots)``."""
        harmonics = [part.sum(-1) for part in spherical_harmonics(edges.direction, self.degrees)]
        angular = torch.stack(harmonics, dim=-1) / math.sqrt(4 * math.pi)  # orthonormal
        return (self.bessel(edges.distance) * angular.unsqueeze(-1)).sum(1)


class PairConvolution(nn.Module):
    """Messages along single edges, as in deep tensor neural networks: products of filters and features."""

    def __init__(self, features: int, edge_features: int) -> None:
        super().__init__()
        self.atoms = nn.Linear(features, features)
        self.filter = mlp(edge_features, features, features)
        self.out = nn.Linear(features, features, bias=False)

    def forward(self, x: Tensor, edge: Tensor, inside: Tensor, graph: PeriodicGraph) -> Tensor:
        """Sums over neighbours ``(N, F)``; ``inside`` is the cutoff function of edges, ``(E,)``."""
        message = torch.tanh(self.atoms(x)[graph.sender] * self.filter(edge)) * inside.unsqueeze(-1)
        return self.out(segment_sum(message, graph.receiver, len(x))) / TYPICAL_NEIGHBOURS**0.5


class NeighbourField(nn.Module):
    """Pairwise convolution at the current geometry.

    With explicit evolution it is the only part that is evaluated at every step, and therefore small.
    """

    def __init__(self, features: int, n_basis: int) -> None:
        super().__init__()
        self.sent, self.taken = (nn.Linear(features, features, bias=False) for _ in range(2))
        self.filter = nn.Linear(n_basis, features, bias=False)

    def forward(self, x: Tensor, basis: Tensor, inside: Tensor, graph: PeriodicGraph) -> Tensor:
        """Sums over neighbours ``(N, F)``; ``inside`` is the cutoff function of edges, ``(E,)``."""
        message = self.sent(x)[graph.sender] * self.filter(basis * inside.unsqueeze(-1))
        return self.taken(x) * segment_sum(message, graph.receiver, len(x)) / TYPICAL_NEIGHBOURS**0.5


class WeightedEdges(NamedTuple):
    """Edges at the current geometry, with the values of the cutoff functions.

    Attributes:
        geometry: Lengths and directions.
        inside: Cutoff function of edges, ``(E,)``.
        near: Cutoff function of edges in triplets, ``(E,)``.
    """

    geometry: EdgeGeometry
    inside: Tensor
    near: Tensor


def weighted_edges(
    graph: PeriodicGraph, positions: Tensor, cells: Tensor, basis: GaussianBasis, settings: RelaxNetSettings
) -> WeightedEdges:
    """Edges at positions ``(N, 3)`` in cells ``(S, 3, 3)``, in A."""
    edges = EdgeGeometry.at(graph, positions, cells, basis)
    inside = envelope(edges.distance / settings.graph.cutoff, ENVELOPE_EXPONENT)
    return WeightedEdges(edges, inside, envelope(edges.distance / settings.triplet_cutoff, ENVELOPE_EXPONENT))


class DTNNLayer(nn.Module):
    """Pairwise convolution, messages from triplets, vectors, and hidden positions (figure 2, right)."""

    def __init__(self, settings: RelaxNetSettings) -> None:
        super().__init__()
        f, t = settings.features, settings.triplets
        self.norm = nn.LayerNorm(f)
        self.edges = EdgeFeatures(settings)
        self.pairs = PairConvolution(f, f)
        self.triplets = TripletMessage(f, f, t, settings.zonal) if t else None
        if t:
            self.mixed = nn.Linear(f, t)  # MLP_m
            self.kept = nn.Linear(f, t)  # MLP_g
            self.turn = nn.Linear(t, t, bias=False)
            self.lengths = nn.Linear(t, f, bias=False)
        self.update = mlp(f, f, f)
        self.steps = mlp(2 * f, f, 1) if settings.hidden_steps else None  # MLP_c

    def forward(
        self, x: Tensor, v: Tensor, around: WeightedEdges, found: Triplets
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """New scalars ``(N, F)`` and vectors ``(N, 3, V)``, and steps of hidden positions in A ``(N, 3)``."""
        geometry, inside, near = around
        graph = geometry.graph
        own = self.norm(x)
        edge = self.edges(own, geometry)
        x = x + self.pairs(own, edge, inside, graph)
        if self.triplets is not None:
            ends = graph.receiver, graph.sender
            scalars, vectors = self.triplets(own, edge, geometry.direction, near, ends, found)
            v = torch.tanh(self.kept(own)).unsqueeze(1) * v
            v = v + self.mixed(own).unsqueeze(1) * self.turn(vectors)
            # Not the length: its kink at zero would push atoms off their centres of inversion.
            x = x + scalars + self.lengths(torch.sqrt(1 + v.square().sum(1)) - 1)
        x = x + self.update(self.norm(x))
        if self.steps is None:
            return x, v, None
        along = torch.tanh(self.steps(torch.cat([x[graph.receiver], edge], dim=-1))) * inside.unsqueeze(-1)
        step = segment_sum(along * geometry.direction, graph.receiver, len(x)) / TYPICAL_NEIGHBOURS**0.5
        return x, v, STEP * step


class Attention(nn.Module):
    """Linear attention between all atoms of a crystal.

    Weights are products of positive features of query and key (Katharopoulos et al. 2020), normalised over
    the crystal. The cost is linear in the number of atoms, and a supercell gives the same as its primitive
    cell.

    Args:
        features: Width F.
        heads: Number of heads; divides F.

    Raises:
        ConfigError: It does not.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        if features % heads:
            raise ConfigError(f"heads must divide features; got {heads} heads and {features} features.")
        self.heads = heads
        self.norm = nn.LayerNorm(features)
        self.projections = nn.Linear(features, 3 * features, bias=False)
        self.out = nn.Linear(features, features, bias=False)

    def forward(self, x: Tensor, system_index: Tensor, n: int) -> Tensor:
        """Return updates ``(N, F)``; ``system_index`` is the crystal of every atom, ``(N,)``, out of n."""
        query, key, value = (
            part.view(len(x), self.heads, -1) for part in self.projections(self.norm(x)).chunk(3, dim=-1)
        )
        query, key = nn.functional.elu(query) + 1, nn.functional.elu(key) + 1
        products = segment_sum(key.unsqueeze(-1) * value.unsqueeze(-2), system_index, n)[system_index]
        weights = (query * segment_sum(key, system_index, n)[system_index]).sum(-1, keepdim=True)
        # A sum instead of a matrix product: mixed precision would round that to bfloat16.
        attended = (query.unsqueeze(-1) * products).sum(-2) / weights
        return self.out(attended.flatten(1))
