"""Measure coverage of bounds for crystals unlike those of training: left-out anions and prototypes.

    python studies/out_of_distribution/out_of_distribution.py --data D1 --data D2 --out DIR

The datasets are copied and split in three ways: by chemical system, with two anions left out, and with a
fifth of the prototypes left out. On each a model is trained (train.json) and calibrated on the val split,
and its bounds are compared with the errors on the test split. The first model is also evaluated on those of
its test crystals that have such an anion or prototype, since they may be harder in any case. A command that
was stopped continues. Writes out_of_distribution.json and out_of_distribution.md.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from repose.config import TrainSettings
from repose.crystal.batching import batches_by_cost
from repose.data.dataset import Dataset, Pair, resplit
from repose.data.splits import GroupSplit, parse_leave_out
from repose.evaluation.metrics import coordinate_error
from repose.evaluation.runner import estimate_edges, to_batch
from repose.models.uncertainty.calibration import LEVELS
from repose.relaxer.base import Relaxer
from repose.relaxer.loading import load
from repose.training.run import train

ORDINARY = "chemical systems"
LEFT_OUT = {"anions S, Se": "anion=S,Se", "prototypes": "prototype=0.2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("train.json"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    models, tests = {}, {}
    for name in (ORDINARY, *LEFT_OUT):
        models[name], tests[name] = trained(name, arguments)
    rows = [{"model without": "no kind", "crystals": ORDINARY, **measure(models[ORDINARY], tests[ORDINARY])}]
    for name, text in LEFT_OUT.items():
        is_left_out = parse_leave_out(text, GroupSplit()).is_left_out
        own = [pair for pair in tests[ORDINARY] if is_left_out(pair)]
        rows.append({"model without": "no kind", "crystals": name, **measure(models[ORDINARY], own)})
        rows.append({"model without": name, "crystals": name, **measure(models[name], tests[name])})
    (arguments.out / "out_of_distribution.json").write_text(json.dumps(rows, indent=2) + "\n")
    (arguments.out / "out_of_distribution.md").write_text(table(rows))
    print(table(rows))


def trained(name: str, arguments: argparse.Namespace) -> tuple[Relaxer, list[Pair]]:
    """Return a model calibrated on the val crystals of a split, and the test crystals."""
    place = arguments.out / name.replace(", ", "-").replace(" ", "-")
    copies = [divided(path, place / path.name, LEFT_OUT.get(name)) for path in arguments.data]
    settings = TrainSettings.parse(json.loads(arguments.config.read_text()))
    directories = [copy.directory for copy in copies]
    if not (place / "done").is_file():
        train("e3relax", directories, place / "run", settings, device=arguments.device, compiled=True)
        (place / "done").touch()
    return load(place / "run", arguments.device), [pair for copy in copies for pair in copy.read("test")]


def divided(source: Path, target: Path, left_out: str | None) -> Dataset:
    """Return a copy of a dataset with another split."""
    split = GroupSplit() if left_out is None else parse_leave_out(left_out, GroupSplit())
    if not target.is_dir() or Dataset(target).info.splits != split.description:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        resplit(Dataset(target), split, split.description)
    return Dataset(target)


def measure(relaxer: Relaxer, pairs: Sequence[Pair]) -> dict:
    """Return coverage of the bounds in %, their rank correlation with errors, and shares that are flagged."""
    errors, outside, bounds = [], [], {level: [] for level in LEVELS}
    for packed in batches_by_cost(pairs, estimate_edges, 6000):
        batch, target = to_batch(packed)
        relaxed = relaxer.relax_batch(batch)
        error = coordinate_error(relaxed.geometry, target, batch.positions, batch.system_index)
        errors.append(error.numpy())
        outside += [reason is not None for reason in relaxed.outside or []]
        for level in LEVELS:
            bounds[level].append(relaxed.bounds[level].numpy())
    error, flagged = np.concatenate(errors), np.array(outside)
    bound = {level: np.concatenate(parts) for level, parts in bounds.items()}
    within = {level: error <= bound[level] for level in LEVELS}
    return {
        "count": len(error),
        "coordinates": float(error.mean()),
        "median bound at 90": float(np.median(bound[90])),
        **{f"coverage at {level}": 100 * float(within[level].mean()) for level in LEVELS},
        "spearman": float(spearmanr(bound[90], error).statistic),
        "flagged": 100 * float(flagged.mean()),
        "coverage at 90, flagged": 100 * float(within[90][flagged].mean()) if flagged.any() else None,
        "coverage at 90, others": 100 * float(within[90][~flagged].mean()) if not flagged.all() else None,
    }


def table(rows: list[dict]) -> str:
    """Return the table in Markdown."""
    digits = {"count": 0, "coordinates": 3, "median bound at 90": 3, "spearman": 2}
    heads = [f"{name}, %" if "coverage" in name or name == "flagged" else name for name in rows[0]]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for row in rows:
        cells = [
            value if isinstance(value, str) else "" if value is None else f"{value:.{digits.get(name, 1)}f}"
            for name, value in row.items()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
