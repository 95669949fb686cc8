"""Small models for tests: one with random weights on disk, and some whose answer is known."""

import numpy as np
import pytest
import torch

from repose.crystal.lattice import to_cartesian, to_fractional
from repose.models.checkpoint import ModelConfig, save_model, shipped_models
from repose.models.e3relax.network import E3Relax
from repose.models.e3relax.settings import E3RelaxSettings
from repose.models.prediction import Geometry
from repose.models.registry import family
from repose.models.uncertainty.calibration import Calibration
from repose.relaxer.base import Relaxer
from repose.relaxer.direct import DirectRelaxer

needs_default = pytest.mark.skipif(
    "default" not in shipped_models(), reason="the default model is not in this tree"
)


def random_relaxer(family_name, seed=0, path="plain", **options):
    """A small network of a family with random weights, in float64."""
    torch.manual_seed(seed)
    cls = family(family_name)
    settings = cls.settings_type.parse({"features": 16, "layers": 2, "n_basis": 24, **options})
    network = cls(settings).double()
    network.atomic_volumes.fill_(15.0)
    config = ModelConfig(
        family=family_name, name="random", settings=settings.model_dump(), elements=list(range(1, 95))
    )
    return DirectRelaxer(network, config, path=path)


def save_tiny_model(directory, elements=range(1, 90)):
    """Write a small E3Relax with random weights; returns the directory."""
    torch.manual_seed(0)
    settings = E3RelaxSettings.parse(
        {"features": 16, "layers": 2, "n_basis": 16, "embedding": "properties", "frame": "affine"}
    )
    network = E3Relax(settings)
    config = ModelConfig.parse(
        {
            "family": "e3relax",
            "name": "tiny",
            "settings": settings.model_dump(mode="json"),
            "elements": list(elements),
            "trained_on": "nothing",
        }
    )
    save_model(directory, network, config, "# tiny\n")
    return directory


CALIBRATION = Calibration(
    on="oxides",
    crystals=1234,
    factors={50: 1.0, 90: 3.0},
    atoms=5.0,
    bonds=7.0,
    strains=11.0,
    max_distance=2.0,
    element_pairs={"Ca": "O", "O": "Ca"},
)


def save_random_model(directory, family_name="e3relax", calibration=None, **options):
    """Write the network of `random_relaxer`, with a calibration if given; returns the directory."""
    relaxer = random_relaxer(family_name, **options)
    config = relaxer.config.model_copy(update={"calibration": calibration})
    save_model(directory, relaxer.network, config, "# random\n")
    return directory


class Known(Relaxer):
    """Deforms every crystal by one matrix and moves its atoms by given fractional displacements.

    Args:
        deformation: F with ``new_cell = cell @ F``.
        displacement: Fractional, ``(N, 3)`` or anything that broadcasts to it.
    """

    name = "known"

    def __init__(self, deformation=None, displacement=0.0):
        self.deformation = torch.as_tensor(
            np.eye(3) if deformation is None else deformation, dtype=torch.float64
        )
        self.displacement = torch.as_tensor(displacement, dtype=torch.float64)
        self.batches = []

    def predict(self, batch):
        self.batches.append(batch.n_crystals)
        cells = batch.cells @ self.deformation
        fractional = to_fractional(batch.positions, batch.cells, batch.system_index) + self.displacement
        return Geometry(to_cartesian(fractional, cells, batch.system_index), cells)
