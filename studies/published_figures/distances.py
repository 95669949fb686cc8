"""Expected errors of DeepRelax against the errors of its predicted distances (Fig. 5), and ensembles."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repose.data.dataset import Dataset, Pair
from repose.evaluation.uncertainty import spearman
from repose.models.checkpoint import find_model, load_model
from repose.models.ensemble import combine
from repose.models.network import Network
from repose.models.prediction import Prediction
from repose.models.uncertainty.expected_errors import expected_errors
from repose.nn.ops import segment_mean
from repose.training.losses import true_distances
from repose.training.samples import Sample, ValidationBatches

EDGES_PER_BATCH = 12_000
SHARES = (10, 30, 50, 70, 90, 95)  # %, of errors below quantiles of the Laplace distribution


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the part ``distances`` of the result."""
    folder = find_model("deeprelax")
    found = {}
    for path in arguments.data:
        dataset = Dataset(path)
        pairs = list(dataset.read("test", paths=False))
        found[dataset.info.name] = compare([load_model(folder)[0]], pairs)[(0,)]
    result: dict[str, Any] = {
        "model": "deeprelax",
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "datasets": {name: describe(columns) for name, columns in found.items()},
        "all": describe({key: np.concatenate([own[key] for own in found.values()]) for key in COLUMNS}),
    }
    if arguments.member:
        pairs = [pair for path in arguments.data for pair in Dataset(path).read("test", paths=False)]
        variants: dict[str, list[Path]] = {}
        for member in arguments.member:
            variants.setdefault(member.parts[-3], []).append(member)
        result["ensembles"] = {name: ensembles(members, pairs) for name, members in variants.items()}
    return result


def ensembles(members: Sequence[Path], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return, by the number of members T, results of `describe`, averaged over all choices of T members."""
    networks = [load_model(member)[0] for member in members]
    found = [(len(chosen), describe(columns)) for chosen, columns in compare(networks, pairs).items()]
    keys = ("error", "U", "rho", "rho_of_distances", "below")
    return {
        str(size): {key: mean([one[key] for n, one in found if n == size]) for key in keys}
        for size in range(1, len(networks) + 1)
    }


def mean(values: Sequence[Any]) -> Any:
    """Return the mean of numbers, or of every entry of dictionaries."""
    if isinstance(values[0], dict):
        return {key: mean([one[key] for one in values]) for key in values[0]}
    return float(np.mean(values))


# Columns of `scores`; the last two are of distances, the others of crystals.
COLUMNS = ("U", "error", *(f"below {share}" for share in SHARES), "scales", "errors")


def compare(
    networks: Sequence[Network[Any]], pairs: Sequence[Pair]
) -> dict[tuple[int, ...], dict[str, np.ndarray]]:
    """Return the columns of `scores` for every choice of the networks as an ensemble."""
    choices = [c for size in range(1, len(networks) + 1) for c in combinations(range(len(networks)), size)]
    parts: dict[tuple[int, ...], list[dict[str, Tensor]]] = {choice: [] for choice in choices}
    for network in networks:
        network.eval()
        network.accelerate(False)
    with torch.inference_mode():
        for sample in ValidationBatches(pairs, networks[0], EDGES_PER_BATCH):
            each = [network(sample.start, sample.graph) for network in networks]
            for choice in choices:
                prediction = combine([each[member] for member in choice])
                follow = networks[0].settings.frame == "affine"
                parts[choice].append(scores(prediction, sample, follow))
    return {
        choice: {key: torch.cat([part[key] for part in own]).double().numpy() for key in COLUMNS}
        for choice, own in parts.items()
    }


def scores(prediction: Prediction, sample: Sample, follow: bool) -> dict[str, Tensor]:
    """Return columns of a batch, of distances of both kinds together.

    U (equation 24) and the mean error of a crystal in A; for every share, the share in % of its errors below
    that quantile of their Laplace distributions; scales (equation 23) and errors of every tenth distance.
    """
    found, graph = prediction.distances, sample.graph
    expected = expected_errors(prediction, prediction.geometry, sample.start.system_index, graph)
    if found is None or found.scale is None or found.displaced_scale is None or expected is None:
        raise SystemExit("the model predicts no scales of distances")
    true = torch.cat(true_distances(found.anchored, sample.start, graph, sample.target, follow))
    errors = (torch.cat([found.relaxed, found.displaced]) - true).abs()
    scales = torch.cat([found.scale, found.displaced_scale])
    owner = torch.cat([graph.system_index, graph.system_index[found.anchored]])

    def by_crystal(values: Tensor) -> Tensor:
        return segment_mean(values, owner, len(sample.target))

    quantiles = {share: -math.log(1 - share / 100) for share in SHARES}  # of |error| / scale
    below = {f"below {s}": by_crystal(100 * (errors < q * scales).to(errors)) for s, q in quantiles.items()}
    of_distances = {"scales": scales[::10], "errors": errors[::10]}
    return {"U": expected.crystals, "error": by_crystal(errors), **below, **of_distances}


def describe(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return means, Spearman's rho and reliability; means by fifths of U, the smallest first."""
    uncertainty, error = columns["U"], columns["error"]
    fifths = np.array_split(np.argsort(uncertainty, kind="stable"), 5)
    return {
        "crystals": len(error),
        "error": float(error.mean()),
        "U": float(uncertainty.mean()),
        "rho": spearman(uncertainty, error),
        "rho_of_distances": spearman(columns["scales"], columns["errors"]),
        "fifths": {
            "U": [float(uncertainty[fifth].mean()) for fifth in fifths],
            "error": [float(error[fifth].mean()) for fifth in fifths],
        },
        "below": {str(share): float(columns[f"below {share}"].mean()) for share in SHARES},
    }
