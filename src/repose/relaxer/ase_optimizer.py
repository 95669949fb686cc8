"""An ASE-style optimizer that relaxes in one step, for scripts and for pymatgen's Structure.relax."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import Filter, StrainFilter, UnitCellFilter
from ase.optimize.optimize import DEFAULT_MAX_STEPS, Optimizer

from repose.crystal.symmetry import apply_cell
from repose.errors import ConfigError, InvalidCrystalError
from repose.relaxer.base import Relaxer
from repose.relaxer.cell_filters import allowed_cell, check_filter
from repose.relaxer.loading import load


class DirectOptimizer(Optimizer):
    """Moves atoms, and the cell if it is wrapped in a cell filter, to the predicted geometry in one step.

    The step needs no calculator. Where there is one, it is asked for forces after the step, and `run` says
    whether they are below ``fmax``; without one nothing confirms that, and `run` returns False. Run another
    optimizer afterwards to converge forces. Constraints of ASE (FixAtoms, FixScaled) hold. With pymatgen:
    ``structure.relax(calculator, optimizer=DirectOptimizer)``.

    Args:
        atoms: `ase.Atoms` (the cell stays), or a filter around them. A cell filter such as FrechetCellFilter
            lets the cell relax as far as its mask, ``hydrostatic_strain`` and ``constant_volume`` allow, see
            `repose.relaxer.cell_filters.allowed_cell`. A plain filter holds the atoms that it hides.
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
        self._reached: tuple[np.ndarray, ...] | None = None  # geometry after the last step

    def irun(  # type: ignore[override]
        self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS
    ) -> Iterator[bool]:
        """Relax, yielding whether forces are confirmed to be converged, before and after the step.

        Atoms that stand where an earlier step left them are not moved again; those that were changed since
        are.

        Args:
            fmax: Largest force in eV/A, and of the cell as its filter defines it.
            steps: 0 makes no step.

        Yields:
            Whether a calculator confirms that forces are below ``fmax``.
        """
        self.fmax = fmax
        self.max_steps = self.nsteps + steps
        if self.nsteps == 0:
            self.call_observers()
        yield self.converged()
        if self._reached is None or not self._stands():
            if self.nsteps >= self.max_steps:
                return
            self.step()
            self.nsteps += 1
            self.log()
            self.call_observers()
            yield self.converged()

    def run(  # type: ignore[override]
        self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS
    ) -> bool:
        """Relax; see `irun`.

        Args:
            fmax: Largest force in eV/A, and of the cell as its filter defines it.
            steps: 0 makes no step.

        Returns:
            Whether a calculator confirms that forces are below ``fmax``; False without a calculator.
        """
        return list(self.irun(fmax, steps))[-1]

    def converged(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the step was made and a calculator confirms that forces are below ``fmax``."""
        if self._reached is None or not self._stands() or _bare(self.atoms).calc is None:
            return False
        try:
            return bool(super().converged(*args, **kwargs))
        except PropertyNotImplementedError:  # a calculator without stress confirms nothing about a cell
            return False

    def _stands(self) -> bool:
        """Whether the atoms stand where the last step left them."""
        now = _geometry(_bare(self.atoms))
        return self._reached is not None and all(map(np.array_equal, now, self._reached))

    def step(self, *args: Any) -> None:  # type: ignore[override]
        """Move the atoms in place.

        Raises:
            InvalidCrystalError: They cannot be relaxed, or the prediction is no crystal.
            ConfigError: The filter cannot be honoured.
        """
        del args
        atoms, cell_filter, held = _unwrap(self.atoms)
        (result,) = self.relaxer.relax(
            [atoms], symmetry=self.symmetry, fix_cell=cell_filter is None, fix_atoms=held
        )
        if result.structure is atoms:
            raise InvalidCrystalError(f"the atoms cannot be relaxed: {result.reason}")
        if result.status == "suspect":
            warnings.warn(f"the relaxed crystal is suspect: {result.reason}", stacklevel=2)
        for remark in result.remarks:
            warnings.warn(remark, stacklevel=2)
        cell, positions = result.structure.cell.array, result.structure.positions
        if cell_filter is not None:
            predicted, cell = cell, allowed_cell(cell_filter, cell)
            positions = apply_cell(positions, predicted, cell)
        atoms.set_cell(cell, scale_atoms=False, apply_constraint=False)
        atoms.set_positions(positions, apply_constraint=False)
        self._reached = _geometry(atoms)

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


def _bare(atoms: Any) -> Any:
    """The atoms behind any filters."""
    while isinstance(atoms, Filter):
        atoms = atoms.atoms
    return atoms


def _geometry(atoms: Any) -> tuple[np.ndarray, ...]:
    return atoms.numbers.copy(), atoms.positions.copy(), atoms.cell.array.copy()


def _unwrap(atoms: Any) -> tuple[Any, UnitCellFilter | None, list[int]]:
    """The atoms behind filters, the filter that frees their cell, and the atoms held.

    Raises:
        ConfigError: A filter cannot be honoured.
    """
    cell_filter, held = None, set[int]()
    while isinstance(atoms, Filter):
        if isinstance(atoms, UnitCellFilter):
            check_filter(atoms)
            cell_filter = atoms
        elif isinstance(atoms, StrainFilter):
            raise ConfigError(
                "StrainFilter keeps the atoms in place; use FrechetCellFilter, or none to keep the cell."
            )
        else:
            held |= set(range(len(atoms.atoms))) - set(np.arange(len(atoms.atoms))[atoms.index].tolist())
        atoms = atoms.atoms
    if cell_filter is not None and not np.any(cell_filter.mask):
        cell_filter = None
    return atoms, cell_filter, sorted(held)
