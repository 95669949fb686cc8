"""Write src/repose/crystal/known_volumes.csv from known crystals, and print the deviation of their volumes.

Usage: python tools/make_known_volumes.py RELAXED.extxyz[.gz]   (relaxed crystals; only the table remains)

`repose.crystal.checks` marks predicted volumes beyond the printed range of ratios as suspect.
"""

import argparse
import gzip
import io
from pathlib import Path

import numpy as np
from ase.io import iread

from repose.crystal.volumes import fit_volumes

TARGET = Path(__file__).parents[1] / "src/repose/crystal/known_volumes.csv"
QUANTILES = (0, 0.0005, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9995, 1)


def main() -> None:
    """Fit, print the range and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crystals", type=Path)
    path = parser.parse_args().crystals
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    crystals = list(iread(io.StringIO(text), index=":", format="extxyz"))
    numbers, volumes = [atoms.numbers for atoms in crystals], np.array([a.get_volume() for a in crystals])
    table = fit_volumes(numbers, volumes)
    table.save(TARGET)
    ratios = [v / table.predict(z) for z, v in zip(numbers, volumes, strict=True) if table.covers(z)]
    shown = (f"{q:g}: {r:.3f}" for q, r in zip(QUANTILES, np.quantile(ratios, QUANTILES), strict=True))
    print(f"actual over fitted volume of {len(ratios)} crystals, by quantile: {', '.join(shown)}")


if __name__ == "__main__":
    main()
