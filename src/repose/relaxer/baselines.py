"""Trivial baselines of every table: the input unchanged, and the input at the expected volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.elements import MAX_NUMBER
from repose.errors import ShapeError
from repose.models.initial_structure import rescale_volume
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer

# Weight of the prior in pure crystals of an element: this much data moves its coefficient half-way from the
# mean. On the prototype data (2,954 training crystals, 68 elements) the volume error on the validation split
# is flat below 1 (18.1 A^3 at 0, 17.9 at 1) and rises above it (22.6 at 10).
RIDGE = 1.0


def fit_atomic_volumes(
    numbers: Sequence[np.ndarray], volumes: Sequence[float] | np.ndarray, ridge: float = RIDGE
) -> np.ndarray:
    """Fit the volume of an atom of every element by ridge regression of the volume per atom.

    Minimises over the coefficients c the sum over crystals of ``(V/n - fractions @ c)^2`` plus
    ``ridge * sum (c - mean)^2``, where mean is the average of V/n: the coefficient of a rare element is near
    the mean volume of an atom.

    Args:
        numbers: Atomic numbers of every crystal, each ``(n,)`` int.
        volumes: Volumes of the same crystals in A^3, ``(S,)``.
        ridge: Strength of the prior, in crystals; 0 gives the least-squares solution that deviates
            least from the mean.

    Returns:
        Coefficients in A^3 per atom by atomic number, ``(119,)`` float64; 0 for elements without data.

    Raises:
        ShapeError: There are no crystals, or the numbers of crystals and volumes differ.
    """
    volumes = np.asarray(volumes, dtype=float)
    if len(numbers) == 0 or volumes.shape != (len(numbers),):
        raise ShapeError(
            f"need one volume for each of at least one crystal; got {len(numbers)} crystals "
            f"and volumes of shape {volumes.shape}."
        )
    fractions = np.stack([np.bincount(z, minlength=MAX_NUMBER + 1) / len(z) for z in numbers])
    per_atom = volumes / np.array([len(z) for z in numbers])
    mean = per_atom.mean()
    seen = fractions.any(axis=0)
    # Fractions sum to one, so the mean can be subtracted before the fit and added after it.
    design, target = fractions[:, seen], per_atom - mean
    # The prior as additional rows: normal equations would square the condition number.
    design = np.concatenate([design, np.sqrt(ridge) * np.eye(design.shape[1])])
    target = np.concatenate([target, np.zeros(design.shape[1])])
    atomic = np.zeros(MAX_NUMBER + 1)
    atomic[seen] = mean + np.linalg.lstsq(design, target, rcond=None)[0]
    return atomic


class Dummy(Relaxer):
    """Returns the input unchanged."""

    name = "Dummy"

    def predict(self, batch: CrystalBatch) -> Geometry:
        """See `Relaxer.predict`."""
        return Geometry(batch.positions, batch.cells)


class Rescale(Relaxer):
    """Scales the input isotropically to the volume that its composition suggests.

    Fractional coordinates are kept. A crystal is unchanged if the fit has no data on one of its elements, or
    if its cell contains vacuum; see `repose.models.initial_structure.volume_ratio`.

    Args:
        atomic_volumes: From `fit_atomic_volumes`, A^3 per atom, ``(119,)``.
    """

    name = "Rescale"

    def __init__(self, atomic_volumes: np.ndarray) -> None:
        if np.shape(atomic_volumes) != (MAX_NUMBER + 1,):
            raise ShapeError(f"atomic_volumes must be ({MAX_NUMBER + 1},); got {np.shape(atomic_volumes)}.")
        self.atomic_volumes = torch.as_tensor(atomic_volumes)

    def predict(self, batch: CrystalBatch) -> Geometry:
        """See `Relaxer.predict`."""
        scaled = rescale_volume(batch, self.atomic_volumes)
        return Geometry(scaled.positions, scaled.cells)
