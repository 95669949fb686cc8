"""Progress of relaxing from Python: a bar, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def reporting(progress: bool | Callable[[int], None] | None, total: int) -> Iterator[Callable[[int], None]]:
    """What to call with the number of crystals done.

    Args:
        progress: The function itself; True for a bar on standard error or in a notebook, with the rate and
            the time left; None or False for nothing.
        total: How many crystals there are.
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
