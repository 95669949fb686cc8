"""Tables in README and docs are those of the stored results, and results belong to the shipped models."""

import hashlib
import json
import runpy
from types import SimpleNamespace

import pytest

from support.paths import ROOT

update_docs = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "update_docs.py")))

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in update_docs.PAGES}
WEIGHTS = ROOT / "src" / "repose" / "weights"
EVALUATIONS = {
    **dict.fromkeys(("repose", "e3relax", "e3relax-h2", "deeprelax", "relaxnet"), "recipes/evaluation"),
    **{name: f"recipes/domains/{name}/evaluation" for name in update_docs.DOMAINS},
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
    text = "<!-- numbers: domains -->\n\n| 99 % |\n\n<!-- end -->\n"
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
FINGERPRINTS = {name: result for name, result in RESULTS.items() if "weights_sha256" in result}


@pytest.mark.parametrize("study", FINGERPRINTS)
def test_results_of_studies_are_those_of_the_shipped_models(study):
    weights = WEIGHTS / FINGERPRINTS[study]["model"] / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert FINGERPRINTS[study]["weights_sha256"] == digest, "the weights changed; run the study again"


def test_the_table_of_readme_has_a_fingerprint():
    assert "real_pairs" in FINGERPRINTS
