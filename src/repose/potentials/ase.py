"""ASE calculators as potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.io.convert import to_atoms
from repose.potentials.base import Evaluation, Potential

if TYPE_CHECKING:
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
            forces.append(atoms.get_forces(apply_constraint=False))
            stresses.append(atoms.get_stress(voigt=False, apply_constraint=False))
            energies.append(atoms.get_potential_energy())
        return Evaluation(
            energy=torch.tensor(energies, dtype=torch.float64),
            forces=torch.from_numpy(np.concatenate(forces).astype(np.float64)),
            stress=torch.from_numpy(np.stack(stresses).astype(np.float64)),
        )
