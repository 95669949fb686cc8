"""Results of an evaluation: errors of every crystal, and their means by dataset and by regime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from repose.data.dataset import Pair
from repose.evaluation.metrics import METRICS, Metric
from repose.evaluation.published import PublishedRows, published_rows
from repose.evaluation.regimes import regimes
from repose.evaluation.tables import nan_mean
from repose.evaluation.uncertainty import PredictedUncertainty, shorten, summarise
from repose.presets.preset import Preset
from repose.relaxer.baselines import Dummy, Rescale

TRIVIAL = (Dummy.name, Rescale.name)
MATCH = Metric("match", "match", "%", 1)
SPEED = Metric("ms_per_crystal", "time", "ms per crystal", 2)
RATIO = Metric("ratio_to_dummy", "over Dummy", "", 2)
WORSE = Metric("worse_percent", "worse", "%", 1)
# A coordinate error that exceeds that of the input by more than this counts as worse.
WORSE_BY = 1e-3  # A
# Mean coordinate errors of the input up to this count as zero: such inputs are relaxed crystals.
ZERO = 1e-6  # A


class CrystalInfo(NamedTuple):
    """Description of a crystal; the formula is in Hill order, volumes of its two cells are in A^3."""

    id: str
    dataset: str
    formula: str
    n_atoms: int
    input_volume: float
    target_volume: float

    @classmethod
    def from_pair(cls, pair: Pair, dataset: str) -> CrystalInfo:
        """Description of a pair of a dataset."""
        from ase.symbols import Symbols

        return cls(
            id=pair.id,
            dataset=dataset,
            formula=Symbols(pair.numbers).get_chemical_formula("hill"),
            n_atoms=len(pair.numbers),
            input_volume=abs(float(np.linalg.det(pair.cell))),
            target_volume=abs(float(np.linalg.det(pair.relaxed_cell))),
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """Errors of one relaxer on S crystals.

    Attributes:
        relaxer: Its name.
        values: By key of a metric, ``(S,)``; ``match`` is 0 or 100 %, and absent where not computed.
        volumes: Predicted volumes, A^3, ``(S,)``.
        finite: False where the prediction was not finite and the input was scored instead, ``(S,)``.
        seconds: Share of the time of its batch, graph included, ``(S,)``.
        uncertainty: Predicted bounds on the errors.
    """

    relaxer: str
    values: dict[str, np.ndarray]
    volumes: np.ndarray
    finite: np.ndarray
    seconds: np.ndarray
    uncertainty: PredictedUncertainty


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Errors of every crystal for every relaxer, trivial ones first.

    Attributes:
        split: Name of the evaluated split.
        crystals: The S crystals, dataset by dataset.
        scores: One entry per relaxer, Dummy first; values in the order of ``crystals``.
        presets: Presets whose test set a dataset may be, by its name; see `presets_of`.
    """

    split: str
    crystals: tuple[CrystalInfo, ...]
    scores: tuple[Scores, ...]
    presets: Mapping[str, Sequence[Preset]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[Metric, ...]:
        """Columns of the table."""
        return (*METRICS, *((MATCH,) if MATCH.key in self.scores[0].values else ()), SPEED)

    @property
    def not_finite(self) -> dict[str, list[str]]:
        """Ids of the crystals whose prediction was not finite, by relaxer that has any."""
        return ids_not_finite(self.crystals, {scores.relaxer: scores.finite for scores in self.scores})

    @cached_property
    def published(self) -> dict[str, PublishedRows]:
        """Published errors by dataset, where there are any; see `published_rows`."""
        return {
            name: published_rows(self.presets[name], self._rows(which)[0])
            for name, which in group_by_dataset(self.crystals)
            if self.presets.get(name)
        }

    @cached_property
    def uncertainty(self) -> dict[str, dict[str, Any]]:
        """Bounds against errors on all crystals, see `summarise`, by relaxer that predicts any."""
        return self._uncertainty(np.arange(len(self.crystals)))

    def blocks(self) -> list[dict[str, Any]]:
        """One block per dataset, and one of all crystals where there are several datasets.

        Returns:
            Each with ``dataset``, ``crystals`` (count), ``rows`` (by relaxer the means of all columns,
            `RATIO` and `WORSE`), ``published`` (errors by model, where there are any), ``gains`` (see
            `gains`, by relaxer), ``uncertainty`` (see `summarise`, by relaxer that predicts any) and
            ``regimes``. Every regime has ``name``, ``quantity`` and ``range`` (see
            `repose.evaluation.regimes.Regime`), ``crystals``, ``rows`` and ``uncertainty`` (see `shorten`).
        """
        return [self._block(name, which) for name, which in group_by_dataset(self.crystals)]

    def _block(self, name: str, which: np.ndarray) -> dict[str, Any]:
        rows = self._rows(which)
        metrics = [column for column in self.columns if column is not SPEED]
        return {
            "dataset": name,
            "crystals": len(which),
            "rows": rows,
            **({"published": self.published[name].rows} if name in self.published else {}),
            "gains": {
                row["relaxer"]: gains(row, rows, metrics) for row in rows if row["relaxer"] not in TRIVIAL
            },
            "uncertainty": self._uncertainty(which),
            "regimes": self._regimes(which),
        }

    def _rows(self, which: np.ndarray) -> list[dict[str, Any]]:
        dummy = self.scores[0].values["coordinates"][which]
        return [
            {
                "relaxer": scores.relaxer,
                **{key: nan_mean(values[which]) for key, values in scores.values.items()},
                RATIO.key: float(own.mean() / dummy.mean()) if dummy.mean() > ZERO else np.nan,
                WORSE.key: 100 * float((own > dummy + WORSE_BY).mean()),
                SPEED.key: 1000 * nan_mean(scores.seconds[which]),
                "not_finite": int((~scores.finite[which]).sum()),
            }
            for scores in self.scores
            for own in [scores.values["coordinates"][which]]
        ]

    def _regimes(self, which: np.ndarray) -> list[dict[str, Any]]:
        n_atoms = np.array([self.crystals[index].n_atoms for index in which])
        return [
            {
                "name": regime.name,
                "quantity": regime.quantity,
                "range": [regime.low, regime.high],
                "crystals": len(part),
                "rows": self._rows(part),
                "uncertainty": {name: shorten(row) for name, row in self._uncertainty(part).items()},
            }
            for regime in regimes(self.scores[0].values["coordinates"][which], n_atoms)
            for part in [which[regime.crystals]]
        ]

    def _uncertainty(self, which: np.ndarray) -> dict[str, dict[str, Any]]:
        rows = {s.relaxer: summarise(s.uncertainty, s.values, s.finite, which) for s in self.scores}
        return {relaxer: row for relaxer, row in rows.items() if row is not None}

    def per_crystal(self) -> list[dict[str, Any]]:
        """One row per relaxer and crystal: description, errors, volumes in A^3, uncertainty."""
        return [
            {
                "id": crystal.id,
                "dataset": crystal.dataset,
                "relaxer": scores.relaxer,
                "formula": crystal.formula,
                "n_atoms": crystal.n_atoms,
                **{key: float(values[index]) for key, values in scores.values.items()},
                SPEED.key: 1000 * float(scores.seconds[index]),
                "input_volume": crystal.input_volume,
                "target_volume": crystal.target_volume,
                "predicted_volume": float(scores.volumes[index]),
                "finite": bool(scores.finite[index]),
                **scores.uncertainty.row(index),
            }
            for scores in self.scores
            for index, crystal in enumerate(self.crystals)
        ]


def group_by_dataset(crystals: Sequence[CrystalInfo]) -> list[tuple[str, np.ndarray]]:
    """Name and indices of the crystals of each dataset; then ``"all"``, if there are several datasets."""
    owner = np.array([crystal.dataset for crystal in crystals])
    groups = [(name, np.flatnonzero(owner == name)) for name in dict.fromkeys(owner.tolist())]
    return groups if len(groups) == 1 else [*groups, ("all", np.arange(len(owner)))]


def ids_not_finite(crystals: tuple[CrystalInfo, ...], finite: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """Ids of the crystals whose flag in ``finite``, ``(S,)``, is False, by relaxer that has any."""
    return {
        relaxer: [crystals[index].id for index in np.flatnonzero(~flags)]
        for relaxer, flags in finite.items()
        if not flags.all()
    }


def gains(
    row: dict[str, Any], rows: Sequence[dict[str, Any]], metrics: Iterable[Metric], zero: float = 0.0
) -> dict[str, float]:
    """Improvement of a relaxer over the better trivial relaxer.

    Args:
        row: Mean errors of the relaxer by key of a metric.
        rows: Those of all relaxers.
        metrics: Lower is better, except for `MATCH`.
        zero: Trivial errors up to this count as zero.

    Returns:
        By key in %; NaN where the trivial value is zero or absent.
    """
    trivial = [other for other in rows if other["relaxer"] in TRIVIAL]
    found = {}
    for metric in metrics:
        known = [other[metric.key] for other in trivial if not np.isnan(other[metric.key])]
        sign, best = (1, max(known, default=0)) if metric is MATCH else (-1, min(known, default=0))
        found[metric.key] = sign * 100 * (row[metric.key] / best - 1) if best > zero else np.nan
    return found
