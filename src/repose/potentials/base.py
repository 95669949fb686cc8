"""What relaxing needs to know of a potential, batched over crystals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from repose.crystal.batch import CrystalBatch


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Energies and their derivatives for S crystals of N atoms in all, in float64.

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
    """An interatomic potential, or whatever else gives energies, forces and stresses.

    Attributes:
        name: What datasets and tables call it.
        elements: Atomic numbers that it knows; None stands for all.
        room: Atoms in a batch beyond which it gains nothing more.
    """

    name: str
    elements: Collection[int] | None = None
    room: int = 1

    @abstractmethod
    def evaluate(self, batch: CrystalBatch) -> Evaluation:
        """Energies, forces and stresses of a batch, each crystal independent of the others.

        Args:
            batch: The crystals, in float64.

        Raises:
            Exception: Whatever the code behind it raises; the caller then evaluates crystals one by one
                to find the one to blame.
        """
