"""Tables in README and docs are those of the stored results, and results belong to the shipped models."""

import hashlib
import json
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.models.prediction import Geometry
from support.paths import ROOT

update_docs = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "update_docs.py")))

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in update_docs.PAGES}
WEIGHTS = ROOT / "src" / "repose" / "weights"
EVALUATIONS = {
    **dict.fromkeys(("repose", "e3relax", "e3relax-h2", "deeprelax", "relaxnet"), "recipes/evaluation"),
    "defects": "recipes/defects/evaluation",
}


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if "<!-- numbers:" in text])
def test_tables_are_those_of_the_stored_results(page):
    assert update_docs.filled(TEXTS[page]) == TEXTS[page], "run python tools/update_docs.py"


def test_every_block_is_shown_once_and_marked_completely():
    text = "".join(TEXTS.values())
    names = [name for _, name, _ in update_docs.MARKED.findall(text)]
    assert sorted(names) == sorted(update_docs.BLOCKS)
    assert text.count("<!-- numbers:") == text.count("<!-- end -->") == len(names)


def test_a_wrong_number_is_noticed():
    text = "<!-- numbers: kinds -->\n\n| 99 % |\n\n<!-- end -->\n"
    assert update_docs.filled(text) != text


@pytest.mark.parametrize("model", EVALUATIONS)
def test_evaluations_are_those_of_the_shipped_models(model):
    """Errors in a model directory are those of the stored evaluation, which may be of another machine."""
    config = json.loads((WEIGHTS / model / "config.json").read_text())
    block = update_docs.stored(f"{EVALUATIONS[model]}/table.json")["blocks"][-1]
    (row,) = (row for row in block["rows"] if row["relaxer"] == model)
    for key, unit in (("coordinates", "Å"), ("lattice", "Å"), ("volume", "Å³"), ("match", "%")):
        assert config["test_error"][f"{key} ({unit})"] == pytest.approx(row[key], rel=5e-3)


RESULTS = {p.parent.name: json.loads(p.read_text()) for p in (ROOT / "studies").glob("*/result.json")}
RESULTS |= {
    f"validate {p.stem}": json.loads(p.read_text()) for p in (ROOT / "studies").glob("validate/*.json")
}


def fingerprints(result):
    """Models and hashes of their weights, at the top of a result or in one of its parts."""
    if isinstance(result, dict):
        if "weights_sha256" in result:
            yield result["model"], result["weights_sha256"]
        for part in result.values():
            yield from fingerprints(part)


FINGERPRINTS = [(study, *own) for study, result in RESULTS.items() for own in fingerprints(result)]


@pytest.mark.parametrize(("study", "model", "digest"), FINGERPRINTS)
def test_results_of_studies_are_those_of_the_shipped_models(study, model, digest):
    weights = (WEIGHTS / model / "model.safetensors").read_bytes()
    assert digest == hashlib.sha256(weights).hexdigest(), f"the weights changed; run {study} again"


def test_the_table_of_readme_has_fingerprints():
    found = {study for study, model, _ in FINGERPRINTS if model == update_docs.DEFAULT}
    assert {"real_pairs", "validate far", "validate frames", "validate mp-substitutions"} <= found


@pytest.mark.parametrize(("periodic", "gaps"), [(False, [2.5]), (True, [2.5, 4.5])])
def test_gaps_between_layers(periodic, gaps):
    """Gaps of two rotated layers in an oblique cell do not depend on images; they are 1 and 2 A thick."""
    layers = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "published_figures" / "layers.py")))
    cell = np.array([[4.0, 0, 0], [-2, 3.4, 0], [1.3, 0.7, 10]])
    positions = np.array([[0.0, 0, 0], [2, 1, 1], [0, 0, 3.5], [1, 2, 5.5]])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    batch = CrystalBatch.single([5, 7, 5, 7], positions, cell, [True, True, periodic])
    shift = np.array([[1, 0, 0], [0, -1, 0], [0, 2, 0], [1, 1, 0]]) + periodic * np.array([[0, 0, 1]] * 4)
    moved = Geometry(torch.from_numpy((positions + shift @ cell) @ turn), torch.from_numpy(cell @ turn)[None])
    assert layers.gaps(batch, moved, np.array([False, False, True, True])) == pytest.approx(gaps)


def test_the_table_of_errors_and_steps():
    """Groups of DFT relaxations without relaxed crystals have dashes; other sets have errors of their own."""
    start = {"coordinates": {"mean": 0.25}, "steps": {"median": 8.5}}
    start |= {"steps_saved_percent": 43.0, "more_steps_percent": 17.0}
    group = {"crystals": 9, "starts": dict.fromkeys(("input", "Rescale", "default"), start)}
    error = {"crystals": 12, "input_coordinates": [0.0, 0.01]}
    error["mean"] = {row: {"coordinates": 0.5} for row in ("Dummy", "Rescale", "default")}
    sets = {name: {"groups": {"all": group}} for name in ("far", "frames")}
    lines = update_docs.errors_and_steps({"all": error, "quarter 1": error}, sets).splitlines()
    assert lines[2:] == [
        "| elements in prototypes, CHGNet | 0.250 | 0.250 | 0.250 | 8.5→8.5 (9) | 43 | 17 |",
        "| DFT relaxations | 0.500 | 0.500 | 0.500 | 8.5→8.5 (9) | 43 | 17 |",
        "| … input error 0.00 to 0.01 Å | 0.500 | 0.500 | 0.500 | - | - | - |",
    ]


def test_the_table_of_validations():
    """A set under a second calculator has rows of its own; starts that were not relaxed have none."""
    middle = {"median": 8.5, "mean": 9.0}
    start = {"energy_above_relaxed": middle, "energy_mae": 12.0, "worse_percent": 3.0, "steps": middle}
    start |= {"steps_saved_percent": None, "more_steps_percent": 17.0, "seconds": {"saved_percent": -4.0}}
    start |= {"lower_minimum_percent": 1.0, "higher_minimum_percent": 2.0}
    group = {"crystals": 9, "starts": {"input": start, "Rescale": None, "default": start}}
    result = {"calculator": "CHGNet 0.3.0, float64", "blocks": [{"groups": {"all": group}}]}
    lines = update_docs.validation_table(
        {"far": result, "frames_other": result | {"calculator": "SevenNet-0"}}
    )
    numbers = "8 | 9 | 12 | 3 | 8.5 | 9.0 | - | 17 | -4 | 1 | 2 |"
    assert lines.splitlines()[2:] == [
        f"| elements in prototypes (9), CHGNet 0.3.0 | input | {numbers}",
        f"|  | default | {numbers}",
        f"| frames (9), SevenNet-0 | input | {numbers}",
        f"|  | default | {numbers}",
    ]
