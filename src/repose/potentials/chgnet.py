"""Batched CHGNet.

The calculator of the package `chgnet` evaluates one crystal at a time, and its graphs are Python objects.
Here the inputs of its layers are computed for a whole batch, without a loop over bonds. Forces and stresses
come from one backward pass.

Source: Deng et al., Nature Machine Intelligence 5, 1031 (2023). Weights come with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import to_cartesian
from repose.crystal.neighbours import neighbours
from repose.errors import require
from repose.nn.ops import segment_sum
from repose.nn.triplets import triplets
from repose.potentials.base import Evaluation, Potential

# Largest atomic number of its embedding.
MAX_NUMBER = 94
# Larger batches are not faster; on a CPU they exceed the cache.
BATCH_ATOMS = {"cpu": 64, "cuda": 4000}


class Bonds(NamedTuple):
    """Undirected bonds of a batch, U in total: from atom ``first`` to a periodic image of ``second``."""

    first: Tensor  # (U,) int64
    second: Tensor  # (U,) int64
    shift: Tensor  # (U, 3) cell shift of the second atom's image
    system_index: Tensor  # (U,) int64


class CHGNetPotential(Potential):
    """CHGNet for batches of crystals.

    Args:
        version: Name of the weights in the package, e.g. ``"0.3.0"`` or ``"r2scan"``.
        device: Device of the computation.
        dtype: Precision; CHGNet was trained in float32.

    Raises:
        MissingExtraError: The package ``chgnet`` is not installed.
    """

    def __init__(
        self, version: str = "0.3.0", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        require("chgnet", "the calculator CHGNet")
        from chgnet.model.model import CHGNet

        self.name = f"CHGNet {version}"
        self.elements = range(1, MAX_NUMBER + 1)
        self.device = torch.device(device)
        self.batch_atoms = BATCH_ATOMS[self.device.type]
        # It prints its number of parameters to standard output.
        with redirect_stdout(StringIO()):
            model: Any = CHGNet.load(model_name=version, use_device="cpu", verbose=False)
        self.dtype = dtype
        self.model = model.to(self.device, dtype).eval().requires_grad_(False)
        self.cutoff = float(model.graph_converter.atom_graph_cutoff)
        self.bond_cutoff = float(model.graph_converter.bond_graph_cutoff)

    def evaluate(self, batch: CrystalBatch) -> Evaluation:
        """See `Potential.evaluate`."""
        bonds = _bonds(batch, self.cutoff)
        batch = batch.to(self.device, self.dtype)
        bonds = Bonds(*(column.to(self.device) for column in bonds))
        positions = batch.positions.clone().requires_grad_()
        strain = torch.zeros_like(batch.cells).requires_grad_()
        with torch.enable_grad():
            energy = self._energy(batch, bonds, positions, strain)
            gradient, virial = torch.autograd.grad(energy.sum(), (positions, strain))
        volume = torch.linalg.det(batch.cells.double()).abs()
        stress = (virial + virial.transpose(1, 2)).double() / (2 * volume[:, None, None])
        return Evaluation(energy.detach().double(), -gradient.double(), stress)

    def _energy(self, batch: CrystalBatch, bonds: Bonds, positions: Tensor, strain: Tensor) -> Tensor:
        """Energies of the strained crystals in eV per cell, ``(S,)``."""
        gradient = torch.eye(3, device=self.device, dtype=self.dtype) + strain
        positions = to_cartesian(positions, gradient, batch.system_index)
        cells = batch.cells @ gradient
        # CHGNet's vectors point from the neighbour to the central atom.
        image = to_cartesian(bonds.shift.to(self.dtype), cells, bonds.system_index)
        vectors = positions[bonds.first] - positions[bonds.second] - image
        lengths = vectors.norm(dim=1)
        sites = self._site_energies(batch.numbers, bonds, vectors / lengths[:, None], lengths)
        counts = batch.counts
        energy = segment_sum(sites, batch.system_index, batch.n_crystals)
        shares = torch.zeros(batch.n_crystals, MAX_NUMBER, device=self.device, dtype=self.dtype)
        shares.index_put_((batch.system_index, batch.numbers - 1), shares.new_ones(()), accumulate=True)
        reference = self.model.composition_model
        return energy + counts * reference._get_energy(shares / counts[:, None])

    def _site_energies(self, numbers: Tensor, bonds: Bonds, directions: Tensor, lengths: Tensor) -> Tensor:
        """Energy of every atom relative to the reference of its element, eV, ``(N,)``.

        These are the layers of CHGNet. It multiplies concatenated features of two atoms and a bond by a
        matrix. Here each part is multiplied by its block of the matrix before it is copied to bonds and
        angles, of which an atom has hundreds.
        """
        model, n_bonds = self.model, len(lengths)
        # Directed bonds: all bonds, then all reversed. Both directions share their features.
        centre = torch.cat([bonds.first, bonds.second])
        neighbour = torch.cat([bonds.second, bonds.first])
        bond_of = torch.arange(n_bonds, device=self.device).repeat(2)
        # Angles are ordered pairs of different short bonds of a central atom.
        order = torch.argsort(centre, stable=True)
        short = (lengths.detach() < self.bond_cutoff).repeat(2)
        near, other = (order[edges] for edges in triplets(centre[order], short[order], len(numbers)))
        corner, near_bond, other_bond = centre[near], near % n_bonds, other % n_bonds
        both = torch.cat([directions, -directions])

        radial = model.bond_basis_expansion.rbf_expansion_ag(lengths)
        short_radial = model.bond_basis_expansion.rbf_expansion_bg(lengths)
        atoms = model.atom_embedding(numbers - 1)
        features = model.bond_embedding(radial)
        weights = model.bond_weights_ag(radial)[bond_of]
        short_weights = model.bond_weights_bg(short_radial)
        angle_weights = short_weights[near_bond] * short_weights[other_bond]
        angles = model.angle_embedding(model.angle_basis_expansion(both[near], both[other]))

        def convolved(layer: Any) -> Tensor:
            parts = ((atoms, centre), (features, bond_of), (atoms, neighbour))
            message = _gated(layer.twoBody_atom, parts) * weights
            return atoms + layer.mlp_out(segment_sum(message, centre, len(atoms)))

        for layer, bond_layer, angle_layer in zip(
            model.atom_conv_layers[:-1], model.bond_conv_layers, model.angle_layers, strict=True
        ):
            atoms = convolved(layer)
            parts = ((features, near_bond), (features, other_bond), (angles, None), (atoms, corner))
            message = _gated(bond_layer.twoBody_bond, parts) * angle_weights
            features = features + bond_layer.mlp_out(segment_sum(message, near_bond, n_bonds))
            parts = ((features, near_bond), (features, other_bond), (angles, None), (atoms, corner))
            angles = angles + _gated(angle_layer.twoBody_bond, parts)
        atoms = model.readout_norm(convolved(model.atom_conv_layers[-1]))
        return model.mlp(atoms).squeeze(1)


def _gated(block: Any, parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Apply a gated MLP to concatenated features.

    Args:
        block: Module of CHGNet.
        parts: Features, and for each row of the result the row of the features; None keeps their order.
    """
    halves = []
    for branch, norm in ((block.mlp_core, block.bn1), (block.mlp_gate, block.bn2)):
        # Dropout, the first layer of some branches, has no effect in evaluation mode.
        first, *others = (layer for layer in branch.layers if not isinstance(layer, torch.nn.Dropout))
        columns = first.weight.split([features.shape[1] for features, _ in parts], dim=1)
        rows = first.bias
        for (features, index), column in zip(parts, columns, strict=True):
            part = features @ column.T
            rows = rows + (part if index is None else part[index])
        for layer in others:
            rows = layer(rows)
        halves.append(norm(rows))
    return torch.nn.functional.silu(halves[0]) * torch.sigmoid(halves[1])


def _bonds(batch: CrystalBatch, cutoff: float) -> Bonds:
    """Find all pairs within the cutoff, on the CPU."""
    positions = batch.positions.detach().cpu().double().split(batch.counts.tolist())
    cells, pbc = batch.cells.detach().cpu().double().numpy(), batch.pbc.cpu().numpy()
    columns: list[tuple[np.ndarray, ...]] = []
    first = 0
    for k, own in enumerate(positions):
        i, j, shift, _ = neighbours(own.numpy(), cells[k], pbc[k], cutoff, half=True)
        columns.append((i + first, j + first, shift, np.full(len(i), k)))
        first += len(own)
    return Bonds(*(torch.from_numpy(np.concatenate(column)) for column in zip(*columns, strict=True)))
