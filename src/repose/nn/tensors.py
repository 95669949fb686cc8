"""Symmetric traceless tensors of rank 2 as features ``(M, 5, F)``, beside scalars and vectors.

The five numbers are coefficients on an orthonormal basis of such matrices, so that lengths and products of
tensors are those of the five numbers, and sums over neighbours handle five instead of nine.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF, SIXTH = 0.5**0.5, 6**-0.5

# Orthonormal matrices: xy, yz, zx, xx - yy, 2 zz - xx - yy.
BASIS = torch.zeros(5, 3, 3, dtype=torch.float64)
for _index, (_row, _column) in enumerate(((0, 1), (1, 2), (2, 0))):
    BASIS[_index, _row, _column] = BASIS[_index, _column, _row] = HALF
BASIS[3] = torch.diag(torch.tensor([HALF, -HALF, 0.0], dtype=torch.float64))
BASIS[4] = torch.diag(torch.tensor([-SIXTH, -SIXTH, 2 * SIXTH], dtype=torch.float64))


def matrices(tensors: Tensor) -> Tensor:
    """Full matrices ``(M, 3, 3, ...)`` of tensors ``(M, 5, ...)``."""
    return torch.einsum("kij,nk...->nij...", BASIS.to(tensors), tensors)


def components(matrix: Tensor) -> Tensor:
    """Tensors ``(M, 5, ...)``: symmetric traceless parts of matrices ``(M, 3, 3, ...)``."""
    return torch.einsum("kij,nij...->nk...", BASIS.to(matrix), matrix)


def dyads(vectors: Tensor) -> Tensor:
    """Symmetric traceless parts ``(M, 5, ...)`` of products of vectors ``(M, 3, ...)`` with themselves."""
    x, y, z = vectors.unbind(1)
    double, square = 2 * HALF, z.square()
    plane = x.square() + y.square()
    return torch.stack(
        [
            double * x * y,
            double * y * z,
            double * z * x,
            HALF * (x.square() - y.square()),
            SIXTH * (2 * square - plane),
        ],
        dim=1,
    )


def applied(tensors: Tensor, vectors: Tensor) -> Tensor:
    """Tensors times vectors of the same features: ``(M, 5, F)`` and ``(M, 3, F)`` give ``(M, 3, F)``."""
    return (matrices(tensors) * vectors.unsqueeze(1)).sum(2)
