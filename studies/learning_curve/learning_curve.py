"""Measure errors on the test split against the number of training crystals.

    python studies/learning_curve/learning_curve.py --data D1 --data D2 --sizes 1000,3000,10000 --out DIR

For every size a model is trained with the same settings (`--config`, a file for `repose train`) on that
many crystals of the train splits of D1, D2, ..., and evaluated on the test splits of `--test`, or of D1,
D2, ... A command that was stopped continues. Writes learning_curve.json, learning_curve.md and
learning_curve.png.
"""

import argparse
import json
from pathlib import Path

from repose.config import TrainSettings
from repose.data.dataset import Dataset
from repose.evaluation.runner import evaluate
from repose.evaluation.tables import finite_or_none
from repose.relaxer.loading import load
from repose.training.run import train

COLUMNS = ("coordinates", "lattice", "shape", "volume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--test", type=Path, action="append")
    parser.add_argument("--sizes", required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--family", default="e3relax")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    values = json.loads(arguments.config.read_text())
    points = [measure(size, values, arguments) for size in map(int, arguments.sizes.split(","))]
    trivial = {row["relaxer"]: row for row in points[0]["rows"] if row["relaxer"] in ("Dummy", "Rescale")}
    curve = {"trivial": trivial, "points": [{"crystals": p["crystals"], **p["row"]} for p in points]}
    (arguments.out / "learning_curve.json").write_text(json.dumps(curve, indent=2) + "\n")
    (arguments.out / "learning_curve.md").write_text(table(curve))
    plot(curve, arguments.out / "learning_curve.png")
    print(table(curve))


def measure(size: int, values: dict, arguments: argparse.Namespace) -> dict:
    """Return errors of a model trained on that many crystals; a finished run is not repeated."""
    run = arguments.out / f"{size}"
    result = run / "point.json"
    if result.is_file():
        return json.loads(result.read_text())
    settings = TrainSettings.parse({**values, "crystals": size})
    train(
        arguments.family,
        arguments.data,
        run,
        settings,
        device=arguments.device,
        processes=arguments.processes,
    )
    relaxer = load(run / "model", arguments.device)
    relaxer.name = "model"
    tests = [Dataset(path) for path in arguments.test or arguments.data]
    pairs = [pair for path in arguments.data for pair in Dataset(path).read("train")]
    report = evaluate([relaxer], {d.info.name: d.read("test") for d in tests}, train=pairs, match=False)
    blocks = {block["dataset"]: block["rows"] for block in finite_or_none(report.blocks())}
    rows = list(blocks.values())[-1]  # of all datasets together, where there are several
    row = next(row for row in rows if row["relaxer"] == "model")
    crystals = min(size, len({pair.id for pair in pairs}))
    point = {"crystals": crystals, "row": row, "rows": rows, "datasets": blocks}
    result.write_text(json.dumps(point, indent=2) + "\n")
    return point


def table(curve: dict) -> str:
    """Return the table in Markdown."""
    lines = ["| training crystals | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, row in [*curve["trivial"].items(), *((f"{p['crystals']:,}", p) for p in curve["points"])]:
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:.3f}" for c in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def plot(curve: dict, path: Path) -> None:
    """Draw errors relative to the better trivial row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    for column in COLUMNS:
        best = min(row[column] for row in curve["trivial"].values())
        axes.plot(
            [p["crystals"] for p in curve["points"]],
            [p[column] / best for p in curve["points"]],
            marker="o",
            label=column,
        )
    axes.axhline(1, color="grey", linewidth=1)
    axes.set(xscale="log", xlabel="training crystals", ylabel="error / better of Dummy and Rescale")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
