"""Measure what figures and supplementary tables of the papers show, for the shipped models.

    python studies/published_figures/published_figures.py PART --data D1 --data D2 --out result.json

PART is ``distances`` (DeepRelax, Fig. 5), ``layers`` (DeepRelax, Supplementary Table 1) or ``paths``
(RelaxNet, Fig. 3 and A.1 to A.3). A part replaces its own entry of the result. README.md lists the fields.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import distances
import layers
import paths

import repose

PARTS = {"distances": distances.measure, "layers": layers.measure, "paths": paths.measure}


def main() -> None:
    """Measure one part and write it into the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="dataset; its test split is used"
    )
    parser.add_argument(
        "--train", type=Path, action="append", default=[], help="layers: dataset that fits Rescale"
    )
    parser.add_argument(
        "--member",
        type=Path,
        action="append",
        default=[],
        help="distances: VARIANT/SEED/model of an ensemble",
    )
    parser.add_argument("--out", type=Path, required=True, help="result.json")
    arguments = parser.parse_args()
    result = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    result["versions"] = {"torch": version("torch"), "repose": repose.__version__}
    result["versions"]["python"] = platform.python_version()
    result[arguments.part] = PARTS[arguments.part](arguments)
    short = json.loads(json.dumps(result), parse_float=lambda number: float(f"{float(number):.4g}"))
    arguments.out.write_text(json.dumps(short, indent=1) + "\n")


if __name__ == "__main__":
    main()
