"""Relaxed geometry of a batch of crystals with its uncertainties: what every relaxer returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, bincount, cat

from repose.crystal.frame import Frame
from repose.crystal.graph import PeriodicGraph, edge_vectors
from repose.models.prediction import Geometry, Trajectory
from repose.models.uncertainty.calibration import LEVEL
from repose.models.uncertainty.expected_errors import ExpectedErrors


class Bonds(NamedTuple):
    """Bonds of one crystal: the edges of the model's graph.

    Attributes:
        first: Atom i, ``(E,)``.
        second: Atom j, ``(E,)``.
        shift: Lattice vectors from the given position of j to the image that is bonded to i, ``(E, 3)`` int.
        length: In the predicted relaxed crystal, A, ``(E,)``.
        uncertainty: Bound on the error of the length in A at 90 %, ``(E,)``.
    """

    first: np.ndarray
    second: np.ndarray
    shift: np.ndarray
    length: np.ndarray
    uncertainty: np.ndarray


@dataclass(frozen=True, eq=False)
class BatchRelaxation:
    """Result for S crystals of N atoms in all; `split` gives the values of one crystal for `Relaxation`.

    To add an uncertainty, add it here and, under the name that `split` uses, to `Relaxation`.

    Attributes:
        geometry: Relaxed positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A.
        bounds: Bounds on the coordinate error in A by level in %, each ``(S,)``; empty without calibration,
            NaN where the model gives none.
        expected: Errors before calibration, or None.
        atom_uncertainty: Bound at 90 % for every atom in A, ``(N,)``, or None.
        strain_uncertainty: The same for the strain from the predicted to the relaxed cell, ``(S,)``.
        bond_uncertainty: The same for the bonds of every crystal.
        outside: For every crystal, why it is out of distribution, or None.
        violation: Mean deviation from predicted distances in A, ``(S,)``, for families that predict them.
        paths: Relaxation path of every crystal, for families that predict it.
    """

    geometry: Geometry
    bounds: dict[int, Tensor] = field(default_factory=dict)
    expected: ExpectedErrors | None = None
    atom_uncertainty: Tensor | None = None
    strain_uncertainty: Tensor | None = None
    bond_uncertainty: list[Bonds] | None = None
    outside: list[str | None] | None = None
    violation: Tensor | None = None
    paths: list[tuple[Frame, ...]] | None = None

    @classmethod
    def joined(cls, parts: Sequence[BatchRelaxation]) -> BatchRelaxation:
        """Join predictions of consecutive crystals, before calibration."""
        if len(parts) == 1:
            return parts[0]
        geometries, expected = [part.geometry for part in parts], [part.expected for part in parts]
        violations, paths = [part.violation for part in parts], [part.paths for part in parts]
        known = [one for one in expected if one is not None]
        return cls(
            Geometry(*map(cat, zip(*geometries, strict=True))),
            expected=ExpectedErrors.joined(known) if known else None,
            violation=None if violations[0] is None else cat(violations),  # type: ignore[arg-type]
            paths=None if paths[0] is None else [path for part in paths for path in part or ()],
        )

    def split(self, counts: Sequence[int], shift: Tensor) -> list[dict[str, Any]]:
        """Values of each crystal in float64: ``positions``, ``cell``, ``violation``, fields of `Relaxation`.

        Args:
            counts: Atoms of every crystal.
            shift: Lattice vectors to add to each atom, ``(N, 3)``, e.g. from
                `repose.models.initial_structure.wrap_far_atoms`.
        """

        def by_crystal(values: Sequence[Any] | Tensor | None) -> Sequence[Any]:
            if values is None:
                return [None] * len(counts)
            return _double(values).tolist() if isinstance(values, Tensor) else values

        def by_atom(values: Tensor | None) -> Sequence[Any]:
            return by_crystal(None if values is None else np.split(_double(values), np.cumsum(counts)[:-1]))

        columns = {
            "positions": by_atom(self.geometry.positions),
            "cell": _double(self.geometry.cells),
            "violation": by_crystal(self.violation),
            "uncertainty": by_crystal(self.bounds.get(LEVEL)),
            "atom_uncertainty": by_atom(self.atom_uncertainty),
            "strain_uncertainty": by_crystal(self.strain_uncertainty),
            "bond_uncertainty": by_crystal(self.bond_uncertainty),
            "outside": by_crystal(self.outside),
            "path": by_crystal(self.paths),
        }
        crystals = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        for values, cells in zip(crystals, by_atom(shift), strict=True):
            if values["uncertainty"] is not None and np.isnan(values["uncertainty"]):
                values["uncertainty"] = None
            if cells.any():
                _translate(values, cells)
        return crystals


def split_bonds(graph: PeriodicGraph, geometry: Geometry, uncertainty: Tensor, counts: Tensor) -> list[Bonds]:
    """Bonds of every crystal, atoms counted from 0 in each.

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
    borders = bincount(graph.system_index, minlength=len(counts)).cumsum(0)[:-1].tolist()
    parts = zip(*(np.split(column.cpu().numpy(), borders) for column in columns), strict=True)
    return [Bonds(*part) for part in parts]


def split_trajectory(trajectory: Trajectory, counts: Tensor) -> list[tuple[Frame, ...]]:
    """Frames of every crystal of a batch, from the numbers of their atoms ``(S,)``."""
    ends = counts.cumsum(0)[:-1].tolist()
    positions, cells, energies, forces, stresses = map(_double, trajectory)
    columns = zip(
        np.split(positions, ends, axis=1),
        cells.swapaxes(0, 1),
        energies.T.tolist(),
        np.split(forces, ends, axis=1),
        stresses.swapaxes(0, 1),
        strict=True,
    )
    return [tuple(Frame(*frame) for frame in zip(*crystal, strict=True)) for crystal in columns]


def _translate(values: dict[str, Any], cells: np.ndarray) -> None:
    """Move each atom of one crystal by lattice vectors ``(n, 3)``, in place."""
    values["positions"] = values["positions"] + cells @ values["cell"]
    if (bonds := values["bond_uncertainty"]) is not None:
        shift = bonds.shift + (cells[bonds.first] - cells[bonds.second]).astype(int)
        values["bond_uncertainty"] = bonds._replace(shift=shift)
    if values["path"] is not None:
        values["path"] = tuple(
            replace(frame, positions=frame.positions + cells @ frame.cell) for frame in values["path"]
        )


def _double(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
