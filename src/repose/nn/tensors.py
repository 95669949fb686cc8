"""Symmetric traceless tensors of rank 2 as features ``(M, 5, F)``.

The five components refer to an orthonormal basis of such matrices: norms and scalar products of tensors are
those of the components. Matrix products are avoided, which mixed precision would round to bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HALF, SIXTH = 0.5**0.5, 6**-0.5

# Orthonormal matrices: xy, yz, zx, xx - yy, 2 zz - xx - yy.
BASIS = torch.zeros(5, 3, 3, dtype=torch.float64)
for _index, (_row, _column) in enumerate(((0, 1), (1, 2), (2, 0))):
    BASIS[_index, _row, _column] = BASIS[_index, _column, _row] = HALF
BASIS[3] = torch.diag(torch.tensor([HALF, -HALF, 0.0], dtype=torch.float64))
BASIS[4] = torch.diag(torch.tensor([-SIXTH, -SIXTH, 2 * SIXTH], dtype=torch.float64))

Columns = Sequence[Tensor]  # components, each of the same shape


def matrices(tensors: Tensor) -> Tensor:
    """Full matrices ``(M, 3, 3)`` of tensors ``(M, 5)``."""
    return (BASIS.to(tensors) * tensors[:, :, None, None]).sum(1)


def turns(directions: Tensor) -> Tensor:
    """Matrices ``(M, 3, 5)`` that apply tensors, as their five numbers, to directions ``(M, 3)``."""
    return (BASIS.to(directions).transpose(0, 1) * directions[:, None, None]).sum(-1)


def dyads(vectors: Tensor) -> Tensor:
    """Symmetric traceless parts ``(M, 5, ...)`` of products of vectors ``(M, 3, ...)`` with themselves."""
    columns = vectors.unbind(1)
    return torch.stack(dyad(columns, columns), dim=1)


def applied(tensors: Tensor, vectors: Tensor) -> Tensor:
    """Tensors times vectors of the same features: ``(M, 5, F)`` and ``(M, 3, F)`` give ``(M, 3, F)``."""
    return torch.stack(times(tensors.unbind(1), vectors.unbind(1)), dim=1)


def dyad(u: Columns, w: Columns) -> list[Tensor]:
    """Five components of the symmetric traceless part of the product of two vectors."""
    (a, b, c), (x, y, z) = u, w
    return [
        HALF * (a * y + b * x),
        HALF * (b * z + c * y),
        HALF * (c * x + a * z),
        HALF * (a * x - b * y),
        SIXTH * (2 * c * z - a * x - b * y),
    ]


def times(t: Columns, u: Columns) -> list[Tensor]:
    """Three components of a tensor times a vector."""
    xy, yz, zx, plane, axis = t
    x, y, z = u
    return [
        HALF * (plane * x + xy * y + zx * z) - SIXTH * axis * x,
        HALF * (xy * x - plane * y + yz * z) - SIXTH * axis * y,
        HALF * (zx * x + yz * y) + 2 * SIXTH * axis * z,
    ]
