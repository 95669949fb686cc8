"""DeepRelax networks with random weights, and how their computations compare."""

import copy

import torch

from repose.crystal.batch import CrystalBatch
from repose.models.checkpoint import ModelConfig
from repose.relaxer.direct import DirectRelaxer
from support.tiny import random_relaxer

OURS = {
    "offsets": False,
    "lattice": "strain",
    "distances": "change",
    "anchors": "all",
    "frame": "affine",
    "start": "rescaled",
    "embedding": "properties",
}
# Factors on the last weights and biases of the strains. Initial strains are too small to change a cell; with
# these factors cells change by tenths of an A, more than by rescaling of the volume.
STRAIN = {"free": (0.1, 1e-4), "properties": (30.0, 0.03)}


def deeprelax_relaxer(seed=0, path="plain", calm=True, **options) -> DirectRelaxer:
    """Return a small DeepRelax with random weights; `calm` scales the strains to a realistic size."""
    relaxer = random_relaxer("deeprelax", seed, "plain", **{"lattice": "strain", **options})
    for head in relaxer.network.strains:
        weight, bias = STRAIN[relaxer.network.settings.embedding] if calm else (1.0, 1.0)
        head.share[-1].weight.data.mul_(weight)
        head.share[-1].bias.data.mul_(bias)
    return DirectRelaxer(relaxer.network, relaxer.config, path=path)


def check_computation(path: str, options: dict, crystals: CrystalBatch) -> None:
    """Compare a computation of DeepRelax with the plain one, in single precision and with 48 features."""
    batch = crystals.to("cpu", torch.float32)
    plain, fast = (
        DirectRelaxer(
            copy.deepcopy(deeprelax_relaxer(features=48, **options).network).float(),
            ModelConfig(family="deeprelax", name=path, settings={}, elements=[]),
            path=path,
        )
        for path in ("plain", path)
    )
    assert plain.network.relaxed.table is None
    assert fast.network.relaxed.table is not None
    assert fast.network.layers[0].message.compiled == (path == "compiled")
    with torch.no_grad():
        start, graph = plain.network.prepare(batch)
        expected, got = plain.network(start, graph), fast.network(start, graph)
    assert torch.allclose(expected.geometry.cells, got.geometry.cells, atol=1e-4, rtol=0)
    for name in ("relaxed", "displaced", "scale", "displaced_scale"):
        a, b = (getattr(prediction.distances, name) for prediction in (expected, got))
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4), name
    if options:  # otherwise distances are inconsistent and the solution is not smooth in them
        expected, got = plain.predict(batch), fast.predict(batch)
        assert (expected.positions - batch.positions).abs().max() > 1e-2  # or else nothing is compared
        assert torch.allclose(expected.positions, got.positions, atol=1e-4, rtol=0)
