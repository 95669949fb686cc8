"""One self-contained HTML file about relaxed crystals.

`template.html` has places for the style, the scripts and the data. The data are one JSON object; lengths of
geometries in it are integers of 0.001 A, which makes the file small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from repose.atomic_write import replacing_file
from repose.crystal.batch import CrystalBatch
from repose.crystal.elements import symbol
from repose.models.uncertainty.calibration import LEVEL
from repose.relaxer.relaxation import Relaxation
from repose.report.appearance import appearance

SCRIPTS = ("charts.js", "table.js", "geometry.js", "viewer.js", "main.js")
# Characters of geometries in a report; crystals after these have a row but no drawing.
MAX_GEOMETRY = 16_000_000
# No bonds are drawn between other elements in crystals that have some of these.
NONMETALS = frozenset({1, 2, *range(5, 11), *range(14, 19), *range(32, 37), 52, 53, 54, 85, 86})


class Report:
    """Collects results for `write`; keeps one line of JSON per crystal, not the crystals.

    Args:
        model: Name of the model, for the heading.
        max_geometry: Characters of geometries, see `MAX_GEOMETRY`.
        path: File that will be written. Until then lines are kept in a hidden file beside it, in case that
            the program is stopped.
        continued: Read the lines of an earlier report at ``path``, or of a stopped one, for `keep`.

    Attributes:
        kept: Number of lines from an earlier report.
    """

    def __init__(
        self,
        model: str = "",
        max_geometry: int = MAX_GEOMETRY,
        path: Path | None = None,
        continued: bool = False,
    ) -> None:
        self.model = model
        self.kept = 0
        self._earlier: dict[str, str] = {}
        self._unfinished = None
        if path is not None:
            self._unfinished = path.with_name(f".{path.name}.rows")
            if continued:
                self._earlier = _earlier_rows(path) | _earlier_rows(self._unfinished)
            else:
                self._unfinished.unlink(missing_ok=True)
        self._left = max_geometry
        self._without_drawing = 0
        self._rows: list[str] = []
        self._elements: set[int] = set()

    def add(self, result: Relaxation, source: str | None = None) -> None:
        """Add one crystal.

        Args:
            result: Its relaxation.
            source: Where it came from, instead of ``result.source``.
        """
        source = result.source if source is None else source
        self._earlier.pop(_shown(source or ""), None)
        row = _row(result, source)
        self._add(row, None if result.after is None else _geometry(result, result.after))

    def keep(self, source: str) -> bool:
        """Add the line of an earlier report for a crystal; return whether there is one."""
        line = self._earlier.pop(_shown(source), None)
        if line is None:
            return False
        row = json.loads(line)
        self._add(row, row.pop("geometry", None))
        self.kept += 1
        return True

    def _add(self, row: dict[str, Any], drawn: dict[str, list[int]] | None) -> None:
        text, geometry = _to_json(row), "" if drawn is None else _to_json(drawn)
        if drawn is not None and len(geometry) <= self._left:
            self._left -= len(geometry)
            self._elements |= set(drawn["numbers"])
            text = f'{text[:-1]},"geometry":{geometry}}}'
        else:
            self._without_drawing += bool(geometry)
        self._rows.append(text)
        if self._unfinished is not None:
            with self._unfinished.open("a", encoding="utf-8") as stream:
                stream.write(f"\n{text}\n")  # the line before may be cut off

    def write(self, path: Path | str, skipped: int = 0) -> None:
        """Write the file; it appears complete, or not at all.

        Other lines of an earlier report come last.

        Args:
            path: Output file; its folder is made, an older file is replaced.
            skipped: Number of further crystals that were not relaxed, because their output exists.
        """
        for source in list(self._earlier):
            self.keep(source)
        files = resources.files("repose.report")
        template, style = (
            files.joinpath(name).read_text(encoding="utf-8") for name in ("template.html", "style.css")
        )
        script = "\n".join(files.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
        head = {
            "model": self.model,
            "version": version("repose-crystal"),
            "level": LEVEL,
            "skipped": skipped,
            "without_drawing": self._without_drawing,
            "elements": {number: _element(number) for number in sorted(self._elements)},
        }
        before, after = template.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script).split("/*DATA*/")
        with replacing_file(Path(path)) as new, new.open("w", encoding="utf-8") as stream:
            stream.write(f'{before}{_to_json(head)[:-1]},"crystals":[\n')
            for index, row in enumerate(self._rows):
                stream.write((",\n" if index else "") + row)
            stream.write(f"\n]}}{after}")
        if self._unfinished is not None:
            self._unfinished.unlink(missing_ok=True)


def write_report(results: Iterable[Relaxation], path: Path | str, model: str = "") -> None:
    """Write one self-contained HTML file about results, to be opened in a browser.

    It has a table to sort and filter, histograms, and drawings of every crystal before and after.

    Args:
        results: From `Relaxer.relax`.
        path: Output file; its folder is made, an older file is replaced.
        model: Name of the model, for the heading.
    """
    report = Report(model)
    for result in results:
        report.add(result)
    report.write(path)


def _shown(source: str) -> str:
    """Source in the file, where bytes that are not UTF-8 are replaced."""
    return json.loads(_to_json(source))


def _earlier_rows(path: Path) -> dict[str, str]:
    """Lines of crystals, by source, in a report or in the hidden file of a stopped one."""
    rows = {}
    for line in path.read_text("utf-8", "replace").split("\n") if path.is_file() else ():
        try:
            row = line.removesuffix(",")
            rows[json.loads(row)["source"]] = row
        except (ValueError, TypeError, KeyError):  # other lines of the page, or one that is cut off
            continue
    return rows


def _row(result: Relaxation, source: str | None) -> dict[str, Any]:
    """Values of a crystal for the table and its page, without those that are not known."""
    predicted = result.after is not None
    atoms = result.n_atoms
    row = {
        "source": source,
        "formula": result.formula,
        "atoms": atoms or None,
        "status": result.status,
        "reason": result.reason,
        "outside": result.outside,
        "remarks": list(result.remarks) or None,
        "volume_change": _rounded(100 * result.volume_change, 3) if predicted else None,
        "max_displacement": _rounded(result.max_displacement, 4) if predicted else None,
        "uncertainty": _rounded(result.uncertainty, 4),
        "spacegroup_in": result.spacegroup_in or None,
        "spacegroup_out": result.spacegroup_out or None,
        "steps": result.steps,
        "converged": result.converged,
        "start": result.start,
        "calculator": result.calculator,
        "seconds": _rounded(result.seconds, 4),
    }
    for name in ("energy", "energy_input", "energy_predicted"):
        value = getattr(result, name)
        row[name] = None if value is None else _rounded(value / atoms, 6)
    return {name: value for name, value in row.items() if value is not None}


def _geometry(result: Relaxation, after: CrystalBatch) -> dict[str, list[int]]:
    """Geometry of a crystal in 0.001 A; of the input, cell and the difference of positions to the output."""
    final = _thousandths(after.positions.numpy())
    found = {
        "numbers": after.numbers.tolist(),
        "cell": _thousandths(after.cells.numpy()).tolist(),
        "positions": final.tolist(),
    }
    if not after.pbc.all():
        found["pbc"] = after.pbc[0].int().tolist()
    if result.before is not None:
        found["input_cell"] = _thousandths(result.before.cells.numpy()).tolist()
        found["input_minus_output"] = (_thousandths(result.before.positions.numpy()) - final).tolist()
    if result.atom_uncertainty is not None and np.isfinite(result.atom_uncertainty).all():
        found["bounds"] = _thousandths(result.atom_uncertainty).tolist()
    return found


def _element(number: int) -> dict[str, Any]:
    """Symbol, colour, covalent radius in A, and whether it is a metal."""
    colour, radius = appearance(number)
    return {"symbol": symbol(number), "colour": colour, "radius": radius, "metal": number not in NONMETALS}


def _thousandths(lengths: np.ndarray) -> np.ndarray:
    return np.rint(1000 * lengths).astype(np.int64).ravel()


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def _to_json(value: Any) -> str:
    """JSON that cannot end a script element; bytes of file names that are not UTF-8 are replaced."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("<", "\\u003c")
