"""A model family in a folder of its own, as a test of what a new family needs."""

import importlib
import sys

import pytest

import repose.models
from repose.models import registry

SETTINGS = '''
"""Settings of the toy family."""

from pydantic import Field

from repose.config import NetworkSettings


class ToySettings(NetworkSettings):
    initial_strain: float = Field(default=0.0, description="isotropic strain before training")
'''

NETWORK = '''
"""Toy family: strains every crystal by one learned number."""

import torch
from torch import nn

from repose.models.initial_structure import build_graph
from repose.models.network import Network
from repose.models.prediction import Geometry, Prediction
from repose.models.registry import register
from repose.models.toy.settings import ToySettings


@register("toy")
class Toy(Network[ToySettings]):
    settings_type = ToySettings

    def __init__(self, settings):
        super().__init__(settings)
        self.strain = nn.Parameter(torch.tensor(settings.initial_strain))

    def prepare(self, batch):
        return batch, build_graph(batch, self.settings.graph)

    def forward(self, batch, graph):
        stretch = 1 + self.strain
        latent = batch.positions.new_zeros(len(batch), self.settings.features)
        return Prediction([Geometry(stretch * batch.positions, stretch * batch.cells)], latent)
'''


@pytest.fixture
def toy_family(tmp_path, monkeypatch):
    """Write the folder of the family and put it on the path of `repose.models`."""
    folder = tmp_path / "families" / "toy"
    folder.mkdir(parents=True)
    for name, text in (("__init__", ""), ("settings", SETTINGS), ("network", NETWORK)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(repose.models, "__path__", [*repose.models.__path__, str(folder.parent)])
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    importlib.invalidate_caches()
    yield registry
    for name in [name for name in sys.modules if name.startswith("repose.models.toy")]:
        del sys.modules[name]
