"""Ceilings of the machine: rates of matrix products and of copies, as in a roofline model."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

# Large enough to reach the peak rate, small enough to take a second.
MATRIX = {"cpu": 1536, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # beyond any cache
REPEATS = 6


@dataclass(frozen=True)
class Ceilings:
    """Highest rates of a device for data in main memory.

    Attributes:
        device: Device.
        name: Name of the processor, if the system has it.
        threads: CPU threads.
        products: Floating-point operations per second of a matrix product, by precision; a multiplication
            and an addition count as two.
        copy: Bytes read and written per second by a copy of a large array.
    """

    device: str
    name: str
    threads: int
    products: dict[str, float]
    copy: float


def measure_ceilings(device: str, threads: int) -> Ceilings:
    """Measure the ceilings of a device, the best of `REPEATS`; sets ``threads`` for the whole process."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    products = {}
    for dtype in (torch.float32, torch.bfloat16):
        n = MATRIX[place.type]
        a, b = torch.randn(2, n, n, device=place).to(dtype)
        out = torch.empty_like(a)
        products[str(dtype).removeprefix("torch.")] = (
            2 * n**3 / _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), place)
        )
    source = torch.ones(COPY_BYTES[place.type], dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / _best(lambda: target.copy_(source), place)
    return Ceilings(device, _name(place), threads, products, copy)


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that a function takes, including its work on the device."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait for a GPU to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best(function: Callable[[], object], device: torch.device) -> float:
    function()
    return min(timed(function, device) for _ in range(REPEATS))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines: Sequence[str] = info.read_text().splitlines() if info.is_file() else ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
