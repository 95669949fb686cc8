"""Measure seconds per crystal of one forward pass and of CHGNet with FIRE in one run.

    python studies/direct_vs_iterative/direct_vs_iterative.py --data DATASET [--data DATASET] [--sample 20]

Direct times are those of `Relaxer.predict` on all crystals, with graphs and without reading, and of
`Relaxer.relax`, which adds symmetry, constraints and checks. The potential relaxes a random sample of the
same crystals to 0.05 eV/A. Medians of several repetitions are printed.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="dataset; its test split is used"
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--crystals", type=int, default=200)
    parser.add_argument("--sample", type=int, default=20, help="crystals that the potential relaxes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    from ase import Atoms

    import repose
    from repose.data.dataset import Dataset

    pairs = [pair for path in arguments.data for pair in Dataset(path).read("test")]
    random.Random(0).shuffle(pairs)
    atoms = [Atoms(p.numbers, p.positions, cell=p.cell, pbc=p.pbc) for p in pairs[: arguments.crystals]]
    sizes = [len(a) for a in atoms]
    relaxer = repose.load(arguments.model, device="cpu")

    results = {
        "processor": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "crystals": len(atoms),
        "mean atoms": statistics.mean(sizes),
        "predict s/crystal": median(lambda: predict(relaxer, atoms), arguments.repeats) / len(atoms),
        "relax s/crystal": median(lambda: relaxer.relax(atoms), arguments.repeats) / len(atoms),
    }
    results |= iterative(atoms[: arguments.sample])
    for kind in ("predict", "relax"):
        results[f"times faster ({kind})"] = results["iterative s/crystal"] / results[f"{kind} s/crystal"]
    for name, value in results.items():
        print(f"{name:28s} {value:.4g}" if isinstance(value, float) else f"{name:28s} {value}")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


def predict(relaxer, atoms, size: int = 32) -> None:
    from repose.crystal.batch import CrystalBatch
    from repose.io.convert import to_batch

    crystals = [to_batch(a) for a in atoms]
    for first in range(0, len(crystals), size):
        relaxer.predict(CrystalBatch.collate(crystals[first : first + size]))


def median(run, repeats: int) -> float:
    run()  # warm-up
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def iterative(atoms) -> dict[str, float]:
    from chgnet.model.dynamics import CHGNetCalculator

    from repose.io.convert import to_batch
    from repose.relaxer.iterative import IterativeRelaxer

    relaxer = IterativeRelaxer(CHGNetCalculator(use_device="cpu", verbose=False), "chgnet", fmax=0.05)
    relaxer.predict(to_batch(atoms[0]))  # warm-up
    relaxer.steps.clear()
    relaxer.converged.clear()
    seconds = []
    for crystal in map(to_batch, atoms):
        start = time.perf_counter()
        relaxer.predict(crystal)
        seconds.append(time.perf_counter() - start)
    return {
        "iterative crystals": len(seconds),
        "iterative converged": sum(relaxer.converged),
        "iterative median steps": float(statistics.median(relaxer.steps)),
        "iterative s/crystal": statistics.mean(seconds),
        "iterative median s": statistics.median(seconds),
    }


if __name__ == "__main__":
    main()
