"""The summary of `repose relax` as CSV, which grows while crystals are relaxed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repose.atomic_write import replacing_file


class SummaryFile:
    """CSV file with one row per crystal; a run that is stopped leaves the rows of its crystals.

    Bytes of file names that are not UTF-8 are written with backslashes.

    Args:
        path: The file.
        columns: Names of the columns, with ``source`` and ``index``.
        continued: Keep the rows of an earlier run, except those of crystals that are added again.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], continued: bool = False) -> None:
        self.path, self.columns = path, columns
        self.earlier = _read(path) if continued else {}
        self.finish(())

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a row to the file at once."""
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow(self._cells(line))

    def row(self, source: str, index: int) -> dict[str, str] | None:
        """Return the row of an earlier run, or None."""
        return self.earlier.get((_text(source), str(index)))

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the file anew: rows of earlier runs that are kept, and these lines in their order."""
        lines = list(lines)
        again = {(_text(line["source"]), str(line["index"])) for line in lines}
        kept = [row for key, row in self.earlier.items() if key not in again]
        with replacing_file(self.path) as new, new.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(self.columns)
            writer.writerows(map(self._cells, [*kept, *lines]))

    def _cells(self, line: Mapping[str, Any]) -> list[Any]:
        return [_text(line.get(name)) for name in self.columns]


def _text(value: Any) -> Any:
    """Content of a cell: lists are joined, text becomes valid UTF-8."""
    value = "; ".join(value) if isinstance(value, list) else value
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _read(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return complete rows by source and index, the last of each; none if there is no such file."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = stream.readlines()
    except (OSError, ValueError):
        return {}
    if lines and not lines[-1].endswith("\n"):  # the run was stopped here
        lines.pop()
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in csv.DictReader(lines):
        if None not in row.values() and {"source", "index"} <= row.keys():
            key = (row["source"], row["index"])
            rows.pop(key, None)
            rows[key] = row
    return rows
