"""How much fits into memory, and batches that do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

# Batches larger than this are no faster per crystal: on a CPU they leave the cache.
BATCH_BYTES = {"cpu": 1.5e8, "cuda": 8e9}
WORTH_MEASURING = 1e8  # bytes; what else is in memory blurs smaller batches
MEMORY_SHARE = 0.7  # of the free memory that one batch may take


class _Sized(Protocol):
    memory: float


J = TypeVar("J", bound=_Sized)


def pack(jobs: list[J], capacity: Callable[[], float]) -> Iterator[list[J]]:
    """Batches of crystals of similar size that need at most so much memory together, smallest first.

    Args:
        jobs: What is packed.
        capacity: Asked anew for every batch, since the batch before teaches.
    """
    batch: list[J] = []
    filled = 0.0
    for job in sorted(jobs, key=lambda job: job.memory):
        if batch and filled + job.memory > capacity():
            yield batch
            batch, filled = [], 0.0
        batch.append(job)
        filled += job.memory
    if batch:
        yield batch


@dataclass
class Peak:
    """The most memory that was taken while something ran, in bytes; None where nobody counts."""

    taken: float | None = None

    def ratio(self, estimated: float, before: float) -> float:
        """Taken over estimated, a tenth more for safety; as before where it is unknown or tells nothing."""
        if self.taken is None or estimated < WORTH_MEASURING:
            return before
        return 1.1 * self.taken / estimated


@contextmanager
def watched(device: torch.device) -> Iterator[Peak]:
    """Count the memory that is taken on a GPU meanwhile; a CPU does not tell."""
    peak = Peak()
    if device.type != "cuda":
        yield peak
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield peak
    peak.taken = float(torch.cuda.max_memory_allocated(device) - before)


def batch_bytes(device: torch.device) -> float:
    """Bytes that a batch should take on a device."""
    return min(BATCH_BYTES.get(device.type, BATCH_BYTES["cpu"]), free_memory(device))


def free_memory(device: torch.device) -> float:
    """Bytes that a batch can take on a device and leave some for others."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return MEMORY_SHARE * (
            free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        )
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return MEMORY_SHARE * next(
            float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):  # not Linux: the whole memory, since nothing portable tells the free one
        names = getattr(os, "sysconf_names", {})
        known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names)
        return MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 4e9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; PyTorch raises plain RuntimeErrors on a CPU."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "not enough memory" in text
        or "can't allocate memory" in text
    )
