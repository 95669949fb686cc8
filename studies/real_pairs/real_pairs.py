"""Measure the errors of `default` on genuine DFT relaxations, by quarters of the input's error and by size.

    python studies/real_pairs/real_pairs.py --data frames --train datasets/chgnet/bulk --out result.json

Fields of the result are listed in README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import repose
from repose.data.dataset import Dataset
from repose.evaluation.regimes import regimes
from repose.evaluation.runner import evaluate
from repose.models.checkpoint import find_model

COLUMNS = "coordinates", "lattice", "shape", "volume"
DUMMY, DEFAULT = "Dummy", "default"


def errors(relaxer: repose.Relaxer, data: Path, train: Sequence[Path]) -> dict[str, Any]:
    """Return the errors of the trivial relaxers and of `default` by group of crystals."""
    fitted = (pair for path in train for pair in Dataset(path).read("train", paths=False))
    pairs = Dataset(data).read("test", paths=False)
    result = evaluate([relaxer], {"pairs": pairs}, train=fitted, match=False)
    if result.not_finite:
        raise SystemExit(f"predictions are not finite: {result.not_finite}")
    values = {
        DEFAULT if scores.relaxer == relaxer.name else scores.relaxer: {
            key: scores.values[key] for key in COLUMNS
        }
        for scores in result.scores
    }
    sizes = np.array([crystal.n_atoms for crystal in result.crystals])
    groups = {"all": np.arange(len(sizes))}
    groups |= {group.name: group.crystals for group in regimes(values[DUMMY]["coordinates"], sizes)}
    return {name: describe(which, values) for name, which in groups.items()}


def describe(which: np.ndarray, values: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return means, medians and the share of worse answers of a group."""
    dummy, default = values[DUMMY], values[DEFAULT]
    coordinates = dummy["coordinates"][which]
    return {
        "crystals": len(which),
        "input_coordinates": [float(coordinates.min()), float(coordinates.max())],
        "mean": {
            name: {key: float(own[key][which].mean()) for key in COLUMNS} for name, own in values.items()
        },
        "median": {
            name: {key: float(np.median(own[key][which])) for key in COLUMNS} for name, own in values.items()
        },
        "worse_percent": {
            key: 100.0 * float((default[key][which] > dummy[key][which]).mean()) for key in COLUMNS
        },
    }


def main() -> None:
    """Measure errors and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset; its test split is used")
    parser.add_argument(
        "--train", type=Path, action="append", required=True, help="dataset that fits Rescale"
    )
    parser.add_argument("--out", type=Path, required=True, help="result.json")
    arguments = parser.parse_args()
    weights = find_model(DEFAULT) / "model.safetensors"
    relaxer = repose.load(DEFAULT, device="cpu")
    result = {
        "model": relaxer.name,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "versions": {"torch": version("torch"), "repose": repose.__version__}
        | {"python": platform.python_version()},
        "rescale_fitted_on": [Dataset(path).info.name for path in arguments.train],
        "errors": errors(relaxer, arguments.data, arguments.train),
    }
    short = json.loads(json.dumps(result), parse_float=lambda number: round(float(number), 5))
    arguments.out.write_text(json.dumps(short, indent=1) + "\n")


if __name__ == "__main__":
    main()
