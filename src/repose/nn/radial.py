"""Radial basis and cutoff function."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GaussianBasis(nn.Module):
    """Gaussians evenly spaced over [0, reach], times an envelope that goes smoothly to zero at the reach.

    With reach 30 A and 128 functions (the published setting) messages are not zero at the 6 A cutoff of the
    graph: edges may stretch as the cell changes, and self-connecting edges are as long as the cell.

    Args:
        n_basis: Number of Gaussians R.
        reach: Distance in A where the functions vanish.
        exponent: Exponent p of the polynomial `envelope`.
    """

    def __init__(self, n_basis: int, reach: float, exponent: int = 5) -> None:
        super().__init__()
        self.reach = reach
        self.exponent = exponent
        centres = torch.linspace(0.0, 1.0, n_basis)
        self.register_buffer("centres", centres, persistent=False)
        self.width = float(centres[1] - centres[0])

    def forward(self, distance: Tensor) -> Tensor:
        """Expand distances in A ``(...,)`` to ``(..., R)``."""
        x = distance / self.reach
        centres: Tensor = self.centres  # type: ignore[assignment]
        gaussians = torch.exp(-0.5 * ((x.unsqueeze(-1) - centres) / self.width) ** 2)
        return gaussians * envelope(x, self.exponent).unsqueeze(-1)


def envelope(x: Tensor, p: int) -> Tensor:
    """Polynomial cutoff: one at zero, zero with two vanishing derivatives at x >= 1 (DimeNet, eq. 8).

    Args:
        x: Distance over cutoff, any shape.
        p: Exponent; a larger one lets it fall closer to the cutoff.
    """
    a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
    value = 1 + a * x**p + b * x ** (p + 1) + c * x ** (p + 2)
    return torch.where(x < 1, value, torch.zeros_like(value))
