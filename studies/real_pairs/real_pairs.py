"""Measure `default` on genuine DFT relaxations: errors, and relaxation steps that it saves.

    python studies/real_pairs/real_pairs.py --pairs frame_pairs.extxyz --train datasets/chgnet/real \\
        --rows rows.jsonl --out studies/real_pairs/result.json

The file of pairs holds two frames for each ``id``: ``step`` 0 unrelaxed, ``step`` 1 relaxed by DFT, atoms
in the same order. Relaxations are appended to the file of rows one by one; a second call continues it.
Times are CPU seconds of one thread. Fields of the result are listed in README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import FIRE

import repose
from repose.data.dataset import Dataset, Pair
from repose.evaluation.runner import evaluate
from repose.models.checkpoint import find_model

COLUMNS = "coordinates", "lattice", "shape", "volume"
SIZES = {"1 to 10 atoms": (1, 10), "11 to 20 atoms": (11, 20), "21 atoms and more": (21, 10**9)}
FMAX, MAX_STEPS, MAX_ATOMS = 0.05, 200, 40  # eV/A, steps, atoms of a crystal that is relaxed
STARTS = "input", "default"
REPEATS = 5  # of the timing; the fastest counts


def pairs_of(path: Path) -> list[Pair]:
    """Return the pairs of an extended XYZ file."""
    frames: dict[str, dict[int, Atoms]] = {}
    for atoms in read(path, ":"):
        frames.setdefault(atoms.info["id"], {})[int(atoms.info["step"])] = atoms
    return [
        Pair(name, a.numbers, a.pbc, a.positions, a.cell.array, b.positions, b.cell.array, split="test")
        for name, (a, b) in ((name, (both[0], both[1])) for name, both in frames.items())
    ]


def unrelaxed(pair: Pair) -> Atoms:
    """Return the input of a pair."""
    return Atoms(pair.numbers, pair.positions, cell=pair.cell, pbc=pair.pbc)


def groups_of(pairs: Sequence[Pair], severity: np.ndarray) -> dict[str, np.ndarray]:
    """Return masks of crystals by group: all, quarters of the input's error of coordinates, sizes."""
    order = np.argsort(np.argsort(severity, kind="stable"), kind="stable")
    sizes = np.array([len(pair.numbers) for pair in pairs])
    return (
        {"all": np.ones(len(pairs), bool)}
        | {f"quarter {k + 1}": order * 4 // len(pairs) == k for k in range(4)}
        | {name: (low <= sizes) & (sizes <= high) for name, (low, high) in SIZES.items()}
    )


def errors(
    relaxer: repose.Relaxer, pairs: Sequence[Pair], train: Sequence[Path]
) -> tuple[np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Return ids in the order of the values, and values by relaxer and column, as `repose evaluate` does."""
    fitted = (pair for path in train for pair in Dataset(path).read("train", paths=False))
    result = evaluate([relaxer], {"pairs": pairs}, train=fitted, match=False)
    for scores in result.scores:
        if not scores.finite.all():
            raise SystemExit(
                f"{scores.relaxer} predicted {(~scores.finite).sum()} crystals that are not finite"
            )
    names = {relaxer.name: "default"}
    return np.array([crystal.id for crystal in result.crystals]), {
        names.get(scores.relaxer, scores.relaxer): {key: scores.values[key] for key in COLUMNS}
        for scores in result.scores
    }


def describe_errors(mask: np.ndarray, values: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return means, medians and the share of worse answers of a group."""
    dummy, default = values["Dummy"], values["default"]
    coordinates = dummy["coordinates"][mask]
    return {
        "crystals": int(mask.sum()),
        "input_coordinates": [float(coordinates.min()), float(coordinates.max())],
        "mean": {
            name: {key: float(own[key][mask].mean()) for key in COLUMNS} for name, own in values.items()
        },
        "median": {
            name: {key: float(np.median(own[key][mask])) for key in COLUMNS} for name, own in values.items()
        },
        "worse_percent": {
            key: 100.0 * float((default[key][mask] > dummy[key][mask]).mean()) for key in COLUMNS
        },
    }


def milliseconds(run: Callable[[], object], crystals: int) -> float:
    """Return the time of the fastest of several calls by crystal."""
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return 1e3 * min(seconds) / crystals


def relax_with(calculator: Any, atoms: Atoms) -> dict[str, Any]:
    """Return steps, seconds, convergence and final energy of a relaxation of atoms and cell."""
    atoms = atoms.copy()
    atoms.calc = calculator
    start = time.process_time()
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)  # type: ignore[arg-type]
    converged = bool(optimizer.run(fmax=FMAX, steps=MAX_STEPS))
    return {
        "steps": int(optimizer.nsteps),
        "seconds": time.process_time() - start,
        "converged": converged,
        "energy_per_atom": float(atoms.get_potential_energy()) / len(atoms),
    }


def relax_all(pairs: Sequence[Pair], relaxer: repose.Relaxer, rows: Path, minutes: float) -> None:
    """Relax crystals in a random order from both starts, and append one line a crystal to a file."""
    from chgnet.model.dynamics import CHGNetCalculator

    calculator = CHGNetCalculator(use_device="cpu", verbose=False)
    done = {row["id"] for row in stored(rows)}
    chosen = sorted((pair for pair in pairs if len(pair.numbers) <= MAX_ATOMS), key=lambda pair: pair.id)
    random.Random(0).shuffle(chosen)
    relax_with(calculator, unrelaxed(chosen[0]))  # warm-up
    end = time.monotonic() + 60 * minutes
    for pair in chosen:
        if pair.id in done or time.monotonic() > end:
            continue
        answer = relaxer.relax(unrelaxed(pair))[0]
        starts = {"input": unrelaxed(pair), "default": answer.structure}
        row = {"id": pair.id, "status": answer.status}
        row |= {name: relax_with(calculator, start) for name, start in starts.items()}
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")


def stored(rows: Path) -> list[dict[str, Any]]:
    """Return the relaxations of earlier calls."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def describe_steps(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return steps and seconds from both starts, and steps saved, of a group."""
    steps, seconds = (
        {start: np.array([row[start][k] for row in rows]) for start in STARTS} for k in ("steps", "seconds")
    )
    saved = steps["input"] - steps["default"]
    energy = np.array([row["default"]["energy_per_atom"] - row["input"]["energy_per_atom"] for row in rows])

    def both(values: np.ndarray) -> dict[str, float]:
        return {"mean": float(values.mean()), "median": float(np.median(values))}

    return {
        "crystals": len(rows),
        "steps": {start: both(steps[start]) for start in STARTS},
        "seconds": {start: both(seconds[start]) for start in STARTS},
        "steps_saved": both(saved),
        "steps_saved_percent": 100.0 * float(saved.sum() / max(steps["input"].sum(), 1)),
        "fewer_steps_percent": 100.0 * float((saved > 0).mean()),
        "more_steps_percent": 100.0 * float((saved < 0).mean()),
        "converged": {start: sum(row[start]["converged"] for row in rows) for start in STARTS},
        "lower_energy": int((energy < -1e-3).sum()),
        "higher_energy": int((energy > 1e-3).sum()),
    }


def rounded(value: Any) -> Any:
    """Return the same values, with numbers of five decimals."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value


def main() -> None:
    """Measure errors, relax, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="extended XYZ, not compressed")
    parser.add_argument(
        "--train", type=Path, action="append", required=True, help="datasets that fit Rescale"
    )
    parser.add_argument("--rows", type=Path, required=True, help="relaxations so far, one JSON a line")
    parser.add_argument("--out", type=Path, required=True, help="result.json")
    parser.add_argument("--minutes", type=float, default=25.0, help="time for relaxations; 0 for none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    weights = find_model("default") / "model.safetensors"
    relaxer = repose.load("default", device="cpu")
    pairs = pairs_of(arguments.pairs)
    ids, values = errors(relaxer, pairs, arguments.train)
    by_id = {pair.id: pair for pair in pairs}
    pairs = [by_id[name] for name in ids]
    groups = groups_of(pairs, values["Dummy"]["coordinates"])
    result = {
        "model": relaxer.name,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "versions": {name: version(name) for name in ("torch", "ase", "chgnet")}
        | {"repose": repose.__version__, "python": platform.python_version()},
        "processor": f"{platform.machine()}, one thread of {os.cpu_count()}",
        "rescale_fitted_on": [Dataset(path).info.name for path in arguments.train],
        "milliseconds": milliseconds(lambda: relaxer.relax(list(map(unrelaxed, pairs))), len(pairs)),
        "errors": {name: describe_errors(mask, values) for name, mask in groups.items()},
    }
    if arguments.minutes > 0:
        relax_all(pairs, relaxer, arguments.rows, arguments.minutes)
    if rows := stored(arguments.rows):
        members = {name: set(ids[mask]) for name, mask in groups.items()}
        selected = {name: [row for row in rows if row["id"] in own] for name, own in members.items()}
        result["relaxation"] = {
            "potential": "CHGNet 0.3.0",
            "optimizer": "FIRE, FrechetCellFilter",
            "fmax": FMAX,
            "max_steps": MAX_STEPS,
            "max_atoms": MAX_ATOMS,
            "groups": {name: describe_steps(own) for name, own in selected.items() if own},
        }
    arguments.out.write_text(json.dumps(rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    main()
