"""Embeddings of the elements: free vectors, or a network on tabulated properties."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from repose.crystal.elements import MAX_NUMBER, element_properties
from repose.nn.equivariant import mlp


class ElementEmbedding(nn.Module):
    """Scalar features of an atom from its atomic number.

    Args:
        features: Width F.
        kind: ``"free"``: one learned vector per element, initialised uniformly in [-sqrt 3, sqrt 3], as in
            E3Relax. ``"properties"``: a small network on tabulated properties, which gives similar elements
            similar embeddings and generalises better from few data.
        noise: Standard deviation of training noise on the standardised properties, the same for all atoms of
            an element in a batch.
    """

    def __init__(self, features: int, kind: str, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.table: nn.Embedding | None = None
        if kind == "free":
            self.table = nn.Embedding(MAX_NUMBER + 1, features)
            nn.init.uniform_(self.table.weight, -math.sqrt(3), math.sqrt(3))
        else:
            properties = torch.tensor(element_properties())  # a copy: loading weights writes into it
            # Saved with the weights: a trained model does not depend on later tables.
            self.register_buffer("properties", properties)
            self.net = mlp(properties.shape[1], features, features)

    def forward(self, numbers: Tensor) -> Tensor:
        """Embed atomic numbers ``(N,)`` as ``(N, F)``."""
        if self.table is not None:
            return self.table(numbers)
        properties: Tensor = self.properties  # type: ignore[assignment]
        if self.training and self.noise:
            properties = properties + self.noise * torch.randn_like(properties)
        return self.net(properties)[numbers]
