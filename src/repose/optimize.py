"""An ASE-style optimizer that relaxes in one step, for scripts and for pymatgen's Structure.relax."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase.filters import Filter, StrainFilter, UnitCellFilter
from ase.optimize.optimize import DEFAULT_MAX_STEPS, Optimizer

from repose.errors import ConfigError, InvalidCrystalError
from repose.models.base import Relaxer
from repose.models.loading import load


class DirectOptimizer(Optimizer):
    """Moves atoms, and the cell if it is wrapped in a cell filter, to the relaxed geometry in one step.

    It asks the calculator for nothing, not even to be there, and it is converged after its step whatever the
    forces are; run another optimizer after it to converge forces. Constraints of ASE (FixAtoms, FixScaled)
    hold. With pymatgen: ``structure.relax(calculator, optimizer=DirectOptimizer)``.

    Args:
        atoms: `ase.Atoms` (the cell stays), or a filter around them. A cell filter such as FrechetCellFilter
            lets the cell relax; lattice vectors wholly outside its mask stay. A plain filter holds the atoms
            that it hides.
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

    def irun(  # type: ignore[override]
        self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS
    ) -> Iterator[bool]:
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

    def run(  # type: ignore[override]
        self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS
    ) -> bool:
        """Relax; returns whether it is done, which only ``steps=0`` prevents."""
        return list(self.irun(fmax, steps))[-1]

    def converged(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the step was made; forces are not asked for."""
        del args, kwargs
        return self._stepped

    def step(self, *args: Any) -> None:  # type: ignore[override]
        """Move the atoms in place.

        Raises:
            InvalidCrystalError: They cannot be relaxed, or the prediction is no crystal.
        """
        del args
        atoms, free_cell, axes, held = _unwrap(self.atoms)
        (result,) = self.relaxer.relax(
            [atoms], symmetry=self.symmetry, fix_cell=not free_cell, fix_axes=axes, fix_atoms=held
        )
        if result.structure is atoms:
            raise InvalidCrystalError(f"the atoms cannot be relaxed: {result.reason}")
        if result.status == "suspect":
            import warnings

            warnings.warn(f"the relaxed crystal is suspect: {result.reason}", stacklevel=2)
        atoms.set_cell(result.structure.cell, scale_atoms=False, apply_constraint=False)
        atoms.set_positions(result.structure.positions, apply_constraint=False)
        self._stepped = True

    def log(self, *args: Any) -> None:  # type: ignore[override]
        """Write one line to the log file, if there is one."""
        del args
        if self.logfile is not None:
            clock = time.strftime("%H:%M:%S")
            self.logfile.write(
                f"{type(self).__name__}: {self.nsteps:3d} {clock} relaxed by {self.relaxer.name}\n"
            )

    def todict(self) -> dict[str, Any]:
        """What a trajectory says about its maker."""
        return {
            "type": "optimization",
            "optimizer": type(self).__name__,
            "model": self.relaxer.name,
            "fmax": self.fmax,
        }


def _unwrap(atoms: Any) -> tuple[Any, bool, str, list[int]]:
    """The atoms behind filters, whether their cell is free, and the lattice vectors and atoms held."""
    free_cell, axes, held = False, "", set[int]()
    while isinstance(atoms, Filter):
        if isinstance(atoms, UnitCellFilter):
            for name in ("hydrostatic_strain", "constant_volume", "scalar_pressure"):
                if getattr(atoms, name, False):
                    raise ConfigError(
                        f"a cell filter with {name} cannot be kept; use one without, or its mask."
                    )
            free_cell = True
            # The mask is of Cartesian strain: a lattice vector stays if no strain that is free reaches it.
            mask = np.asarray(atoms.mask, dtype=float)
            vectors = atoms.atoms.get_cell().array
            axes = "".join(n for n, vector in zip("abc", vectors, strict=True) if not (vector @ mask).any())
        elif isinstance(atoms, StrainFilter):
            raise ConfigError(
                "StrainFilter keeps the atoms in place; use FrechetCellFilter, or none to keep the cell."
            )
        else:
            held |= set(range(len(atoms.atoms))) - set(np.arange(len(atoms.atoms))[atoms.index].tolist())
        atoms = atoms.atoms
    return atoms, free_cell, axes, sorted(held)
