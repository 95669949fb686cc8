"""Messages, updates and readouts of scalars, vectors and rank-2 tensors by kernels in C, with gradients.

They equal the plain operators in `repose.nn.tensor_messages` and `repose.nn.tensor_updates`, on a CPU.
Everything is computed in the type of the weights, whatever the precision of the features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from repose import native
from repose.crystal.graph import PeriodicGraph
from repose.native import added, applied, call, contiguous, ranges
from repose.nn.kernels import native_edges
from repose.nn.kernels.radial_tables import Place

MESSAGES, FEATURES = "nn/kernels/tensor_messages.c", "nn/kernels/tensor_features.c"
PER_EDGE, PER_ATOM = 38, 40  # numbers that kernels read and write per edge or atom and feature


def compiles(features: int, real: torch.dtype) -> bool:
    """Return whether the kernels can be compiled for F features here; compiles them."""
    sources = (MESSAGES, FEATURES)
    return native_edges.compiles(real) and all(
        native.library(s, str(real), F=features) is not None for s in sources
    )


class Messages(torch.autograd.Function):
    """Features plus sums of messages over neighbours."""

    @staticmethod
    def forward(
        ctx: Any, s: Tensor, v: Tensor, t: Tensor, x: Tensor, own: Tensor, coefficients: Tensor,
        weights: Tensor, direction: Tensor, knot: Tensor, graph: PeriodicGraph,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Return scalars ``(N, F)``, vectors ``(N, 3, F)`` and tensors ``(N, 5, F)``.

        Args:
            ctx: Context of autograd.
            s: Factors of the senders, ``(N, 6F)``.
            v: Vectors of atoms, ``(N, 3, F)``: senders and receivers have the same.
            t: Tensors of the senders, ``(N, 5, F)``; zero in the ablation without tensors in messages.
            x: Scalars of the receivers, ``(N, F)``.
            own: Tensors of the receivers, ``(N, 5, F)``.
            coefficients: Of the spline, ``(T, 6F)``.
            weights: Of its four rows from the knots on, times any factor on the edge, ``(E, 4)``.
            direction: Unit vectors of edges, ``(E, 3)``.
            knot: See `Place`, ``(E,)``.
            graph: The edges.
        """
        arrays = contiguous(graph.start, graph.sender, knot, weights, direction, coefficients, s, v, t)
        new = tuple(torch.empty_like(part) for part in (x, v, own))
        parts = ranges(graph.start, PER_EDGE * x.shape[-1])
        library = _library(MESSAGES, x)
        # Before the first layer of a network there are scalars only.
        function = library.messages if v.any() or t.any() or own.any() else library.messages_of_scalars
        call(function, parts, *arrays, *contiguous(x, own), *new)
        ctx.save_for_backward(*arrays)
        return new  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of all but the knots and the graph."""
        start, _, _, weights, direction, coefficients, s, v, t = arrays = ctx.saved_tensors
        parts = ranges(start, 2 * PER_EDGE * v.shape[-1])
        of_edges = [torch.empty_like(weights), torch.empty_like(direction)]
        # Atoms and rows of the table get sums over edges of all threads: one array a thread.
        sums = [[torch.zeros_like(part) for part in (coefficients, s, v, t)] for _ in parts]
        call(
            _library(MESSAGES, v).gradients,
            parts,
            *arrays,
            *contiguous(*given),
            *of_edges,
            *zip(*sums, strict=True),
        )
        g_coefficients, g_s, g_v, g_t = added(sums)
        return g_s, g_v.add_(given[1]), g_t, given[0], given[2], g_coefficients, *of_edges, None, None


class Invariants(torch.autograd.Function):
    """Invariants of atoms, see `repose.nn.tensor_updates.invariants`."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, vv: Tensor, tt: Tensor, system_index: Tensor, start: Tensor) -> Tensor:
        """Return ``(N, 5F)``; ``start`` is the first atom of every crystal, ``(S + 1,)``."""
        own, vv, tt = contiguous(own, vv, tt)
        n, f = own.shape
        mean_x, mean_t = own.new_empty(len(start) - 1, f), own.new_empty(len(start) - 1, 5, f)
        out, library = own.new_empty(n, 5 * f), _library(FEATURES, own)
        call(library.means, ranges(start, PER_ATOM * f), start, own, tt, mean_x, mean_t)
        call(library.invariants, _atoms(n, f), system_index, own, vv, tt, mean_x, mean_t, out)
        ctx.save_for_backward(start, vv, tt, mean_t)
        return out

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of scalars and of mixed vectors and tensors."""
        start, vv, tt, mean_t = ctx.saved_tensors
        n, f = len(vv), mean_t.shape[-1]
        g_own, g_vv, g_tt = vv.new_empty(n, f), torch.empty_like(vv), torch.empty_like(tt)
        function = _library(FEATURES, mean_t).invariants_gradients
        (g,) = contiguous(*given)
        call(function, ranges(start, PER_ATOM * f), start, vv, tt, mean_t, g, g_own, g_vv, g_tt)
        return g_own, g_vv, g_tt, None, None


class Update(torch.autograd.Function):
    """New features of atoms, see `repose.nn.tensor_updates.updated`."""

    @staticmethod
    def forward(
        ctx: Any, p: Tensor, vv: Tensor, tt: Tensor, x: Tensor, v: Tensor, t: Tensor, scales: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return scalars, vectors and tensors; ``scales`` are factors on products, in x and in v and t."""
        arrays = contiguous(scales, p, vv, tt)
        new = tuple(torch.empty_like(part) for part in (x, v, t))
        call(_library(FEATURES, x).update, _atoms(*x.shape), *arrays, *contiguous(x, v, t), *new)
        ctx.save_for_backward(*arrays)
        return new  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of all but the scales."""
        arrays = ctx.saved_tensors
        found = [torch.empty_like(part) for part in arrays[1:]]
        function = _library(FEATURES, given[0]).update_gradients
        call(function, _atoms(*given[0].shape), *arrays, *contiguous(*given), *found)
        return *found, *given, None


class Readout(torch.autograd.Function):
    """Readout of crystals, see `repose.nn.tensor_updates.readout`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gates: Tensor, v: Tensor, t: Tensor, of_v: Tensor, of_t: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return displacements ``(N, 3)``, means of tensors ``(S, 5)`` and of invariants ``(S, 3F)``."""
        arrays = contiguous(gates, v, t, of_v, of_t)
        n, f, s = *x.shape, len(start) - 1
        found = x.new_empty(n, 3), x.new_empty(s, 5), x.new_empty(s, 3 * f)
        call(
            _library(FEATURES, x).readout,
            ranges(start, PER_ATOM * f),
            start,
            *contiguous(x),
            *arrays,
            *found,
        )
        ctx.save_for_backward(start, *arrays)
        return found

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of all but the borders of crystals."""
        start, gates, v, t, of_v, of_t = ctx.saved_tensors
        n, f = len(v), v.shape[-1]
        parts = ranges(start, PER_ATOM * f)
        found = [v.new_empty(n, f), *(torch.empty_like(part) for part in (gates, v, t))]
        sums = [[torch.zeros_like(part) for part in (of_v, of_t)] for _ in parts]
        function = _library(FEATURES, v).readout_gradients
        arrays = (start, gates, v, t, of_v, of_t, *contiguous(*given), *found)
        call(function, parts, *arrays, *zip(*sums, strict=True))
        return *found, *added(sums), None


def in_messages(
    s: Tensor, v: Tensor, sent: Tensor, x: Tensor, own: Tensor, coefficients: Tensor, place: Place,
    direction: Tensor, graph: PeriodicGraph,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Apply `Messages` in the type of the spline."""
    floats = [a.to(coefficients) for a in (s, v, sent, x, own, coefficients, place.weights, direction)]
    return applied(Messages, *floats, place.knot, graph)


def _atoms(n: int, features: int) -> list[tuple[int, int]]:
    return ranges(torch.arange(n + 1), PER_ATOM * features)


def _library(source: str, like: Tensor) -> Any:
    return native.library(source, str(like.dtype), F=like.shape[-1])
