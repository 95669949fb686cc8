"""Positions from distances: the Euclidean distance geometry of DeepRelax, many crystals at once.

Yang et al., "Scalable crystal structure relaxation using an iteration-free deep generative model with
uncertainty quantification", Nature Communications 15, 8148 (2024), equations 16 to 20.

Every pair of atoms asks to lie between a lower and an upper bound; the loss is the sum of what is missing,
the bounded Euclidean distance loss. The paper takes 100 steps of Adam, crystal by crystal. Here Gauss-Newton
steps minimise it: the absolute value is replaced by a weighted square (iteratively reweighted least squares),
the linear system is solved by conjugate gradients, and a damping of its own for every crystal sees to it that
each accepted step goes down.

All crystals of a batch advance together, and those that are finished leave it. None sees another: sums run
over its own pairs in their own order, so that its result is the same bit by bit whatever else is in the
batch. DistanceRestraints of the same two atoms, which are many in a small cell, share a block of three by three numbers
in the linear system; only forming it takes a pass over all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from repose.crystal.graph import PeriodicGraph
from repose.crystal.lattice import to_cartesian
from repose.models.deeprelax.distance_solver import SMOOTH, AtomPairs, DistanceRestraints, NormalEquations
from repose.models.prediction import Prediction

FULL = 0.7  # finished crystals leave when the others have less than this share of the rows


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
    system_index: Tensor,
    n_crystals: int,
    pairs: DistanceRestraints,
    *,
    max_steps: int = 50,
    tolerance: float = 1e-5,
) -> Solution:
    """Move atoms until distances lie within their bounds, or as near to that as they come.

    Args:
        positions: Start in A, ``(N, 3)``.
        system_index: Crystal of every atom, ``(N,)``.
        n_crystals: Number of crystals S.
        pairs: What is distance_restraints for; both atoms of a pair are of one crystal.
        max_steps: Steps of a crystal at most.
        tolerance: A crystal is finished when a step lowers its mean violation by less than this, in A.

    Returns:
        Positions; where nothing is held, with the mean of every crystal where it was.
    """
    links = AtomPairs.of(pairs, system_index, n_crystals)
    here = torch.arange(n_crystals, device=positions.device)  # the crystals that are still in the batch
    atoms = torch.arange(len(positions), device=positions.device)
    state = links.evaluate(positions)
    found, violation = positions.clone(), state.loss.clone()
    steps = torch.zeros_like(here)
    active = torch.isfinite(state.loss) & (state.loss > tolerance)
    damping = torch.full_like(state.loss, 1e-2)
    for step in range(1, max_steps + 1):
        if not bool(active.any()):
            break
        if float(links.rows(active).sum()) < FULL * links.n_rows:
            links, kept = links.keep(active)
            here, atoms, damping, active = here[active], atoms[kept.atoms], damping[active], active[active]
            positions, state = (
                positions[kept.atoms],
                NormalEquations(state.loss[kept.crystals], state.force[kept.links], state.block[kept.links]),
            )
        tried = positions + links.step(state, damping)
        after = links.evaluate(tried)
        better = active & (after.loss < state.loss)
        finished = better & (state.loss - after.loss < tolerance)
        positions = torch.where(better[links.system_index].unsqueeze(1), tried, positions)
        state = links.choose(better, after, state)
        damping = torch.where(better, damping / 4, damping * 8)
        found[atoms], violation[here] = positions, state.loss
        steps[here[active]] = step
        active = active & ~finished & (state.loss > tolerance) & (damping < 1e8)
    return Solution(found, violation, steps)


def distance_restraints(prediction: Prediction, graph: PeriodicGraph) -> DistanceRestraints:
    """What predicted distances ask for.

    They shall lie within one scale of the predicted ones (the bounded loss of equation 20), or, with
    ``exact``, positions are to be the most probable ones under the predicted Laplace distributions:
    distances as predicted, each weighing one over its scale.

    Args:
        prediction: With `Distances`; held atoms are where its last geometry has them.
        graph: The edges that distances were predicted for.
    """
    start, distances = prediction.geometry, prediction.distances
    if distances is None:
        raise ValueError("expected a prediction with distances; got one without.")
    offset = to_cartesian(graph.shift, start.cells, graph.system_index)
    parts = []
    for index, wanted, scale, held in (
        (slice(None), distances.relaxed, distances.scale, 0.0),
        (distances.anchored, distances.displaced, distances.displaced_scale, 1.0),
    ):
        wanted = wanted.to(start.positions)
        scale = None if scale is None else scale.to(wanted)
        width = torch.zeros_like(wanted) if scale is None or distances.exact else scale
        weight = (
            torch.ones_like(wanted) if scale is None or not distances.exact else 1 / scale.clamp(min=SMOOTH)
        )
        first = graph.receiver[index]
        parts.append(
            DistanceRestraints(
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
    return DistanceRestraints(*(torch.cat(column) for column in zip(*parts, strict=True)))


def positions_from_distances(prediction: Prediction, system_index: Tensor, graph: PeriodicGraph) -> Solution:
    """Positions that meet predicted distances in the predicted cell; see `distance_restraints`.

    Args:
        prediction: With `Distances`; the search starts from its last geometry.
        system_index: Crystal of every atom, ``(N,)``.
        graph: The edges that distances were predicted for.
    """
    start = prediction.geometry
    return solve(start.positions, system_index, len(start.cells), distance_restraints(prediction, graph))
