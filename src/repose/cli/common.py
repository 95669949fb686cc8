"""Shared by all commands: options, messages and progress."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Device: TypeAlias = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
# Accepted by commands that use no device, so that scripts can pass it to every command.
NoDevice: TypeAlias = Annotated[str, typer.Option("--device", hidden=True)]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="Processors to use; by default all that affinity, container, Slurm, OMP_NUM_THREADS allow.",
        show_default=False,
    ),
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no table.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Options of the commands that read datasets.
Data: TypeAlias = Annotated[list[Path], typer.Option(help="Dataset folder; repeatable.")]
Split: TypeAlias = Annotated[Literal["train", "val", "test"], typer.Option(help="Split of the datasets.")]

# Options of the commands that relax crystals with a calculator in worker processes.
CalculatorName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="chgnet (default), chgnet-r2scan, sevennet, or MODULE:NAME of an ASE calculator.",
        show_default=False,
    ),
]
Fmax: TypeAlias = Annotated[
    float | None,
    typer.Option(min=1e-6, help="Largest force of a relaxed crystal, eV/Å; 0.05 by default."),
]
Workers: TypeAlias = Annotated[
    int, typer.Option(min=0, help="Processes of one thread; 0: one per core, or four on a GPU.")
]

# Options of the commands that write a dataset.
Name: TypeAlias = Annotated[
    str, typer.Option(help="Name of the dataset; that of its folder if not given.", show_default=False)
]
Licence: TypeAlias = Annotated[str, typer.Option(help="Licence of the dataset.", show_default=False)]
Calculator: TypeAlias = Annotated[
    str, typer.Option(help="Calculator or functional of the relaxed crystals.", show_default=False)
]
SplitBy: TypeAlias = Annotated[
    str, typer.Option(help="chemical-system, or the name of a tag such as prototype.")
]
Fractions: TypeAlias = Annotated[str, typer.Option(help="Fractions of groups in train, val and test.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of all random choices.")]

# Width of tables that are not printed on a terminal.
PLAIN_WIDTH = 140
SECONDS_BETWEEN_LINES = 5.0


def fail(message: str) -> None:
    """Print an error on standard error, in one line."""
    sys.stderr.write(f"repose: {' '.join(message.split())}\n")


@contextmanager
def importing() -> Iterator[None]:
    """Import PyTorch faster, without searching the new objects for garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def wrong_usage(status: int = 2) -> Iterator[None]:
    """End the command with one line and an exit status when a `ReposeError` is raised."""
    from repose.errors import ReposeError

    try:
        yield
    except ReposeError as error:
        fail(str(error))
        raise typer.Exit(status) from None


def console() -> Any:
    """Return a rich console on standard output."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


class Progress:
    """Progress of long work on standard error: a bar on a terminal, else a line every few seconds.

    Args:
        total: Steps of the bar; 0 if unknown.
        what: Plural noun of the counted things, e.g. ``"crystals"``.
        quiet: Show nothing.
        unit: Noun of one step, e.g. ``"file"``.
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

            # Standard output is redirected only on a terminal: in a file or a pipe rich would wrap its lines.
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
        """Add to the count."""
        self.done += done
        self._show()

    def step(self, steps: int = 1) -> None:
        """Advance the bar."""
        self.steps += steps
        self._show()

    def advance(self, done: int) -> None:
        """Advance both the count and the bar."""
        self.done += done
        self.step(done)

    def _show(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            total = max(self.total, self.steps) or None
            self._bar.update(self._task, completed=self.steps, total=total, description=self._rate())
        elif not self.quiet and now - self._last >= SECONDS_BETWEEN_LINES:
            sys.stderr.write(f"{self._line()}\n")
            sys.stderr.flush()
            self._last = now

    def _rate(self) -> str:
        """Return count, rate and remaining time, as shown beside the bar."""
        elapsed = max(1e-9, time.monotonic() - self._start)
        remaining = ""
        if self.total > self.steps > 0:
            left = timedelta(seconds=round(elapsed / self.steps * (self.total - self.steps)))
            remaining = f", {left} left"
        return f"{self.done:,} {self.what}, {self.done / elapsed:.1f} per second{remaining}"

    def _line(self) -> str:
        """Return the line that is printed without a bar."""
        of = f"; {self.unit} {self.steps:,} of {self.total:,}" if self.total > 1 else ""
        return f"{self._rate()}{of}"


class HourlyProgress(Progress):
    """Progress of work that takes hours, with the rate per hour."""

    def __init__(self, what: str, quiet: bool = False) -> None:
        super().__init__(0, what, quiet)
        self.note = ""

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show the finished items and all items of this call, with a note at the end of the line."""
        self.done = self.steps = done
        self.total, self.note = total, note
        if self._bar is not None:
            self._bar.update(self._task, total=total)
        self._show()

    @property
    def per_hour(self) -> float:
        """Items finished per hour."""
        return 3600 * self.done / max(1e-9, time.monotonic() - self._start)

    def _rate(self) -> str:
        left = timedelta(hours=(self.total - self.done) / self.per_hour) if self.done else None
        remaining = f", {str(left).partition('.')[0]} left" if left is not None else ""
        return f"{self.per_hour:,.0f} {self.what} per hour{remaining}{self.note}"

    def _line(self) -> str:
        return f"{self.done} of {self.total}; {self._rate()}"
