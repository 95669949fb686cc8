"""Lengths, directions and places of edges by kernels in C, for inference on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from repose import native
from repose.crystal.graph import PeriodicGraph
from repose.nn.kernels.radial_tables import BEFORE, Place, last_knot, spacing
from repose.nn.radial import GaussianBasis

SOURCE = "nn/kernels/edges.c"
NUMBERS = 20  # that the kernels read and write per edge


def compiles(real: torch.dtype) -> bool:
    """Return whether the kernels can be compiled here; compiles them."""
    return native.library(SOURCE, str(real)) is not None


def geometry(
    graph: PeriodicGraph, positions: Tensor, cells: Tensor, real: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Lengths in A ``(E,)`` and unit vectors ``(E, 3)`` of edges, as `repose.nn.messages.EdgeGeometry`.

    Args:
        graph: The edges.
        positions: A, ``(N, 3)``.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
        real: Type of the result.
    """
    length = torch.empty(graph.n_edges, dtype=real)
    unit = torch.empty(graph.n_edges, 3, dtype=real)
    floats = [part.double().contiguous() for part in (graph.shift, positions, cells)]
    edges = (graph.start, graph.sender, floats[0], graph.system_index.contiguous(), *floats[1:])
    function = native.library(SOURCE, str(real)).geometry
    native.call(function, native.ranges(graph.start, NUMBERS), *edges, length, unit)
    return length, unit


def places(
    length: Tensor, radius: Tensor, inside: Tensor, graph: PeriodicGraph, radial: GaussianBasis
) -> Place:
    """Places in a spline of the lengths of edges minus the radii of both atoms, or of 0 if that is negative.

    Args:
        length: Of edges in A, ``(E,)``.
        radius: Of atoms in A, ``(N,)``.
        inside: Factor on the weights, ``(E,)``.
        graph: The edges.
        radial: Radial basis of the spline.
    """
    knot = torch.empty(len(length), dtype=torch.int64)
    weights = length.new_empty(len(length), 4)
    scale = length.new_tensor([1 / spacing(radial), BEFORE, last_knot(radial)])
    arrays = (part.to(length).contiguous() for part in (length, radius, inside))
    function = native.library(SOURCE, str(length.dtype)).places
    parts = native.ranges(graph.start, NUMBERS)
    native.call(function, parts, scale, graph.start, graph.sender, *arrays, knot, weights)
    return Place(knot, weights)
