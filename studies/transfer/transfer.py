"""Measure how many pairs of a small domain a model needs, from scratch and fine-tuned.

    python studies/transfer/transfer.py --data datasets/chgnet/sheets --init-from MODEL --out DIR

For every size a model is trained on that many crystals of the train split in three ways: from scratch with
the hyperparameters of MODEL, fine-tuned from MODEL, and fine-tuned with the first layer fixed and a lower
rate for the rest of the trunk; all for the same number of steps (train.json). A command that was stopped
continues. Writes transfer.json and transfer.md.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

from repose.config import TrainSettings
from repose.data.dataset import Dataset
from repose.evaluation.runner import evaluate
from repose.evaluation.tables import finite_or_none
from repose.models.checkpoint import find_model, load_config
from repose.relaxer.loading import load
from repose.training.run import train

COLUMNS = ("coordinates", "lattice", "shape", "volume")
# Learning rates: of MODEL; of earlier fine-tuning; the first for heads and a tenth of it for the trunk.
WAYS = {
    "from scratch": {"learning_rate": 1e-3},
    "fine-tuned": {"learning_rate": 3e-4},
    "partly frozen": {"learning_rate": 1e-3, "trunk_rate": 0.1, "frozen_layers": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--init-from", required=True)
    parser.add_argument("--sizes", default="50,100,200,321")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("train.json"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    seeds = list(map(int, arguments.seeds.split(",")))
    points = [untrained(arguments)] + [
        measure(way, size, seed, arguments)
        for seed in seeds
        for size in map(int, arguments.sizes.split(","))
        for way in WAYS
    ]
    (arguments.out / "transfer.json").write_text(json.dumps(points, indent=2) + "\n")
    (arguments.out / "transfer.md").write_text(table(points))
    print(table(points))


def measure(way: str, size: int, seed: int, arguments: argparse.Namespace) -> dict:
    """Return test errors after training in one way; a finished run is not repeated."""
    run = arguments.out / f"{way.replace(' ', '-')}-{size}-{seed}"
    result = run / "point.json"
    if result.is_file():
        return json.loads(result.read_text())
    source = load_config(find_model(arguments.init_from))
    scratch = way == "from scratch"
    values = json.loads(arguments.config.read_text()) | WAYS[way] | {"crystals": size, "seed": seed}
    settings = TrainSettings.parse(values | {"model": source.settings if scratch else {}})
    directory = train(
        source.family,
        [arguments.data],
        run,
        settings,
        init_from=None if scratch else arguments.init_from,
        device=arguments.device,
        compiled=True,
    )
    validation = load_config(directory).test_error
    score = validation["val coordinates (A)"] + validation["val lattice (A)"]
    point = {"way": way, "crystals": size, "seed": seed, "validation score": score}
    point["test"] = errors(directory, "test", arguments)
    result.write_text(json.dumps(point, indent=2) + "\n")
    return point


def untrained(arguments: argparse.Namespace) -> dict:
    """Return errors of MODEL without training."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = find_model(arguments.init_from)
    val, test = (errors(model, split, arguments) for split in ("val", "test"))
    score = val["model"]["coordinates"] + val["model"]["lattice"]
    return {"way": "not trained on any", "crystals": 0, "seed": 0, "validation score": score, "test": test}


def errors(model: Path, split: str, arguments: argparse.Namespace) -> dict:
    """Return errors of a model and of the trivial rows on a split."""
    relaxer = load(model, arguments.device)
    relaxer.name = "model"
    dataset = Dataset(arguments.data)
    report = evaluate(
        [relaxer], {dataset.info.name: dataset.read(split)}, train=dataset.read("train"), match=False
    )
    rows = finite_or_none(report.blocks())[-1]["rows"]
    return {row["relaxer"]: {column: row[column] for column in COLUMNS} for row in rows}


def table(points: list[dict]) -> str:
    """Return the table in Markdown: means over seeds, with gains over the best trivial row."""
    heads = ["training pairs", "way", "validation score", *COLUMNS]
    lines = [f"| {' | '.join(heads)} |", "| ---: | --- |" + " ---: |" * (len(heads) - 2)]
    trivial = {name: row for name, row in points[0]["test"].items() if name != "model"}
    for name, row in trivial.items():
        lines.append(f"| | {name} | | " + " | ".join(f"{row[c]:.3f}" for c in COLUMNS) + " |")
    best = {column: min(row[column] for row in trivial.values()) for column in COLUMNS}
    for size, way in dict.fromkeys((point["crystals"], point["way"]) for point in points):
        of = [point for point in points if (point["crystals"], point["way"]) == (size, way)]
        means = {column: mean(point["test"]["model"][column] for point in of) for column in COLUMNS}
        cells = (f"{means[c]:.3f} ({100 * (1 - means[c] / best[c]):+.0f} %)" for c in COLUMNS)
        score = mean(point["validation score"] for point in of)
        lines.append(f"| {size} | {way} | {score:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
