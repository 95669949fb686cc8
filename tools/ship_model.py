"""Put a trained model into the package: weights, settings, and a card made of its evaluation.

    python tools/ship_model.py RUN/model EVALUATION/table.json --name NAME [--limits FILE]

The card's numbers are those of `repose evaluate`; nothing in it is typed by hand but the limits.
"""

import argparse
import json
from pathlib import Path

from repose.models.checkpoint import load_model, save_model

WEIGHTS = Path(__file__).parents[1] / "src/repose/weights"
TRIVIAL = ("Dummy", "Rescale")
COLUMNS = ("coordinates", "coordinates_predicted_image", "bonds", "lattice", "shape", "volume", "match")


def main() -> None:
    """Read the run, write the model directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--limits", type=Path)
    arguments = parser.parse_args()
    network, config = load_model(arguments.model)
    table = json.loads(arguments.table.read_text())
    rows = {block["dataset"]: {row["relaxer"]: row for row in block["rows"]} for block in table["blocks"]}
    everything = rows.get("all", next(iter(rows.values())))
    models = [name for name in everything if name not in TRIVIAL]
    ours = arguments.name if arguments.name in models else models[0]
    errors = {
        f"{c} ({table['units'][c]})": round(everything[ours][c], 4) for c in COLUMNS if c in everything[ours]
    }
    config = config.model_copy(update={"name": arguments.name, "test_error": errors})
    limits = arguments.limits.read_text() if arguments.limits else ""
    save_model(WEIGHTS / arguments.name, network, config, card(config, table, network, ours, limits))


def card(config, table, network, ours: str, limits: str) -> str:
    """Markdown of the model card."""
    parameters = sum(p.numel() for p in network.parameters())
    lines = [
        f"# {config.name}",
        "",
        f"Family `{config.family}`, {parameters:,} parameters. Trained on {config.trained_on}.",
        "",
        f"Errors on the {table['split']} split, without symmetry projection (`repose evaluate`). A model is "
        "worth what it gains over the better of Dummy (the input unchanged) and Rescale (the input scaled to "
        "a volume linear in composition).",
    ]
    for block in table["blocks"]:
        columns = [c for c in COLUMNS if c in block["rows"][0]]
        lines += ["", f"## {block['dataset']}: {block['crystals']} crystals", ""]
        lines += ["| | " + " | ".join(f"{c.replace('_', ' ')}, {table['units'][c]}" for c in columns) + " |"]
        lines += ["| --- |" + " --- |" * len(columns)]
        for row in block["rows"]:
            if row["relaxer"] not in (ours, *TRIVIAL):
                continue
            name = config.name if row["relaxer"] == ours else row["relaxer"]
            lines.append(f"| {name} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |")
        gains = block["gains"][ours]
        lines.append(
            "| gain, % | "
            + " | ".join("" if gains[c] is None else f"{gains[c]:+.1f}" for c in columns)
            + " |"
        )
    if said := table["blocks"][-1]["uncertainty"].get(ours):
        lines += ["", "## Uncertainty", "", uncertainty(config.calibration, said)]
    return "\n".join(lines) + "\n\n" + limits


def uncertainty(calibration, said) -> str:
    """What the bounds are worth on the test split, in words."""
    shares = ", ".join(f"{level}%: {part['share']:.1f}%" for level, part in said["coverage"].items())
    rho, surest = said["rho"], said["surest"]
    return (
        f"Calibrated on {calibration.crystals:,} crystals of the validation split. Test crystals "
        f"({said['crystals']:,}) whose error lies below the bound at {shares}. Spearman's rho of bound "
        f"and error: {rho['coordinates']:.2f} (coordinates), {rho['bonds']:.2f} (bonds). Median at 90%: "
        f"{said['median_bound']:.2f} A. Mean error of the surest quarter {surest['25']:.3f} A, half "
        f"{surest['50']:.3f} A, of all {surest['100']:.3f} A."
    )


if __name__ == "__main__":
    main()
