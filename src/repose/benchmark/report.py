"""What a benchmark found: tables, plots, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from repose.atomic_write import replacing_file
from repose.benchmark.ceilings import Ceilings
from repose.benchmark.speed import Row
from repose.errors import require

HEADER = (
    "run",
    "crystals",
    "atoms",
    "network ms",
    "predict ms",
    "crystals/s",
    "Medges/s",
    "pass MB",
    "peak MB",
    "product",
    "copy",
    "x network",
    "x predict",
)


class Table(NamedTuple):
    """Rows of one model on one device, as text.

    Attributes:
        title: Model, size, device.
        rows: Cells in the order of `HEADER`.
        failures: What was not measured and why, one line each.
    """

    title: str
    rows: list[tuple[str, ...]]
    failures: list[str]


class Fit(NamedTuple):
    """How the time of `Relaxer.predict` grows with the atoms of one crystal, as a power.

    Attributes:
        model: Name.
        device: Where.
        way: How it was run.
        exponent: Of all sizes; where small crystals take the time of starting operations, below one.
        last: Between the two largest sizes.
    """

    model: str
    device: str
    way: str
    exponent: float
    last: float


@dataclass(frozen=True)
class Report:
    """All that was measured in one run.

    Attributes:
        ceilings: Of every device.
        rows: Of every case and way of running it.
        threads: Of the CPU.
    """

    ceilings: tuple[Ceilings, ...]
    rows: tuple[Row, ...]
    threads: int

    def tables(self) -> list[Table]:
        """One table a model and device."""
        tables = []
        for (name, device), rows in _grouped(self.rows, lambda row: (row.case.name, row.case.device)).items():
            title = f"{name}, {device}"
            if known := next((row for row in rows if row.family), None):
                size = f"{known.parameters / 1e6:.1f}M parameters"
                family = "" if known.family in name else f"{known.family}, "
                title = f"{name}: {family}{size}, on {device}"
            failures = [
                f"{row.way}, {row.case.crystals} x {row.case.atoms} atoms: {row.reason}"
                for row in rows
                if row.reason
            ]
            tables.append(Table(title, [self._cells(row) for row in rows], failures))
        return tables

    def fits(self) -> list[Fit]:
        """How time grows with the size of a crystal, where at least two sizes were measured."""
        measured = (row for row in self.rows if row.case.series == "atoms" and row.predict)
        fits = []
        for key, rows in _grouped(
            measured, lambda row: (row.case.name, row.case.device, str(row.way))
        ).items():
            x, y = np.log(np.array(sorted((row.atoms, row.predict or np.nan) for row in rows))).T
            if len(np.unique(x)) > 1:
                slope, last = np.polyfit(x, y, 1)[0], (y[-1] - y[-2]) / (x[-1] - x[-2])
                fits.append(Fit(key[0], key[1], key[2], float(slope), float(last)))
        return fits

    def notes(self) -> list[str]:
        """The machine, its ceilings, and what a reader of the tables has to know."""
        lines = [f"PyTorch {torch.__version__}, {self.threads} threads of the CPU."]
        for ceiling in self.ceilings:
            products = ", ".join(
                f"{rate / 1e9:,.0f} GFLOP/s {name}" for name, rate in ceiling.products.items()
            )
            lines.append(
                f"Ceilings of {ceiling.device} ({ceiling.name}) in this run: matrix products {products}; "
                f"copy {ceiling.copy / 1e9:,.1f} GB/s (read and written)."
            )
        if per_atom := [row.edges / row.atoms for row in self.rows if row.edges]:
            low, high = min(per_atom), max(per_atom)
            lines.append(f"Rattled random alloys of Co, Ni and Cu; {low:.0f} to {high:.0f} edges an atom.")
        lines += [
            f"{fit.model}, {fit.device}, {fit.way}: predict grows as atoms^{fit.exponent:.2f}, "
            f"between the two largest as atoms^{fit.last:.2f}."
            for fit in self.fits()
        ]
        lines += [
            "atoms: of every crystal. network: a pass with the graph given. predict: Relaxer.predict, which "
            "makes the graph. Medians.",
            "pass: memory that predicting takes beyond the loaded model. peak: that of the whole process, "
            "PyTorch and all, or of all tensors on a GPU.",
            "product: matrix products a second, over the ceiling. copy: bytes a second that steps read "
            "and write, from the cache or not, over the ceiling. Compiled kernels are in neither.",
            "x network, x predict: times faster than plain in float32; medians of ratios of passes by turns.",
        ]
        return lines

    def markdown(self) -> str:
        """Tables and notes as Markdown."""
        lines = ["# Speed"]
        for table in self.tables():
            cells = [HEADER, tuple("---" if k == 0 else "---:" for k in range(len(HEADER))), *table.rows]
            lines += ["", f"## {table.title}", "", *(f"| {' | '.join(row)} |" for row in cells)]
            lines += ["", *(f"- {failure}" for failure in table.failures)] if table.failures else []
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes())]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "threads": self.threads,
            "torch": torch.__version__,
            "ceilings": [asdict(ceiling) for ceiling in self.ceilings],
            "fits": [fit._asdict() for fit in self.fits()],
            "rows": [self._record(row) for row in self.rows],
        }

    def write(self, directory: str | Path) -> list[Path]:
        """Write ``speed.json``, ``table.md``, ``atoms.png`` and ``batch.png``, each atomically.

        Args:
            directory: Made if it is not there; files of the same names are replaced.

        Returns:
            The files; no plot of a series that was not measured.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        require("matplotlib", "plotting")
        from repose.benchmark.plots import against_atoms, against_batch

        files: dict[str, Callable[[Path], Any]] = {
            "speed.json": lambda path: path.write_text(json.dumps(self.to_dict(), indent=2) + "\n"),
            "table.md": lambda path: path.write_text(self.markdown(), encoding="utf-8"),
        }
        measured = {row.case.series for row in self.rows if row.predict}
        if "atoms" in measured:
            files["atoms.png"] = lambda path: against_atoms(self).savefig(path, dpi=150)
        if "batch" in measured:
            files["batch.png"] = lambda path: against_batch(self).savefig(path, dpi=150)
        directory = Path(directory)
        for name, write in files.items():
            with replacing_file(directory / name) as new:
                write(new)
        return [directory / name for name in files]

    def reached(self, row: Row) -> tuple[float | None, float | None]:
        """Shares of the ceilings of matrix products and of copies that a pass of the network reached."""
        ceiling = next((c for c in self.ceilings if c.device == row.case.device), None)
        if ceiling is None or row.network is None or row.flops is None or row.bytes is None:
            return None, None
        product = ceiling.products.get(row.way.precision)
        rate = row.flops / row.network
        return (rate / product if product else None), row.bytes / row.network / ceiling.copy

    def _record(self, row: Row) -> dict[str, Any]:
        values = asdict(row)
        case, way = values.pop("case"), row.way._asdict()
        del values["way"]
        product, copy = self.reached(row)
        return {
            **{key: case[key] for key in ("model", "published", "device", "threads", "series", "crystals")},
            **{"atoms": row.atoms, **way, **values},
            "crystals_per_second": row.crystals_per_second,
            "edges_per_second": row.edges_per_second,
            "of_product": product,
            "of_copy": copy,
        }

    def _cells(self, row: Row) -> tuple[str, ...]:
        product, copy = self.reached(row)
        return (
            str(row.way),
            str(row.case.crystals),
            str(row.case.atoms),
            _number(row.network, 1e3),
            _number(row.predict, 1e3),
            _number(row.crystals_per_second),
            _number(row.edges_per_second, 1e-6),
            _number(row.memory, 1e-6),
            _number(row.total_memory, 1e-6),
            _percent(product),
            _percent(copy),
            _number(row.faster_network),
            _number(row.faster_predict),
        )


def _grouped(rows: Any, key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _number(value: float | None, factor: float = 1.0) -> str:
    """Three significant digits."""
    if value is None:
        return "-"
    value *= factor
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
