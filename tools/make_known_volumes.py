"""Write src/repose/known_volumes.csv: the volume that an atom of every element takes up in known crystals.

Usage: python tools/make_known_volumes.py RELAXED.extxyz[.gz]   (relaxed crystals; only statistics remain)

The volume of a crystal is taken as the sum of volumes of its atoms, fitted to log V by robust regression, so
that misplaced decimals and monolayers in a cell with vacuum do not count. The ratios of actual to fitted
volumes are the second result: `repose.checks` calls a prediction suspect beyond their range.
"""

import argparse
import csv
import gzip
import io
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from ase.io import iread

from repose.atomic import replacing_file

TARGET = Path(__file__).parents[1] / "src/repose/known_volumes.csv"
ROBUST = 0.1  # residuals of log V beyond this count by their size, not their square
RIDGE = 0.3  # strength of the lean towards the mean volume, in crystals
QUANTILES = (0, 0.0005, 0.001, 0.01, 0.5, 0.99, 0.999, 0.9995, 1)


def fit(counts: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """Atomic volumes in A^3, ``(Z,)``, from atoms by element ``(S, Z)`` and volumes ``(S,)`` of crystals."""
    logs = np.full(counts.shape[1], np.log(volumes.sum() / counts.sum()))
    for _ in range(200):
        parts = counts * np.exp(logs)
        summed = parts.sum(axis=1)
        residual, jacobian = np.log(volumes / summed), parts / summed[:, None]
        weighted = (jacobian / (1 + (residual / ROBUST) ** 2)[:, None]).T
        normal = weighted @ jacobian + RIDGE * np.eye(len(logs))
        step = np.linalg.solve(normal, weighted @ residual - RIDGE * (logs - logs.mean()))
        logs = logs + step * min(1.0, 0.5 / np.abs(step).max())
        if np.abs(step).max() < 1e-8:
            break
    return np.exp(logs)


def main() -> None:
    """Fit, show the range of ratios, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crystals", type=Path)
    path = parser.parse_args().crystals
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    crystals = list(iread(io.StringIO(text), index=":", format="extxyz"))
    counts = np.stack([np.bincount(atoms.numbers, minlength=len(chemical_symbols)) for atoms in crystals])
    volumes = np.array([atoms.get_volume() for atoms in crystals])
    seen = np.flatnonzero(counts.any(axis=0))
    atomic = fit(counts[:, seen].astype(float), volumes)
    ratios = np.quantile(volumes / (counts[:, seen] @ atomic), QUANTILES)
    print(
        "actual over fitted volume:",
        ", ".join(f"{q:g}: {r:.3f}" for q, r in zip(QUANTILES, ratios, strict=True)),
    )
    with replacing_file(TARGET) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("symbol", "volume", "crystals"))
        for z, volume in zip(seen, atomic, strict=True):
            writer.writerow((chemical_symbols[z], f"{volume:.2f}", int((counts[:, z] > 0).sum())))


if __name__ == "__main__":
    main()
