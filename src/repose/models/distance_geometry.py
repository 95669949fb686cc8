"""Positions from distances: the Euclidean distance geometry of DeepRelax, many crystals at once.

Yang et al., "Scalable crystal structure relaxation using an iteration-free deep generative model with
uncertainty quantification", Nature Communications 15, 8148 (2024), equations 16 to 20.

Every pair of atoms asks to lie between a lower and an upper bound; the loss is the sum of what is missing,
the bounded Euclidean distance loss. The paper takes 100 steps of Adam, crystal by crystal. Here Gauss-Newton
steps minimise it: the absolute value is replaced by a weighted square (iteratively reweighted least squares),
the sparse linear system is solved by conjugate gradients, and a damping of its own for every crystal sees
to it that each accepted step goes down. All crystals of a batch advance together, but none sees another: sums
run over its own pairs in their own order, and a crystal that is finished stands still. Its result is the same
bit by bit whatever else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from repose.graph import PeriodicGraph
from repose.lattice import to_cartesian
from repose.models.network import Geometry, Prediction

SMOOTH = 1e-3  # A; violations below it count quadratically, so that weights stay finite
GRADIENT_STEPS = 6  # conjugate gradients for one step, at most; more make steps dearer and hardly fewer


class Pairs(NamedTuple):
    """Distances that are asked for.

    Attributes:
        first: Atom i, ``(P,)``.
        second: Atom j, ``(P,)``.
        offset: Lattice vector that is added to j's position in A, ``(P, 3)``.
        lower: Bound in A, ``(P,)``.
        upper: Bound in A, ``(P,)``.
        weight: Of the pair in the loss, ``(P,)``.
        place: Where the first atom is taken to be in A, ``(P, 3)``, and
        held: 1 where it is there and stays there, 0 where it is where the atom is, ``(P,)``.
    """

    first: Tensor
    second: Tensor
    offset: Tensor
    lower: Tensor
    upper: Tensor
    weight: Tensor
    place: Tensor
    held: Tensor

    @classmethod
    def free(cls, first: Tensor, second: Tensor, offset: Tensor, lower: Tensor, upper: Tensor) -> Pairs:
        """Pairs of equal weight, both atoms of which move."""
        zero = torch.zeros_like(lower)
        return cls(
            first, second, offset, lower, upper, torch.ones_like(lower), torch.zeros_like(offset), zero
        )


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the atoms went.

    Attributes:
        positions: A, ``(N, 3)``.
        violation: Mean over a crystal's pairs, by weight, of what is missing to the bounds in A, ``(S,)``;
            not a number where the distances were none.
        steps: Steps that every crystal took, ``(S,)``.
    """

    positions: Tensor
    violation: Tensor
    steps: Tensor


def solve(
    positions: Tensor,
    crystal: Tensor,
    n_crystals: int,
    pairs: Pairs,
    *,
    max_steps: int = 50,
    tolerance: float = 1e-5,
) -> Solution:
    """Move atoms until distances lie within their bounds, or as near to that as they come.

    Args:
        positions: Start in A, ``(N, 3)``.
        crystal: Crystal of every atom, ``(N,)``.
        n_crystals: Number of crystals S.
        pairs: What is asked for; both atoms of a pair are of one crystal.
        max_steps: Steps of a crystal at most.
        tolerance: A crystal is finished when a step lowers its mean violation by less than this, in A.

    Returns:
        Positions; where nothing is held, with the mean of every crystal where it was.
    """
    of_pair = crystal[pairs.second]
    total = _sum(pairs.weight, of_pair, n_crystals).clamp(min=1e-12)

    def loss(at: Tensor) -> Tensor:
        missing, _ = _missing(at, pairs)
        return _sum(pairs.weight * missing, of_pair, n_crystals) / total

    current = loss(positions)
    active = torch.isfinite(current) & (current > tolerance)
    damping = torch.full_like(current, 1e-2)
    steps = torch.zeros(n_crystals, dtype=torch.int64, device=positions.device)
    for _ in range(max_steps):
        if not bool(active.any()):
            break
        step = _step(positions, crystal, n_crystals, pairs, of_pair, damping, active)
        tried = positions + step
        after = loss(tried)
        better = active & (after < current)
        positions = torch.where(better[crystal].unsqueeze(1), tried, positions)
        finished = better & (current - after < tolerance)
        damping = torch.where(better, damping / 4, damping * 8)
        steps = steps + active.long()
        current = torch.where(better, after, current)
        active = active & ~finished & (current > tolerance) & (damping < 1e8)
    return Solution(positions, current, steps)


def from_distances(prediction: Prediction, crystal: Tensor, graph: PeriodicGraph) -> Solution:
    """Positions that meet predicted distances in the predicted cell.

    They are asked to lie within one scale of the predicted ones (the bounded loss of equation 20), or,
    with ``exact``, positions are the most probable ones under the predicted Laplace distributions:
    distances as predicted, each weighing one over its scale.

    Args:
        prediction: With `Distances`; the search starts from its last geometry.
        crystal: Crystal of every atom, ``(N,)``.
        graph: The edges that distances were predicted for.
    """
    start, distances = prediction.geometry, prediction.distances
    if distances is None:
        raise ValueError("expected a prediction with distances; got one without.")
    offset = to_cartesian(graph.shift, start.cells, graph.crystal)
    parts = []
    for index, wanted, scale, held in (
        (slice(None), distances.relaxed, distances.scale, 0.0),
        (distances.anchored, distances.displaced, distances.displaced_scale, 1.0),
    ):
        width = torch.zeros_like(wanted) if scale is None or distances.exact else scale
        weight = torch.ones_like(wanted) if scale is None or not distances.exact else 1 / scale
        first = graph.receiver[index]
        parts.append(
            Pairs(
                first,
                graph.sender[index],
                offset[index],
                (wanted - width).clamp(min=0),
                wanted + width,
                weight,
                start.positions[first],
                torch.full_like(wanted, held),
            )
        )
    pairs = Pairs(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return solve(start.positions, crystal, len(start.cells), pairs)


def settle(prediction: Prediction, crystal: Tensor, graph: PeriodicGraph) -> tuple[Geometry, Tensor | None]:
    """The answer of a prediction: its last geometry, or what follows from its distances.

    Returns:
        Geometry, and the violation that remains of distances in A, ``(S,)``; None where there are none.
    """
    if prediction.distances is None:
        return prediction.geometry, None
    solution = from_distances(prediction, crystal, graph)
    return Geometry(solution.positions, prediction.geometry.cells), solution.violation


def _missing(positions: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """What distances lack to their bounds in A, ``(P,)``, and the direction that mends them, ``(P, 3)``.

    Moving the second atom along the direction and the first against it lowers what is missing.
    """
    first = torch.where(pairs.held.unsqueeze(1) > 0, pairs.place, positions[pairs.first])
    vector = positions[pairs.second] + pairs.offset - first
    distance = _dot(vector, vector).sqrt()
    short, long = pairs.lower - distance, distance - pairs.upper
    sign = torch.where(short > 0, 1.0, torch.where(long > 0, -1.0, 0.0)).to(distance)
    missing = torch.where(short > 0, short, torch.where(long > 0, long, 0.0))
    # A distance that is no number asks for nothing, but is not hidden: the loss becomes no number either.
    missing = missing + (pairs.lower + pairs.upper) * 0
    return missing, vector / distance.clamp(min=1e-9).unsqueeze(1) * sign.unsqueeze(1)


def _step(
    positions: Tensor,
    crystal: Tensor,
    n_crystals: int,
    pairs: Pairs,
    of_pair: Tensor,
    damping: Tensor,
    active: Tensor,
) -> Tensor:
    """Damped Gauss-Newton step of the reweighted squares in A, ``(N, 3)``; zero for finished crystals."""
    n = len(positions)
    missing, direction = _missing(positions, pairs)
    on = active[of_pair].to(missing)
    weight = torch.where(on > 0, pairs.weight / missing.clamp(min=SMOOTH), 0.0)
    moves = 1 - pairs.held.unsqueeze(1)  # of the first atom

    def spread(values: Tensor) -> Tensor:
        """From pairs to their atoms."""
        both = values.unsqueeze(1) * direction
        return _sum(both, pairs.second, n) - _sum(both * moves, pairs.first, n)

    def product(at: Tensor) -> Tensor:
        """The normal matrix times a displacement."""
        along = _dot(at[pairs.second] - moves * at[pairs.first], direction)
        return spread(weight * along) + scale[crystal].unsqueeze(1) * at

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return _sum(_dot(a, b), crystal, n_crystals)

    size = _sum(weight, of_pair, n_crystals) / torch.bincount(crystal, minlength=n_crystals).to(weight)
    scale = damping * size + 1e-12
    residual = spread(torch.where(on > 0, weight * missing, 0.0))
    step = torch.zeros_like(positions)
    search, square = residual, dot(residual, residual)
    enough = square * 1e-6
    for _ in range(GRADIENT_STEPS):
        going = (square > enough) & active
        if not bool(going.any()):
            break
        image = product(search)
        curvature = dot(search, image)
        rate = torch.where(going & (curvature > 0), square / curvature, 0.0)
        step = step + rate[crystal].unsqueeze(1) * search
        residual = residual - rate[crystal].unsqueeze(1) * image
        new = dot(residual, residual)
        turn = torch.where(going, new / square, 0.0)
        onward = residual + turn[crystal].unsqueeze(1) * search
        search = torch.where(going[crystal].unsqueeze(1), onward, search)
        square = torch.where(going, new, square)
    return step


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Products of vectors ``(M, 3)``; written out, since `sum` may add in another order in another batch."""
    parts = a * b
    return parts[:, 0] + parts[:, 1] + parts[:, 2]


def _sum(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum rows that share an index, in the order in which they stand."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, index, values)
