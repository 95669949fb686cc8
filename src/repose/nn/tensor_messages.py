"""Messages of scalars, vectors and rank-2 tensors along edges (ours)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from repose import native
from repose.crystal.graph import PeriodicGraph
from repose.nn.equivariant import mlp
from repose.nn.kernels import fused_tensors, native_tensors
from repose.nn.kernels.fused_tensors import CHANNELS, from_table, summed
from repose.nn.kernels.native_edges import places
from repose.nn.kernels.native_tensors import in_messages
from repose.nn.kernels.radial_tables import Place, SplineTable, Tabulated, spline
from repose.nn.messages import EdgeGeometry
from repose.nn.ops import segment_sum
from repose.nn.radial import GaussianBasis
from repose.nn.tensors import dyads, turns

# Sums are divided by the square root of a typical number of neighbours, weighted by the cutoff.
SCALE = 20.0**-0.5
# Largest absolute value of the learned radii in A.
LARGEST_RADIUS = 1.0
# Bytes of a tensor of edges and features in `_in_blocks`.
BLOCK_BYTES = {"cpu": 1e6, "cuda": 2.5e8}


def compiles(features: int, like: Tensor) -> bool:
    """Return whether kernels for F features compile on the device and in the type of ``like``."""
    if like.device.type == "cpu":
        found = native_tensors.compiles(features, like.dtype)
        if not found:
            native.warn_missing()
        return found
    return fused_tensors.compiles(features, like)


class Features(NamedTuple):
    """Scalars ``(N, F)``, vectors ``(N, 3, F)`` and tensors ``(N, 5, F)`` of atoms."""

    x: Tensor
    v: Tensor
    t: Tensor

    def __add__(self, other: Features) -> Features:  # type: ignore[override]
        """Sums of scalars, of vectors and of tensors."""
        return Features(*(a + b for a, b in zip(self, other, strict=True)))


class TensorMessage(Tabulated):
    """Sums of messages over neighbours.

    A message has six terms, each with a filter of the distance times a factor of the sender: scalars of the
    sender; its vectors, the direction to it, its tensors applied to the direction; the dyad of the direction,
    its tensors.

    Args:
        features: Width F.
        n_basis: Radial functions R.
        radii: Subtract learned radii of both atoms, functions of their scalars, from the distance, so that
            bonds of large and of small atoms have similar filters.
        rank2: False: ablation without tensors of the senders.
    """

    def __init__(self, features: int, n_basis: int, radii: bool, rank2: bool) -> None:
        super().__init__()
        self.rank2 = rank2
        self.features = features
        self.norm = nn.LayerNorm(features)
        self.phi = mlp(features, features, CHANNELS * features)
        self.gamma = nn.Linear(n_basis, CHANNELS * features)
        self.radius = nn.Linear(features, 1) if radii else None
        if self.radius is not None:
            with torch.no_grad():
                self.radius.weight.mul_(0.1)
                self.radius.bias.zero_()

    def tabulate(self, radial: GaussianBasis) -> None:
        """See `Tabulated.tabulate`."""
        self.table = SplineTable(self.gamma, radial, SCALE)

    def forward(self, features: Features, edges: EdgeGeometry, inside: Tensor) -> Features:
        """Return features plus the sums of the messages of all neighbours.

        Args:
            features: Features of atoms.
            edges: The edges.
            inside: Cutoff function of every edge, ``(E,)``.
        """
        x = self.norm(features.x)
        sent = Features(self.phi(x), features.v, features.t if self.rank2 else torch.zeros_like(features.t))
        radius = x.new_zeros(len(x))
        if self.radius is not None:
            radius = LARGEST_RADIUS * torch.tanh(self.radius(x)).squeeze(-1)
        table = None if self.training else self.table
        if self.compiled and x.device.type == "cpu":
            coefficients = (
                table.coefficients if table is not None else spline(self.gamma, edges.radial, SCALE)
            )
            if torch.is_grad_enabled():
                place = edges.nearer(radius).place.times(inside)
            else:
                place = places(edges.distance, radius, inside, edges.graph, edges.radial)
            ends = (coefficients, place, edges.direction, edges.graph)
            return Features(*in_messages(*sent, features.x, features.t, *ends))
        if self.radius is not None:
            edges = edges.nearer(radius)
        if table is not None:
            place = edges.place.times(inside)
            if self.compiled:
                return features + Features(
                    *from_table(*sent, table.coefficients, place, edges.direction, edges.graph)
                )
            with torch.autocast(x.device.type, enabled=False):  # sums stay in single precision
                return features + self._in_blocks(sent, table, place, edges)
        weighted = torch.cat([edges.basis * inside.unsqueeze(-1), inside.unsqueeze(-1)], dim=-1)
        gamma = SCALE * torch.cat([self.gamma.weight, self.gamma.bias.unsqueeze(-1)], dim=-1)
        filters = nn.functional.linear(weighted, gamma)  # (E, 6F)
        if self.compiled:
            return features + Features(*summed(*sent, filters, edges.direction, edges.graph))
        return features + plain_sums(sent, filters, edges.direction, edges.graph)

    def _in_blocks(self, sent: Features, table: SplineTable, place: Place, edges: EdgeGeometry) -> Features:
        """Sums with filters from the table, in blocks of edges; scalars sent are factors of the senders."""
        graph, (n, f) = edges.graph, (len(sent.x), self.features)
        s, v, t = (part.to(table.coefficients) for part in sent)
        sums = Features(v.new_zeros(n, f), torch.zeros_like(v), torch.zeros_like(t))
        size = max(64, int(BLOCK_BYTES.get(v.device.type, 1e6) / (5 * f * v.element_size())))
        for start in range(0, graph.n_edges, size):
            part = slice(start, start + size)
            sender, receiver, u = graph.sender[part], graph.receiver[part], edges.direction[part]
            weights = table(Place(place.knot[part], place.weights[part])).mul_(s.index_select(0, sender))
            scalar, keep, lead, turn, stretch, hold = weights.view(-1, 6, f).split(1, dim=1)
            sums.x.index_add_(0, receiver, scalar.squeeze(1))
            tensor = t.index_select(0, sender)
            vector = torch.bmm(turns(u), tensor).mul_(turn).addcmul_(v.index_select(0, sender), keep)
            sums.v.index_add_(0, receiver, vector.addcmul_(u.unsqueeze(-1), lead))
            tensor.mul_(hold).addcmul_(dyads(u).unsqueeze(-1), stretch)
            sums.t.index_add_(0, receiver, tensor)
        return sums


def plain_sums(features: Features, filters: Tensor, direction: Tensor, graph: PeriodicGraph) -> Features:
    """Sums of messages, all edges at once; arguments as for `repose.nn.kernels.fused_tensors.summed`."""
    s, v, t = features
    sender, receiver, n = graph.sender, graph.receiver, graph.n_atoms
    of_t = t[sender]
    weights = (s[sender] * filters).unsqueeze(1).split(v.shape[-1], dim=-1)
    scalar, keep, lead, turn, stretch, hold = weights
    vector = keep * v[sender] + lead * direction.unsqueeze(-1) + turn * torch.bmm(turns(direction), of_t)
    tensor = stretch * dyads(direction).unsqueeze(-1) + hold * of_t
    return Features(
        segment_sum(scalar.squeeze(1).to(v), receiver, n),
        segment_sum(vector, receiver, n),
        segment_sum(tensor, receiver, n),
    )
