"""Calibration of a trained model on held-out crystals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repose.crystal.graph import edge_vectors
from repose.data.dataset import Pair
from repose.errors import ConfigError
from repose.evaluation.metrics import coordinate_error, move_to_image
from repose.models.checkpoint import CARD, load_model, save_model
from repose.models.network import Network
from repose.models.prediction import Geometry
from repose.models.uncertainty.calibration import (
    IN_DISTRIBUTION,
    LEVELS,
    Calibration,
    element_pairs,
    fit_bound,
    quantile,
)
from repose.models.uncertainty.expected_errors import expected_errors
from repose.training.losses import component_errors
from repose.training.prefetch import prefetched
from repose.training.samples import EdgeCounter, Sample, ValidationBatches
from repose.training.stopwatch import part

# Training crystals that represent the distribution of features.
MAX_REFERENCE_CRYSTALS = 4000


def calibrate_model(
    directory: Path,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    name: str,
    edges_per_batch: int = 12_000,
    progress: Callable[[int], None] | None = None,
    previous: Calibration | None = None,
    edge_counter: EdgeCounter | None = None,
    compiled: bool = False,
) -> Calibration | None:
    """Calibrate a model directory, which is replaced atomically.

    Args:
        directory: The model.
        train: Training crystals, which define the training distribution.
        held_out: Unrelaxed crystals that were not used in training, of the same kind as in use.
        name: Name of the held-out crystals.
        edges_per_batch: Limit of edges in a forward pass.
        progress: Called with the number of crystals done, after every batch.
        previous: Calibration of the model that training started from, whose element pairs are kept.
        edge_counter: See `repose.training.samples.TrainingBatches`.
        compiled: Use compiled kernels, see `Network.compile_training`.

    Returns:
        The calibration; None for a model without an uncertainty head, which is not changed.

    Raises:
        ConfigError: There are too few crystals, or errors are not finite.
    """
    network, config = load_model(directory)
    if compiled:
        network.compile_training()
    with part("calibration"):
        calibration = calibrate(network, train, held_out, name, edges_per_batch, progress, edge_counter)
    if calibration is not None:
        # Element pairs of earlier training count as in distribution.
        previous = config.calibration or previous
        known = previous.element_pairs if previous else None
        seen = element_pairs([pair.numbers for pair in train], known)
        calibration = calibration.model_copy(update={"element_pairs": seen})
        card = (directory / CARD).read_text()
        save_model(directory, network, config.model_copy(update={"calibration": calibration}), card)
    return calibration


@torch.no_grad()
def calibrate(
    network: Network[Any],
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    name: str,
    edges_per_batch: int = 12_000,
    progress: Callable[[int], None] | None = None,
    edge_counter: EdgeCounter | None = None,
) -> Calibration | None:
    """Fit the out-of-distribution distance and the factors of bounds; see `calibrate_model`."""
    network.eval()
    distinct = list({pair.id: pair for pair in train}.values())
    reference = distinct[:: -(-len(distinct) // MAX_REFERENCE_CRYSTALS)]

    def batches(pairs: Sequence[Pair]) -> Iterator[Sample]:
        for batch in prefetched(ValidationBatches(pairs, network, edges_per_batch, edge_counter)):
            yield batch
            if progress is not None:
                progress(len(batch.target))

    latent = [network(batch.start, batch.graph).latent for batch in batches(reference)]
    network.out_of_distribution.fit(torch.cat(latent))
    parts = [_errors(network, batch) for batch in batches(held_out)]
    if any(part is None for part in parts):
        return None
    columns = {key: [part[key] for part in parts if part] for key in parts[0] or {}}
    true = {key: np.concatenate([pair[0] for pair in column]) for key, column in columns.items()}
    expected = {key: np.concatenate([pair[1] for pair in column]) for key, column in columns.items()}
    factors = {level: fit_bound(true["crystals"], expected["crystals"], level) for level in LEVELS}
    factors = {
        level: round(factor, 6) if isinstance(factor, float) else factor
        for level, factor in factors.items()
        if not isinstance(factor, float) or np.isfinite(factor)
    }
    if 90 not in factors:
        raise ConfigError(
            f"{len(held_out)} crystals are too few for calibration: a bound at 90 % needs at least 9."
        )
    values = {
        "on": name,
        "crystals": len(held_out),
        "factors": factors,
        "atoms": fit_bound(true["atoms"], expected["atoms"]),
        "bonds": fit_bound(true["bonds"], expected["bonds"]),
        "strains": fit_bound(true["strains"], expected["strains"]) if "strains" in true else None,
        "max_distance": quantile(torch.from_numpy(expected["distance"]), IN_DISTRIBUTION),
        "element_pairs": element_pairs([pair.numbers for pair in distinct]),
    }
    return Calibration.parse(values)


def _errors(network: Network[Any], batch: Sample) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """True and expected errors of a batch by kind; None for a network without an uncertainty head."""
    prediction = network(batch.start, batch.graph)
    geometry, _ = network.solve_positions(prediction, batch.start, batch.graph)
    expected = expected_errors(prediction, geometry, batch.start.system_index, batch.graph)
    if expected is None:
        return None
    target, graph = batch.target, batch.graph
    relaxed, start = Geometry(target.positions, target.cells), batch.start.positions
    # As in the definition of the coordinate error.
    near = Geometry(move_to_image(geometry, start, target.system_index), geometry.cells)
    atoms, strains = component_errors(geometry, target, "predicted")
    lengths = [edge_vectors(graph, *each).norm(dim=-1) for each in (geometry, relaxed)]
    distance = network.out_of_distribution(prediction.latent)
    pairs = {
        "crystals": (coordinate_error(near, relaxed, start, target.system_index), expected.crystals),
        "atoms": (atoms, expected.atoms),
        "bonds": ((lengths[0] - lengths[1]).abs(), expected.bonds),
        "distance": (distance, distance),
    }  # fmt: skip
    if expected.strains is not None:
        pairs["strains"] = (strains, expected.strains)
    return {key: (true.double().numpy(), own.double().numpy()) for key, (true, own) in pairs.items()}
