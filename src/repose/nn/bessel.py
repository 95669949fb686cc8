"""Spherical Bessel functions and real spherical harmonics."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from repose.nn.radial import envelope


@cache
def bessel_roots(degrees: int, count: int) -> np.ndarray:
    """Return the first positive roots of the spherical Bessel functions j_0 ... j_(degrees - 1).

    Roots of neighbouring degrees interlace, so those of one degree lie between those of the one before.

    Returns:
        ``(degrees, count)``.
    """
    from scipy.optimize import brentq
    from scipy.special import spherical_jn

    roots = [np.pi * np.arange(1, count + degrees)]
    for degree in range(1, degrees):
        borders = zip(roots[-1][:-1], roots[-1][1:], strict=True)
        roots.append(
            np.array([brentq(lambda x, l=degree: spherical_jn(l, x), *pair) for pair in borders])  # noqa: E741
        )
    return np.stack([row[:count] for row in roots])


class BesselBasis(nn.Module):
    """Spherical Bessel functions ``j_l(z_ln d / cutoff)``, normalised on a ball, times a smooth cutoff.

    RelaxNet, equation 6a; normalisation and roots as in DimeNet.

    Args:
        degrees: l = 0 ... degrees - 1, at most 4.
        count: Functions n of every degree.
        cutoff: Distance in A where the functions vanish.
    """

    def __init__(self, degrees: int, count: int, cutoff: float) -> None:
        super().__init__()
        from scipy.special import spherical_jn

        self.cutoff = cutoff
        roots = bessel_roots(degrees, count)
        height = np.stack([spherical_jn(degree + 1, row) for degree, row in enumerate(roots)])
        self.roots: Tensor
        self.scale: Tensor
        self.register_buffer("roots", torch.tensor(roots, dtype=torch.float32), persistent=False)
        scale = torch.tensor(np.sqrt(2.0) / np.abs(height), dtype=torch.float32)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Expand distances in A ``(E,)`` to ``(E, degrees, count)``; not for distances below 0.1 A."""
        x = distance / self.cutoff
        values = [
            spherical_bessel(degree, x.unsqueeze(-1) * roots) for degree, roots in enumerate(self.roots)
        ]
        return torch.stack(values, dim=1) * self.scale * envelope(x, 5)[:, None, None]


def spherical_bessel(degree: int, x: Tensor) -> Tensor:
    """Return j_l (RelaxNet, equation 6a) by upward recursion from j_0 and j_1; not for x far below l."""
    sine, cosine = torch.sin(x) / x, torch.cos(x) / x
    before, value = sine, sine / x - cosine
    if degree == 0:
        return before
    for order in range(1, degree):
        before, value = value, (2 * order + 1) / x * value - before
    return value


def spherical_harmonics(directions: Tensor, degrees: int) -> list[Tensor]:
    """Real spherical harmonics, normalised so that the squares of one degree add up to ``2 l + 1``.

    Polynomials in the components, so smooth everywhere, poles included (RelaxNet, equation 5).

    Args:
        directions: Unit vectors, ``(E, 3)``.
        degrees: l = 0 ... degrees - 1, at most 4.

    Returns:
        By degree, ``(E, 2 l + 1)``.
    """
    x, y, z = directions.unbind(-1)
    s3, s5, s7 = math.sqrt(3), math.sqrt(5), math.sqrt(7)
    s15, s35, s105 = math.sqrt(15), math.sqrt(35 / 8), math.sqrt(105)
    of_three = math.sqrt(21 / 8)
    columns = [
        [torch.ones_like(x)],
        [s3 * x, s3 * y, s3 * z],
        [s15 * x * y, s15 * y * z, s5 / 2 * (3 * z * z - 1), s15 * x * z, s15 / 2 * (x * x - y * y)],
        [
            s35 * y * (3 * x * x - y * y),
            s105 * x * y * z,
            of_three * y * (5 * z * z - 1),
            s7 / 2 * z * (5 * z * z - 3),
            of_three * x * (5 * z * z - 1),
            s105 / 2 * z * (x * x - y * y),
            s35 * x * (x * x - 3 * y * y),
        ],
    ]
    return [torch.stack(degree, dim=-1) for degree in columns[:degrees]]
