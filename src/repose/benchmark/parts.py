"""Profile of a forward pass by part of the network and by operation."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from repose.benchmark.ceilings import synchronise
from repose.benchmark.speed import network_pass
from repose.crystal.batch import CrystalBatch
from repose.relaxer.direct import DirectRelaxer

DEPTH = 3  # of module names such as layers.message.phi; deeper modules are merged


class Share(NamedTuple):
    """Time of one part or operation.

    Attributes:
        name: Module name without indices, which merges the same part of all layers; or a PyTorch operation.
        seconds: Time per pass, without submodules that have their own entry.
        calls: Calls per pass.
    """

    name: str
    seconds: float
    calls: int


def by_part(relaxer: DirectRelaxer, batch: CrystalBatch, passes: int = 5) -> list[Share]:
    """Time of every part of a network, largest first, measured by hooks on its modules.

    Times are averaged over ``passes``, after one pass to warm up. Their sum is the time of a pass.
    """
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    run, _ = network_pass(relaxer, batch)
    run()
    with _clocks(relaxer.network, relaxer.device, seconds, calls):
        for _ in range(passes):
            run()
    shares = [Share(name, total / passes, calls[name] // passes) for name, total in seconds.items()]
    return sorted(shares, key=lambda share: -share.seconds)


def by_operation(relaxer: DirectRelaxer, batch: CrystalBatch, passes: int = 5) -> list[Share]:
    """Time of every PyTorch operation, largest first, from the profiler of PyTorch; see `by_part`."""
    from torch.profiler import ProfilerActivity, profile

    cuda = relaxer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    run, _ = network_pass(relaxer, batch)
    run()
    with profile(activities=activities) as profiler:
        for _ in range(passes):
            run()
        synchronise(relaxer.device)
    shares = []
    for event in profiler.key_averages():
        micro = event.self_device_time_total if cuda else event.self_cpu_time_total
        shares.append(Share(event.key, micro / 1e6 / passes, event.count // passes))
    return sorted((share for share in shares if share.seconds > 0), key=lambda share: -share.seconds)


@contextmanager
def _clocks(
    network: nn.Module, device: torch.device, seconds: dict[str, float], calls: dict[str, int]
) -> Iterator[None]:
    """Add the time spent in each module, without its submodules, to ``seconds``."""
    open_modules: list[str] = []
    last = 0.0

    def lap() -> None:
        """Add the time since the last event to the innermost open module."""
        nonlocal last
        synchronise(device)
        now = time.perf_counter()
        if open_modules:
            seconds[open_modules[-1]] += now - last
        last = now

    def enter(name: str) -> None:
        lap()
        if not open_modules or open_modules[-1] != name:
            calls[name] += 1
        open_modules.append(name)

    def leave() -> None:
        lap()
        open_modules.pop()

    handles = []
    for path, module in network.named_modules():
        name = ".".join([part for part in path.split(".") if not part.isdigit()][:DEPTH]) or "network"
        handles.append(module.register_forward_pre_hook(lambda module, inputs, name=name: enter(name)))
        handles.append(module.register_forward_hook(lambda module, inputs, output: leave()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
