"""Interface of potentials, batched over crystals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from repose.crystal.batch import CrystalBatch


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Energies, forces and stresses of S crystals with N atoms in total, in float64.

    Attributes:
        energy: eV per cell, ``(S,)``.
        forces: eV/A, ``(N, 3)``.
        stress: dE/dstrain over volume in eV/A^3, symmetric, sign as in ASE (positive under tension),
            ``(S, 3, 3)``.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor


class Potential(ABC):
    """A source of energies, forces and stresses: an interatomic potential or a DFT code.

    Attributes:
        name: Name in datasets and tables.
        elements: Atomic numbers with parameters; None for all.
        batch_atoms: Atoms in a batch beyond which evaluation gets no faster.
        side_by_side: Whether several processes may use copies at once; not if it writes files.
    """

    name: str
    elements: Collection[int] | None = None
    batch_atoms: int = 1
    side_by_side: bool = True

    @abstractmethod
    def evaluate(self, batch: CrystalBatch) -> Evaluation:
        """Compute energies, forces and stresses of a batch; crystals must not influence each other.

        Args:
            batch: The crystals, in float64.

        Raises:
            Exception: Any error of the underlying code; callers then repeat the evaluation in smaller batches
                to find the crystal that it fails for.
        """
