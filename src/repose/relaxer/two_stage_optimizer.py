"""An ASE optimizer that goes on from the prediction with another ASE optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os.path import isfile
from pathlib import Path
from typing import IO, Any

from ase.optimize import BFGS
from ase.optimize.optimize import Dynamics, Optimizer

from repose.errors import ConfigError, InvalidCrystalError
from repose.relaxer.ase_optimizer import DirectOptimizer, without_filters
from repose.relaxer.base import Relaxer
from repose.relaxer.relaxation import StartKind


class TwoStageOptimizer(Optimizer):
    """Moves atoms to the predicted geometry, then relaxes them with another optimizer until forces converge.

    The first step is that of `DirectOptimizer`. It is undone if the calculator gives the prediction a higher
    energy than the input, or if there is no valid prediction; the second optimizer then starts from the
    input. Atoms whose forces are converged already are not moved. With pymatgen:
    ``structure.relax(calculator, optimizer=TwoStageOptimizer)``.

    Attributes:
        start: Where the second optimizer starts: ``"prediction"`` or ``"input"``; None before the first step.

    Args:
        atoms: `ase.Atoms` with a calculator, or a filter around them, see `DirectOptimizer`.
        restart: Restart file of the second optimizer. If it exists, there is no prediction.
        logfile: As for every ASE optimizer.
        trajectory: The same.
        append_trajectory: The same.
        optimizer: Class of the second optimizer.
        optimizer_kwargs: Its arguments, such as ``{"maxstep": 0.1}``.
        model: Name or directory of a model, or a loaded `repose.Relaxer`.
        device: See `repose.load`.
        symmetry: ``"keep"`` or ``"free"``, for the prediction; see `repose.Relaxer.relax`.
        **kwargs: Those of ASE's ``Dynamics``: ``master``, ``comm``, ``loginterval``.

    Raises:
        ConfigError: The second optimizer does not make single steps, as those of SciPy.
    """

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = None,
        trajectory: Any = None,
        append_trajectory: bool = False,
        *,
        optimizer: type[Optimizer] = BFGS,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        model: str | Path | Relaxer = "default",
        device: str = "auto",
        symmetry: str = "keep",
        **kwargs: Any,
    ) -> None:
        steps = isinstance(optimizer, type) and issubclass(optimizer, Optimizer)
        if not steps or optimizer.step is Dynamics.step:
            raise ConfigError(
                "optimizer must be a class of ase.optimize that makes single steps, such as BFGS; got "
                f"{optimizer!r}."
            )
        super().__init__(atoms, None, logfile, trajectory, append_trajectory, **kwargs)
        self.restart = restart
        self.start: StartKind | None = "input" if restart is not None and isfile(restart) else None
        self._direct = DirectOptimizer(atoms, model=model, device=device, symmetry=symmetry)
        self._class = optimizer
        self._arguments = dict(optimizer_kwargs or {})
        self._second: Optimizer | None = None

    def step(self, *args: Any) -> None:  # type: ignore[override]
        """Move the atoms in place, by the prediction in the first step.

        Raises:
            ConfigError: The filter is not supported.
        """
        del args
        if self.start is None:
            self.start = self._predict()
            if self.logfile is not None:
                self.logfile.write(f"{type(self).__name__}: start from the {self.start}\n")
            if self.start == "prediction":
                return
        if self._second is None:
            files = {} if self.restart is None else {"restart": str(self.restart)}
            self._second = self._class(self.atoms, logfile=None, **files, **self._arguments)
        self._second.fmax = self.fmax
        self._second.step()
        self._second.nsteps += 1

    def _predict(self) -> StartKind:
        """Move the atoms to the prediction if it does not have the higher energy; return where they are."""
        atoms = without_filters(self.atoms)
        positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
        energy = atoms.get_potential_energy()
        try:
            self._direct.step()  # moves nothing if it raises an error
        except InvalidCrystalError as error:
            warnings.warn(f"the relaxation starts from the input: {error}", stacklevel=2)
            return "input"
        start: StartKind = "input"
        try:
            if atoms.get_potential_energy() <= energy:
                start = "prediction"
        except Exception as error:  # calculators raise errors of any class
            warnings.warn(f"the relaxation starts from the input: {error}", stacklevel=2)
        finally:
            if start == "input":
                atoms.set_cell(cell, scale_atoms=False, apply_constraint=False)
                atoms.set_positions(positions, apply_constraint=False)
        return start

    def todict(self) -> dict[str, Any]:
        """Description of this optimizer in trajectory files."""
        second = {"start": self.start, "second_optimizer": self._class.__name__}
        return super().todict() | {"model": self._direct.relaxer.name} | second
