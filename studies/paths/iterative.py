"""Measure errors and seconds of RelaxNet and of iterative relaxation with a potential in one run.

    python studies/paths/iterative.py --data DATASET --model DIR [--model DIR] [--crystals 250] [--own]

All methods relax the same test crystals with known paths, one by one. The potential (CHGNet; with `--own`
also RelaxNet's) relaxes atoms and cell (FrechetCellFilter) with ASE's L-BFGS, steps of at most 0.2 A, to
0.05 eV/A (C1) and to the mean largest force that the first RelaxNet predicts at its last frame (C2, or
`--c2`). Errors are those of `repose evaluate --paths`: energy and forces of each method at its own last
frame, against the last frame of the reference path.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from ase.stress import full_3x3_to_voigt_6_stress

from repose.crystal.frame import Frame
from repose.crystal.lattice import volume
from repose.data.dataset import Dataset
from repose.evaluation.path_report import markdown, to_dict
from repose.evaluation.paths import evaluate_paths
from repose.io.convert import to_atoms, to_batch
from repose.models.prediction import Geometry
from repose.potentials.base import Evaluation, Potential
from repose.potentials.loading import load_potential
from repose.relaxer.base import Relaxer
from repose.relaxer.batch_relaxation import BatchRelaxation
from repose.relaxer.loading import load

MAX_STEP = 0.2  # A; the paper's, as are the bounds of `main`


class Own(Potential):
    """Energy of RelaxNet, at every geometry as at the first frame of a path."""

    def __init__(self, relaxer) -> None:
        self.name, self.relaxer = relaxer.name, relaxer

    def evaluate(self, batch):
        relaxer = self.relaxer
        moved, graph = relaxer.network.prepare(batch.to(relaxer.device, relaxer.dtype))
        with torch.no_grad():
            found = relaxer.network.potential(moved, graph)
        stress = found.virial / volume(moved.cells)[:, None, None]
        return Evaluation(*(part.cpu().double() for part in (found.energy, found.forces, stress)))


class AsCalculator(Calculator):
    """ASE calculator of a potential."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        found = self.potential.evaluate(to_batch(self.atoms))
        self.results = {
            "energy": float(found.energy[0]),
            "forces": found.forces.numpy(),
            "stress": full_3x3_to_voigt_6_stress(found.stress[0].numpy()),
        }


class Iterative(Relaxer):
    """L-BFGS on atoms and cell; the frames of its path are evenly spaced over its steps."""

    gives_paths = True

    def __init__(self, potential: Potential, name: str, frames: int, fmax: float, steps: int) -> None:
        self.calculator, self.name, self.frames = AsCalculator(potential), name, frames
        self.fmax, self.max_steps = fmax, steps
        self.steps, self.converged = [], []

    def relax_batch(self, batch):
        paths = [self.relaxed(atoms) for atoms in to_atoms(batch)]
        ends = [path[-1] for path in paths]
        positions = torch.from_numpy(np.concatenate([end.positions for end in ends]))
        return BatchRelaxation(
            Geometry(positions, torch.from_numpy(np.stack([e.cell for e in ends]))), paths=paths
        )

    def predict(self, batch):
        return self.relax_batch(batch).geometry

    def relaxed(self, atoms) -> tuple[Frame, ...]:
        atoms.calc = self.calculator
        optimizer = LBFGS(FrechetCellFilter(atoms), logfile=None, maxstep=MAX_STEP)
        seen = []

        def note():
            place = atoms.positions.copy(), atoms.cell.array.copy()
            seen.append(Frame(*place, atoms.get_potential_energy(), atoms.get_forces()))

        optimizer.attach(note)
        self.converged.append(bool(optimizer.run(fmax=self.fmax, steps=self.max_steps)))
        self.steps.append(int(optimizer.nsteps))
        return tuple(seen[k] for k in np.linspace(0, len(seen) - 1, self.frames).round().astype(int))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset; its test split is used")
    parser.add_argument("--model", action="append", required=True, help="RelaxNet; repeatable")
    parser.add_argument("--calculator", default="chgnet")
    parser.add_argument("--own", action="store_true", help="also relax with RelaxNet's own potential")
    parser.add_argument("--crystals", type=int, default=250)
    parser.add_argument("--steps", type=int, default=500, help="of the optimiser, at most")
    parser.add_argument("--c1", type=float, default=0.05, help="eV/A")
    parser.add_argument("--c2", type=float, help="eV/A; default: RelaxNet's largest force at its end")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = Dataset(arguments.data)
    models = [load(model, arguments.device) for model in arguments.model]
    for model, given in zip(models, arguments.model, strict=True):
        model.name = f"{model.name} ({given})" if len(models) > 1 else model.name
    frames = models[0].network.path_frames
    pairs = [pair for pair in dataset.read("test") if len(pair.path) >= frames]
    random.Random(0).shuffle(pairs)
    pairs = pairs[: arguments.crystals]
    data, train = {dataset.info.name: pairs}, list(dataset.read("train"))

    begin = time.perf_counter()
    together = evaluate_paths(models[:1], data)
    batched = (time.perf_counter() - begin) / len(pairs)
    own_end = float(together.plain[models[0].name].largest[:, -1].mean())
    rules = {"C1": arguments.c1, "C2": arguments.c2 or own_end}
    potentials = {arguments.calculator: load_potential(arguments.calculator, arguments.device)}
    if arguments.own:
        potentials |= {f"potential of {model.name}": Own(model) for model in models}
    peers = [
        Iterative(potential, f"{name}, L-BFGS, {rule}", frames, fmax, arguments.steps)
        for name, potential in potentials.items()
        for rule, fmax in rules.items()
    ]
    result = evaluate_paths([*models, *peers], data, train=train, edges_per_batch=1)
    results = {
        "processor": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "labels": dataset.info.calculator,
        "fmax": rules,
        "seconds per crystal in batches, scoring included": batched,
        "optimiser": {  # the first crystal was relaxed once more, to warm up
            peer.name: {
                "median steps": statistics.median(peer.steps[1:]),
                "converged": sum(peer.converged[1:]),
            }
            for peer in peers
        },
        **to_dict(result),
    }
    print(markdown(result))
    print(f"C1 {rules['C1']:.4f}, C2 {rules['C2']:.4f} eV/A; labels: {dataset.info.calculator}")
    for name, row in results["optimiser"].items():
        print(f"{name}: {row['converged']} of {len(pairs)} converged, median {row['median steps']} steps")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
