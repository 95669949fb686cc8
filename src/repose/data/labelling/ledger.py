"""What long work has finished, on disk: one JSON line a crystal, written to the disk at once.

Every process writes a file of its own, so that none waits for another and network file systems do. A line
that was cut off by a kill is the last of its file and is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

PATTERN = "ledger-*.jsonl"


class Ledger:
    """A file to write to, new each time.

    Args:
        directory: Of the ledgers of one piece of work; made if need be.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / PATTERN.replace("*", uuid4().hex[:12])
        self._stream = self.path.open("x", encoding="utf-8")

    def write(self, entry: dict[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        self._stream.write(json.dumps(entry) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """No more lines."""
        self._stream.close()


def read_ledgers(directory: Path) -> Iterator[dict[str, Any]]:
    """All complete lines of all ledgers of a directory."""
    for path in sorted(directory.glob(PATTERN)):
        yield from read_ledger(path)


def read_ledger(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of one ledger."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):
                yield json.loads(line)
