"""Outputs of networks for a batch of crystals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import volume
from repose.nn.ops import segment_sum

# Factor between the volumes before and after beyond which a prediction has diverged.
MAX_VOLUME_RATIO = 8.0


class Geometry(NamedTuple):
    """Positions ``(N, 3)`` in A and cells ``(S, 3, 3)`` in A (rows) after a layer."""

    positions: Tensor
    cells: Tensor


class ErrorScales(NamedTuple):
    """How large errors will be: Laplace scales, which are the means of absolute errors.

    Attributes:
        atoms: Of the components of an atom's position in A, ``(N,)``.
        strains: Of the strain from the predicted cell to the relaxed one, root mean square of its nine
            entries, ``(S,)``.
    """

    atoms: Tensor
    strains: Tensor


class Distances(NamedTuple):
    """Distances in the relaxed crystal, for families that find positions from them (DeepRelax).

    Attributes:
        relaxed: Length of every edge in A, ``(E,)``.
        scale: Laplace scale of these in A, ``(E,)``; None where none is predicted.
        anchored: Edges, ``(P,)`` int64, whose sender also has a known distance from the place where the
            receiver starts, as in the last of the layers.
        displaced: That distance in A, ``(P,)``.
        displaced_scale: Laplace scale of these in A, ``(P,)``, or None.
        exact: Look for the most probable positions, not for some within bounds.
    """

    relaxed: Tensor
    scale: Tensor | None
    anchored: Tensor
    displaced: Tensor
    displaced_scale: Tensor | None
    exact: bool = False


class Trajectory(NamedTuple):
    """The way of S crystals of N atoms in all from input to answer: T frames, both ends included.

    Attributes:
        positions: A, ``(T, N, 3)``.
        cells: Rows, A, ``(T, S, 3, 3)``.
        energies: eV per cell, ``(T, S)``.
        forces: eV/A, the negative gradient of the energy, ``(T, N, 3)``.
        stresses: eV/A^3, dE/dstrain over volume, sign as in ASE, ``(T, S, 3, 3)``.
    """

    positions: Tensor
    cells: Tensor
    energies: Tensor
    forces: Tensor
    stresses: Tensor


class Prediction(NamedTuple):
    """What a network says about a batch.

    Attributes:
        layers: Geometries in A, one a layer, the last of them the answer, or where `distances` has it start.
        latent: Features of every crystal, ``(S, F)``: what tells whether its like was seen in training.
        error_scales: Errors to expect, for families that predict positions.
        distances: For families that predict them.
        trajectory: The whole way, for families that know it (RelaxNet).
    """

    layers: list[Geometry]
    latent: Tensor
    error_scales: ErrorScales | None = None
    distances: Distances | None = None
    trajectory: Trajectory | None = None

    @property
    def geometry(self) -> Geometry:
        """The last of the layers."""
        return self.layers[-1]


class Motion(NamedTuple):
    """What a layer wants to do to a batch.

    Attributes:
        steps: Displacements of atoms in A, ``(N, 3)``.
        strains: Symmetric strains of crystals, ``(S, 3, 3)``.
    """

    steps: Tensor
    strains: Tensor


def is_valid(batch: CrystalBatch, found: Geometry) -> Tensor:
    """Which crystals are not lost: finite, and not more than `MAX_VOLUME_RATIO` times as large or small, ``(S,)`` bool.

    Args:
        batch: Where they began, N atoms in S crystals.
        found: Where they came to, A, of the same shapes.
    """
    ratio = volume(found.cells) / volume(batch.cells)
    broken = (~torch.isfinite(found.positions).all(-1)).to(ratio)  # atoms
    whole = segment_sum(broken, batch.system_index, len(batch)) == 0
    return (
        whole
        & torch.isfinite(found.cells).all(-1).all(-1)
        & (ratio > 1 / MAX_VOLUME_RATIO)
        & (ratio < MAX_VOLUME_RATIO)
    )
