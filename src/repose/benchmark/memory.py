"""The peak of a process's memory, and a limit on it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from repose.relaxer.memory import free_memory

PROCESS = Path("/proc/self")


def limit_memory() -> None:
    """What needs more memory than is free then fails, where the system would end this or another process."""
    status = PROCESS / "status"
    if not status.is_file():  # not Linux
        return
    lines = status.read_text().splitlines()
    used = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(used + free_memory(torch.device("cpu"))), hard))


def reset_peak(device: torch.device) -> int:
    """Forget the peak so far, where the system can (Linux, GPUs).

    Args:
        device: Whose memory.

    Returns:
        The peak from which `peak_memory` rises, bytes.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (clear := PROCESS / "clear_refs").exists():
        clear.write_text("5")
    return peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Largest memory so far in bytes: resident of this process, or of all tensors on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
