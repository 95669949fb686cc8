"""Time and memory of models, every case in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from repose.benchmark.cases import PLAIN, Case, Way, load_relaxer
from repose.benchmark.ceilings import timed
from repose.benchmark.counting import count
from repose.benchmark.crystals import alloys
from repose.benchmark.memory import limit_memory, peak_memory, reset_peak
from repose.crystal.batch import CrystalBatch
from repose.relaxer.direct import DirectRelaxer
from repose.relaxer.memory import is_out_of_memory

T = TypeVar("T")

PRELOADED = [__name__, "ase.geometry", "safetensors.torch", "vesin"]  # what every process would import
ROUNDS = 3, 200  # at least and at most


@dataclass(frozen=True)
class Row:
    """What was measured of a model on one batch, run in one way.

    Attributes:
        case: The model and the crystals.
        way: How the model was run.
        reason: Why there are no numbers, if there are none.
        family: Of the model.
        parameters: Numbers in its weights.
        edges: Edges of the whole batch.
        rounds: How often everything was timed.
        start: Seconds until the first answer: tables, compilation, first pass.
        network: Seconds of a pass of the network, graph given; median.
        predict: Seconds of `Relaxer.predict`, which makes the graph; median.
        faster_network: How many times faster than the plain path in float32; median of ratios of passes
            by turns.
        faster_predict: The same for `Relaxer.predict`.
        memory: Bytes that a prediction takes at its peak, beyond what the loaded model takes.
        total_memory: Peak of the whole process on a CPU, of all tensors on a GPU.
        flops: Operations of matrix products of a pass of the network, see `repose.benchmark.counting`.
        bytes: Bytes that its steps read and write.
    """

    case: Case
    way: Way
    reason: str | None = None
    family: str = ""
    parameters: int = 0
    edges: int = 0
    rounds: int = 0
    start: float | None = None
    network: float | None = None
    predict: float | None = None
    faster_network: float | None = None
    faster_predict: float | None = None
    memory: int | None = None
    total_memory: int | None = None
    flops: int | None = None
    bytes: int | None = None

    @property
    def atoms(self) -> int:
        """Atoms of the whole batch."""
        return self.case.crystals * self.case.atoms

    @property
    def crystals_per_second(self) -> float | None:
        """Crystals a second with their graphs."""
        return self.case.crystals / self.predict if self.predict else None

    @property
    def edges_per_second(self) -> float | None:
        """Edges a second in the network alone."""
        return self.edges / self.network if self.network else None


def measure(cases: Sequence[Case]) -> Iterator[list[Row]]:
    """Measure cases one after another, each in fresh processes.

    Args:
        cases: What to measure.

    Yields:
        The rows of a case, one a way. Where something fails, the row says why, and all others are measured.
    """
    for case in cases:
        try:
            rows = isolated(time_ways, case, limited=case.device == "cpu")
        except Exception as error:
            yield [Row(case, way, explain(error)) for way in case.ways]
            continue
        yield [row if row.reason else _with_memory(row) for row in rows]


def time_ways(case: Case) -> list[Row]:
    """Time all ways of a case by turns, so that what else the machine does meets all of them alike.

    Args:
        case: The model and the crystals.

    Returns:
        One row a way, without its memory.
    """
    torch.set_num_threads(case.threads)
    batch, device = case.batch(), torch.device(case.device)
    rows: dict[Way, Row] = {}
    passes: dict[tuple[Way, str], Callable[..., object]] = {}
    for way in case.ways:
        start = time.perf_counter()
        try:
            relaxer = load_relaxer(case, way)
            relaxer.predict(batch)
            begun = time.perf_counter() - start
            run, edges = network_pass(relaxer, batch)
        except Exception as error:
            rows[way] = Row(case, way, explain(error))
            continue
        passes[way, "network"] = run
        passes[way, "predict"] = lambda relaxer=relaxer: relaxer.predict(batch)
        size = sum(parameter.numel() for parameter in relaxer.network.parameters())
        family = relaxer.config.family
        rows[way] = Row(case, way, family=family, parameters=size, edges=edges, start=begun)
    times = interleaved(passes, device, case.seconds)
    return [row if row.reason else _timed_row(row, times, passes) for row in rows.values()]


def network_pass(relaxer: DirectRelaxer, batch: CrystalBatch) -> tuple[Callable[..., object], int]:
    """A pass of the network alone, as `DirectRelaxer.predict` makes it, and the edges of the graph.

    Args:
        relaxer: The model.
        batch: The crystals; their graph is made here.
    """
    inputs = relaxer.network.prepare(batch.to(relaxer.device, relaxer.dtype))

    def run(inference: bool = True) -> object:
        mixed = torch.autocast(relaxer.device.type, torch.bfloat16, enabled=relaxer.reduced)
        with torch.inference_mode(inference), torch.no_grad(), mixed:
            return relaxer.network(*inputs)

    return run, inputs[1].n_edges


def interleaved(
    functions: dict[T, Callable[[], object]], device: torch.device, seconds: float
) -> dict[T, list[float]]:
    """Times of functions called by turns: A B C A B C ...

    Args:
        functions: What to call, by any key.
        device: Where they run.
        seconds: How long to go on, about; every function is called some times at least.

    Returns:
        Seconds of every call, in lists of one length.
    """
    first = sum(timed(function, device) for function in functions.values())
    low, high = ROUNDS
    rounds = min(high, max(low, int(seconds / max(first, 1e-9))))
    times: dict[T, list[float]] = {key: [] for key in functions}
    for _ in range(rounds):
        for key, function in functions.items():
            times[key].append(timed(function, device))
    return times


def peaks(case: Case, way: Way) -> tuple[int, int]:
    """Memory of one way of running a model; for a process in which nothing else ran before.

    Args:
        case: The model and the crystals.
        way: How the model is run.

    Returns:
        ``memory`` and ``total_memory`` of `Row`.
    """
    torch.set_num_threads(case.threads)
    batch, device = case.batch(), torch.device(case.device)
    relaxer = load_relaxer(case, way)
    relaxer.predict(alloys(2, 2))  # libraries, threads, compiled kernels
    before = reset_peak(device)
    relaxer.predict(batch)
    peak = peak_memory(device)
    return max(0, peak - before), peak


def isolated(function: Callable[..., T], *arguments: Any, limited: bool = False) -> T:
    """Result of a function called in a fresh process.

    Args:
        function: At the top of a module.
        *arguments: For it.
        limited: See `limit_memory`.

    Raises:
        BrokenProcessPool: The process ended before it had a result.
        Exception: What the function raised.
    """
    # Forked from a process that has imported libraries and done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(limited,)) as pool:
        child = pool.submit(os.getpid).result()
        try:
            return pool.submit(function, *arguments).result()
        except KeyboardInterrupt:  # the pool would wait for the function to end
            os.kill(child, signal.SIGKILL)
            raise


def _begin(limited: bool) -> None:
    """Prepare a fresh process: it ends with its parent, and has a limit of memory if so wished."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()  # returns, too, when the parent was killed
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if limited:
        limit_memory()


def explain(error: Exception) -> str:
    """Why there are no numbers, in one line."""
    if isinstance(error, BrokenProcessPool):
        return "the process was ended, most likely for want of memory"
    if is_out_of_memory(error):
        return "out of memory"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _with_memory(row: Row) -> Row:
    try:
        memory, total = isolated(peaks, row.case, row.way, limited=row.case.device == "cpu")
    except Exception as error:
        return replace(row, reason=f"memory: {explain(error)}")
    return replace(row, memory=memory, total_memory=total)


def _timed_row(
    row: Row, times: dict[tuple[Way, str], list[float]], passes: dict[tuple[Way, str], Callable[..., object]]
) -> Row:
    run = passes[row.way, "network"]
    values: dict[str, Any] = {"rounds": len(times[row.way, "network"])}
    try:
        # In inference mode steps made of others are counted before autocast has seen to their parts.
        work = count(lambda: run(inference=row.way.precision == "float32"))
        values |= {"flops": work.flops, "bytes": work.bytes}
    except Exception as error:
        values["reason"] = f"work: {explain(error)}"
    for kind in ("network", "predict"):
        own, plain = times[row.way, kind], times.get((PLAIN, kind))
        values[kind] = statistics.median(own)
        if plain:
            values[f"faster_{kind}"] = statistics.median(p / o for p, o in zip(plain, own, strict=True))
    return replace(row, **values)
