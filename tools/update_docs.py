"""Fill the tables of README.md and docs/ from stored results.

Each table is between ``<!-- numbers: NAME -->`` and ``<!-- end -->``. `BLOCKS` maps names to functions::

    python tools/update_docs.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- numbers: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
DEFAULT = "repose"
# Sets of the study of relaxation steps beside the DFT relaxations.
SETS = {
    "far": "elements in prototypes, CHGNet",
    "substitutions": "similar elements in relaxed parents, CHGNet",
    "mp-substitutions": "one or more elements replaced, DFT",
}
# Datasets of other kinds than hypothetical crystals.
KINDS = {
    "mp-frames": "DFT relaxations, frames",
    "mp-one-element": "DFT crystals with one element replaced",
    "mp-near-0": "DFT-relaxed crystals",
    "mp-near-0.02": "… displaced by 0.02 Å, strained by 1 %",
    "mp-near-0.05": "… by 0.05 Å, 2 %",
    "mp-near-0.1": "… by 0.1 Å, 3 %",
    "pbe": "salts and intermetallics, PBE",
    "chgnet-real": "real crystals with elements replaced, CHGNet",
    "chgnet-sheets": "monolayers, CHGNet",
    "chgnet-layered": "stacks and bilayers, CHGNet",
    "chgnet-defects": "point defects in monolayers, CHGNet",
}
COLUMNS = {
    "coordinates": ("coordinates, Å", 3),
    "lattice": ("lattice, Å", 3),
    "volume": ("volume, Å³", 1),
}


def stored(path: str) -> Any:
    """Content of a JSON file of the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def table(head: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int = 1) -> str:
    """Markdown table whose first columns hold text and the others numbers."""
    head = list(head)
    lines = [head, ["---"] * text_columns + ["---:"] * (len(head) - text_columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def steps_saved() -> str:
    """Errors on all sets of test crystals, and relaxation steps that `default` saves."""
    errors = stored("studies/real_pairs/result.json")["errors"]
    return errors_and_steps(errors, {name: result["blocks"][-1] for name, result in validated().items()})


def validated() -> dict[str, Any]:
    """Results of `repose validate`, by name of the set of test crystals and of the calculator."""
    found = {path.stem: stored(f"studies/validate/{path.name}") for path in STUDIES.glob("validate/*.json")}
    order = [*SETS, "frames"]
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0].partition("_")[0]), item[0])))


def validate() -> str:
    """Energies and remaining steps of the input, Rescale and `default` on all sets of test crystals."""
    return validation_table(validated())


def validation_table(results: dict[str, Any]) -> str:
    """Energies and remaining steps by set, calculator and start; a dash for what is unknown."""
    rows = []
    for name, result in results.items():
        group = result["blocks"][-1]["groups"]["all"]
        title = (SETS | {"frames": "frames, DFT"})[name.partition("_")[0]].rpartition(",")[0]
        title = f"{title} ({group['crystals']}), {result['calculator'].partition(',')[0]}"
        for start in ("input", "Rescale", "default", "default (or input)"):
            if own := group["starts"].get(start):
                energy, steps, seconds = own["energy_above_relaxed"], own["steps"], own["seconds"]
                values = [energy["median"], energy["mean"], own["energy_mae"], own["worse_percent"]]
                cells = [_number(value, 0) for value in values]
                cells += [f"{steps['median']:g}", _number(steps["mean"], 1)]
                values = [own["steps_saved_percent"], own["more_steps_percent"], seconds["saved_percent"]]
                values += [own["lower_minimum_percent"], own["higher_minimum_percent"]]
                rows.append([title, start, *cells, *(_number(value, 0) for value in values)])
                title = ""
    head = ["test crystals", "start", "E, median", "mean", "MAE", "worse, %", "steps, median", "mean"]
    return table([*head, "saved, %", "more, %", "time saved, %", "lower, %", "higher, %"], rows, 2)


def cascade() -> str:
    """Energies, errors and cost if the least certain crystals go on with CHGNet, by their share."""
    rows = []
    for row in stored("studies/cascade/result.json")["cascade"]:
        energy = row["energy_above"]
        rows.append(
            [
                f"{100 * row['share']:.0f}",
                f"{energy['median']:.1f}",
                f"{energy['mean']:.0f}",
                f"{row['median_error']:.3f}",
                f"{row['steps']:,}",
            ]
        )
    head = ["go on, %", "E, median", "mean", "error, median, Å", "steps in all"]
    return table(head, rows, 0)


def errors_and_steps(errors: dict[str, Any], sets: dict[str, Any]) -> str:
    """Errors and median relaxation steps of the test sets, and of the DFT relaxations by quarter.

    Errors of DFT relaxations are those of all crystals of a group, steps those of the crystals that were
    relaxed, whose number follows in brackets.
    """
    rows, frames = [], sets.get("frames", {}).get("groups", {})
    for name, title in SETS.items():
        if name in sets:
            group = sets[name]["groups"]["all"]
            means = [group["starts"][row]["coordinates"]["mean"] for row in ("input", "Rescale", "default")]
            rows.append([title, *(f"{mean:.3f}" for mean in means), *_steps(group)])
    for name in ("all", *(name for name in errors if name.startswith("quarter"))):
        group = errors[name]
        low, high = group["input_coordinates"]
        title = "DFT relaxations" if name == "all" else f"… input error {low:.2f} to {high:.2f} Å"
        means = [group["mean"][row]["coordinates"] for row in ("Dummy", "Rescale", "default")]
        steps = _steps(frames.get(name))
        rows.append([title, *(f"{mean:.3f}" for mean in means), *steps])
    head = ["test crystals", "input, Å", "Rescale, Å", "`default`, Å"]
    return table([*head, "CHGNet steps", "saved, %", "more, %"], rows)


def _steps(group: dict[str, Any] | None) -> list[str]:
    """Median steps from the input and from `default`, steps saved, and share of crystals with more steps."""
    if group is None:
        return ["-", "-", "-"]
    before, after = (group["starts"][name] for name in ("input", "default"))
    saved = after["steps_saved_percent"]
    return [
        f"{before['steps']['median']:g}→{after['steps']['median']:g} ({group['crystals']})",
        "-" if saved is None else f"{saved:.0f}",
        f"{after['more_steps_percent']:.0f}",
    ]


def errors() -> str:
    """Errors of `default` on every dataset of the evaluation, and of all models on their union."""
    rows = []
    blocks = stored("recipes/evaluation/table.json")["blocks"]
    for block in blocks:
        values = {row["relaxer"]: row for row in block["rows"]}
        name = f"{block['dataset']} ({block['crystals']:,})"
        for model in values if block is blocks[-1] else (DEFAULT,):
            cells = [f"{values[model][key]:.{digits}f}" for key, (_, digits) in COLUMNS.items()]
            if gains := block["gains"].get(model):
                cells = [f"{cell} ({gains[key]:+.0f} %)" for cell, key in zip(cells, COLUMNS, strict=True)]
            rows.append([name, "**default**" if model == DEFAULT else model, *cells])
            name = ""
    return table(["", "", *(title for title, _ in COLUMNS.values())], rows, 2)


def kinds() -> str:
    """Errors of `default` and of the input on crystals of other kinds, and of `defects` on its own."""
    blocks = {block["dataset"]: block for block in stored("recipes/evaluation/kinds/table.json")["blocks"]}
    rows = [
        _kind(f"{title} ({blocks[name]['crystals']})", blocks[name], DEFAULT) for name, title in KINDS.items()
    ]
    rows.append(
        _kind(
            "the same, by `defects`", stored("recipes/defects/evaluation/table.json")["blocks"][-1], "defects"
        )
    )
    head = ["test crystals", "input, Å", "Rescale, Å", "`default`, Å", "input, V %", "Rescale, V %"]
    return table([*head, "`default`, V %", "worse, %"], rows)


def _kind(title: str, block: dict[str, Any], model: str) -> list[str]:
    """Errors of coordinates and volume of the trivial rows and of a model, and the share of worse answers."""
    own = {row["relaxer"]: row for row in block["rows"]}
    cells = [
        f"{own[row][key]:.{digits}f}" if row in own else "-"
        for key, digits in (("coordinates", 3), ("relative_volume", 1))
        for row in ("Dummy", "Rescale", model)
    ]
    return [title, *cells, f"{own[model]['worse_percent']:.0f}"]


def paths() -> str:
    """Errors of RelaxNet's paths on all test crystals."""
    block = stored("recipes/relaxnet/paths.json")["blocks"][-1]
    titles = {
        "energy_per_atom_end": ("energy, last frame, eV/atom", 3),
        "energy_per_atom_all": ("energy, all frames, eV/atom", 3),
        "forces_end": ("forces, last frame, eV/Å", 3),
        "forces_all": ("forces, all frames, eV/Å", 3),
        "coordinates": ("coordinates, last frame, Å", 3),
        "rising": ("energies that rise, %", 1),
    }
    values = {row["relaxer"]: row for row in block["rows"]}
    rows = [
        [title] + [_number(values[name][key], digits) for name in ("Dummy", "relaxnet")]
        for key, (title, digits) in titles.items()
    ]
    return table([f"{block['crystals']:,} test crystals", "Dummy", "`relaxnet`"], rows)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def bounds() -> str:
    """How often calibrated bounds held on the test split, and how well they rank crystals."""
    block = stored("recipes/evaluation/table.json")["blocks"][-1]
    models = block["uncertainty"]

    def share(level: str) -> Callable[[dict[str, Any]], str]:
        return lambda own: f"{own['coverage'][level]['share']:.1f} %"

    def interval(own: dict[str, Any]) -> str:
        low, high = own["coverage"]["90"]["interval"]
        return f"{own['coverage']['90']['share']:.1f} % ({low:.0f} to {high:.0f})"

    titles: dict[str, Callable[[dict[str, Any]], str]] = {
        "error below the bound at 50 %": share("50"),
        "at 90 % (95 % interval)": interval,
        "at 95 %": share("95"),
        "Spearman's rho of bound and error": lambda own: f"{own['rho']['coordinates']:.2f}",
        "median bound at 90 %, Å": lambda own: f"{own['median_bound']:.2f}",
        "mean error of all, Å": lambda own: f"{own['surest']['100']:.3f}",
        "of the half with the smallest bounds, Å": lambda own: f"{own['surest']['50']:.3f}",
        "of the quarter, Å": lambda own: f"{own['surest']['25']:.3f}",
        "marked `!`": lambda own: str(own["outside"]["crystals"]),
    }
    names = ["`default`" if name == DEFAULT else f"`{name}`" for name in models]
    rows = ([title, *map(cell, models.values())] for title, cell in titles.items())
    return table([f"{block['crystals']:,} test crystals", *names], rows)


def coverage() -> str:
    """How often the bound of `default` held on crystals of other kinds."""
    blocks = {block["dataset"]: block for block in stored("recipes/evaluation/kinds/table.json")["blocks"]}
    rows = []
    for name, title in KINDS.items():
        own = blocks[name]["uncertainty"][DEFAULT]
        low, high = own["coverage"]["90"]["interval"]
        rows.append(
            [
                f"{title} ({blocks[name]['crystals']})",
                f"{own['coverage']['90']['share']:.0f} ({low:.0f} to {high:.0f})",
                f"{own['median_bound']:.2f}",
                f"{own['rho']['coordinates']:.2f}",
                f"{own['outside']['crystals']}",
            ]
        )
    head = ["test crystals", "below, % (95 % interval)", "median bound, Å", "Spearman's rho", "marked `!`"]
    return table(head, rows)


def speed() -> str:
    """Times of batches of nine-atom crystals, plain and compiled."""
    rows = []
    for file, title in (("default", "{}"), ("published", "{}, published size")):
        cases: dict[tuple[str, int], dict[str, Any]] = {}
        for row in stored(f"studies/speed/{file}.json")["rows"]:
            if row["series"] == "batch" and row["reason"] is None and row["precision"] == "float32":
                cases.setdefault((row["model"], row["crystals"]), {})[row["path"]] = row
        for (model, crystals), by_path in sorted(cases.items()):
            if "plain" in by_path and "compiled" in by_path:
                plain, fast = by_path["plain"], by_path["compiled"]
                rows.append(
                    [title.format(f"`{model}`"), f"{crystals}"]
                    + [f"{1e3 * row['predict']:,.0f}" for row in (plain, fast)]
                    + [f"{fast['faster_predict']:.1f}", f"{fast['crystals_per_second']:,.0f}"]
                )
    head = ["model", "crystals", "plain, ms", "compiled, ms", "times faster", "crystals/s"]
    return table(head, rows)


def training_defaults() -> str:
    """Defaults of `repose train` by family, where they differ."""
    from repose.config import TrainSettings
    from repose.models.registry import family

    names = ("reposenet", "e3relax", "e3relax-h2", "deeprelax", "relaxnet")
    columns = []
    for name in names:
        values = TrainSettings.parse(family(name).settings_type.training).model_dump(mode="json")
        sampling = {f"sampling.{key}": value for key, value in values.pop("sampling").items()}
        columns.append(sampling | values)
    rows = [
        [f"`{key}`", *(json.dumps(own[key]) for own in columns)]
        for key in columns[0]
        if len({json.dumps(own[key]) for own in columns}) > 1
    ]
    return table(["setting", *names], rows)


def archives() -> str:
    """Archives of `repose data fetch`."""
    from repose.data.archives.registry import ARCHIVES

    rows = []
    for archive in ARCHIVES.values():
        files = " ".join(f"`{file.name}`" for file in archive.files) or "archives of the record"
        rows.append([f"`{archive.name}`", archive.title, files, f"<{archive.record}>"])
    return table(["name", "content", "file", "record"], rows, 4)


def presets() -> str:
    """Presets with their dataset, and the published errors of their family."""
    from repose.presets.preset import load_preset, preset_names

    rows = []
    for name in preset_names():
        preset = load_preset(name)
        errors = "; ".join(
            f"{model}: {', '.join(f'{value:g}' for value in values.values())}"
            for model, values in preset.published.items()
            if model.lower().startswith(name.partition("/")[0])
        )
        rows.append([f"`{name}`", f"`{preset.archives[0]}`", preset.place, errors or "-"])
    return table(["preset", "dataset", "place", "published errors"], rows, 4)


BLOCKS: dict[str, Callable[[], str]] = {
    "steps-saved": steps_saved,
    "validate": validate,
    "cascade": cascade,
    "errors": errors,
    "kinds": kinds,
    "paths": paths,
    "bounds": bounds,
    "coverage": coverage,
    "speed": speed,
    "training-defaults": training_defaults,
    "archives": archives,
    "presets": presets,
}


def filled(text: str) -> str:
    """Text of a page with every marked block made anew.

    Raises:
        KeyError: A marked block has no function in `BLOCKS`.
    """
    return MARKED.sub(lambda match: f"{match[1]}\n{BLOCKS[match[2]]()}\n{match[3]}", text)


def main() -> None:
    """Write every page whose tables differ from the stored results."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: tables updated")


if __name__ == "__main__":
    main()
