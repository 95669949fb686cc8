"""Embeddings of the elements: free, or fed by tabulated properties."""

from __future__ import annotations

import csv
import math
from functools import cache
from importlib import resources

import numpy as np
import torch
from torch import Tensor, nn

from repose.nn.equivariant import mlp

MAX_NUMBER = 118

# Where a radius is not tabulated, the covalent radius stands in for it.
_STAND_INS = {
    "cation_radius": "covalent_radius",
    "anion_radius": "covalent_radius",
    "atomic_radius": "covalent_radius",
}


@cache
def element_table() -> dict[str, np.ndarray]:
    """Tabulated properties of the elements, from pymatgen and ASE (``tools/make_elements.py``).

    Returns:
        By name, each indexed by atomic number 0 to 103: radii in A, NaN where there is none; ``""`` as
        symbol of 0.
    """
    text = resources.files("repose.nn").joinpath("elements.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    table = {
        name: np.array([math.nan, *(float(row[name] or "nan") for row in rows)])
        for name in rows[0]
        if name != "symbol"
    }
    return table | {"symbol": np.array(["", *(row["symbol"] for row in rows)])}


@cache
def element_properties() -> np.ndarray:
    """Standardised properties of the elements: radii, electronegativity, group, period, valences, ...

    Returns:
        ``(119, P)`` float32, row z for atomic number z, each column with mean 0 and variance 1 over
        elements 1 to 94; rows of elements without a table (0 and above 103) are zero.
    """
    values = dict(element_table())
    for name, stand_in in _STAND_INS.items():
        values[name] = np.where(np.isnan(values[name]), values[stand_in], values[name])
    names = [name for name in values if name not in ("number", "symbol")]
    table = np.stack([values[name][1:] for name in names], axis=1)
    known = table[:94]
    mean, spread = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    standard = np.where(np.isnan(table), 0.0, (table - mean) / spread)
    padded = np.zeros((MAX_NUMBER + 1, len(names)), dtype=np.float32)
    padded[1 : len(standard) + 1] = standard
    return padded


@cache
def atomic_masses() -> np.ndarray:
    """Atomic weights in u by atomic number, ``(119,)`` float32; mass numbers where no isotope is stable."""
    from ase.data import atomic_masses as tabulated

    return np.asarray(tabulated, dtype=np.float32)[: MAX_NUMBER + 1]


class ElementEmbedding(nn.Module):
    """Scalar features of an atom from its atomic number.

    Args:
        features: Width F.
        kind: ``"free"`` is one learned vector per element, uniform in [-sqrt 3, sqrt 3] at the start, as
            in E3Relax. ``"properties"`` feeds tabulated properties to a small network, so that
            elements that behave alike are alike from the start; it generalises better from few data.
        noise: Standard deviation of noise on the standardised properties while training, the same for all
            atoms of an element in a batch.
    """

    def __init__(self, features: int, kind: str, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.table: nn.Embedding | None = None
        if kind == "free":
            self.table = nn.Embedding(MAX_NUMBER + 1, features)
            nn.init.uniform_(self.table.weight, -math.sqrt(3), math.sqrt(3))
        else:
            properties = torch.tensor(element_properties())  # a copy: loading weights writes into it
            # Saved with the weights, so that a trained model never depends on a later table.
            self.register_buffer("properties", properties)
            self.net = mlp(properties.shape[1], features, features)

    def forward(self, numbers: Tensor) -> Tensor:
        """Embed atomic numbers ``(N,)`` as ``(N, F)``."""
        if self.table is not None:
            return self.table(numbers)
        properties: Tensor = self.properties  # type: ignore[assignment]
        if self.training and self.noise:
            properties = properties + self.noise * torch.randn_like(properties)
        return self.net(properties)[numbers]
