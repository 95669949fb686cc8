"""Results of `repose relax`: table, JSON lines, remarks, and the summary as CSV."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repose.cli.common import console
from repose.cli.summary import SummaryFile

if TYPE_CHECKING:
    from repose.io.files import Entry
    from repose.relaxer.relaxation import Relaxation

# Longer tables list only suspect and refused crystals.
TABLE_ROWS = 100
HEADINGS = ("source", "formula", "atoms", "status", "dV %", "max move Å", "± Å", "space group", "ms")
NUMBERS = ("atoms", "dV %", "max move Å", "± Å", "steps", "eV/atom", "ms")
COLOURS = {"relaxed": "green", "suspect": "yellow", "refused": "red"}
# Keys of a JSON line and columns of the summary; part of the public interface.
KEYS = (
    "source", "index", "formula", "n_atoms", "status", "reason", "output", "model", "volume_change",
    "max_displacement", "uncertainty", "strain_uncertainty", "outside", "spacegroup_in", "spacegroup_out",
    "energy", "steps", "converged", "start", "calculator", "energy_input", "energy_predicted",
    "seconds", "remarks", "dropped",
)  # fmt: skip
# Those of relaxations that went on with a potential.
CONTINUED = KEYS[KEYS.index("energy") : KEYS.index("seconds")]
# Columns of the table in front of the last one, with --then.
THEN_HEADINGS = ("steps", "eV/atom")

Order = Literal["input", "uncertainty"]


class RelaxTable:
    """Table of relaxed crystals, printed at the end, or JSON lines, printed one by one.

    Args:
        as_json: Print one JSON object per line instead of the table.
        quiet: Print no table.
        order: Order of table, JSON lines and summary: that of the input, or smallest uncertainty first.
        summary: CSV file with one row per crystal, or None.
        verbose: Print one line per crystal on standard error at once.
        model: Name of the model.
        then: Whether crystals go on with a potential.
        continued: Keep the rows of an earlier summary.
    """

    def __init__(
        self,
        as_json: bool = False,
        quiet: bool = False,
        order: Order = "input",
        summary: Path | None = None,
        verbose: bool = False,
        model: str = "",
        then: bool = False,
        continued: bool = False,
    ) -> None:
        self.headings = (*HEADINGS[:-1], *(THEN_HEADINGS if then else ()), HEADINGS[-1])
        self.as_json, self.quiet, self.order = as_json, quiet, order
        self.summary = None if summary is None else SummaryFile(summary, KEYS, continued)
        self.verbose, self.model = verbose, model
        self.calculator: str | None = None  # of crystals that went on
        self.lines: list[dict[str, Any]] = []  # rows of the table or the summary
        self.remarks: list[str] = []
        self.notes: dict[str, tuple[str, int]] = {}  # first crystal and number of crystals of each remark
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[str] = Counter()
        self.start = time.perf_counter()

    def add(
        self,
        entry: Entry,
        result: Relaxation | None,
        output: Path | None = None,
        dropped: list[str] | None = None,
        uncertain: bool = False,
    ) -> None:
        """Add one crystal.

        Args:
            entry: The crystal as read.
            result: Its relaxation; None if it could not be read.
            output: Written file, or None.
            dropped: Properties of the input that the output format cannot hold.
            uncertain: The file is in the folder of uncertain predictions.
        """
        where = _where(entry)
        status = "refused" if result is None else result.status
        reason = entry.reason if result is None else result.reason
        reason = None if reason is None else f"{where}: {reason}"
        remarks = [*entry.remarks, *(result.remarks if result else ())]
        self.counts.update((status, "all"))
        self.counts["uncertain"] += uncertain
        self.counts["outside"] += result is not None and result.outside is not None
        if result is not None and result.steps is not None:
            self.counts.update(("continued", f"start: {result.start}"))
            self.counts["converged"] += bool(result.converged)
            self.calculator = result.calculator
        if reason is not None:
            self.remarks.append(f"{status}: {reason}")
        if result is not None and result.outside is not None:
            self.remarks.append(f"! {where}: out of distribution, its bound may not hold: {result.outside}.")
        self._note(where, remarks)
        for name in dropped or ():
            self.dropped[name, "" if output is None else output.suffix.lstrip(".") or output.name] += 1
        if self.verbose:
            sys.stderr.write(reason or f"{status}: {where} -> {output}")
            sys.stderr.write("".join(f"; {remark}" for remark in remarks) + "\n")
        kept = self.order != "input" or self.summary is not None
        tabled = not (self.quiet or self.as_json) and (len(self.lines) < TABLE_ROWS or status != "relaxed")
        if self.as_json or kept or tabled:
            line = _line(entry, result, output, status, reason, remarks, dropped or [], self.model)
            if self.as_json and self.order == "input":
                _print_json(line)
            if kept or tabled:
                self.lines.append(line)
            if self.summary is not None:
                self.summary.append(line)

    def skip(self, entry: Entry, remarks: list[str]) -> None:
        """Count a crystal whose output exists; its row in an earlier summary is kept."""
        self.counts["skipped"] += 1
        self._note(_where(entry), remarks)

    def _note(self, where: str, remarks: list[str]) -> None:
        for remark in remarks:
            first, many = self.notes.get(remark, (where, 0))
            self.notes[remark] = (first, many + 1)

    def close(self, out: Path, uncertain: Path) -> None:
        """Print table, remarks and counts, which name the output folders, and write the summary."""
        if self.order == "uncertainty":
            self.lines.sort(key=_by_uncertainty)
        if self.summary is not None:
            self.summary.finish(self.lines)
        if self.as_json:
            for line in self.lines if self.order != "input" else ():
                _print_json(line)
            return
        if not self.quiet:
            self._print_table()
        stream = sys.stderr if self.quiet else sys.stdout
        for remark in self.remarks:
            stream.write(remark + "\n")
        for remark, (first, many) in self.notes.items():
            stream.write(f"note: {first}{f' and {many - 1} more' if many > 1 else ''}: {remark}\n")
        for (name, form), many in self.dropped.items():
            stream.write(f"note: not kept in {form}: {name} ({many} crystal{'s' * (many > 1)}).\n")
        if not self.quiet:
            self._print_counts(out, uncertain)

    def _print_counts(self, out: Path, uncertain: Path) -> None:
        counts = self.counts
        done = counts["relaxed"] + counts["suspect"]
        seconds = time.perf_counter() - self.start
        rate = f" in {seconds:.1f} s, {done / seconds:,.0f} crystals/s" if done else ""
        sys.stdout.write(
            f"{counts['relaxed']} of {counts['all']} crystals relaxed, {counts['suspect']} suspect, "
            f"{counts['refused']} refused{f'; written into {out}/' if done else ''}{rate}.\n"
        )
        if counts["continued"]:
            sys.stdout.write(
                f"{counts['continued']} went on with {self.calculator}, {counts['start: input']} of them "
                f"from the input, whose energy was lower; {counts['converged']} converged.\n"
            )
        if counts["skipped"]:
            sys.stdout.write(f"{counts['skipped']} more skipped: their output exists.\n")
        if counts["uncertain"]:
            sys.stdout.write(f"{counts['uncertain']} above --max-uncertainty, in {uncertain}/.\n")
        if counts["outside"]:
            sys.stdout.write(f"{counts['outside']} out of distribution (!).\n")

    def _print_table(self) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for heading in self.headings:
            table.add_column(heading, justify="right" if heading in NUMBERS else "left", overflow="fold")
        shown = 0
        for line in self.lines:
            if shown >= TABLE_ROWS and line["status"] == "relaxed":
                continue
            shown += 1
            cells = [Text(cell) for cell in _cells(line, self.headings)]
            cells[3].stylize(COLOURS[line["status"]])
            table.add_row(*cells)
        if shown:
            console().print(table)
        if self.counts["all"] > shown:
            sys.stdout.write(f"... and {self.counts['all'] - shown} more, all relaxed; --json lists all.\n")


def _line(
    entry: Entry,
    result: Relaxation | None,
    output: Path | None,
    status: str,
    reason: str | None,
    remarks: list[str],
    dropped: list[str],
    model: str,
) -> dict[str, Any]:
    """Return the values of `KEYS` for a crystal, and ``many``: its file has several crystals."""
    formula, count = _describe(entry.crystal)
    predicted = result if result is not None and status != "refused" and result.after is not None else None
    return {
        "source": entry.source,
        "index": entry.index,
        "formula": formula,
        "n_atoms": count,
        "status": status,
        "reason": reason,
        "output": None if output is None else str(output),
        "model": model,
        "volume_change": predicted.volume_change if predicted else None,
        "max_displacement": predicted.max_displacement if predicted else None,
        "uncertainty": result.uncertainty if result else None,
        "strain_uncertainty": result.strain_uncertainty if result else None,
        "outside": result.outside if result else None,
        "spacegroup_in": result.spacegroup_in if result else 0,
        "spacegroup_out": result.spacegroup_out if result else 0,
        **{name: getattr(result, name, None) for name in CONTINUED},
        "seconds": result.seconds if result else 0.0,
        "remarks": remarks,
        "dropped": dropped,
        "many": entry.many,
    }


def _where(entry: Entry) -> str:
    return entry.source + (f", crystal {entry.index}" if entry.many else "")


def _print_json(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({key: line[key] for key in KEYS}) + "\n")
    sys.stdout.flush()


def _cells(line: dict[str, Any], headings: tuple[str, ...]) -> list[str]:
    """Return a row of the table."""
    index = f" [{line['index']}]" if line["many"] else ""
    cells = {
        "source": f"{line['source']}{index}",
        "formula": line["formula"],
        "atoms": str(line["n_atoms"] or ""),
        "status": line["status"],
    }
    if line["volume_change"] is not None:  # there is a prediction
        cells |= {
            "dV %": f"{100 * line['volume_change']:+.1f}",
            "max move Å": f"{line['max_displacement']:.3f}",
            "± Å": shown_bound(line["uncertainty"], line["outside"]),
            "space group": f"{line['spacegroup_in']} -> {line['spacegroup_out']}",
            "ms": f"{1000 * line['seconds']:.0f}",
        }
    if line["steps"] is not None:
        marks = " !" * (not line["converged"]) + " (input)" * (line["start"] == "input")
        cells["steps"] = f"{line['steps']}{marks}"
    if line["energy"] is not None:
        cells["eV/atom"] = f"{line['energy'] / line['n_atoms']:.3f}"
    return [cells.get(heading, "") for heading in headings]


def shown_bound(value: float | None, outside: str | None) -> str:
    """Return a bound in Å, rounded up, with ``!`` if the crystal is out of distribution."""
    bound = "-" if value is None else f"{math.ceil(round(100 * value, 6)) / 100:.2f}"
    return bound if outside is None else f"! {bound}"


def _by_uncertainty(line: dict[str, Any]) -> tuple[bool, bool, float]:
    """Return a sort key: smallest bound first, then crystals without a bound, then refused ones."""
    value = line["uncertainty"]
    return line["status"] == "refused", value is None, value or 0.0


def _describe(crystal: Any) -> tuple[str, int]:
    """Return formula and number of atoms; empty and 0 if the crystal could not be read."""
    from repose.io import convert

    if crystal is None:
        return "", 0
    try:
        return convert.formula_of(crystal), len(crystal)
    except Exception:  # an invalid crystal, which the relaxer refuses
        return "", 0
