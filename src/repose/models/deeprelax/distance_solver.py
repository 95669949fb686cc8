"""Normal equations of distance restraints, grouped by pairs of atoms.

Restraints of the same two atoms, of which a small cell has many periodic images, share one 3 x 3 block of the
normal matrix. Sums run over the restraints of one crystal in a fixed order: its result is the same bit by bit
in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

SMOOTH = 3e-3  # A; violations below it count quadratically, so that weights stay finite
GRADIENT_STEPS = 6  # conjugate-gradient iterations of a step; more save few steps and add rounding
SLOTS = 4  # restraints of the same two atoms are summed in rows of this length


class DistanceRestraints(NamedTuple):
    """Bounds on distances between atoms, P in all.

    Attributes:
        first: Atom i, ``(P,)``.
        second: Atom j, ``(P,)``.
        offset: Lattice vector that is added to j's position in A, ``(P, 3)``.
        lower: Bound in A, ``(P,)``.
        upper: Bound in A, ``(P,)``.
        weight: Of the pair in the loss, ``(P,)``.
        place: Fixed position of the first atom in A, ``(P, 3)``, used where ``held`` is 1.
        held: 1 where the first atom is fixed at ``place``, 0 where it moves, ``(P,)``.
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
        """Return restraints of equal weight between atoms that both move."""
        zero = torch.zeros_like(lower)
        return cls(
            first, second, offset, lower, upper, torch.ones_like(lower), torch.zeros_like(offset), zero
        )


class NormalEquations(NamedTuple):
    """Loss, gradient and normal-matrix blocks at the given positions.

    Attributes:
        loss: Mean violation in A, ``(S,)``.
        force: Force on the second atom of a pair; the first has its negative, ``(L, 3)``.
        block: Block of the pair in the normal matrix, ``(L, 9)``.
    """

    loss: Tensor
    force: Tensor
    block: Tensor


class Selection(NamedTuple):
    """Indices of the crystals, atoms, pairs and rows that are kept."""

    crystals: Tensor
    atoms: Tensor
    pairs: Tensor
    rows: Tensor


class OrderedSums:
    """Sums of rows by an index ``(M,)`` from 0 to n - 1, in the order of the rows."""

    def __init__(self, index: Tensor, n: int) -> None:
        self.order = torch.argsort(index, stable=True)
        count = torch.bincount(index, minlength=n)
        self.first = count.cumsum(0) - count

    def sum(self, values: Tensor) -> Tensor:
        """Return sums ``(n, C)`` of values ``(M, C)``; unlike `index_add`, in a fixed order on a GPU too."""
        if not len(values):
            return values.new_zeros(len(self.first), values.shape[1])
        return nn.functional.embedding_bag(self.order, values, self.first, mode="sum")


@dataclass(frozen=True, eq=False)
class AtomPairs:
    """Restraints grouped by pairs of atoms, L pairs; index N is that of the fixed positions.

    The restraints of a pair fill rows of `SLOTS`, M rows in all; empty slots have no weight.

    Attributes:
        low: First atom of every pair, ``(L,)``.
        high: Second atom of every pair, with a higher or the same index, ``(L,)``.
        system_index: Crystal of every atom, ``(N,)``.
        total: Sum of the weights of a crystal, ``(S,)``.
        pair: Pair of every row, ``(M,)``.
        offset: Added to the vector from the first atom to the second in A, ``(3, SLOTS, M)``.
        bounds: Lower and upper in A, and the weight, ``(3, SLOTS, M)``.
    """

    low: Tensor
    high: Tensor
    system_index: Tensor
    total: Tensor
    pair: Tensor
    offset: Tensor
    bounds: Tensor

    @classmethod
    def of(cls, restraints: DistanceRestraints, system_index: Tensor, n_crystals: int) -> AtomPairs:
        """Group restraints by pairs of atoms."""
        n = len(system_index)
        first = torch.where(restraints.held > 0, n, restraints.first)
        low, high = torch.minimum(first, restraints.second), torch.maximum(first, restraints.second)
        key = low * (n + 1) + high
        order = torch.argsort(key, stable=True)
        keys, count = torch.unique_consecutive(key[order], return_counts=True)
        rows = (count + SLOTS - 1) // SLOTS
        pair = torch.repeat_interleave(torch.arange(len(keys), device=key.device), rows)
        within = torch.arange(len(pair), device=key.device) - (rows.cumsum(0) - rows)[pair]
        end = count.cumsum(0)[pair]
        place = end - count[pair] + SLOTS * within + torch.arange(SLOTS, device=key.device).unsqueeze(1)
        last = max(len(key) - 1, 0)
        restraint = torch.where(place < end, order[place.clamp(max=last)], len(key)).flatten()

        def rowed(column: Tensor, filling: float) -> Tensor:
            column = torch.cat([column, column.new_full((1,), filling)])
            return column.index_select(0, restraint).view(SLOTS, len(pair))

        offset = torch.where(
            (restraints.held > 0).unsqueeze(1), restraints.offset - restraints.place, restraints.offset
        )
        offset = torch.where((restraints.second == high).unsqueeze(1), offset, -offset)
        lower, upper = rowed(restraints.lower, 0.0), rowed(restraints.upper, torch.inf)
        pairs = cls(
            keys // (n + 1),
            keys % (n + 1),
            system_index,
            restraints.weight.new_zeros(n_crystals),
            pair,
            torch.stack([rowed(column, 0.0) for column in offset.t()]),
            torch.stack([lower, upper, rowed(restraints.weight, 0.0)]),
        )
        weight = pairs._by_pair.sum(_add_slots(pairs.bounds[2:]).t().contiguous())
        pairs.total.copy_(pairs._by_crystal.sum(weight).squeeze(1).clamp(min=1e-12))
        return pairs

    @cached_property
    def _crystal_of_pair(self) -> Tensor:
        """Crystal of every pair, ``(L,)``."""
        return self.system_index[self.low]

    @cached_property
    def _by_pair(self) -> OrderedSums:
        return OrderedSums(self.pair, len(self.low))

    @cached_property
    def _by_crystal(self) -> OrderedSums:
        """Pairs of every crystal."""
        return OrderedSums(self._crystal_of_pair, len(self.total))

    @cached_property
    def _atoms(self) -> OrderedSums:
        """Atoms of every crystal."""
        return OrderedSums(self.system_index, len(self.total))

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor, OrderedSums]:
        """Pairs from each of their atoms: pair, this atom, other atom, sign (1 for the second), sums by atom.

        Pairs of an atom and its own image are left out: their distance does not change.
        """
        n, number = len(self.system_index), torch.arange(len(self.low), device=self.low.device)
        true = self.low != self.high
        second = true & (self.high < n)
        pair = torch.cat([number[true], number[second]])
        own = torch.cat([self.low[true], self.high[second]])
        other = torch.cat([self.high[true], self.low[second]])
        sign = torch.cat([-torch.ones_like(number[true]), torch.ones_like(number[second])])
        return pair, own, other, sign.to(self.bounds), OrderedSums(own, n)

    def evaluate(self, positions: Tensor) -> NormalEquations:
        """Return the loss and its quadratic model at positions ``(N, 3)`` in A."""
        columns = torch.cat([positions, positions.new_zeros(1, 3)]).t().contiguous()
        between = columns.index_select(1, self.high) - columns.index_select(1, self.low)
        vector = between.index_select(1, self.pair).unsqueeze(1) + self.offset
        lower, upper, weight = self.bounds
        square = vector * vector
        distance = (square[0] + square[1] + square[2]).sqrt()
        # Positive where too short; NaN where a bound is NaN, as is then the loss.
        lacking = (lower - distance).relu() - (distance - upper).relu()
        missing = lacking.abs()
        unit = vector / distance.clamp(min=1e-9)
        stiffness = weight / missing.clamp(min=SMOOTH)
        force = stiffness * lacking * unit
        x, y, z = unit * torch.where(missing > 0, stiffness, 0.0)
        parts = [(weight * missing).unsqueeze(0), force, x * unit, y * unit[1:], (z * unit[2]).unsqueeze(0)]
        sums = self._by_pair.sum(torch.cat([_add_slots(part) for part in parts]).t().contiguous())
        loss, force, block = sums.split([1, 3, 6], dim=1)
        block = block.index_select(1, torch.tensor([0, 1, 2, 1, 3, 4, 2, 4, 5], device=block.device))
        return NormalEquations(self._by_crystal.sum(loss.contiguous()).squeeze(1) / self.total, force, block)

    def step(self, state: NormalEquations, damping: Tensor) -> Tensor:
        """Damped Gauss-Newton step in A, ``(N, 3)``, by conjugate gradients."""
        pair, _, other, sign, ends = self._ends
        crystal = self.system_index
        block = state.block.index_select(0, pair)
        residual = ends.sum(state.force.index_select(0, pair) * sign.unsqueeze(1))
        diagonal = ends.sum(block)  # (N, 9)

        def per_crystal(values: Tensor) -> Tensor:
            return self._atoms.sum(values.unsqueeze(1)).squeeze(1)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return per_crystal(_dot(a, b))

        def product(at: Tensor) -> Tensor:
            """Return the product of the normal matrix and a displacement."""
            three = at.repeat(1, 3)  # (N, 9), as the rows of the blocks
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
        """Return the equations after a step where it is better, ``(S,)``, and those before elsewhere."""
        of_pair = better[self._crystal_of_pair].unsqueeze(1)
        return NormalEquations(
            torch.where(better, after.loss, before.loss),
            torch.where(of_pair, after.force, before.force),
            torch.where(of_pair, after.block, before.block),
        )

    def rows(self, crystals: Tensor) -> Tensor:
        """Return the mask of rows of some crystals, given as a mask ``(S,)``."""
        return crystals[self._crystal_of_pair][self.pair]

    def keep(self, crystals: Tensor) -> tuple[AtomPairs, Selection]:
        """Keep some crystals, given as a mask ``(S,)``."""
        masks = crystals, crystals[self.system_index], crystals[self._crystal_of_pair], self.rows(crystals)
        kept = Selection(*(mask.nonzero().squeeze(1) for mask in masks))
        crystal, atom, pair, _ = (mask.cumsum(0) - 1 for mask in masks)
        atom = torch.cat([atom, atom.new_full((1,), len(kept.atoms))])  # fixed positions stay last
        pairs = AtomPairs(
            atom[self.low[kept.pairs]],
            atom[self.high[kept.pairs]],
            crystal[self.system_index[kept.atoms]],
            self.total[kept.crystals],
            pair[self.pair[kept.rows]],
            self.offset.index_select(2, kept.rows),
            self.bounds.index_select(2, kept.rows),
        )
        return pairs, kept


def _add_slots(values: Tensor) -> Tensor:
    """Sum ``(C, SLOTS, M)`` over the slots in a fixed order, which `sum` does not guarantee."""
    total = values[:, 0]
    for slot in range(1, SLOTS):
        total = total + values[:, slot]
    return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return scalar products of vectors ``(M, 3)``, ``(M,)``."""
    parts = a * b
    return parts[:, 0] + parts[:, 1] + parts[:, 2]
