"""Count the relaxation steps that a prediction saves: CHGNet from the input and from predictions.

    python studies/steps_saved/steps_saved.py --far DATASET --substitutions DATASET --frames DATASET \\
        --train DATASET --model default --model e3relax --rows DIR --out studies/steps_saved/result.json

Finished relaxations are written one by one to JSON-lines files in the directory of rows, outside the
repository; a second call continues. The command and the fields of the result are in README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms

import repose
from repose.crystal.batch import CrystalBatch
from repose.data.candidates import Candidate
from repose.data.dataset import Dataset, Pair
from repose.data.labelling.ledger import Ledger, read_ledgers
from repose.data.labelling.workers import Send, run_workers
from repose.evaluation.metrics import coordinate_error, move_to_image
from repose.evaluation.regimes import LARGEST, QUARTERS, SIZES, quarters
from repose.evaluation.runner import to_batch, trivial_relaxers
from repose.models.checkpoint import find_model
from repose.models.prediction import Geometry
from repose.potentials.batched_lbfgs import RelaxationRun, relax_batched
from repose.potentials.batched_lbfgs import Start as Crystal
from repose.potentials.chgnet import CHGNetPotential
from repose.potentials.settings import LbfgsSettings
from repose.relaxer.base import Relaxer
from repose.relaxer.baselines import Rescale
from repose.training.reading import choose

# Crystals of each set; None for all.
SETS = {"far": 100, "substitutions": 100, "frames": None, "mp-substitutions": 100}
POTENTIAL, FMAX, MAX_STEPS = "CHGNet 0.3.0, float64", 0.05, 500  # eV/A, steps
SAME = 1.0  # meV/atom: relaxed crystals closer than this are in the same minimum
INPUT = "input"
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Start(Candidate):
    """A structure to relax; ``row`` describes it."""

    row: Row = field(default_factory=dict)


def key_of(pair: Pair, weights: str) -> str:
    """Return a hash of all that a relaxation depends on: input, model, potential and settings."""
    digest = hashlib.sha256(json.dumps([weights, POTENTIAL, FMAX, MAX_STEPS]).encode())
    for array in (pair.numbers, pair.pbc, pair.positions, pair.cell):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]


def unrelaxed(pair: Pair) -> Atoms:
    """Return the input of a pair."""
    return Atoms(pair.numbers, pair.positions, cell=pair.cell, pbc=pair.pbc)


def coordinate_errors(pairs: Sequence[Pair], predicted: Sequence[Atoms]) -> np.ndarray:
    """Return the errors of coordinates in A, as `repose evaluate` does."""
    batch, target = to_batch(pairs)
    positions = torch.from_numpy(np.concatenate([atoms.positions for atoms in predicted]))
    geometry = Geometry(positions, torch.from_numpy(np.stack([atoms.cell.array for atoms in predicted])))
    near = move_to_image(geometry, batch.positions, batch.system_index)
    geometry = Geometry(near, geometry.cells)
    return coordinate_error(geometry, target, batch.positions, batch.system_index).numpy()


class CrystalSet:
    """Test crystals of some datasets, and those of them that are relaxed.

    Args:
        name: Key of `SETS`.
        datasets: Directories.
        crystals: Number of crystals, chosen by the hashes of their ids; None for all.
        max_atoms: Atoms of the largest crystal that is relaxed.

    Attributes:
        chosen: Crystals to relax, in the order of the hashes.
        errors: Error of coordinates of every input in A, by id.
        quarters: Quarter of all test crystals by that error, 0 to 3, by id.
    """

    def __init__(self, name: str, datasets: Sequence[Path], crystals: int | None, max_atoms: int) -> None:
        pairs = [pair for path in datasets for pair in Dataset(path).read("test", paths=False)]
        self.name, self.test_crystals = name, len(pairs)
        self.datasets = [Dataset(path).info.name for path in datasets]
        errors = coordinate_errors(pairs, list(map(unrelaxed, pairs)))
        ids = [pair.id for pair in pairs]
        self.errors = dict(zip(ids, errors.tolist(), strict=True))
        self.quarters = dict(zip(ids, quarters(errors).tolist(), strict=True))
        small = {pair.id: pair for pair in pairs if len(pair.numbers) <= max_atoms}
        names = choose(small, len(small) if crystals is None else crystals)
        self.chosen = [small[n] for n in sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest())]


class Model(NamedTuple):
    """What gives the structures to relax: a relaxer, or None for the input; ``weights`` identifies it."""

    name: str
    weights: str
    relaxer: Relaxer | None


def models_of(names: Sequence[str], train: Sequence[Path]) -> list[Model]:
    """Return the input, Rescale, and the models of these names."""
    fitted = (pair for path in train for pair in Dataset(path).read("train", paths=False))
    *_, rescale = trivial_relaxers(fitted)
    if not isinstance(rescale, Rescale):
        raise SystemExit("the datasets that fit Rescale have no train split; choose others with --train.")
    volumes = np.round(rescale.atomic_volumes.numpy(), 4).tobytes()
    found = [Model(INPUT, INPUT, None), Model(rescale.name, hashlib.sha256(volumes).hexdigest(), rescale)]
    for name in names:
        weights = (find_model(name) / "model.safetensors").read_bytes()
        relaxer = repose.load(name, device="cpu")
        found.append(Model(Path(name).name, hashlib.sha256(weights).hexdigest(), relaxer))
    if any(len(set(column)) < len(found) for column in list(zip(*found, strict=True))[:2]):
        raise SystemExit(f"expected models with distinct names and weights; got {', '.join(names)}.")
    return found


def starts_of(crystal_set: CrystalSet, model: Model, done: Collection[str]) -> list[Start]:
    """Return the structures of a model, for those crystals of a set whose key is not done."""
    pairs = [pair for pair in crystal_set.chosen if key_of(pair, model.weights) not in done]
    if not pairs:
        return []
    atoms = list(map(unrelaxed, pairs))
    told: list[Row] = [{"status": INPUT, "bound": None} for _ in pairs]
    if model.relaxer is not None:
        # One by one, so that rounding does not depend on the crystals that are left.
        relaxed = [model.relaxer.relax(one, symmetry="keep")[0] for one in atoms]
        atoms = [one.structure for one in relaxed]
        told = [{"status": one.status, "bound": one.uncertainty} for one in relaxed]
    found = []
    for pair, start, known, error in zip(pairs, atoms, told, coordinate_errors(pairs, atoms), strict=True):
        key = key_of(pair, model.weights)
        row = {"key": key, "set": crystal_set.name, "id": pair.id, "atoms": len(start)}
        row |= {"start": model.name, "weights": model.weights, **known}
        row |= {"input_coordinates": crystal_set.errors[pair.id], "coordinates": float(error)}
        geometry = start.numbers, np.array(start.pbc), start.positions, start.cell.array
        found.append(Start(key, *geometry, row=row))
    return found


def relax_starts(
    starts: Sequence[Candidate], ledger: Ledger, send: Send, should_continue: Callable[[], bool]
) -> None:
    """Relax structures and write a row for each; see `repose.data.labelling.workers.Task`.

    In float64 the number of steps does not depend on the other crystals of a batch.
    """
    settings = LbfgsSettings(fmax=FMAX, max_steps=MAX_STEPS)

    def crystals() -> Iterator[Crystal[Candidate]]:
        for start in starts:
            send("started", start.id)
            yield Crystal(start, CrystalBatch.single(start.numbers, start.positions, start.cell, start.pbc))

    for run in relax_batched(CHGNetPotential(dtype=torch.float64), crystals(), settings, should_continue):
        ledger.write(row_of(run))
        send("labelled", run.key.id)


def row_of(run: RelaxationRun[Any]) -> Row:
    """Return the row of a relaxation that has ended; energies in eV per atom, None if there are none."""
    energies = [frame.energy / run.initial.n_atoms for frame in run.frames if frame.energy is not None]
    first, last = (energies[0], energies[-1]) if energies else (None, None)
    ended = {"steps": max(len(run.frames) - 1, 0), "converged": run.converged, "failure": run.failure}
    return run.key.row | ended | {"energy_start": first, "energy_end": last}


def relax_missing(
    sets: Sequence[CrystalSet], models: Sequence[Model], rows: Path, workers: int, hours: float | None
) -> None:
    """Relax all that has no row yet, set by set and crystal by crystal."""
    done = stored(rows)
    todo: list[Start] = []
    for crystal_set in sets:
        order = {pair.id: k for k, pair in enumerate(crystal_set.chosen)}
        starts = [start for model in models for start in starts_of(crystal_set, model, done)]
        todo += sorted(starts, key=lambda start: order[start.row["id"]])
    ended = 0

    def report(*_: object) -> None:
        nonlocal ended
        ended += 1
        if ended % 20 == 0 or ended == len(todo):
            print(f"{time.strftime('%H:%M:%S')}: {ended} of {len(todo)} relaxations", flush=True)

    deadline = None if hours is None else time.time() + 3600 * hours
    run_workers(todo, relax_starts, rows, workers=workers, deadline=deadline, report=report)


def stored(rows: Path) -> dict[str, Row]:
    """Return the relaxations of all calls so far, by key."""
    return {row["key"]: row for row in read_ledgers(rows) if "key" in row}


def describe_set(crystal_set: CrystalSet, models: Sequence[Model], done: dict[str, Row]) -> dict[str, Any]:
    """Return the results of a set, by group of crystals and start."""
    rows = [
        {model.name: done[key] for model in models if (key := key_of(pair, model.weights)) in done}
        for pair in crystal_set.chosen
    ]
    complete = [row for row in rows if len(row) == len(models)]
    # Without a relaxed crystal there is nothing to compare with.
    usable = [row for row in complete if row[INPUT]["converged"]]
    return {
        "datasets": crystal_set.datasets,
        "test_crystals": crystal_set.test_crystals,
        "chosen": len(rows),
        "complete": len(complete),
        "input_not_converged": len(complete) - len(usable),
        "groups": {
            name: describe_group(own)
            for name, mask in groups_of(usable, crystal_set.quarters).items()
            if (own := [row for row, inside in zip(usable, mask, strict=True) if inside])
        },
    }


def groups_of(rows: Sequence[dict[str, Row]], quarter_of: dict[str, int]) -> dict[str, np.ndarray]:
    """Return masks of crystals by group: all, quarters by the input's error, sizes, surer halves."""
    quarter = np.array([quarter_of[row[INPUT]["id"]] for row in rows])
    size = np.searchsorted(LARGEST, [row[INPUT]["atoms"] for row in rows])
    groups = {"all": np.ones(len(rows), bool)}
    groups |= {name: quarter == k for k, name in enumerate(QUARTERS)}
    groups |= {name: size == k for k, name in enumerate(SIZES)}
    for name in rows[0] if rows else ():
        bounds = [row[name]["bound"] for row in rows]
        if None not in bounds:
            rank = np.argsort(np.argsort(bounds, kind="stable"), kind="stable")
            groups[f"surer half of {name}"] = rank < len(rows) / 2
    return groups


def describe_group(rows: Sequence[dict[str, Row]]) -> dict[str, Any]:
    """Return the results of a group of crystals by start; ``rows`` has one row by start and crystal."""
    inputs = [row[INPUT] for row in rows]
    errors = [row["input_coordinates"] for row in inputs]
    return {
        "crystals": len(rows),
        "input_coordinates": [min(errors), max(errors)],
        "input_without_steps": sum(row["steps"] == 0 for row in inputs),
        "starts": {name: describe_start([row[name] for row in rows], inputs) for name in rows[0]},
    }


def describe_start(rows: Sequence[Row], inputs: Sequence[Row]) -> dict[str, Any]:
    """Compare relaxations with those from the input, all of which have converged.

    A relaxation that has not converged counts with `MAX_STEPS`. Inputs that need no step have no ratio of
    steps; any step from their prediction is one more.
    """
    converged = np.array([row["converged"] for row in rows])
    steps = np.where(converged, [row["steps"] for row in rows], MAX_STEPS)
    before = np.array([row["steps"] for row in inputs])
    moving = before > 0
    saved = 100.0 * (1 - steps[moving] / before[moving])
    relaxed = np.array([row["energy_end"] for row in inputs])
    # Energies are absent if the start could not be evaluated.
    start, end = (
        1e3 * (np.array([r[f"energy_{k}"] for r in rows], float) - relaxed) for k in ("start", "end")
    )
    own, dummy = (np.array([row["coordinates"] for row in part]) for part in (rows, inputs))
    return {
        "coordinates": {"median": float(np.median(own)), "mean": float(own.mean())},
        "worse_percent": 100.0 * float((own > dummy).mean()),
        "steps": {"median": float(np.median(steps)), "mean": float(steps.mean())},
        "steps_saved_percent": float(np.median(saved)) if moving.any() else None,
        "more_steps_percent": 100.0 * float((steps > before).mean()),
        "not_converged": int((~converged).sum()),
        "energy_above_relaxed": {"median": float(np.nanmedian(start)), "mean": float(np.nanmean(start))},
        "other_minimum_percent": 100.0 * float((converged & (np.abs(end) > SAME)).mean()),
        "lower_minimum_percent": 100.0 * float((converged & (end < -SAME)).mean()),
    }


def main() -> None:
    """Relax what is missing, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, count in SETS.items():
        parser.add_argument(
            f"--{name}", type=Path, nargs="+", help=f"datasets; {count or 'all'} test crystals"
        )
    parser.add_argument(
        "--train", type=Path, action="append", required=True, help="dataset that fits Rescale"
    )
    parser.add_argument(
        "--model", action="append", help="model to start from; default and e3relax by default"
    )
    parser.add_argument("--rows", type=Path, required=True, help="directory of the relaxations so far")
    parser.add_argument("--out", type=Path, required=True, help="result.json")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--hours", type=float, help="time for relaxations; 0 only writes the result")
    parser.add_argument("--crystals", type=int, help="at most this many crystals of each set, for a trial")
    parser.add_argument("--max-atoms", type=int, default=40, help="atoms of the largest crystal")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = models_of(arguments.model or ["default", "e3relax"], arguments.train)
    sets = []
    for name, count in SETS.items():
        if paths := getattr(arguments, name.replace("-", "_")):
            limits = [n for n in (count, arguments.crystals) if n is not None]
            sets.append(CrystalSet(name, paths, min(limits, default=None), arguments.max_atoms))
    if arguments.hours != 0:
        relax_missing(sets, models, arguments.rows, arguments.workers, arguments.hours)
    done = stored(arguments.rows)
    result = {
        "potential": POTENTIAL,
        "optimizer": "batched L-BFGS of atoms and cell",
        "fmax": FMAX,
        "max_steps": MAX_STEPS,
        "max_atoms": arguments.max_atoms,
        "versions": {name: version(name) for name in ("torch", "chgnet")}
        | {"repose": repose.__version__, "python": platform.python_version()},
        "rescale_fitted_on": [Dataset(path).info.name for path in arguments.train],
        "models": {
            name: {"model": relaxer.name, "weights_sha256": weights}
            for name, weights, relaxer in models
            if relaxer is not None and not isinstance(relaxer, Rescale)
        },
        "sets": {own.name: describe_set(own, models, done) for own in sets},
    }
    short = json.loads(json.dumps(result), parse_float=lambda number: round(float(number), 5))
    arguments.out.write_text(json.dumps(short, indent=1) + "\n")


if __name__ == "__main__":
    main()
