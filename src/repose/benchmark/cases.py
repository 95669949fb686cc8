"""What is measured: models, crystals, and the ways of running a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from repose.benchmark.crystals import alloys
from repose.config import Computation, Precision
from repose.crystal.batch import CrystalBatch
from repose.models.checkpoint import ModelConfig, find_model, load_model
from repose.models.network import Network
from repose.models.registry import family
from repose.relaxer.direct import DirectRelaxer

PATHS: tuple[Computation, ...] = ("plain", "tabulated", "compiled")


class Way(NamedTuple):
    """How a model is run; see `repose.relaxer.direct.DirectRelaxer`."""

    path: Computation
    precision: Precision = "float32"

    def __str__(self) -> str:
        return self.path if self.precision == "float32" else f"{self.path} bf16"


PLAIN = Way("plain")  # as in training; what all others are compared with


@dataclass(frozen=True)
class Case:
    """One model on one batch.

    Attributes:
        model: Name or directory of a model, or, if ``published``, of a family.
        published: Take the family at its published size, with random weights.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: Threads of the CPU.
        series: What it is part of: ``"batch"``, many small crystals, or ``"atoms"``, one large one.
        crystals: Crystals of the batch.
        atoms: Atoms of every crystal.
        ways: How it is run.
        seconds: How long to measure, about.
    """

    model: str
    published: bool
    device: str
    threads: int
    series: str
    crystals: int
    atoms: int
    ways: tuple[Way, ...]
    seconds: float = 5.0

    @property
    def name(self) -> str:
        """What tables call the model."""
        return f"{self.model} (published size)" if self.published else self.model

    def batch(self) -> CrystalBatch:
        """The crystals; the same in every process."""
        return alloys(self.crystals, self.atoms)


def cases(
    models: Sequence[str],
    published: Sequence[str],
    devices: Sequence[str],
    threads: int,
    *,
    batches: Sequence[int] = (1, 8, 32, 128),
    size: int = 9,
    atoms: Sequence[int] = (10, 50, 200, 1000, 5000),
    paths: Sequence[Computation] = PATHS,
    precisions: Sequence[Precision] = ("float32",),
    seconds: float = 5.0,
) -> list[Case]:
    """All cases of a run.

    Args:
        models: Names or directories.
        published: Names of families.
        devices: Where.
        threads: Threads of the CPU.
        batches: Numbers of crystals.
        size: Atoms of each of these.
        atoms: Sizes of single crystals.
        paths: How the models are run, each in all precisions.
        precisions: Of matrix products.
        seconds: How long to measure each case, about.

    Raises:
        ModelError: There is no such model or family.
    """
    for name in models:
        find_model(name)
    for name in published:
        family(name)
    ways = tuple(Way(path, precision) for path in paths for precision in precisions)
    series = [("batch", n, size) for n in batches] + [("atoms", 1, n) for n in atoms]
    return [
        Case(model, random, device, threads, *part, ways, seconds)
        for model, random in [*((m, False) for m in models), *((f, True) for f in published)]
        for device in devices
        for part in series
    ]


def load_relaxer(case: Case, way: Way) -> DirectRelaxer:
    """The model of a case, run in one way."""
    return DirectRelaxer(*_network(case), case.device, way.path, way.precision)


def _network(case: Case) -> tuple[Network[Any], ModelConfig]:
    if not case.published:
        return load_model(find_model(case.model))
    torch.manual_seed(0)
    cls = family(case.model)
    settings = cls.settings_type()
    network = cls(settings).eval().requires_grad_(False)
    values = settings.model_dump(mode="json")
    return network, ModelConfig(family=case.model, name=case.model, settings=values, elements=[])
