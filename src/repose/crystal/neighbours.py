"""Neighbour search in one periodic crystal, in numpy float64 (vesin)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


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
        The pairs, in the order of the search.
    """
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
