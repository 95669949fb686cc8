"""Distance of a crystal's features from those of the training crystals."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MahalanobisDistance(nn.Module):
    """Mahalanobis distance of features from a fitted set, over the square root of the number of features.

    Its mean square over the set is about one. Before `fit` all distances are zero.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.whitening: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.zeros(features, features))

    @torch.no_grad()
    def fit(self, latent: Tensor) -> None:
        """Set mean and covariance from features ``(M, F)``; a small ridge keeps the covariance invertible."""
        centred = (latent - latent.mean(0)).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(latent))
        scale = (values + 1e-4 * values.mean().clamp(min=1e-12)).rsqrt() / len(values) ** 0.5
        self.mean.copy_(latent.mean(0))
        self.whitening.copy_(vectors * scale)

    def forward(self, latent: Tensor) -> Tensor:
        """Distances ``(S,)`` of features ``(S, F)``."""
        centred = latent.to(self.mean) - self.mean
        return (centred @ self.whitening).square().sum(-1).sqrt()
