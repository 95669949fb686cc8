"""Parts of a training step that need no Lightning."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from repose.models.network import Network
from repose.models.prediction import Geometry, Prediction
from repose.training.losses import validation_errors
from repose.training.samples import Sample

# Error of the input in A, coordinates plus lattice, that is added to that of every input in relative scores.
SCORE_OFFSET = 0.1


def recycled(network: Network[Any], batch: Sample, share: float, rng: np.random.Generator) -> Sample:
    """Replace the inputs of a share of batches by the network's output; repeat for a share of these.

    The network is then trained on its own outputs, which are the inputs of its later passes.
    """
    for _ in range(max(1, network.passes - 1)):
        if rng.random() >= share:
            break
        with torch.no_grad():
            found = network(batch.start, batch.graph).geometry
            start, graph = network.prepare_again(batch.start, found)
        batch = replace(batch, start=start, graph=graph)
    return batch


def clip_gradient(network: Network[Any], limit: float) -> bool:
    """Clip the norm of the gradient; drop one that is not finite, and return whether it is finite.

    Trunk and heads have their own norms: an uncertainty head whose scale is far too small has a huge
    gradient.
    """
    trunk, heads = list[torch.nn.Parameter](), list[torch.nn.Parameter]()
    for name, parameter in network.named_parameters():
        (heads if network.depth(name) is None else trunk).append(parameter)
    norms = [float(torch.nn.utils.clip_grad_norm_(part, limit, foreach=True)) for part in (trunk, heads)]
    finite = all(map(math.isfinite, norms))
    if not finite:
        network.zero_grad()
    return finite


def update_average(average: Network[Any], network: Network[Any], step: int, ema: float) -> None:
    """Update the moving average of weights after ``step`` steps; its decay is smaller in the first ones."""
    decay = min(ema, (1 + step) / (10 + step))
    with torch.no_grad():
        slow, fast = (tuple(part.parameters()) for part in (average, network))
        torch._foreach_lerp_(slow, fast, 1 - decay)  # pyright: ignore[reportPrivateImportUsage, reportCallIssue]


def cosine_rate(step: int, warmup_steps: int, progress: float) -> float:
    """Factor on the learning rate: linear warmup, times a cosine from one to 1 % at ``progress`` one."""
    rise = min(1.0, (step + 1) / max(1, warmup_steps))
    return rise * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


def scored_errors(
    network: Network[Any], prediction: Prediction, batch: Sample, kind: str
) -> dict[str, torch.Tensor]:
    """Validation errors, ``(S,)`` each, with their ``score``; see `repose.config.TrainSettings.score`."""
    geometry, _ = network.solve_positions(prediction, batch.start, batch.graph)
    errors = validation_errors(geometry, batch.target)
    score = errors["coordinates"] + (0 if kind == "coordinates" else errors["lattice"])
    if kind == "relative":
        before = validation_errors(Geometry(batch.start.positions, batch.start.cells), batch.target)
        score = score / (before["coordinates"] + before["lattice"] + SCORE_OFFSET)
    return errors | {"score": score}
