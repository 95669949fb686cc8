"""Parts of a batch side by side, each on one thread.

Crystals do not influence each other, and one crystal is too small to share between threads: several passes,
each on one thread, take less time than one pass whose every operation waits for all threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch

from repose.crystal.batch import CrystalBatch

T = TypeVar("T")

# Fewest atoms of a part, and least work for which several threads are used for one part; see `each`.
LEAST_ATOMS, LEAST_WORK = 64, 2e6

_running = threading.Lock()  # held while parts run: nested and concurrent calls are not split


def split(batch: CrystalBatch, parts: int) -> list[CrystalBatch]:
    """Split a batch into at most ``parts`` batches of consecutive crystals, with about as many atoms each."""
    start, n = batch.start, batch.n_atoms
    parts = max(1, min(parts, batch.n_crystals, n // LEAST_ATOMS))
    borders = torch.searchsorted(start, torch.arange(parts + 1) * n // parts).unique().tolist()
    if len(borders) <= 2:
        return [batch]
    return [
        CrystalBatch(
            numbers=batch.numbers[start[first] : start[last]],
            positions=batch.positions[start[first] : start[last]],
            cells=batch.cells[first:last],
            system_index=batch.system_index[start[first] : start[last]] - first,
            pbc=batch.pbc[first:last],
            charges=None if batch.charges is None else batch.charges[start[first] : start[last]],
        )
        for first, last in pairwise(borders)
    ]


def each(function: Callable[[CrystalBatch], T], batch: CrystalBatch, work: float) -> list[T]:
    """Call a function on the parts of a batch, one for each thread of PyTorch; return the results in order.

    Each part runs in a thread of its own. While another call runs, the batch is not split. A thread of the
    user that calls PyTorch for the first time during this call keeps to one thread of PyTorch.

    Args:
        function: Works on a batch.
        batch: The crystals.
        work: Atoms times the square of the features. With less than `LEAST_WORK` one thread is used: it is as
            fast as several, and does not wait where other work uses a processor.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not _running.acquire(blocking=False):
        return [function(batch)]
    try:
        own, *others = split(batch, threads)
        if not others:
            torch.set_num_threads(threads if work > LEAST_WORK else 1)
            return [function(batch)]
        torch.set_num_threads(1)  # each part uses one
        waiting = [_pool(threads - 1).submit(function, part) for part in others]
        try:
            first = function(own)
        finally:
            rest = [future.exception() for future in waiting]  # all have ended
        if error := next(filter(None, rest), None):
            raise error
        return [first, *(future.result() for future in waiting)]
    finally:
        torch.set_num_threads(threads)
        _running.release()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "repose-pass", initializer=torch.set_num_threads, initargs=(1,))


def _after_fork() -> None:
    """Forget threads and lock of the parent in a process that is forked."""
    global _running
    _pool.cache_clear()
    _running = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
