"""What all commands share: options, messages, progress."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Device: TypeAlias = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
# For commands that run nowhere in particular: scripts may pass it to every command all the same.
NoDevice: TypeAlias = Annotated[str, typer.Option("--device", hidden=True)]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs to read.")]

# Width of tables where there is no terminal to fit into.
PLAIN_WIDTH = 140
SECONDS_BETWEEN_LINES = 5.0


def fail(message: str) -> None:
    """Print why a command cannot run, on standard error, in one line."""
    sys.stderr.write(f"repose: {' '.join(message.split())}\n")


def console() -> Any:
    """A rich console on standard output."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


class Progress:
    """How far long work is: a bar on a terminal, elsewhere a plain line every few seconds; on standard error.

    Args:
        total: Steps of the bar.
        what: Plural of what `count` counts, e.g. ``"crystals"``.
        quiet: Show nothing.
        unit: What a step is, e.g. ``"file"``.
    """

    def __init__(self, total: int, what: str, quiet: bool = False, unit: str = "file") -> None:
        self.total, self.what, self.quiet, self.unit = total, what, quiet, unit
        self.steps = self.done = 0
        self._start = self._last = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def count(self, done: int) -> None:
        """Add to what is done."""
        self.done += done
        self._show()

    def step(self, steps: int = 1) -> None:
        """Advance the bar."""
        self.steps += steps
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.steps, description=f"{self.done} {self.what}")
        elif not self.quiet and now - self._last >= SECONDS_BETWEEN_LINES:
            rate = self.done / (now - self._start)
            sys.stderr.write(
                f"{self.done} {self.what} done, {rate:.1f} a second; "
                f"{self.unit} {self.steps} of {self.total}\n"
            )
            sys.stderr.flush()
            self._last = now
