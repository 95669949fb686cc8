"""Cases of a benchmark: models, crystals, and variants of the computation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from repose.benchmark.crystals import alloys
from repose.benchmark.settings import SpeedSettings
from repose.config import Computation, Precision
from repose.crystal.batch import CrystalBatch
from repose.models.checkpoint import ModelConfig, find_model, load_model
from repose.models.network import Network
from repose.models.registry import family
from repose.relaxer.direct import DirectRelaxer


class Variant(NamedTuple):
    """Variant of the computation, see `repose.relaxer.direct.DirectRelaxer`."""

    computation: Computation
    precision: Precision = "float32"

    def __str__(self) -> str:
        return self.computation if self.precision == "float32" else f"{self.computation} bf16"


PLAIN = Variant("plain")  # as in training; the reference of relative speeds


@dataclass(frozen=True)
class Case:
    """One model on one batch.

    Attributes:
        model: Name or directory of a model, or, if ``published``, of a family.
        published: Take the family at its published size, with random weights.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: CPU threads.
        series: ``"batch"``, many small crystals, or ``"atoms"``, one large crystal.
        crystals: Crystals of the batch.
        atoms: Atoms of every crystal.
        variants: Variants to measure.
        seconds: Approximate time of the measurement.
    """

    model: str
    published: bool
    device: str
    threads: int
    series: str
    crystals: int
    atoms: int
    variants: tuple[Variant, ...]
    seconds: float = 5.0

    @property
    def name(self) -> str:
        """Name of the model in tables."""
        return f"{self.model} (published size)" if self.published else self.model

    def batch(self) -> CrystalBatch:
        """The crystals; the same in every process."""
        return alloys(self.crystals, self.atoms)


def cases(
    models: Sequence[str],
    published: Sequence[str],
    devices: Sequence[str],
    threads: int,
    settings: SpeedSettings,
) -> list[Case]:
    """All cases of a run, for names or directories of models and for ``published``, names of families.

    Raises:
        ModelError: There is no such model or family.
    """
    for name in models:
        find_model(name)
    for name in published:
        family(name)
    variants = tuple(Variant(c, precision) for c in settings.computation for precision in settings.precision)
    series = [("batch", n, settings.size) for n in settings.batches]
    series += [("atoms", 1, n) for n in settings.atoms]
    return [
        Case(model, random, device, threads, *part, variants, settings.seconds)
        for model, random in [*((m, False) for m in models), *((f, True) for f in published)]
        for device in devices
        for part in series
    ]


def load_relaxer(case: Case, variant: Variant) -> DirectRelaxer:
    """Model of a case in one variant of the computation."""
    return DirectRelaxer(*_network(case), case.device, variant.computation, variant.precision)


def _network(case: Case) -> tuple[Network[Any], ModelConfig]:
    if not case.published:
        return load_model(find_model(case.model))
    torch.manual_seed(0)
    cls = family(case.model)
    settings = cls.settings_type()
    network = cls(settings).eval().requires_grad_(False)
    values = settings.model_dump(mode="json")
    return network, ModelConfig(family=case.model, name=case.model, settings=values, elements=[])
