"""Results of a benchmark: measured times and memory, and quantities derived from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from repose.benchmark.cases import Case, Variant
from repose.benchmark.ceilings import Ceilings

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one variant of a model on one batch.

    Attributes:
        case: The model and the crystals.
        variant: Variant of the computation.
        reason: Why the measurement failed, or None.
        family: Family of the model.
        parameters: Number of its weights.
        edges: Edges of the whole batch.
        rounds: Number of timed passes.
        start: Seconds until the first result: tables, compilation, first pass.
        network: Median seconds of a pass of the network with a given graph.
        predict: Median seconds of `Relaxer.predict`, which builds the graph.
        faster_network: Speed relative to plain float32; median of ratios of interleaved passes.
        faster_predict: The same for `Relaxer.predict`.
        memory: Peak memory of a prediction beyond that of the loaded model, bytes.
        total_memory: Peak memory of the process on a CPU, or of all tensors on a GPU, bytes.
        flops: Floating-point operations in matrix products of a pass, see `repose.benchmark.counting`.
        bytes: Bytes that the operations of a pass read and write.
    """

    case: Case
    variant: Variant
    reason: str | None = None
    family: str = ""
    parameters: int = 0
    edges: int = 0
    rounds: int = 0
    start: float | None = None
    network: float | None = None
    predict: float | None = None
    faster_network: float | None = None
    faster_predict: float | None = None
    memory: int | None = None
    total_memory: int | None = None
    flops: int | None = None
    bytes: int | None = None

    @property
    def atoms(self) -> int:
        """Atoms of the whole batch."""
        return self.case.crystals * self.case.atoms

    @property
    def crystals_per_second(self) -> float | None:
        """Throughput of `Relaxer.predict`."""
        return self.case.crystals / self.predict if self.predict else None

    @property
    def edges_per_second(self) -> float | None:
        """Throughput of the network with a given graph."""
        return self.edges / self.network if self.network else None


class Fit(NamedTuple):
    """Power law of the time of `Relaxer.predict` against the atoms of one crystal.

    Attributes:
        model: Name.
        device: Device.
        way: Variant of the computation.
        exponent: Over all sizes; below one where overhead dominates small crystals.
        last: Between the two largest sizes.
    """

    model: str
    device: str
    way: str
    exponent: float
    last: float


@dataclass(frozen=True)
class BenchmarkResult:
    """All measurements of one run, and the ceilings of every device."""

    ceilings: tuple[Ceilings, ...]
    rows: tuple[Measurement, ...]
    threads: int

    def fits(self) -> list[Fit]:
        """Power laws, by model, device and variant, of those measured for at least two sizes."""
        measured = (row for row in self.rows if row.case.series == "atoms" and row.predict)
        fits = []
        for key, rows in grouped(
            measured, lambda row: (row.case.name, row.case.device, str(row.variant))
        ).items():
            x, y = np.log(np.array(sorted((row.atoms, row.predict or np.nan) for row in rows))).T
            if len(np.unique(x)) > 1:
                slope, last = np.polyfit(x, y, 1)[0], (y[-1] - y[-2]) / (x[-1] - x[-2])
                fits.append(Fit(*key, float(slope), float(last)))
        return fits

    def shares_of_ceilings(self, row: Measurement) -> tuple[float | None, float | None]:
        """Rates of matrix products and of memory traffic of a pass of the network over their ceilings."""
        ceiling = next((c for c in self.ceilings if c.device == row.case.device), None)
        if ceiling is None or row.network is None or row.flops is None or row.bytes is None:
            return None, None
        product = ceiling.products.get(row.variant.precision)
        rate = row.flops / row.network
        return (rate / product if product else None), row.bytes / row.network / ceiling.copy

    def to_dict(self) -> dict[str, Any]:
        """Contents of ``speed.json``."""
        return {
            "threads": self.threads,
            "torch": torch.__version__,
            "ceilings": [asdict(ceiling) for ceiling in self.ceilings],
            "fits": [fit._asdict() for fit in self.fits()],
            "rows": [self._record(row) for row in self.rows],
        }

    def _record(self, row: Measurement) -> dict[str, Any]:
        values = asdict(row)
        case = values.pop("case")
        del values["variant"]
        product, copy = self.shares_of_ceilings(row)
        return {
            **{key: case[key] for key in ("model", "published", "device", "threads", "series", "crystals")},
            "atoms": row.atoms,
            "path": row.variant.computation,
            "precision": row.variant.precision,
            **values,
            "crystals_per_second": row.crystals_per_second,
            "edges_per_second": row.edges_per_second,
            "of_product": product,
            "of_copy": copy,
        }


def grouped(rows: Iterable[Measurement], key: Callable[[Measurement], K]) -> dict[K, list[Measurement]]:
    """Measurements by a key, in order."""
    groups: dict[K, list[Measurement]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
