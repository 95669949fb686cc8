"""Measure what going on with a potential costs and gains, for all crystals and for the least certain ones.

    python studies/cascade/cascade.py --data DATASET --n 100 --rows FILE.json --out FILE.json

Test crystals are relaxed by CHGNet from the input and from the prediction, in turns in one run on one
thread, as ``repose relax --then chgnet`` does. Blocks that have ended are kept in the file of rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

import repose
from repose.atomic_write import replacing_file
from repose.data.dataset import Dataset, Pair
from repose.evaluation.metrics import coordinate_error, move_to_image
from repose.evaluation.runner import to_batch
from repose.models.checkpoint import find_model
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.baselines import Dummy
from repose.relaxer.continuation import Continuation
from repose.training.reading import choose

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BLOCK = 25  # crystals relaxed in turns
SAME = 0.005  # eV/atom
Row = dict[str, Any]


def atoms_of(pair: Pair) -> Atoms:
    """Return the input of a pair."""
    return Atoms(pair.numbers, pair.positions, cell=pair.cell, pbc=pair.pbc)


def error(pair: Pair, atoms: Atoms) -> float:
    """Return the error of coordinates in A against the dataset's relaxed crystal."""
    batch, target = to_batch([pair])
    cell = torch.from_numpy(atoms.cell.array)[None]
    geometry = Geometry(torch.from_numpy(atoms.positions), cell)
    near = move_to_image(geometry, batch.positions, batch.system_index)
    return float(coordinate_error(Geometry(near, cell), target, batch.positions, batch.system_index))


def relaxed(
    pairs: Sequence[Pair], relaxer: Relaxer, then: Continuation | None
) -> tuple[list[repose.Relaxation], float]:
    """Relax inputs; return results and seconds of processor time."""
    begin = time.process_time()
    results = relaxer.relax([atoms_of(pair) for pair in pairs], then=then)
    return results, time.process_time() - begin


def measure(pairs: Sequence[Pair], model: Relaxer, then: Continuation) -> dict[str, Any]:
    """Relax a block of crystals from the input and from the prediction; return rows and seconds."""
    iterated, seconds_input = relaxed(pairs, Dummy(), then)
    predicted, seconds_predicting = relaxed(pairs, model, None)
    finished, seconds_then = relaxed(pairs, model, then)
    rows = [
        {
            "id": pair.id,
            "atoms": len(pair.numbers),
            "bound": before.uncertainty,
            "outside": before.outside is not None,
            "errors": [
                error(pair, atoms_of(pair)),
                error(pair, before.structure),
                error(pair, after.structure),
            ],
            "error_input": error(pair, old.structure),
            "energy_predicted": after.energy_predicted,
            "start": after.start,
            **{
                f"{name}_{kind}": getattr(one, name)
                for kind, one in (("input", old), ("then", after))
                for name in ("steps", "converged", "energy", "seconds")
            },
        }
        for pair, old, before, after in zip(pairs, iterated, predicted, finished, strict=True)
    ]
    seconds = {"input": seconds_input, "predicting": seconds_predicting, "then": seconds_then}
    return {"rows": rows, "seconds": seconds}


def describe(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return energies, steps and time of both ways, and the table of the cascade."""
    rows = [row for block in blocks for row in block["rows"]]
    seconds = {name: sum(block["seconds"][name] for block in blocks) for name in blocks[0]["seconds"]}
    both = [row for row in rows if row["converged_input"] and row["converged_then"]]
    above = np.array([(row["energy_then"] - row["energy_input"]) / row["atoms"] for row in both])
    steps = {
        kind: [row[f"steps_{kind}"] for row in rows if row[f"steps_{kind}"] is not None]
        for kind in ("input", "then")
    }
    return {
        "crystals": len(rows),
        "converged": {
            kind: sum(bool(row[f"converged_{kind}"]) for row in rows) for kind in ("input", "then")
        },
        "both_converged": len(both),
        "same_or_lower_percent": 100 * float((above <= SAME).mean()),
        "lower_percent": 100 * float((above < -SAME).mean()),
        "higher_percent": 100 * float((above > SAME).mean()),
        "started_from_input": sum(row["start"] == "input" for row in rows),
        "seconds": seconds,
        "time_percent": 100 * seconds["then"] / seconds["input"],
        "steps": {kind: {"median": float(np.median(s)), "sum": int(sum(s))} for kind, s in steps.items()},
        "error_iterated": float(np.mean([row["error_input"] for row in rows])),
        "cascade": [cascade(rows, share) for share in SHARES],
    }


def cascade(rows: Sequence[Row], share: float) -> dict[str, Any]:
    """Return mean error and cost if the share of crystals with the largest bounds goes on."""
    order = np.argsort([-row["bound"] for row in rows], kind="stable")
    chosen = np.zeros(len(rows), bool)
    chosen[order[: round(share * len(rows))]] = True
    errors = np.array([row["errors"][2 if goes else 1] for row, goes in zip(rows, chosen, strict=True)])
    steps = [row["steps_then"] or 0 if goes else 0 for row, goes in zip(rows, chosen, strict=True)]
    # Above the lower of the ends from the input and from the prediction.
    above = [
        1e3 * ((row["energy_then"] if goes else row["energy_predicted"]) - lowest(row)) / row["atoms"]
        for row, goes in zip(rows, chosen, strict=True)
        if row["energy_predicted"] is not None
    ]
    return {
        "share": share,
        "mean_error": float(errors.mean()),
        "median_error": float(np.median(errors)),
        "p90_error": float(np.quantile(errors, 0.9)),
        "energy_above": {"median": float(np.median(above)), "mean": float(np.mean(above))},
        "steps": int(sum(steps)),
    }


def lowest(row: Row) -> float:
    """Return the lower of the energies of both ends in eV."""
    return min(row[key] for key in ("energy_then", "energy_input") if row[key] is not None)


def main() -> None:
    """Relax the blocks that are missing, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--n", type=int, default=100, help="test crystals")
    parser.add_argument("--max-atoms", type=int, default=40)
    parser.add_argument("--model", default="default")
    parser.add_argument("--rows", type=Path, required=True, help="blocks so far")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = {pair.id: pair for path in arguments.data for pair in Dataset(path).read("test", paths=False)}
    small = {name: pair for name, pair in pairs.items() if len(pair.numbers) <= arguments.max_atoms}
    names = sorted(choose(small, arguments.n), key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = [small[name] for name in names]
    model, then = repose.load(arguments.model, "cpu"), Continuation("chgnet", device="cpu")
    blocks = json.loads(arguments.rows.read_text()) if arguments.rows.exists() else []
    for start in range(BLOCK * len(blocks), len(chosen), BLOCK):
        blocks.append(measure(chosen[start : start + BLOCK], model, then))
        with replacing_file(arguments.rows) as new:
            new.write_text(json.dumps(blocks))
        print(f"{time.strftime('%H:%M:%S')}: {start + BLOCK} of {len(chosen)} crystals", flush=True)
    weights = (find_model(arguments.model) / "model.safetensors").read_bytes()
    result = {
        "datasets": [Dataset(path).info.name for path in arguments.data],
        "max_atoms": arguments.max_atoms,
        "model": find_model(arguments.model).name,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "calculator": then.potential.name,
        "fmax": then.fmax,
        **describe(blocks),
    }
    with replacing_file(arguments.out) as new:
        new.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
