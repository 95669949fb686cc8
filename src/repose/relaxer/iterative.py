"""Iterative relaxation with any ASE calculator, behind the interface of all relaxers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from repose.crystal.batch import CrystalBatch
from repose.io.convert import to_atoms
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator


class IterativeRelaxer(Relaxer):
    """FIRE on atoms and cell (Frechet cell filter), one crystal after another.

    Args:
        calculator: Any ASE calculator with forces and stress, e.g. CHGNet's.
        name: Name in tables.
        fmax: Convergence threshold on the largest force in eV/A, and on the cell as ASE's filter defines it.
        max_steps: Largest number of steps; the last geometry is returned if forces have not converged.

    Attributes:
        steps: Optimizer steps of every crystal relaxed so far.
        converged: Whether each of them reached ``fmax``.
    """

    def __init__(
        self, calculator: BaseCalculator, name: str, fmax: float = 0.05, max_steps: int = 500
    ) -> None:
        self.calculator = calculator
        self.name = name
        self.fmax = fmax
        self.max_steps = max_steps
        self.steps: list[int] = []
        self.converged: list[bool] = []

    def predict(self, batch: CrystalBatch) -> Geometry:
        """See `Relaxer.predict`; energies come from the calculator in its own precision."""
        from ase.filters import FrechetCellFilter
        from ase.optimize import FIRE

        positions, cells = [], []
        for atoms in to_atoms(batch):
            atoms.calc = self.calculator
            optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)  # type: ignore[arg-type]
            self.converged.append(bool(optimizer.run(fmax=self.fmax, steps=self.max_steps)))
            self.steps.append(int(optimizer.nsteps))
            positions.append(torch.as_tensor(atoms.positions))
            cells.append(torch.as_tensor(atoms.cell.array))
        return Geometry(torch.cat(positions).to(batch.positions), torch.stack(cells).to(batch.cells))
