"""Numbers of threads and processes that may be used and that are useful, and the end of processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

from repose.errors import ConfigError

CGROUP, GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Numbers of the elementwise product that is timed, and how often.
PROBE, ROUNDS = 500_000, 5
SLOWER = 2


def available_cpus() -> int:
    """Return the number of processors to use: those of `granted_cpus`, at most ``OMP_NUM_THREADS``."""
    return min(granted_cpus(), _number(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]))


def granted_cpus() -> int:
    """Return the number of processors that this process may use.

    It is the smallest of: the affinity of the process, the quota of its control group (containers), and
    Slurm's ``--cpus-per-task``.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, _quota() or cpus, _number(os.environ.get("SLURM_CPUS_PER_TASK", ""))))


def cpus_to_use(threads: int | None) -> int:
    """Return a number of processors: ``threads``, at most those granted, or `available_cpus` for None.

    Raises:
        ConfigError: ``threads`` is not positive.
    """
    if threads is None:
        return available_cpus()
    if threads < 1:
        raise ConfigError(f"the number of threads must be at least 1; got {threads}.")
    return min(threads, granted_cpus())


def limit_threads() -> None:
    """Lower the number of threads of PyTorch to `granted_cpus`, if it is higher."""
    import torch

    if torch.get_num_threads() > (most := granted_cpus()):
        torch.set_num_threads(most)


def use_threads(threads: int | None = None) -> int:
    """Set the number of threads of PyTorch and of the kernels, and return it.

    Args:
        threads: See `cpus_to_use`. With None, one thread is used if an elementwise product takes more than
            `SLOWER` times as long on all: where other work uses a processor, threads wait for each other.

    Raises:
        ConfigError: ``threads`` is not positive.
    """
    import torch

    most = cpus_to_use(threads)
    torch.set_num_threads(most)
    if threads is None and most > 1:
        together = _product_seconds()
        torch.set_num_threads(1)
        if together < SLOWER * _product_seconds():
            torch.set_num_threads(most)
    return torch.get_num_threads()


def end_with_parent() -> None:
    """End this process, one of `multiprocessing`, when its parent ends, also if that is killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _product_seconds() -> float:
    """Return the median time of an elementwise product."""
    import torch

    numbers, out, times = torch.ones(PROBE), torch.empty(PROBE), []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        torch.mul(numbers, numbers, out=out)
        times.append(time.perf_counter() - start)
    return sorted(times)[ROUNDS // 2]


def _number(text: str) -> int:
    """Return a positive number, or a large one for any other text."""
    return int(text) if text.isdigit() and int(text) else sys.maxsize


def _quota() -> int | None:
    """Return the processors that control groups grant (version 2), rounded up; None without a limit."""
    try:
        own = next(line for line in GROUPS.read_text().splitlines() if line.startswith("0::"))[3:]
    except (OSError, StopIteration):
        own = "/"
    folder, found = CGROUP / own.lstrip("/"), []
    for group in (folder, *folder.parents):
        try:
            quota, period = (group / "cpu.max").read_text().split()
            found.append(-(-int(quota) // int(period)))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(found, default=None)
