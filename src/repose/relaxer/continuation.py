"""Relaxation that goes on from predictions with a potential."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.batching import batches_by_cost
from repose.crystal.elements import symbol
from repose.crystal.frame import Frame
from repose.errors import ConfigError
from repose.io import convert
from repose.potentials.base import Potential
from repose.potentials.batched_lbfgs import RelaxationRun, Start, StepResults, evaluate_each, relax_batched
from repose.potentials.loading import as_potential
from repose.potentials.settings import LbfgsSettings
from repose.relaxer.relaxation import Relaxation, StartKind, attach_uncertainties
from repose.relaxer.single_crystal import PreparedCrystal, changed_geometry

# Differences of coordinates in A below which two structures are the same.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Continuation:
    """Options of relaxations that go on from predictions; the fields are options of `Relaxer.relax`.

    Args:
        then: Name of a potential or ``MODULE:CLASS``, see `repose.potentials.loading.load_potential`; an ASE
            calculator; or a `Potential`.
        fmax: Largest force of a relaxed crystal in eV/A; rows of stress times volume per atom count as
            forces, as in ASE's cell filters.
        max_steps: Steps after which a relaxation ends without having converged.
        when_uncertain: Only crystals go on whose bound exceeds this, in A, or the share of the given crystals
            that has the largest bounds, such as ``"20%"``, rounded up; None: all. Crystals that are out of
            distribution or whose prediction is suspect always go on.
        trajectory: Whether to keep all frames.
        device: Device of a potential that is given by its name.

    Raises:
        ConfigError: A value is not allowed, or the potential is unknown.
        MissingExtraError: The package of the potential is not installed.
    """

    then: Any
    fmax: float = 0.05
    max_steps: int = 500
    when_uncertain: float | str | None = None
    trajectory: bool = False
    device: str = "auto"
    potential: Potential = field(init=False)
    settings: LbfgsSettings = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.fmax, bool) or not (isinstance(self.fmax, Real) and 0 < self.fmax < math.inf):
            raise ConfigError(f"fmax must be a positive force in eV/A, such as 0.05; got {self.fmax!r}.")
        if isinstance(self.max_steps, bool) or not isinstance(self.max_steps, Integral) or self.max_steps < 1:
            raise ConfigError(f"max_steps must be a positive integer; got {self.max_steps!r}.")
        _ = self.bound, self.share  # raises
        object.__setattr__(self, "potential", as_potential(self.then, self.device))
        settings = LbfgsSettings(fmax=float(self.fmax), max_steps=int(self.max_steps))
        object.__setattr__(self, "settings", settings)

    @property
    def bound(self) -> float | None:
        """Bound in A above which crystals go on; None if all do, or a share."""
        return None if self.when_uncertain is None or self.share is not None else _number(self.when_uncertain)

    @property
    def share(self) -> float | None:
        """Share of crystals that go on, 0 to 1, or None."""
        text = self.when_uncertain
        if not isinstance(text, str) or not text.rstrip().endswith("%"):
            return None
        share = _number(text.rstrip()[:-1], text) / 100
        if share > 1:
            raise ConfigError(f"when_uncertain must be at most 100%; got {text!r}.")
        return share

    def selected(self, results: Sequence[Relaxation]) -> list[bool]:
        """Return whether each crystal goes on; refused ones do not."""
        bounds = [r.uncertainty for r in results]
        limit = self.bound
        if self.share is not None:
            limit = largest_bound([b for b in bounds if b is not None], self.share)
        return [
            result.before is not None
            and (
                limit is None
                or result.status == "suspect"
                or result.outside is not None
                or bound is None
                or bound > limit
            )
            for result, bound in zip(results, bounds, strict=True)
        ]

    def update(
        self,
        crystals: Sequence[PreparedCrystal],
        results: dict[int, Relaxation],
        report: Callable[[int], None],
    ) -> None:
        """Replace the predictions of crystals that go on, in ``results``; report the number that is done."""
        goes = self.selected([results[crystal.index] for crystal in crystals])
        going = [(crystal, results[crystal.index]) for crystal, go in zip(crystals, goes, strict=True) if go]
        done = len(results) - len(going)
        report(done)
        for ended, (index, result) in enumerate(self._relax(going), start=1):
            results[index] = result
            report(done + ended)

    def _relax(
        self, crystals: Sequence[tuple[PreparedCrystal, Relaxation]]
    ) -> Iterator[tuple[int, Relaxation]]:
        """Relax crystals from their predictions, many side by side; yield indices and results as they end.

        A crystal starts from its input if the prediction has the higher energy, or is not valid. If the
        calculator fails, the prediction is kept, and the result is suspect.
        """
        known = []
        for prepared, predicted in crystals:
            if lacking := self._lacking(prepared.crystal):
                yield prepared.index, _failed(predicted, self.potential, lacking)
            else:
                known.append((prepared, predicted))
        failed: list[tuple[int, Relaxation]] = []
        for run in relax_batched(self.potential, self._starts(known, failed), self.settings):
            yield run.key.prepared.index, self._finished(run)
        yield from failed

    def _lacking(self, crystal: CrystalBatch) -> str | None:
        elements = self.potential.elements
        unknown = set() if elements is None else set(crystal.numbers.tolist()) - set(elements)
        return f"it has no parameters for {', '.join(map(symbol, sorted(unknown)))}." if unknown else None

    def _starts(
        self, crystals: Sequence[tuple[PreparedCrystal, Relaxation]], failed: list[tuple[int, Relaxation]]
    ) -> Iterator[Start[_Continued]]:
        """Yield the starts of lower energy; add crystals without any energy to ``failed``."""
        limit = self.settings.batch_atoms or self.potential.batch_atoms
        for batch in batches_by_cost(crystals, lambda one: one[0].crystal.n_atoms, limit):
            begin = time.perf_counter()
            inputs = evaluate_each(self.potential, [prepared.crystal for prepared, _ in batch])
            moved = [after for one in batch if (after := _moved(*one)) is not None]
            found = iter(evaluate_each(self.potential, moved) if moved else ())
            n_atoms = sum(prepared.crystal.n_atoms for prepared, _ in batch)
            atom_seconds = (time.perf_counter() - begin) / n_atoms
            for (prepared, predicted), given in zip(batch, inputs, strict=True):
                after = predicted.after
                results = given if _moved(prepared, predicted) is None else next(found)
                if isinstance(given, str) and not isinstance(results, StepResults):
                    failed.append((prepared.index, _failed(predicted, self.potential, given)))
                    continue
                kind: StartKind = "input" if after is None or _is_lower(given, results) else "prediction"
                crystal = prepared.crystal if after is None or kind == "input" else after
                key = _Continued(
                    prepared,
                    predicted,
                    kind,
                    given if isinstance(given, StepResults) else None,
                    results if isinstance(results, StepResults) and after is not None else None,
                    atom_seconds * crystal.n_atoms,
                )
                moves = prepared.projection.moves(crystal.cells[0].numpy())
                pair = [(prepared.crystal, key.given), (after, key.results)]
                (_, results), (other, earlier) = pair if kind == "input" else pair[::-1]
                known = None if other is None or earlier is None else (other, earlier)
                yield Start(key, crystal, moves, results, known)

    def _finished(self, run: RelaxationRun[_Continued]) -> Relaxation:
        """Result of a relaxation that has ended."""
        key, frames = run.key, run.frames
        prepared, predicted = key.prepared, key.predicted
        if run.failure is not None and len(frames) <= self.max_steps:
            return _failed(predicted, self.potential, run.failure, run)
        last = frames[-1]
        values = changed_geometry(prepared, last.positions, last.cell)
        reason = run.failure or values["reason"]
        remarks = predicted.remarks
        if predicted.status == "suspect" and predicted.reason not in remarks:
            remarks += (f"the prediction was suspect: {predicted.reason}",)
        stress = last.stress if last.stress is not None and np.isfinite(last.stress).all() else None
        if last.energy is not None and last.forces is not None:
            convert.attach_results(values["structure"], last.energy, last.forces, stress)
        attach_uncertainties(values["structure"], None, None, None)  # those of the prediction
        first = ()
        if key.kind == "prediction" and key.given is not None:
            first = (Frame(*_geometry(prepared.crystal), *key.given),)
        values |= {"reason": reason, "status": "suspect" if reason else "relaxed", "remarks": remarks}
        return replace(
            predicted,
            **values,
            energy=last.energy,
            forces=last.forces,
            stress=stress,
            steps=len(frames) - 1,
            converged=run.converged,
            start=key.kind,
            calculator=self.potential.name,
            **key.energies,
            trajectory=(*first, *frames) if self.trajectory else None,
            seconds=predicted.seconds + key.seconds + run.seconds,
        )


@dataclass(frozen=True, eq=False)
class _Continued:
    """A crystal that goes on, and results for the input and the prediction."""

    prepared: PreparedCrystal
    predicted: Relaxation
    kind: StartKind
    given: StepResults | None
    results: StepResults | None
    seconds: float  # time of these two

    @property
    def energies(self) -> dict[str, float | None]:
        """Energies of input and prediction as fields of `Relaxation`."""
        pairs = (("energy_input", self.given), ("energy_predicted", self.results))
        return {name: None if results is None else results.energy for name, results in pairs}


def largest_bound(bounds: Sequence[float], share: float) -> float:
    """Return the bound in A that this share of crystals, 0 to 1, exceeds, rounded up to whole crystals.

    It is smaller by more than rounding, since a bound depends slightly on the batch of the prediction.
    """
    chosen = math.ceil(share * len(bounds) - 1e-9)
    return math.inf if not chosen else (1 - 1e-6) * float(np.sort(bounds)[-chosen])


def _failed(
    predicted: Relaxation, potential: Potential, reason: str, run: RelaxationRun[Any] | None = None
) -> Relaxation:
    """Return the prediction as suspect, since the potential could not relax it."""
    what = "prediction" if predicted.after is not None else "input"
    reason = f"{potential.name} could not go on: {reason.rstrip('.')}. The {what} is returned."
    return replace(
        predicted,
        status="suspect",
        reason=reason,
        converged=False,
        steps=0 if run is None else max(len(run.frames) - 1, 0),
        start=None if run is None or not run.frames else run.key.kind,
        calculator=potential.name,
        **({} if run is None else run.key.energies),
        seconds=predicted.seconds + (0.0 if run is None else run.key.seconds + run.seconds),
    )


def _moved(prepared: PreparedCrystal, predicted: Relaxation) -> CrystalBatch | None:
    """Return the predicted crystal, or None if there is none or it is the input to rounding."""
    pairs = zip(_geometry(predicted.after or prepared.crystal), _geometry(prepared.crystal), strict=True)
    return predicted.after if any(np.abs(new - old).max() > ROUNDING for new, old in pairs) else None


def _is_lower(given: StepResults | str, predicted: StepResults | str | None) -> bool:
    """Return whether the input has the lower energy, or the prediction none."""
    if not isinstance(predicted, StepResults) or not math.isfinite(predicted.energy):
        return True
    return isinstance(given, StepResults) and given.energy < predicted.energy


def _geometry(crystal: CrystalBatch) -> tuple[np.ndarray, np.ndarray]:
    double = crystal.to("cpu", torch.float64)
    return double.positions.numpy(), double.cells[0].numpy()


def _number(value: Any, given: Any = None) -> float:
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not number >= 0:
        raise ConfigError(
            "when_uncertain must be a bound in A such as 0.1, or a share of the crystals such as '20%'; got "
            f"{value if given is None else given!r}."
        )
    return number
