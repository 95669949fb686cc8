"""Starting geometry of a forward pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from repose.config import GraphSettings, NetworkSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph, periodic_graph
from repose.crystal.lattice import thickest_slab, to_cartesian, to_fractional, volume
from repose.nn.ops import segment_sum

# A slab without atoms that is thicker than this begins to count as vacuum, and does from RAMP more on; a gap
# between van der Waals layers has some 3 A.
VACUUM, RAMP = 8.0, 1.0  # A


def initial_structure(
    batch: CrystalBatch, settings: NetworkSettings, atomic_volumes: Tensor
) -> tuple[CrystalBatch, PeriodicGraph]:
    """Starting geometry by the settings ``start`` and ``graph``, and its graph; see `rescale_volume`."""
    if settings.start == "rescaled":
        batch = rescale_volume(batch, atomic_volumes)
    return batch, build_graph(batch, settings.graph)


def wrap_far_atoms(batch: CrystalBatch) -> tuple[CrystalBatch, Tensor]:
    """Wrap atoms that are more than one cell outside of theirs, to keep digits in single precision.

    Returns:
        The crystals, and the cell shifts that were subtracted, ``(N, 3)``; 0 for atoms left in place.
    """
    fractional = to_fractional(batch.positions, batch.cells, batch.system_index)
    far = ((fractional < -1) | (fractional > 2)) & batch.pbc[batch.system_index]
    shift = torch.where(far, fractional.floor(), 0.0)
    wrapped = batch.positions - to_cartesian(shift, batch.cells, batch.system_index)
    return batch.with_geometry(wrapped, batch.cells), shift


def build_graph(batch: CrystalBatch, settings: GraphSettings) -> PeriodicGraph:
    """Return the neighbour graph of a batch; see `repose.crystal.graph.periodic_graph`."""
    s = settings
    return periodic_graph(
        batch,
        s.cutoff,
        s.max_neighbours,
        ties=s.ties,
        self_images=s.self_images,
        within_cell=s.within_cell,
    )


def rescale_volume(batch: CrystalBatch, atomic_volumes: Tensor) -> CrystalBatch:
    """Scale crystals isotropically to the volume predicted from their composition; see `volume_ratio`."""
    scale = volume_ratio(batch, atomic_volumes).pow(1 / 3)
    return batch.with_geometry(
        batch.positions * scale[batch.system_index, None], batch.cells * scale[:, None, None]
    )


def volume_ratio(batch: CrystalBatch, atomic_volumes: Tensor) -> Tensor:
    """Volume predicted from composition over that of the cell, ``(S,)``.

    It is 1 for crystals with an element without a fitted volume, and for sheets, wires and slabs, whose cell
    contains vacuum; see `bulk_share`.

    Args:
        batch: Input crystals.
        atomic_volumes: A^3 per atom by atomic number, zero where unknown.
    """
    volumes = atomic_volumes.to(batch.positions)[batch.numbers]
    guess = segment_sum(volumes, batch.system_index, batch.n_crystals)
    unknown = segment_sum((volumes <= 0).to(batch.dtype), batch.system_index, batch.n_crystals) > 0
    return torch.where(unknown, 1.0, guess / volume(batch.cells)).pow(bulk_share(batch))


def bulk_share(batch: CrystalBatch) -> Tensor:
    """Return 1 for bulk crystals and 0 for cells with vacuum, ``(S,)``.

    Vacuum is a direction that is not periodic, or a slab without atoms. The share falls smoothly from a
    thickness of `VACUUM` on over the next `RAMP`.
    """
    share = batch.pbc.all(dim=1).to(batch.cells)
    if bool((batch.cells.norm(dim=-1) > VACUUM).any()):  # no slab is thicker than the longest lattice vector
        empty = thickest_slab(batch.positions, batch.cells, batch.system_index, VACUUM)
        x = (1 - (empty - VACUUM) / RAMP).clamp(0, 1)
        share = share * x * x * (3 - 2 * x)
    return share


def is_bulk(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
    """Return whether the volume of a crystal follows from its composition: its cell holds no vacuum.

    Args:
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        pbc: Periodic directions, ``(3,)``.
    """
    crystal = CrystalBatch.single(np.ones(len(positions), dtype=np.int64), positions, cell, pbc)
    return bool(bulk_share(crystal)[0] == 1)
