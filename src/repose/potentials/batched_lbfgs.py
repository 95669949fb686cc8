"""Batched L-BFGS: relax the atoms and cells of many crystals at once with a potential.

The potential evaluates all running crystals in one batch. A crystal that has ended is replaced by the next
one. Crystals do not influence each other.

The coordinates of a crystal of n atoms are n + 3 rows. The first n are positions in the frame of the
undeformed cell, ``positions = rows @ deformation``. The last three are ``(deformation - 1) * scale`` with
``cell = initial_cell @ deformation``. The deformation is symmetric unless constraints need another one, so
that the cell does not rotate. The scale, ``1.5 A * sqrt(n)``, makes a cell about as stiff as an atom,
whatever its size.

Source: Liu and Nocedal, Math. Program. 45, 503 (1989) (L-BFGS; the initial Hessian is that of its section 4,
from the last step).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.checks import close_atoms
from repose.crystal.deformation import polar
from repose.crystal.frame import Frame
from repose.crystal.lattice import periodic_projector
from repose.potentials.base import Potential
from repose.potentials.moves import Moves
from repose.potentials.settings import LbfgsSettings

K = TypeVar("K")

CELL_SCALE = 1.5  # A
# Initial guess of the Hessian in eV/A^2 before the first step, as in ASE's BFGS, and its bounds afterwards.
STIFFNESS, SOFTEST, STIFFEST = 70.0, 5.0, 300.0
# The history is cleared after a larger rise of the energy, in eV per atom.
LARGEST_RISE = 0.02


class StepResults(NamedTuple):
    """Results for one crystal of n atoms: eV, eV/A ``(n, 3)``, eV/A^3 ``(3, 3)``."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray


class Start(NamedTuple, Generic[K]):
    """A crystal to relax.

    Attributes:
        key: Identifies the crystal for the caller.
        crystal: Initial structure, a batch of one.
        moves: Moves that its symmetry and constraints allow; None: all, but for strains along directions that
            are not periodic.
        results: Results at the initial structure, if they are known.
        earlier: Another structure of the same atoms and results there, from which the optimizer takes the
            curvature of the energy between both.
    """

    key: K
    crystal: CrystalBatch
    moves: Moves | None = None
    results: StepResults | None = None
    earlier: tuple[CrystalBatch, StepResults] | None = None


class RelaxationRun(Generic[K]):
    """Relaxation of one crystal.

    Args:
        start: The crystal.
        settings: Step sizes and stopping criteria.

    Attributes:
        frames: Evaluated steps, from the initial structure to the last; with energy, forces and stress.
        failure: Reason why the relaxation failed, or None.
        converged: The largest force is below the threshold.
        seconds: Time of the evaluations, that of a batch shared by the numbers of atoms.
    """

    def __init__(self, start: Start[K], settings: LbfgsSettings) -> None:
        self.key, self.settings = start.key, settings
        self.initial = start.crystal.to("cpu", torch.float64)
        self.frames: list[Frame] = []
        self.failure: str | None = None
        self.converged = False
        self.seconds = 0.0
        n = self.initial.n_atoms
        self._scale = CELL_SCALE * np.sqrt(n)
        self._cell = self.initial.cells[0].numpy()
        self._rows = np.concatenate([self.initial.positions.numpy(), np.zeros((3, 3))])
        self._gradient = np.zeros_like(self._rows)
        self._step = np.zeros_like(self._rows)
        self._has_step = False
        self._energy = np.inf
        # Steps, changes of the gradient, and one over their product.
        self._history: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=settings.history)
        span = periodic_projector(self._cell, self.initial.pbc[0].numpy())
        self._moves = start.moves or Moves.within(span * (not settings.fixed_cell))
        if start.earlier is not None:
            self._add_earlier(*start.earlier)

    @property
    def current(self) -> CrystalBatch:
        """Structure at the current coordinates."""
        positions, cell = self._geometry()
        return self.initial.with_geometry(torch.from_numpy(positions), torch.from_numpy(cell)[None])

    def _geometry(self) -> tuple[np.ndarray, np.ndarray]:
        return self._rows[:-3] @ self._deformation, self._cell @ self._deformation

    @property
    def _deformation(self) -> np.ndarray:
        return np.eye(3) + self._rows[-3:] / self._scale

    def advance(self, results: StepResults) -> bool:
        """Store the results at the current structure, and take a step unless the relaxation has ended.

        Returns:
            Whether the relaxation continues.
        """
        positions, cell = self._geometry()
        self.failure = self._invalid(positions, cell, results)
        if self.failure is not None:
            return False
        gradient, largest = self.gradient(results)
        self.frames.append(Frame(positions, cell, *results))
        self.converged = largest <= self.settings.fmax
        if not self.converged and len(self.frames) > self.settings.max_steps:
            self.failure = (
                f"not converged: the largest force, or stress times volume per atom, is {largest:.3g} eV/A "
                f"after {self.settings.max_steps} steps; expected at most {self.settings.fmax:g}."
            )
        if self.converged or self.failure:
            return False
        self._update_history(gradient, results.energy)
        self._energy, self._gradient, self._step = results.energy, gradient, self._next_step(gradient)
        self._has_step = True
        self._rows = self._rows + self._step
        if np.linalg.det(self._deformation) <= 0:
            self.failure = "exploded: the cell is inverted."
        return self.failure is None

    def gradient(self, results: StepResults) -> tuple[np.ndarray, float]:
        """Gradient of the energy by the coordinates, eV/A ``(n + 3, 3)``, and the largest force."""
        deformation, moves = self._deformation, self._moves
        cell = self._cell @ deformation
        forces, stress = moves.symmetrise(cell, results.forces, results.stress)
        virial = abs(np.linalg.det(cell)) * stress
        # A strain of the deformed cell is the change of the deformation divided by the deformation.
        cell_part = moves.strain(np.linalg.solve(deformation.T, virial)) / self._scale
        atoms_part = moves.displacements(forces @ deformation.T)
        forces = np.linalg.solve(deformation, atoms_part.T).T
        rows = np.concatenate([forces, moves.strain(virial) / len(forces)])
        return np.concatenate([-atoms_part, cell_part]), float(np.linalg.norm(rows, axis=1).max())

    def _add_earlier(self, crystal: CrystalBatch, results: StepResults) -> None:
        """Make the way from another structure to the initial one the last step."""
        deformation = np.linalg.solve(self._cell, crystal.cells[0].cpu().double().numpy())
        turn = np.eye(3)
        if self._moves.symmetric:
            deformation, turn = polar(deformation)
            results = StepResults(results.energy, results.forces @ turn.T, turn @ results.stress @ turn.T)
        here = self._rows
        positions = crystal.positions.cpu().double().numpy() @ turn.T @ np.linalg.inv(deformation)
        way = here - np.concatenate([positions, (deformation - np.eye(3)) * self._scale])
        atoms = self._moves.displacements(way[:-3])
        if not self._moves.fixes_atoms:  # a shift of the crystal does not change the energy
            atoms = atoms - atoms.mean(axis=0)
        self._step = np.concatenate([atoms, self._moves.strain(way[-3:])])
        self._rows = here - self._step
        self._gradient, _ = self.gradient(results)
        self._rows, self._energy, self._has_step = here, results.energy, True

    def _update_history(self, gradient: np.ndarray, energy: float) -> None:
        """Add the last step to the history."""
        if not self._has_step:
            return
        if (energy - self._energy) / self.initial.n_atoms > LARGEST_RISE:
            self._history.clear()
        change = gradient - self._gradient
        product = float((self._step * change).sum())
        # Steps of negative curvature would make the Hessian indefinite.
        if product > 1e-4 * float((self._step**2).sum()):
            self._history.append((self._step, change, 1 / product))

    def _next_step(self, gradient: np.ndarray) -> np.ndarray:
        """Inverse Hessian times the negative gradient (two-loop recursion), no longer than allowed."""
        step, weights = -gradient, []
        for past, change, inverse in reversed(self._history):
            weights.append(inverse * float((past * step).sum()))
            step = step - weights[-1] * change
        step = step / self._stiffness
        for (past, change, inverse), weight in zip(self._history, reversed(weights), strict=True):
            step = step + (weight - inverse * float((change * step).sum())) * past
        if (step * gradient).sum() >= 0:  # uphill by rounding
            self._history.clear()
            step = -gradient / STIFFNESS
        return step * min(1.0, self.settings.max_step / np.linalg.norm(step, axis=1).max())

    @property
    def _stiffness(self) -> float:
        """Initial guess of the Hessian in eV/A^2: curvature of the energy along the last step."""
        if not self._history:
            return STIFFNESS
        _, change, inverse = self._history[-1]
        return float(np.clip(inverse * (change**2).sum(), SOFTEST, STIFFEST))

    def _invalid(self, positions: np.ndarray, cell: np.ndarray, results: StepResults) -> str | None:
        """Reason why a step cannot belong to a relaxation, or None."""
        if not self._moves.fix_cell and np.isnan(results.stress).all() and np.isfinite(results.energy):
            return "the calculator gives no stress; keep the cell fixed, or use another one."
        needed = results[:2] if self._moves.fix_cell else results
        if not all(np.isfinite(value).all() for value in (positions, cell, *needed)):
            return f"exploded: energy, forces or stress are not finite at step {len(self.frames)}."
        limit = self.settings.max_volume_ratio
        ratio = abs(np.linalg.det(cell)) / abs(np.linalg.det(self._cell))
        if not 1 / limit < ratio < limit:
            return f"exploded: the volume at step {len(self.frames)} is {ratio:.2g} times the initial one."
        numbers, pbc = self.initial.numbers.numpy(), self.initial.pbc[0].numpy()
        overlap = close_atoms(numbers, positions, cell, pbc)
        return overlap and f"exploded: at step {len(self.frames)} {overlap}"


def relax_batched(
    potential: Potential,
    source: Iterator[Start[K]],
    settings: LbfgsSettings,
    should_continue: Callable[[], bool] = lambda: True,
    minutes: float | None = None,
) -> Iterator[RelaxationRun[K]]:
    """Relax a stream of crystals in batches.

    Args:
        potential: Energies, forces and stresses.
        source: Crystals; read on as soon as the batch has room.
        settings: Step sizes, stopping criteria and batch size.
        should_continue: Called before every step; if it returns False, all unfinished runs are discarded.
        minutes: Time limit of one crystal, from its first step on.

    Yields:
        Runs, in the order in which they end.
    """
    batch_atoms = settings.batch_atoms or potential.batch_atoms
    runs: list[RelaxationRun[K]] = []
    started: dict[RelaxationRun[K], float] = {}
    following = next(source, None)
    while (runs or following is not None) and should_continue():
        n_atoms = sum(run.initial.n_atoms for run in runs)
        while following is not None and (not runs or n_atoms + following.crystal.n_atoms <= batch_atoms):
            run = RelaxationRun(following, settings)
            if following.results is None or run.advance(following.results):
                runs.append(run)
                started[run] = time.monotonic()
                n_atoms += run.initial.n_atoms
            else:
                yield run
            following = next(source, None)
        unfinished = []
        begin = time.perf_counter()
        found = evaluate_each(potential, [run.current for run in runs]) if runs else []
        atom_seconds = (time.perf_counter() - begin) / max(n_atoms, 1)
        for run, results in zip(runs, found, strict=True):
            run.seconds += atom_seconds * run.initial.n_atoms
            if isinstance(results, str):
                run.failure = results
            elif run.advance(results):
                elapsed = (time.monotonic() - started[run]) / 60
                if minutes is None or elapsed <= minutes:
                    unfinished.append(run)
                    continue
                run.failure = (
                    f"too slow: not converged after {len(run.frames)} steps and {elapsed:.3g} minutes; "
                    f"the limit is {minutes:g} minutes."
                )
            del started[run]
            yield run
        runs = unfinished


def evaluate_each(potential: Potential, crystals: list[CrystalBatch]) -> list[StepResults | str]:
    """Evaluate crystals in one batch; one that the potential fails for gets the reason instead of results."""
    batch = CrystalBatch.collate(crystals)
    try:
        found = potential.evaluate(batch)
        ends = batch.counts.cumsum(0)[:-1].tolist()
        forces = np.split(found.forces.cpu().numpy(), ends)
        return list(map(StepResults, found.energy.tolist(), forces, found.stress.cpu().numpy()))
    except Exception as error:  # calculators raise anything
        if len(crystals) == 1:
            text = " ".join(str(error).split())[:300]
            return [f"the calculator failed: {type(error).__name__}: {text}".rstrip(": ")]
    # Halves, so that a batch that exceeds the memory costs few evaluations.
    half = len(crystals) // 2
    return evaluate_each(potential, crystals[:half]) + evaluate_each(potential, crystals[half:])
