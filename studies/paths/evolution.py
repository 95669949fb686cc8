"""Measure errors, time and memory of RelaxNet with implicit and explicit evolution of features.

    python studies/paths/evolution.py --data DATASET [--frames 3,5,10] [--crystals 1000] [--epochs 5]

All variants train on the same crystals in the same order: those of the train split with at least as many
frames as the longest paths. They are tested on those of the test split. An epoch contains every crystal
once. Each variant runs in its own process; peak memory is relative to that before training.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import random
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from repose.benchmark.memory import peak_memory, reset_peak
from repose.config import TrainSettings
from repose.crystal.batching import batches_by_cost
from repose.data.dataset import Dataset, Pair
from repose.data.frames import evenly_spaced
from repose.evaluation.paths import evaluate_paths
from repose.evaluation.runner import estimate_edges
from repose.evaluation.tables import markdown_table
from repose.models.checkpoint import ModelConfig
from repose.models.registry import family
from repose.relaxer.baselines import fit_atomic_volumes
from repose.relaxer.direct import DirectRelaxer
from repose.training.paths import collate_paths, path_task

SHOWN = (
    "energy_end",
    "energy_all",
    "energy_per_atom_all",
    "forces_end",
    "forces_all",
    "coordinates",
    "rising",
)


def read(data: list[Path], split: str, frames: int, n: int) -> list[Pair]:
    """Return n crystals in random order whose paths are long enough and labelled."""
    pairs = chain.from_iterable(Dataset(path).read(split) for path in data)

    def usable(pair: Pair) -> bool:
        labelled = all(f.energy is not None and f.forces is not None for f in pair.path)
        return len(pair.path) >= frames and labelled

    usable_ones = list(filter(usable, pairs))
    random.Random(0).shuffle(usable_ones)
    return usable_ones[:n]


def measure(evolution: str, frames: int, arguments: argparse.Namespace) -> dict[str, object]:
    """Train and measure one variant."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    longest = max(arguments.frames)
    train = read(arguments.data, "train", longest, arguments.crystals)
    test = read(arguments.data, "test", longest, arguments.crystals)
    settings = {
        "evolution": evolution,
        "frames": frames,
        "features": arguments.features,
        "uncertainty_head": False,
    }
    settings["adjoint"] = arguments.adjoint
    network = family("relaxnet")(family("relaxnet").settings_type.parse(settings))
    volumes = [abs(np.linalg.det(pair.relaxed_cell)) for pair in train]
    atomic = fit_atomic_volumes([pair.numbers for pair in train], np.array(volumes))
    network.get_buffer("atomic_volumes").copy_(torch.as_tensor(atomic))
    task, _ = path_task(network, TrainSettings(), train, train)  # fits energies of elements, too
    network.to(device).train()
    before = reset_peak(device)
    seconds, skipped = learn(network, task, train, frames, arguments, device)
    memory = peak_memory(device) - before
    elements = sorted({int(z) for pair in train for z in pair.numbers})
    config = ModelConfig(family="relaxnet", name=evolution, settings=settings, elements=elements)
    report = evaluate_paths([DirectRelaxer(network, config, device)], {"test": test}, train=train)
    dummy, *_, row = report.blocks()[0]["rows"]
    return {
        "evolution": evolution,
        "frames": frames,
        "train": len(train),
        "test": len(test),
        "seconds per epoch": float(np.median(seconds)),
        "peak memory, MB": memory / 1e6,
        "steps without finite gradient": skipped,
        "ms per crystal": row["ms_per_crystal"],
        **{key: row[key] for key in SHOWN},
        "Dummy": {key: dummy[key] for key in SHOWN},
    }


def learn(network, task, pairs, frames, arguments, device) -> tuple[list[float], int]:
    """Return the seconds of every epoch, and the number of skipped steps."""
    rng, seconds, skipped = np.random.default_rng(0), [], 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=arguments.rate, weight_decay=0.0)
    total, done = arguments.epochs, 0
    for _ in range(total):
        shuffled = [pairs[k] for k in rng.permutation(len(pairs))]
        begin = time.perf_counter()
        for step, packed in enumerate(batches_by_cost(shuffled, estimate_edges, arguments.edges)):
            if step == arguments.steps:
                break
            paths = [evenly_spaced(pair.path, frames) for pair in packed]
            sample = collate_paths(network, packed, paths).to(device)
            loss = task.loss(network(sample.start, sample.graph), sample)
            optimizer.zero_grad()
            loss.backward()
            if torch.isfinite(torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)):
                optimizer.step()
            else:
                skipped += 1
            done += len(packed)
            passed = min(1.0, done / (total * len(pairs)))
            for group in optimizer.param_groups:  # down a cosine
                group["lr"] = arguments.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * passed)) / 2)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return seconds, skipped


def table(rows: list[dict]) -> str:
    """Return Dummy and all variants as a table in Markdown."""
    plain = ("seconds per epoch", "peak memory, MB", "ms per crystal")
    keys = (*SHOWN, *plain)

    def cells(row: dict) -> list[str]:
        return ["-" if row.get(key) is None or math.isnan(row[key]) else f"{row[key]:.4g}" for key in keys]

    lines = [
        [name, str(row["frames"]), *cells(values)]
        for row in rows
        for name, values in (("Dummy", row["Dummy"]), (row["evolution"], row))
    ]
    return "\n".join(markdown_table(["", "frames", *keys], lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--frames", type=lambda t: [int(n) for n in t.split(",")], default=[3, 5, 10])
    parser.add_argument("--crystals", type=int, default=1000, help="of each split, at most")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of an epoch, at most; for trials")
    parser.add_argument("--features", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--edges", type=int, default=3000, help="neighbours in a batch")
    parser.add_argument("--adjoint", action="store_true", help="less memory, more time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    rows = []
    for frames in arguments.frames:
        for evolution in ("implicit", "explicit"):
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                rows.append(pool.submit(measure, evolution, frames, arguments).result())
            print(json.dumps(rows[-1]), flush=True)
            if arguments.out:
                found = {"processor": platform.processor() or platform.machine(), "rows": rows}
                arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
