"""Kernels in C: numbers and gradients of the plain operators, in float64; compilation and its failure."""

import os
import subprocess

import pytest
import torch

from repose import native
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import periodic_graph
from repose.nn.kernels import fused_tensors, native_edges, native_messages, native_tensors
from repose.nn.kernels.fused import GateInputs, Summands, in_blocks
from repose.nn.kernels.radial_tables import Place, place
from repose.nn.messages import EdgeGeometry
from repose.nn.radial import GaussianBasis
from repose.nn.tensor_messages import Features, plain_sums
from repose.nn.tensor_updates import Owners, invariants, readout, updated
from support.crystals import fcc, perovskite, random_crystal, rock_salt

F = 48
pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return CrystalBatch.collate([random_crystal(1), fcc(), perovskite(), random_crystal(2, 9)])


@pytest.fixture
def owners(batch):
    return Owners(batch.system_index, batch.start)


def compare(plain, kernel, inputs) -> None:
    """Outputs of two functions of the same inputs, and all gradients, agree to rounding."""
    results = []
    for function in (plain, kernel):
        outputs = function(*inputs)
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
        torch.manual_seed(1)
        total = sum((part * torch.randn_like(part)).sum() for part in outputs)
        results.append([*outputs, *torch.autograd.grad(total, inputs)])
    for expected, got in zip(*results, strict=True):
        assert float((expected - got).detach().abs().max()) < 1e-12 * (
            1 + float(expected.detach().abs().max())
        )


def messages_inputs(graph, channels):
    n, e, knots = graph.n_atoms, graph.n_edges, 12
    knot = torch.randint(0, knots - 3, (e,))
    floats = draw(knots, channels * F), draw(e, 4), draw(e, 3), draw(n, channels * F), draw(n, 3, F)
    return knot, floats


def filters_of(coefficients, knot, weights):
    return sum(weights[:, k, None] * coefficients[knot + k] for k in range(4))


@pytest.mark.parametrize("threads", [1, 2])
def test_tensor_messages(batch, threads, monkeypatch):
    monkeypatch.setattr(native, "NUMBERS_PER_THREAD", 1000)
    graph = periodic_graph(batch, 3.5)
    knot, floats = messages_inputs(graph, 6)
    n = graph.n_atoms

    def plain(c, w, u, s, v, t, x, own):
        sums = plain_sums(Features(s, v, t), filters_of(c, knot, w), u, graph)
        return Features(x, v, own) + sums

    def kernel(c, w, u, s, v, t, x, own):
        return native_tensors.in_messages(s, v, t, x, own, c, Place(knot, w), u, graph)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare(plain, kernel, (*floats, draw(n, 5, F), draw(n, F), draw(n, 5, F)))
    finally:
        torch.set_num_threads(before)


def test_messages_of_scalars_only(batch):
    graph = periodic_graph(batch, 3.5)
    knot, (c, w, u, s, v) = messages_inputs(graph, 6)
    x, n = draw(graph.n_atoms, F), graph.n_atoms
    v, t = (torch.zeros(n, k, F, dtype=torch.float64, requires_grad=True) for k in (3, 5))

    def plain(c, w, u, s, v, t, x):
        return Features(x, v, t) + plain_sums(Features(s, v, t), filters_of(c, knot, w), u, graph)

    def kernel(c, w, u, s, v, t, x):
        return native_tensors.in_messages(s, v, t, x, t, c, Place(knot, w), u, graph)

    compare(plain, kernel, (c, w, u, s, v, t, x))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("extra", [False, True])
def test_messages(batch, gated, extra):
    graph = periodic_graph(batch, 3.5)
    knot, floats = messages_inputs(graph, 3)
    more = [draw(graph.n_edges, 3 * F)] if extra else []
    gate = [draw(graph.n_edges, 5), draw(3 * F, 5), draw(3 * F)] if gated else []

    def plain(c, w, u, s, v, *rest):
        filters = filters_of(c, knot, w) + (rest[0] if extra else 0)
        if gated:
            inner = rest[-3] @ rest[-2].T + rest[-1]
            filters = filters * (1 + torch.tanh(torch.nn.functional.silu(inner)))
        scalar, keep, turn = (s[graph.sender] * filters).split(F, dim=-1)
        vector = v[graph.sender] * keep.unsqueeze(1) + turn.unsqueeze(1) * u.unsqueeze(-1)
        sums = (torch.zeros(graph.n_atoms, F).double(), torch.zeros(graph.n_atoms, 3, F).double())
        return tuple(a.index_add(0, graph.receiver, b) for a, b in zip(sums, (scalar, vector), strict=True))

    def kernel(c, w, u, s, v, *rest):
        inputs = GateInputs(*rest[-3:]) if gated else None
        summands = Summands(s, v, c, Place(knot, w), u, inputs, graph)
        return native_messages.summed(summands, rest[0] if extra else None)

    compare(plain, kernel, (*floats, *more, *gate))


def test_messages_in_single_precision_with_large_gates(batch):
    graph = periodic_graph(batch, 3.5)
    knot, floats = messages_inputs(graph, 3)
    c, w, u, s, v = (part.detach().float() for part in floats)
    gate = GateInputs(30 * torch.randn(graph.n_edges, 5), torch.randn(3 * F, 5), torch.randn(3 * F))
    summands = Summands(s, v, c, Place(knot, w), u, gate, graph)
    for expected, got in zip(in_blocks(summands), native_messages.summed(summands), strict=True):
        assert torch.allclose(expected, got, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_invariants(owners):
    n = len(owners.index)
    inputs = draw(n, F), draw(n, 3, 2 * F), draw(n, 5, 2 * F)
    compare(lambda *a: invariants(*a, owners, False), lambda *a: invariants(*a, owners, True), inputs)


@pytest.mark.parametrize("products", [False, True])
def test_update(owners, products):
    n = len(owners.index)
    inputs = draw(n, F), draw(n, 3, F), draw(n, 5, F), draw(n, 6 * F), draw(n, 3, 2 * F), draw(n, 5, 2 * F)

    def function(natively):
        return lambda x, v, t, *rest: updated(Features(x, v, t), *rest, products, natively)

    compare(function(False), function(True), inputs)


def test_readout(owners):
    n = len(owners.index)
    inputs = draw(n, F), draw(n, 3, F), draw(n, 5, F), draw(n, 2 * F), draw(F), draw(F)

    def function(natively):
        return lambda x, v, t, *rest: readout(Features(x, v, t), *rest, owners, natively)

    compare(function(False), function(True), inputs)


def test_vectors_of_zero_length_have_finite_gradients(owners):
    n = len(owners.index)
    zeros = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((n, 3, F), (n, 5, F))]
    step, tensor, lengths = readout(
        Features(draw(n, F), *zeros), draw(n, 2 * F), draw(F), draw(F), owners, True
    )
    gradients = torch.autograd.grad(step.sum() + tensor.sum() + lengths.sum(), zeros)
    assert all(torch.isfinite(g).all() for g in gradients)


def test_edges(batch):
    graph = periodic_graph(batch, 5.0)
    radial = GaussianBasis(12, 6.0).double()
    plain = EdgeGeometry.at(graph, batch.positions, batch.cells, radial)
    with torch.no_grad():
        kernel = EdgeGeometry.at(graph, batch.positions, batch.cells, radial, compiled=True)
    assert torch.allclose(plain.distance, kernel.distance, rtol=0, atol=1e-12)
    assert torch.allclose(plain.direction, kernel.direction, rtol=0, atol=1e-12)
    radius, inside = 0.3 * torch.randn(graph.n_atoms).double(), torch.rand(graph.n_edges).double()
    expected = place(plain.nearer(radius).distance, radial).times(inside)
    got = native_edges.places(plain.distance, radius, inside, graph, radial)
    assert torch.equal(expected.knot, got.knot)
    assert torch.allclose(expected.weights, got.weights, rtol=0, atol=1e-12)
    beyond = native_edges.places(
        torch.full_like(inside, 99.0), torch.zeros_like(radius), inside, graph, radial
    )
    assert torch.equal(beyond.knot, place(torch.full_like(inside, 99.0), radial).knot)


@pytest.mark.xdist_group("compiler")
def test_kernels_of_a_gpu_equal_those_in_c():
    """The formulation that inductor compiles to Triton on a GPU, compiled here to C++."""
    torch.manual_seed(0)
    graph = periodic_graph(rock_salt(), 3.0)
    knot, floats = messages_inputs(graph, 6)
    c, w, u, s, v = (part.detach() for part in floats)
    t, zeros = torch.randn(graph.n_atoms, 5, F).double(), torch.zeros(graph.n_atoms, 9, F).double()
    own = zeros[:, 0], zeros[:, 4:]
    expected = native_tensors.in_messages(s, torch.zeros_like(v), t, *own, c, Place(knot, w), u, graph)
    got = fused_tensors.from_table(s, torch.zeros_like(v), t, c, Place(knot, w), u, graph)
    for a, b in zip(expected, got, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    inputs = [part.detach().requires_grad_() for part in (s, v, t, filters_of(c, knot, w), u)]
    assert torch.autograd.gradcheck(
        lambda *a: fused_tensors.summed(*a, graph), inputs, fast_mode=True, atol=1e-4
    )


def test_cache_is_used_and_survives_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    source, calls = "nn/kernels/edges.c", []
    run = subprocess.run
    monkeypatch.setattr(native.subprocess, "run", lambda *a, **k: calls.append(a) or run(*a, **k))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = native.library.__wrapped__
    assert build(source) is not None
    assert build(source) is not None
    assert len(calls) == 1
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path))
    assert build(source) is not None
    assert (tmp_path / f"repose-kernels-{os.getuid()}").is_dir()


def test_without_a_working_compiler_there_are_no_kernels(tmp_path, monkeypatch):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    monkeypatch.setenv("CC", str(broken))
    build = native.library.__wrapped__
    assert build("nn/kernels/edges.c") is None
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert native.compiler() is None
    assert build("nn/kernels/edges.c") is None
    with pytest.warns(UserWarning, match="no C compiler was found"):
        native.warn_missing()


def test_kernels_in_the_cache_need_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = native.library.__wrapped__
    assert build("nn/kernels/edges.c") is not None
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert native.compiler() is None
    assert build("nn/kernels/edges.c") is not None


def test_a_compiler_may_have_arguments(monkeypatch):
    monkeypatch.setenv("CC", "sh -c")
    assert native.compiler()[1:] == ["-c"]
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.compiler() is None or "no-such-compiler" not in native.compiler()[0]


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
def test_a_damaged_library_is_compiled_again(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = native.library.__wrapped__
    build("nn/kernels/edges.c", A=7)  # not loaded elsewhere in this process
    (made,) = tmp_path.rglob("*.so")
    content = {"truncated": made.read_bytes()[:4096], "foreign": b"other", "empty": b""}[damage]
    made.unlink()
    made.write_bytes(content)
    assert build("nn/kernels/edges.c", A=7).geometry


def test_without_home_and_temporary_folder_the_cache_or_nothing_is_used(tmp_path, monkeypatch):
    def missing(*args):
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr(native.tempfile, "gettempdir", missing)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = native.library.__wrapped__
    assert build("nn/kernels/edges.c") is not None

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(native.Path, "home", homeless)
    assert build("nn/kernels/edges.c") is None


def test_kernels_of_another_user_are_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(native.os, "getuid", lambda: 12345)
    assert native.library.__wrapped__("nn/kernels/edges.c") is None
