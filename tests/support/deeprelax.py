"""DeepRelax networks with random weights."""

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
