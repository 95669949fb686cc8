"""The one interface that every way of relaxing has, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from repose.crystals import CrystalBatch
from repose.models.checkpoint import ModelConfig, find_model, load_model
from repose.models.network import Geometry, Network


class Relaxer(ABC):
    """Anything that relaxes crystals: direct models, trivial baselines, iterative potentials.

    Attributes:
        name: What tables call it.
    """

    name: str

    @abstractmethod
    def predict(self, batch: CrystalBatch) -> Geometry:
        """Relaxed geometry of a batch, without symmetry, constraints or checks.

        Args:
            batch: Any crystals that fit in memory together, on any device and in any type.

        Returns:
            Positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A, on the batch's device and in its type; atom k
            is input atom k, not wrapped.
        """


class DirectRelaxer(Relaxer):
    """A trained network as a relaxer: one forward pass.

    Args:
        network: Weights; moved to the device.
        config: What the model directory says about it.
        device: Where it runs.
    """

    def __init__(self, network: Network[Any], config: ModelConfig, device: torch.device | str = "cpu") -> None:
        self.network = network.to(device).eval()
        self.config = config
        self.name = config.name
        self.device = torch.device(device)

    def predict(self, batch: CrystalBatch) -> Geometry:
        """See `Relaxer.predict`."""
        parameter = next(self.network.parameters())
        with torch.inference_mode():
            states = self.network(*self.network.prepare(batch.to(self.device, parameter.dtype)))
        return Geometry(*(tensor.to(batch.device, batch.dtype) for tensor in states[-1]))
