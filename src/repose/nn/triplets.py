"""Messages from pairs of neighbours: angles at an atom, and vectors in the plane of three atoms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repose.nn.equivariant import ScaledSiLU
from repose.nn.messages import legendre
from repose.nn.ops import segment_sum

# Typical number of pairs of neighbours; sums over pairs are divided by its square root.
USUAL = 100


class Triplets(NamedTuple):
    """Pairs of different edges with the same receiver, ``(T,)`` each, in both orders.

    Attributes:
        first: Edge j -> i.
        second: Edge k -> i.
    """

    first: Tensor
    second: Tensor


def triplets(receiver: Tensor, near: Tensor, n_atoms: int) -> Triplets:
    """All pairs of different edges of one receiver.

    Args:
        receiver: Atom that every edge leads to, ``(E,)``, ascending.
        near: Edges that count, ``(E,)`` bool.
        n_atoms: Number of atoms.
    """
    edges = near.nonzero().squeeze(-1)
    owner = receiver[edges]
    count = torch.bincount(owner, minlength=n_atoms)
    start = (count.cumsum(0) - count)[owner]  # first edge of the same receiver, for every edge
    partners = count[owner]
    first = torch.repeat_interleave(torch.arange(len(edges), device=edges.device), partners)
    running = torch.arange(len(first), device=edges.device)
    second = running - (partners.cumsum(0) - partners)[first] + start[first]
    different = first != second
    return Triplets(edges[first[different]], edges[second[different]])


class TripletMessage(nn.Module):
    """TripletMPNN of RelaxNet (section 4.2): messages of pairs of neighbours to the atom between them.

    The inputs of a small network are the angle as zonal harmonics P_l(cos), both edges and all three atoms.
    The outputs are scalars, and coefficients of vectors on an orthogonal basis: the direction to the first
    neighbour, and the direction to the second minus its projection on the first (Gram-Schmidt), not
    normalised. Its length is the sine of the angle, which keeps derivatives finite for three atoms in line.
    A third vector, the cross product of the two, would be a pseudovector, so that displacements would break
    mirror symmetry.

    Args:
        features: Width F of atoms.
        edge_features: Width R of edges.
        width: Hidden features, scalars and vectors of a triplet.
        degrees: l = 0 ... degrees - 1.
    """

    def __init__(self, features: int, edge_features: int, width: int, degrees: int) -> None:
        super().__init__()
        self.degrees, self.width = degrees, width
        self.angle = nn.Linear(degrees, width)
        self.atoms = nn.Linear(features, 3 * width, bias=False)  # receiver, first and second sender
        self.edges = nn.Linear(edge_features, 2 * width, bias=False)  # first and second edge
        self.out = nn.Sequential(ScaledSiLU(), nn.Linear(width, 3 * width))  # MLP_s and MLP_v side by side
        self.scalars = nn.Linear(width, features, bias=False)

    def forward(
        self, x: Tensor, edge: Tensor, direction: Tensor, weight: Tensor, ends: tuple[Tensor, Tensor],
        found: Triplets,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Sums over all pairs of neighbours.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            edge: Features of edges, ``(E, R)``.
            direction: Unit vectors from receiver to sender, ``(E, 3)``.
            weight: Cutoff function of every edge in triplets, ``(E,)``.
            ends: Receiver and sender of every edge.
            found: The triplets.

        Returns:
            Scalars ``(N, F)`` and vectors ``(N, 3, width)``.
        """
        receiver, sender = ends
        first, second = found
        cosine = (direction[first] * direction[second]).sum(-1)
        of_receiver, of_first, of_second = self.atoms(x).split(self.width, dim=-1)
        edge_first, edge_second = self.edges(edge).split(self.width, dim=-1)
        # Sum over edges first: there are fewer edges than triplets.
        along_first = of_receiver[receiver] + of_first[sender] + edge_first
        along_second = of_second[sender] + edge_second
        zonal = legendre(cosine, torch.ones_like(cosine), self.degrees - 1)
        hidden = self.angle(zonal) + along_first[first] + along_second[second]
        both = (weight[first] * weight[second]).unsqueeze(-1) / math.sqrt(USUAL)
        scalar, along, across = (self.out(hidden) * both).split(self.width, dim=-1)
        # Basis: d_first, and d_second - cosine d_first. Coefficients are summed by direction first.
        n, edges = len(x), len(edge)
        turned = segment_sum(along - cosine.unsqueeze(-1) * across, first, edges)
        turned = turned + segment_sum(across, second, edges)
        vectors = segment_sum(direction.unsqueeze(-1) * turned.unsqueeze(1), receiver, n)
        return self.scalars(segment_sum(scalar, receiver[first], n)), vectors
