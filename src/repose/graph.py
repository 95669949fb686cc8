"""Periodic neighbours of a whole batch of crystals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystals import CrystalBatch
from repose.errors import ConfigError
from repose.lattice import to_cartesian

# Distances closer than this belong to one shell; also the width by which a cutoff is widened, so that
# a neighbour exactly at the cutoff does not come and go with rounding.
SHELL_WIDTH = 1e-4  # A

# Cell shifts of Matformer's self-connecting edges (E3Relax, section "Materials Graph Representation").
SELF_IMAGES = ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))


# Edges of one receiver are reduced in rows of so many: a fixed length can be unrolled, little stays empty.
ROW = 8


class Rows(NamedTuple):
    """The edges of every atom, those it receives or those it sends, in rows of fixed length.

    Attributes:
        owner: Atom of every row, ``(M,)`` int64, ascending.
        edge: Edges of every row, ``(M, ROW)`` int64; the last row of an atom is filled up.
        valid: 1 for an edge, 0 for filling, ``(M, ROW)`` float.
    """

    owner: Tensor
    edge: Tensor
    valid: Tensor

    @classmethod
    def of(cls, atom: Tensor, n_atoms: int) -> Rows:
        """Rows of edges sorted by an atom, ``(E,)``."""
        count = torch.bincount(atom, minlength=n_atoms)
        rows = (count + ROW - 1) // ROW
        owner = torch.repeat_interleave(torch.arange(n_atoms, device=atom.device), rows)
        within = torch.arange(len(owner), device=atom.device) - (rows.cumsum(0) - rows)[owner]
        end = count.cumsum(0)
        edge = (end - count)[owner, None] + ROW * within[:, None] + torch.arange(ROW, device=atom.device)
        valid = edge < end[owner, None]
        return cls(owner, torch.where(valid, edge, 0), valid.to(torch.get_default_dtype()))


@dataclass(frozen=True, eq=False)
class PeriodicGraph:
    """Directed edges j -> i between the atoms of a batch; geometry is left to `edge_vectors`.

    E edges in all, sorted by receiver. An edge and its reverse are both present, except where a cap
    on neighbours or self-connecting edges keep only one of them.

    Attributes:
        receiver: Atom i that receives the message, ``(E,)`` int64, ascending.
        sender: Atom j that sends it, ``(E,)`` int64.
        shift: Cell shift k of the sender's image, ``(E, 3)`` float of whole numbers.
        crystal: Crystal of every edge, ``(E,)`` int64.
        n_atoms: Atoms of the batch.
    """

    receiver: Tensor
    sender: Tensor
    shift: Tensor
    crystal: Tensor
    n_atoms: int

    @property
    def n_edges(self) -> int:
        """Number of directed edges E."""
        return len(self.receiver)

    @cached_property
    def rows(self) -> Rows:
        """The edges that every atom receives."""
        return Rows.of(self.receiver, self.n_atoms)

    @cached_property
    def rows_by_sender(self) -> Rows:
        """The edges that every atom sends."""
        order = torch.argsort(self.sender, stable=True)
        rows = Rows.of(self.sender[order], self.n_atoms)
        return rows._replace(edge=order[rows.edge])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PeriodicGraph:
        """The same graph on another device, shifts in another floating-point type."""
        return PeriodicGraph(
            self.receiver.to(device),
            self.sender.to(device),
            self.shift.to(device, dtype),
            self.crystal.to(device),
            self.n_atoms,
        )


def edge_vectors(graph: PeriodicGraph, positions: Tensor, cells: Tensor) -> Tensor:
    """Vectors from receiver to sender, ``d_ij = r_j + k @ cell - r_i``.

    Args:
        graph: The edges.
        positions: Cartesian positions in A, ``(N, 3)``; they may differ from those the graph was built at.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.

    Returns:
        Vectors in A, ``(E, 3)``.
    """
    offset = to_cartesian(graph.shift, cells, graph.crystal)
    return positions[graph.sender] + offset - positions[graph.receiver]


def periodic_graph(
    batch: CrystalBatch,
    cutoff: float,
    max_neighbours: int | None = None,
    *,
    ties: str = "shell",
    self_images: bool = False,
) -> PeriodicGraph:
    """Neighbours of every atom within a cutoff, for all crystals of a batch.

    Args:
        batch: The crystals.
        cutoff: Largest distance of neighbours in A; may exceed the cell.
        max_neighbours: Keep this many nearest neighbours of every atom; None keeps all.
        ties: What happens where the cap falls inside a shell of equal distances. ``"shell"`` keeps the
            whole shell, so that the graph has the crystal's symmetry (a deviation from the papers).
            ``"order"`` keeps exactly ``max_neighbours``, the first by (distance, sender, shift).
        self_images: Replace edges between an atom and its own images by the six of `SELF_IMAGES`,
            at any distance (Matformer; Yan et al. 2022).

    Returns:
        The graph, on the batch's device. Distances are found in float64 on the CPU by vesin.

    Raises:
        ConfigError: ``cutoff`` or ``max_neighbours`` is not positive, or ``ties`` is unknown.
    """
    if cutoff <= 0 or (max_neighbours is not None and max_neighbours < 1):
        raise ConfigError(f"cutoff and max_neighbours must be positive; got {cutoff} and {max_neighbours}.")
    if ties not in ("shell", "order"):
        raise ConfigError(f"ties must be 'shell' or 'order'; got {ties!r}.")

    parts = []
    first = 0
    for crystal, (positions, cell, pbc) in enumerate(_geometries(batch)):
        receiver, sender, shift, distance = _neighbours(positions, cell, pbc, cutoff)
        if self_images:
            receiver, sender, shift, distance = _with_self_images(
                receiver, sender, shift, distance, pbc, len(positions)
            )
        keep = _nearest(receiver, sender, shift, distance, max_neighbours, ties)
        receiver, sender, shift = receiver[keep], sender[keep], shift[keep]
        parts.append((receiver + first, sender + first, shift, np.full(len(receiver), crystal)))
        first += len(positions)

    receiver, sender, shift, crystals = (np.concatenate(column) for column in zip(*parts, strict=True))
    return PeriodicGraph(
        receiver=torch.from_numpy(receiver).to(batch.device),
        sender=torch.from_numpy(sender).to(batch.device),
        shift=torch.from_numpy(shift).to(batch.device, batch.dtype),
        crystal=torch.from_numpy(crystals).to(batch.device),
        n_atoms=batch.n_atoms,
    )


def _geometries(batch: CrystalBatch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions, cell and pbc of every crystal as float64 arrays."""
    positions = batch.positions.detach().cpu().double().numpy()
    cells = batch.cells.detach().cpu().double().numpy()
    pbc = batch.pbc.cpu().numpy()
    borders = np.cumsum(batch.counts.tolist())[:-1]
    return list(zip(np.split(positions, borders), cells, pbc, strict=True))


def _neighbours(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Receivers, senders, shifts and distances of all pairs within the cutoff."""
    from vesin import NeighborList

    # Wrapped positions keep vesin's shifts small for atoms that lie many cells away.
    fractional = positions @ np.linalg.inv(cell)
    home = np.where(pbc, np.floor(fractional), 0.0)
    search = NeighborList(cutoff=cutoff + SHELL_WIDTH, full_list=True, n_threads=1)
    receiver, sender, shift, distance = search.compute(
        points=(fractional - home) @ cell, box=cell, periodic=pbc, quantities="ijSd"
    )
    receiver, sender = receiver.astype(np.int64), sender.astype(np.int64)
    shift = shift + home[receiver] - home[sender]
    return receiver, sender, shift, distance


def _with_self_images(
    receiver: np.ndarray,
    sender: np.ndarray,
    shift: np.ndarray,
    distance: np.ndarray,
    pbc: np.ndarray,
    n_atoms: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Replace plain self edges by the six self-images along periodic directions."""
    plain = receiver != sender
    images = np.array(
        [k for k in SELF_IMAGES if all(p or not s for p, s in zip(pbc, k, strict=True))], dtype=float
    )
    images = images.reshape(-1, 3)
    atoms = np.repeat(np.arange(n_atoms), len(images))
    # Distance -1 marks them as always kept by the cap on neighbours, which counts other atoms.
    return (
        np.concatenate([receiver[plain], atoms]),
        np.concatenate([sender[plain], atoms]),
        np.concatenate([shift[plain], np.tile(images, (n_atoms, 1))]),
        np.concatenate([distance[plain], np.full(len(atoms), -1.0)]),
    )


def _nearest(
    receiver: np.ndarray,
    sender: np.ndarray,
    shift: np.ndarray,
    distance: np.ndarray,
    max_neighbours: int | None,
    ties: str,
) -> np.ndarray:
    """Indices of the edges to keep, sorted by receiver and then by distance."""
    # Rounding makes equal distances compare equal, so that the order below does not depend on noise.
    shell = np.round(distance / SHELL_WIDTH)
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], sender, shell, receiver))
    if max_neighbours is None or len(order) == 0:
        return order
    sorted_receiver, sorted_distance = receiver[order], distance[order]
    self_image = sorted_distance < 0
    starts = np.searchsorted(sorted_receiver, sorted_receiver)
    rank = np.arange(len(order)) - starts - _count_before(self_image, starts)
    keep = self_image | (rank < max_neighbours)
    if ties == "shell":
        # The distance of the last neighbour that the cap lets in, per receiver.
        border = np.full(sorted_receiver.max() + 1, -1.0)
        np.maximum.at(border, sorted_receiver[keep], sorted_distance[keep])
        keep |= sorted_distance <= border[sorted_receiver] + SHELL_WIDTH
    return order[keep]


def _count_before(flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """How many flags are set between the start of an edge's receiver and the edge itself."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return total[:-1] - total[starts]
