"""Loss and validation errors, per crystal first and then averaged over crystals."""

from __future__ import annotations

from torch import Tensor

from repose.crystals import CrystalBatch
from repose.lattice import nearest_image, volume
from repose.models.network import Geometry
from repose.nn.ops import safe_norm, segment_mean


def layerwise_loss(
    states: list[Geometry],
    target: CrystalBatch,
    shape_weight: float = 0.0,
    volume_weight: float = 0.0,
    images: str = "unrelaxed",
) -> Tensor:
    """Sum over layers of position and cell errors (E3Relax, equation 19, all weights 1).

    Args:
        states: Geometry after every layer that moves atoms.
        target: The relaxed crystals.
        shape_weight: Weight in 1/A of the cell-shape deviation, a term of ours.
        volume_weight: Weight in 1/A^2 of the volume error, a term of ours.
        images: See `validation_errors`.

    Returns:
        A scalar in A.
    """
    weights = {"coordinates": 1.0, "lattice": 1.0, "shape": shape_weight, "volume": volume_weight}
    total = target.positions.new_zeros(())
    for state in states:
        for name, error in validation_errors(state, target, images).items():
            if weights[name]:
                total = total + weights[name] * error.mean()
    return total


def validation_errors(
    predicted: Geometry, target: CrystalBatch, images: str = "unrelaxed"
) -> dict[str, Tensor]:
    """Errors that training watches, each ``(S,)``; the full set of metrics is `repose.evaluation`'s.

    Args:
        predicted: Geometry of S crystals.
        target: The relaxed crystals, every atom in the image nearest to the unrelaxed one, as stored.
        images: ``"unrelaxed"`` compares with that image; ``"predicted"`` with the one under the target cell
            that is nearest to the predicted atom, the periodicity-aware loss of E3Relax-H2.

    Returns:
        ``coordinates`` A, mean over atoms and components; ``lattice`` A, mean over the nine cell entries;
        ``shape`` A^2; ``volume`` A^3.
    """
    differences = predicted.positions - target.positions
    if images == "predicted":
        differences = nearest_image(differences, target.cells, target.crystal)
    differences = differences.abs().mean(-1)
    # Products written out: mixed precision would round a matrix product to bfloat16.
    metric = _gram(predicted.cells) - _gram(target.cells)
    return {
        "coordinates": segment_mean(differences, target.crystal, len(target)),
        "lattice": (predicted.cells - target.cells).abs().mean((-1, -2)),
        "shape": safe_norm(metric.flatten(1)),
        "volume": (volume(predicted.cells) - volume(target.cells)).abs(),
    }


def _gram(cells: Tensor) -> Tensor:
    return (cells.unsqueeze(2) * cells.unsqueeze(1)).sum(-1)
