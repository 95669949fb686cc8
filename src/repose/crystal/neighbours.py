"""Neighbour search in periodic crystals, in numpy float64: a kernel in C for small crystals, else vesin."""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repose import native

# Largest crystal in which all pairs of atoms are measured; beyond, a cell list is faster.
LARGEST_CRYSTAL = 300  # atoms
# Distances that differ by less belong to one shell. Cutoffs of graphs are widened by it, so that rounding
# does not decide about neighbours at the cutoff.
SHELL_WIDTH = 1e-4  # A


class Neighbours(NamedTuple):
    """Pairs of neighbours j -> i of one crystal, P pairs.

    Attributes:
        receiver: Atom i, ``(P,)`` int64.
        sender: Atom j, ``(P,)`` int64.
        shift: Cell shift k of the sender's image, ``(P, 3)`` float64 of whole numbers; it applies to the
            positions as given, wrapped or not.
        distance: Length of ``r_j + k @ cell - r_i`` in A, ``(P,)``.
    """

    receiver: NDArray[np.int64]
    sender: NDArray[np.int64]
    shift: NDArray[np.float64]
    distance: NDArray[np.float64]

    def take(self, index: NDArray[np.bool_] | slice) -> Neighbours:
        """Select pairs by a mask or a slice."""
        return Neighbours(self.receiver[index], self.sender[index], self.shift[index], self.distance[index])


def neighbours(
    positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any], cutoff: float, *, half: bool = False
) -> Neighbours:
    """Find all pairs of atoms within a cutoff, periodic images included.

    Args:
        positions: A, ``(N, 3)``; they need not be wrapped.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)`` bool.
        cutoff: Largest distance in A; may exceed the cell.
        half: Return each pair in one direction only.

    Returns:
        The pairs, in no particular order.
    """
    if len(positions) <= LARGEST_CRYSTAL and has_kernel():
        found = neighbours_in_small_cells(np.array([0, len(positions)]), positions, cell, pbc, cutoff)
        if not half:
            return found
        i, j, (x, y, z) = found.receiver, found.sender, found.shift.T
        images = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
        return found.take((i < j) | ((i == j) & images))
    from vesin import NeighborList

    # Wrapped positions keep the shifts of the search small for atoms that lie many cells away.
    fractional = positions @ np.linalg.inv(cell)
    home = np.where(pbc, np.floor(fractional), 0.0)
    search = NeighborList(cutoff=cutoff, full_list=not half, n_threads=1)
    receiver, sender, shift, distance = search.compute(
        points=(fractional - home) @ cell, box=cell, periodic=pbc, quantities="ijSd"
    )
    receiver, sender = receiver.astype(np.int64), sender.astype(np.int64)
    return Neighbours(receiver, sender, shift + home[receiver] - home[sender], distance)


def has_kernel() -> bool:
    """Return whether the kernel for small crystals can be compiled here; compiles it."""
    return _library() is not None


def neighbours_in_small_cells(
    start: NDArray[np.int64], positions: NDArray[Any], cells: NDArray[Any], pbc: NDArray[Any], cutoff: float
) -> Neighbours:
    """Find all pairs of atoms of several crystals within a cutoff, by measuring all pairs and images.

    Args:
        start: First atom of every crystal, and the number of atoms, ``(S + 1,)``.
        positions: A, ``(N, 3)``.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
        pbc: Periodic directions, ``(S, 3)`` bool.
        cutoff: Largest distance in A.

    Returns:
        The pairs, sorted by receiver, distance in units of `SHELL_WIDTH`, sender and shift.
    """
    n, function = len(positions), _library().neighbours
    function.restype = ctypes.c_int64
    positions, cells = (np.ascontiguousarray(part, dtype=np.float64) for part in (positions, cells))
    given = (
        np.ascontiguousarray(start, dtype=np.int64),
        positions,
        cells,
        np.ascontiguousarray(pbc, dtype=np.uint8),
    )
    counts = np.diff(start)
    density = counts / np.abs(np.linalg.det(cells)).reshape(-1)
    capacity = 64 + int(1.3 * float((counts * density).sum()) * 4 / 3 * math.pi * cutoff**3)
    while True:  # until there is room for all pairs
        working = np.empty((2, n, 3)), np.empty((capacity, 6))
        ints, floats = np.empty((2, capacity), dtype=np.int64), (np.empty((capacity, 3)), np.empty(capacity))
        numbers = map(ctypes.c_int64, (len(start) - 1, capacity)), map(ctypes.c_double, (cutoff, SHELL_WIDTH))
        arrays = map(native.address, (*given, *working[0], working[1], *ints, *floats))
        found = function(*numbers[0], *numbers[1], *arrays)
        if found <= capacity:
            return Neighbours(ints[0], ints[1], floats[0], floats[1]).take(slice(found))
        capacity = found


def _library() -> Any:
    return native.library("crystal/neighbours.c")
