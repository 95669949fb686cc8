"""Measure crystals per hour of one thread: batched labelling, and CHGNet's calculator with ASE's optimizer.

    python studies/labelling/labelling.py CANDIDATES --n 20 --out FILE.json

Both relax the same crystals to the same forces in one run, in turns, so that other load affects both alike:
`repose.potentials.batched_lbfgs` with `repose.potentials.chgnet`, and
`chgnet.model.dynamics.CHGNetCalculator` with ASE's BFGS on a Frechet cell filter. With `--device cuda` only
the first runs on the GPU.
"""

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from repose.data.candidates import Candidate, read_candidates
from repose.io.convert import to_batch
from repose.potentials.batched_lbfgs import Start, relax_batched
from repose.potentials.loading import load_potential
from repose.potentials.settings import LbfgsSettings

FMAX, MAX_STEPS = 0.05, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("candidates", type=Path)
    parser.add_argument("--n", type=int, default=20, help="crystals relaxed by both")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    read = (c for c in read_candidates(arguments.candidates) if isinstance(c, Candidate))
    crystals = [c.to_atoms() for c in islice(read, arguments.n)]
    potential = load_potential("chgnet", arguments.device)
    from chgnet.model.dynamics import CHGNetCalculator

    calculator = CHGNetCalculator(use_device="cpu", verbose=False)
    batched(potential, crystals[:2])
    seconds = {"batched": 0.0, "ase": 0.0}
    steps = {"batched": [], "ase": []}
    for part in np.array_split(np.arange(len(crystals)), arguments.rounds):
        chosen = [crystals[k] for k in part]
        for name, relax, by in (("batched", batched, potential), ("ase", optimise, calculator)):
            start = time.perf_counter()
            steps[name] += relax(by, chosen)
            seconds[name] += time.perf_counter() - start
    result = {
        "crystals": len(crystals),
        "atoms": float(np.mean([len(atoms) for atoms in crystals])),
        "fmax": FMAX,
        "device": arguments.device if arguments.device == "cpu" else torch.cuda.get_device_name(),
        **{
            name: {
                "crystals_per_hour": 3600 * len(crystals) / seconds[name],
                "seconds_per_crystal": seconds[name] / len(crystals),
                "median_steps": float(np.median(steps[name])),
            }
            for name in seconds
        },
        "times_faster": seconds["ase"] / seconds["batched"],
    }
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def batched(potential, crystals) -> list[int]:
    """Return steps of the batched engine."""
    settings = LbfgsSettings(fmax=FMAX, max_steps=MAX_STEPS)
    source = (Start(k, to_batch(atoms)) for k, atoms in enumerate(crystals))
    return [len(run.frames) - 1 for run in relax_batched(potential, source, settings)]


def optimise(calculator, crystals) -> list[int]:
    """Return steps of ASE's BFGS, one crystal after another."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    steps = []
    for atoms in crystals:
        moving = atoms.copy()
        moving.calc = calculator
        optimizer = BFGS(FrechetCellFilter(moving), logfile=None)
        optimizer.run(fmax=FMAX, steps=MAX_STEPS)
        steps.append(int(optimizer.nsteps))
    return steps


if __name__ == "__main__":
    main()
