"""Peak memory of a process, and a limit on its memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from repose.relaxer.memory import free_memory

PROCESS = Path("/proc/self")


def limit_memory() -> None:
    """Let allocations beyond the free memory fail, before the system ends a process (Linux)."""
    status = PROCESS / "status"
    if not status.is_file():  # not Linux
        return
    lines = status.read_text().splitlines()
    used = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(used + free_memory(torch.device("cpu"))), hard))


def reset_peak(device: torch.device) -> int:
    """Reset the peak memory, where the system supports it (Linux, GPUs); return the new peak, bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (clear := PROCESS / "clear_refs").exists():
        clear.write_text("5")
    return peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: resident memory of this process, or memory of all tensors on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
