"""Tables of an evaluation of relaxation paths: energies, forces and geometry, frame by frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repose.data.frames import Paths
from repose.errors import require
from repose.evaluation.metrics import Metric
from repose.evaluation.report import NAMES_SHOWN, SPEED, TRIVIAL, Crystal
from repose.evaluation.tables import for_json, known_mean, markdown_table, number, write_files
from repose.relaxer.baselines import Rescale

# An energy that rises by no more than this from frame to frame does not count as rising, eV per atom.
RISE = 1e-3
# Errors below this are zero, in any of the units: sites without forces have some of 1e-17 eV/A.
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
# What the table of perturbed inputs shows.
ROBUST = tuple(metric for metric in ERRORS if not metric.key.endswith("all"))


class Track(NamedTuple):
    """What one relaxer says of S paths of T frames, and how far that is from the reference.

    Attributes:
        energies: As predicted, eV per cell, ``(S, T)``; NaN where nothing is said, here and below.
        largest: Largest force on an atom as predicted, eV/A, ``(S, T)``.
        forces: Mean absolute error over components of forces, eV/A, ``(S, T)``.
        coordinates: The same of positions, A, ``(S, T)``.
        aligned: Root mean square distance of atoms at the end after alignment, A, ``(S,)``.
        finite: False where the prediction was not finite and Dummy's path was scored instead, ``(S,)``.
        seconds: Share of the time its batch took, ``(S,)``.
    """

    energies: np.ndarray
    largest: np.ndarray
    forces: np.ndarray
    coordinates: np.ndarray
    aligned: np.ndarray
    finite: np.ndarray
    seconds: np.ndarray

    @classmethod
    def join(cls, parts: list[Track]) -> Track:
        """Batches one after another."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class PathReport:
    """Errors of the paths of every crystal for every relaxer, trivial ones first.

    Attributes:
        split: Name of the split evaluated.
        frames: T, frames of every path.
        crystals: The S crystals, dataset by dataset.
        found: By dataset, the reference paths, and how many crystals are left out for want of one.
        reference: The reference itself, with errors of zero.
        tracks: By scale in A of the noise on the input, 0 first, and by relaxer, Dummy first.
    """

    split: str
    frames: int
    crystals: tuple[Crystal, ...]
    found: Mapping[str, Paths]
    reference: Track
    tracks: Mapping[float, Mapping[str, Track]]

    @property
    def plain(self) -> Mapping[str, Track]:
        """Without noise."""
        return self.tracks[0.0]

    @property
    def models(self) -> list[str]:
        """Names of the relaxers that are not trivial."""
        return [name for name in self.plain if name not in TRIVIAL]

    @property
    def atoms(self) -> np.ndarray:
        """Atoms of every crystal, ``(S,)``."""
        return np.array([crystal.n_atoms for crystal in self.crystals])

    @property
    def not_finite(self) -> dict[str, list[str]]:
        """Crystals whose path was not finite, by relaxer; only relaxers that have any."""
        return {
            name: [self.crystals[i].id for i in np.flatnonzero(~track.finite)]
            for name, track in self.plain.items()
            if not track.finite.all()
        }

    def values(self, track: Track) -> dict[str, np.ndarray]:
        """Errors by key of `ERRORS`, the rise, and whether that is one, ``(S,)`` each.

        ``rise`` is the largest rise of the predicted energy from a frame to the next in eV per atom, and
        ``rising`` 0 or 100 %; both are NaN where the prediction was not finite.
        """
        energy = np.abs(track.energies - self.reference.energies)
        rise = np.diff(track.energies, axis=1).max(axis=1) / self.atoms
        rise = np.where(track.finite, rise, np.nan)
        return {
            "energy_end": energy[:, -1],
            "energy_all": energy.mean(axis=1),
            "energy_per_atom_end": energy[:, -1] / self.atoms,
            "energy_per_atom_all": energy.mean(axis=1) / self.atoms,
            "forces_end": track.forces[:, -1],
            "forces_all": track.forces.mean(axis=1),
            "coordinates": track.coordinates[:, -1],
            "aligned": track.aligned,
            "rise": rise,
            "rising": np.where(np.isnan(rise), np.nan, 100.0 * (rise > RISE)),
        }

    def curves(self, track: Track) -> dict[str, np.ndarray]:
        """Errors of every frame by key of `CURVES`, ``(S, T)`` each; energies in eV per atom."""
        energies = np.abs(track.energies - self.reference.energies) / self.atoms[:, None]
        return {"energies": energies, "forces": track.forces, "coordinates": track.coordinates}

    def blocks(self) -> list[dict[str, Any]]:
        """One block per dataset, and one of all together where there are several.

        Returns:
            Each with ``dataset``, ``crystals`` (count), ``rows`` (means by relaxer), ``gains`` (% over the
            better trivial row, by relaxer), ``curves`` (means of every frame by relaxer) and ``reference``
            (of the reference paths, the share that rises in % and the mean largest force at the end in eV/A).
        """
        owner = np.array([crystal.dataset for crystal in self.crystals])
        blocks = [self._block(name, np.flatnonzero(owner == name)) for name in dict.fromkeys(owner.tolist())]
        return blocks if len(blocks) == 1 else [*blocks, self._block("all", np.arange(len(owner)))]

    def _block(self, name: str, which: np.ndarray) -> dict[str, Any]:
        rows = self._rows(self.plain, which)
        reference = self.values(self.reference)["rising"][which]
        return {
            "dataset": name,
            "crystals": len(which),
            "rows": rows,
            "gains": {row["relaxer"]: _gains(row, rows) for row in rows if row["relaxer"] in self.models},
            "curves": {
                relaxer: {
                    key: [known_mean(column) for column in values[which].T]
                    for key, values in self.curves(track).items()
                }
                for relaxer, track in self.plain.items()
            },
            "reference": {
                RISING.key: known_mean(reference),
                "largest_force_end": known_mean(self.reference.largest[which, -1]),
            },
        }

    def _rows(self, tracks: Mapping[str, Track], which: np.ndarray) -> list[dict[str, Any]]:
        still = {RISING.key: np.nan, "rise": np.nan}  # would only look good
        return [
            {
                "relaxer": relaxer,
                **{key: known_mean(values[which]) for key, values in self.values(track).items()},
                **(still if relaxer in TRIVIAL else {}),
                "largest_force_end": known_mean(track.largest[which, -1]),
                SPEED.key: 1000 * known_mean(track.seconds[which]),
                "not_finite": int((~track.finite[which]).sum()),
            }
            for relaxer, track in tracks.items()
        ]

    def perturbed(self) -> list[dict[str, Any]]:
        """Mean errors of all crystals by relaxer and scale of the noise (``scale``, A); [] without noise."""
        if len(self.tracks) == 1:
            return []
        everything = np.arange(len(self.crystals))
        rows = [
            {"scale": scale, **row}
            for scale, tracks in self.tracks.items()
            for row in self._rows(tracks, everything)
            if row["relaxer"] != Rescale.name
        ]
        order = list(self.plain)
        return sorted(rows, key=lambda row: order.index(row["relaxer"]))

    def notes(self) -> list[str]:
        """What a reader of the table has to know."""
        dummy, *_ = self.plain.values()
        if np.isnan(dummy.energies).any():
            elements = "it says nothing of energies and forces: no train split has paths to fit energies to."
        else:
            elements = (
                "its energy is that of the elements (least squares over all frames of the train splits' "
                "paths), its forces are zero."
            )
        notes = [
            f"{dataset}: {paths}; the reference has so many frames, evenly spread."
            for dataset, paths in self.found.items()
        ]
        notes += [
            "Errors are means of absolute errors, over crystals last. The reference stands in the periodic "
            "images nearest to the unrelaxed positions.",
            "Aligned: root mean square distance of atoms, those of one cell taken as a molecule, after the "
            "best shift and proper rotation (Kabsch).",
            f"Rising: crystals whose energy rises by more than {RISE:g} eV/atom from a frame to the next.",
            f"Dummy is the input unchanged in every frame; {elements} Rescale, where it stands, is the input "
            "scaled to a volume linear in composition.",
            "Gain: how much lower the error is than the lower of the two.",
        ]
        for relaxer, ids in self.not_finite.items():
            more = f" and {len(ids) - NAMES_SHOWN} more" if len(ids) > NAMES_SHOWN else ""
            notes.append(
                f"{relaxer}: {len(ids)} of {len(self.crystals)} paths were not finite, are scored as Dummy's "
                f"and count neither as rising nor as not: {', '.join(ids[:NAMES_SHOWN])}{more}."
            )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Everything in the tables, ready for JSON; numbers that do not exist are None."""
        return for_json(
            {
                "split": self.split,
                "frames": self.frames,
                "units": {metric.key: metric.unit for metric in (*ERRORS, RISING, SPEED)},
                "left_out": {
                    dataset: {"too_short": paths.too_short, "unlabelled": paths.unlabelled}
                    for dataset, paths in self.found.items()
                },
                "blocks": self.blocks(),
                "perturbed": self.perturbed(),
                "not_finite": self.not_finite,
                "notes": self.notes(),
            }
        )

    def markdown(self) -> str:
        """The tables as Markdown."""
        lines = [f"# Paths of {self.frames} frames on the {self.split} split"]
        for block in self.blocks():
            lines += ["", f"## {block['dataset']}: {block['crystals']} crystals", "", *self._table(block)]
            lines += ["", "Frame by frame:", "", *self._frame_table(block)]
        if rows := self.perturbed():
            lines += ["", "## Perturbed inputs, all crystals", "", *_perturbed_table(rows)]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes())]) + "\n"

    def _table(self, block: dict[str, Any]) -> list[str]:
        columns = (*ERRORS, RISING, SPEED)
        rows = [[row["relaxer"], *(number(row[c.key], c.digits) for c in columns)] for row in block["rows"]]
        rows += [
            [f"gain of {relaxer}, %", *(number(gains.get(c.key, np.nan), 1, "+") for c in columns)]
            for relaxer, gains in block["gains"].items()
        ]
        known = block["reference"]
        rows += [["the reference", *(number(known.get(c.key, np.nan), c.digits) for c in columns)]]
        return markdown_table(["", *(f"{c.label}, {c.unit}" for c in columns)], rows)

    def _frame_table(self, block: dict[str, Any]) -> list[str]:
        rows = [
            [relaxer, f"{curve.label}, {curve.unit}", *(number(v, curve.digits) for v in curves[curve.key])]
            for relaxer, curves in block["curves"].items()
            for curve in CURVES
            if relaxer != Rescale.name
        ]
        return markdown_table(["", "error", *map(str, range(self.frames))], rows)

    def write(self, directory: str | Path) -> list[Path]:
        """Write ``paths.md``, ``paths.json``, ``paths.parquet`` and two plots, each atomically.

        Args:
            directory: Made if it is not there; files of the same names are replaced.

        Returns:
            The files.

        Raises:
            MissingExtraError: pyarrow or matplotlib is not installed.
        """
        require("pyarrow", "writing errors per crystal")
        require("matplotlib", "plotting")
        import pyarrow as pa
        import pyarrow.parquet as pq

        from repose.evaluation import path_plots

        rows = pa.Table.from_pylist(self.per_crystal())
        files: dict[str, Callable[[Path], Any]] = {
            "paths.md": lambda path: path.write_text(self.markdown(), encoding="utf-8"),
            "paths.json": lambda path: path.write_text(json.dumps(self.to_dict(), indent=2) + "\n"),
            "paths.parquet": lambda path: pq.write_table(rows, path),
            "path_errors.png": lambda path: path_plots.errors(self).savefig(path, dpi=150),
            "path_examples.png": lambda path: path_plots.examples(self).savefig(path, dpi=150),
        }
        return write_files(Path(directory), files)

    def per_crystal(self) -> list[dict[str, Any]]:
        """One row per scale of noise, relaxer and crystal: its errors, and every frame as lists.

        Lists are of energies in eV per cell and largest forces in eV/A, predicted and of the reference, and
        of errors of forces in eV/A and of coordinates in A.
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
                SPEED.key: 1000 * float(track.seconds[index]),
                "finite": bool(track.finite[index]),
                "energies": track.energies[index].tolist(),
                "reference_energies": self.reference.energies[index].tolist(),
                "largest_forces": track.largest[index].tolist(),
                "reference_largest_forces": self.reference.largest[index].tolist(),
                "force_errors": track.forces[index].tolist(),
                "coordinate_errors": track.coordinates[index].tolist(),
            }
            for scale, tracks in self.tracks.items()
            for relaxer, track in tracks.items()
            for values in [self.values(track)]
            for index, crystal in enumerate(self.crystals)
        ]


def _gains(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Gain in % over the better trivial row of every error; NaN where that row is at zero or says nothing."""
    gains = {}
    for metric in ERRORS:
        values = np.array([other[metric.key] for other in rows if other["relaxer"] in TRIVIAL])
        best = values[~np.isnan(values)].min(initial=np.inf)
        known = np.isfinite(best) and best > ROUNDING
        gains[metric.key] = 100 * (1 - row[metric.key] / best) if known else np.nan
    return gains


def _perturbed_table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        [row["relaxer"], f"{row['scale']:g}", *(number(row[c.key], c.digits) for c in ROBUST)] for row in rows
    ]
    return markdown_table(["", "noise, Å", *(f"{c.label}, {c.unit}" for c in ROBUST)], cells)
