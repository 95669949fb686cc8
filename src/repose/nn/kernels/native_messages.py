"""Messages of scalars and vectors with gated filters by a kernel in C, with gradients, on a CPU.

It equals the plain operators of `repose.nn.messages.Message`. All is computed in the type of the spline.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from repose import native
from repose.crystal.graph import PeriodicGraph
from repose.native import added, applied, call, contiguous, ranges
from repose.nn.kernels.fused import Summands

SOURCE = "nn/kernels/messages.c"
PER_EDGE = 60  # numbers that the kernel reads and writes per edge and feature


def compiles(features: int, inputs: int, real: torch.dtype, extra: bool = False) -> bool:
    """Return whether the kernel can be compiled here for F features and A inputs of a gate; compiles it."""
    return native.library(SOURCE, str(real), F=features, A=inputs, EXTRA=int(extra)) is not None


def summed(summands: Summands, extra: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums of messages over neighbours: scalars ``(N, F)`` and vectors ``(N, 3, F)``.

    Args:
        summands: Factors of the senders, spline, edges and gate.
        extra: Added to the filter of every edge, ``(E, 3F)``.
    """
    s, v, coefficients, place, direction, gate, graph = summands
    empty = coefficients.new_empty(0)
    of_gate = (empty,) * 3 if gate is None else (gate.invariants, gate.weight.T, gate.bias)
    floats = (place.weights, direction, coefficients, s, v, *of_gate, empty if extra is None else extra)
    return applied(_Messages, place.knot, graph, *(part.to(coefficients) for part in floats))


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, knot: Tensor, graph: PeriodicGraph, *floats: Tensor) -> tuple[Tensor, Tensor]:
        arrays = contiguous(graph.start, graph.sender, knot, *floats)
        *_, v, inputs, _, _, extra = arrays
        sums = v.new_empty(len(v), v.shape[-1]), torch.empty_like(v)
        call(_library(v, inputs, extra).messages, _ranges(graph.start, v), *arrays, *sums)
        ctx.save_for_backward(*arrays)
        return sums

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        start, _, _, weights, direction, coefficients, s, v, inputs, matrix, bias, extra = ctx.saved_tensors
        of_edges = [torch.empty_like(part) for part in (weights, direction, inputs, extra)]
        # Gradients of atoms, table and gate are sums over edges: every thread has arrays of its own.
        parts = _ranges(start, v)
        sums = [[torch.zeros_like(part) for part in (coefficients, s, v, matrix, bias)] for _ in parts]
        call(
            _library(v, inputs, extra).gradients,
            parts,
            *ctx.saved_tensors,
            *contiguous(*given),
            *of_edges,
            *zip(*sums, strict=True),
        )
        (g_weights, g_direction, g_inputs, g_extra), (g_table, g_s, g_v, *g_gate) = of_edges, added(sums)
        return None, None, g_weights, g_direction, g_table, g_s, g_v, g_inputs, *g_gate, g_extra


def _library(v: Tensor, inputs: Tensor, extra: Tensor) -> Any:
    """Return the kernels for the width of ``v``, with a gate and extra filters unless these are empty."""
    gate = inputs.shape[1] if inputs.dim() == 2 else 0
    return native.library(SOURCE, str(v.dtype), F=v.shape[-1], A=gate, EXTRA=int(extra.dim() == 2))


def _ranges(start: Tensor, v: Tensor) -> list[tuple[int, int]]:
    return ranges(start, PER_EDGE * v.shape[-1])
