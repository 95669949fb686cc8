"""The interface of all relaxers: direct models, trivial baselines, iterative potentials."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.batching import batches_by_cost
from repose.errors import ConfigError, InvalidCrystalError
from repose.models.initial_structure import wrap_far_atoms
from repose.models.prediction import Geometry
from repose.relaxer.batch_relaxation import BatchRelaxation
from repose.relaxer.constraints import Constraints, atom_indices
from repose.relaxer.inputs import expand, is_crystal
from repose.relaxer.memory import batch_bytes, free_memory, is_out_of_memory, measured_peak
from repose.relaxer.progress import reporting
from repose.relaxer.relaxation import Relaxation
from repose.relaxer.single_crystal import (
    SETUP_ERRORS,
    PreparedCrystal,
    error_message,
    finish,
    prepare,
    refuse,
)

if TYPE_CHECKING:
    from repose.relaxer.continuation import Continuation


class Relaxer(ABC):
    """Base class of everything that relaxes crystals. Subclasses implement `predict`.

    Attributes:
        name: Name in tables.
        elements: Atomic numbers that it supports; None for all.
        device: Device that it computes on.
        gives_paths: Whether results have a `path`.
        gives_bounds: Whether results have an `uncertainty`.
        memory_ratio: Measured over estimated memory of the last large batch.
    """

    name: str
    elements: Collection[int] | None = None
    device: torch.device = torch.device("cpu")
    gives_paths: bool = False
    gives_bounds: bool = False
    memory_ratio: float = 1.0

    @abstractmethod
    def predict(self, batch: CrystalBatch) -> Geometry:
        """Relaxed geometry of a batch, without symmetry, constraints or checks.

        Args:
            batch: Crystals that fit in memory together, on any device and in any floating-point type.

        Returns:
            Positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A, on the batch's device and in its type; atom k
            is input atom k, not wrapped into the cell.
        """

    def relax_batch(self, batch: CrystalBatch) -> BatchRelaxation:
        """Relaxed geometry as from `predict`, with uncertainties and paths where the relaxer has them."""
        return BatchRelaxation(self.predict(batch))

    def memory(self, crystal: CrystalBatch) -> float:
        """Estimated bytes that predicting one crystal takes; 0 if memory is no limit."""
        del crystal
        return 0.0

    def relax(
        self,
        structures: Any,
        *,
        symmetry: str = "keep",
        fix_cell: bool = False,
        fix_axes: str = "",
        fix_atoms: Iterable[int] | Iterable[bool] = (),
        constraints: Constraints | None = None,
        then: Any = None,
        fmax: float = 0.05,
        max_steps: int = 500,
        when_uncertain: float | str | None = None,
        trajectory: bool = False,
        progress: bool | Callable[[int], None] | None = None,
    ) -> list[Relaxation]:
        """Relax crystals in batches that fit in memory.

        The prediction is projected first on the symmetry of the input, then on the constraints. Constraints
        that a structure carries are kept too, see `repose.io.convert.fixed_coordinates`. Lattice vectors
        along directions that are not periodic, or along vacuum, are always kept.

        With ``then``, a potential relaxes the crystals further, many side by side, from the prediction or,
        if that has the higher energy, from the input; symmetry and constraints are kept.

        Any error with one crystal refuses that crystal; the others are relaxed.

        Args:
            structures: `ase.Atoms`, pymatgen Structures and paths, in any mixture (or a single one); not
                changed. A path is that of a file, a folder or a glob; all crystals in it are relaxed.
            symmetry: ``"keep"`` the space group of the input, or leave the prediction ``"free"``.
            fix_cell: Keep the cell; atoms get the predicted fractional displacements.
            fix_axes: Lattice vectors to keep, letters out of ``abc``: ``"c"`` for the vacuum of a sheet.
            fix_atoms: Atoms whose fractional coordinates are kept: indices, from 0, or a mask with one bool
                per atom. The others move relative to them, as predicted.
            constraints: The four options above as one object, in place of them.
            then: Potential for going on: a name such as ``"chgnet"``, ``"MODULE:CLASS"``, an ASE calculator,
                a `repose.potentials.base.Potential`; or a `Continuation`, in place of the next four options.
            fmax: Largest force of a relaxed crystal, eV/A; see `Continuation` for this and the next ones.
            max_steps: Steps after which a relaxation ends without having converged.
            when_uncertain: Only crystals whose bound exceeds this, in A, go on; or a share of the crystals,
                such as ``"20%"``, that with the largest bounds.
            trajectory: Keep all steps of the potential in the results.
            progress: Called with the number of crystals done, after every batch; or True for a bar on
                standard error or in a notebook.

        Returns:
            One result per crystal, in order.

        Raises:
            ConfigError: An option has a value that is not allowed, or a mask does not fit a crystal.
            MissingExtraError: The package of the potential is not installed.
        """
        inputs = expand(structures)
        sizes = [len(one.structure) for one in inputs if is_crystal(one.structure)]
        options = Constraints(symmetry, fix_cell, fix_axes, atom_indices(fix_atoms, sizes))
        if constraints is not None and options != Constraints():
            raise ConfigError("pass either constraints= or symmetry=, fix_cell=, fix_axes=, fix_atoms=.")
        constraints = constraints or options
        continuation = self._continuation(then, fmax, max_steps, when_uncertain, trajectory)
        results: dict[int, Relaxation] = {}
        crystals = []
        free = free_memory(self.device)
        for index, one in enumerate(inputs):
            start = time.perf_counter()
            try:
                crystals.append(
                    prepare(index, one, constraints, self.elements, lambda c: self._required_memory(c, free))
                )
            except SETUP_ERRORS:
                raise
            except Exception as error:  # the other crystals are not affected
                results[index] = refuse(one, error_message(error), time.perf_counter() - start)
        crystals.sort(key=lambda crystal: crystal.memory)
        batches = batches_by_cost(
            crystals, lambda crystal: crystal.memory, lambda: batch_bytes(self.device) / self.memory_ratio
        )
        with reporting(progress, len(inputs)) as report:
            for batch in batches:
                for crystal, predicted in self._predict_each(batch):
                    results[crystal.index] = finish(crystal, predicted)
                if continuation is None:
                    report(len(results))
            if continuation is not None:
                continuation.update(crystals, results, report)
        return [results[index] for index in range(len(results))]

    def _continuation(self, then: Any, *options: Any) -> Continuation | None:
        """Options of going on as one object; None without a potential."""
        given = options != (0.05, 500, None, False)
        if then is None and not given:
            return None
        from repose.relaxer.continuation import Continuation

        if then is None or (given and isinstance(then, Continuation)):
            what = "a Continuation has them already" if then else "pass then='chgnet' or a calculator"
            raise ConfigError(f"fmax, max_steps, when_uncertain and trajectory belong to then=; {what}.")
        known = isinstance(then, Continuation)
        continuation = then if known else Continuation(then, *options, device=str(self.device))
        if continuation.when_uncertain is not None and not self.gives_bounds:
            raise ConfigError(
                f"when_uncertain needs a calibrated model; '{self.name}' is not calibrated, see 'repose "
                "calibrate'."
            )
        return continuation

    def _required_memory(self, crystal: CrystalBatch, free: float) -> float:
        """Estimated bytes that predicting one crystal takes.

        Raises:
            InvalidCrystalError: They are more than the ``free`` ones.
        """
        memory = self.memory(crystal)
        if memory > free:
            raise InvalidCrystalError(
                f"its {crystal.n_atoms} atoms need about {memory / 1e9:.1f} GB of memory; "
                f"{free / 1e9:.1f} GB are free. Use a machine with more, or a smaller cell."
            )
        return memory

    def _predict_each(
        self, crystals: list[PreparedCrystal]
    ) -> Iterator[tuple[PreparedCrystal, dict[str, Any] | str]]:
        """Values of every crystal as from `BatchRelaxation.split`, or the reason why there are none.

        A batch that fails, for lack of memory or any other reason, is halved until one crystal is left.
        """
        start = time.perf_counter()
        try:
            predicted = self._predict_batch(crystals)
        except SETUP_ERRORS:
            raise
        except Exception as error:
            failure = error_message(error)
            if is_out_of_memory(error):
                failure = f"its {crystals[0].crystal.n_atoms} atoms need too much memory; use a smaller cell."
        else:
            seconds = (time.perf_counter() - start) / sum(one.crystal.n_atoms for one in crystals)
            for one, values in zip(crystals, predicted, strict=True):
                one.seconds += seconds * one.crystal.n_atoms
                yield one, values
            return
        # Outside of the handler, which would keep the tensors of the failed pass in memory.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(crystals) == 1:
            yield crystals[0], failure
            return
        half = len(crystals) // 2
        yield from self._predict_each(crystals[:half])
        yield from self._predict_each(crystals[half:])

    def _predict_batch(self, crystals: list[PreparedCrystal]) -> list[dict[str, Any]]:
        """Predict one batch; atoms keep the periodic images in which they were given."""
        wrapped, shift = wrap_far_atoms(CrystalBatch.collate([one.crystal for one in crystals]))
        with measured_peak(self.device) as peak:
            relaxed = self.relax_batch(wrapped)
        self.memory_ratio = peak.ratio(sum(one.memory for one in crystals), self.memory_ratio)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return relaxed.split([one.crystal.n_atoms for one in crystals], shift)
