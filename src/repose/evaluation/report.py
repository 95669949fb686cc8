"""Tables of an evaluation in Markdown and JSON, and the files of its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repose.atomic_write import replacing_file
from repose.errors import require
from repose.evaluation.metrics import METRICS, Metric
from repose.evaluation.results import RATIO, WORSE, WORSE_BY, EvaluationResult
from repose.evaluation.tables import finite_or_none, format_number, markdown_table
from repose.evaluation.uncertainty import NOTE, regime_uncertainty_table, uncertainty_table
from repose.relaxer.baselines import Rescale

# Longer lists of crystals are cut in notes; table.json and per_crystal.parquet hold all.
MAX_IDS = 20
# Columns of the tables of regimes.
_BY_KEY = {metric.key: metric for metric in METRICS}
SHOWN = (_BY_KEY["coordinates"], RATIO, _BY_KEY["relative_volume"], WORSE)


def write(result: EvaluationResult, directory: str | Path, *, plots: bool = False) -> list[Path]:
    """Write ``table.md``, ``table.json`` and ``per_crystal.parquet``, see `write_files`; return the files.

    Plots are ``errors.png`` and ``volumes.png``, with bounds also ``uncertainty.png``, and with bounds on
    bonds ``bonds.png``. Plots of earlier results that are not drawn again are removed.

    Raises:
        MissingExtraError: pyarrow, or for plots matplotlib, is not installed.
    """
    files: dict[str, Callable[[Path], Any]] = {
        "table.md": text_writer(markdown(result)),
        "table.json": json_writer(to_dict(result)),
        "per_crystal.parquet": parquet_writer(result.per_crystal()),
    }
    if plots:
        require("matplotlib", "plotting")
        from repose.evaluation.plots import figures

        files |= {name: png_writer(draw) for name, draw in figures(result).items()}
    return write_files(Path(directory), files, {"errors.png", "volumes.png", "uncertainty.png", "bonds.png"})


def text_writer(text: str) -> Callable[[Path], Any]:
    """Function that writes a text to a file."""
    return lambda path: path.write_text(text, encoding="utf-8")


def json_writer(value: Any) -> Callable[[Path], Any]:
    """Function that writes a value to a JSON file."""
    return text_writer(json.dumps(value, indent=2) + "\n")


def parquet_writer(rows: list[dict[str, Any]]) -> Callable[[Path], Any]:
    """Function that writes rows to a Parquet file.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", "writing errors per crystal")
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows)
    return lambda path: pq.write_table(table, path)


def png_writer(draw: Callable[[], Any]) -> Callable[[Path], Any]:
    """Function that writes the figure that ``draw`` returns to a PNG file."""
    return lambda path: draw().savefig(path, dpi=150)


def write_files(
    directory: Path, files: Mapping[str, Callable[[Path], Any]], replaced: Collection[str] = ()
) -> list[Path]:
    """Write files into a directory, created if missing, each atomically; return the files.

    Args:
        directory: Existing files are replaced.
        files: Function that writes to a path, by file name.
        replaced: Names of files of earlier results, removed unless they are written again.
    """
    for name in set(replaced) - set(files):
        (directory / name).unlink(missing_ok=True)
    for name, write_to in files.items():
        with replacing_file(directory / name) as new:
            write_to(new)
    return [directory / name for name in files]


def to_dict(result: EvaluationResult) -> dict[str, Any]:
    """Contents of ``table.json``; numbers that do not exist are None."""
    units = {column.key: column.unit for column in (*result.columns, RATIO, WORSE)}
    table = {"split": result.split, "units": units, "blocks": result.blocks()}
    return finite_or_none({**table, "not_finite": result.not_finite, "notes": notes(result)})


def markdown(result: EvaluationResult) -> str:
    """Contents of ``table.md``."""
    columns = result.columns
    lines = [f"# Evaluation on the {result.split} split"]
    for block in result.blocks():
        lines += ["", f"## {block['dataset']}: {block['crystals']} crystals", ""]
        lines += error_table(block, columns)
        lines += ["", "By the input's error (quarters of Dummy's coordinate error) and by size:", ""]
        lines += _regime_table(block)
        if block["uncertainty"]:
            groups = [(_title(regime), regime["uncertainty"]) for regime in block["regimes"]]
            lines += ["", "Uncertainty:", "", *uncertainty_table(block["uncertainty"])]
            lines += ["", "Uncertainty by the input's error and by size:", ""]
            lines += regime_uncertainty_table(groups)
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(result))]) + "\n"


def notes(result: EvaluationResult) -> list[str]:
    """Explanations below the table."""
    found = [
        "Errors are means over crystals. Targets and predictions are moved to the periodic images nearest "
        "to the unrelaxed positions; for 'predicted image', targets to those nearest to the prediction.",
        "Dummy is the unchanged input. Rescale is the input scaled to a volume that is linear in "
        "composition, fitted on the train splits of all datasets.",
        "Gain: reduction of the error relative to the better of the two (match: increase).",
        "Over Dummy: mean coordinate error over that of the input, without a value where the input is the "
        "relaxed crystal; errors are then the drift of the relaxed crystal. Worse: share of crystals whose "
        f"coordinate error exceeds that of the input by more than {WORSE_BY:g} Å. Inputs of equal errors are "
        "in one quarter.",
        "Times include the neighbour graph and uncertainty, but not reading.",
    ]
    if len(result.scores) < 2 or result.scores[1].relaxer != Rescale.name:
        found[1] = (
            "Dummy is the unchanged input. Rescale is left out: no train split of bulk crystals to fit it to."
        )
    for name, published in result.published.items():
        found += [f"{name}: {note}" for note in published.notes]
    for relaxer, ids in result.not_finite.items():
        found.append(
            f"{relaxer}: {len(ids)} of {len(result.crystals)} predictions were not finite and are scored "
            f"as Dummy: {list_ids(ids)}."
        )
    if result.uncertainty:
        found.append(NOTE)
    for relaxer, row in result.uncertainty.items():
        if row["left_out"]:
            found.append(
                f"{relaxer}: {row['left_out']} of {len(result.crystals)} crystals have no bound or no "
                "finite prediction. They are left out of the comparison of uncertainty with errors."
            )
    return found


def list_ids(ids: Sequence[str]) -> str:
    """Ids of crystals in one line, cut after `MAX_IDS`."""
    return ", ".join(ids[:MAX_IDS]) + (f" and {len(ids) - MAX_IDS} more" if len(ids) > MAX_IDS else "")


def error_table(
    block: dict[str, Any], columns: Sequence[Metric], reference: dict[str, float] | None = None
) -> list[str]:
    """Lines of the table of a block: ``rows``, ``gains``, ``published``; a last row has the reference."""
    rows = [
        [row["relaxer"], *(format_number(row[c.key], c.digits) for c in columns)] for row in block["rows"]
    ]
    rows += [
        [f"gain of {relaxer}, %", *(format_number(gain.get(c.key, np.nan), 1, "+") for c in columns)]
        for relaxer, gain in block["gains"].items()
    ]
    rows += [
        [f"published: {model}", *(f"{own[c.key]:g}" if c.key in own else "-" for c in columns)]
        for model, own in block.get("published", {}).items()
    ]
    if reference is not None:
        known = (format_number(reference.get(c.key, np.nan), c.digits) for c in columns)
        rows.append(["the reference", *known])
    return markdown_table(["", *(c.heading for c in columns)], rows)


def _regime_table(block: dict[str, Any]) -> list[str]:
    groups = [(f"all ({block['crystals']})", block), *((_title(part), part) for part in block["regimes"])]
    rows = [
        [title, row["relaxer"], *(format_number(row[c.key], c.digits) for c in SHOWN)]
        for title, part in groups
        for row in part["rows"]
    ]
    return markdown_table(["", "", *(c.heading for c in SHOWN)], rows)


def _title(regime: dict[str, Any]) -> str:
    """Name of a regime, its range of errors if it is a quarter, and its number of crystals."""
    limits = ""
    if regime["quantity"] == "input_error":
        ends = dict.fromkeys(f"{end:.3f}" for end in regime["range"])  # one, if they are printed alike
        limits = f", {' to '.join(ends)} Å"
    return f"{regime['name']}{limits} ({regime['crystals']})"
