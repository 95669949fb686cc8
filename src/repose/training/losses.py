"""Training loss and validation errors, averaged per crystal first and then over crystals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from repose.config import TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph, edge_vectors
from repose.crystal.lattice import deformation, follow_cell, nearest_image, to_cartesian, volume
from repose.errors import ConfigError
from repose.models.prediction import ErrorScales, Geometry, Prediction
from repose.nn.ops import safe_norm, segment_mean

# Distances below it in A count as this much in the weights of `bond_loss`.
MIN_DISTANCE = 0.5


def training_loss(
    prediction: Prediction,
    start: CrystalBatch,
    graph: PeriodicGraph,
    target: CrystalBatch,
    settings: TrainSettings,
    follow: bool,
) -> Tensor:
    """Training loss of a batch, from a prediction of any family.

    The terms depend on the fields of the prediction. With ``follow`` atoms follow the cell
    (``frame="affine"``).
    """
    if prediction.distances is not None:
        weighting = settings.lattice_weight, settings.reduction
        return distance_loss(prediction, start, graph, target, follow, *weighting)
    weights = settings.shape_weight, settings.volume_weight, settings.dilation_weight
    errors = settings.images, settings.tolerance
    loss = layerwise_loss(prediction.layers, target, *weights, *errors, settings.layer_weights)
    if settings.bond_weight:
        bonds = bond_loss(prediction.geometry, graph, target, settings.tolerance)
        loss = loss + settings.bond_weight * bonds
    if prediction.error_scales is not None:
        loss = loss + scale_loss(prediction.error_scales, prediction.geometry, target, settings.images)
    if prediction.input_scales is not None:
        before = Geometry(start.positions, start.cells)
        loss = loss + scale_loss(prediction.input_scales, before, target, settings.images)
    return loss


def bond_loss(
    predicted: Geometry, graph: PeriodicGraph, target: CrystalBatch, tolerance: float = 0.0
) -> Tensor:
    """Mean error of the distances of neighbours in A, weighted by the inverse sixth power of the distance.

    Short distances are stiff: an optimizer takes most of its steps for them.

    Args:
        predicted: Predicted geometry.
        graph: Neighbours in the starting geometry.
        target: The relaxed crystals.
        tolerance: See `validation_errors`.
    """
    true = safe_norm(edge_vectors(graph, target.positions, target.cells)).clamp(min=MIN_DISTANCE)
    lengths = safe_norm(edge_vectors(graph, *predicted))
    weights, n = true**-6, len(target)
    errors = segment_mean(weights * _softened((lengths - true).abs(), tolerance), graph.system_index, n)
    return (errors / segment_mean(weights, graph.system_index, n).clamp(min=1e-12)).mean()


def distance_loss(
    prediction: Prediction,
    start: CrystalBatch,
    graph: PeriodicGraph,
    target: CrystalBatch,
    follow: bool,
    lattice_weight: float = 1.0,
    reduction: str = "crystals",
) -> Tensor:
    """Loss of distances, displacements and lattice (DeepRelax, equations 11 to 15).

    Displacements are relative to the starting positions; with ``follow``, to these moved along with the cell.
    For ``reduction`` see `TrainSettings`.

    Raises:
        ValueError: The prediction has no distances.
    """
    distances = prediction.distances
    if distances is None:
        raise ValueError("expected a prediction with distances; got one without.")
    n, edges = len(target), distances.anchored
    relaxed, displaced = true_distances(edges, start, graph, target, follow)
    pairs = laplace(distances.relaxed - relaxed, distances.scale)
    moves = laplace(distances.displaced - displaced, distances.displaced_scale)
    cells = [(layer.cells - target.cells).abs() for layer in prediction.layers]
    if reduction == "crystals":
        pairs = segment_mean(pairs, graph.system_index, n)
        moves = segment_mean(moves, graph.system_index[edges], n)
        lattice = sum(errors.mean((-1, -2)) for errors in cells)
        return (pairs + moves + lattice_weight * lattice).mean()

    def reduced(errors: Tensor) -> Tensor:
        return errors.sum() if reduction == "sum" else errors.sum() / max(errors.numel(), 1)

    return reduced(pairs) + reduced(moves) + lattice_weight * sum(map(reduced, cells))


def true_distances(
    anchored: Tensor, start: CrystalBatch, graph: PeriodicGraph, target: CrystalBatch, follow: bool
) -> tuple[Tensor, Tensor]:
    """Targets of `Distances.relaxed` ``(E,)`` and `Distances.displaced` ``(P,)`` in A.

    Displacements start as in `distance_loss`; ``anchored`` is that of the distances.
    """
    offset = to_cartesian(graph.shift, target.cells, graph.system_index)
    origin = start.positions
    if follow:
        origin = follow_cell(origin, start.cells, target.cells, target.system_index)
    neighbours = target.positions[graph.sender[anchored]] + offset[anchored]
    displaced = safe_norm(neighbours - origin[graph.receiver[anchored]])
    return safe_norm(edge_vectors(graph, target.positions, target.cells)), displaced


def scale_loss(scales: ErrorScales, predicted: Geometry, target: CrystalBatch, images: str) -> Tensor:
    """Laplace negative log-likelihood of the errors, given predicted scales.

    The gradient flows to the scales only, not to the prediction. For ``images`` see `validation_errors`.
    """
    atoms, strains = component_errors(Geometry(*(part.detach() for part in predicted)), target, images)
    of_atoms = segment_mean(laplace(atoms, scales.atoms), target.system_index, len(target))
    return (of_atoms + laplace(strains, scales.strains)).mean()


def component_errors(predicted: Geometry, target: CrystalBatch, images: str) -> tuple[Tensor, Tensor]:
    """Errors that scales describe: mean over x, y, z of every atom, A ``(N,)``, and strain ``(S,)``."""
    strain = deformation(predicted.cells, target.cells) - torch.eye(3).to(target.cells)
    return _position_errors(predicted, target, images), strain.square().mean((-1, -2)).sqrt()


def _position_errors(
    predicted: Geometry, target: CrystalBatch, images: str, tolerance: float = 0.0
) -> Tensor:
    """Mean over x, y, z of the absolute error of every position, A, ``(N,)``; see `validation_errors`."""
    differences = predicted.positions - target.positions
    if images == "predicted":
        differences = nearest_image(differences, target.cells, target.system_index)
    return _softened(differences.abs(), tolerance).mean(-1)


def _softened(errors: Tensor, tolerance: float) -> Tensor:
    """Return ``e^2 / (e + tolerance)`` for errors ``e``: quadratic far below the tolerance."""
    return errors.square() / (errors + tolerance) if tolerance else errors


def laplace(error: Tensor, scale: Tensor | None) -> Tensor:
    """Laplace negative log-likelihood of errors for scales in A; the absolute error without scales."""
    return error.abs() if scale is None else torch.log(2 * scale) + error.abs() / scale


def layerwise_loss(
    geometries: list[Geometry],
    target: CrystalBatch,
    shape_weight: float = 0.0,
    volume_weight: float = 0.0,
    dilation_weight: float = 0.0,
    images: str = "unrelaxed",
    tolerance: float = 0.0,
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """Sum over layers of position and cell errors (E3Relax, equation 19, with means for sums).

    Args:
        geometries: Geometry after every layer that moves atoms.
        target: The relaxed crystals.
        shape_weight: Weight of the cell-shape deviation in 1/A, not in the paper.
        volume_weight: Weight of the volume error in 1/A^2, not in the paper.
        dilation_weight: Weight of the logarithm of the volume ratio in A, not in the paper.
        images: See `validation_errors`.
        tolerance: See `validation_errors`.
        layer_weights: Weights of the layers; None: all 1.

    Returns:
        A scalar in A.

    Raises:
        ConfigError: There are more or fewer weights than layers.
    """
    layer_weights = [1.0] * len(geometries) if layer_weights is None else layer_weights
    if len(layer_weights) != len(geometries):
        raise ConfigError(
            f"layer_weights has {len(layer_weights)} numbers, but the network predicts a geometry "
            f"{len(geometries)} times; give one number for each."
        )
    weights = {"coordinates": 1.0, "lattice": 1.0, "shape": shape_weight, "volume": volume_weight}
    total = target.positions.new_zeros(())
    for geometry, alpha in zip(geometries, layer_weights, strict=True):
        for name, error in validation_errors(geometry, target, images, tolerance).items():
            if weights[name]:
                total = total + alpha * weights[name] * error.mean()
        if dilation_weight:
            ratio = (volume(geometry.cells) / volume(target.cells)).clamp(min=1e-3).log().abs()
            total = total + alpha * dilation_weight * _softened(ratio, tolerance).mean()
    return total


def validation_errors(
    predicted: Geometry, target: CrystalBatch, images: str = "unrelaxed", tolerance: float = 0.0
) -> dict[str, Tensor]:
    """Validation errors of S crystals, ``(S,)`` each; see `repose.evaluation.metrics` for all metrics.

    Args:
        predicted: Predicted geometry.
        target: The relaxed crystals, every atom in the image nearest to the unrelaxed one, as stored.
        images: Periodic image of the target: ``"unrelaxed"``, as stored, or ``"predicted"``, nearest to the
            predicted atom under the target cell (periodicity-aware loss of E3Relax-H2).
        tolerance: Errors e in A of components of positions and cells count as ``e^2 / (e + tolerance)``.

    Returns:
        ``coordinates`` A, mean over atoms and components; ``lattice`` A, mean over the nine cell entries;
        ``shape`` A^2; ``volume`` A^3.
    """
    # Not a matrix product, which mixed precision would round to bfloat16.
    metric = _gram(predicted.cells) - _gram(target.cells)
    return {
        "coordinates": segment_mean(
            _position_errors(predicted, target, images, tolerance), target.system_index, len(target)
        ),
        "lattice": _softened((predicted.cells - target.cells).abs(), tolerance).mean((-1, -2)),
        "shape": safe_norm(metric.flatten(1)),
        "volume": (volume(predicted.cells) - volume(target.cells)).abs(),
    }


def _gram(cells: Tensor) -> Tensor:
    return (cells.unsqueeze(2) * cells.unsqueeze(1)).sum(-1)
