"""Compiled variant of `repose.nn.messages.Message` with gradients.

Three kernels: forward, gradients of the senders, gradients of the edges. Only the filter and the gate input
of an edge are stored, each ``(E, 3F)``; other intermediate values are recomputed in the backward pass.
Gradients of senders are summed along rows of edges with one sender, so that no two threads add to the same
address. Kernels are C++ on a CPU and Triton on a GPU, see `repose.nn.kernels.fused`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from repose.crystal.graph import PeriodicGraph, Rows
from repose.nn.ops import segment_sum


def summed(
    s: Tensor, v: Tensor, filters: Tensor, inner: Tensor | None, direction: Tensor, graph: PeriodicGraph
) -> tuple[Tensor, Tensor]:
    """Sums of messages over neighbours.

    Args:
        s: Factors of the senders, ``(N, 3F)``: for scalars, for vectors, for directions.
        v: Vectors of atoms, ``(N, 3, F)``.
        filters: Of edges, ``(E, 3F)``.
        inner: Input of an angular gate, ``(E, 3F)``: filters are multiplied by 1 + tanh(SiLU(inner)).
        direction: Unit vectors of edges, ``(E, 3)``.
        graph: The edges.

    Returns:
        Scalars ``(N, F)`` and vectors ``(N, 3, F)``.
    """
    # With mixed precision tensors of edges stay in bfloat16; sums are computed in float32.
    s, v = s.to(direction), v.to(direction)
    return _Summed.apply(s, v, filters, inner, direction, graph)  # type: ignore[return-value]


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        v: Tensor,
        filters: Tensor,
        inner: Tensor | None,
        direction: Tensor,
        graph: PeriodicGraph,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(s, v, filters, inner, direction)
        ctx.graph = graph
        rows, n = graph.rows, graph.n_atoms
        sums = _kernels(v.shape[-1])[0](
            s, v, filters, inner, direction, graph.sender[rows.edge], rows.edge, rows.valid.to(s)
        )
        m, *vector = (segment_sum(part, rows.owner, n) for part in sums)
        return m, torch.stack(vector, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        s, v, filters, inner, direction = ctx.saved_tensors
        gm, gmv = (g.contiguous() for g in gradients)
        graph: PeriodicGraph = ctx.graph
        _, to_senders, to_edges = _kernels(v.shape[-1])
        rows: Rows = graph.rows_by_sender
        sums = to_senders(
            s, v, filters, inner, direction, gm, gmv, graph.receiver[rows.edge], rows.edge, rows.owner,
            rows.valid.to(s),
        )  # fmt: skip
        parts = [segment_sum(part, rows.owner, graph.n_atoms) for part in sums]
        gs, gv = torch.cat(parts[:3], dim=-1), torch.stack(parts[3:], dim=1)
        g_filters, g_inner, g_direction = to_edges(
            s, v, filters, inner, direction, gm, gmv, graph.sender, graph.receiver
        )
        return gs, gv, g_filters, g_inner, g_direction, None


@cache
def _kernels(features: int) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Compiled functions for vectors of F features: forward, gradients of senders, gradients of edges."""
    f = features

    def gate(inner: Tensor) -> Tensor:
        return 2 * torch.sigmoid(2 * torch.nn.functional.silu(inner))  # 1 + tanh(SiLU(inner))

    def forward(
        s: Tensor, v: Tensor, filters: Tensor, inner: Tensor | None, direction: Tensor,
        sender: Tensor, edge: Tensor, valid: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        def factor(column: int) -> Tensor:  # (M, ROW, F)
            part = slice(column * f, (column + 1) * f)
            weight = filters[:, part][edge] * valid[..., None] * s[:, part][sender]
            return weight if inner is None else weight * gate(inner[:, part][edge])

        scalar, keep, turn = factor(0), factor(1), factor(2)
        u = direction[edge]
        vectors = ((v[:, axis][sender] * keep + turn * u[..., axis, None]).sum(1) for axis in range(3))
        return scalar.sum(1), *vectors

    def to_senders(
        s: Tensor, v: Tensor, filters: Tensor, inner: Tensor | None, direction: Tensor,
        gm: Tensor, gmv: Tensor,
        receiver: Tensor, edge: Tensor, owner: Tensor, valid: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        def weight(column: int) -> Tensor:  # (M, ROW, F)
            part = slice(column * f, (column + 1) * f)
            plain = filters[:, part][edge] * valid[..., None]
            return plain if inner is None else plain * gate(inner[:, part][edge])

        keep, turn = weight(1), weight(2)
        g = [gmv[:, axis][receiver] for axis in range(3)]
        u = direction[edge]
        scalar = (weight(0) * gm[receiver]).sum(1)
        # v is that of the sender of the row, so that it can be multiplied after the sum.
        to_v = [(keep * g[axis]).sum(1) for axis in range(3)]
        kept = sum(v[:, axis][owner] * to_v[axis] for axis in range(3))
        turned = (turn * sum(g[axis] * u[..., axis, None] for axis in range(3))).sum(1)
        own = s[:, f : 2 * f][owner]
        return scalar, kept, turned, *(own * part for part in to_v)  # type: ignore[return-value]

    def to_edges(
        s: Tensor, v: Tensor, filters: Tensor, inner: Tensor | None, direction: Tensor,
        gm: Tensor, gmv: Tensor,
        sender: Tensor, receiver: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
        own = s[sender]
        g = [gmv[:, axis][receiver] for axis in range(3)]
        products = (
            gm[receiver],
            sum(v[:, axis][sender] * g[axis] for axis in range(3)),
            sum(direction[:, axis, None] * g[axis] for axis in range(3)),
        )
        weighted = torch.cat([own[:, k * f : (k + 1) * f] * products[k] for k in range(3)], dim=-1)
        turn = filters[:, 2 * f :] * own[:, 2 * f :]
        if inner is None:
            g_filters, g_inner = weighted, None
        else:
            half = torch.sigmoid(inner)
            full = torch.sigmoid(2 * inner * half)
            slope = 4 * full * (1 - full) * half * (1 + inner * (1 - half))
            g_filters, g_inner = weighted * 2 * full, weighted * filters * slope
            turn = turn * 2 * full[:, 2 * f :]
        g_direction = torch.stack([(turn * g[axis]).sum(-1) for axis in range(3)], dim=-1)
        return g_filters, g_inner, g_direction

    return tuple(torch.compile(kernel, dynamic=True) for kernel in (forward, to_senders, to_edges))  # type: ignore[return-value]
