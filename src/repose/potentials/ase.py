"""ASE calculators as potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.errors import ShapeError
from repose.io.convert import to_atoms
from repose.potentials.base import Evaluation, Potential

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator


class AsePotential(Potential):
    """An ASE calculator, called for one crystal after another.

    Args:
        calculator: Calculator of energy, forces and stress.
        name: Name in datasets; that of its class by default.
    """

    side_by_side = False  # it may write files

    def __init__(self, calculator: BaseCalculator, name: str = "") -> None:
        self.calculator = calculator
        self.name = name or type(calculator).__name__.removesuffix("Calculator")

    def evaluate(self, batch: CrystalBatch) -> Evaluation:
        """See `Potential.evaluate`."""
        energies, forces, stresses = [], [], []
        for atoms in to_atoms(batch):
            # A file-based calculator reads the results of its last crystal.
            atoms.calc = self.calculator
            energy = np.asarray(atoms.get_potential_energy(), dtype=np.float64)
            own = np.asarray(atoms.get_forces(apply_constraint=False), dtype=np.float64)
            stress = _stress(atoms)
            if energy.size != 1 or own.shape != (len(atoms), 3) or stress.shape != (3, 3):
                raise ShapeError(
                    f"expected one energy, forces ({len(atoms)}, 3) and stress (3, 3); got {energy.shape}, "
                    f"{own.shape} and {stress.shape}."
                )
            energies.append(energy.item())
            forces.append(own)
            stresses.append(stress)
        return Evaluation(
            energy=torch.tensor(energies, dtype=torch.float64),
            forces=torch.from_numpy(np.concatenate(forces)),
            stress=torch.from_numpy(np.stack(stresses)),
        )


def _stress(atoms: Atoms) -> np.ndarray:
    """Stress ``(3, 3)``; NaN if the calculator has none, which matters only where the cell relaxes."""
    from ase.calculators.calculator import PropertyNotImplementedError

    try:
        return np.asarray(atoms.get_stress(voigt=False, apply_constraint=False), dtype=np.float64)
    except PropertyNotImplementedError:
        return np.full((3, 3), np.nan)
