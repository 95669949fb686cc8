"""SevenNet-0, with all crystals of a batch in one forward pass.

The calculator of the package `sevenn` evaluates one crystal at a time, but its network takes batches: here it
gets the pairs of neighbours of all crystals. Weights (11 July 2024) come with the package.

Source: Park et al., J. Chem. Theory Comput. 20, 4857 (2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.neighbours import neighbours
from repose.errors import require
from repose.potentials.base import Evaluation, Potential

# On a CPU larger batches are slower: they exceed the cache. On a GPU an atom takes some 10 MB.
BATCH_ATOMS = {"cpu": 32, "cuda": 500}
# The network gives stresses as xx, yy, zz, xy, yz, zx.
MATRIX = [[0, 3, 5], [3, 1, 4], [5, 4, 2]]


class SevenNetPotential(Potential):
    """SevenNet for batches of crystals, in float32.

    Args:
        version: Name of weights in the package ``sevenn``: ``"SevenNet-0"`` or ``"SevenNet-l3i5"``.
        device: Device of the computation.

    Raises:
        MissingExtraError: The package ``sevenn`` is not installed.
    """

    def __init__(self, version: str = "SevenNet-0", device: torch.device | str = "cpu") -> None:
        require("sevenn", "the calculator SevenNet")
        import sevenn._keys as keys
        from sevenn.util import load_checkpoint

        self.name, self.device = version, torch.device(device)
        self.batch_atoms = BATCH_ATOMS[self.device.type]
        model: Any = load_checkpoint(version).build_model()
        model.set_is_batch_data(True)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.elements, self.cutoff = sorted(model.type_map), float(model.cutoff)
        self.keys: Any = keys

    def evaluate(self, batch: CrystalBatch) -> Evaluation:
        """See `Potential.evaluate`."""
        keys = self.keys
        pairs, vectors = _edges(batch, self.cutoff)
        volumes = torch.linalg.det(batch.cells.double()).abs()
        graph = {
            keys.ATOMIC_NUMBERS: batch.numbers,
            keys.EDGE_IDX: pairs,
            keys.EDGE_VEC: vectors.float(),
            keys.CELL_VOLUME: volumes.float(),
            keys.NUM_ATOMS: batch.counts,
            keys.BATCH: batch.system_index,
        }
        with torch.enable_grad():
            found = self.model({key: value.to(self.device) for key, value in graph.items()})
        energy, forces, pressure = (
            found[key].detach().double()
            for key in (keys.PRED_TOTAL_ENERGY, keys.PRED_FORCE, keys.PRED_STRESS)
        )
        return Evaluation(energy, forces, -pressure[:, MATRIX])


def _edges(batch: CrystalBatch, cutoff: float) -> tuple[Tensor, Tensor]:
    """Find pairs within the cutoff, ``(2, E)``, and vectors from the first to the second atom, ``(E, 3)``."""
    start = batch.start.tolist()
    positions, cells = (part.detach().cpu().double().numpy() for part in (batch.positions, batch.cells))
    pbc = batch.pbc.cpu().numpy()
    pairs, vectors = [], []
    for k, cell in enumerate(cells):
        own = positions[start[k] : start[k + 1]]
        found = neighbours(own, cell, pbc[k], cutoff)
        pairs.append(np.stack([found.receiver, found.sender]) + start[k])
        vectors.append(own[found.sender] + found.shift @ cell - own[found.receiver])
    return torch.from_numpy(np.concatenate(pairs, axis=1)), torch.from_numpy(np.concatenate(vectors))
