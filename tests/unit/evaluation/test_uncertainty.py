"""Uncertainty in `repose evaluate` against numbers computed by hand and by scipy."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from typer.testing import CliRunner

from repose.cli.evaluate import evaluate as command
from repose.crystal.graph import periodic_graph
from repose.data.dataset import DatasetInfo, Pair, write_dataset
from repose.evaluation import plots
from repose.evaluation.report import markdown, to_dict, write
from repose.evaluation.runner import evaluate
from repose.evaluation.uncertainty import coverage, error_of_lowest, spearman
from repose.models.checkpoint import save_model
from repose.models.prediction import Geometry
from repose.models.uncertainty.calibration import LEVELS, Calibration
from repose.models.uncertainty.expected_errors import ExpectedErrors
from repose.relaxer.base import Relaxer
from repose.relaxer.baselines import Dummy
from repose.relaxer.batch_relaxation import BatchRelaxation, split_bonds
from support.crystals import make_crystal, perovskite, random_crystal, rock_salt
from support.tiny import random_relaxer

# Bounds of `Stated` are its expected error times these.
FACTORS = {50: 0.5, 80: 0.75, 90: 1.0, 95: 2.0}
PNG = b"\x89PNG"


def pair(name, crystal, relaxed=None):
    """A pair whose relaxed crystal is the other one, or the crystal itself."""
    relaxed = relaxed or crystal
    numbers, pbc = crystal.numbers.numpy(), crystal.pbc[0].numpy()
    arrays = (t.numpy() for one in (crystal, relaxed) for t in (one.positions, one.cells[0]))
    return Pair(name, numbers, pbc, *arrays, split="test")


def salts(n):
    """Crystals of two atoms that stay as they are, told apart by their cells."""
    return [pair(f"c{k}", rock_salt(4.5 + 0.01 * k)) for k in range(n)]


class Stated(Relaxer):
    """Moves atoms so that the coordinate error of crystals that stay is known, and states an uncertainty.

    Args:
        pairs: Crystals it knows.
        errors: Coordinate error of each in A; NaN: the prediction is not finite.
        expected: Uncertainty of each in A.
        flagged: Ids of crystals that lie outside.
        bond: Bound that it states for every bond in A; None: for none.
    """

    name = "stated"

    def __init__(self, pairs, errors, expected, flagged=(), bond=None, levels=LEVELS):
        stated = zip(pairs, errors, expected, strict=True)
        self.stated = {one.cell.tobytes(): (one.id, error, said) for one, error, said in stated}
        self.flagged, self.bond, self.levels = flagged, bond, levels

    def predict(self, batch):
        return self.relax_batch(batch).geometry

    def relax_batch(self, batch):
        names, errors, expected = zip(
            *(self.stated[cell.numpy().tobytes()] for cell in batch.cells), strict=True
        )
        signs = torch.where(batch.numbers == 20, 1.0, -1.0).double()
        move = signs * torch.tensor(errors, dtype=torch.float64)[batch.system_index]
        geometry = Geometry(batch.positions + move[:, None], batch.cells)
        said = torch.tensor(expected, dtype=torch.float64)
        bonds = None
        if self.bond is not None:
            graph = periodic_graph(batch, 4.0, None)
            own = torch.full((len(graph.receiver),), self.bond, dtype=torch.float64)
            bonds = split_bonds(graph, geometry, own, batch.counts)
        return BatchRelaxation(
            geometry,
            {level: FACTORS[level] * said for level in self.levels},
            ExpectedErrors(said / 10, said[batch.system_index], torch.zeros(0)),
            bond_uncertainty=bonds,
            outside=["far away" if name in self.flagged else None for name in names],
        )


def judged(errors, expected, **options):
    """The report on crystals with these errors and uncertainties."""
    pairs = salts(len(errors))
    return evaluate([Stated(pairs, errors, expected, **options)], {"made": pairs}, match=False)


def test_numbers_by_hand():
    errors, expected = [0.01, 0.02, 0.03, 0.04, 0.05], [0.02, 0.025, 0.0605, 0.0605, 0.04]
    result = judged(errors, expected, flagged=["c0", "c4"])
    (block,) = result.blocks()
    assert list(block["uncertainty"]) == ["stated"]
    row = block["uncertainty"]["stated"]
    assert (row["crystals"], row["left_out"]) == (5, 0)
    # Bounds at 50 %: 0.01, 0.0125, 0.03025, 0.03025, 0.02; at 80 %: 0.015, 0.01875, 0.0454, 0.0454, 0.03.
    assert result.scores[1].values["coordinates"] == pytest.approx(errors)
    shares = {level: part["share"] for level, part in row["coverage"].items()}
    assert shares == pytest.approx({"50": 20 + 20, "80": 60, "90": 80, "95": 100}, abs=1e-9)
    # Ranks 1, 2, 4.5, 4.5, 3 against 1 to 5: covariance 6.5, variances 9.5 and 10.
    assert row["rho"]["coordinates"] == pytest.approx(6.5 / np.sqrt(9.5 * 10))
    assert row["rho"]["bonds"] == pytest.approx(spearmanr(expected, result.scores[1].values["bonds"])[0])
    assert row["median_bound"] == pytest.approx(0.04)
    # By bound: 0.01, 0.02, 0.05, and twice the mean of 0.03 and 0.04.
    assert row["surest"] == pytest.approx(
        {"25": 0.03 / 2, "50": 0.08 / 3, "75": (0.08 + 0.035) / 4, "100": 0.03}
    )
    assert (row["outside"]["crystals"], row["inside"]["crystals"]) == (2, 3)
    assert row["outside"]["share"] == pytest.approx(50)  # c0 holds, c4 does not
    assert row["inside"]["share"] == pytest.approx(100)


def test_the_numbers_stand_in_the_table_and_in_json():
    result = judged([0.01, 0.02, 0.03, 0.04], [0.02, 0.03, 0.01, 0.05], flagged=["c2"])
    row = result.uncertainty["stated"]
    lines = markdown(result).splitlines()
    lines = lines[lines.index("Uncertainty:") :]
    cells = dict(re.match(r"\| (.*?) +\| (.*?) *\|", line).groups() for line in lines if line[:3] == "| c")
    low, high = row["coverage"]["90"]["interval"]
    assert cells["crystals with a bound"] == "4"
    assert cells["coverage at 90 %, %"] == f"75.0 ({low:.1f} to {high:.1f})"
    assert cells["coverage at 90 %, flagged, %"].startswith("0.0 (")
    assert cells["coverage at 90 %, flagged, %"].endswith(" of 1")
    assert cells["coordinates, surest 25 %, Å"] == "0.0300"
    said = json.loads(json.dumps(to_dict(result)))["blocks"][0]["uncertainty"]["stated"]
    assert said == row


@pytest.mark.parametrize("level", LEVELS)
def test_bounds_that_are_calibrated_are_found_to_be(level):
    """Errors are exponential with the scale that is stated, so that its quantiles are exact bounds."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(500):
        scale = rng.lognormal(size=200)
        errors = rng.exponential(size=200) * scale
        found.append(coverage(-np.log(1 - level / 100) * scale, errors))
    assert np.mean([part["share"] for part in found]) == pytest.approx(level, abs=0.5)
    held = np.mean([low <= level <= high for low, high in (part["interval"] for part in found)])
    assert 0.92 < held < 0.98  # of intervals at 95 %


def test_the_surest_err_least_if_bounds_mean_anything():
    rng = np.random.default_rng(0)
    scale = rng.lognormal(size=4000)
    errors = rng.exponential(size=4000) * scale
    means = [error_of_lowest(scale, errors, share) for share in (25, 50, 75, 100)]
    assert means == sorted(means)
    assert means[0] < 0.4 * means[-1]
    assert means[-1] == pytest.approx(errors.mean())
    assert spearman(scale, errors) > 0.3
    assert abs(spearman(rng.permutation(scale), errors)) < 0.05


@pytest.mark.parametrize(("below", "n"), [(0, 10), (10, 10), (9, 10), (1, 1), (450, 500)])
def test_the_interval_is_wilsons(below, n):
    """Its ends are the shares p that lie 1.96 of their own standard errors from the share found."""
    found = coverage(np.where(np.arange(n) < below, 2.0, 0.5), np.ones(n))
    assert found["share"] == pytest.approx(100 * below / n)
    assert found["crystals"] == n
    for end in found["interval"]:
        p = end / 100
        assert (below / n - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / n, abs=1e-7)
    low, high = found["interval"]
    assert 0 <= low < high <= 100


def test_an_error_at_its_bound_is_covered_and_so_is_all_by_an_infinite_one():
    assert coverage(np.array([1.0, np.inf, 0.5]), np.array([1.0, 9.0, 0.6]))["share"] == pytest.approx(
        200 / 3
    )


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_rank_correlation_is_that_of_scipy(values):
    first, second = np.array(values, dtype=float).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert np.isnan(spearman(first, second))
    else:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second)[0], abs=1e-12)
        assert spearman(np.exp(first), second) == pytest.approx(spearman(first, second), abs=1e-12)


def test_rank_correlation_leaves_out_what_is_no_number():
    first, second = np.array([1.0, np.nan, 2.0, 3.0]), np.array([2.0, 1.0, 1.0, np.nan])
    assert spearman(first, second) == pytest.approx(-1)
    assert np.isnan(spearman(first[:1], second[:1]))


def test_equal_bounds_say_nothing_about_which_errors_are_lowest():
    errors = np.array([0.5, 0.1, 0.4, 0.2])
    assert [error_of_lowest(np.ones(4), errors, share) for share in (25, 50, 100)] == pytest.approx([0.3] * 3)
    # The two lowest are equal, and only one of them fits in: it counts with their mean.
    bounds = np.array([1.0, 2.0, 1.0, 3.0])
    for order in ([0, 1, 2, 3], [2, 1, 0, 3], [3, 2, 1, 0]):
        assert error_of_lowest(bounds[order], errors[order], 25) == pytest.approx(0.45)


def test_what_has_no_bound_or_no_prediction_is_left_out():
    nan = float("nan")
    result = judged([0.01, 0.02, nan, 0.04, 0.05], [0.02, nan, 0.9, 0.03, 0.06], flagged=["c2"])
    row = result.uncertainty["stated"]
    assert (row["crystals"], row["left_out"]) == (3, 2)
    assert row["coverage"]["90"]["share"] == pytest.approx(200 / 3)
    assert row["rho"]["coordinates"] == pytest.approx(1)
    assert row["median_bound"] == pytest.approx(0.03)
    assert row["outside"]["crystals"] == 0  # c2, which is flagged, has no prediction
    assert "stated: 2 of 5 crystals have no bound" in markdown(result)
    assert to_dict(result)["blocks"][0]["uncertainty"]["stated"]["outside"]["share"] is None
    assert "have no bound" not in markdown(judged([0.01], [0.02]))


def test_levels_that_a_model_does_not_state_are_empty():
    result = judged([0.01, 0.02], [0.02, 0.03], levels=(80, 90))
    row = result.uncertainty["stated"]
    assert row["coverage"]["95"]["crystals"] == 0
    assert re.search(r"\| coverage at 95 %, % +\| - +\|", markdown(result))


def test_models_without_bounds_are_absent(tmp_path):
    class Honest(Dummy):
        name = "honest"

    pairs = salts(4)
    nan = float("nan")
    quiet = Stated(pairs, [0.1] * 4, [nan] * 4)
    result = evaluate([Honest(), quiet], {"made": pairs}, match=False)
    assert result.uncertainty == {}
    assert "ncertainty:" not in markdown(result)
    assert result.blocks()[0]["uncertainty"] == {}
    # A plot of an earlier report would be taken for one of this.
    (tmp_path / "bonds.png").write_bytes(PNG)
    write(result, tmp_path, plots=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"errors.png", "per_crystal.parquet", "table.json", "table.md", "volumes.png"}
    rows = pq.read_table(tmp_path / "per_crystal.parquet").to_pylist()
    assert all(np.isnan(row["bound_90"]) and row["outside"] == "" for row in rows)


def test_blocks_are_those_of_their_crystals():
    first, second = salts(6)[:4], salts(6)[4:]
    errors, expected = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06], [0.02, 0.01, 0.02, 0.01, 0.06, 0.07]
    model = Stated(first + second, errors, expected)
    one, two, both = evaluate([model], {"one": first, "two": second}, match=False).blocks()
    shares = [block["uncertainty"]["stated"]["coverage"]["90"]["share"] for block in (one, two, both)]
    assert shares == pytest.approx([25, 100, 50])


def test_regimes_are_means_of_their_crystals():
    rng = np.random.default_rng(0)
    pairs = []
    for k, n in enumerate([8, 1, 1, 27, 1, 8, 1, 1, 8, 1, 1]):
        numbers, sites, cell = [20, 8] * n, rng.random((2 * n, 3)), (4 + 0.01 * k) * n ** (1 / 3) * np.eye(3)
        step, strain = 0.02 * k * rng.standard_normal((2 * n, 3)), 1 + 0.01 * k
        relaxed = make_crystal(numbers, sites + step / cell[0, 0], cell * strain)
        pairs.append(pair(f"c{k}", make_crystal(numbers, sites, cell), relaxed))
    model = Stated(pairs, rng.uniform(0, 0.2, 11), rng.uniform(0.1, 0.3, 11))
    result = evaluate([model], {"made": pairs}, match=False)
    (block,) = result.blocks()
    regimes = block["regimes"]
    assert [(regime["name"], regime["crystals"]) for regime in regimes] == [
        ("quarter 1", 3), ("quarter 2", 3), ("quarter 3", 3), ("quarter 4", 2),
        ("up to 12 atoms", 7), ("13 to 20 atoms", 3), ("more than 40 atoms", 1),
    ]  # fmt: skip

    rows = result.per_crystal()
    columns = {key: np.array([row[key] for row in rows if row["relaxer"] == "stated"]) for key in rows[0]}
    error, bound = columns["coordinates"], columns["bound_90"]
    before = np.array([row["coordinates"] for row in rows if row["relaxer"] == "Dummy"])
    for regime in regimes:
        values = {"input_error": before, "atoms": columns["n_atoms"]}[regime["quantity"]]
        which = (regime["range"][0] <= values) & (values <= regime["range"][1])
        assert which.sum() == regime["crystals"]
        row = next(row for row in regime["rows"] if row["relaxer"] == "stated")
        assert row["ratio_to_dummy"] == pytest.approx(error[which].sum() / before[which].sum())
        assert row["worse_percent"] == pytest.approx(100 * (error[which] - before[which] > 1e-3).mean())
        change = np.abs(columns["predicted_volume"] / columns["target_volume"] - 1)
        assert row["relative_volume"] == pytest.approx(100 * change[which].mean())
        bounds = regime["uncertainty"]["stated"]
        assert bounds["coverage"]["90"]["share"] == pytest.approx(100 * (error <= bound)[which].mean())
        assert bounds["median_bound"] == pytest.approx(np.median(bound[which]))
        if which.sum() > 1:
            assert bounds["rho"]["coordinates"] == pytest.approx(spearmanr(bound[which], error[which])[0])
    text = markdown(result)
    assert re.search(r"\| 13 to 20 atoms \(3\) +\| Dummy +\| \d\.\d{4} +\| 1\.00 ", text)
    assert re.search(r"\| more than 40 atoms \(1\) +\| stated +\| 1 ", text)


def test_errors_of_relaxed_inputs_are_a_drift_without_a_ratio():
    result = judged([0.0005, 0.0015, 0.01, 0.02, 0.0], [0.1] * 5)
    quarter, size = to_dict(result)["blocks"][0]["regimes"]
    assert (quarter["name"], quarter["range"], quarter["crystals"]) == ("quarter 1", [0, 0], 5)
    assert (size["name"], size["range"]) == ("up to 12 atoms", [2, 2])
    _, row = quarter["rows"]
    assert row["ratio_to_dummy"] is None
    assert row["coordinates"] == pytest.approx(0.0064)
    assert row["worse_percent"] == pytest.approx(60)
    assert re.search(r"\| quarter 1, 0\.000 Å \(5\) +\| stated +\| 0\.0064 +\| - ", markdown(result))


def test_how_crystals_are_packed_changes_nothing():
    errors, expected = np.linspace(0.01, 0.1, 8), np.linspace(0.05, 0.02, 8)
    pairs = salts(8)

    def run(edges):
        model = Stated(pairs, errors, expected, flagged=["c3"], bond=0.1)
        return evaluate([model], {"made": pairs}, match=False, edges_per_batch=edges)

    together, alone = run(10**6), run(1)
    assert together.uncertainty == alone.uncertainty
    assert plots.drawn(together) == plots.drawn(alone)
    said, other = together.scores[1].uncertainty, alone.scores[1].uncertainty
    assert said.examples.keys() == other.examples.keys() == set(range(8))
    for index, example in said.examples.items():
        np.testing.assert_array_equal(example.errors, other.examples[index].errors)
    assert said.outside.tolist() == ["", "", "", "far away", "", "", "", ""]


class Strained(Dummy):
    """The input, strained by a share in all directions, every bond with a bound."""

    name = "strained"

    def __init__(self, strain):
        self.strain = strain

    def relax_batch(self, batch):
        geometry = Geometry(batch.positions * (1 + self.strain), batch.cells * (1 + self.strain))
        graph = periodic_graph(batch, 6.0, 50)
        bound = torch.linspace(0.1, 0.2, len(graph.receiver), dtype=torch.float64)
        bounds = {90: torch.ones(len(batch), dtype=torch.float64)}
        return BatchRelaxation(
            geometry, bounds, bond_uncertainty=split_bonds(graph, geometry, bound, batch.counts)
        )


def test_errors_of_bonds_are_those_of_a_strain():
    """All bonds change by one share; the relaxed atoms may be written in any cell."""
    moved = rock_salt()
    moved = moved.with_geometry(
        moved.positions + torch.tensor([[2.0], [-1.0]]) * moved.cells[0, 1], moved.cells
    )
    pairs = [
        pair("salt", rock_salt(), moved),
        pair("perovskite", perovskite()),
        pair("any", random_crystal(3)),
    ]
    result = evaluate([Strained(0.05)], {"made": pairs}, match=False)
    examples = result.scores[1].uncertainty.examples
    assert set(examples) == {0, 1, 2}
    for example in examples.values():
        assert example.errors == pytest.approx(example.bonds.length * 0.05 / 1.05)
    # Six neighbours of either kind. Six oxygens of titanium, two titaniums of every oxygen; of strontium
    # twelve oxygens and, 1.22 times as far, eight titaniums.
    assert len(examples[0].bonds.length) == 12
    assert examples[0].bonds.length == pytest.approx(2.4 * 1.05)
    assert len(examples[1].bonds.length) == 6 + 3 * 2 + 12 + 8


def test_only_small_crystals_with_finite_bounds_are_drawn():
    sites = np.random.default_rng(0).random((13, 3))
    large = make_crystal([20] * 13, sites, 9.0 * np.eye(3))
    pairs = [pair("large", large), pair("small", rock_salt())]
    result = evaluate([Strained(0.02)], {"made": pairs}, match=False)
    assert plots.drawn(result) == {"strained": [1]}
    assert plots.drawn(judged([0.1, 0.2], [0.1, 0.2], bond=float("inf"))) == {}
    assert plots.drawn(judged([0.1, float("nan"), 0.2], [float("nan"), 0.1, 0.2], bond=0.1)) == {
        "stated": [2]
    }


def test_the_middle_and_a_high_uncertainty_are_drawn():
    expected = np.random.default_rng(0).permutation(np.arange(1, 22)) / 100
    result = judged(np.full(21, 0.05), expected, bond=0.1)
    (chosen,) = plots.drawn(result).values()
    assert expected[chosen] == pytest.approx([0.11, 0.19])
    figure = plots.bonds(result)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == 4
    assert "bound at 90 %: 0.110 Å" in titles[0]
    assert "error: 0.050 Å" in titles[3]


@pytest.mark.parametrize("expected", [[0.02, 0.01, 0.3], [0.0, float("inf"), 0.3], [float("inf")] * 3])
def test_every_crystal_with_a_finite_bound_is_in_a_hexagon(expected):
    result = judged([0.0, 0.02, 0.5], expected)
    figure = plots.uncertainty(result)
    (panel,) = (axis for axis in figure.axes if axis.get_title())
    assert panel.get_title().startswith("stated: rho = ")
    counted = panel.collections[0].get_array()
    assert counted.sum() == np.isfinite(expected).sum()
    figure.canvas.draw()


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A dataset, and a network with random weights and an uncertainty."""
    root = tmp_path_factory.mktemp("uncertainty")
    pairs = [pair(f"c{k}", random_crystal(k), random_crystal(k)) for k in range(6)]
    write_dataset(root / "data", DatasetInfo(name="data"), pairs)
    relaxer = random_relaxer("e3relax", uncertainty_head=True)
    calibration = Calibration(
        on="nothing", crystals=9, factors={50: 1.0, 80: 2.0, 90: 3.0}, atoms=3.0, bonds=3.0, strains=3.0,
        max_distance=1e9, element_pairs={"O": "Mg Al Ti Mn Ba"},
    )  # fmt: skip
    config = relaxer.config.model_copy(update={"calibration": calibration})
    save_model(root / "model", relaxer.network, config, "# card\n")
    return root


def test_command_writes_uncertainty(studied, tmp_path):
    app = typer.Typer()
    app.command()(command)
    arguments = [
        "--model",
        studied / "model",
        "--data",
        studied / "data",
        "--out",
        tmp_path,
        "--plots",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, [*map(str, arguments), "--no-match", "--quiet"])
    assert result.exit_code == 0, result.output
    for name in ("uncertainty.png", "bonds.png"):
        assert (tmp_path / name).read_bytes()[:4] == PNG
    table = json.loads((tmp_path / "table.json").read_text())
    row = table["blocks"][0]["uncertainty"]["random"]
    rows = pq.read_table(tmp_path / "per_crystal.parquet").to_pylist()
    mine = [entry for entry in rows if entry["relaxer"] == "random"]
    assert len(mine) == row["crystals"] == 6
    bound, error, expected = (np.array([r[k] for r in mine]) for k in ("bound_90", "coordinates", "expected"))
    assert bound == pytest.approx(3 * expected)
    assert row["coverage"]["90"]["share"] == pytest.approx(100 * (error <= bound).mean())
    assert row["rho"]["coordinates"] == pytest.approx(spearmanr(bound, error)[0])
    assert row["coverage"]["95"]["share"] is None
    flagged = [entry for entry in mine if entry["outside"]]
    assert row["outside"]["crystals"] == len(flagged)
    assert all("no training crystal contains" in entry["outside"] for entry in flagged)
