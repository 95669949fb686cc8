"""`repose evaluate` from datasets on disk to tables, with a tiny random network."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner

from repose.cli import main
from repose.cli.evaluate import evaluate as command
from repose.crystal.batching import batches_by_cost
from repose.data.dataset import DatasetInfo, Pair, write_dataset
from repose.errors import ConfigError, DatasetError
from repose.evaluation.metrics import METRICS
from repose.evaluation.plots import error_distributions
from repose.evaluation.report import markdown, to_dict
from repose.evaluation.results import CrystalInfo, EvaluationResult, Scores
from repose.evaluation.runner import estimate_edges, evaluate, finite_or_input
from repose.evaluation.uncertainty import PredictedUncertainty
from repose.models.checkpoint import ModelConfig, load_model, save_model
from repose.models.e3relax.network import E3Relax
from repose.models.e3relax.settings import E3RelaxSettings
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.baselines import Dummy
from repose.relaxer.batch_relaxation import BatchRelaxation
from repose.relaxer.direct import DirectRelaxer
from support.crystals import perovskite, random_crystal, rock_salt

VOLUMES = {8: 8.0, 12: 14.0, 13: 16.0, 20: 26.0, 22: 11.0, 25: 12.0, 38: 33.0, 56: 38.0}  # A^3 per atom


def make_pair(name, crystal, split, scale=None, seed=0):
    """A pair whose relaxed volume is linear in composition, or the input's times ``scale``^3."""
    numbers, cell = crystal.numbers.numpy(), crystal.cells[0].numpy()
    if scale is None:
        scale = (sum(VOLUMES[z] for z in numbers.tolist()) / abs(np.linalg.det(cell))) ** (1 / 3)
    step = np.random.default_rng(seed).uniform(-0.1, 0.1, (len(numbers), 3)) if seed else 0.0
    positions = crystal.positions.numpy()
    relaxed = positions * scale + step, cell * scale
    return Pair(name, numbers, crystal.pbc[0].numpy(), positions, cell, *relaxed, split=split)


def some_pairs(split, n=8, first=0, seeds=True):
    return [
        make_pair(f"{split}-{k}", random_crystal(k), split, seed=k * seeds) for k in range(first, first + n)
    ]


def tiny_model(directory, name="tiny", seed=0):
    torch.manual_seed(seed)
    settings = E3RelaxSettings(features=8, layers=1, n_basis=8)
    network = E3Relax(settings)
    config = ModelConfig(family="e3relax", name=name, settings=settings.model_dump(), elements=list(VOLUMES))
    save_model(directory, network, config, "# card\n")
    return DirectRelaxer(*load_model(directory))


class Exact(Relaxer):
    """Knows the answers; the contract of the table can be worked out from it."""

    name = "exact"

    def __init__(self, pairs):
        self.answers = {pair.positions.tobytes(): pair for pair in pairs}

    def predict(self, batch):
        found = [self.answers[part.positions.numpy().tobytes()] for part in batch]
        return Geometry(
            torch.tensor(np.concatenate([pair.relaxed_positions for pair in found])),
            torch.tensor(np.stack([pair.relaxed_cell for pair in found])),
        )


class Broken(Dummy):
    """Scales the input by 1.5, and fails on crystals with strontium."""

    name = "broken"

    def predict(self, batch):
        positions, cells = batch.positions * 1.5, batch.cells * 1.5
        positions[batch.numbers == 38] = torch.nan
        return Geometry(positions, cells)


def row(block, relaxer):
    return next(row for row in block["rows"] if row["relaxer"] == relaxer)


def test_rescale_is_exact_where_volumes_are_linear():
    test = some_pairs("test", seeds=False)
    train = some_pairs("train", 60, first=100)
    numbers = {z for pair in test for z in pair.numbers.tolist()}
    assert numbers <= {z for pair in train for z in pair.numbers.tolist()}
    # Many copies leave the small prior of the fit without weight.
    result = evaluate([], {"made": test}, train=train * 1000, match=False)
    block = result.blocks()[0]
    assert row(block, "Dummy")["volume"] > 10
    for key in ("coordinates", "bonds", "lattice", "shape", "volume"):
        assert row(block, "Rescale")[key] < 0.05, key


def test_a_perfect_model_gains_everything():
    test = some_pairs("test")
    result = evaluate([Exact(test)], {"made": test}, train=some_pairs("train", 40, first=50))
    (block,) = result.blocks()
    assert [entry["relaxer"] for entry in block["rows"]] == ["Dummy", "Rescale", "exact"]
    for key in ("coordinates", "coordinates_predicted_image", "bonds", "lattice", "shape", "volume"):
        assert row(block, "exact")[key] == pytest.approx(0, abs=1e-9)
        assert block["gains"]["exact"][key] == pytest.approx(100)
    assert row(block, "exact")["match"] == 100
    best = max(row(block, "Dummy")["match"], row(block, "Rescale")["match"])
    assert block["gains"]["exact"]["match"] == pytest.approx(100 * (100 / best - 1))


def test_gain_by_hand():
    crystals = tuple(CrystalInfo(f"c{k}", "made", "CaO", 2, 100.0, 120.0) for k in range(2))

    def scores(name, error, match):
        values = {metric.key: np.array([0.5, 1.5]) * error for metric in METRICS} | {"match": np.array(match)}
        silent = PredictedUncertainty.from_batch(
            BatchRelaxation(Geometry(torch.zeros(4, 3), torch.zeros(2, 3, 3))), {}
        )
        return Scores(name, values, np.full(2, 110.0), np.full(2, True), np.full(2, 0.25), silent)

    trivial = scores("Dummy", 4.0, [0.0, 100.0]), scores("Rescale", 2.0, [0.0, 0.0])
    better = scores("m", 1.5, [100.0, 100.0])
    block = EvaluationResult("test", crystals, (*trivial, better)).blocks()[0]
    assert row(block, "m")["ms_per_crystal"] == 250
    # Against Rescale's 2.0, and against Dummy's 50 % of matches.
    gains = {"match": pytest.approx(100), **{metric.key: pytest.approx(25) for metric in METRICS}}
    assert block["gains"] == {"m": gains}

    worse = scores("m", 3.0, [0.0, 0.0])
    gains = EvaluationResult("test", crystals, (*trivial, worse)).blocks()[0]["gains"]["m"]
    assert gains["volume"] == pytest.approx(-50)
    assert gains["match"] == pytest.approx(-100)


def test_blocks_and_quarters_add_up():
    first, second = some_pairs("test", 7), some_pairs("test", 4, first=20)
    result = evaluate([], {"one": first, "two": second}, train=some_pairs("train", 20, first=50), match=False)
    one, two, everything = result.blocks()
    assert [block["dataset"] for block in (one, two, everything)] == ["one", "two", "all"]
    for key in ("coordinates", "volume"):
        mean = (7 * row(one, "Rescale")[key] + 4 * row(two, "Rescale")[key]) / 11
        assert row(everything, "Rescale")[key] == pytest.approx(mean)
    quarters = [regime for regime in everything["regimes"] if regime["quantity"] == "input_error"]
    assert [quarter["crystals"] for quarter in quarters] == [3, 3, 3, 2]
    bounds = [bound for quarter in quarters for bound in quarter["range"]]
    assert bounds == sorted(bounds)
    for quarter in quarters:
        low, high = quarter["range"]
        assert low <= row(quarter, "Dummy")["coordinates"] <= high


def test_predictions_that_are_not_finite_are_named_and_scored_as_dummy():
    pairs = [make_pair("salt", rock_salt(), "test", 1.1), make_pair("bad", perovskite(), "test", 1.1)]
    result = evaluate([Broken()], {"made": pairs}, match=False)
    dummy, broken = result.scores
    assert result.not_finite == {"broken": ["bad"]}
    for key in broken.values:
        assert np.isfinite(broken.values[key]).all()
        assert broken.values[key][1] == dummy.values[key][1]
    assert broken.values["volume"][0] != dummy.values["volume"][0]
    assert "broken: 1 of 2 predictions were not finite and are scored as Dummy: bad." in markdown(result)
    assert to_dict(result)["not_finite"] == {"broken": ["bad"]}


def test_a_cell_that_is_not_finite_counts_too(crystals):
    cells = crystals.cells.clone()
    cells[2, 0, 1] = torch.inf
    geometry, finite = finite_or_input(crystals, Geometry(crystals.positions + 1, cells))
    assert finite.tolist() == [True, True, False, True, True]
    assert torch.equal(geometry.cells, crystals.cells)
    moved = (geometry.positions != crystals.positions).any(dim=1)
    assert torch.equal(moved, crystals.system_index != 2)


def test_how_crystals_are_packed_changes_nothing(tmp_path):
    pairs, model = some_pairs("test", 6), tiny_model(tmp_path / "model")
    model.network.double()

    def run(pairs, **options):
        return evaluate([model], {"made": pairs}, match=False, **options).scores[1].values

    together, alone, backwards = run(pairs), run(pairs, edges_per_batch=1), run(pairs[::-1])
    for key, values in together.items():
        np.testing.assert_allclose(alone[key], values, rtol=0, atol=1e-8, err_msg=key)
        np.testing.assert_allclose(backwards[key][::-1], values, rtol=0, atol=1e-8, err_msg=key)


def test_packing_keeps_order_and_loses_nothing():
    pairs = some_pairs("test", 9)
    groups = list(batches_by_cost(pairs, estimate_edges, 400))
    assert 1 < len(groups) < 9
    assert [pair.id for group in groups for pair in group] == [pair.id for pair in pairs]
    assert [len(group) for group in batches_by_cost(pairs, estimate_edges, 1)] == [1] * 9


def test_errors_say_what_to_do():
    with pytest.raises(DatasetError, match="test split of made is empty"):
        evaluate([], {"made": []})
    with pytest.raises(ConfigError, match="distinct names; got Dummy, Dummy"):
        evaluate([Dummy()], {"made": some_pairs("test", 1)})
    pair = make_pair("flat", rock_salt(), "test", 1.0)
    pair.relaxed_cell[2] = 0
    with pytest.raises(DatasetError, match="crystal 'flat'"):
        evaluate([], {"made": [pair]})


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Two datasets, two models of one name."""
    root = tmp_path_factory.mktemp("evaluate")
    for k, name in enumerate(("bulk", "subst")):
        pairs = some_pairs("test", 4, first=10 * k) + some_pairs("train", 12, first=50 + 20 * k)
        write_dataset(root / name, DatasetInfo(name=name), pairs)
    for k in (1, 2):
        tiny_model(root / f"model{k}", seed=k)
    return root


def call(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_errors_are_drawn_for_coordinates_lattice_shape_and_volume():
    result = evaluate([], {"some": some_pairs("test", 4)}, train=some_pairs("train", 4), match=False)
    labels = [axis.get_xlabel().partition(",")[0] for axis in error_distributions(result).axes]
    assert labels == [f"error in {name}" for name in ("coordinates", "lattice", "shape", "volume")]


def test_command_writes_everything(studied, tmp_path):
    out = tmp_path / "deep" / "out"
    result = call(
        "--model", studied / "model1", "--model", studied / "model2", "--data", studied / "bulk",
        "--data", studied / "subst", "--out", out, "--plots", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "errors.png", "per_crystal.parquet", "table.json", "table.md", "volumes.png"
    ]  # fmt: skip
    assert (out / "errors.png").read_bytes()[:4] == b"\x89PNG"

    text = (out / "table.md").read_text()
    assert text.strip() in result.output
    assert re.findall(r"## (\w+: \d+) crystals", text) == ["bulk: 4", "subst: 4", "all: 8"]
    first = text.split("\n\n")[2].splitlines()
    names = [line.split("|")[1].strip() for line in first[2:]]
    models = [f"tiny ({studied / f'model{k}'})" for k in (1, 2)]
    assert names == ["Dummy", "Rescale", *models, *(f"gain of {name}, %" for name in models)]

    table = json.loads((out / "table.json").read_text())
    rows = pq.read_table(out / "per_crystal.parquet").to_pylist()
    assert len(rows) == 4 * 8
    assert {entry["relaxer"] for entry in rows} == {"Dummy", "Rescale", *models}
    for block in table["blocks"][:2]:
        for entry in block["rows"]:
            mine = [r for r in rows if (r["dataset"], r["relaxer"]) == (block["dataset"], entry["relaxer"])]
            for key in ("coordinates", "bonds", "shape", "volume", "match"):
                assert entry[key] == pytest.approx(np.mean([r[key] for r in mine]))
    for entry in rows:
        error = abs(entry["predicted_volume"] - entry["target_volume"])
        assert entry["volume"] == pytest.approx(error, abs=1e-9)


def test_command_prints_json_and_can_leave_matching_out(studied):
    result = call("--data", studied / "bulk", "--split", "train", "--json", "--no-match", "--quiet")
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert table["split"] == "train"
    assert table["blocks"][0]["crystals"] == 12
    assert "match" not in table["blocks"][0]["rows"][0]
    # Fitted and measured on the same crystals, whose volumes are linear: much of Dummy's error goes.
    dummy, rescale = table["blocks"][0]["rows"]
    assert rescale["volume"] < 0.5 * dummy["volume"]


def test_command_without_training_crystals_says_so(tmp_path):
    write_dataset(tmp_path / "data", DatasetInfo(name="data"), some_pairs("test", 2))
    result = call("--data", tmp_path / "data", "--no-match")
    assert result.exit_code == 0, result.output
    assert "Rescale is left out" in result.output
    assert "| Rescale" not in result.output


@pytest.mark.parametrize(
    "arguments", [["--split", "tset"], ["--device", "gpu"], ["--model"]], ids=["split", "device", "model"]
)
def test_wrong_usage_ends_with_2(studied, arguments, monkeypatch):
    command_line = ["repose", "evaluate", "--data", str(studied / "bulk"), "--no-match", *arguments]
    monkeypatch.setattr("sys.argv", command_line)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
