"""Outputs of networks for a batch of crystals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import volume
from repose.nn.ops import segment_sum

# Ratio of predicted to input volume beyond which a prediction counts as diverged.
MAX_VOLUME_RATIO = 8.0


class Geometry(NamedTuple):
    """Positions ``(N, 3)`` in A and cells ``(S, 3, 3)`` in A (rows) after a layer."""

    positions: Tensor
    cells: Tensor


class ErrorScales(NamedTuple):
    """Predicted Laplace scales of the errors, which are expected absolute errors.

    Attributes:
        atoms: Scale of the components of every atom's position in A, ``(N,)``.
        strains: Scale of the strain from the predicted to the relaxed cell, root mean square of its nine
            entries, ``(S,)``.
    """

    atoms: Tensor
    strains: Tensor


class Distances(NamedTuple):
    """Predicted distances in the relaxed crystal, for families that solve for positions (DeepRelax).

    Attributes:
        relaxed: Length of every edge in A, ``(E,)``.
        scale: Laplace scale of ``relaxed`` in A, ``(E,)``, or None.
        anchored: Edges, ``(P,)`` int64, with a second distance: from the receiver's starting position, as in
            the last geometry, to the sender's relaxed position.
        displaced: That distance in A, ``(P,)``.
        displaced_scale: Laplace scale of ``displaced`` in A, ``(P,)``, or None.
        exact: Solve for the most probable positions instead of positions within bounds.
    """

    relaxed: Tensor
    scale: Tensor | None
    anchored: Tensor
    displaced: Tensor
    displaced_scale: Tensor | None
    exact: bool = False


class Trajectory(NamedTuple):
    """Relaxation paths of S crystals with N atoms in all: T frames, input and relaxed crystal included.

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
    """Output of a network for a batch.

    Attributes:
        layers: Geometry in A after every layer. The last is the relaxed crystal or, with `distances`, the
            start of the search for positions.
        latent: Mean features of every crystal, ``(S, F)``, for the out-of-distribution distance.
        error_scales: Expected errors, for families that predict positions.
        distances: Distances, for families that predict them.
        trajectory: Relaxation paths, for families that predict them (RelaxNet).
        input_scales: Expected errors of the input, for families that predict them.
    """

    layers: list[Geometry]
    latent: Tensor
    error_scales: ErrorScales | None = None
    distances: Distances | None = None
    trajectory: Trajectory | None = None
    input_scales: ErrorScales | None = None

    @property
    def geometry(self) -> Geometry:
        """Geometry after the last layer."""
        return self.layers[-1]


class Motion(NamedTuple):
    """Readout of one layer.

    Attributes:
        steps: Displacements of atoms in A, ``(N, 3)``.
        strains: Symmetric strains of crystals, ``(S, 3, 3)``.
    """

    steps: Tensor
    strains: Tensor


def is_valid(batch: CrystalBatch, found: Geometry) -> Tensor:
    """Return which predictions are finite with a volume ratio below `MAX_VOLUME_RATIO`, ``(S,)`` bool."""
    ratio = volume(found.cells) / volume(batch.cells)
    not_finite = (~torch.isfinite(found.positions).all(-1)).to(ratio)  # (N,)
    return (
        (segment_sum(not_finite, batch.system_index, len(batch)) == 0)
        & torch.isfinite(found.cells).all(-1).all(-1)
        & (ratio > 1 / MAX_VOLUME_RATIO)
        & (ratio < MAX_VOLUME_RATIO)
    )
