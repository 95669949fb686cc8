"""Networks of several families, and relaxers that compute the same in several ways."""

import copy

import torch

from repose.models.checkpoint import ModelConfig
from repose.models.e3relax.network import E3Relax
from repose.models.e3relax.settings import E3RelaxSettings
from repose.models.e3relax_h2.network import E3RelaxH2
from repose.models.e3relax_h2.settings import E3RelaxH2Settings
from repose.models.reposenet.network import ReposeNet
from repose.models.reposenet.settings import ReposeNetSettings
from repose.relaxer.direct import DirectRelaxer

OURS = {
    "edge_channels": 8,
    "frame": "affine",
    "start": "rescaled",
    "lattice_offset": "axis",
    "shared_axes": True,
}

NETWORKS = {
    "e3relax": lambda: E3Relax(E3RelaxSettings(features=48, layers=3)),
    "e3relax, ours": lambda: E3Relax(E3RelaxSettings.parse({"features": 48, "n_basis": 64, **OURS})),
    "e3relax-h2": lambda: E3RelaxH2(E3RelaxH2Settings(features=48, layers=3)),
    "e3relax-h2, ours": lambda: E3RelaxH2(E3RelaxH2Settings.parse({"features": 48, "n_basis": 64, **OURS})),
    "reposenet": lambda: ReposeNet(ReposeNetSettings(features=48)),
    "e3relax-h2 w/o gate": lambda: E3RelaxH2(E3RelaxH2Settings(features=48, layers=2, angular=False)),
}


def relaxers(name: str, *paths: str, double: bool = False) -> list[DirectRelaxer]:
    """Return relaxers with the same random weights, one for each computation."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    network.atomic_volumes.fill_(15.0)
    config = ModelConfig(family=network.family, name=name, settings={}, elements=[])
    if double:
        network = network.double()
    return [DirectRelaxer(copy.deepcopy(network), config, path=path) for path in paths]


def difference(a, b) -> float:
    """Return the largest difference between tensors of two tuples."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
