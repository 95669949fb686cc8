"""Memory that is free, and that a batch takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

# Larger batches are not faster per crystal: on a CPU they exceed the cache.
BATCH_BYTES = {"cpu": 1.5e8, "cuda": 8e9}
MIN_MEASURED_BYTES = 1e8  # in smaller batches other memory dominates the measurement
MEMORY_SHARE = 0.7  # share of the free memory that one batch may take


@dataclass
class Peak:
    """Largest memory taken during a block of code, in bytes; None where it cannot be measured."""

    taken: float | None = None

    def ratio(self, estimated: float, before: float) -> float:
        """Measured over estimated memory plus 10 %; ``before`` if the measurement is missing or small."""
        if self.taken is None or estimated < MIN_MEASURED_BYTES:
            return before
        return 1.1 * self.taken / estimated


@contextmanager
def measured_peak(device: torch.device) -> Iterator[Peak]:
    """Measure the largest memory taken in the ``with`` block; on a GPU only."""
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
    """Bytes that a batch may take on a device: a share of the free memory."""
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
    except (OSError, StopIteration):  # not Linux: total memory
        names = getattr(os, "sysconf_names", {})
        known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names)
        return MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 4e9


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out; on a CPU PyTorch raises a plain RuntimeError."""
    text = str(error).lower()
    messages = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in text for part in messages)
