"""Tables of an evaluation: per dataset, against the trivial rows, by severity of the input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repose.errors import require
from repose.evaluation.metrics import METRICS, Metric
from repose.evaluation.tables import for_json, known_mean, markdown_table, number, write_files
from repose.evaluation.uncertainty import NOTE, Uncertainty, summarise, uncertainty_table
from repose.relaxer.baselines import Dummy, Rescale

TRIVIAL = (Dummy.name, Rescale.name)
MATCH = Metric("match", "match", "%", 1)
SPEED = Metric("ms_per_crystal", "time", "ms per crystal", 2)
THIRDS = ("mildest", "middle", "most severe")
# More names than this would drown the table; table.json and per_crystal.parquet hold all.
NAMES_SHOWN = 20


class Crystal(NamedTuple):
    """What a crystal of the evaluation is.

    Attributes:
        id: Name in its dataset.
        dataset: Name of the dataset.
        formula: Chemical formula of the cell, Hill order.
        n_atoms: Atoms of the cell.
        input_volume: Volume of the unrelaxed cell, A^3.
        target_volume: Volume of the relaxed cell, A^3.
    """

    id: str
    dataset: str
    formula: str
    n_atoms: int
    input_volume: float
    target_volume: float


@dataclass(frozen=True, eq=False)
class Scores:
    """How one relaxer did on S crystals.

    Attributes:
        relaxer: Its name.
        values: By key of a metric, ``(S,)``; ``match`` is 0 or 100 %, and absent where not computed.
        volumes: Predicted volumes, A^3, ``(S,)``.
        finite: False where the prediction was not finite and the input was scored instead, ``(S,)``.
        seconds: Share of the time its batch took, graph included, ``(S,)``.
        uncertainty: What it said about its errors.
    """

    relaxer: str
    values: dict[str, np.ndarray]
    volumes: np.ndarray
    finite: np.ndarray
    seconds: np.ndarray
    uncertainty: Uncertainty


@dataclass(frozen=True, eq=False)
class Report:
    """Errors of every crystal for every relaxer, trivial ones first.

    Attributes:
        split: Name of the split evaluated.
        crystals: The S crystals, dataset by dataset.
        scores: One entry a relaxer, Dummy first; values in the order of ``crystals``.
    """

    split: str
    crystals: tuple[Crystal, ...]
    scores: tuple[Scores, ...]

    @property
    def columns(self) -> tuple[Metric, ...]:
        """Columns of the table."""
        return (*METRICS, *((MATCH,) if MATCH.key in self.scores[0].values else ()), SPEED)

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, in order."""
        return list(dict.fromkeys(crystal.dataset for crystal in self.crystals))

    @property
    def not_finite(self) -> dict[str, list[str]]:
        """Crystals whose prediction was not finite, by relaxer; only relaxers that have any."""
        return {
            scores.relaxer: [self.crystals[i].id for i in np.flatnonzero(~scores.finite)]
            for scores in self.scores
            if not scores.finite.all()
        }

    @cached_property
    def uncertainty(self) -> dict[str, dict[str, Any]]:
        """How bounds compare with errors on all crystals, see `summarise`, by relaxer that states any."""
        return self._uncertainty(np.arange(len(self.crystals)))

    def blocks(self) -> list[dict[str, Any]]:
        """One block per dataset, and one of all together where there are several.

        Returns:
            Each with ``dataset``, ``crystals`` (count), ``rows`` (mean of every column by relaxer), ``gains``
            (% over the better trivial row, by relaxer), ``severity`` (rows of the three thirds of the
            crystals by Dummy's coordinate error, with the bounds of that error in A) and ``uncertainty`` (see
            `summarise`, by relaxer that states any).
        """
        owner = np.array([crystal.dataset for crystal in self.crystals])
        blocks = [self._block(name, np.flatnonzero(owner == name)) for name in self.datasets]
        return blocks if len(blocks) == 1 else [*blocks, self._block("all", np.arange(len(owner)))]

    def _block(self, name: str, which: np.ndarray) -> dict[str, Any]:
        rows = self._rows(which)
        models = [row for row in rows if row["relaxer"] not in TRIVIAL]
        return {
            "dataset": name,
            "crystals": len(which),
            "rows": rows,
            "gains": {row["relaxer"]: self._gains(row, rows) for row in models},
            "severity": self._severity(which),
            "uncertainty": self._uncertainty(which),
        }

    def _rows(self, which: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "relaxer": scores.relaxer,
                **{key: known_mean(values[which]) for key, values in scores.values.items()},
                SPEED.key: 1000 * known_mean(scores.seconds[which]),
                "not_finite": int((~scores.finite[which]).sum()),
            }
            for scores in self.scores
        ]

    def _gains(self, row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float]:
        """Gain in % over the better trivial row of every column but time; NaN where that row is at zero."""
        trivial = [other for other in rows if other["relaxer"] in TRIVIAL]
        gains = {}
        for column in self.columns:
            if column is SPEED:
                continue
            values = [other[column.key] for other in trivial]
            sign, best = (1, max(values)) if column is MATCH else (-1, min(values))
            gains[column.key] = sign * 100 * (row[column.key] / best - 1) if best else np.nan
        return gains

    def _severity(self, which: np.ndarray) -> list[dict[str, Any]]:
        dummy = self.scores[0].values["coordinates"]
        ordered = which[np.argsort(dummy[which], kind="stable")]
        return [
            {
                "third": third,
                "crystals": len(part),
                "dummy_error": [float(dummy[part[0]]), float(dummy[part[-1]])],
                "rows": self._rows(part),
            }
            for third, part in zip(THIRDS, np.array_split(ordered, 3), strict=True)
            if len(part)
        ]

    def _uncertainty(self, which: np.ndarray) -> dict[str, dict[str, Any]]:
        rows = {s.relaxer: summarise(s.uncertainty, s.values, s.finite, which) for s in self.scores}
        return {relaxer: row for relaxer, row in rows.items() if row is not None}

    def notes(self) -> list[str]:
        """What a reader of the table has to know."""
        notes = [
            "Errors are means over crystals. Target and prediction stand in the periodic images nearest to "
            "the unrelaxed positions, or, where said, the target in those nearest to the prediction.",
            "Dummy is the input unchanged; Rescale is the input scaled to a volume linear in composition, "
            "fitted on the train splits of all datasets here.",
            "Gain: how much lower the error is than that of the better of the two (match: how much higher).",
            "Times include the neighbour graph and uncertainty, and leave out reading.",
        ]
        if len(self.scores) < 2 or self.scores[1].relaxer != Rescale.name:
            notes[1] = "Dummy is the input unchanged; Rescale is left out: no train split to fit it to."
        for relaxer, ids in self.not_finite.items():
            more = f" and {len(ids) - NAMES_SHOWN} more" if len(ids) > NAMES_SHOWN else ""
            notes.append(
                f"{relaxer}: {len(ids)} of {len(self.crystals)} predictions were not finite and are scored "
                f"as Dummy: {', '.join(ids[:NAMES_SHOWN])}{more}."
            )
        if self.uncertainty:
            notes.append(NOTE)
        for relaxer, row in self.uncertainty.items():
            if row["left_out"]:
                notes.append(
                    f"{relaxer}: {row['left_out']} of {len(self.crystals)} crystals have no bound or no "
                    "prediction that is finite, and are left out where uncertainty is compared with errors."
                )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Everything in the table, ready for JSON; numbers that do not exist are None."""
        units = {column.key: column.unit for column in self.columns}
        table = {"split": self.split, "units": units, "blocks": self.blocks()}
        return for_json({**table, "not_finite": self.not_finite, "notes": self.notes()})

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [f"# Evaluation on the {self.split} split"]
        for block in self.blocks():
            lines += ["", f"## {block['dataset']}: {block['crystals']} crystals", "", *self._table(block)]
            lines += ["", "By severity of the input (thirds of Dummy's coordinate error):", ""]
            lines += self._severity_table(block)
            if block["uncertainty"]:
                lines += ["", "Uncertainty:", "", *uncertainty_table(block["uncertainty"])]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes())]) + "\n"

    def _table(self, block: dict[str, Any]) -> list[str]:
        columns = self.columns
        rows = [[row["relaxer"], *(number(row[c.key], c.digits) for c in columns)] for row in block["rows"]]
        rows += [
            [f"gain of {relaxer}, %", *(number(gains.get(c.key, np.nan), 1, "+") for c in columns)]
            for relaxer, gains in block["gains"].items()
        ]
        return markdown_table(["", *(f"{c.label}, {c.unit}" for c in columns)], rows)

    def _severity_table(self, block: dict[str, Any]) -> list[str]:
        columns = [column for column in self.columns if column is not SPEED]
        rows = [
            [
                f"{third['third']}, {third['dummy_error'][0]:.3f} to {third['dummy_error'][1]:.3f} Å",
                row["relaxer"],
                *(number(row[c.key], c.digits) for c in columns),
            ]
            for third in block["severity"]
            for row in third["rows"]
        ]
        return markdown_table(["input", "", *(f"{c.label}, {c.unit}" for c in columns)], rows)

    def write(self, directory: str | Path) -> list[Path]:
        """Write ``table.md``, ``table.json``, ``per_crystal.parquet`` and the plots, each atomically.

        Where a relaxer states bounds there are ``uncertainty.png`` and, if it does so for bonds, too,
        ``bonds.png``.

        Args:
            directory: Made if it is not there; files of the same names are replaced, plots that this report
                does not have are removed.

        Returns:
            The files.

        Raises:
            MissingExtraError: pyarrow or matplotlib is not installed.
        """
        require("pyarrow", "writing errors per crystal")
        require("matplotlib", "plotting")
        import pyarrow as pa
        import pyarrow.parquet as pq

        from repose.evaluation import plots

        rows = pa.Table.from_pylist(self.per_crystal())
        files: dict[str, Callable[[Path], Any]] = {
            "table.md": lambda path: path.write_text(self.markdown(), encoding="utf-8"),
            "table.json": lambda path: path.write_text(json.dumps(self.to_dict(), indent=2) + "\n"),
            "per_crystal.parquet": lambda path: pq.write_table(rows, path),
            "errors.png": lambda path: plots.error_distributions(self).savefig(path, dpi=150),
            "volumes.png": lambda path: plots.volumes(self).savefig(path, dpi=150),
        }
        if self.uncertainty:
            files["uncertainty.png"] = lambda path: plots.uncertainty(self).savefig(path, dpi=150)
        if plots.drawn(self):
            files["bonds.png"] = lambda path: plots.bonds(self).savefig(path, dpi=150)
        directory = Path(directory)
        for name in {"uncertainty.png", "bonds.png"} - set(files):
            (directory / name).unlink(missing_ok=True)
        return write_files(directory, files)

    def per_crystal(self) -> list[dict[str, Any]]:
        """One row per relaxer and crystal: what it is, its errors, its volumes in A^3, its uncertainty."""
        return [
            {
                "id": crystal.id,
                "dataset": crystal.dataset,
                "relaxer": scores.relaxer,
                "formula": crystal.formula,
                "n_atoms": crystal.n_atoms,
                **{key: float(values[index]) for key, values in scores.values.items()},
                SPEED.key: 1000 * float(scores.seconds[index]),
                "input_volume": crystal.input_volume,
                "target_volume": crystal.target_volume,
                "predicted_volume": float(scores.volumes[index]),
                "finite": bool(scores.finite[index]),
                **scores.uncertainty.row(index),
            }
            for scores in self.scores
            for index, crystal in enumerate(self.crystals)
        ]
