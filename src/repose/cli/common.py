"""What all commands share: options, messages, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
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


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Turn errors about what the user asked for into one line and exit status 2."""
    from repose.errors import ReposeError

    try:
        yield
    except ReposeError as error:
        fail(str(error))
        raise typer.Exit(2) from None


def named_value(text: str, option: str) -> tuple[str, Any]:
    """Split ``NAME=VALUE``; the value is JSON, or else text.

    Args:
        text: What the user typed.
        option: For the message.

    Raises:
        ConfigError: There is no ``=``.
    """
    import json

    from repose.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{option} takes NAME=VALUE; got '{text}'.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def console() -> Any:
    """A rich console on standard output."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


class Progress:
    """Progress of long work on standard error: a bar on a terminal, elsewhere a line every few seconds.

    Args:
        total: Steps of the bar; 0 if they are not known.
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
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            # Standard output is left alone: what goes to a file or a pipe must not pass through the bar,
            # which would wrap it. On the same terminal a line may cross the bar; it is drawn again.
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
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

    def advance(self, done: int) -> None:
        """Advance both the count and the bar, where they are of the same things."""
        self.done += done
        self.step(done)

    def _show(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            total = max(self.total, self.steps) or None
            self._bar.update(self._task, completed=self.steps, total=total, description=self._doing())
        elif not self.quiet and now - self._last >= SECONDS_BETWEEN_LINES:
            sys.stderr.write(f"{self._line()}\n")
            sys.stderr.flush()
            self._last = now

    def _doing(self) -> str:
        """Count, rate and time left, as they stand beside the bar."""
        elapsed = max(1e-9, time.monotonic() - self._start)
        ahead = ""
        if self.total > self.steps > 0:
            left = timedelta(seconds=round(elapsed / self.steps * (self.total - self.steps)))
            ahead = f", {left} left"
        return f"{self.done:,} {self.what}, {self.done / elapsed:.1f} a second{ahead}"

    def _line(self) -> str:
        """Line that is written where there is no bar."""
        of = f"; {self.unit} {self.steps:,} of {self.total:,}" if self.total > 1 else ""
        return f"{self._doing()}{of}"


class HourlyProgress(Progress):
    """Progress of work that takes hours: how many an hour, and how much time is left.

    Args:
        what: Plural of what is worked on.
        quiet: Show nothing.
    """

    def __init__(self, what: str, quiet: bool = False) -> None:
        super().__init__(0, what, quiet)
        self.note = ""

    def update(self, done: int, total: int, note: str = "") -> None:
        """Say how far it is.

        Args:
            done: Finished in this call.
            total: To be finished in this call.
            note: What else to say.
        """
        self.done = self.steps = done
        self.total, self.note = total, note
        if self._bar is not None:
            self._bar.update(self._task, total=total)
        self._show()

    @property
    def per_hour(self) -> float:
        """How many are finished in an hour."""
        return 3600 * self.done / max(1e-9, time.monotonic() - self._start)

    def _doing(self) -> str:
        left = timedelta(hours=(self.total - self.done) / self.per_hour) if self.done else None
        ahead = f", {str(left).partition('.')[0]} left" if left is not None else ""
        return f"{self.per_hour:,.0f} {self.what} an hour{ahead}{self.note}"

    def _line(self) -> str:
        return f"{self.done} of {self.total}; {self._doing()}"
