"""Positions from distances: recovered, in any company the same, and honest where there is no solution."""

import numpy as np
import pytest
import torch

from conftest import perovskite, random_crystal, rock_salt
from repose.crystals import CrystalBatch
from repose.graph import edge_vectors, periodic_graph
from repose.models.distance_geometry import Pairs, solve
from repose.nn.ops import segment_mean


def problem(crystal: CrystalBatch, noise: float, width: float, seed: int = 0):
    """Bounds around the noisy distances of a crystal, and a start from displaced atoms."""
    generator = torch.Generator().manual_seed(seed)
    graph = periodic_graph(crystal, 5.0)
    vectors = edge_vectors(graph, crystal.positions, crystal.cells)
    offset = vectors - crystal.positions[graph.sender] + crystal.positions[graph.receiver]
    distance = vectors.norm(dim=-1)
    distance = distance + noise * torch.randn(len(distance), generator=generator, dtype=torch.float64)
    pairs = Pairs.free(graph.receiver, graph.sender, offset, distance - width, distance + width)
    start = crystal.positions + 0.2 * torch.randn(crystal.positions.shape, generator=generator).double()
    return start, pairs


def error(found, crystal: CrystalBatch) -> float:
    """Mean error in A, a common shift left out, which distances do not know."""
    difference = found - crystal.positions
    return float((difference - segment_mean(difference, crystal.crystal, 1)).abs().mean())


def joined(problems):
    """Several problems as one batch."""
    starts, pairs = zip(*problems, strict=True)
    counts = torch.tensor([len(start) for start in starts])
    first = counts.cumsum(0) - counts
    moved = [p._replace(first=p.first + f, second=p.second + f) for p, f in zip(pairs, first, strict=True)]
    batch = Pairs(*(torch.cat(column) for column in zip(*moved, strict=True)))
    return torch.cat(starts), torch.repeat_interleave(torch.arange(len(starts)), counts), batch


@pytest.mark.parametrize(
    "make", [rock_salt, perovskite, lambda: random_crystal(3), lambda: random_crystal(8)]
)
def test_exact_distances_give_the_crystal(make):
    start, pairs = problem(make(), 0.0, 0.0)
    solution = solve(start, make().crystal, 1, pairs, tolerance=1e-9)
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
            found.append(error(solve(start, crystal.crystal, 1, pairs).positions, crystal))
        errors.append(np.mean(found))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("n", [1, 2, 17, 512])
def test_bit_by_bit_the_same_in_any_company(n):
    crystals = [random_crystal(k % 40) for k in range(n)]
    problems = [problem(c, 0.05, 0.02, seed=k) for k, c in enumerate(crystals)]
    together = solve(*joined(problems)[:2], n, joined(problems)[2])
    firsts = np.cumsum([0, *(c.n_atoms for c in crystals)])
    for k in range(0, n, max(1, n // 8)):
        alone = solve(problems[k][0], crystals[k].crystal, 1, problems[k][1])
        assert torch.equal(alone.positions, together.positions[firsts[k] : firsts[k + 1]])
        assert torch.equal(alone.violation[0], together.violation[k])
        assert alone.steps[0] == together.steps[k]


def test_no_lower_loss_by_adam():
    """The paper's way, 100 steps of Adam, ends no lower (2% allowed), whatever its rate."""
    crystal = random_crystal(5)
    start, pairs = problem(crystal, 0.1, 0.05)
    ours = float(solve(start, crystal.crystal, 1, pairs).violation[0])

    def loss(at):
        distance = (at[pairs.second] + pairs.offset - at[pairs.first]).norm(dim=-1)
        return (torch.relu(distance - pairs.upper) + torch.relu(pairs.lower - distance)).mean()

    ends = []
    for rate in (0.1, 0.03, 0.01):
        at = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([at], lr=rate)
        for _ in range(100):
            optimiser.zero_grad()
            loss(at).backward()
            optimiser.step()
        ends.append(float(loss(at.detach())))
    assert 0 < ours < 1.02 * min(ends)


def test_what_cannot_be_satisfied_says_so():
    crystal = random_crystal(2)
    start, pairs = problem(crystal, 0.0, 0.0)
    pairs = pairs._replace(lower=pairs.lower + 5, upper=pairs.upper + 5)
    solution = solve(start, crystal.crystal, 1, pairs)
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
    pairs = Pairs.free(none, none, torch.zeros(0, 3, dtype=torch.float64), empty, empty)
    solution = solve(at, torch.zeros(1, dtype=torch.int64), 1, pairs)
    assert torch.equal(solution.positions, at)
    assert solution.violation[0] == 0
