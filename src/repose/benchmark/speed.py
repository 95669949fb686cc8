"""Time and memory of models, each case in its own process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any, TypeVar

import torch

from repose.benchmark.cases import PLAIN, Case, Variant, load_relaxer
from repose.benchmark.ceilings import timed
from repose.benchmark.counting import count
from repose.benchmark.crystals import alloys
from repose.benchmark.memory import limit_memory, peak_memory, reset_peak
from repose.benchmark.results import Measurement
from repose.crystal.batch import CrystalBatch
from repose.relaxer.direct import DirectRelaxer
from repose.relaxer.memory import is_out_of_memory
from repose.threads import end_with_parent

T = TypeVar("T")

# Imported once, in the process that is forked.
PRELOADED = [__name__, "ase.geometry", "safetensors.torch", "vesin"]
MIN_ROUNDS, MAX_ROUNDS = 3, 200


def measure(cases: Sequence[Case]) -> Iterator[list[Measurement]]:
    """Measure cases one after another, each in new processes.

    Yields:
        Measurements of a case, one per variant. Failures are measurements with a reason.
    """
    for case in cases:
        try:
            rows = isolated(time_variants, case, limited=case.device == "cpu")
        except Exception as error:
            yield [Measurement(case, variant, explain(error)) for variant in case.variants]
            continue
        yield [row if row.reason else _with_memory(row) for row in rows]


def time_variants(case: Case) -> list[Measurement]:
    """Time all variants of a case in interleaved passes, so that other load affects them equally.

    Returns:
        One measurement per variant, without memory.
    """
    torch.set_num_threads(case.threads)
    batch, device = case.batch(), torch.device(case.device)
    rows: dict[Variant, Measurement] = {}
    passes: dict[tuple[Variant, str], Callable[..., object]] = {}
    for variant in case.variants:
        start = time.perf_counter()
        try:
            relaxer = load_relaxer(case, variant)
            relaxer.predict(batch)
            first = time.perf_counter() - start
            run, edges = network_pass(relaxer, batch)
        except Exception as error:
            rows[variant] = Measurement(case, variant, explain(error))
            continue
        passes[variant, "network"] = run
        passes[variant, "predict"] = lambda relaxer=relaxer: relaxer.predict(batch)
        rows[variant] = Measurement(
            case,
            variant,
            family=relaxer.config.family,
            parameters=sum(parameter.numel() for parameter in relaxer.network.parameters()),
            edges=edges,
            start=first,
        )
    times = interleaved(passes, device, case.seconds)
    return [row if row.reason else _timed_row(row, times, passes) for row in rows.values()]


def network_pass(relaxer: DirectRelaxer, batch: CrystalBatch) -> tuple[Callable[..., object], int]:
    """Function that runs the network as `DirectRelaxer.predict` does, and the number of edges."""
    inputs = relaxer.network.prepare(batch.to(relaxer.device, relaxer.dtype))

    def run(inference: bool = True) -> object:
        mixed = torch.autocast(relaxer.device.type, torch.bfloat16, enabled=relaxer.reduced)
        with torch.inference_mode(inference), torch.no_grad(), mixed:
            return relaxer.network(*inputs)

    return run, inputs[1].n_edges


def interleaved(
    functions: dict[T, Callable[[], object]], device: torch.device, seconds: float
) -> dict[T, list[float]]:
    """Seconds of every call, by key, of functions called in turn: A B C A B C ...

    They take approximately ``seconds`` in total; each is called at least `MIN_ROUNDS` times.
    """
    first = sum(timed(function, device) for function in functions.values())
    rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, int(seconds / max(first, 1e-9))))
    times: dict[T, list[float]] = {key: [] for key in functions}
    for _ in range(rounds):
        for key, function in functions.items():
            times[key].append(timed(function, device))
    return times


def peaks(case: Case, variant: Variant) -> tuple[int, int]:
    """``memory`` and ``total_memory`` of `Measurement` for one variant; called in a new process."""
    torch.set_num_threads(case.threads)
    batch, device = case.batch(), torch.device(case.device)
    relaxer = load_relaxer(case, variant)
    relaxer.predict(alloys(2, 2))  # loads libraries and compiled kernels
    before = reset_peak(device)
    relaxer.predict(batch)
    peak = peak_memory(device)
    return max(0, peak - before), peak


def isolated(function: Callable[..., T], *arguments: Any, limited: bool = False) -> T:
    """Result of a function, at the top level of a module, called in a new process.

    With ``limited`` its memory is limited, see `limit_memory`.

    Raises:
        BrokenProcessPool: The process ended without a result.
        Exception: Any error of the function.
    """
    # The new process is forked from one that has only imported libraries.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(limited,)) as pool:
        child = pool.submit(os.getpid).result()
        try:
            return pool.submit(function, *arguments).result()
        except KeyboardInterrupt:  # the pool would wait for the function
            os.kill(child, signal.SIGKILL)
            raise


def _begin(limited: bool) -> None:
    """Prepare a new process: end it with its parent and, if ``limited``, limit its memory."""
    end_with_parent()
    if limited:
        limit_memory()


def explain(error: Exception) -> str:
    """Reason of a failed measurement, in one line."""
    if isinstance(error, BrokenProcessPool):
        return "the process was ended, probably because it ran out of memory"
    if is_out_of_memory(error):
        return "out of memory"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _with_memory(row: Measurement) -> Measurement:
    try:
        memory, total = isolated(peaks, row.case, row.variant, limited=row.case.device == "cpu")
    except Exception as error:
        return replace(row, reason=f"memory: {explain(error)}")
    return replace(row, memory=memory, total_memory=total)


def _timed_row(
    row: Measurement,
    times: dict[tuple[Variant, str], list[float]],
    passes: dict[tuple[Variant, str], Callable[..., object]],
) -> Measurement:
    run = passes[row.variant, "network"]
    values: dict[str, Any] = {"rounds": len(times[row.variant, "network"])}
    try:
        # In inference mode, composite operations are counted before autocast changes their parts.
        work = count(lambda: run(inference=row.variant.precision == "float32"))
        values |= {"flops": work.flops, "bytes": work.bytes}
    except Exception as error:
        values["reason"] = f"work: {explain(error)}"
    for kind in ("network", "predict"):
        own, plain = times[row.variant, kind], times.get((PLAIN, kind))
        values[kind] = statistics.median(own)
        if plain:
            values[f"faster_{kind}"] = statistics.median(p / o for p, o in zip(plain, own, strict=True))
    return replace(row, **values)
