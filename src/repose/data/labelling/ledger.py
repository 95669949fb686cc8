"""Results of worker processes on disk: one line of JSON per crystal, written at once.

Each process writes its own file, so that no locks are needed, also on network file systems. An incomplete
last line, left by a killed process, is skipped.
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
    """A new file of results.

    Args:
        directory: Directory of the ledgers; it is created.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / PATTERN.replace("*", uuid4().hex[:12])
        self._stream = self.path.open("x", encoding="utf-8")

    def write(self, entry: dict[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        self._stream.write(json.dumps(entry) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_ledgers(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of all ledgers of a directory."""
    for path in sorted(directory.glob(PATTERN)):
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                if line.endswith("\n"):
                    yield json.loads(line)
