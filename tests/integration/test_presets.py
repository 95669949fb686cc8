"""Presets of published models, and the defaults of published families in `repose train`."""

import json
import re
from dataclasses import replace

import pytest
import torch

from repose.cli.settings import read_settings, setting_rows
from repose.config import GraphSettings, TrainSettings
from repose.data.archives.registry import ARCHIVES
from repose.errors import ConfigError
from repose.evaluation.metrics import METRICS
from repose.evaluation.path_results import ERRORS
from repose.evaluation.results import MATCH
from repose.models.checkpoint import shipped_models
from repose.models.registry import families, family
from repose.presets.preset import load_preset, preset_names
from repose.testing import CHECKS, check_relaxer
from support.crystals import perovskite, random_crystal
from support.paths import ROOT
from support.tiny import random_relaxer

PRESETS = preset_names()
TOY = ["model.features=8", "model.layers=1", "model.n_basis=8"]


def settings_of(name, preset=None, assignments=()):
    """Settings of `repose train` for a family, or for a preset of it."""
    defaults = [family(name).settings_type.training, load_preset(preset).settings if preset else {}]
    return read_settings(TrainSettings, None, assignments, defaults=defaults)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_parse_and_build_their_networks(name):
    preset, owner = load_preset(name), family(name.partition("/")[0])
    settings = settings_of(owner.family, name, TOY)
    network = owner(owner.settings_type.parse(settings.model))
    network.check_training(settings)
    crystal = replace(perovskite(), charges=torch.zeros(5, dtype=torch.float64)).to(dtype=torch.float32)
    prediction = network(*network.prepare(crystal))
    assert torch.isfinite(prediction.geometry.positions).all()
    assert preset.paper
    assert preset.place
    assert set(preset.archives) <= set(ARCHIVES)
    keys = {metric.key for metric in (*METRICS, MATCH, *ERRORS)}
    assert all(set(errors) <= keys for errors in preset.published.values())


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("relaxnet")])
def test_presets_cut_shells(name):
    assert load_preset(name).settings["model"]["graph"]["ties"] == "order"


@pytest.mark.parametrize(
    ("name", "least"), [("e3relax/mp", 1e-3), ("e3relax-h2/mp", 1e-3), ("deeprelax/mp", 0.1)]
)
def test_symmetric_crystals_depend_on_the_order_of_atoms_where_shells_are_cut(name, least):
    """With whole shells they do not, nor without symmetry; rotations of DeepRelax (equation 9) aside."""
    own = load_preset(name).settings["model"]
    cut, whole = (
        random_relaxer(name.partition("/")[0], **{**own, "graph": {**own["graph"], "ties": ties}})
        for ties in ("order", "shell")
    )
    turns = ("rotation", "translation") if name.startswith("e3relax") else ()
    check_relaxer(whole, perovskite(), checks=("atom order", *turns))
    check_relaxer(cut, random_crystal(1), checks=("atom order", *turns))
    assert max(CHECKS["atom order"](cut, perovskite(), seed) for seed in range(3)) > least
    # Distances of 1.5 a, where shells are cut, are halfway between two multiples of `SHELL_WIDTH`.
    for check in turns:
        found = {
            relaxer: [CHECKS[check](relaxer, perovskite(3.9001), k) for k in range(8)]
            for relaxer in (cut, whole)
        }
        assert max(found[cut]) > least
        assert max(found[whole]) < 1e-8


def test_every_published_family_has_presets():
    assert {name.partition("/")[0] for name in PRESETS} == set(families()) - {"reposenet"}


def test_defaults_of_families_are_those_of_their_papers():
    assert settings_of("reposenet") == TrainSettings()
    assert settings_of("e3relax-h2").images == "predicted"
    own = settings_of("relaxnet")
    assert (own.learning_rate, own.weight_decay, own.patience, own.early_stop) == (5e-4, 5e-5, 8, 20)
    for name in set(families()) - {"reposenet"}:
        chosen = settings_of(name)
        assert chosen.precision == "32"
        assert chosen.sampling.crystals_per_batch == (64 if name == "relaxnet" else 32)
        assert settings_of(name, assignments=["clip=3"]).clip == 3
    static = settings_of("relaxnet", "relaxnet/jarvis-static").sampling
    assert (static.crystals_per_batch, static.epoch_steps) == (32, None)


@pytest.mark.parametrize("name", families())
def test_one_setting_of_the_graph_leaves_the_others_as_they_are(name, tmp_path):
    """As the family or the preset has them, with `--set`, `--config`, and in Python."""
    file = tmp_path / "settings.json"
    file.write_text('{"model": {"graph": {"cutoff": 4.5}}}')
    kind, own = family(name).settings_type, family(name).settings_type().graph
    owned = (preset for preset in PRESETS if preset.partition("/")[0] == name)
    for preset in (None, *owned):
        defaults = [kind.training, load_preset(preset).settings if preset else {}]
        published = {} if preset is None else load_preset(preset).settings["model"].get("graph", {})
        expected = own.model_copy(update={**published, "cutoff": 4.5})
        for given in ((None, ["model.graph.cutoff=4.5"]), (file, ())):
            assert kind.parse(read_settings(TrainSettings, *given, defaults=defaults).model).graph == expected
    assert kind.parse({"graph": {"cutoff": 4.5}}).graph == own.model_copy(update={"cutoff": 4.5})
    assert kind.parse({"graph": GraphSettings(cutoff=4.5)}).graph == GraphSettings(cutoff=4.5)


@pytest.mark.parametrize("path", shipped_models().values(), ids=shipped_models())
def test_stored_graphs_do_not_depend_on_defaults_of_families(path):
    stored = json.loads((path / "config.json").read_text())
    settings = family(stored["family"]).settings_type.parse(stored["settings"])
    assert settings.graph == GraphSettings.parse(stored["settings"]["graph"])


@pytest.mark.parametrize(
    "kind", [TrainSettings, *(family(name).settings_type for name in families())], ids=lambda k: k.__name__
)
def test_no_setting_may_be_infinite(kind):
    """Also because JSON, in which they are stored, has no infinity."""
    for row in setting_rows(kind):
        for value in ("Infinity", "-Infinity", "NaN"):
            with pytest.raises(ConfigError, match=row.name):
                read_settings(kind, None, [f"{row.name}={value}"])


RECIPES = [
    path
    for path in (ROOT / "recipes").glob("*/*.json")
    if path.parent.name in families() and "learning_rate" in json.loads(path.read_text())
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes_of_shipped_models_do_not_depend_on_defaults_of_families(path):
    defaults = [family(path.parent.name).settings_type.training]
    whole = read_settings(TrainSettings, path, (), defaults=defaults)
    assert whole == TrainSettings.parse(json.loads(path.read_text()))
    owner = family(path.parent.name)
    owner(owner.settings_type.parse(whole.model)).check_training(whole)


@pytest.mark.parametrize(
    ("name", "assignment", "words"),
    [
        ("deeprelax", "layer_weights=[1,2]", "layer_weights: without effect on family 'deeprelax'"),
        ("deeprelax", "images=predicted", "images: without effect"),
        ("deeprelax", "shape_weight=1", "shape_weight: without effect"),
        ("relaxnet", "layer_weights=[1,2]", "layer_weights: without effect on family 'relaxnet'"),
        ("relaxnet", "sampling.denoising=0.1", "sampling.denoising: without effect"),
        ("relaxnet", "model.graph.within_cell=20", "model.graph.within_cell: without effect"),
        ("relaxnet", "model.triplet_cutoff=9", "triplet_cutoff must not exceed model.graph.cutoff"),
        ("e3relax", "reduction=sum", "reduction: without effect on family 'e3relax'"),
        ("e3relax-h2", "paths.form=published", "paths: without effect"),
        ("reposenet", "lattice_weight=2", "lattice_weight: without effect"),
    ],
)
def test_settings_without_effect_are_refused(name, assignment, words):
    settings, owner = settings_of(name, None, [*TOY, assignment]), family(name)
    network = owner(owner.settings_type.parse(settings.model))  # a stored model may have them
    with pytest.raises(ConfigError, match=re.escape(words)):
        network.check_training(settings)


def test_a_static_network_needs_hidden_steps():
    owner = family("relaxnet")
    network = owner(owner.settings_type(features=8, evolution="static", hidden_steps=False))
    with pytest.raises(ConfigError, match="no atom would move"):
        network.check_training(settings_of("relaxnet"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "e3relax/mpp"], "Did you mean 'e3relax/mp'?"),
        (["--preset", "e3relax/mp", "--model", "relaxnet"], "preset of this family"),
        ([], "give a family"),
    ],
)
def test_wrong_usage(repose, tmp_path, arguments, words):
    status, _, err = repose("train", *arguments, "--data", tmp_path, "--out", tmp_path / "run")
    assert status == 2
    assert words in " ".join(err.split())


def test_a_preset_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("repose.presets.preset.FOLDER", tmp_path)
    (tmp_path / "e3relax").mkdir()
    (tmp_path / "e3relax" / "mp.json").write_text('{"format_version": 2}')
    with pytest.raises(ConfigError, match="format version 2"):
        load_preset("e3relax/mp")
