"""Relaxation of many crystals in several processes, each on one thread.

Work outside of the network holds Python's lock, so that threads cannot share it; and many small products of
matrices are faster side by side than each on several threads.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from repose.relaxer.base import Relaxer
from repose.relaxer.constraints import Constraints
from repose.relaxer.relaxation import Relaxation
from repose.threads import end_with_parent

if TYPE_CHECKING:
    from repose.relaxer.continuation import Continuation

T = TypeVar("T")

# Chunks in flight for each process, so that none waits for input.
AHEAD = 2

_job: tuple[Relaxer, Constraints, Continuation | None, bool] | None = None  # inherited by the processes


def can_fork(relaxer: Relaxer, continuation: Continuation | None = None) -> bool:
    """Return whether processes can share the relaxer and the potential: on Linux, on a CPU."""
    shared = continuation is None or continuation.potential.side_by_side
    return sys.platform == "linux" and relaxer.device.type == "cpu" and shared


def relax_chunks(
    relaxer: Relaxer,
    chunks: Iterable[tuple[T, list[Any]]],
    constraints: Constraints,
    continuation: Continuation | None,
    workers: int,
    space_groups: bool = False,
) -> Iterator[tuple[T, list[Relaxation]]]:
    """Relax lists of crystals, and give the results in order.

    If a process ends unexpectedly, e.g. for lack of memory, its crystals and all that follow are relaxed by
    this process, after a warning.

    Args:
        relaxer: Used by all processes; see `can_fork`.
        chunks: Pairs of a key, which is returned with the results, and structures; read a few chunks ahead.
        constraints: See `Relaxer.relax`.
        continuation: Its option ``then``.
        workers: Number of processes.
        space_groups: Find the space groups of results in the processes.

    Raises:
        ReposeError: As for `Relaxer.relax`.
    """
    global _job
    _job = (relaxer, constraints, continuation, space_groups)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # forked processes would start as many threads as this one
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin)
    waiting: deque[tuple[T, list[Any], Future[bytes]]] = deque()
    rest = iter(chunks)
    try:
        try:
            for key, structures in rest:
                waiting.append((key, structures, _submit(pool, structures)))
                if len(waiting) >= AHEAD * workers:
                    yield _received(*waiting[0])
                    waiting.popleft()
            while waiting:
                yield _received(*waiting[0])
                waiting.popleft()
        except BrokenProcessPool:
            warnings.warn(
                "a process ended unexpectedly, perhaps for lack of memory; one process relaxes the rest.",
                stacklevel=2,
            )
            left = ((key, structures) for key, structures, _ in waiting)
            for key, structures in chain(left, rest):
                yield key, relaxer.relax(structures, constraints=constraints, then=continuation)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(before)


def _submit(pool: ProcessPoolExecutor, structures: list[Any]) -> Future[bytes]:
    # Pickled here: the executor would move every tensor to shared memory.
    try:
        with warnings.catch_warnings():  # Python 3.12 warns of threads, which forked processes do not have
            warnings.simplefilter("ignore", DeprecationWarning)
            return pool.submit(_relax, pickle.dumps(structures, pickle.HIGHEST_PROTOCOL))
    except (BrokenProcessPool, OSError) as error:  # ended, or could not be started
        failed: Future[bytes] = Future()
        failed.set_exception(BrokenProcessPool(str(error)))
        return failed


def _received(key: T, given: list[Any], future: Future[bytes]) -> tuple[T, list[Relaxation]]:
    """Return the results of a chunk; without a prediction the structure is the input itself."""
    pairs = zip(pickle.loads(future.result()), given, strict=True)
    return key, [r if r.after is not None else replace(r, structure=structure) for r, structure in pairs]


def _begin() -> None:
    """Set up a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the work
    end_with_parent()
    torch.set_num_threads(1)


def _relax(pickled: bytes) -> bytes:
    assert _job is not None
    relaxer, constraints, continuation, space_groups = _job
    results = relaxer.relax(pickle.loads(pickled), constraints=constraints, then=continuation)
    for result in results if space_groups else ():
        _ = result.spacegroup_in, result.spacegroup_out  # computed once and kept
    return pickle.dumps(results, pickle.HIGHEST_PROTOCOL)
