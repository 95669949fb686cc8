"""Write a trained model into the package: weights, settings, and a card made from its evaluation.

    python tools/ship_model.py RUN/model TABLE.json ... --name NAME [--limits FILE] [--round DATASET ...]

The numbers of the card are those of `repose evaluate`; only the limits are written by hand. Errors in
``config.json`` and the uncertainty are those of the first table, of all its datasets. With ``--round``
matrices are rounded to half precision as far as predictions on these datasets stay within 1e-4 A. Without it
weights stay as they are, so the tool can also renew the card of a shipped model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from half_precision import to_half

from repose.evaluation.metrics import METRICS
from repose.models.checkpoint import ModelConfig, load_model, save_model
from repose.models.network import Network

WEIGHTS = Path(__file__).parents[1] / "src/repose/weights"
TRIVIAL = ("Dummy", "Rescale")
COLUMNS = (*(metric.key for metric in METRICS), "match")
# Names that two sources of crystals share.
TITLES = {name: f"{name} (prototype paths)" for name in ("bulk", "subst", "xmno")}
SOURCES = (
    "`bulk`, `subst` and `xmno` are relaxation paths of prototypes, which this repository does not contain. "
    "Names with `chgnet-` are the datasets of the same names in `datasets/chgnet`."
)


def main() -> None:
    """Read the run and write the model directory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--name", required=True)
    parser.add_argument("--limits", type=Path)
    parser.add_argument("--round", type=Path, nargs="+", default=[], help="datasets to round weights on")
    arguments = parser.parse_args()
    network, config = load_model(arguments.model)
    if arguments.round:
        network = to_half(network, config, arguments.round)
    tables = [json.loads(path.read_text()) for path in arguments.tables]
    table = tables[0]
    rows = {block["dataset"]: {row["relaxer"]: row for row in block["rows"]} for block in table["blocks"]}
    everything = rows.get("all", next(iter(rows.values())))
    models = [name for name in everything if name not in TRIVIAL]
    ours = arguments.name if arguments.name in models else models[0]
    errors = {
        f"{c} ({table['units'][c]})": round(value, 4)
        for c in COLUMNS
        if (value := everything[ours].get(c)) is not None
    }
    config = config.model_copy(update={"name": arguments.name, "test_error": errors})
    limits = arguments.limits.read_text() if arguments.limits else ""
    save_model(WEIGHTS / arguments.name, network, config, card(config, tables, network, ours, limits))


def card(
    config: ModelConfig, tables: Sequence[dict[str, Any]], network: Network, ours: str, limits: str
) -> str:
    """Return the model card in Markdown."""
    parameters = sum(p.numel() for p in network.parameters())
    table, *others = tables
    blocks = list(table["blocks"])
    names = [block["dataset"] for block in blocks]
    blocks += [b for other in others for b in other["blocks"] if b["dataset"] not in (*names, "all")]
    lines = [
        f"# {config.name}",
        "",
        f"Family `{config.family}`, {parameters:,} parameters. Trained on {config.trained_on}.",
        "",
        *([SOURCES, ""] if set(TITLES) & set(names) else []),
        f"Errors on the {table['split']} split, without symmetry projection (`repose evaluate`). The gain is "
        "over the better of Dummy (the input unchanged) and Rescale (the input scaled to a volume linear in "
        "composition).",
    ]
    for block in blocks:
        columns = [c for c in COLUMNS if c in block["rows"][0]]
        title = TITLES.get(block["dataset"], block["dataset"])
        lines += ["", f"## {title}: {block['crystals']} crystals", ""]
        lines += ["| | " + " | ".join(f"{c.replace('_', ' ')}, {table['units'][c]}" for c in columns) + " |"]
        lines += ["| --- |" + " --- |" * len(columns)]
        for row in block["rows"]:
            if row["relaxer"] not in (ours, *TRIVIAL):
                continue
            name = config.name if row["relaxer"] == ours else row["relaxer"]
            lines.append(f"| {name} | " + " | ".join(shown(row[c], ".3f") for c in columns) + " |")
        gains = block["gains"][ours]
        lines.append(f"| gain, % | {' | '.join(shown(gains[c], '+.1f') for c in columns)} |")
    if measured := table["blocks"][-1]["uncertainty"].get(ours):
        lines += ["", "## Uncertainty", "", uncertainty(config, measured)]
    return "\n".join(lines) + "\n\n" + limits


def shown(value: float | None, spec: str) -> str:
    """Return a number in a format, or a dash if there is none."""
    return "-" if value is None else format(value, spec)


def uncertainty(config: ModelConfig, measured: dict[str, Any]) -> str:
    """Return coverage and ranking of the bounds on the test split in words."""
    if config.calibration is None:
        raise SystemExit(f"{config.name} has no calibration; run repose calibrate first.")
    shares = ", ".join(f"{level}%: {part['share']:.1f}%" for level, part in measured["coverage"].items())
    rho, mean = measured["rho"], measured["surest"]
    return (
        f"Calibrated on {config.calibration.crystals:,} crystals of the validation split. Share of the "
        f"{measured['crystals']:,} test crystals whose error is below the bound at {shares}. "
        f"Spearman's rho of bound and error: {shown(rho['coordinates'], '.2f')} "
        f"(coordinates), {shown(rho['bonds'], '.2f')} (bonds). "
        f"Median bound at 90%: {measured['median_bound']:.2f} A. "
        f"Mean error of the quarter with the smallest bounds {mean['25']:.3f} A, of the half "
        f"{mean['50']:.3f} A, of all {mean['100']:.3f} A."
    )


if __name__ == "__main__":
    main()
