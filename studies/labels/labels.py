"""Measure the reproducibility of labels: relax test crystals again, from slightly longer cells.

    python studies/labels/labels.py again DATASET... --n 150 --out again.extxyz
    repose data label again.extxyz --calculator chgnet --out again
    python studies/labels/labels.py compare DATASET... --again again \\
        --errors per_crystal.parquet --out labels.json

If two relaxations from nearly equal inputs reach different minima, no smooth function of the input predicts
both. `repose evaluate --out` writes `per_crystal.parquet`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from ase import Atoms
from ase.io import write

from repose.data.dataset import Dataset, Pair
from repose.models.prediction import Geometry
from repose.training.losses import validation_errors
from repose.training.samples import target_of

STRETCH = 1.005  # of all lattice vectors
SAME = 0.03  # A: crystals closer than this have relaxed into the same minimum
COLUMNS = "coordinates", "lattice", "shape", "volume"


def chosen(directory: Path, n: int) -> list[Pair]:
    """Return n test crystals of a dataset, chosen by the hash of their ids."""
    return sorted(Dataset(directory).read("test"), key=lambda p: hashlib.sha256(p.id.encode()).digest())[:n]


def again(arguments: argparse.Namespace) -> None:
    """Write the inputs of the second labels."""
    written = []
    for pair in (pair for directory in arguments.data for pair in chosen(directory, arguments.n)):
        atoms = Atoms(pair.numbers, pair.positions, cell=pair.cell, pbc=pair.pbc, info={"id": pair.id})
        atoms.set_cell(pair.cell * STRETCH, scale_atoms=True)
        written.append(atoms)
    write(arguments.out, written)


def difference(first: Pair, second: Pair) -> dict[str, float]:
    """Return errors of the second label as a prediction of the first."""
    fractional = second.relaxed_positions @ np.linalg.inv(second.relaxed_cell)
    known = first.relaxed_positions @ np.linalg.inv(first.relaxed_cell)
    positions = (fractional - np.round(fractional - known)) @ second.relaxed_cell
    geometry = Geometry(
        torch.tensor(positions, dtype=torch.float32),
        torch.tensor(second.relaxed_cell, dtype=torch.float32)[None],
    )
    return {name: error.item() for name, error in validation_errors(geometry, target_of(first)).items()}


def compare(arguments: argparse.Namespace) -> None:
    """Write errors of relaxers where labels agree, and where they differ."""
    first = {pair.id: pair for directory in arguments.data for pair in Dataset(directory).read("test")}
    apart = {
        pair.id: difference(first[pair.id], pair) for pair in Dataset(arguments.again) if pair.id in first
    }
    groups = {
        "all": set(apart),
        "labels agree": {name for name, d in apart.items() if d["coordinates"] < SAME},
        "labels differ": {name for name, d in apart.items() if d["coordinates"] >= SAME},
    }
    errors = pq.read_table(arguments.errors, columns=["id", "relaxer", *COLUMNS]).to_pylist()
    found: dict[str, dict[str, object]] = {}
    for group, members in groups.items():
        rows = {"second label": [apart[name] for name in members]}
        for row in errors:
            if row["id"] in members:
                rows.setdefault(row["relaxer"], []).append(row)
        found[group] = {"crystals": len(members)} | {
            name: {column: float(np.mean([row[column] for row in values])) for column in COLUMNS}
            for name, values in rows.items()
            if values
        }
        print(
            f"\n{group}: {len(members)} crystals\n\n| | "
            + " | ".join(COLUMNS)
            + " |\n| --- |"
            + " ---: |" * 4
        )
        for name, mean in found[group].items():
            if isinstance(mean, dict):
                cells = (f"{mean[column]:.{2 if column in COLUMNS[2:] else 4}f}" for column in COLUMNS)
                print(f"| {name} | " + " | ".join(cells) + " |")
    median = {column: float(np.median([d[column] for d in apart.values()])) for column in COLUMNS}
    print(f"\nmedian difference of the labels: {median}")
    arguments.out.write_text(json.dumps(found | {"median difference": median}, indent=1) + "\n")


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    steps = parser.add_subparsers(required=True)
    for step in (again, compare):
        added = steps.add_parser(step.__name__, help=step.__doc__)
        added.add_argument("data", type=Path, nargs="+")
        added.add_argument("--out", type=Path, required=True)
        added.set_defaults(step=step)
        if step is again:
            added.add_argument("--n", type=int, default=150, help="crystals of each dataset")
        else:
            added.add_argument("--again", type=Path, required=True)
            added.add_argument("--errors", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.step(arguments)


if __name__ == "__main__":
    main()
