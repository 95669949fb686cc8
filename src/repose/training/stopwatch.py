"""Seconds of the parts of a training run (`repose train --profile`)."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Parts in the order of the table.
PARTS = (
    "reading",
    "counting edges",
    "first step",
    "random inputs",
    "collate",
    "graphs",
    "waiting for batches",
    "forward",
    "backward",
    "clipping",
    "optimizer",
    "moving average",
    "validation",
    "model and checkpoint",
    "calibration",
)
# Parts of a step of training.
STEP = PARTS[3:12]
# Parts whose time includes all parts within.
WHOLE = {"counting edges", "first step", "validation", "calibration"}
# Names of actions in Lightning, by a piece of the name, and their parts.
ACTIONS = {
    "train_dataloader_next": "waiting for batches",
    "training_step": "forward",
    ".backward": "backward",
    "configure_gradient_clipping": "clipping",
    "optimizer_step": "optimizer",
    "val_next": "validation",
    "validation_step": "validation",
    "ExportBest": "model and checkpoint",
    "ModelCheckpoint": "model and checkpoint",
    "save_checkpoint": "model and checkpoint",
}


class Stopwatch:
    """Seconds by part; the time of a part excludes that of parts within, except for `WHOLE`.

    `start` and `stop` are called by `part`, and by Lightning for its actions. Parts in other threads are
    counted apart. The first step is a part of its own, because it includes compilation.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.background: defaultdict[str, float] = defaultdict(float)
        self.steps = self.edges = 0
        self._begin = time.perf_counter()
        self._main = threading.get_ident()
        self._thread = threading.local()

    def start(self, action_name: str) -> None:
        """Begin a part, or an action of Lightning."""
        stack = self._charge()
        outer = stack[-1] if stack else None
        if action_name == "run_training_batch" and not self.steps:
            stack.append("first step")
        else:
            stack.append(outer if outer in WHOLE else _part_of(action_name) or outer)

    def stop(self, action_name: str) -> None:
        """End the last part."""
        self._charge().pop()
        self.steps += action_name == "run_training_batch"

    def count(self, edges: int) -> None:
        """Count the edges of a step; not those of the first step, whose time is not that of a step."""
        self.edges += edges if self.steps else 0

    def report(self) -> dict[str, Any]:
        """Return seconds by part, total, number of steps, and edges per second of steps after the first."""
        total = time.perf_counter() - self._begin
        seconds = {name: self.seconds[name] for name in PARTS if name in self.seconds}
        seconds["rest"] = total - sum(seconds.values())
        stepping = sum(self.seconds[name] for name in STEP if name in self.seconds)
        ahead = {name: self.background[name] for name in PARTS if name in self.background}
        return {
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "background": {name: round(value, 4) for name, value in ahead.items()},
            "total": round(total, 4),
            "steps": self.steps,
            "edges_per_step": round(self.edges / max(1, self.steps - 1)),
            "edges_per_second": round(self.edges / stepping) if stepping else 0,
        }

    def _charge(self) -> list[str | None]:
        """Add the time since the last call to the current part of this thread; return the open parts."""
        own, main = self._thread, threading.get_ident() == self._main
        if main and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        stack = own.__dict__.setdefault("stack", [])
        if stack and stack[-1]:
            (self.seconds if main else self.background)[stack[-1]] += now - own.last
        own.last = now
        return stack


def _part_of(action: str) -> str | None:
    """Part of an action, None if it belongs to no part."""
    return action if action in PARTS else next((ACTIONS[piece] for piece in ACTIONS if piece in action), None)


_running: Stopwatch | None = None


@contextmanager
def measured() -> Iterator[Stopwatch]:
    """Measure all parts within by one stopwatch."""
    global _running
    _running = Stopwatch()
    try:
        yield _running
    finally:
        _running = None


def running() -> Stopwatch | None:
    """Return the stopwatch of `measured`; None outside."""
    return _running


@contextmanager
def part(name: str) -> Iterator[None]:
    """Measure a part of a run by name, see `PARTS`; outside of `measured` it does nothing."""
    if (watch := _running) is None:
        yield
    else:
        watch.start(name)
        try:
            yield
        finally:
            watch.stop(name)


def table(report: dict[str, Any]) -> str:
    """Return a report of `Stopwatch.report` as text."""
    rows = [*report["seconds"].items(), ("total", report["total"])]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'part':{width}}  seconds   share"]
    lines += [f"{name:{width}}  {value:7.2f}  {value / report['total']:6.1%}" for name, value in rows]
    if report["background"]:
        ahead = ", ".join(f"{name} {value:.2f} s" for name, value in report["background"].items())
        lines.append(f"in the background, at the same time: {ahead}")
    lines.append(
        f"{report['steps']} steps of {report['edges_per_step']:,} edges; without the first step "
        f"{report['edges_per_second']:,} edges/s"
    )
    return "\n".join(lines)
