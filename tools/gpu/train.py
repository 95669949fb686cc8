"""Train a staged run for some minutes on a GPU, or on a CPU; see README.md.

    python STAGE/train.py --out OUT --minutes 9

OUT gets the best ``model/`` so far, ``log.jsonl`` and ``state.pt``, from which the same command continues.
It needs PyTorch, NumPy and safetensors besides the packages in STAGE.
"""

from __future__ import annotations

import time

STARTED = time.monotonic()

# ruff: noqa: E402
import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "packages"))
os.environ.setdefault("SPGLIB_WARNING", "OFF")

import numpy as np
import torch
from packed import read
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from trainer import Trainer

from repose.config import SamplingSettings, TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.batching import batches_by_cost
from repose.data.rows import Pair
from repose.device import resolve_device
from repose.models.network import Network
from repose.training.prefetch import prefetched
from repose.training.samples import Sample, draw, inputs_of
from repose.training.steps import cosine_rate

LOG_SECONDS = 10.0
Inputs = tuple[CrystalBatch, CrystalBatch]  # unrelaxed and relaxed crystals


class RandomInputs(IterableDataset[Inputs]):
    """Endless batches of random inputs; their graphs are built later, on the device.

    Every worker draws from its own share of the crystals, whose space groups it keeps.
    """

    def __init__(
        self, pairs: Sequence[Pair], edges: np.ndarray, settings: SamplingSettings, seed: Sequence[int]
    ) -> None:
        super().__init__()
        self.pairs, self.edges, self.settings, self.seed = pairs, edges, settings, seed

    def __iter__(self) -> Iterator[Inputs]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        own = np.arange(len(self.pairs))[first::stride]
        rng = np.random.default_rng([*self.seed, first])
        order = (row for _ in count() for row in rng.permutation(own))
        for rows in batches_by_cost(order, self.edges.__getitem__, self.settings.edges_per_batch):
            yield batches_of([draw(self.pairs[row], self.settings, rng) for row in rows])


def batches_of(pairs: Sequence[Pair]) -> Inputs:
    """Unrelaxed and relaxed crystals of pairs."""
    relaxed = [replace(p, positions=p.relaxed_positions, cell=p.relaxed_cell) for p in pairs]
    return inputs_of(pairs), inputs_of(relaxed)


def samples(batches: Iterator[Inputs], network: Network[Any], device: torch.device) -> Iterator[Sample]:
    """Yield samples on a device, with graphs; on a GPU in a stream of their own, which is waited for."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    for inputs, relaxed in batches:
        with nullcontext() if stream is None else torch.cuda.stream(stream), torch.no_grad():
            sample = Sample(*network.prepare(inputs.to(device)), relaxed.to(device))
        if stream is not None:
            stream.synchronize()
        yield sample


@dataclass
class Meter:
    """Sums over the steps since the last line of the log."""

    since: float
    steps: int = 0
    edges: int = 0
    crystals: int = 0
    waited: float = 0.0
    loss: float = 0.0
    gradient: float = 0.0

    def add(self, sample: Sample, loss: float, gradient: float) -> None:
        """Count a step."""
        self.steps += 1
        self.edges += sample.graph.n_edges
        self.crystals += len(sample.target)
        self.loss += loss
        self.gradient += gradient

    def row(self, now: float) -> dict[str, float]:
        """Means over steps, rates, and the share of the time without a batch."""
        seconds = now - self.since
        return {
            "loss": round(self.loss / self.steps, 5),
            "gradient": round(self.gradient / self.steps, 4),
            "steps_per_s": round(self.steps / seconds, 2),
            "edges_per_s": round(self.edges / seconds),
            "crystals_per_s": round(self.crystals / seconds),
            "waiting": round(self.waited / seconds, 3),
        }


def main() -> None:
    """Train until the time is over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", type=Path, default=Path(__file__).parent, help="default: this folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="time of this command, start included")
    parser.add_argument("--until", type=float, default=1.0, help="share of the schedule done by then")
    parser.add_argument("--state", type=Path, help="file of the state (default OUT/state.pt)")
    parser.add_argument("--init-from", help="model folder to start from, if there is no state")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--every", type=float, default=60.0, help="seconds between checkpoints")
    parser.add_argument("--steps", type=int, help="end after so many steps in all, for tests")
    parser.add_argument("--plain", action="store_true", help="no compiled kernels")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options, STARTED + 60 * options.minutes)


def train(options: argparse.Namespace, deadline: float) -> None:
    """Train until a time of the monotonic clock, with checkpoints."""
    stopped = list[int]()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    state = options.state or options.out / "state.pt"

    def log(**values: Any) -> None:
        line = json.dumps({"seconds": round(time.monotonic() - STARTED, 1), **values})
        print(line, flush=True)
        with (options.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    run = json.loads((options.stage / "run.json").read_text())
    settings = TrainSettings.parse(run["settings"])
    saved = torch.load(state, map_location="cpu", weights_only=True) if state.is_file() else {"step": 0}
    pairs, edges, _ = read(options.stage / "train.npz", run["repeats"])
    inputs = RandomInputs(pairs, edges, settings.sampling, (settings.seed, saved["step"]))
    # Workers start before the GPU is used.
    batches = iter(DataLoader(inputs, batch_size=None, num_workers=options.workers, prefetch_factor=4))
    device = resolve_device(options.device)
    torch.linalg.inv(torch.eye(3, device=device))  # loaded here, as two threads must not load it at once
    trainer = Trainer.begin(options.stage, run, settings, device, options.init_from)
    trainer.load(saved)
    validation, source = validation_samples(options.stage, trainer)
    stream = prefetched(samples(batches, trainer.network, device))
    log(
        crystals=len(pairs),
        parameters=sum(p.numel() for p in trainer.network.parameters()),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        precision=str(trainer.precision),
        compiled="no" if options.plain else trainer.use_kernels(next(stream)),
        step=trainer.step,
    )

    def checkpoint() -> float:
        """Validate and write model and state; return the seconds that it took."""
        began = time.monotonic()
        errors = trainer.validate(validation, source)
        score, model = errors["all"]["score"], options.out / "model"
        if score <= trainer.best or not model.is_dir():
            trainer.best = min(score, trainer.best)
            trainer.export(model, errors["all"])
        trainer.save(state)
        log(step=trainer.step, progress=round(trainer.progress, 4), validation=errors)
        return time.monotonic() - began

    trainer.validate(validation, source)  # what is compiled for it is not part of the time of the next
    longest, first = checkpoint(), trainer.progress
    begun = written = time.monotonic()
    meter = Meter(begun)
    while not stopped and trainer.step != options.steps:
        now = time.monotonic()
        share = (now - begun) / max(1e-3, deadline - 1.5 * longest - begun)
        trainer.progress = first + (options.until - first) * min(1.0, share)
        if share >= 1:
            break
        sample = next(stream)
        meter.waited += time.monotonic() - now
        rate = cosine_rate(trainer.step, settings.warmup_steps, trainer.progress)
        meter.add(sample, *trainer.take_step(sample, rate))
        now = time.monotonic()
        if now - meter.since > LOG_SECONDS:
            log(step=trainer.step, progress=round(trainer.progress, 4), rate=rate, **meter.row(now))
            meter = Meter(now)
        if now - written > options.every:
            longest = max(longest, checkpoint())
            written = time.monotonic()
            meter = Meter(written)
    checkpoint()
    stream.close()


def validation_samples(stage: Path, trainer: Trainer) -> tuple[list[Sample], np.ndarray]:
    """Return validation crystals on the device of a trainer, and the indices of their datasets."""
    pairs, edges, source = read(stage / "val.npz")
    order = np.argsort(edges, kind="stable").tolist()
    limit = 2 * trainer.settings.sampling.edges_per_batch
    batches = [
        batches_of([pairs[k] for k in rows]) for rows in batches_by_cost(order, edges.__getitem__, limit)
    ]
    return list(samples(iter(batches), trainer.average, trainer.device)), source[order]


if __name__ == "__main__":
    main()
