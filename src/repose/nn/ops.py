"""Reductions over segments, and norms that are safe at zero."""

from __future__ import annotations

import torch
from torch import Tensor

# Length below which a vector counts as zero; sqrt(x^2 + EPS^2) - EPS has a finite slope there.
EPS = 1e-6


def segment_sum(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum rows that share an index: ``(M, ...)`` and ``(M,)`` give ``(n, ...)``."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, index, values)


def segment_mean(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Mean of rows that share an index; zero where there are none. Shapes as `segment_sum`."""
    counts = torch.bincount(index, minlength=n).clamp(min=1).to(values.dtype)
    return segment_sum(values, index, n) / counts.view(-1, *[1] * (values.ndim - 1))


def safe_norm(vectors: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Length of vectors, with zero gradient instead of NaN at zero length.

    Args:
        vectors: Any shape, components along ``dim``.
        dim: Axis of the components.
        keepdim: Keep that axis with size 1.

    Returns:
        Lengths; exactly zero for zero vectors.
    """
    square = vectors.square().sum(dim, keepdim)
    return torch.sqrt(square + EPS**2) - EPS


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Direction of vectors; goes smoothly to zero where the length is far below 1e-6."""
    square = vectors.square().sum(dim, keepdim=True)
    return vectors / torch.sqrt(square + EPS**2)
