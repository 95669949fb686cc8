"""An ASE-style optimizer that relaxes in one step, for scripts and for pymatgen's Structure.relax."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ase.optimize.optimize import DEFAULT_MAX_STEPS, Optimizer

from repose.errors import InvalidCrystalError
from repose.models.base import Relaxer, load


class DirectOptimizer(Optimizer):
    """Moves atoms, and the cell if it is wrapped in a cell filter, to the relaxed geometry in one step.

    It asks the calculator for nothing, not even to be there, and it is converged after its step whatever the
    forces are; run another optimizer after it to converge forces. Constraints of ASE (FixAtoms, FixScaled)
    hold. With pymatgen: ``structure.relax(calculator, optimizer=DirectOptimizer)``.

    Args:
        atoms: `ase.Atoms` (the cell stays), or a filter around them. A cell filter such as FrechetCellFilter lets
            the cell relax; lattice vectors wholly outside its mask stay.
        restart: Not used; there is no history.
        logfile: As for every ASE optimizer.
        trajectory: The same; without a calculator the frames carry no energies.
        append_trajectory: The same.
        model: Name or directory of a model, or a loaded `repose.Relaxer`.
        device: See `repose.load`.
        symmetry: ``"keep"`` or ``"free"``, see `repose.Relaxer.relax`.
        maxstep: Accepted because scripts pass it to all optimizers; a direct model has no step length.
        **kwargs: Those of ASE's ``Dynamics``: ``master``, ``comm``, ``loginterval``.
    """

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = None,
        trajectory: Any = None,
        append_trajectory: bool = False,
        *,
        model: str | Path | Relaxer = "default",
        device: str = "auto",
        symmetry: str = "keep",
        maxstep: float | None = None,
        **kwargs: Any,
    ) -> None:
        del maxstep
        super().__init__(atoms, None, logfile, trajectory, append_trajectory, **kwargs)
        self.restart = restart
        self.relaxer = model if isinstance(model, Relaxer) else load(model, device)
        self.symmetry = symmetry
        self._stepped = False

    def irun(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> Iterator[bool]:
        """Relax, yielding whether it is done before and after the step; ``fmax`` is not looked at."""
        self.fmax = fmax
        self.max_steps = self.nsteps + steps
        if self.nsteps == 0:
            self.call_observers()
        yield self._stepped
        if not self._stepped and self.nsteps < self.max_steps:
            self.step()
            self.nsteps += 1
            self.log()
            self.call_observers()
            yield self._stepped

    def run(self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS) -> bool:
        """Relax; returns whether it is done, which only ``steps=0`` prevents."""
        done = False
        for done in self.irun(fmax, steps):
            pass
        return done

    def converged(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the step was made; forces are not asked for."""
        del args, kwargs
        return self._stepped

    def step(self, *args: Any) -> None:
        """Move the atoms in place.

        Raises:
            InvalidCrystalError: They cannot be relaxed, or the prediction is no crystal.
        """
        del args
        atoms, free_cell, axes = _unwrap(self.atoms)
        (result,) = self.relaxer.relax([atoms], symmetry=self.symmetry, fix_cell=not free_cell, fix_axes=axes)
        if result.structure is atoms:
            raise InvalidCrystalError(f"the atoms cannot be relaxed: {result.reason}")
        if result.status == "suspect":
            import warnings

            warnings.warn(f"the relaxed crystal is suspect: {result.reason}", stacklevel=2)
        atoms.set_cell(result.structure.cell, scale_atoms=False, apply_constraint=False)
        atoms.set_positions(result.structure.positions, apply_constraint=False)
        self._stepped = True

    def log(self, *args: Any) -> None:
        """Write one line to the log file, if there is one."""
        del args
        if self.logfile is not None:
            clock = time.strftime("%H:%M:%S")
            self.logfile.write(f"{type(self).__name__}: {self.nsteps:3d} {clock} relaxed by {self.relaxer.name}\n")

    def todict(self) -> dict[str, Any]:
        """What a trajectory says about its maker."""
        return {"type": "optimization", "optimizer": type(self).__name__, "model": self.relaxer.name, "fmax": self.fmax}


def _unwrap(atoms: Any) -> tuple[Any, bool, str]:
    """The atoms behind filters, whether their cell is free, and the lattice vectors that a mask holds."""
    import numpy as np

    free_cell, axes = False, ""
    while hasattr(atoms, "atoms"):
        if hasattr(atoms, "mask") and "Cell" in type(atoms).__name__:
            free_cell = True
            mask = np.asarray(atoms.mask, dtype=float)
            mask = mask if mask.shape == (3, 3) else np.ones((3, 3))
            cell = atoms.atoms.cell.array
            # The mask is of Cartesian strain: a vector stays if no strain that is free reaches it.
            axes = "".join(name for name, vector in zip("abc", cell, strict=True) if not (vector @ mask).any())
        atoms = atoms.atoms
    return atoms, free_cell, axes
