"""Radial filters interpolated by splines: four rows per edge instead of a product with the radial basis.

A filter is a linear map of a radial basis: a smooth function of the distance for every channel. Cubic
B-splines with knots at a sixth of a Gaussian's width reproduce it to a relative error of some 1e-5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from repose.nn.radial import GaussianBasis

KNOTS_PER_WIDTH = 6
BEFORE = 4  # knots below zero, which keep the boundary conditions of the spline away from distances in use


class Place(NamedTuple):
    """Places of distances among the knots.

    Attributes:
        knot: First of the four coefficients, ``(E,)`` int64.
        weights: Of the four coefficients from there on, ``(E, 4)``.
    """

    knot: Tensor
    weights: Tensor


def spacing(radial: GaussianBasis) -> float:
    """Distance between knots in A."""
    return radial.width * radial.reach / KNOTS_PER_WIDTH


def place(distance: Tensor, radial: GaussianBasis) -> Place:
    """Return the places of distances in A ``(E,)``; those beyond the last knot are clamped to it."""
    last = BEFORE + int(radial.reach / spacing(radial))  # the last interval ends just beyond the reach
    x = (distance / spacing(radial) + BEFORE).clamp(max=last + 1)
    knot = x.floor().clamp(max=last)
    t = x - knot
    weights = torch.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=-1
    )
    return Place(knot.long(), weights / 6)


class SplineTable(nn.Module):
    """Cubic B-spline interpolation of a linear map of a radial basis.

    Args:
        linear: The map, R to C channels.
        radial: The basis.
        scale: Factor on the values.
    """

    def __init__(self, linear: nn.Linear, radial: GaussianBasis, scale: float = 1.0) -> None:
        super().__init__()
        # Computed in float64 for weights of any type.
        knots = torch.arange(-BEFORE, int(radial.reach / spacing(radial)) + 2).double() * spacing(radial)
        values = _in_double(linear, radial, knots) * scale  # (n, C)
        self.coefficients: Tensor
        self.register_buffer("coefficients", _spline(values).to(linear.weight).contiguous(), persistent=False)

    def forward(self, place: Place) -> Tensor:
        """Values ``(E, C)``."""
        coefficients = self.coefficients
        rows = place.knot.unsqueeze(1) + torch.arange(4, device=place.knot.device)
        return nn.functional.embedding_bag(rows, coefficients, per_sample_weights=place.weights, mode="sum")


class Tabulated(nn.Module):
    """Base of modules whose radial filters may be read from a table, except in training.

    Attributes:
        table: The table, or None before `tabulate`.
        compiled: Use a compiled kernel, if the module has one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table: SplineTable | None = None
        self.compiled = False

    def tabulate(self, radial: GaussianBasis) -> None:
        """Compute the table for a radial basis and the present weights."""
        raise NotImplementedError


def _in_double(linear: nn.Linear, radial: GaussianBasis, distance: Tensor) -> Tensor:
    basis = GaussianBasis(len(radial.centres), radial.reach, radial.exponent).double()  # type: ignore[arg-type]
    bias = None if linear.bias is None else linear.bias.detach().double().cpu()
    return nn.functional.linear(basis(distance), linear.weight.detach().double().cpu(), bias)


def _spline(values: Tensor) -> Tensor:
    """Coefficients ``(n + 2, C)`` of the natural cubic B-spline through values ``(n, C)`` at even knots."""
    n = len(values)
    matrix = torch.zeros(n + 2, n + 2, dtype=values.dtype)
    inner = torch.arange(n)
    for offset, weight in enumerate((1 / 6, 4 / 6, 1 / 6)):
        matrix[inner + 1, inner + offset] = weight
    for row, start in ((0, 0), (n + 1, n - 1)):  # the second derivative vanishes at both ends
        matrix[row, start : start + 3] = torch.tensor([1.0, -2.0, 1.0], dtype=values.dtype)
    border = values.new_zeros(1, values.shape[1])
    return torch.linalg.solve(matrix, torch.cat([border, values, border]))
