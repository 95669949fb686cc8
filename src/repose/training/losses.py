"""Loss and validation errors, per crystal first and then averaged over crystals."""

from __future__ import annotations

from torch import Tensor

from repose.crystals import CrystalBatch
from repose.lattice import volume
from repose.models.network import Geometry
from repose.nn.ops import segment_mean


def geometry_errors(predicted: Geometry, target: CrystalBatch) -> tuple[Tensor, Tensor]:
    """Mean absolute differences of positions and of lattice vectors.

    The target's positions must stand in the periodic image nearest to the unrelaxed atom, as datasets
    store them.

    Args:
        predicted: Geometry of S crystals.
        target: The relaxed crystals.

    Returns:
        Errors in A, each ``(S,)``: over atoms and components; over the nine cell entries.
    """
    positions = segment_mean((predicted.positions - target.positions).abs().mean(-1), target.crystal, len(target))
    cells = (predicted.cells - target.cells).abs().mean((-1, -2))
    return positions, cells


def layerwise_loss(states: list[Geometry], target: CrystalBatch) -> Tensor:
    """Sum over layers of position and cell errors (E3Relax, equation 19, all weights 1).

    Args:
        states: Geometry after every layer that moves atoms.
        target: The relaxed crystals.

    Returns:
        A scalar in A.
    """
    errors = [sum(geometry_errors(state, target)) for state in states]
    return sum(error.mean() for error in errors)  # type: ignore[union-attr, return-value]


def validation_errors(predicted: Geometry, target: CrystalBatch) -> dict[str, Tensor]:
    """Errors that training watches, each ``(S,)``; the full set of metrics is `repose.evaluation`'s.

    Args:
        predicted: Geometry of S crystals.
        target: The relaxed crystals.

    Returns:
        ``coordinates`` A, ``lattice`` A, ``shape`` A^2, ``volume`` A^3.
    """
    positions, cells = geometry_errors(predicted, target)
    metric = predicted.cells @ predicted.cells.mT - target.cells @ target.cells.mT
    return {
        "coordinates": positions,
        "lattice": cells,
        "shape": metric.square().sum((-1, -2)).sqrt(),
        "volume": (volume(predicted.cells) - volume(target.cells)).abs(),
    }
