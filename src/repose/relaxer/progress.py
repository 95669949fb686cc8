"""Progress of relaxing from Python: a bar, or the user's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def reporting(progress: bool | Callable[[int], None] | None, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of crystals done.

    Args:
        progress: The function itself; True for a bar on standard error or in a notebook; None or False for
            no progress.
        total: Number of crystals.
    """
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("relaxing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("relaxing", total=total)
        yield lambda done: bar.update(task, completed=done)
