"""Compiled variants of `repose.nn.tensor_messages.TensorMessage`: for inference, and with gradients.

As in `repose.nn.kernels.fused` and `repose.nn.kernels.fused_training`, sums run over rows of edges: the
filters are the only tensor of all edges, and no two threads add to the same address. Channels and components
are written out so that inductor compiles each kernel into one loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from repose.crystal.graph import ROW, PeriodicGraph, Rows
from repose.nn.kernels.fused import ROWS_BYTES, runs
from repose.nn.kernels.radial_tables import Place
from repose.nn.ops import segment_sum
from repose.nn.tensors import Columns, dyad, times

CHANNELS = 6  # of filters: scalar; vector of the sender, direction, tensor times direction; dyad, tensor


def summed(
    s: Tensor, v: Tensor, t: Tensor, filters: Tensor, direction: Tensor, graph: PeriodicGraph
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of messages over neighbours, with gradients.

    Args:
        s: Factors of the senders, ``(N, 6F)``.
        v: Vectors of atoms, ``(N, 3, F)``.
        t: Tensors of atoms, ``(N, 5, F)``.
        filters: Of edges, ``(E, 6F)``.
        direction: Unit vectors of edges, ``(E, 3)``.
        graph: The edges.

    Returns:
        Scalars ``(N, F)``, vectors ``(N, 3, F)``, tensors ``(N, 5, F)``.
    """
    s, v, t = (part.to(direction) for part in (s, v, t))  # sums are formed in float32, whatever the precision
    return _Summed.apply(s, v, t, filters, direction, graph)  # type: ignore[return-value]


def from_table(
    s: Tensor,
    v: Tensor,
    t: Tensor,
    coefficients: Tensor,
    place: Place,
    direction: Tensor,
    graph: PeriodicGraph,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums as from `summed`, for inference, with filters from a spline ``(T, 6F)``."""
    s, v, t = (part.to(coefficients) for part in (s, v, t))
    n, f = len(v), v.shape[-1]
    sums = v.new_zeros(n, 9, f)
    size = int(ROWS_BYTES.get(v.device.type, 8e6) / (9 * f * v.element_size()))
    for start in range(0, len(graph.rows.owner), size):
        owner, edge, valid = (column[start : start + size] for column in graph.rows)
        weights = place.weights[edge] * valid.unsqueeze(-1).to(v)
        parts = _kernels(f)[3](
            s, v, t, coefficients, graph.sender[edge], place.knot[edge], weights, direction[edge]
        )
        sums.index_add_(0, owner, torch.stack(parts, dim=1))
    return sums[:, 0], sums[:, 1:4], sums[:, 4:]


def compiles(features: int, like: Tensor) -> bool:
    """Compile `from_table` for F features, on the device and in the type of ``like``; see `runs`."""
    n, rows, f = 3, 5, features
    places = torch.zeros(rows, ROW, dtype=torch.int64, device=like.device)
    floats = [like.new_zeros(shape) for shape in ((n, CHANNELS * f), (n, 3, f), (n, 5, f), (7, CHANNELS * f))]
    rest = [like.new_zeros(rows, ROW, k) for k in (4, 3)]
    return runs(lambda: _kernels(features)[3](*floats, places, places, *rest))


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, s: Tensor, v: Tensor, t: Tensor, filters: Tensor, direction: Tensor, graph: PeriodicGraph
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(s, v, t, filters, direction)
        ctx.graph = graph
        rows, n = graph.rows, graph.n_atoms
        parts = _kernels(v.shape[-1])[0](
            s, v, t, filters, direction, graph.sender[rows.edge], rows.edge, rows.valid.to(s)
        )
        sums = segment_sum(torch.stack(parts, dim=1), rows.owner, n)
        return sums[:, 0], sums[:, 1:4], sums[:, 4:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        s, v, t, filters, direction = ctx.saved_tensors
        graph: PeriodicGraph = ctx.graph
        given = torch.cat([gradients[0].unsqueeze(1), *gradients[1:]], dim=1)  # (N, 9, F)
        _, to_senders, to_edges, _ = _kernels(v.shape[-1])
        rows: Rows = graph.rows_by_sender
        parts = to_senders(
            s, v, t, filters, direction, given, graph.receiver[rows.edge], rows.edge, rows.owner,
            rows.valid.to(s),
        )  # fmt: skip
        sums = segment_sum(torch.stack(parts, dim=1), rows.owner, graph.n_atoms)  # (N, 14, F)
        g_filters, g_direction = to_edges(s, v, t, filters, direction, given, graph.sender, graph.receiver)
        return sums[:, :CHANNELS].flatten(1), sums[:, 6:9], sums[:, 9:], g_filters, g_direction, None


def _dot(a: Columns, b: Columns) -> Tensor:
    total = a[0] * b[0]
    for one, other in zip(a[1:], b[1:], strict=True):
        total = total + one * other
    return total


def _messages(weight: Columns, v: Columns, t: Columns, u: Columns) -> list[Tensor]:
    """Nine components of the message of an edge, from its weights and the vector and tensor of its sender."""
    turned, own = times(t, u), dyad(u, u)
    vector = [weight[1] * v[i] + weight[2] * u[i] + weight[3] * turned[i] for i in range(3)]
    tensor = [weight[4] * own[k] + weight[5] * t[k] for k in range(5)]
    return [weight[0], *vector, *tensor]


def _weight_gradients(g: Columns, v: Columns, t: Columns, u: Columns) -> list[Tensor]:
    """Gradients of the six weights from gradients ``g`` of the nine outputs of `_messages`."""
    gv, gt = g[1:4], g[4:]
    return [g[0], _dot(gv, v), _dot(gv, u), _dot(gv, times(t, u)), _dot(gt, dyad(u, u)), _dot(gt, t)]


@cache
def _kernels(features: int) -> tuple[Callable[..., Any], ...]:
    """Kernels for F features: forward, gradients of senders, gradients of edges, forward from a table."""
    f = features

    def channel(array: Tensor, k: int) -> Tensor:
        return array[:, k * f : (k + 1) * f]

    def forward(
        s: Tensor, v: Tensor, t: Tensor, filters: Tensor, direction: Tensor,
        sender: Tensor, edge: Tensor, valid: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        weight = [
            channel(filters, k)[edge] * valid[..., None] * channel(s, k)[sender] for k in range(CHANNELS)
        ]
        u = [direction[edge][..., i, None] for i in range(3)]
        of_v, of_t = [v[:, i][sender] for i in range(3)], [t[:, k][sender] for k in range(5)]
        return tuple(part.sum(1) for part in _messages(weight, of_v, of_t, u))

    def to_senders(
        s: Tensor, v: Tensor, t: Tensor, filters: Tensor, direction: Tensor, given: Tensor,
        receiver: Tensor, edge: Tensor, owner: Tensor, valid: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        passed = [channel(filters, k)[edge] * valid[..., None] for k in range(CHANNELS)]
        u = [direction[edge][..., i, None] for i in range(3)]
        g = [given[:, k][receiver] for k in range(9)]
        of_v = [v[:, i][owner].unsqueeze(1) for i in range(3)]
        of_t = [t[:, k][owner].unsqueeze(1) for k in range(5)]
        gradients = _weight_gradients(g, of_v, of_t, u)
        # The sender's own factors may be multiplied after the sum.
        keep, turn, hold = (channel(s, k)[owner] for k in (1, 3, 5))
        outer = dyad(u, g[1:4])
        return (
            *((passed[k] * gradients[k]).sum(1) for k in range(CHANNELS)),
            *(keep * (passed[1] * g[1 + i]).sum(1) for i in range(3)),
            *(turn * (passed[3] * outer[k]).sum(1) + hold * (passed[5] * g[4 + k]).sum(1) for k in range(5)),
        )

    def to_edges(
        s: Tensor, v: Tensor, t: Tensor, filters: Tensor, direction: Tensor, given: Tensor,
        sender: Tensor, receiver: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        own = [channel(s, k)[sender] for k in range(CHANNELS)]
        u = [direction[:, i, None] for i in range(3)]
        g = [given[:, k][receiver] for k in range(9)]
        of_v, of_t = [v[:, i][sender] for i in range(3)], [t[:, k][sender] for k in range(5)]
        gradients = _weight_gradients(g, of_v, of_t, u)
        weight = [channel(filters, k) * own[k] for k in (2, 3, 4)]
        turned, gu = times(of_t, g[1:4]), times(g[4:], u)
        along = [
            (weight[0] * g[1 + i] + weight[1] * turned[i] + 2 * weight[2] * gu[i]).sum(-1) for i in range(3)
        ]
        g_filters = torch.cat([own[k] * gradients[k] for k in range(CHANNELS)], dim=-1)
        return g_filters.to(filters), torch.stack(along, dim=-1)

    def tabulated(
        s: Tensor, v: Tensor, t: Tensor, coefficients: Tensor,
        sender: Tensor, knot: Tensor, weights: Tensor, direction: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        def factor(k: int) -> Tensor:  # (M, ROW, F)
            table = channel(coefficients, k)
            weight = weights[..., 0, None] * table[knot]
            for place in range(1, 4):
                weight = weight + weights[..., place, None] * table[knot + place]
            return weight * channel(s, k)[sender]

        u = [direction[..., i, None] for i in range(3)]
        of_v, of_t = [v[:, i][sender] for i in range(3)], [t[:, k][sender] for k in range(5)]
        return tuple(part.sum(1) for part in _messages([factor(k) for k in range(CHANNELS)], of_v, of_t, u))

    kernels = (forward, to_senders, to_edges, tabulated)
    return tuple(torch.compile(kernel, dynamic=True) for kernel in kernels)  # type: ignore[return-value]
