"""Relaxed geometry together with how wrong it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystal.frame import Frame
from repose.crystal.graph import PeriodicGraph, edge_vectors
from repose.models.prediction import Geometry, Prediction, Trajectory
from repose.nn.ops import segment_mean

LEVEL = 90  # %; what "uncertainty" means where no level is named


class Bonds(NamedTuple):
    """Bonds of one crystal: the edges of the model's graph.

    Attributes:
        first: Atom i, ``(E,)``.
        second: Atom j, ``(E,)``.
        shift: Cell that j stands in, for atoms as they are written, ``(E, 3)``.
        length: In the relaxed crystal as predicted, A, ``(E,)``.
        uncertainty: Bound on the error of the length in A at 90 %, ``(E,)``.
    """

    first: np.ndarray
    second: np.ndarray
    shift: np.ndarray
    length: np.ndarray
    uncertainty: np.ndarray


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors to expect of a batch, not calibrated.

    Attributes:
        crystals: Mean error of coordinates in A, ``(S,)``; NaN where nothing can be said.
        atoms: Of every atom, mean over x, y, z in A, ``(N,)``.
        bonds: Of the length of every edge in A, ``(E,)``.
        strains: Of the strain, where the family says so, ``(S,)``.
    """

    crystals: Tensor
    atoms: Tensor
    bonds: Tensor
    strains: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Errors:
        """The same with every tensor changed, e.g. moved to a device."""
        strains = None if self.strains is None else change(self.strains)
        return Errors(change(self.crystals), change(self.atoms), change(self.bonds), strains)


class Outcome(NamedTuple):
    """The part of an `Estimate` that is about one crystal, bounds at 90 %.

    Attributes:
        positions: A, ``(N, 3)``.
        cell: Rows, A, ``(3, 3)``.
        violation: As in `Estimate`, and so are the following.
        uncertainty: Bound on the coordinate error in A.
        atoms: Bounds for atoms in A, ``(N,)``.
        strain: Bound for the strain.
        bonds: The bonds.
        outside: Why it lies outside of what the model knows.
        path: The way from the input to the answer, both included.
    """

    positions: np.ndarray
    cell: np.ndarray
    violation: float | None = None
    uncertainty: float | None = None
    atoms: np.ndarray | None = None
    strain: float | None = None
    bonds: Bonds | None = None
    outside: str | None = None
    path: tuple[Frame, ...] | None = None

    def shifted(self, home: np.ndarray) -> Outcome:
        """The same for atoms written so many cells ``(N, 3)`` further."""
        bonds, path = self.bonds, self.path
        if bonds is not None:
            bonds = bonds._replace(shift=bonds.shift + (home[bonds.first] - home[bonds.second]).astype(int))
        if path is not None:
            path = tuple(replace(frame, positions=frame.positions + home @ frame.cell) for frame in path)
        return self._replace(positions=self.positions + home @ self.cell, bonds=bonds, path=path)


@dataclass(frozen=True, eq=False)
class Estimate:
    """What `Relaxer.estimate` gives.

    Attributes:
        geometry: The relaxed crystals.
        bounds: Bounds on the coordinate error in A by level in %, each ``(S,)``; empty without calibration.
        expected: Errors behind these bounds, or None where the model has none.
        atoms: Bounds at 90 % for every atom in A, ``(N,)``, or None; so are the following two.
        strains: For the strain from the predicted to the relaxed cell, ``(S,)``.
        bonds: For the bonds of every crystal.
        outside: Why a crystal lies outside of what the model knows, or None, crystal by crystal.
        violation: What remains to be met of predicted distances in A, ``(S,)``, for families that have them.
        paths: The way of every crystal, for families that know it.
    """

    geometry: Geometry
    bounds: dict[int, Tensor] = field(default_factory=dict)
    expected: Errors | None = None
    atoms: Tensor | None = None
    strains: Tensor | None = None
    bonds: list[Bonds] | None = None
    outside: list[str | None] | None = None
    violation: Tensor | None = None
    paths: list[tuple[Frame, ...]] | None = None

    def split(self, counts: list[int]) -> list[Outcome]:
        """Crystal by crystal, for the number of atoms of each."""

        def by_atom(values: Tensor | None) -> Sequence[Any]:
            if values is None:
                return [None] * len(counts)
            return [part.numpy() for part in _double(values).split(counts)]

        def by_crystal(values: Sequence[Any] | Tensor | None) -> Sequence[Any]:
            if values is None:
                return [None] * len(counts)
            return _double(values).tolist() if isinstance(values, Tensor) else values

        # No number: nothing can be said.
        bounds = [None if bound != bound else bound for bound in by_crystal(self.bounds.get(LEVEL))]
        columns = (
            by_atom(self.geometry.positions),
            _double(self.geometry.cells).numpy(),
            by_crystal(self.violation),
            bounds,
            by_atom(self.atoms),
            by_crystal(self.strains),
            by_crystal(self.bonds),
            by_crystal(self.outside),
            by_crystal(self.paths),
        )
        return [Outcome(*row) for row in zip(*columns, strict=True)]


def _double(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def expected_errors(
    prediction: Prediction, geometry: Geometry, system_index: Tensor, graph: PeriodicGraph
) -> Errors | None:
    """Errors that a prediction lets expect; None if it has nothing to say.

    For distances they are their scales, the crystal's being the mean over its bonds (DeepRelax, equation 24),
    an atom's the mean over those it has. For positions they are the scales of atoms; a bond changes by what
    its two atoms do and by the strain.

    Args:
        prediction: Of one network, or of an ensemble, whose scales hold its spread (equation 23).
        geometry: The answer.
        system_index: Crystal of every atom, ``(N,)``.
        graph: The edges.
    """
    n = len(geometry.cells)
    if prediction.error_scales is not None:
        atoms, strains = prediction.error_scales
        length = edge_vectors(graph, *geometry).norm(dim=-1)
        bonds = atoms[graph.receiver] + atoms[graph.sender] + strains[graph.system_index] * length
        return Errors(segment_mean(atoms, system_index, n), atoms, bonds, strains)
    if prediction.distances is None or prediction.distances.scale is None:
        return None
    bonds = prediction.distances.scale
    empty = torch.bincount(graph.system_index, minlength=n) == 0
    crystals = segment_mean(bonds, graph.system_index, n).masked_fill(empty, torch.nan)
    return Errors(crystals, segment_mean(bonds, graph.receiver, graph.n_atoms), bonds)


def split_bonds(graph: PeriodicGraph, geometry: Geometry, uncertainty: Tensor, counts: Tensor) -> list[Bonds]:
    """Bonds crystal by crystal, atoms counted from 0 in each.

    Args:
        graph: The edges, crystal by crystal.
        geometry: The relaxed crystals.
        uncertainty: Bound for every edge in A, ``(E,)``.
        counts: Atoms of every crystal, ``(S,)``.
    """
    first_atom = (counts.cumsum(0) - counts)[graph.system_index]
    columns = (
        graph.receiver - first_atom,
        graph.sender - first_atom,
        graph.shift.long(),
        edge_vectors(graph, *geometry).norm(dim=-1),
        uncertainty,
    )
    borders = torch.bincount(graph.system_index, minlength=len(counts)).cumsum(0)[:-1].tolist()
    parts = zip(*(np.split(column.cpu().numpy(), borders) for column in columns), strict=True)
    return [Bonds(*part) for part in parts]


def split_trajectory(trajectory: Trajectory, counts: Tensor) -> list[tuple[Frame, ...]]:
    """Frames crystal by crystal.

    Args:
        trajectory: Of the batch.
        counts: Atoms of every crystal, ``(S,)``.
    """
    ends = counts.cumsum(0)[:-1].tolist()
    positions, cells, energies, forces, stresses = (_double(part).numpy() for part in trajectory)
    columns = zip(
        np.split(positions, ends, axis=1),
        cells.swapaxes(0, 1),
        energies.T.tolist(),
        np.split(forces, ends, axis=1),
        stresses.swapaxes(0, 1),
        strict=True,
    )
    return [tuple(Frame(*frame) for frame in zip(*crystal, strict=True)) for crystal in columns]
