"""Worker processes that relax candidates; processes that crash are replaced."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from repose.data.candidates import Candidate
from repose.data.labelling.failures import Failure
from repose.data.labelling.ledger import Ledger
from repose.errors import ConfigError, DatasetError, ReposeError

# Crashes after which a crystal is not tried again.
MAX_CRASHES = 2
# A forked process could not use a GPU that its parent has used.
START_METHOD = "spawn"
# With more than one thread, 3x3 linear algebra and small batches are many times slower.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Message of a worker process to its parent: the id of a crystal, or an error that concerns all crystals.
Message = Literal["started", "labelled", "failed", "abort"]
Send = Callable[[Message, str], None]
# Task of a process. Arguments: its candidates, its ledger, a function that sends messages, and one that
# returns False when the task must stop.
Task = Callable[[Sequence[Candidate], Ledger, Send, Callable[[], bool]], None]


@dataclass(eq=False)
class _Worker:
    """A worker process; ``pending`` are its unfinished candidates, ``running`` the ids that it started."""

    process: Any
    connection: Connection
    pending: dict[str, Candidate]
    running: set[str] = field(default_factory=set)
    idle: bool = True


def run_workers(
    candidates: Sequence[Candidate],
    task: Task,
    ledgers: Path,
    *,
    workers: int,
    deadline: float | None = None,
    report: Callable[[str, bool], None] = lambda name, labelled: None,
) -> None:
    """Distribute candidates over processes until all are in a ledger.

    A process that crashes is replaced, and the new one continues with its candidates. A crystal that was
    running in two crashes has failed.

    Args:
        candidates: Crystals to label.
        task: Called once in every process with its share; must be picklable.
        ledgers: Directory of the ledgers.
        workers: Number of processes.
        deadline: `time.time` at which they stop.
        report: Called with the id of each finished crystal, and whether it was labelled.

    Raises:
        ConfigError: The task cannot run, for example because the calculator is missing.
        DatasetError: A process crashed before its first crystal.
    """
    for name in THREADS:
        os.environ.setdefault(name, "1")  # read by new processes when they load numpy and torch
    crashes = Counter[str]()
    shares = filter(None, (candidates[k::workers] for k in range(workers)))
    active = [_start(share, task, ledgers, deadline) for share in shares]
    try:
        while active:
            for connection in wait([worker.connection for worker in active]):
                worker = next(w for w in active if w.connection is connection)
                try:
                    _handle_message(worker, report)
                except EOFError:
                    active.remove(worker)
                    _handle_exit(worker, crashes, ledgers, report)
                    if worker.pending and worker.process.exitcode and not _is_past(deadline):
                        active.append(_start(list(worker.pending.values()), task, ledgers, deadline))
    finally:
        for worker in active:
            worker.process.terminate()
            worker.process.join()


def _start(share: Sequence[Candidate], task: Task, ledgers: Path, deadline: float | None) -> _Worker:
    context = multiprocessing.get_context(START_METHOD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(task, share, ledgers, sender, os.getpid(), deadline))
    process.start()
    sender.close()  # otherwise the receiver would not notice the end of the process
    return _Worker(process, receiver, {candidate.id: candidate for candidate in share})


def _run(
    task: Task,
    share: Sequence[Candidate],
    ledgers: Path,
    connection: Connection,
    parent: int,
    deadline: float | None,
) -> None:
    """Run the task in a worker process."""
    import torch

    torch.set_num_threads(1)
    ledger = Ledger(ledgers)

    def send(message: Message, text: str) -> None:
        with suppress(OSError):  # the parent was killed; the task stops at its next step
            connection.send((message, text))

    try:
        # When the parent is killed, the process gets another parent.
        task(share, ledger, send, lambda: os.getppid() == parent and not _is_past(deadline))
    except ReposeError as error:
        send("abort", str(error))
    except KeyboardInterrupt:
        pass
    finally:
        ledger.close()


def _handle_message(worker: _Worker, report: Callable[[str, bool], None]) -> None:
    message, text = worker.connection.recv()
    worker.idle = False
    if message == "abort":
        raise ConfigError(text)
    if message == "started":
        worker.running.add(text)
    else:
        worker.running.discard(text)
        worker.pending.pop(text, None)
        report(text, message == "labelled")


def _handle_exit(
    worker: _Worker, crashes: Counter[str], ledgers: Path, report: Callable[[str, bool], None]
) -> None:
    """Count crashes of running crystals, and record those that crashed too often as failed."""
    worker.process.join()
    worker.connection.close()
    code = worker.process.exitcode
    if code == 0:
        return
    status = f"signal {-code}" if code < 0 else f"exit status {code}"
    if worker.idle:
        raise DatasetError(
            f"a worker process crashed ({status}) before its first crystal; see its output above."
        )
    crashes.update(worker.running)
    for name in [name for name in worker.running if crashes[name] >= MAX_CRASHES]:
        ledger = Ledger(ledgers)
        reason = f"the process died: {MAX_CRASHES} times ({status}) while computing this crystal."
        ledger.write({"failed": Failure.of(worker.pending.pop(name), reason).to_row()})
        ledger.close()
        report(name, False)


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline
