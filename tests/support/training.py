"""Settings, networks and data of short training runs."""

from dataclasses import replace

import torch

from repose.config import TrainSettings
from repose.data.dataset import Pair
from repose.data.importers.formats import import_extxyz
from repose.models.e3relax.network import E3Relax
from support.paths import PATHS

TINY = {
    "features": 8,
    "layers": 2,
    "n_basis": 8,
    "embedding": "properties",
    "start": "rescaled",
    "frame": "affine",
}


def train_settings(**changes) -> TrainSettings:
    """Return settings of a run of three epochs of four steps."""
    values = {
        "model": TINY,
        "sampling": {
            "edges_per_batch": 1500,
            "epoch_steps": 4,
            "path_frames": 0.4,
            "denoising": 0.3,
            "rewritten": 0.3,
        },
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "max_epochs": 3,
        "clip": 1.0,
    }
    return TrainSettings.parse({**values, **changes})


def tiny_network(**changes) -> E3Relax:
    """Return the network of these settings with random weights."""
    torch.manual_seed(0)
    return E3Relax(E3Relax.settings_type.parse({**TINY, **changes}))


def path_pairs() -> list[Pair]:
    """Return the six relaxations of `PATHS`; the last is in split `val`, the others in `train`."""
    pairs = [pair for pair in import_extxyz(PATHS) if isinstance(pair, Pair)]
    return [replace(p, split="val" if p is pairs[-1] else "train") for p in pairs]
