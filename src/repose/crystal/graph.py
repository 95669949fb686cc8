"""Periodic neighbour graphs of batches of crystals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch, starts
from repose.crystal.batching import batches_by_cost
from repose.crystal.lattice import to_cartesian, to_fractional
from repose.crystal.neighbours import (
    LARGEST_CRYSTAL,
    SHELL_WIDTH,
    has_kernel,
    neighbours,
    neighbours_in_small_cells,
)
from repose.errors import ConfigError

# Cell shifts of Matformer's self-connecting edges (E3Relax, section "Materials Graph Representation").
SELF_IMAGES = ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))

CANDIDATES = 20_000_000  # pairs and images measured at once, some 100 bytes each

Search = Literal["cells", "pairs", "native"]

# Length of rows of edges: fixed, so that loops are unrolled, and short, so that few slots are empty.
ROW = 8


class Rows(NamedTuple):
    """Edges grouped by receiver or by sender, in rows of fixed length.

    Attributes:
        owner: Atom of every row, ``(M,)`` int64, ascending.
        edge: Edges of every row, ``(M, ROW)`` int64; the last row of an atom is padded.
        valid: 1 for an edge, 0 for padding, ``(M, ROW)`` float.
    """

    owner: Tensor
    edge: Tensor
    valid: Tensor

    @classmethod
    def of(cls, atom: Tensor, n_atoms: int) -> Rows:
        """Return rows of edges that are sorted by their atom, ``(E,)``."""
        count = torch.bincount(atom, minlength=n_atoms)
        rows = (count + ROW - 1) // ROW
        owner = torch.repeat_interleave(torch.arange(n_atoms, device=atom.device), rows)
        within = torch.arange(len(owner), device=atom.device) - (rows.cumsum(0) - rows)[owner]
        end = count.cumsum(0)
        edge = (end - count)[owner, None] + ROW * within[:, None] + torch.arange(ROW, device=atom.device)
        valid = edge < end[owner, None]
        return cls(owner, torch.where(valid, edge, 0), valid.to(torch.get_default_dtype()))


class Edges(NamedTuple):
    """Receivers and senders ``(E,)``, shifts ``(E, 3)`` and distances in A ``(E,)``, both in float64."""

    receiver: Tensor
    sender: Tensor
    shift: Tensor
    distance: Tensor

    def take(self, index: Tensor | slice) -> Edges:
        """Select edges by indices, a mask or a slice."""
        return Edges(*(column[index] for column in self))


@dataclass(frozen=True, eq=False)
class PeriodicGraph:
    """Directed edges j -> i between the atoms of a batch; geometry is left to `edge_vectors`.

    E edges in all, sorted by receiver. An edge and its reverse are both present, except where a cap
    on neighbours or self-connecting edges keep only one of them.

    Attributes:
        receiver: Atom i that receives the message, ``(E,)`` int64, ascending.
        sender: Atom j that sends it, ``(E,)`` int64.
        shift: Cell shift k of the sender's image, ``(E, 3)`` float of whole numbers.
        system_index: Crystal of every edge, ``(E,)`` int64.
        n_atoms: Atoms of the batch.
    """

    receiver: Tensor
    sender: Tensor
    shift: Tensor
    system_index: Tensor
    n_atoms: int

    @property
    def n_edges(self) -> int:
        """Number of directed edges E."""
        return len(self.receiver)

    @cached_property
    def start(self) -> Tensor:
        """First edge of every receiver, and the number of edges, ``(N + 1,)`` int64."""
        return starts(self.receiver, self.n_atoms)

    @cached_property
    def rows(self) -> Rows:
        """Edges grouped by receiver."""
        return Rows.of(self.receiver, self.n_atoms)

    @cached_property
    def rows_by_sender(self) -> Rows:
        """Edges grouped by sender."""
        order = torch.argsort(self.sender, stable=True)
        rows = Rows.of(self.sender[order], self.n_atoms)
        return rows._replace(edge=order[rows.edge])

    @classmethod
    def joined(cls, graphs: Sequence[PeriodicGraph], n_crystals: Sequence[int]) -> PeriodicGraph:
        """Join the graphs of consecutive batches of ``n_crystals`` crystals."""
        atoms = np.cumsum([0, *(graph.n_atoms for graph in graphs)]).tolist()
        crystals = np.cumsum([0, *n_crystals]).tolist()
        return cls(
            receiver=torch.cat([graph.receiver + first for graph, first in zip(graphs, atoms, strict=False)]),
            sender=torch.cat([graph.sender + first for graph, first in zip(graphs, atoms, strict=False)]),
            shift=torch.cat([graph.shift for graph in graphs]),
            system_index=torch.cat(
                [graph.system_index + first for graph, first in zip(graphs, crystals, strict=False)]
            ),
            n_atoms=atoms[-1],
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PeriodicGraph:
        """The same graph on another device, shifts in another floating-point type."""
        return PeriodicGraph(
            self.receiver.to(device),
            self.sender.to(device),
            self.shift.to(device, dtype),
            self.system_index.to(device),
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
    offset = to_cartesian(graph.shift, cells, graph.system_index)
    return positions[graph.sender] + offset - positions[graph.receiver]


def periodic_graph(
    batch: CrystalBatch,
    cutoff: float,
    max_neighbours: int | None = None,
    *,
    ties: str = "shell",
    self_images: bool = False,
    within_cell: int = 0,
    search: Search | None = None,
) -> PeriodicGraph:
    """Neighbours of every atom within a cutoff, for all crystals of a batch.

    Args:
        batch: The crystals.
        cutoff: Largest distance of neighbours in A; may exceed the cell.
        max_neighbours: Keep this many nearest neighbours of every atom; None keeps all.
        ties: Rule for a limit inside a shell of equal distances. ``"shell"`` keeps the whole shell, so that
            the graph has the symmetry of the crystal (a deviation from the papers). ``"order"`` keeps exactly
            ``max_neighbours``, the first by (distance, sender, shift).
        self_images: Replace edges between an atom and its own images by the six of `SELF_IMAGES`,
            at any distance (Matformer; Yan et al. 2022).
        within_cell: Unless 0, replace edges within the cell as given by those to this many nearest atoms of
            it, at any distance, ties as above (the released code of DeepRelax).
        search: ``"cells"``: crystal by crystal on the CPU (vesin). ``"pairs"``: all pairs of atoms of all
            crystals at once, on the batch's device. ``"native"``: the same by a kernel in C on the CPU. By
            default cells for large crystals, else pairs on a GPU and the kernel on a CPU, if it compiles.

    Returns:
        The graph, on the batch's device. Distances are found in float64.

    Raises:
        ConfigError: ``cutoff`` or ``max_neighbours`` is not positive, or ``ties`` is unknown.
    """
    if cutoff <= 0 or (max_neighbours is not None and max_neighbours < 1):
        raise ConfigError(f"cutoff and max_neighbours must be positive; got {cutoff} and {max_neighbours}.")
    if ties not in ("shell", "order"):
        raise ConfigError(f"ties must be 'shell' or 'order'; got {ties!r}.")
    if search is None:
        small = int(batch.counts.max()) <= LARGEST_CRYSTAL
        on_cpu: Search = "native" if batch.device.type == "cpu" and has_kernel() else "cells"
        search = "cells" if not small else "pairs" if batch.device.type == "cuda" else on_cpu
    reach = cutoff + SHELL_WIDTH
    found = {"cells": _neighbours, "pairs": neighbours_by_pairs, "native": _neighbours_natively}[search](
        batch, reach
    )
    if self_images:
        found = _with_self_images(found, batch)
    if self_images or search != "native":
        found = _sorted(found)
    if max_neighbours is not None:
        found = _nearest(found, max_neighbours, ties)
    if within_cell:
        inside = _nearest(_sorted(_pairs_of_cells(batch)), within_cell, ties)
        beyond = found.take((found.shift != 0).any(dim=1))
        found = _sorted(Edges(*(torch.cat(columns) for columns in zip(inside, beyond, strict=True))))
    return PeriodicGraph(
        receiver=found.receiver,
        sender=found.sender,
        shift=found.shift.to(batch.dtype),
        system_index=batch.system_index[found.receiver],
        n_atoms=batch.n_atoms,
    )


def _neighbours(batch: CrystalBatch, reach: float) -> Edges:
    """All pairs within reach, crystal by crystal."""
    parts = []
    first = 0
    for positions, cell, pbc in _geometries(batch):
        receiver, sender, shift, distance = neighbours(positions, cell, pbc, reach)
        parts.append((receiver + first, sender + first, shift, distance))
        first += len(positions)
    columns = (torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True))
    return Edges(*(column.to(batch.device) for column in columns))


def _neighbours_natively(batch: CrystalBatch, reach: float) -> Edges:
    """All pairs within reach, sorted as by `_sorted`."""
    positions, cells = (part.detach().double().numpy() for part in (batch.positions, batch.cells))
    found = neighbours_in_small_cells(batch.start.numpy(), positions, cells, batch.pbc.numpy(), reach)
    return Edges(*map(torch.from_numpy, found))


def neighbours_by_pairs(batch: CrystalBatch, reach: float) -> Edges:
    """Find all pairs within ``reach`` in A by measuring all pairs and images, on the batch's device."""
    cells = batch.cells.double()
    fractional = to_fractional(batch.positions.double(), cells, batch.system_index)
    home = torch.where(batch.pbc[batch.system_index], fractional.floor(), 0.0)
    wrapped = to_cartesian(fractional - home, cells, batch.system_index)
    # Wrapped atoms differ by less than a cell, so that images up to reach / height + 1 cells away count.
    heights = 1 / torch.linalg.inv(cells).norm(dim=1)
    images = torch.where(batch.pbc, (reach / heights).floor() + 1, 0.0).long()  # (S, 3), to either side
    per_pair = (2 * images + 1).prod(dim=1)
    candidates = batch.counts**2 * per_pair
    first = batch.counts.cumsum(0) - batch.counts
    parts = []
    sizes = candidates.tolist()
    for part in batches_by_cost(range(len(sizes)), sizes.__getitem__, CANDIDATES):
        some = torch.tensor(part, device=batch.device)
        number = candidates[some]
        crystal = torch.repeat_interleave(some, number)
        index = torch.arange(len(crystal), device=batch.device) - torch.repeat_interleave(
            number.cumsum(0) - number, number
        )
        # Split the index of a candidate into image, receiver and sender.
        width = 2 * images[crystal] + 1
        index, z = index // width[:, 2], index % width[:, 2]
        index, y = index // width[:, 1], index % width[:, 1]
        index, x = index // width[:, 0], index % width[:, 0]
        shift = torch.stack([x, y, z], dim=1) - images[crystal]
        size = batch.counts[crystal]
        receiver, sender = first[crystal] + index // size, first[crystal] + index % size
        offset = to_cartesian(shift.double(), cells, crystal)
        distance = (wrapped[sender] + offset - wrapped[receiver]).norm(dim=1)
        near = (distance <= reach) & ((receiver != sender) | (shift != 0).any(dim=1))
        parts.append(Edges(receiver[near], sender[near], shift[near].double(), distance[near]))
    receiver, sender, shift, distance = (torch.cat(column) for column in zip(*parts, strict=True))
    return Edges(receiver, sender, shift + home[receiver] - home[sender], distance)


def _geometries(batch: CrystalBatch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions, cell and pbc of every crystal as float64 arrays."""
    positions = batch.positions.detach().cpu().double().numpy()
    cells = batch.cells.detach().cpu().double().numpy()
    pbc = batch.pbc.cpu().numpy()
    borders = np.cumsum(batch.counts.tolist())[:-1]
    return list(zip(np.split(positions, borders), cells, pbc, strict=True))


def _with_self_images(found: Edges, batch: CrystalBatch) -> Edges:
    """Replace plain self edges by the six self-images along periodic directions."""
    images = torch.tensor(SELF_IMAGES, device=batch.device)
    allowed = (batch.pbc.unsqueeze(1) | (images == 0)).all(dim=-1)  # (S, 6)
    atoms, image = allowed[batch.system_index].nonzero(as_tuple=True)
    plain = found.receiver != found.sender
    # Distance -1 marks them: the limit on neighbours counts other atoms only.
    return Edges(
        torch.cat([found.receiver[plain], atoms]),
        torch.cat([found.sender[plain], atoms]),
        torch.cat([found.shift[plain], images[image].to(found.shift)]),
        torch.cat([found.distance[plain], found.distance.new_full((len(atoms),), -1.0)]),
    )


def _pairs_of_cells(batch: CrystalBatch) -> Edges:
    """All pairs of different atoms of a crystal as given, without images."""
    atoms = torch.arange(batch.n_atoms, device=batch.device)
    receiver = torch.repeat_interleave(atoms, batch.counts[batch.system_index])
    before = batch.counts.square().cumsum(0) - batch.counts.square()
    within = torch.arange(len(receiver), device=batch.device) - before[batch.system_index[receiver]]
    crystal = batch.system_index[receiver]
    sender = batch.start[crystal] + within % batch.counts[crystal]
    receiver, sender = receiver[receiver != sender], sender[receiver != sender]
    positions = batch.positions.double()
    distance = (positions[sender] - positions[receiver]).norm(dim=1)
    return Edges(receiver, sender, distance.new_zeros(len(receiver), 3), distance)


def _sorted(found: Edges) -> Edges:
    """Edges sorted by receiver, distance, sender and shift."""
    if not len(found.receiver):
        return found
    # Rounding makes equal distances compare equal, so that the order below does not depend on noise.
    shell = (found.distance / SHELL_WIDTH).round().long().clamp(min=-1) + 1
    shift = found.shift.long()
    shift = shift - shift.amin(dim=0)
    widths = shift.amax(dim=0) + 1
    code = (shift[:, 0] * widths[1] + shift[:, 1]) * widths[2] + shift[:, 2]
    order = torch.argsort(found.sender * widths.prod() + code)
    key = (found.receiver * (shell.max() + 1) + shell)[order]
    return found.take(order[torch.argsort(key, stable=True)])


def _nearest(found: Edges, max_neighbours: int, ties: str) -> Edges:
    """Edges to keep, of those from `_sorted`."""
    if not len(found.receiver):
        return found
    receiver, distance = found.receiver, found.distance
    own = distance < 0
    n = int(receiver.max()) + 1
    # Place among the neighbours of one receiver, self-images left out: they come first.
    count, images = torch.bincount(receiver, minlength=n), torch.bincount(receiver[own], minlength=n)
    before = count.cumsum(0) - count + images
    keep = own | (torch.arange(len(receiver), device=receiver.device) - before[receiver] < max_neighbours)
    if ties == "shell":
        # Distance of the last neighbour within the limit, per receiver.
        border = distance.new_full((n,), -1.0).scatter_reduce(0, receiver[keep], distance[keep], "amax")
        keep |= distance <= border[receiver] + SHELL_WIDTH
    return found.take(keep)
