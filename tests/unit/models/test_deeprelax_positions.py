"""Positions from distances: recovered, in any company the same, and honest where there is no solution."""

import numpy as np
import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import edge_vectors, periodic_graph
from repose.models.deeprelax.distance_solver import DistanceRestraints
from repose.models.deeprelax.network import DeepRelax
from repose.models.deeprelax.positions import (
    distance_restraints,
    positions_from_distances,
    solve,
    solve_by_adam,
)
from repose.models.deeprelax.settings import DeepRelaxSettings
from repose.models.e3relax.network import E3Relax
from repose.models.e3relax.settings import E3RelaxSettings
from repose.models.prediction import Distances, Geometry, Prediction
from repose.nn.ops import segment_mean
from support.crystals import perovskite, random_crystal, rock_salt


def problem(crystal: CrystalBatch, noise: float, width: float, seed: int = 0, anchors: bool = False):
    """Bounds around the noisy distances of a crystal, and a start from displaced atoms.

    With anchors, distances from where atoms start are known as well, and all pairs weigh differently.
    """
    generator = torch.Generator().manual_seed(seed)
    graph = periodic_graph(crystal, 5.0)
    start = crystal.positions + 0.2 * torch.randn(crystal.positions.shape, generator=generator).double()
    vectors = edge_vectors(graph, crystal.positions, crystal.cells)
    offset = vectors - crystal.positions[graph.sender] + crystal.positions[graph.receiver]

    def pairs(vectors: torch.Tensor) -> DistanceRestraints:
        distance = vectors.norm(dim=-1)
        distance = distance + noise * torch.randn(len(distance), generator=generator, dtype=torch.float64)
        return DistanceRestraints.free(
            graph.receiver, graph.sender, offset, distance - width, distance + width
        )

    free = pairs(vectors)
    if not anchors:
        return start, free
    place = start[graph.receiver]
    held = pairs(crystal.positions[graph.sender] + offset - place)
    held = held._replace(place=place, held=torch.ones_like(held.held))
    both = DistanceRestraints(*(torch.cat(columns) for columns in zip(free, held, strict=True)))
    weight = 0.5 + torch.rand(len(both.weight), generator=generator).double()
    order = torch.randperm(len(weight), generator=generator)
    return start, DistanceRestraints(*(column[order] for column in both._replace(weight=weight)))


def error(found, crystal: CrystalBatch) -> float:
    """Mean error in A, a common shift left out, which distances do not know."""
    difference = found - crystal.positions
    return float((difference - segment_mean(difference, crystal.system_index, 1)).abs().mean())


def joined(problems):
    """Several problems as one batch."""
    starts, pairs = zip(*problems, strict=True)
    counts = torch.tensor([len(start) for start in starts])
    first = counts.cumsum(0) - counts
    moved = [p._replace(first=p.first + f, second=p.second + f) for p, f in zip(pairs, first, strict=True)]
    batch = DistanceRestraints(*(torch.cat(column) for column in zip(*moved, strict=True)))
    return torch.cat(starts), torch.repeat_interleave(torch.arange(len(starts)), counts), batch


@pytest.mark.parametrize(
    "make", [rock_salt, perovskite, lambda: random_crystal(3), lambda: random_crystal(8)]
)
def test_exact_distances_give_the_crystal(make):
    start, pairs = problem(make(), 0.0, 0.0)
    solution = solve(start, make().system_index, 1, pairs, tolerance=1e-9)
    assert error(start, make()) > 0.05
    assert error(solution.positions, make()) < 1e-6
    assert solution.violation[0] < 1e-6


def test_error_falls_with_the_noise():
    errors = []
    for noise in (0.3, 0.1, 0.03, 0.01):
        found = []
        for k in range(8):
            crystal = random_crystal(k)
            start, pairs = problem(crystal, noise, 0.0, seed=k)
            found.append(error(solve(start, crystal.system_index, 1, pairs).positions, crystal))
        errors.append(np.mean(found))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("anchors", [False, True])
@pytest.mark.parametrize("n", [1, 2, 17, 512])
def test_bit_by_bit_the_same_in_any_company(n, anchors):
    check_company(n, anchors, torch.float64)


def test_bit_by_bit_the_same_in_single_precision():
    check_company(64, True, torch.float32)


def check_company(n, anchors, dtype):
    crystals = [random_crystal(k % 40) for k in range(n)]
    problems = []
    for k, crystal in enumerate(crystals):
        start, pairs = problem(crystal, 0.05, 0.02, k, anchors)
        pairs = DistanceRestraints(*(c.to(dtype) if c.is_floating_point() else c for c in pairs))
        problems.append((start.to(dtype), pairs))
    start, crystal, pairs = joined(problems)
    together = solve(start, crystal, n, pairs)
    assert together.positions.dtype == dtype
    assert not torch.equal(together.positions, start)
    firsts = np.cumsum([0, *(c.n_atoms for c in crystals)])
    for k in range(0, n, max(1, n // 8)):
        alone = solve(problems[k][0], crystals[k].system_index, 1, problems[k][1])
        assert torch.equal(alone.positions, together.positions[firsts[k] : firsts[k + 1]])
        assert torch.equal(alone.violation[0], together.violation[k])
        assert alone.steps[0] == together.steps[k]


def test_with_anchors_the_place_is_found_too():
    """Known distances from where atoms start leave no shift free; the error falls with the noise."""
    errors = []
    for noise in (0.1, 0.01, 0.0):
        found = []
        for k in range(6):
            crystal = random_crystal(k)
            start, pairs = problem(crystal, noise, 0.0, k, anchors=True)
            positions = solve(start, crystal.system_index, 1, pairs, tolerance=1e-9).positions
            found.append(float((positions - crystal.positions).abs().mean()))
        errors.append(np.mean(found))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


def test_violation_is_the_mean_by_weight():
    start, pairs = problem(random_crystal(4), 0.2, 0.05, anchors=True)
    solution = solve(start, random_crystal(4).system_index, 1, pairs)
    total = 0.0
    for p in range(len(pairs.weight)):
        first = pairs.place[p] if pairs.held[p] else solution.positions[pairs.first[p]]
        distance = (solution.positions[pairs.second[p]] + pairs.offset[p] - first).norm()
        total += pairs.weight[p] * max(
            float(pairs.lower[p] - distance), float(distance - pairs.upper[p]), 0.0
        )
    assert float(solution.violation[0]) == pytest.approx(float(total / pairs.weight.sum()), abs=1e-12)


def test_where_pairs_disagree_weight_decides():
    """An atom between two demands of one distance goes with the heavier: the weighted median."""
    both = torch.zeros(2, dtype=torch.int64)
    wanted, weight = torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 3.0]).double()
    pairs = DistanceRestraints.free(both, both + 1, torch.zeros(2, 3).double(), wanted, wanted)._replace(
        weight=weight
    )
    at = torch.tensor([[0.0, 0, 0], [1.2, 0, 0]]).double()
    solution = solve(at, both, 1, pairs, tolerance=1e-9)
    assert float(solution.positions.diff(dim=0).norm()) == pytest.approx(2.0, abs=0.01)
    assert torch.allclose(solution.positions.mean(0), at.mean(0), atol=1e-12)


@pytest.mark.parametrize("exact", [False, True])
def test_distances_of_a_known_crystal_give_its_positions(exact):
    """Every predicted distance, to moved atoms and from old places, read off the answer."""
    crystal = CrystalBatch.collate([random_crystal(3), rock_salt(), random_crystal(6)])
    generator = torch.Generator().manual_seed(0)
    graph = periodic_graph(crystal, 5.0)
    true = crystal.positions + 0.1 * torch.randn(crystal.n_atoms, 3, generator=generator).double()
    shifts = (graph.shift.unsqueeze(-1) * crystal.cells[graph.system_index]).sum(1)
    anchored = torch.arange(1, graph.n_edges, 2)
    arrived = true[graph.sender] + shifts
    distances = Distances(
        (arrived - true[graph.receiver]).norm(dim=-1),
        torch.full((graph.n_edges,), 1e-4).double(),
        anchored,
        (arrived - crystal.positions[graph.receiver])[anchored].norm(dim=-1),
        torch.full((len(anchored),), 1e-4).double(),
        exact,
    )
    start = Geometry(crystal.positions, crystal.cells)
    prediction = Prediction([start], torch.zeros(3, 1), distances=distances)
    solution = positions_from_distances(prediction, crystal.system_index, graph)
    network = DeepRelax(DeepRelaxSettings(features=4, layers=1))
    geometry, violation = network.solve_positions(prediction, crystal, graph)
    assert torch.equal(geometry.positions, solution.positions)
    assert torch.equal(violation, solution.violation)
    assert torch.equal(geometry.cells, crystal.cells)
    assert (start.positions - true).abs().max() > 0.1
    assert (geometry.positions - true).abs().max() < 0.005
    pairs = distance_restraints(prediction, graph)
    assert pairs.held.sum() == len(anchored)
    assert torch.allclose(pairs.upper - pairs.lower, torch.tensor(0.0 if exact else 2e-4).double())


def test_without_distances_the_last_geometry_is_the_answer():
    crystal = rock_salt()
    geometry = Geometry(crystal.positions, crystal.cells)
    prediction = Prediction([geometry], torch.zeros(1, 1))
    graph = periodic_graph(crystal, 4.0)
    network = E3Relax(E3RelaxSettings(features=4, layers=1))
    found, violation = network.solve_positions(prediction, crystal, graph)
    assert found is geometry
    assert violation is None
    with pytest.raises(ValueError, match="distances"):
        positions_from_distances(prediction, crystal.system_index, graph)


def test_no_lower_loss_by_adam():
    """The paper's way, 100 steps of Adam, ends no lower (2% allowed), whatever its rate."""
    crystal = random_crystal(5)
    (start, pairs), of = problem(crystal, 0.1, 0.05), crystal.system_index
    ends = [solve_by_adam(start, of, 1, pairs, rate=rate).violation for rate in (0.1, 0.03, 0.01)]
    assert 0 < float(solve(start, of, 1, pairs).violation) < 1.02 * float(min(ends))


def test_adam_in_company_and_in_inference():
    """Crystals do not influence each other; a distance that is no number leaves its crystal at the start."""
    problems = [problem(random_crystal(k), 0.05, 0.02, k, anchors=True) for k in range(3)]
    problems[1][1].lower[4] = torch.nan
    start, of, pairs = joined(problems)
    with torch.inference_mode():
        together = solve_by_adam(start, of, 3, DistanceRestraints(*(column + 0 for column in pairs)))
    for k in (0, 2):
        alone = solve_by_adam(problems[k][0], of[of == k] - k, 1, problems[k][1])
        assert torch.allclose(alone.positions, together.positions[of == k], rtol=0, atol=1e-10)
        assert torch.allclose(alone.violation, together.violation[k], rtol=0, atol=1e-10)
    assert torch.isnan(together.violation).tolist() == [False, True, False]
    assert torch.equal(together.positions[of == 1], start[of == 1])


def test_what_cannot_be_satisfied_says_so():
    crystal = random_crystal(2)
    start, pairs = problem(crystal, 0.0, 0.0)
    pairs = pairs._replace(lower=pairs.lower + 5, upper=pairs.upper + 5)
    solution = solve(start, crystal.system_index, 1, pairs)
    assert torch.isfinite(solution.positions).all()
    assert solution.violation[0] > 1


def test_a_distance_that_is_no_number_spoils_its_own_crystal_only():
    problems = [problem(random_crystal(k), 0.0, 0.0, seed=k) for k in range(3)]
    problems[1][1].lower[4] = torch.nan
    solution = solve(*joined(problems)[:2], 3, joined(problems)[2])
    assert torch.isnan(solution.violation[1])
    assert (solution.violation[[0, 2]] < 1e-3).all()
    assert solution.steps[1] == 0


def test_a_crystal_without_pairs_stays():
    none = torch.zeros(0, dtype=torch.int64)
    empty = torch.zeros(0, dtype=torch.float64)
    at = torch.ones(1, 3, dtype=torch.float64)
    pairs = DistanceRestraints.free(none, none, torch.zeros(0, 3, dtype=torch.float64), empty, empty)
    solution = solve(at, torch.zeros(1, dtype=torch.int64), 1, pairs)
    assert torch.equal(solution.positions, at)
    assert solution.violation[0] == 0
