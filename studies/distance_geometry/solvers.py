"""Measure crystals per second and final loss of methods that find positions from distances.

    python studies/distance_geometry/solvers.py --data DATASET --model DIR [--crystals 200] [--out FILE]

Problems are the distances that a DeepRelax model predicts for crystals of a dataset's `val` split, once
within one scale (`positions="bounds"`) and once most probable (`"likelihood"`), and the true distances of
the relaxed crystals with noise of 0.1 A, exactly and within 0.1 A; these start from the unrelaxed
fractional coordinates. All methods get the same pairs, start and float32 numbers on one thread. The loss is
the weighted mean violation of the bounds of a crystal's pairs, averaged over crystals. Times are CPU times.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from repose.crystal.graph import edge_vectors
from repose.crystal.lattice import deformation, to_cartesian
from repose.data.dataset import Dataset
from repose.models.checkpoint import load_model
from repose.models.deeprelax.distance_solver import DistanceRestraints
from repose.models.deeprelax.positions import distance_restraints, solve, solve_by_adam, violations
from repose.models.prediction import Geometry
from repose.nn.ops import segment_sum
from repose.training.samples import Sample, collate

STEPS = 100  # of Adam, as in the authors' code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset; its val split is used")
    parser.add_argument(
        "--model", type=Path, required=True, help="directory of a model of the family DeepRelax"
    )
    parser.add_argument("--crystals", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, _ = load_model(arguments.model)
    read = list(Dataset(arguments.data).read("val"))[: arguments.crystals]
    sample = collate(network, read)
    results = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "crystals": len(sample.start),
        "mean atoms": sample.start.n_atoms / len(sample.start),
        "problems": {},
    }
    for name, (start, pairs) in problems(network, sample).items():
        results["problems"][name] = rows = compare(start, sample.start.system_index, pairs)
        print(f"{name}: {len(pairs.lower)} pairs")
        for way, row in rows.items():
            print(f"  {way:28s} {row['crystals per second']:9.1f} /s   loss {row['loss']:.5f} A")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


def problems(network, sample: Sample) -> dict[str, tuple[torch.Tensor, DistanceRestraints]]:
    """Return initial positions and distance restraints by the name of the problem."""
    with torch.no_grad():
        prediction = network(sample.start, sample.graph)
    start, distances = prediction.geometry.positions, prediction.distances
    found = {}
    for name, exact in (("predicted, bounds", False), ("predicted, likelihood", True)):
        changed = prediction._replace(distances=distances._replace(exact=exact))
        found[name] = start, distance_restraints(changed, sample.graph)
    graph, target = sample.graph, sample.target
    length = edge_vectors(graph, *Geometry(target.positions, target.cells)).norm(dim=-1)
    length = length + 0.1 * torch.randn(len(length), generator=torch.Generator().manual_seed(0))
    offset = to_cartesian(graph.shift, target.cells, graph.system_index)
    gradient = deformation(sample.start.cells, target.cells)
    start = to_cartesian(sample.start.positions, gradient, target.system_index)
    for name, width in (("noisy, exactly", 0.0), ("noisy, within 0.1 A", 0.1)):
        pairs = DistanceRestraints.free(
            graph.receiver, graph.sender, offset, (length - width).clamp(min=0), length + width
        )
        found[name] = start, pairs
    return found


def compare(
    start: torch.Tensor, system_index: torch.Tensor, pairs: DistanceRestraints
) -> dict[str, dict[str, float]]:
    """Return speed and loss of every method."""
    n = int(system_index.max()) + 1
    singles = [single(start, system_index, pairs, k) for k in range(n)]

    def one_by_one(way):
        return lambda: torch.cat([way(*problem) for problem in singles])

    def ours(at, asked_for, of=None):
        of = torch.zeros(len(at), dtype=torch.int64) if of is None else of
        return solve(at, of, int(of.max()) + 1, asked_for).positions

    ways = {
        "start": lambda: start,
        "Adam, one by one": one_by_one(adam),
        "Adam, batch": lambda: adam(start, pairs),
        "L-BFGS, one by one": one_by_one(lbfgs),
        "ours, one by one": one_by_one(ours),
        "ours, batch": lambda: ours(start, pairs, system_index),
    }
    rows = {}
    for name, way in ways.items():
        if "batch" in name:
            way()  # warm-up
        begin = time.process_time()
        positions = way()
        seconds = time.process_time() - begin
        lacking, weight = violations(positions, pairs), pairs.weight
        of = system_index[pairs.second]
        loss = (segment_sum(weight * lacking, of, n) / segment_sum(weight, of, n)).mean()
        rows[name] = {"crystals per second": n / max(seconds, 1e-9), "loss": float(loss)}
    return rows


def single(
    start: torch.Tensor, system_index: torch.Tensor, pairs: DistanceRestraints, k: int
) -> tuple[torch.Tensor, DistanceRestraints]:
    """Return the problem of one crystal."""
    atoms, mine = system_index == k, system_index[pairs.second] == k
    own = DistanceRestraints(*(column[mine] for column in pairs))
    first = int(atoms.nonzero()[0])
    return start[atoms], own._replace(first=own.first - first, second=own.second - first)


def adam(start: torch.Tensor, pairs: DistanceRestraints) -> torch.Tensor:
    """Return positions from Adam, as in the authors' code; crystals need no index of their own."""
    one = torch.zeros(len(start), dtype=torch.int64)
    return solve_by_adam(start, one, 1, pairs, steps=STEPS).positions


def lbfgs(start: torch.Tensor, pairs: DistanceRestraints) -> torch.Tensor:
    """Return positions from L-BFGS with line search, with at most as many iterations as Adam has steps."""
    at = start.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([at], max_iter=STEPS, line_search_fn="strong_wolfe")
    total = pairs.weight.sum()

    def closure():
        optimiser.zero_grad()
        loss = (pairs.weight * violations(at, pairs)).sum() / total
        loss.backward()
        return loss

    optimiser.step(closure)
    return at.detach()


if __name__ == "__main__":
    main()
