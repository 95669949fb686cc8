"""Where a forward pass begins."""

from __future__ import annotations

import torch
from torch import Tensor

from repose.config import GraphSettings, NetworkSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph, periodic_graph
from repose.crystal.lattice import reduced, to_cartesian, to_fractional, vacuum_thickness, volume
from repose.nn.ops import segment_sum

# An empty slab thicker than this is vacuum on purpose: a van der Waals gap has some 3 A between atoms.
VACUUM = 8.0  # A


def initial_structure(
    batch: CrystalBatch, settings: NetworkSettings, atomic_volumes: Tensor
) -> tuple[CrystalBatch, PeriodicGraph]:
    """Starting geometry and its graph, as `repose.models.network.Network.prepare` gives them.

    Args:
        batch: Crystals as the user gave them.
        settings: Of the network: where it starts, and how neighbours are found.
        atomic_volumes: A^3 per atom by atomic number, zero where unknown.
    """
    if settings.start == "rescaled":
        batch = rescale_volume(batch, atomic_volumes)
    return batch, build_graph(batch, settings.graph)


def wrap_far_atoms(batch: CrystalBatch) -> tuple[CrystalBatch, Tensor]:
    """The same crystals with no atom far from its cell, where single precision would lose digits.

    Args:
        batch: Crystals as the user gave them.

    Returns:
        The crystals, and by how many cells each atom was moved back: 0 where it lay no more than a cell
        outside, ``(N, 3)``.
    """
    fractional = to_fractional(batch.positions, batch.cells, batch.system_index)
    far = ((fractional < -1) | (fractional > 2)) & batch.pbc[batch.system_index]
    home = torch.where(far, fractional.floor(), 0.0)
    moved = batch.positions - to_cartesian(home, batch.cells, batch.system_index)
    return batch.with_geometry(moved, batch.cells), home


def build_graph(batch: CrystalBatch, settings: GraphSettings) -> PeriodicGraph:
    """Neighbours of a batch as it stands; see `repose.crystal.graph.periodic_graph`."""
    return periodic_graph(
        batch,
        settings.cutoff,
        settings.max_neighbours,
        ties=settings.ties,
        self_images=settings.self_images,
    )


def rescale_volume(batch: CrystalBatch, atomic_volumes: Tensor) -> CrystalBatch:
    """The same crystals, scaled isotropically to the volume that their composition suggests.

    What stays as it is: crystals with an element that has no fitted volume, and sheets, wires and slabs,
    whose cell holds vacuum.

    Args:
        batch: Crystals as the user gave them.
        atomic_volumes: A^3 per atom by atomic number, zero where unknown.
    """
    volumes = atomic_volumes.to(batch.positions)[batch.numbers]
    guess = segment_sum(volumes, batch.system_index, batch.n_crystals)
    ratio = guess / volume(batch.cells)
    unknown = segment_sum((volumes <= 0).to(batch.dtype), batch.system_index, batch.n_crystals) > 0
    empty = vacuum_thickness(batch.positions, reduced(batch.cells), batch.system_index).amax(dim=1)
    vacuum = ~batch.pbc.all(dim=1) | (empty > VACUUM)
    scale = torch.where(unknown | vacuum, 1.0, ratio).pow(1 / 3)
    return batch.with_geometry(
        batch.positions * scale[batch.system_index, None], batch.cells * scale[:, None, None]
    )
