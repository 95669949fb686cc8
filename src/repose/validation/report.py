"""Table, JSON and Parquet files of a validation."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import repose
from repose.data.dataset import Dataset
from repose.evaluation.report import (
    MAX_IDS,
    json_writer,
    parquet_writer,
    png_writer,
    text_writer,
    write_files,
)
from repose.evaluation.tables import finite_or_none, markdown_table
from repose.models.checkpoint import WEIGHTS, find_model, load_config
from repose.relaxer.baselines import Rescale
from repose.validation.run import Crystal
from repose.validation.samples import INPUT, CrystalSet, Source
from repose.validation.settings import ValidationSettings
from repose.validation.summary import describe_groups, usable
from repose.validation.task import EMPTY

ALL = "all datasets"
RESULT = "validate.json"
PLOTS = ("steps.png", "energies.png")
# Titles of the columns, their paths in the statistics of a start, and decimals.
COLUMNS = {
    "crystals": (("crystals",), 0),
    "E, median, meV/atom": (("energy_above_relaxed", "median"), 1),
    "E, mean": (("energy_above_relaxed", "mean"), 1),
    "MAE": (("energy_mae",), 1),
    "worse, %": (("worse_percent",), 0),
    "steps, median": (("steps", "median"), 1),
    "steps, mean": (("steps", "mean"), 1),
    "saved, %": (("steps_saved_percent",), 0),
    "more, %": (("more_steps_percent",), 0),
    "time, s": (("seconds", "total"), 1),
    "time saved, %": (("seconds", "saved_percent"), 0),
    "lower, %": (("lower_minimum_percent",), 0),
    "higher, %": (("higher_minimum_percent",), 0),
    "failed": (("failed",), 0),
}


def to_dict(
    crystals: Sequence[Crystal],
    sets: Sequence[CrystalSet],
    sources: Sequence[Source],
    settings: ValidationSettings,
    *,
    split: str,
    fit: Sequence[Path],
) -> dict[str, Any]:
    """Contents of ``validate.json``.

    Args:
        crystals: Crystals that are complete.
        sets: All chosen crystals.
        sources: Sources of the starts.
        settings: Calculator and relaxations.
        split: Split of the crystals.
        fit: Datasets that Rescale was fitted to.
    """
    max_steps = settings.relaxation.max_steps
    blocks = [_block([own], [c for c in crystals if c.dataset == own.name], max_steps) for own in sets]
    if len(sets) > 1:
        blocks.append(_block(sets, crystals, max_steps) | {"dataset": ALL})
    fitted = any(source.name == Rescale.name for source in sources)
    result = {
        **conditions(sets, settings, split),
        "optimizer": "batched L-BFGS of atoms and cell",
        "rescale_fitted_on": [Dataset(path).info.name for path in fit] if fitted else [],
        "models": {source.name: _model(source.model) for source in sources if isinstance(source.model, str)},
        "versions": _versions(settings.calculator),
        "left": sum(len(own.chosen) for own in sets) - len(crystals),
        "blocks": blocks,
        "failures": [
            {"dataset": c.dataset, "id": c.id, "start": name, "reason": row["failure"]}
            for c in crystals
            for name, row in c.rows.items()
            if row["failure"] and not row["lacking"]
        ]
        + [
            {"dataset": c.dataset, "id": c.id, "start": "relaxed", "reason": c.rows[INPUT]["target_failure"]}
            for c in crystals
            if c.rows[INPUT]["target_failure"]
        ],
    }
    return _stored(result)


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they are in ``validate.json``."""
    return json.loads(json.dumps(finite_or_none(values)), parse_float=lambda text: round(float(text), 5))


def conditions(sets: Sequence[CrystalSet], settings: ValidationSettings, split: str) -> dict[str, Any]:
    """Entries of ``validate.json`` that say what was validated, except for the models."""
    relaxation = settings.relaxation.model_dump(exclude={"batch_atoms"}, exclude_defaults=True)
    return {
        "calculator": settings.potential,
        "import_path": settings.calculator if ":" in settings.calculator else None,
        "fmax": settings.relaxation.fmax,
        "max_steps": settings.relaxation.max_steps,
        "relaxation": {k: v for k, v in relaxation.items() if k not in ("fmax", "max_steps")},
        "symmetry": settings.symmetry,
        "split": split,
        "datasets": [own.name for own in sets],
    }


def replaced(directory: Path, given: dict[str, Any]) -> str | None:
    """Return a message if `write` replaces results whose `conditions` differ from the given ones."""
    try:
        earlier = json.loads((directory / RESULT).read_text(encoding="utf-8"))
        changed = [key for key, value in _stored(given).items() if earlier.get(key, value) != value]
    except (OSError, ValueError, AttributeError):  # there are none, or they cannot be read
        return None
    if not changed:
        return None
    differ = ", ".join(f"{key} {earlier[key]}" for key in changed)
    return (
        f"the results in {directory} are replaced; they had {differ}. "
        "Relaxations are kept: the former command with --hours 0 writes its results again."
    )


def _block(sets: Sequence[CrystalSet], crystals: Sequence[Crystal], max_steps: int) -> dict[str, Any]:
    """Statistics of the crystals of some datasets."""
    lacking = [crystal.rows[INPUT]["lacking"] for crystal in crystals if crystal.rows[INPUT]["lacking"]]
    compared = usable(crystals)
    return {
        "dataset": sets[0].name,
        "crystals_of_split": sum(own.crystals for own in sets),
        "chosen": sum(len(own.chosen) for own in sets),
        "complete": len(crystals),
        "unknown_elements": {
            "crystals": len(lacking),
            "elements": dict(Counter(name for names in lacking for name in names)),
        },
        "input_not_converged": len(crystals) - len(lacking) - len(compared),
        "groups": describe_groups(compared, max_steps),
    }


def _model(name: str) -> dict[str, str]:
    directory = find_model(name)
    digest = hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()
    return {"model": load_config(directory).name, "weights_sha256": digest}


def _versions(calculator: str) -> dict[str, str]:
    package = {"chgnet": "chgnet", "chgnet-r2scan": "chgnet", "sevennet": "sevenn"}.get(calculator)
    known = {name: version(name) for name in ("torch", "ase", package) if name}
    return known | {"repose": repose.__version__, "python": platform.python_version()}


def markdown(result: dict[str, Any], groups: bool = False) -> str:
    """Contents of ``table.md``.

    Args:
        result: From `to_dict`.
        groups: Also tables by group of crystals.
    """
    lines = [f"# Validation with {result['calculator']}, {result['split']} split"]
    for block in result["blocks"]:
        lines += ["", f"## {block['dataset']}: {block['complete']} of {block['chosen']} crystals", ""]
        shown = block["groups"] if groups else {k: v for k, v in block["groups"].items() if k == "all"}
        for name, group in shown.items():
            if name != "all":
                low, high = group["input_coordinates"]
                lines += ["", f"### {name}: {group['crystals']}, input error {low:.3f} to {high:.3f} Å", ""]
            lines += _table(group)
        lines += ["", *(f"- {note}" for note in _block_notes(block))]
    return "\n".join([*lines, *(f"- {note}" for note in _notes(result))]) + "\n"


def _table(group: dict[str, Any]) -> list[str]:
    rows = []
    for name, values in group["starts"].items():
        cells = [_cell(values, path, digits) for path, digits in COLUMNS.values()]
        rows.append([name, *cells])
    return markdown_table(["start", *COLUMNS], rows)


def _cell(values: Any, path: tuple[str, ...], digits: int) -> str:
    for key in path:
        values = None if values is None else values[key]
    return "-" if values is None else f"{values:.{digits}f}"


def _block_notes(block: dict[str, Any]) -> list[str]:
    """Crystals of a block that are not compared."""
    found = []
    if missing := block["chosen"] - block["complete"]:
        found.append(f"{missing} crystals are not finished; the same command continues.")
    unknown = block["unknown_elements"]
    if unknown["crystals"]:
        elements = ", ".join(f"{name} ({count})" for name, count in unknown["elements"].items())
        found.append(f"{unknown['crystals']} crystals have elements that the calculator lacks: {elements}.")
    if block["input_not_converged"]:
        found.append(
            f"{block['input_not_converged']} crystals are left out, since their input was not relaxed."
        )
    return found


def _notes(result: dict[str, Any]) -> list[str]:
    """Notes on all blocks."""
    found = []
    if not result["rescale_fitted_on"]:
        found.append(
            "Rescale is left out: no train split of bulk crystals to fit it to; give one with --fit."
        )
    failures = result["failures"]
    found += [f"{own['dataset']}, {own['id']}, {own['start']}: {own['reason']}" for own in failures[:MAX_IDS]]
    if len(failures) > MAX_IDS:
        found.append(f"{len(failures) - MAX_IDS} further failures are in validate.json.")
    return found


def per_crystal(crystals: Sequence[Crystal]) -> list[dict[str, Any]]:
    """Rows of ``per_crystal.parquet``, one for each crystal and start; energies in eV per atom."""
    return [
        {"dataset": crystal.dataset, "id": crystal.id, "quarter": crystal.quarter + 1, "atoms": row["atoms"]}
        | {"start": name, **{key: row[key] for key in EMPTY}}
        for crystal in crystals
        for name, row in crystal.rows.items()
    ]


def write(
    result: dict[str, Any],
    crystals: Sequence[Crystal],
    directory: Path,
    *,
    groups: bool = False,
    plots: bool = False,
) -> list[Path]:
    """Write ``validate.json``, ``table.md`` and ``per_crystal.parquet``, with ``plots`` also PNG files.

    Raises:
        MissingExtraError: pyarrow, or for plots matplotlib, is not installed.
    """
    files: dict[str, Callable[[Path], Any]] = {
        RESULT: json_writer(result),
        "table.md": text_writer(markdown(result, groups)),
        "per_crystal.parquet": parquet_writer(per_crystal(crystals)),
    }
    if plots:
        from repose.validation.plots import figures

        files |= {name: png_writer(draw) for name, draw in figures(crystals, result["max_steps"]).items()}
    return write_files(directory, files, PLOTS)
