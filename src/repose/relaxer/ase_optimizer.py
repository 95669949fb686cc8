"""An ASE optimizer that relaxes in one step, also for pymatgen's Structure.relax."""

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

from repose.errors import ConfigError, InvalidCrystalError
from repose.relaxer.base import Relaxer
from repose.relaxer.cell_filters import allowed_cell, check_filter
from repose.relaxer.constraints import Constraints
from repose.relaxer.loading import load


class DirectOptimizer(Optimizer):
    """Moves atoms, and the cell if it is wrapped in a cell filter, to the predicted geometry in one step.

    The step needs no calculator. With one, forces are computed after the step, and `run` returns whether they
    are below ``fmax``; without one `run` returns False. Run another optimizer afterwards to converge forces.
    ASE constraints (FixAtoms, FixScaled) are kept. With pymatgen:
    ``structure.relax(calculator, optimizer=DirectOptimizer)``.

    Args:
        atoms: `ase.Atoms` (the cell is kept), or a filter around them. With a cell filter such as
            FrechetCellFilter the cell relaxes as far as its mask, ``hydrostatic_strain`` and
            ``constant_volume`` allow, see `repose.relaxer.cell_filters.allowed_cell`. With a plain filter the
            atoms that it hides are fixed.
        restart: Not used; there is no history.
        logfile: As for every ASE optimizer.
        trajectory: The same; without a calculator the frames have no energies.
        append_trajectory: The same.
        model: Name or directory of a model, or a loaded `repose.Relaxer`.
        device: See `repose.load`.
        symmetry: ``"keep"`` or ``"free"``, see `repose.Relaxer.relax`.
        maxstep: Not used; accepted because scripts pass it to all optimizers.
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
        self._relaxed: tuple[np.ndarray, ...] | None = None  # geometry after the last step

    def irun(  # type: ignore[override]
        self, fmax: float = 0.05, steps: int = DEFAULT_MAX_STEPS
    ) -> Iterator[bool]:
        """Relax, yielding whether forces are converged, before and after the step.

        Atoms that have not changed since an earlier step are not relaxed again.

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
        if not self._is_relaxed():
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
        """Relax as `irun`; return whether forces are converged, False without a calculator."""
        return list(self.irun(fmax, steps))[-1]

    def converged(self, *args: Any, **kwargs: Any) -> bool:
        """Return whether the step was made and a calculator confirms that forces are below ``fmax``."""
        if not self._is_relaxed() or without_filters(self.atoms).calc is None:
            return False
        try:
            return bool(super().converged(*args, **kwargs))
        except PropertyNotImplementedError:  # convergence of the cell needs the stress
            return False

    def _is_relaxed(self) -> bool:
        """Return whether the geometry is that after the last step."""
        now = _geometry(without_filters(self.atoms))
        return self._relaxed is not None and all(map(np.array_equal, now, self._relaxed))

    def step(self, *args: Any) -> None:  # type: ignore[override]
        """Move the atoms in place.

        Raises:
            InvalidCrystalError: They cannot be relaxed, or the prediction has no finite geometry or volume.
            ConfigError: The filter is not supported.
        """
        del args
        atoms, cell_filter, fixed = _unwrap(self.atoms)
        constraints = Constraints(self.symmetry, fix_cell=cell_filter is None, fix_atoms=fixed)
        (result,) = self.relaxer.relax([atoms], constraints=constraints)
        if result.structure is atoms:
            raise InvalidCrystalError(f"the atoms cannot be relaxed: {result.reason}")
        if result.status == "suspect":
            warnings.warn(f"the relaxed crystal is suspect: {result.reason}", stacklevel=2)
        for remark in result.remarks:
            warnings.warn(remark, stacklevel=2)
        cell, positions = result.structure.cell.array, result.structure.positions
        if cell_filter is not None:
            predicted, cell = cell, allowed_cell(cell_filter, cell)
            positions = positions @ np.linalg.solve(predicted, cell)
        atoms.set_cell(cell, scale_atoms=False, apply_constraint=False)
        atoms.set_positions(positions, apply_constraint=False)
        self._relaxed = _geometry(atoms)

    def log(self, *args: Any) -> None:  # type: ignore[override]
        """Write one line to the log file, if there is one."""
        del args
        if self.logfile is not None:
            clock = time.strftime("%H:%M:%S")
            self.logfile.write(
                f"{type(self).__name__}: {self.nsteps:3d} {clock} relaxed by {self.relaxer.name}\n"
            )

    def todict(self) -> dict[str, Any]:
        """Description of this optimizer in trajectory files."""
        return {
            "type": "optimization",
            "optimizer": type(self).__name__,
            "model": self.relaxer.name,
            "fmax": self.fmax,
        }


def without_filters(atoms: Any) -> Any:
    """`ase.Atoms` inside of filters."""
    while isinstance(atoms, Filter):
        atoms = atoms.atoms
    return atoms


def _geometry(atoms: Any) -> tuple[np.ndarray, ...]:
    return atoms.numbers.copy(), atoms.positions.copy(), atoms.cell.array.copy()


def _unwrap(atoms: Any) -> tuple[Any, UnitCellFilter | None, tuple[int, ...]]:
    """Atoms without filters, the filter that lets their cell relax, and the fixed atoms.

    Raises:
        ConfigError: A filter is not supported.
    """
    cell_filter, fixed = None, set[int]()
    while isinstance(atoms, Filter):
        if isinstance(atoms, UnitCellFilter):
            check_filter(atoms)
            cell_filter = atoms
        elif isinstance(atoms, StrainFilter):
            raise ConfigError(
                "StrainFilter keeps the atoms in place; use FrechetCellFilter, or no filter to keep the cell."
            )
        else:
            fixed |= set(range(len(atoms.atoms))) - set(np.arange(len(atoms.atoms))[atoms.index].tolist())
        atoms = atoms.atoms
    if cell_filter is not None and not np.any(cell_filter.mask):
        cell_filter = None
    return atoms, cell_filter, tuple(sorted(fixed))
