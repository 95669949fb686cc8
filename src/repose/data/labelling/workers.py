"""Worker processes that relax candidates, and what happens when one of them dies."""

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
from typing import Any

from repose.data.candidates import Candidate
from repose.data.labelling.failures import Failure
from repose.data.labelling.ledger import Ledger
from repose.errors import ConfigError, DatasetError, ReposeError

# A crystal under which so many processes have died is not tried again.
DEATHS = 2
# A forked process could not use a GPU that its parent has used.
START_METHOD = "spawn"
# With more than one thread, 3x3 linear algebra and small batches are many times slower.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Work of a process: its candidates, its ledger, whom to tell, and whether to go on.
Work = Callable[[Sequence[Candidate], Ledger, "Line", Callable[[], bool]], None]


class Line:
    """What a worker says to the process that started it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def began(self, name: str) -> None:
        """A crystal is being worked on."""
        self._say("began", name)

    def ended(self, name: str, fine: bool) -> None:
        """A crystal is in the ledger, labelled or failed."""
        self._say("fine" if fine else "failed", name)

    def cannot(self, error: ReposeError) -> None:
        """No crystal can be worked on."""
        self._say("cannot", str(error))

    def _say(self, *words: str) -> None:
        # Nobody listens any more where the parent was killed; `still_wanted` ends the work then.
        with suppress(OSError):
            self._connection.send(words)


@dataclass(eq=False)
class _Worker:
    process: Any
    line: Connection
    left: dict[str, Candidate]
    busy: set[str] = field(default_factory=set)
    idle: bool = True


def work_off(
    candidates: Sequence[Candidate],
    work: Work,
    ledgers: Path,
    *,
    workers: int,
    deadline: float | None = None,
    report: Callable[[str, bool], None] = lambda name, fine: None,
) -> None:
    """Share candidates among processes, and see to it that all of them end in a ledger.

    A process that dies is replaced. A crystal that was in work at two deaths fails; all others are taken up
    again.

    Args:
        candidates: What is to be done.
        work: Picklable; called once in every process with its share.
        ledgers: Directory of the ledgers.
        workers: How many processes.
        deadline: `time.time` at which they stop, finished or not.
        report: Told the id of each crystal that ended, and whether it was labelled.

    Raises:
        ConfigError: The work cannot be done at all, e.g. since the calculator is missing.
        DatasetError: Processes die before they do anything.
    """
    for name in THREADS:
        os.environ.setdefault(name, "1")  # read by the processes to come, when they load numpy and torch
    deaths = Counter[str]()
    crew = [
        _start(part, work, ledgers, deadline)
        for part in (candidates[k::workers] for k in range(workers))
        if part
    ]
    try:
        while crew:
            for line in wait([worker.line for worker in crew]):
                worker = next(w for w in crew if w.line is line)
                try:
                    _listen(worker, worker.line.recv(), report)
                except EOFError:
                    crew.remove(worker)
                    if _buried(worker, deaths, ledgers, report) and not _late(deadline):
                        crew.append(_start(list(worker.left.values()), work, ledgers, deadline))
    finally:
        for worker in crew:
            worker.process.terminate()
            worker.process.join()


def _start(part: Sequence[Candidate], work: Work, ledgers: Path, deadline: float | None) -> _Worker:
    context = multiprocessing.get_context(START_METHOD)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, part, ledgers, theirs, os.getpid(), deadline))
    process.start()
    theirs.close()  # or else the end of the process would not be seen
    return _Worker(process, ours, {candidate.id: candidate for candidate in part})


def _run(
    work: Work,
    part: Sequence[Candidate],
    ledgers: Path,
    connection: Connection,
    parent: int,
    deadline: float | None,
) -> None:
    """Main function of a process."""
    import torch

    torch.set_num_threads(1)
    line = Line(connection)
    ledger = Ledger(ledgers)
    try:
        # A parent that was killed leaves its children to another.
        work(part, ledger, line, lambda: os.getppid() == parent and not _late(deadline))
    except ReposeError as error:
        line.cannot(error)
    except KeyboardInterrupt:
        pass
    finally:
        ledger.close()


def _listen(worker: _Worker, message: tuple[str, str], report: Callable[[str, bool], None]) -> None:
    word, name = message
    worker.idle = False
    if word == "cannot":
        raise ConfigError(name)
    if word == "began":
        worker.busy.add(name)
    else:
        worker.busy.discard(name)
        worker.left.pop(name, None)
        report(name, word == "fine")


def _buried(
    worker: _Worker, deaths: Counter[str], ledgers: Path, report: Callable[[str, bool], None]
) -> bool:
    """See how a process ended; whether another one must go on with what it left."""
    worker.process.join()
    worker.line.close()
    status = worker.process.exitcode
    if status == 0:
        return False
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    if worker.idle:
        raise DatasetError(f"a worker process died ({how}) before it did anything; see its output above.")
    deaths.update(worker.busy)
    for name in [name for name in worker.busy if deaths[name] >= DEATHS]:
        ledger = Ledger(ledgers)
        reason = f"the process died: {DEATHS} times ({how}) while this crystal was in work."
        ledger.write({"failed": Failure.of(worker.left.pop(name), reason).to_row()})
        ledger.close()
        report(name, False)
    return bool(worker.left)


def _late(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline
