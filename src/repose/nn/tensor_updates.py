"""Products of an atom's scalars, vectors and tensors with each other and with means of its crystal (ours).

Every function has two forms with equal results: operators of PyTorch, and a kernel in C for the CPU
(`repose.nn.kernels.native_tensors`). Mixed vectors ``(N, 3, 2F)`` and tensors ``(N, 5, 2F)`` hold two linear
maps of the features side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from repose import native
from repose.nn.kernels import native_tensors
from repose.nn.ops import safe_norm, segment_mean
from repose.nn.tensor_messages import Features
from repose.nn.tensors import applied, dyads


@dataclass(frozen=True, eq=False)
class Owners:
    """Crystals of the atoms of a batch.

    Attributes:
        index: Crystal of every atom, ``(N,)`` int64, ascending.
        start: First atom of every crystal, and the number of atoms, ``(S + 1,)`` int64.
    """

    index: Tensor
    start: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Means over crystals, ``(S, ...)``, of values of atoms, ``(N, ...)``."""
        return segment_mean(values, self.index, len(self.start) - 1)


def invariants(own: Tensor, vv: Tensor, tt: Tensor, owners: Owners, natively: bool) -> Tensor:
    """Invariants of atoms, ``(N, 5F)``.

    Five blocks of F: the scalars; their mean over the crystal; lengths of the first vectors; lengths of the
    first tensors; product of the first tensors with the mean of the second ones over the crystal, divided by
    one plus the length of that mean.

    Args:
        own: Scalars of atoms, ``(N, F)``.
        vv: Mixed vectors.
        tt: Mixed tensors.
        owners: Crystals of the atoms.
        natively: Use the kernel.
    """
    if natively:
        return native.applied(
            native_tensors.Invariants, own, vv.to(own), tt.to(own), owners.index, owners.start
        )
    t1, t2 = tt.chunk(2, dim=-1)
    whole, tensor = (owners.mean(part)[owners.index] for part in (own, t2))
    along = (t1 * tensor).sum(1) / (1 + safe_norm(tensor, dim=1))
    v1 = vv.chunk(2, dim=-1)[0]
    return torch.cat([own, whole, safe_norm(v1, dim=1), safe_norm(t1, dim=1), along], dim=-1)


def updated(
    features: Features, factors: Tensor, vv: Tensor, tt: Tensor, products: bool, natively: bool
) -> Features:
    """New features of atoms.

    Args:
        features: Features of atoms.
        factors: ``(N, 6F)``, six blocks: ``plain`` is added to scalars; ``factor`` multiplies products
            of both vectors and of both tensors, ``keep_v`` and ``keep_t`` the second vectors and tensors,
            ``turn`` second tensors applied to first vectors, ``square`` dyads of the second vectors.
        vv: Mixed vectors.
        tt: Mixed tensors.
        products: False leaves out the last two factors.
        natively: Use the kernel.
    """
    x, v, t = features
    scale = 1 / math.sqrt(x.shape[-1])
    if natively:
        scales = x.new_tensor([scale, scale * products])
        mixed = (part.to(x) for part in (factors, vv, tt))
        return Features(*native.applied(native_tensors.Update, *mixed, x, v, t, scales))  # type: ignore[misc]
    plain, factor, keep_v, keep_t, turn, square = factors.split(x.shape[-1], dim=-1)
    (v1, v2), (t1, t2) = vv.chunk(2, dim=-1), tt.chunk(2, dim=-1)
    x = x + plain + scale * factor * ((v1 * v2).sum(1) + (t1 * t2).sum(1))
    dv, dt = keep_v.unsqueeze(1) * v2, keep_t.unsqueeze(1) * t2
    if products:
        dv = dv + scale * turn.unsqueeze(1) * applied(t2, v1)
        dt = dt + scale * square.unsqueeze(1) * dyads(v2)
    return Features(x, v + dv, t + dt)


def readout(
    features: Features, gates: Tensor, of_v: Tensor, of_t: Tensor, owners: Owners, natively: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Displacements of atoms, and means of tensors and of invariants over crystals.

    Displacements ``(N, 3)`` have zero mean over every crystal. Tensors are ``(S, 5)``. Invariants ``(S, 3F)``
    are the scalars, the lengths of the vectors, and the lengths of the tensors of an atom.

    Args:
        features: Features of atoms.
        gates: ``(N, 2F)``; one plus them multiplies vectors and tensors.
        of_v: Weights that sum the F vectors to one displacement, ``(F,)``.
        of_t: The same for the tensors.
        owners: Crystals of the atoms.
        natively: Use the kernel.
    """
    x, v, t = features
    if natively:
        weights = (part.to(v) for part in (of_v, of_t))
        return native.applied(native_tensors.Readout, x.to(v), gates.to(v), v, t, *weights, owners.start)  # type: ignore[return-value]
    gate_v, gate_t = (1 + gates).unsqueeze(1).chunk(2, dim=-1)
    step = (gate_v * v) @ of_v
    lengths = torch.cat([x, safe_norm(v, dim=1), safe_norm(t, dim=1)], dim=-1)
    return step - owners.mean(step)[owners.index], owners.mean((gate_t * t) @ of_t), owners.mean(lengths)
