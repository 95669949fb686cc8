"""Tables of an evaluation of paths in Markdown and JSON, and the files of its results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from repose.errors import require
from repose.evaluation.metrics import ENERGY_RISE
from repose.evaluation.path_results import CURVES, ERRORS, RISING, PathEvaluation
from repose.evaluation.report import (
    error_table,
    json_writer,
    list_ids,
    parquet_writer,
    png_writer,
    text_writer,
    write_files,
)
from repose.evaluation.results import SPEED
from repose.evaluation.tables import finite_or_none, format_number, markdown_table
from repose.relaxer.baselines import Rescale

# Columns of the table of perturbed inputs.
ROBUST = tuple(metric for metric in ERRORS if not metric.key.endswith("all"))


def write_paths(result: PathEvaluation, directory: str | Path, *, plots: bool = False) -> list[Path]:
    """Write ``paths.md``, ``paths.json`` and ``paths.parquet``, see `write_files`; return the files.

    Plots are ``path_errors.png`` and ``path_examples.png``; those of earlier results are removed if they are
    not drawn again.

    Raises:
        MissingExtraError: pyarrow, or for plots matplotlib, is not installed.
    """
    files: dict[str, Callable[[Path], Any]] = {
        "paths.md": text_writer(markdown(result)),
        "paths.json": json_writer(to_dict(result)),
        "paths.parquet": parquet_writer(result.per_crystal()),
    }
    if plots:
        require("matplotlib", "plotting")
        from repose.evaluation import path_plots

        files["path_errors.png"] = png_writer(lambda: path_plots.errors(result))
        files["path_examples.png"] = png_writer(lambda: path_plots.examples(result))
    return write_files(Path(directory), files, {"path_errors.png", "path_examples.png"})


def to_dict(result: PathEvaluation) -> dict[str, Any]:
    """Contents of ``paths.json``; numbers that do not exist are None."""
    return finite_or_none(
        {
            "split": result.split,
            "frames": result.frames,
            "units": {metric.key: metric.unit for metric in (*ERRORS, RISING, SPEED)},
            "left_out": {
                dataset: {"too_short": paths.too_short, "unlabelled": paths.unlabelled}
                for dataset, paths in result.found.items()
            },
            "blocks": result.blocks(),
            "perturbed": result.perturbed(),
            "not_finite": result.not_finite,
            "notes": notes(result),
        }
    )


def markdown(result: PathEvaluation) -> str:
    """Contents of ``paths.md``."""
    lines = [f"# Paths of {result.frames} frames on the {result.split} split"]
    for block in result.blocks():
        table = error_table(block, (*ERRORS, RISING, SPEED), block["reference"])
        lines += ["", f"## {block['dataset']}: {block['crystals']} crystals", "", *table]
        lines += ["", "Frame by frame:", "", *_frame_table(block, result.frames)]
    if rows := result.perturbed():
        lines += ["", "## Perturbed inputs, all crystals", "", *_perturbed_table(rows)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(result))]) + "\n"


def notes(result: PathEvaluation) -> list[str]:
    """Explanations below the tables."""
    dummy, *_ = result.scores.values()
    if np.isnan(dummy.energies).any():
        elements = "it has no energies and forces: no train split has paths to fit energies to."
    else:
        elements = (
            "its energy is the sum of energies of the elements (least squares over all frames of the train "
            "splits' paths), its forces are zero."
        )
    found = [
        f"{dataset}: {paths}; the reference has as many frames, evenly spaced."
        for dataset, paths in result.found.items()
    ]
    found += [
        "Errors are mean absolute errors, averaged over crystals last. The reference is moved to the "
        "periodic images nearest to the unrelaxed positions.",
        "Aligned: root mean square distance of the atoms of one cell, taken as a molecule, after the best "
        "shift and proper rotation (Kabsch).",
        f"Rising: crystals whose energy rises by more than {ENERGY_RISE:g} eV/atom between two frames.",
        f"Dummy is the unchanged input in every frame; {elements} Rescale, if present, is the input scaled "
        "to a volume that is linear in composition.",
        "Gain: reduction of the error relative to the lower of the two.",
    ]
    for relaxer, ids in result.not_finite.items():
        found.append(
            f"{relaxer}: {len(ids)} of {len(result.crystals)} paths were not finite. They are scored as "
            f"Dummy's and left out of 'rising': {list_ids(ids)}."
        )
    return found


def _frame_table(block: dict[str, Any], frames: int) -> list[str]:
    rows = [
        [relaxer, f"{c.label}, {c.unit}", *(format_number(value, c.digits) for value in curves[c.key])]
        for relaxer, curves in block["curves"].items()
        for c in CURVES
        if relaxer != Rescale.name
    ]
    return markdown_table(["", "error", *map(str, range(frames))], rows)


def _perturbed_table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        [row["relaxer"], f"{row['scale']:g}", *(format_number(row[c.key], c.digits) for c in ROBUST)]
        for row in rows
    ]
    return markdown_table(["", "noise, Å", *(f"{c.label}, {c.unit}" for c in ROBUST)], cells)
