"""How far features are from those of the training crystals."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MahalanobisDistance(nn.Module):
    """Mahalanobis distance of features from a set of them, over the square root of their number.

    Its mean square over the set is about one. Until it is fitted, everything is familiar: distances are zero.

    Args:
        features: Width F.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.whitening: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.zeros(features, features))

    @torch.no_grad()
    def fit(self, latent: Tensor) -> None:
        """Take mean and covariance of features ``(M, F)``; directions without any spread get a little."""
        centred = (latent - latent.mean(0)).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(latent))
        scale = (values + 1e-4 * values.mean().clamp(min=1e-12)).rsqrt() / len(values) ** 0.5
        self.mean.copy_(latent.mean(0))
        self.whitening.copy_(vectors * scale)

    def forward(self, latent: Tensor) -> Tensor:
        """Distance of features ``(S, F)``: ``(S,)``."""
        centred = latent.to(self.mean) - self.mean
        return (centred @ self.whitening).square().sum(-1).sqrt()
