"""Blocks with scalar features ``(M, F)`` and vector features ``(M, 3, F)``.

Only scalars pass through nonlinear functions; vectors are scaled by scalars and mixed linearly, so
that every block commutes with rotation and reflection (E3Relax, "Equivariance Analysis").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from repose.nn.ops import safe_norm


class ScaledSiLU(nn.Module):
    """SiLU / 0.6, which keeps the variance of a standard normal input near one."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every entry."""
        return nn.functional.silu(x) / 0.6


def mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Two linear layers with a scaled SiLU between them."""
    return nn.Sequential(nn.Linear(n_in, n_hidden), ScaledSiLU(), nn.Linear(n_hidden, n_out))


class SelfUpdate(nn.Module):
    """Gated mixing of a node's own scalars and vectors (E3Relax, equations 3-4 and 11-12).

    Args:
        features: Width F.
        keep_scalars: Add the scalars to their update, 1 + tanh in place of tanh in equations 3 and 11.
        keep_vectors: Add the vectors to their update, as in equation 12; False: equation 4 as printed.
    """

    def __init__(self, features: int, keep_scalars: bool = True, keep_vectors: bool = True) -> None:
        super().__init__()
        self.features = features
        self.keep_scalars = keep_scalars
        self.keep_vectors = keep_vectors
        self.mix = nn.Linear(features, 2 * features, bias=False)  # U and V side by side
        self.phi = mlp(2 * features, features, 3 * features)  # φ_s1, φ_s2, φ_v side by side

    def forward(self, m: Tensor, mv: Tensor) -> tuple[Tensor, Tensor]:
        """Return updated scalars ``(M, F)`` and vectors ``(M, 3, F)`` from the same shapes."""
        u, v = self.mix(mv).split(self.features, dim=-1)
        invariants = torch.cat([m, safe_norm(u, dim=1)], dim=-1)
        s1, s2, s3 = self.phi(invariants).split(self.features, dim=-1)
        gate = torch.tanh(s2)
        x = (s1 / math.sqrt(2) + (1 + gate) * m) / math.sqrt(2) if self.keep_scalars else s1 + gate * m
        change = s3.unsqueeze(1) * v
        return x, mv + change if self.keep_vectors else change
