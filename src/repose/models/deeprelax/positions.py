"""Positions from distances: the Euclidean distance geometry of DeepRelax, many crystals at once.

Yang et al., "Scalable crystal structure relaxation using an iteration-free deep generative model with
uncertainty quantification", Nature Communications 15, 8148 (2024), equations 16 to 20.

Every distance has a lower and an upper bound; the bounded Euclidean distance loss is the sum of violations.
The paper minimises it by Adam, its code crystal by crystal (`solve_by_adam`, for a batch). By default
Gauss-Newton steps do (`solve`): iteratively reweighted least squares replace the absolute value by a weighted
square, conjugate gradients solve the linear system, and a damping per crystal makes every accepted step lower
its loss.

All crystals of a batch advance together; converged ones are removed. The result of a crystal is the same bit
by bit in any batch; see `repose.models.deeprelax.distance_solver`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from repose.crystal.graph import PeriodicGraph
from repose.crystal.lattice import to_cartesian
from repose.models.deeprelax.distance_solver import SMOOTH, AtomPairs, DistanceRestraints, NormalEquations
from repose.models.prediction import Prediction
from repose.nn.ops import safe_norm, segment_sum

FULL = 0.7  # finished crystals are removed once the others have less than this share of the rows


@dataclass(frozen=True, eq=False)
class Solution:
    """Positions that minimise the violation of distances.

    Attributes:
        positions: A, ``(N, 3)``.
        violation: Weighted mean violation of a crystal's restraints in A, ``(S,)``; NaN if distances are NaN.
        steps: Number of steps of every crystal, ``(S,)``.
    """

    positions: Tensor
    violation: Tensor
    steps: Tensor


def solve(
    positions: Tensor,
    system_index: Tensor,
    n_crystals: int,
    restraints: DistanceRestraints,
    *,
    max_steps: int = 50,
    tolerance: float = 1e-5,
) -> Solution:
    """Minimise the violation of distance restraints.

    Args:
        positions: Start in A, ``(N, 3)``.
        system_index: Crystal of every atom, ``(N,)``.
        n_crystals: Number of crystals S.
        restraints: The restraints; both atoms of one belong to one crystal.
        max_steps: Largest number of steps.
        tolerance: A crystal is finished when a step lowers its mean violation by less than this, in A.

    Returns:
        Positions; without fixed positions the mean of every crystal is kept.
    """
    pairs = AtomPairs.of(restraints, system_index, n_crystals)
    here = torch.arange(n_crystals, device=positions.device)  # crystals that remain in the batch
    atoms = torch.arange(len(positions), device=positions.device)
    state = pairs.evaluate(positions)
    found, violation = positions.clone(), state.loss.clone()
    steps = torch.zeros_like(here)
    active = torch.isfinite(state.loss) & (state.loss > tolerance)
    damping = torch.full_like(state.loss, 1e-2)
    for step in range(1, max_steps + 1):
        if not bool(active.any()):
            break
        if float(pairs.rows(active).sum()) < FULL * len(pairs.pair):
            pairs, kept = pairs.keep(active)
            here, atoms, damping, active = here[active], atoms[kept.atoms], damping[active], active[active]
            positions, loss = positions[kept.atoms], state.loss[kept.crystals]
            state = NormalEquations(loss, state.force[kept.pairs], state.block[kept.pairs])
        tried = positions + pairs.step(state, damping)
        after = pairs.evaluate(tried)
        better = active & (after.loss < state.loss)
        finished = better & (state.loss - after.loss < tolerance)
        positions = torch.where(better[pairs.system_index].unsqueeze(1), tried, positions)
        state = pairs.choose(better, after, state)
        damping = torch.where(better, damping / 4, damping * 8)
        found[atoms], violation[here] = positions, state.loss
        steps[here[active]] = step
        active = active & ~finished & (state.loss > tolerance) & (damping < 1e8)
    return Solution(found, violation, steps)


def violations(positions: Tensor, restraints: DistanceRestraints) -> Tensor:
    """Violations of the bounds in A, the terms of equation 20 (of 17 for equal bounds), ``(P,)``."""
    r = restraints
    first = torch.where((r.held > 0).unsqueeze(1), r.place, positions[r.first])
    distance = safe_norm(positions[r.second] + r.offset - first)
    return (distance - r.upper).relu() + (r.lower - distance).relu()


def solve_by_adam(
    positions: Tensor,
    system_index: Tensor,
    n_crystals: int,
    restraints: DistanceRestraints,
    *,
    steps: int = 100,
    rate: float = 0.1,
) -> Solution:
    """Minimise the weighted sum of violations by Adam; steps and rate are those of the authors' code.

    Adam normalises every coordinate by itself: crystals of a batch do not influence each other, and the
    result depends on the orientation of the crystal. Other arguments as for `solve`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        restraints = DistanceRestraints(*(column.clone() for column in restraints))
        at = positions.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([at], lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            (restraints.weight * violations(at, restraints)).sum().backward()
            optimiser.step()
    of, weight = system_index[restraints.second], restraints.weight
    total = segment_sum(weight, of, n_crystals).clamp(min=1e-12)
    violation = segment_sum(weight * violations(at.detach(), restraints), of, n_crystals) / total
    found = torch.where(torch.isfinite(violation)[system_index].unsqueeze(1), at.detach(), positions)
    return Solution(found, violation, torch.full((n_crystals,), steps, device=found.device))


def distance_restraints(prediction: Prediction, graph: PeriodicGraph) -> DistanceRestraints:
    """Return the restraints of predicted distances.

    The bounds are one scale below and above the predicted distance (equation 20). With ``exact`` both equal
    the predicted distance, and the weight is 1 / scale: the minimum is the most probable geometry under the
    predicted Laplace distributions.

    Args:
        prediction: Prediction with `Distances`; its last geometry has the fixed positions.
        graph: Edges of the distances.
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


def positions_from_distances(
    prediction: Prediction, system_index: Tensor, graph: PeriodicGraph, solver: str = "gauss-newton"
) -> Solution:
    """Solve for positions from predicted distances, starting from the last geometry of the prediction.

    The cell is kept. Arguments as for `solve` and `distance_restraints`, ``solver`` as in the settings.
    """
    start, restraints = prediction.geometry, distance_restraints(prediction, graph)
    n = len(start.cells)
    if solver == "released":
        kind = 2 * system_index[restraints.second] + restraints.held.long()
        count = torch.bincount(kind, minlength=2 * n)
        restraints = restraints._replace(weight=restraints.weight / count[kind])
    method = solve if solver == "gauss-newton" else solve_by_adam
    return method(start.positions, system_index, n, restraints)
