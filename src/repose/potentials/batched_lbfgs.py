"""Relaxation by descent: many crystals side by side, each on its own way.

Energies and forces of all crystals under way are asked for at once, which is what a batched potential
wants; one that has arrived leaves, and one that waits takes its place. The way of a crystal is L-BFGS on
its atoms and its cell together, and does not depend on its neighbours in the batch.

Coordinates of a crystal of n atoms are n + 3 rows. The first n are its positions in the frame of the
undeformed cell, ``positions = rows @ stretch``; the last three are ``(stretch - 1) * scale``, where the
symmetric stretch gives ``cell = cell_0 @ stretch``, so that nothing turns. The scale, 1.5 A times the
square root of n, makes a cell about as stiff as an atom, whatever its size.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.checks import close_atoms
from repose.crystal.lattice import periodic_projector
from repose.potentials.base import Evaluation, Potential
from repose.potentials.settings import LbfgsSettings

K = TypeVar("K")

CELL_SCALE = 1.5  # A
# Assumed before anything is known, in eV/A^2; that of ASE's BFGS.
STIFFNESS = 70.0
# A rise of the energy by more than this, in eV per atom, says that the model of the surface is wrong.
LARGEST_RISE = 0.02


@dataclass(frozen=True, eq=False)
class Step:
    """A crystal of n atoms at one step, in float64.

    Attributes:
        positions: A, ``(n, 3)``.
        cell: Rows, A, ``(3, 3)``.
        energy: eV per cell.
        forces: eV/A, ``(n, 3)``.
        stress: eV/A^3, ``(3, 3)``.
    """

    positions: np.ndarray
    cell: np.ndarray
    energy: float
    forces: np.ndarray
    stress: np.ndarray


class Walk(Generic[K]):
    """The way of one crystal.

    Args:
        key: What the caller calls it.
        crystal: Where it starts; a batch of one.
        settings: How it steps.

    Attributes:
        steps: Where it was, from the first evaluation to the last.
        fault: Why it did not arrive, in words; None if it did, or is still under way.
        arrived: Whether it did.
    """

    def __init__(self, key: K, crystal: CrystalBatch, settings: LbfgsSettings) -> None:
        self.key, self.settings = key, settings
        self.crystal = crystal.to("cpu", torch.float64)
        self.steps: list[Step] = []
        self.fault: str | None = None
        self.arrived = False
        n = crystal.n_atoms
        self._scale = CELL_SCALE * np.sqrt(n)
        self._cell = self.crystal.cells[0].numpy()
        self._rows = np.concatenate([self.crystal.positions.numpy(), np.zeros((3, 3))])
        self._gradient = np.zeros_like(self._rows)
        self._move = np.zeros_like(self._rows)
        # Moves, changes of the gradient, and one over their product.
        self._history: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=settings.history)
        # Projector on the directions that may be strained.
        span = periodic_projector(self._cell, self.crystal.pbc[0].numpy())
        self._strained = np.zeros((3, 3)) if settings.fixed_cell else span

    @property
    def here(self) -> CrystalBatch:
        """The crystal where it stands now."""
        stretch = self._stretch
        positions, cell = self._rows[:-3] @ stretch, self._cell @ stretch
        return self.crystal.with_geometry(torch.from_numpy(positions), torch.from_numpy(cell)[None])

    @property
    def _stretch(self) -> np.ndarray:
        return np.eye(3) + self._rows[-3:] / self._scale

    def go_on(self, step: Step) -> bool:
        """Take in what was found here, and move on.

        Args:
            step: The evaluation of `here`.

        Returns:
            Whether the way goes on.
        """
        self.fault = self._fault(step)
        if self.fault is not None:
            return False
        gradient, largest = self._slope(step)
        self.steps.append(step)
        self.arrived = largest <= self.settings.fmax
        if not self.arrived and len(self.steps) > self.settings.max_steps:
            self.fault = (
                f"not converged: the largest force is {largest:.3g} eV/A after {self.settings.max_steps} "
                f"steps; {self.settings.fmax:g} was asked for."
            )
        if self.arrived or self.fault:
            return False
        self._learn(gradient)
        self._gradient, self._move = gradient, self._next_move(gradient)
        self._rows = self._rows + self._move
        if np.linalg.det(self._stretch) <= 0:
            self.fault = "exploded: the cell turned inside out."
        return self.fault is None

    def _slope(self, step: Step) -> tuple[np.ndarray, float]:
        """Gradient of the energy along the rows, and the largest force in eV/A."""
        stretch, keep = self._stretch, self._strained
        virial = keep @ (abs(np.linalg.det(step.cell)) * step.stress) @ keep
        # A strain of the deformed cell is the change of the stretch divided by the stretch.
        slope = np.linalg.solve(stretch, virial)
        slope = keep @ (slope + slope.T) @ keep / (2 * self._scale)
        felt = np.concatenate([step.forces, virial / len(step.forces)])
        return np.concatenate([-step.forces @ stretch, slope]), float(np.linalg.norm(felt, axis=1).max())

    def _learn(self, gradient: np.ndarray) -> None:
        """Add the move that led here to the history."""
        if len(self.steps) < 2:
            return
        rise = (self.steps[-1].energy - self.steps[-2].energy) / len(self.steps[-1].forces)
        if rise > LARGEST_RISE:
            self._history.clear()
        change = gradient - self._gradient
        product = float((self._move * change).sum())
        # Where the energy curves downward, a model with a minimum has nothing to learn.
        if product > 1e-4 * float((self._move**2).sum()):
            self._history.append((self._move, change, 1 / product))

    def _next_move(self, gradient: np.ndarray) -> np.ndarray:
        """The step of L-BFGS: inverse Hessian times the negative gradient, no longer than allowed."""
        move, weights = -gradient, []
        for moved, change, inverse in reversed(self._history):
            weights.append(inverse * float((moved * move).sum()))
            move = move - weights[-1] * change
        move = move / STIFFNESS
        for (moved, change, inverse), weight in zip(self._history, reversed(weights), strict=True):
            move = move + (weight - inverse * float((change * move).sum())) * moved
        if (move * gradient).sum() >= 0:  # rounding has eaten the model
            self._history.clear()
            move = -gradient / STIFFNESS
        return move * min(1.0, self.settings.max_step / np.linalg.norm(move, axis=1).max())

    def _fault(self, step: Step) -> str | None:
        values = (step.positions, step.cell, np.array(step.energy), step.forces, step.stress)
        if not all(np.isfinite(value).all() for value in values):
            return f"exploded: energy, forces or stress are not finite at step {len(self.steps)}."
        swelling = abs(np.linalg.det(step.cell)) / abs(np.linalg.det(self._cell))
        if not 1 / self.settings.largest_swelling < swelling < self.settings.largest_swelling:
            return (
                f"exploded: the volume at step {len(self.steps)} is {swelling:.2g} times that of the start."
            )
        near = close_atoms(
            self.crystal.numbers.numpy(), step.positions, step.cell, self.crystal.pbc[0].numpy()
        )
        return near and f"exploded: at step {len(self.steps)} {near}"


def descend(
    potential: Potential,
    source: Iterator[tuple[K, CrystalBatch]],
    settings: LbfgsSettings,
    still_wanted: Callable[[], bool] = lambda: True,
    minutes: float | None = None,
) -> Iterator[Walk[K]]:
    """Relax a stream of crystals.

    Args:
        potential: Energies, forces and stresses.
        source: Keys, and batches of one crystal each; asked for the next one when there is room.
        settings: Steps, end, room.
        still_wanted: Asked before every step; once it says no, the walks under way are dropped.
        minutes: A crystal that is still on its way so long after its first step began is given up.

    Yields:
        Walks, as they end.
    """
    room = settings.batch_atoms or potential.room
    walks: list[Walk[K]] = []
    begun: dict[Walk[K], float] = {}
    waiting = next(source, None)
    while (walks or waiting is not None) and still_wanted():
        taken = sum(walk.crystal.n_atoms for walk in walks)
        while waiting is not None and (not walks or taken + waiting[1].n_atoms <= room):
            walks.append(Walk(*waiting, settings))
            begun[walks[-1]] = time.monotonic()
            taken += waiting[1].n_atoms
            waiting = next(source, None)
        on_their_way = []
        for walk, found in zip(walks, _evaluate(potential, [walk.here for walk in walks]), strict=True):
            if isinstance(found, str):
                walk.fault = found
            elif walk.go_on(found):
                taken_so_far = (time.monotonic() - begun[walk]) / 60
                if minutes is None or taken_so_far <= minutes:
                    on_their_way.append(walk)
                    continue
                walk.fault = (
                    f"too slow: not relaxed after {len(walk.steps)} steps and {taken_so_far:.3g} minutes; "
                    f"{minutes:g} were allowed."
                )
            del begun[walk]
            yield walk
        walks = on_their_way


def _evaluate(potential: Potential, crystals: list[CrystalBatch]) -> list[Step | str]:
    """One step for every crystal, or why the potential fails on it: no crystal costs the others."""
    batch = CrystalBatch.collate(crystals)
    try:
        return list(_steps(batch, potential.evaluate(batch)))
    except Exception as error:  # calculators raise anything
        if len(crystals) == 1:
            said = " ".join(str(error).split())[:300]
            return [f"the calculator failed: {type(error).__name__}: {said}".rstrip(": ")]
    # Halves, so that a batch too large for the memory costs little.
    half = len(crystals) // 2
    return _evaluate(potential, crystals[:half]) + _evaluate(potential, crystals[half:])


def _steps(batch: CrystalBatch, found: Evaluation) -> Iterator[Step]:
    ends = batch.counts.cumsum(0)[:-1].tolist()
    columns = (
        np.split(batch.positions.numpy(), ends),
        batch.cells.numpy(),
        found.energy.tolist(),
        np.split(found.forces.cpu().numpy(), ends),
        found.stress.cpu().numpy(),
    )
    yield from map(Step, *columns)
