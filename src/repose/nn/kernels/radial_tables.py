"""Radial filters interpolated by splines: four rows per edge instead of a product with the radial basis.

A filter is a linear map of a radial basis: a smooth function of the distance for every channel. Cubic
B-splines with knots at a sixth of a Gaussian's width reproduce it to a relative error of some 1e-5.
"""

from __future__ import annotations

from functools import cache
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

    def times(self, factor: Tensor) -> Place:
        """Places with weights times a factor ``(E,)``."""
        return self._replace(weights=self.weights * factor.unsqueeze(-1))


def spacing(radial: GaussianBasis) -> float:
    """Distance between knots in A."""
    return radial.width * radial.reach / KNOTS_PER_WIDTH


def last_knot(radial: GaussianBasis) -> int:
    """First knot of the last interval, which ends just beyond the reach."""
    return BEFORE + int(radial.reach / spacing(radial))


def place(distance: Tensor, radial: GaussianBasis) -> Place:
    """Return the places of distances in A ``(E,)``; those beyond the last knot are clamped to it."""
    last = last_knot(radial)
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
        with torch.no_grad():
            values = spline(linear, radial, scale, torch.float64)
        self.coefficients: Tensor
        self.register_buffer("coefficients", values.to(linear.weight).contiguous(), persistent=False)

    def forward(self, place: Place) -> Tensor:
        """Values ``(E, C)``."""
        coefficients = self.coefficients
        rows = place.knot.unsqueeze(1) + torch.arange(4, device=place.knot.device)
        return nn.functional.embedding_bag(rows, coefficients, per_sample_weights=place.weights, mode="sum")


class Compiled(nn.Module):
    """Base of modules that have compiled kernels.

    Attributes:
        compiled: Use them.
    """

    compiled = False


class Tabulated(Compiled):
    """Base of modules whose radial filters may be read from a table, except in training.

    Attributes:
        table: The table, or None before `tabulate`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table: SplineTable | None = None

    def tabulate(self, radial: GaussianBasis) -> None:
        """Compute the table for a radial basis and the present weights."""
        raise NotImplementedError


def spline(linear: nn.Linear, radial: GaussianBasis, scale: float, real: torch.dtype | None = None) -> Tensor:
    """Coefficients of the spline of a linear map of a radial basis, ``(T, C)``, with gradients for the map.

    Args:
        linear: The map, R to C channels.
        radial: The basis.
        scale: Factor on the values.
        real: Type to compute in; that of the weights by default.
    """
    real = real or linear.weight.dtype
    weight, device = linear.weight.to(real), linear.weight.device
    matrix = _basis_spline(len(radial.centres), radial.reach, radial.exponent).to(device, real)  # type: ignore[arg-type]
    with torch.autocast(device.type, enabled=False):
        coefficients = matrix[:, :-1] @ weight.T
        if linear.bias is not None:
            coefficients = coefficients + matrix[:, -1:] * linear.bias.to(real)
        return scale * coefficients


@cache
def _basis_spline(n_basis: int, reach: float, exponent: int) -> Tensor:
    """Coefficients of the radial functions and of one, in float64, ``(T, R + 1)``."""
    radial = GaussianBasis(n_basis, reach, exponent).double()
    knots = torch.arange(-BEFORE, int(reach / spacing(radial)) + 2).double() * spacing(radial)
    return _spline(torch.cat([radial(knots), torch.ones(len(knots), 1).double()], dim=-1))


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
