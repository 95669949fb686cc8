"""DistanceRestraints of atoms by what they link, and the equations that bring their distances within bounds.

DistanceRestraints of the same two atoms, which are many in a small cell, share a block of three by three numbers in the
linear system; only forming it takes a pass over all pairs. Sums run over a crystal's own pairs in their own
order, so that its numbers are the same bit by bit whatever else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

SMOOTH = 3e-3  # A; violations below it count quadratically, so that weights stay finite
GRADIENT_STEPS = 6  # conjugate gradients for one step; more save few steps, and rounding grows with them
SLOTS = 4  # pairs of the same two atoms stand in rows of so many, which are added at once


class DistanceRestraints(NamedTuple):
    """Distances that are distance_restraints for.

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
    def free(
        cls, first: Tensor, second: Tensor, offset: Tensor, lower: Tensor, upper: Tensor
    ) -> DistanceRestraints:
        """DistanceRestraints of equal weight, both atoms of which move."""
        zero = torch.zeros_like(lower)
        return cls(
            first, second, offset, lower, upper, torch.ones_like(lower), torch.zeros_like(offset), zero
        )


class NormalEquations(NamedTuple):
    """What positions are worth.

    Attributes:
        loss: Mean of what is missing in A, ``(S,)``.
        force: Downhill on the second atom of a link, and uphill on the first, ``(L, 3)``.
        block: The link's part of the normal matrix, ``(L, 9)``.
    """

    loss: Tensor
    force: Tensor
    block: Tensor


class Selection(NamedTuple):
    """Numbers of the crystals, atoms, links and rows that stay."""

    crystals: Tensor
    atoms: Tensor
    links: Tensor
    rows: Tensor


class OrderedSums:
    """Rows of numbers to be summed by an index, in the order in which they stand.

    Args:
        index: Of every row, ``(M,)``.
        n: Number of sums.
    """

    def __init__(self, index: Tensor, n: int) -> None:
        self.order = torch.argsort(index, stable=True)
        count = torch.bincount(index, minlength=n)
        self.first = count.cumsum(0) - count

    def sum(self, values: Tensor) -> Tensor:
        """Sums ``(n, C)`` of values ``(M, C)``; unlike `index_add`, fast, and in order on a GPU too."""
        if not len(values):
            return values.new_zeros(len(self.first), values.shape[1])
        return nn.functional.embedding_bag(self.order, values, self.first, mode="sum")


@dataclass(frozen=True, eq=False)
class AtomPairs:
    """DistanceRestraints by the atoms that they link; a place where an atom is held counts as one atom more, number N.

    DistanceRestraints stand in M rows of `SLOTS`, every row of one link; what is left free has no weight.

    Attributes:
        low: First atom of every link, ``(L,)``.
        high: Second atom, of a higher number, or the same, ``(L,)``.
        system_index: Crystal of every atom, ``(N,)``.
        total: Weight of all pairs of a crystal, ``(S,)``.
        link: Link of every row, ``(M,)``.
        offset: What is added to the vector from the first atom to the second in A, ``(3, SLOTS, M)``.
        bounds: Lower and upper in A, and the weight, ``(3, SLOTS, M)``.
    """

    low: Tensor
    high: Tensor
    system_index: Tensor
    total: Tensor
    link: Tensor
    offset: Tensor
    bounds: Tensor

    @classmethod
    def of(cls, pairs: DistanceRestraints, system_index: Tensor, n_crystals: int) -> AtomPairs:
        """Sort pairs by their links."""
        n = len(system_index)
        first = torch.where(pairs.held > 0, n, pairs.first)
        low, high = torch.minimum(first, pairs.second), torch.maximum(first, pairs.second)
        key = low * (n + 1) + high
        order = torch.argsort(key, stable=True)
        keys, count = torch.unique_consecutive(key[order], return_counts=True)
        rows = (count + SLOTS - 1) // SLOTS
        link = torch.repeat_interleave(torch.arange(len(keys), device=key.device), rows)
        within = torch.arange(len(link), device=key.device) - (rows.cumsum(0) - rows)[link]
        end = count.cumsum(0)[link]
        place = end - count[link] + SLOTS * within + torch.arange(SLOTS, device=key.device).unsqueeze(1)
        last = max(len(key) - 1, 0)
        pair = torch.where(place < end, order[place.clamp(max=last)], len(key)).flatten()

        def rowed(column: Tensor, filling: float) -> Tensor:
            column = torch.cat([column, column.new_full((1,), filling)])
            return column.index_select(0, pair).view(SLOTS, len(link))

        offset = torch.where((pairs.held > 0).unsqueeze(1), pairs.offset - pairs.place, pairs.offset)
        offset = torch.where((pairs.second == high).unsqueeze(1), offset, -offset)
        links = cls(
            keys // (n + 1),
            keys % (n + 1),
            system_index,
            pairs.weight.new_zeros(n_crystals),
            link,
            torch.stack([rowed(column, 0.0) for column in offset.t()]),
            torch.stack([rowed(pairs.lower, 0.0), rowed(pairs.upper, torch.inf), rowed(pairs.weight, 0.0)]),
        )
        weight = links._by_link.sum(_add_slots(links.bounds[2:]).t().contiguous())
        links.total.copy_(links._by_crystal.sum(weight).squeeze(1).clamp(min=1e-12))
        return links

    @property
    def n_rows(self) -> int:
        """Number of rows M."""
        return len(self.link)

    @cached_property
    def _of_link(self) -> Tensor:
        """Crystal of every link."""
        return self.system_index[self.low]

    @cached_property
    def _by_link(self) -> OrderedSums:
        return OrderedSums(self.link, len(self.low))

    @cached_property
    def _by_crystal(self) -> OrderedSums:
        """AtomPairs of every crystal."""
        return OrderedSums(self._of_link, len(self.total))

    @cached_property
    def _atoms(self) -> OrderedSums:
        """Atoms of every crystal."""
        return OrderedSums(self.system_index, len(self.total))

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor, OrderedSums]:
        """AtomPairs from either end: the link, 1 or -1 for its second or first atom, the atom at the other end.

        Those between an atom and itself, which do not change when it moves, are left out.
        """
        n, number = len(self.system_index), torch.arange(len(self.low), device=self.low.device)
        true = self.low != self.high
        second = true & (self.high < n)
        link = torch.cat([number[true], number[second]])
        own = torch.cat([self.low[true], self.high[second]])
        other = torch.cat([self.high[true], self.low[second]])
        sign = torch.cat([-torch.ones_like(number[true]), torch.ones_like(number[second])])
        return link, own, other, sign.to(self.bounds), OrderedSums(own, n)

    def evaluate(self, positions: Tensor) -> NormalEquations:
        """Loss, and the quadratic that it looks like, at positions ``(N, 3)`` in A."""
        columns = torch.cat([positions, positions.new_zeros(1, 3)]).t().contiguous()
        between = columns.index_select(1, self.high) - columns.index_select(1, self.low)
        vector = between.index_select(1, self.link).unsqueeze(1) + self.offset
        lower, upper, weight = self.bounds
        square = vector * vector
        distance = (square[0] + square[1] + square[2]).sqrt()
        # Positive where too short; not a number where a bound is none, and so is then the loss.
        lacking = (lower - distance).relu() - (distance - upper).relu()
        missing = lacking.abs()
        unit = vector / distance.clamp(min=1e-9)
        stiffness = weight / missing.clamp(min=SMOOTH)
        force = stiffness * lacking * unit
        x, y, z = unit * torch.where(missing > 0, stiffness, 0.0)
        parts = [(weight * missing).unsqueeze(0), force, x * unit, y * unit[1:], (z * unit[2]).unsqueeze(0)]
        sums = self._by_link.sum(torch.cat([_add_slots(part) for part in parts]).t().contiguous())
        loss, force, block = sums.split([1, 3, 6], dim=1)
        block = block.index_select(1, torch.tensor([0, 1, 2, 1, 3, 4, 2, 4, 5], device=block.device))
        return NormalEquations(self._by_crystal.sum(loss.contiguous()).squeeze(1) / self.total, force, block)

    def step(self, state: NormalEquations, damping: Tensor) -> Tensor:
        """Damped Gauss-Newton step in A, ``(N, 3)``, by conjugate gradients."""
        link, _, other, sign, ends = self._ends
        crystal = self.system_index
        block = state.block.index_select(0, link)
        residual = ends.sum(state.force.index_select(0, link) * sign.unsqueeze(1))
        diagonal = ends.sum(block)  # (N, 9)

        def per_crystal(values: Tensor) -> Tensor:
            return self._atoms.sum(values.unsqueeze(1)).squeeze(1)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return per_crystal(_dot(a, b))

        def product(at: Tensor) -> Tensor:
            """The normal matrix times a displacement."""
            three = at.repeat(1, 3)  # beside the rows of a matrix
            padded = torch.cat([three, three.new_zeros(1, 9)])
            parts = diagonal * three - ends.sum(block * padded.index_select(0, other))
            parts = parts.view(-1, 3, 3)
            return parts[:, :, 0] + parts[:, :, 1] + parts[:, :, 2] + shift * at

        trace = diagonal[:, 0] + diagonal[:, 4] + diagonal[:, 8]
        size = per_crystal(trace) / per_crystal(torch.ones_like(trace))
        shift = (damping * size / 2 + 1e-12)[crystal].unsqueeze(1)
        step = torch.zeros_like(residual)
        search, square = residual, dot(residual, residual)
        enough = square * 1e-6
        for _ in range(GRADIENT_STEPS):
            going = square > enough
            if not bool(going.any()):
                break
            image = product(search)
            curvature = dot(search, image)
            rate = torch.where(going & (curvature > 0), square / curvature, 0.0)[crystal].unsqueeze(1)
            step = step + rate * search
            residual = residual - rate * image
            new = dot(residual, residual)
            turn = torch.where(going, new / square, 0.0)[crystal].unsqueeze(1)
            search = torch.where(going[crystal].unsqueeze(1), residual + turn * search, search)
            square = torch.where(going, new, square)
        return step

    def choose(self, better: Tensor, after: NormalEquations, before: NormalEquations) -> NormalEquations:
        """The state after a step for crystals where it is better, ``(S,)``, and that before for others."""
        of_link = better[self._of_link].unsqueeze(1)
        return NormalEquations(
            torch.where(better, after.loss, before.loss),
            torch.where(of_link, after.force, before.force),
            torch.where(of_link, after.block, before.block),
        )

    def rows(self, crystals: Tensor) -> Tensor:
        """Which rows are of some crystals, given as a mask ``(S,)``."""
        return crystals[self._of_link][self.link]

    def keep(self, crystals: Tensor) -> tuple[AtomPairs, Selection]:
        """Only some crystals, given as a mask ``(S,)``."""
        masks = crystals, crystals[self.system_index], crystals[self._of_link], self.rows(crystals)
        kept = Selection(*(mask.nonzero().squeeze(1) for mask in masks))
        crystal, atom, link, _ = (mask.cumsum(0) - 1 for mask in masks)
        atom = torch.cat([atom, atom.new_full((1,), len(kept.atoms))])  # the place, which stays last
        links = AtomPairs(
            atom[self.low[kept.links]],
            atom[self.high[kept.links]],
            crystal[self.system_index[kept.atoms]],
            self.total[kept.crystals],
            link[self.link[kept.rows]],
            self.offset.index_select(2, kept.rows),
            self.bounds.index_select(2, kept.rows),
        )
        return links, kept


def _add_slots(values: Tensor) -> Tensor:
    """Sum ``(C, SLOTS, M)`` over the slots; written out, since `sum` may add in another order elsewhere."""
    total = values[:, 0]
    for slot in range(1, SLOTS):
        total = total + values[:, slot]
    return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Products of vectors ``(M, 3)``."""
    parts = a * b
    return parts[:, 0] + parts[:, 1] + parts[:, 2]
