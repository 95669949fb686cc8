"""Fused variants of `repose.nn.messages.Message` for inference, with tabulated filters.

No tensor of all edges and features is stored. `in_blocks` processes blocks of edges that fit into the cache.
`in_rows` is compiled into one kernel: C++ on a CPU, Triton on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from repose.crystal.graph import ROW, PeriodicGraph
from repose.nn.kernels.radial_tables import Place

# Bytes of a tensor of edges and features in `in_blocks`.
BLOCK_BYTES = {"cpu": 5e5, "cuda": 2.5e8}
# Bytes of the sums over rows in `in_rows`; larger arrays are returned to the system after every call.
ROWS_BYTES = {"cpu": 8e6, "cuda": 1e9}


class GateInputs(NamedTuple):
    """Inputs and weights of an angular gate, see `repose.nn.messages.AngularGate`.

    Attributes:
        invariants: Inputs of every edge, ``(E, A)``.
        weight: Weight matrix, ``(3F, A)``.
        bias: Bias, ``(3F,)``.
    """

    invariants: Tensor
    weight: Tensor
    bias: Tensor


class Summands(NamedTuple):
    """Inputs of the fused messages.

    Attributes:
        s: Factors of the senders, ``(N, 3F)``: for scalars, for vectors, for directions.
        v: Vectors of atoms, ``(N, 3, F)``.
        coefficients: Spline of the filters, ``(T, 3F)``.
        place: Places of the edges' distances in the spline.
        direction: Unit vectors of edges, ``(E, 3)``.
        gate: Gate on the filters, or None.
        graph: The edges.
    """

    s: Tensor
    v: Tensor
    coefficients: Tensor
    place: Place
    direction: Tensor
    gate: GateInputs | None
    graph: PeriodicGraph

    def in_one_type(self) -> Summands:
        """Convert features to the type of the spline; mixed precision ends here."""
        return self._replace(s=self.s.to(self.coefficients), v=self.v.to(self.coefficients))


def in_blocks(summands: Summands) -> tuple[Tensor, Tensor]:
    """Sums of messages over neighbours, in blocks of edges: scalars ``(N, F)``, vectors ``(N, 3, F)``."""
    s, v, coefficients, place, direction, gate, graph = summands.in_one_type()
    n, f = len(v), v.shape[-1]
    m, mv = v.new_zeros(n, f), v.new_zeros(n, 3, f)
    four = torch.arange(4, device=v.device)
    size = max(64, int(BLOCK_BYTES.get(v.device.type, 5e5) / (3 * f * v.element_size())))
    for start in range(0, graph.n_edges, size):
        part = slice(start, start + size)
        sender, receiver, knot = graph.sender[part], graph.receiver[part], place.knot[part]
        weight = functional.embedding_bag(
            knot.unsqueeze(1) + four, coefficients, per_sample_weights=place.weights[part], mode="sum"
        )
        if gate is not None:
            inner = torch.addmm(gate.bias, gate.invariants[part], gate.weight.T).to(weight)
            # 1 + tanh(y) = 2 sigmoid(2 y), which takes one exponential
            weight.mul_(functional.silu(inner, inplace=True).mul_(2).sigmoid_()).mul_(2)
        scalar, keep, turn = weight.mul_(s.index_select(0, sender)).split(f, dim=-1)
        m.index_add_(0, receiver, scalar)
        for axis in range(3):
            vector = v[:, axis].index_select(0, sender).mul_(keep)
            vector.addcmul_(turn, direction[part, axis, None])
            mv[:, axis].index_add_(0, receiver, vector)
    return m, mv


def in_rows(summands: Summands) -> tuple[Tensor, Tensor]:
    """Sums as from `in_blocks`, by a compiled kernel, for many rows of edges at a time."""
    s, v, coefficients, place, direction, gate, graph = summands.in_one_type()
    n, f = len(v), v.shape[-1]
    m, mv = v.new_zeros(n, f), v.new_zeros(n, 3, f)
    size = int(ROWS_BYTES.get(v.device.type, 8e6) / (4 * f * v.element_size()))
    for start in range(0, len(graph.rows.owner), size):
        owner, edge, valid = (column[start : start + size] for column in graph.rows)
        inputs = () if gate is None else (gate.invariants[edge], gate.weight.T.contiguous(), gate.bias)
        weights = place.weights[edge] * valid.unsqueeze(-1).to(v)
        scalar, *vector = row_sums(f)(
            s, v, coefficients, graph.sender[edge], place.knot[edge], weights, direction[edge], *inputs
        )
        m.index_add_(0, owner, scalar)
        mv.index_add_(0, owner, torch.stack(vector, dim=1))
    return m, mv


def compiles(features: int, inputs: int, like: Tensor) -> bool:
    """Compile `in_rows` for F features, on the device and in the type of ``like``; see `runs`.

    ``inputs`` is the number A of inputs of the gate; 0 without a gate.
    """
    n, rows, f = 3, 5, features
    places = torch.zeros(rows, ROW, dtype=torch.int64, device=like.device)
    gate = () if not inputs else ((rows, ROW, inputs), (inputs, 3 * f), (3 * f,))
    rest = [like.new_zeros(shape) for shape in ((rows, ROW, 4), (rows, ROW, 3), *gate)]
    floats = [like.new_zeros(shape) for shape in ((n, 3 * f), (n, 3, f), (7, 3 * f))]
    return runs(lambda: row_sums(features)(*floats, places, places, *rest))


def runs(kernel: Callable[[], object]) -> bool:
    """Call a kernel, which compiles it; return False with a warning if that fails, e.g. without compiler."""
    try:
        with torch.inference_mode():
            kernel()
    except Exception as error:  # whatever a missing or broken compiler leads to
        warnings.warn(
            f"kernels cannot be compiled here, so the model runs without them: {error}", stacklevel=3
        )
        return False
    return True


@cache
def row_sums(features: int) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Compiled sums over rows, for F features and any number of atoms and rows.

    They return scalars and the three components of vectors, each ``(M, F)``. Columns and components are
    written out, so that the compiler makes a single loop.
    """

    def sums(
        s: Tensor,
        v: Tensor,
        coefficients: Tensor,
        sender: Tensor,
        knot: Tensor,
        weights: Tensor,
        direction: Tensor,
        inputs: Tensor | None = None,
        gate_weight: Tensor | None = None,
        gate_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def factor(column: int) -> Tensor:  # (M, ROW, F)
            part = slice(column * features, (column + 1) * features)
            table = coefficients[:, part]
            weight = weights[..., 0, None] * table[knot]
            for k in range(1, 4):
                weight = weight + weights[..., k, None] * table[knot + k]
            if inputs is not None and gate_weight is not None and gate_bias is not None:
                inner = gate_bias[part]
                for k in range(inputs.shape[-1]):
                    inner = inner + inputs[..., k, None] * gate_weight[k, part]
                weight = weight * 2 * torch.sigmoid(2 * functional.silu(inner))
            return weight * s[:, part][sender]

        scalar, keep, turn = factor(0), factor(1), factor(2)
        x, y, z = (
            (v[:, axis][sender] * keep + turn * direction[..., axis, None]).sum(1) for axis in range(3)
        )
        return scalar.sum(1), x, y, z

    return torch.compile(sums, dynamic=True)
