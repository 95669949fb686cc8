"""Write src/repose/data/generate/volumes.csv from relaxed crystals, and print its cross-validated error.

Usage: python tools/make_volumes.py DATASET   (a directory made by `repose data import`)

The cross-validation leaves out a tenth of the chemical systems at a time. The error of a fit that is linear
in the composition is printed for comparison.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from repose.crystal.volumes import fit_volumes
from repose.data.dataset import Dataset
from repose.relaxer.baselines import fit_atomic_volumes

TARGET = Path(__file__).parents[1] / "src/repose/data/generate/volumes.csv"
FOLDS = 10
QUANTILES = (0.1, 0.5, 0.9)


def main() -> None:
    """Fit, cross-validate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    pairs = list(Dataset(parser.parse_args().dataset))
    numbers = [pair.numbers for pair in pairs]
    volumes = np.array([abs(np.linalg.det(pair.relaxed_cell)) for pair in pairs])
    prototypes = [pair.tags.get("prototype", "") for pair in pairs]
    systems = [hashlib.sha256(pair.chemical_system.encode()).digest()[0] for pair in pairs]
    fold = np.array(systems) % FOLDS

    estimated, linear = np.zeros(len(pairs)), np.zeros(len(pairs))
    for k in range(FOLDS):
        train, left_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        fitted = [numbers[i] for i in train]
        table = fit_volumes(fitted, volumes[train], [prototypes[i] for i in train])
        atomic = fit_atomic_volumes(fitted, volumes[train])
        for i in left_out:
            estimated[i] = table.predict(numbers[i], prototypes[i])
            linear[i] = atomic[numbers[i]].sum()
    for name, estimate in (("this table", estimated), ("linear in composition", linear)):
        shown = ", ".join(f"{q:.3f}" for q in np.quantile(volumes / estimate, QUANTILES))
        error = np.mean(np.abs(volumes - estimate))
        print(f"{name}: relaxed over estimated volume {shown} (10%, median, 90%); MAE {error:.1f} A^3 a cell")
    fit_volumes(numbers, volumes, prototypes).save(TARGET)


if __name__ == "__main__":
    main()
