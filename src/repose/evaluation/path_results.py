"""Results of an evaluation of relaxation paths: errors of energies, forces and geometry by frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from repose.data.frames import SelectedPaths
from repose.evaluation.metrics import ENERGY_RISE, Metric
from repose.evaluation.results import SPEED, TRIVIAL, CrystalInfo, gains, group_by_dataset, ids_not_finite
from repose.evaluation.tables import nan_mean
from repose.relaxer.baselines import Rescale

# Errors up to this count as zero, in any unit: forces that vanish by symmetry are some 1e-17 eV/A.
ROUNDING = 1e-6

ERRORS = (
    Metric("energy_end", "energy, end", "eV", 4),
    Metric("energy_all", "energy, all frames", "eV", 4),
    Metric("energy_per_atom_end", "energy, end", "eV/atom", 4),
    Metric("energy_per_atom_all", "energy, all frames", "eV/atom", 4),
    Metric("forces_end", "forces, end", "eV/Å", 4),
    Metric("forces_all", "forces, all frames", "eV/Å", 4),
    Metric("coordinates", "coordinates, end", "Å", 4),
    Metric("aligned", "aligned, end", "Å", 4),
)
RISING = Metric("rising", "rising", "%", 1)
CURVES = (
    Metric("energies", "energy", "eV/atom", 4),
    Metric("forces", "forces", "eV/Å", 4),
    Metric("coordinates", "coordinates", "Å", 4),
)


class PathScores(NamedTuple):
    """Predicted paths of S crystals with T frames each, and their errors against the reference.

    Attributes:
        energies: Predicted, eV per cell, ``(S, T)``; NaN without a prediction, as in all arrays here.
        largest: Largest predicted force on an atom, eV/A, ``(S, T)``.
        forces: Mean absolute error of the components of forces, eV/A, ``(S, T)``.
        coordinates: Mean absolute error of the components of positions, A, ``(S, T)``.
        aligned: Root mean square distance of atoms in the last frame after alignment, A, ``(S,)``.
        finite: False where the prediction was not finite and Dummy's path was scored instead, ``(S,)``.
        seconds: Share of the time of its batch, ``(S,)``.
    """

    energies: np.ndarray
    largest: np.ndarray
    forces: np.ndarray
    coordinates: np.ndarray
    aligned: np.ndarray
    finite: np.ndarray
    seconds: np.ndarray

    @classmethod
    def join(cls, parts: list[PathScores]) -> PathScores:
        """Concatenate batches."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class PathEvaluation:
    """Errors of the path of every crystal for every relaxer, trivial ones first.

    Attributes:
        split: Name of the evaluated split.
        frames: T, frames of every path.
        crystals: The S crystals, dataset by dataset.
        found: Reference paths by dataset, with counts of the crystals left out.
        reference: Scores of the reference paths themselves; their errors are zero.
        by_noise: Scores by standard deviation in A of the noise on the input, 0 first, and by relaxer, Dummy
            first.
    """

    split: str
    frames: int
    crystals: tuple[CrystalInfo, ...]
    found: Mapping[str, SelectedPaths]
    reference: PathScores
    by_noise: Mapping[float, Mapping[str, PathScores]]

    @property
    def scores(self) -> Mapping[str, PathScores]:
        """Scores by relaxer, without noise on the input."""
        return self.by_noise[0.0]

    @property
    def models(self) -> list[str]:
        """Names of the relaxers that are not trivial."""
        return [name for name in self.scores if name not in TRIVIAL]

    @property
    def atoms(self) -> np.ndarray:
        """Number of atoms of every crystal, ``(S,)``."""
        return np.array([crystal.n_atoms for crystal in self.crystals])

    @property
    def not_finite(self) -> dict[str, list[str]]:
        """Ids of the crystals whose path was not finite, by relaxer that has any."""
        return ids_not_finite(self.crystals, {name: scores.finite for name, scores in self.scores.items()})

    def values(self, scores: PathScores) -> dict[str, np.ndarray]:
        """Errors by key of `ERRORS`, ``rise`` and ``rising``, ``(S,)`` each.

        ``rise`` is the largest increase of the predicted energy between consecutive frames in eV per atom,
        ``rising`` is 100 % if it exceeds `ENERGY_RISE`, else 0. Both are NaN where the prediction was not
        finite.
        """
        energy = np.abs(scores.energies - self.reference.energies)
        rise = np.diff(scores.energies, axis=1).max(axis=1) / self.atoms
        rise = np.where(scores.finite, rise, np.nan)
        return {
            "energy_end": energy[:, -1],
            "energy_all": energy.mean(axis=1),
            "energy_per_atom_end": energy[:, -1] / self.atoms,
            "energy_per_atom_all": energy.mean(axis=1) / self.atoms,
            "forces_end": scores.forces[:, -1],
            "forces_all": scores.forces.mean(axis=1),
            "coordinates": scores.coordinates[:, -1],
            "aligned": scores.aligned,
            "rise": rise,
            "rising": np.where(np.isnan(rise), np.nan, 100.0 * (rise > ENERGY_RISE)),
        }

    def curves(self, scores: PathScores) -> dict[str, np.ndarray]:
        """Errors of every frame by key of `CURVES`, ``(S, T)`` each; energies in eV per atom."""
        energies = np.abs(scores.energies - self.reference.energies) / self.atoms[:, None]
        return {"energies": energies, "forces": scores.forces, "coordinates": scores.coordinates}

    def blocks(self) -> list[dict[str, Any]]:
        """One block per dataset, and one of all crystals where there are several datasets.

        Returns:
            Each with ``dataset``, ``crystals`` (count), ``rows`` (means by relaxer), ``gains`` (see
            `repose.evaluation.results.gains`, by relaxer), ``curves`` (means of every frame by relaxer) and
            ``reference`` (of the reference paths, the share that rises in % and the mean largest force of the
            last frame in eV/A).
        """
        return [self._block(name, which) for name, which in group_by_dataset(self.crystals)]

    def _block(self, name: str, which: np.ndarray) -> dict[str, Any]:
        rows = self._rows(self.scores, which)
        return {
            "dataset": name,
            "crystals": len(which),
            "rows": rows,
            "gains": {
                row["relaxer"]: gains(row, rows, ERRORS, zero=ROUNDING)
                for row in rows
                if row["relaxer"] not in TRIVIAL
            },
            "curves": {
                relaxer: {
                    key: [nan_mean(column) for column in values[which].T]
                    for key, values in self.curves(scores).items()
                }
                for relaxer, scores in self.scores.items()
            },
            "reference": {
                RISING.key: nan_mean(self.values(self.reference)["rising"][which]),
                "largest_force_end": nan_mean(self.reference.largest[which, -1]),
            },
        }

    def _rows(self, by_relaxer: Mapping[str, PathScores], which: np.ndarray) -> list[dict[str, Any]]:
        constant = {RISING.key: np.nan, "rise": np.nan}  # energies of trivial paths are constant
        return [
            {
                "relaxer": relaxer,
                **{key: nan_mean(values[which]) for key, values in self.values(scores).items()},
                **(constant if relaxer in TRIVIAL else {}),
                "largest_force_end": nan_mean(scores.largest[which, -1]),
                SPEED.key: 1000 * nan_mean(scores.seconds[which]),
                "not_finite": int((~scores.finite[which]).sum()),
            }
            for relaxer, scores in by_relaxer.items()
        ]

    def perturbed(self) -> list[dict[str, Any]]:
        """Mean errors of all crystals by relaxer and noise (``scale``, A); empty without noise."""
        if len(self.by_noise) == 1:
            return []
        everything = np.arange(len(self.crystals))
        rows = [
            {"scale": scale, **row}
            for scale, by_relaxer in self.by_noise.items()
            for row in self._rows(by_relaxer, everything)
            if row["relaxer"] != Rescale.name
        ]
        order = list(self.scores)
        return sorted(rows, key=lambda row: order.index(row["relaxer"]))

    def per_crystal(self) -> list[dict[str, Any]]:
        """One row per noise, relaxer and crystal: its errors, and lists with a value for every frame.

        Lists are predicted and reference energies in eV per cell, predicted and reference largest forces in
        eV/A, and errors of forces in eV/A and of coordinates in A.
        """
        return [
            {
                "id": crystal.id,
                "dataset": crystal.dataset,
                "scale": scale,
                "relaxer": relaxer,
                "formula": crystal.formula,
                "n_atoms": crystal.n_atoms,
                **{key: float(column[index]) for key, column in values.items()},
                SPEED.key: 1000 * float(scores.seconds[index]),
                "finite": bool(scores.finite[index]),
                "energies": scores.energies[index].tolist(),
                "reference_energies": self.reference.energies[index].tolist(),
                "largest_forces": scores.largest[index].tolist(),
                "reference_largest_forces": self.reference.largest[index].tolist(),
                "force_errors": scores.forces[index].tolist(),
                "coordinate_errors": scores.coordinates[index].tolist(),
            }
            for scale, by_relaxer in self.by_noise.items()
            for relaxer, scores in by_relaxer.items()
            for values in [self.values(scores)]
            for index, crystal in enumerate(self.crystals)
        ]
