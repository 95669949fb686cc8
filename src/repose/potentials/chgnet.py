"""CHGNet, many crystals in one pass.

CHGNet's own calculator takes one crystal at a time, and its graphs are Python objects. Here the tensors
that its layers read are made for a whole batch at once, without a loop over bonds, and forces and
stresses come from one backward pass that keeps no graph for a second one.

Source: Deng et al., Nature Machine Intelligence 5, 1031 (2023). Weights come with the package `chgnet`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystals import CrystalBatch
from repose.errors import require
from repose.lattice import to_cartesian
from repose.potentials.base import Evaluation, Potential

# Heaviest element of its embedding.
HEAVIEST = 94
# Atoms beyond which larger batches gain nothing: on a CPU they leave the cache.
ROOM = {"cpu": 64, "cuda": 4000}


class Bonds(NamedTuple):
    """Bonds of a batch, each once: U bonds; bond u leads from atom ``first`` to an image of ``second``."""

    first: Tensor  # (U,) int64
    second: Tensor  # (U,) int64
    shift: Tensor  # (U, 3) cell shift of the second atom's image
    crystal: Tensor  # (U,) int64


class CHGNetPotential(Potential):
    """CHGNet, batched.

    Args:
        version: Weights by the name that the package gives them, e.g. ``"0.3.0"`` or ``"r2scan"``.
        device: Where it computes.

    Raises:
        MissingExtraError: The package ``chgnet`` is not installed.
    """

    def __init__(self, version: str = "0.3.0", device: torch.device | str = "cpu") -> None:
        require("chgnet", "the calculator CHGNet")
        from chgnet.model.model import CHGNet

        self.name = f"CHGNet {version}"
        self.elements = range(1, HEAVIEST + 1)
        self.device = torch.device(device)
        self.room = ROOM[self.device.type]
        # Loaded on the CPU first: its own choice of device looks at memory and prints.
        model: Any = CHGNet.load(model_name=version, use_device="cpu", verbose=False)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.cutoff = float(model.graph_converter.atom_graph_cutoff)
        self.bond_cutoff = float(model.graph_converter.bond_graph_cutoff)

    def evaluate(self, batch: CrystalBatch) -> Evaluation:
        """See `Potential.evaluate`; computed in float32, as CHGNet was trained."""
        bonds = _bonds(batch, self.cutoff)
        batch = batch.to(self.device, torch.float32)
        bonds = Bonds(*(column.to(self.device) for column in bonds))
        positions = batch.positions.clone().requires_grad_()
        strain = torch.zeros_like(batch.cells).requires_grad_()
        with torch.enable_grad():
            energy = self._energy(batch, bonds, positions, strain)
            slope, virial = torch.autograd.grad(energy.sum(), (positions, strain))
        volume = torch.linalg.det(batch.cells.double()).abs()
        stress = (virial + virial.transpose(1, 2)).double() / (2 * volume[:, None, None])
        return Evaluation(energy.detach().double(), -slope.double(), stress)

    def _energy(self, batch: CrystalBatch, bonds: Bonds, positions: Tensor, strain: Tensor) -> Tensor:
        """Energies in eV per cell, ``(S,)``, of the crystals under a strain."""
        from chgnet.model.model import BatchedGraph

        gradient = torch.eye(3, device=self.device) + strain
        positions = to_cartesian(positions, gradient, batch.crystal)
        cells = batch.cells @ gradient
        # From the neighbour to the centre, as CHGNet has it; the reversed bonds come after all others.
        image = to_cartesian(bonds.shift.float(), cells, bonds.crystal)
        vectors = positions[bonds.first] - positions[bonds.second] - image
        lengths = vectors.norm(dim=1)
        directions = vectors / lengths[:, None]
        encoder = self.model.bond_basis_expansion
        both = torch.cat([directions, -directions])
        n_bonds = len(lengths)
        centre = torch.cat([bonds.first, bonds.second])
        near, other = _angles(centre, lengths.detach() < self.bond_cutoff)
        graph = BatchedGraph(
            atomic_numbers=batch.numbers,
            bond_bases_ag=encoder.rbf_expansion_ag(lengths),
            bond_bases_bg=encoder.rbf_expansion_bg(lengths),
            angle_bases=self.model.angle_basis_expansion(both[near], both[other])
            if len(near)
            else both.new_zeros(0),
            batched_atom_graph=torch.stack([centre, torch.cat([bonds.second, bonds.first])], dim=1),
            batched_bond_graph=torch.stack([centre[near], near % n_bonds, other % n_bonds], dim=1),
            atom_owners=batch.crystal,
            directed2undirected=torch.arange(n_bonds, device=self.device).repeat(2),
            atom_positions=[],
            strains=[],
            volumes=[],
        )
        counts = batch.counts
        energy = self.model._compute(graph)["e"]  # its forward takes Python graphs only
        if self.model.composition_model is not None:
            shares = torch.zeros(batch.n_crystals, HEAVIEST, device=self.device)
            shares.index_put_((batch.crystal, batch.numbers - 1), shares.new_ones(()), accumulate=True)
            if self.model.composition_model.is_intensive:
                shares = shares / counts[:, None]
            energy = energy + self.model.composition_model._get_energy(shares)
        return energy * counts if self.model.is_intensive else energy


def _bonds(batch: CrystalBatch, cutoff: float) -> Bonds:
    """All pairs within the cutoff, on the CPU."""
    from vesin import NeighborList

    positions = batch.positions.detach().cpu().double().numpy()
    cells = batch.cells.detach().cpu().double().numpy()
    counts = batch.counts.tolist()
    search = NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    columns: list[tuple[np.ndarray, ...]] = []
    first = 0
    for index, (count, cell, pbc) in enumerate(zip(counts, cells, batch.pbc.cpu().numpy(), strict=True)):
        own = positions[first : first + count]
        # Wrapped positions keep vesin's shifts small for atoms that lie many cells away.
        home = np.where(pbc, np.floor(own @ np.linalg.inv(cell)), 0.0)
        i, j, shift = search.compute(points=own - home @ cell, box=cell, periodic=pbc, quantities="ijS")
        i, j = i.astype(np.int64), j.astype(np.int64)
        columns.append((i + first, j + first, shift + home[i] - home[j], np.full(len(i), index)))
        first += count
    return Bonds(*(torch.from_numpy(np.concatenate(column)) for column in zip(*columns, strict=True)))


def _angles(centre: Tensor, short: Tensor) -> tuple[Tensor, Tensor]:
    """Ordered pairs of different short bonds that leave the same atom.

    Args:
        centre: Atom that a directed bond leaves, ``(2U,)``: all bonds, then all reversed.
        short: Which bonds take part, ``(U,)`` bool.

    Returns:
        First and second directed bond of every angle, each ``(A,)``.
    """
    edges = torch.nonzero(short.repeat(2)).squeeze(1)
    edges = edges[torch.argsort(centre[edges], stable=True)]
    counts = torch.bincount(centre[edges]) if len(edges) else edges.new_zeros(0)
    degree = counts[centre[edges]]  # bonds at the centre of each edge
    start = (counts.cumsum(0) - counts)[centre[edges]]
    near = torch.repeat_interleave(torch.arange(len(edges), device=edges.device), degree)
    offset = torch.arange(len(near), device=edges.device) - (degree.cumsum(0) - degree)[near]
    other = start[near] + offset
    keep = near != other
    return edges[near[keep]], edges[other[keep]]
