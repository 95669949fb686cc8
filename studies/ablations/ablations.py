"""Train variants of models by several seeds, and compare their errors on the validation split.

    python studies/ablations/ablations.py VARIANTS.json --data D1 --out RUNS [--only NAME]

VARIANTS.json holds settings for `repose train` ("base"), and for every variant its family, the settings
that differ from the base, and its seeds. Every run has its own directory. A command that was stopped
continues, and several may run at once with different `--only`. The table (`--table FILE`) has all finished
runs: mean over seeds, and standard deviation of two seeds or more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from repose.config import TrainSettings
from repose.training.run import train

COLUMNS = {"coordinates (A)": 4, "lattice (A)": 4, "shape (A^2)": 2, "volume (A^3)": 2}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return settings with some replaced, nested ones one by one."""
    new = dict(base)
    for key, value in change.items():
        new[key] = merged(new.get(key, {}), value) if isinstance(value, dict) else value
    return new


def measure(family: str, values: dict[str, Any], data: list[Path], out: Path) -> None:
    """Train one run, unless it is finished."""
    if not (out / "done").is_file():
        train(family, data, out, TrainSettings.parse(values), device="cpu", compiled=True)
        (out / "done").touch()


def table(variants: dict[str, Any], runs: Path) -> str:
    """Return the finished runs as a table in Markdown."""
    lines = ["| | seeds | " + " | ".join(COLUMNS) + " |", "| --- | ---: |" + " ---: |" * len(COLUMNS)]
    for name, variant in variants.items():
        found = []
        for seed in variant["seeds"]:
            path = runs / name / str(seed) / "model" / "config.json"
            if (runs / name / str(seed) / "done").is_file():
                errors = json.loads(path.read_text())["test_error"]
                found.append([errors[f"val {column}"] for column in COLUMNS])
        if not found:
            continue
        mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) if len(found) > 1 else None
        cells = [
            f"{mean[k]:.{digits}f}" + ("" if spread is None else f" ± {spread[k]:.{digits}f}")
            for k, digits in enumerate(COLUMNS.values())
        ]
        lines.append(f"| {variant.get('title', name)} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train the selected runs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variants", type=Path)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", help="NAME or NAME/SEED; repeatable")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    described = json.loads(arguments.variants.read_text())
    for name, variant in described["variants"].items():
        for seed in variant["seeds"]:
            if arguments.only and not {name, f"{name}/{seed}"} & set(arguments.only):
                continue
            values = merged(described["base"], variant.get("settings", {})) | {"seed": seed}
            measure(variant["family"], values, arguments.data, arguments.out / name / str(seed))
    text = table(described["variants"], arguments.out)
    print(text)
    if arguments.table is not None:
        arguments.table.write_text(text)


if __name__ == "__main__":
    main()
