"""`repose bench`: its crystals, what it counts, what it says when something fails. No timing is asserted."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from repose.benchmark import memory, parts, speed
from repose.benchmark.cases import PLAIN, Case, Variant, cases, load_relaxer
from repose.benchmark.ceilings import Ceilings
from repose.benchmark.counting import count
from repose.benchmark.crystals import RATTLE, VOLUME, alloys
from repose.benchmark.report import HEADER, markdown
from repose.benchmark.results import BenchmarkResult, Measurement
from repose.benchmark.settings import SpeedSettings
from repose.benchmark.speed import explain, interleaved, isolated, time_variants
from repose.cli import app
from repose.crystal.graph import edge_vectors, periodic_graph
from repose.errors import ModelError
from repose.models.checkpoint import ModelConfig
from repose.models.e3relax_h2.network import E3RelaxH2
from repose.models.e3relax_h2.settings import E3RelaxH2Settings
from repose.models.registry import family
from repose.relaxer.direct import DirectRelaxer
from support.paths import ROOT, TESTS
from support.processes import eventually, is_running
from support.tiny import save_tiny_model

CPU = torch.device("cpu")
CEILINGS = Ceilings("cpu", "a processor", 1, {"float32": 1e9, "bfloat16": 4e9}, 2e9)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def case(model, **changes):
    values = {
        "series": "batch",
        "crystals": 2,
        "atoms": 3,
        "variants": (Variant("plain"), Variant("tabulated")),
        "seconds": 0.0,
    }
    return Case(model, False, "cpu", 1, **values | changes)


# Crystals


@pytest.mark.parametrize("n", [1, 2, 7, 9, 12, 31, 101])
def test_alloys_are_fcc_at_any_number_of_atoms(n):
    batch = alloys(2, n)
    volume = torch.linalg.det(batch.cells).abs() / n
    assert torch.allclose(volume, torch.full((2,), VOLUME, dtype=torch.float64))
    nearest = (4 * VOLUME) ** (1 / 3) / 2**0.5
    # Between the first and the second shell, which is sqrt 2 as far away.
    graph = periodic_graph(batch, 1.2 * nearest)
    assert torch.bincount(graph.receiver).tolist() == [12] * (2 * n)
    distance = edge_vectors(graph, batch.positions, batch.cells).norm(dim=1)
    assert (distance - nearest).abs().max() < 10 * RATTLE


def test_alloys_are_compact_rattled_and_the_same_again():
    batch = alloys(2, 500)
    lengths = batch.cells[0].norm(dim=1)
    assert lengths.max() < 1.5 * lengths.min()
    assert torch.equal(batch.positions, alloys(2, 500).positions)
    assert not torch.equal(batch.positions, alloys(2, 500, seed=1).positions)
    first, second = batch.positions.view(2, 500, 3)
    assert (first - second).std().item() == pytest.approx(2**0.5 * RATTLE, rel=0.1)


def test_the_cap_on_neighbours_is_reached_at_any_size():
    for n in (7, 9, 50):
        graph = periodic_graph(alloys(1, n).to("cpu", torch.float32), 6.0, 50, self_images=True)
        assert graph.n_edges / n == pytest.approx(56, abs=1)


# Work


def test_products_and_bytes_are_counted():
    x, linear = torch.randn(4, 8), torch.nn.Linear(8, 16)
    with torch.inference_mode():
        work = count(lambda: linear(x))
    assert work.flops == 2 * 4 * 8 * 16
    assert work.bytes == 4 * (4 * 8 + 8 * 16 + 16 + 4 * 16)


def test_gathers_and_sums_count_the_rows_that_they_touch():
    table, index = torch.zeros(1000, 8), torch.tensor([3, 5])
    assert count(lambda: table[index]).bytes == index.nbytes + 2 * 2 * 8 * 4
    rows = torch.ones(2, 8)
    assert count(lambda: table.index_add_(0, index, rows)).bytes == index.nbytes + 3 * 2 * 8 * 4
    assert count(lambda: table.view(8, 1000).mT[0]).bytes == 0


def products_by_hand(s: E3RelaxH2Settings, crystals, atoms, edges, tabulated):
    """Multiplications and additions in matrix products, as studies/speed derives them; times two."""
    f, r = s.features, s.n_basis
    atom = 9 * r * r  # what is seen along and across three lattice vectors
    atom += 3 * (9 * f * f + 3 * r * f)  # lattice to atoms
    atom += 4 * f * f + 11 * f * f + 3 * f  # φ of the messages, self-interaction, displacement
    edge = (0 if tabulated else 3 * r * f) + (s.lmax + 2) * 3 * f  # filters, gate
    crystal = 3 * f * f + 3 * (17 * f * f + 3 * f) + 2 * 36 * f  # fusing, atoms to lattice, mixing twice
    start = 3 * (r * f + f * f)
    return 2 * (s.layers * (atoms * atom + edges * edge + crystals * crystal) + crystals * start)


@pytest.mark.parametrize("path", ["plain", "tabulated"])
def test_products_of_e3relax_h2_are_those_on_the_page(path):
    settings = E3RelaxH2Settings.parse(
        {"features": 24, "n_basis": 10, "layers": 3, "lmax": 2, "uncertainty_head": False}
    )
    config = ModelConfig(family="e3relax-h2", name="x", settings={}, elements=[])
    relaxer = DirectRelaxer(E3RelaxH2(settings).requires_grad_(False), config, "cpu", path)
    batch = alloys(2, 5).to("cpu", torch.float32)
    inputs = relaxer.network.prepare(batch)
    with torch.inference_mode():
        work = count(lambda: relaxer.network(*inputs))
    expected = products_by_hand(settings, 2, 10, inputs[1].n_edges, path == "tabulated")
    assert work.flops == expected


def test_sums_on_the_page_are_those_of_the_published_size():
    page = (ROOT / "studies" / "speed" / "README.md").read_text()
    settings = family("e3relax-h2").settings_type()
    for tabulated, name in ((False, "sum"), (True, "sum without radial filters")):
        mega = products_by_hand(settings, 1, 9, 56 * 9, tabulated) / 1e6
        assert f"| **{name}** | | | **{mega:.1f}** |" in page


# Measuring


def test_paths_take_turns():
    calls = []
    times = interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, CPU, 0.0)
    rounds = len(times["a"])
    assert rounds >= 3
    assert calls == list("abc") * (rounds + 1)
    assert {len(values) for values in times.values()} == {rounds}


def test_rows_say_what_was_measured(model):
    plain, tabulated = time_variants(case(model))
    assert (str(plain.variant), str(tabulated.variant)) == ("plain", "tabulated")
    batch = alloys(2, 3)
    relaxer = load_relaxer(plain.case, PLAIN)
    assert plain.edges == relaxer.network.prepare(batch)[1].n_edges
    assert plain.parameters == sum(p.numel() for p in relaxer.network.parameters())
    assert (plain.family, plain.atoms) == ("e3relax", 6)
    assert plain.faster_network == plain.faster_predict == 1
    assert tabulated.crystals_per_second == pytest.approx(2 / tabulated.predict)
    assert tabulated.edges_per_second == pytest.approx(tabulated.edges / tabulated.network)


def test_reduced_precision_has_the_same_products(model):
    variants = tuple(Variant("tabulated", precision) for precision in ("float32", "bfloat16"))
    full, half = time_variants(case(model, variants=variants))
    assert full.reason is half.reason is None
    assert half.flops == full.flops
    assert half.faster_network is None  # compared with plain in float32, which is not there


def test_a_path_that_fails_leaves_the_others(model, monkeypatch):
    def load(case, variant):
        if variant == PLAIN:
            raise MemoryError
        return load_relaxer(case, variant)

    monkeypatch.setattr(speed, "load_relaxer", load)
    plain, tabulated = time_variants(case(model))
    assert plain.reason == "out of memory"
    assert plain.network is plain.crystals_per_second is None
    assert tabulated.reason is None
    assert tabulated.network > 0
    assert tabulated.faster_network is None  # nothing to compare with


def test_a_process_that_dies_is_a_reason():
    with pytest.raises(BrokenProcessPool) as error:
        isolated(os._exit, 3)
    assert "process was ended" in explain(error.value)


def grow(n: int) -> int:
    """In a process of its own: by how much n bytes raise the peak; they are free again before the end."""
    torch.ones(2 * n, dtype=torch.uint8)  # an earlier, higher peak
    before = memory.reset_peak(CPU)
    torch.ones(n, dtype=torch.uint8)
    return memory.peak_memory(CPU) - before


@pytest.mark.skipif(not memory.PROCESS.exists(), reason="peaks are forgotten on Linux only")
def test_peak_is_that_of_one_pass():
    n = 2 * 10**8
    assert isolated(grow, n) == pytest.approx(n, rel=0.1)


def exceed() -> str:
    """In a process of its own: what an allocation beyond the limit raises."""
    memory.free_memory = lambda device: 1e8
    memory.limit_memory()
    torch.ones(10**7)  # below it
    try:
        torch.ones(10**8)
    except RuntimeError as error:
        return explain(error)
    return "no limit"


@pytest.mark.skipif(not memory.PROCESS.exists(), reason="memory is limited on Linux only")
def test_more_than_the_free_memory_is_an_error_not_a_kill():
    assert isolated(exceed) == "out of memory"


def test_cases_are_those_asked_for(model):
    settings = SpeedSettings(batches=(1, 8), size=4, atoms=(10,), computation=("plain",))
    found = cases([model], ["e3relax"], ["cpu"], 2, settings)
    shapes = [("batch", 1, 4), ("batch", 8, 4), ("atoms", 1, 10)]
    assert [(c.series, c.crystals, c.atoms) for c in found] == 2 * shapes
    assert [c.published for c in found] == 3 * [False] + 3 * [True]
    precisions = ("float32", "bfloat16")
    settings = SpeedSettings(batches=(), atoms=(10,), computation=("plain",), precision=precisions)
    (one,) = cases([model], [], ["cpu"], 1, settings)
    assert [str(variant) for variant in one.variants] == ["plain", "plain bf16"]
    with pytest.raises(ModelError, match="no model"):
        cases(["nowhere"], [], ["cpu"], 1, settings)
    with pytest.raises(ModelError, match="no model family"):
        cases([], ["e3relx"], ["cpu"], 1, settings)


# Parts


def test_parts_are_named_and_add_up(model, monkeypatch):
    relaxer = load_relaxer(case(model), PLAIN)
    batch = alloys(1, 3)
    events = []

    def tick():
        events.append(None)
        return float(len(events))

    monkeypatch.setattr(parts.time, "perf_counter", tick)
    shares = parts.by_part(relaxer, batch, passes=2)
    monkeypatch.undo()
    # Every event but the first of a pass ends an interval of one tick, which one part gets.
    assert sum(share.seconds for share in shares) == len(events) / 2 - 1
    calls = {share.name: share.calls for share in shares}
    assert calls["layers.message"] == calls["layers.update"] == relaxer.network.settings.layers
    assert calls["network"] == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in relaxer.network.modules())


def test_operations_are_named(model):
    shares = parts.by_operation(load_relaxer(case(model), PLAIN), alloys(1, 3), passes=1)
    assert {"aten::addmm", "aten::exp"} <= {share.name for share in shares}


# Reports


def row(atoms, seconds, variant=PLAIN, **values):
    where = case("m", series="atoms", crystals=1, atoms=atoms)
    return Measurement(
        where,
        variant,
        family="f",
        edges=56 * atoms,
        network=seconds,
        predict=seconds,
        **values,
    )


def test_growth_is_fitted():
    rows = [row(n, 3e-3 * n**1.3) for n in (10, 100, 1000)] + [Measurement(case("m"), PLAIN, "out of memory")]
    (fit,) = BenchmarkResult((CEILINGS,), tuple(rows), 1).fits()
    assert fit.exponent == pytest.approx(1.3)
    assert fit.last == pytest.approx(1.3)
    bent = [row(10, 1.0), row(100, 1.0), row(1000, 10.0)]
    (fit,) = BenchmarkResult((CEILINGS,), tuple(bent), 1).fits()
    assert fit.last == pytest.approx(1.0)
    assert fit.exponent == pytest.approx(0.5)


def test_shares_of_the_ceilings():
    result = BenchmarkResult((CEILINGS,), (), 1)
    assert result.shares_of_ceilings(row(10, 2.0, flops=10**9, bytes=10**9)) == (0.5, 0.25)
    assert result.shares_of_ceilings(row(10, 2.0)) == (None, None)
    half = row(10, 2.0, Variant("plain", "bfloat16"), flops=10**9, bytes=10**9)
    assert result.shares_of_ceilings(half) == (0.125, 0.25)


def test_reasons_are_in_the_table():
    result = BenchmarkResult(
        (CEILINGS,), (row(10, 1.0), Measurement(case("m"), Variant("compiled"), "out of memory")), 1
    )
    text = markdown(result)
    assert "compiled, 2 x 3 atoms: out of memory" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(HEADER) + 1}
    assert "edges an atom" in text
    assert json.loads(json.dumps(result.to_dict()))["rows"][1]["reason"] == "out of memory"


def test_command(model, tmp_path):
    settings = ("batches=2", "size=3", "atoms=2,4", "computation=plain,tabulated", "seconds=0", "threads=1")
    words = ["bench", "speed", "--model", model, "--device", "cpu"]
    options = [word for setting in settings for word in ("--set", setting)]
    done = CliRunner().invoke(app, [*words, *options, "--out", str(tmp_path), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "speed.json").read_text())
    shapes = [(r["series"], r["crystals"], r["atoms"], r["path"]) for r in found["rows"]]
    batches = [("batch", 2, 6), ("atoms", 1, 2), ("atoms", 1, 4)]
    assert shapes == [(*shape, path) for shape in batches for path in ("plain", "tabulated")]
    assert all(r["reason"] is None and r["total_memory"] > 0 and r["of_product"] > 0 for r in found["rows"])
    plain, tabulated = found["rows"][:2]
    assert tabulated["flops"] < plain["flops"]
    assert np.isfinite(found["fits"][0]["exponent"])
    assert "## " in (tmp_path / "table.md").read_text()
    for name in ("atoms.png", "batch.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"speed.json", "table.md", "atoms.png", "batch.png"}


def test_profile_command(model):
    settings = ("batch=1", "size=2", "passes=1", "threads=1", "computation=tabulated")
    options = [word for setting in settings for word in ("--set", setting)]
    done = CliRunner().invoke(app, ["bench", "profile", "--model", model, "--device", "cpu", *options])
    assert done.exit_code == 0, done.output
    assert "layers.message" in done.stdout
    assert "aten::addmm" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speed", "--set", "atoms=10,x"], "'atoms.1': Input should be a valid integer"),
        (["speed", "--set", "batches=0"], "'batches.0': Input should be greater than 0"),
        (["speed", "--set", "batch=1"], "did you mean 'batches'?"),
        (["speed", "--set", "computation=planar"], "Did you mean 'plain'?"),
        (["speed", "--set", "precision=float16"], "Did you mean 'bfloat16'?"),
        (["speed", "--published", "e3relax-h3"], "Did you mean 'e3relax-h2'?"),
        (["speed", "--device", "tpu"], "device must be"),
        (["profile", "--model", "nowhere"], "no model 'nowhere'"),
    ],
)
def test_wrong_usage_is_said(words, message):
    done = CliRunner().invoke(app, ["bench", *words])
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_its_parent(tmp_path, how):
    code = (
        "import signal\nfrom repose.benchmark.speed import isolated\n"
        "from support.processes import write_pid_and_sleep\n"
        # A shell that puts the tests in the background has interrupts ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"isolated(write_pid_and_sleep, {str(tmp_path / 'child')!r})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=TESTS)
    child = eventually(lambda: int((tmp_path / "child").read_text()))
    assert is_running(child)
    parent.send_signal(how)
    parent.wait(timeout=30)
    assert eventually(lambda: not is_running(child))
