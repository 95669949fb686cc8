"""Makers of jobflow, which stand beside or before those of atomate2."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from repose.errors import ConfigError, require

require("jobflow", "a Maker")

from jobflow.core.flow import Flow
from jobflow.core.job import job
from jobflow.core.maker import Maker

from repose.relaxer.relaxation import Relaxation
from repose.workflows.single import relax_one

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass
class RelaxMaker(Maker):
    """Makes jobs that relax a crystal by a model and, if asked for, go on with a potential.

    The fields are options of `repose.Relaxer.relax`, with names instead of objects.

    Args:
        name: Name of the jobs.
        model: Name or directory of a model.
        device: See `repose.load`.
        symmetry: ``"keep"`` or ``"free"``.
        fix_cell: Whether to keep the cell.
        fix_axes: Lattice vectors to keep, such as ``"c"``.
        fix_atoms: Indices of atoms to keep.
        then: Potential to go on with: a name such as ``"chgnet"``, or ``"MODULE:CLASS"``.
        fmax: Largest force of a relaxed crystal in eV/A.
        max_steps: Steps of the potential.
        when_uncertain: Go on only if the bound exceeds this, in A.

    Raises:
        ConfigError: The model or the potential is not a string, so that jobs could not be stored.
    """

    name: str = "repose relax"  # type: ignore[override]
    model: str = "default"
    device: str = "auto"
    symmetry: str = "keep"
    fix_cell: bool = False
    fix_axes: str = ""
    fix_atoms: list[int] = field(default_factory=list)
    then: str | None = None
    fmax: float = 0.05
    max_steps: int = 500
    when_uncertain: float | None = None

    def __post_init__(self) -> None:
        """Check that the maker can be stored."""
        for name in ("model", "then"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ConfigError(f"{name} must be a name, since jobs are stored as JSON; got {value!r}.")

    @job
    def make(self, structure: Structure, prev_dir: Any = None) -> Relaxation:
        """Job that relaxes a crystal.

        Args:
            structure: A pymatgen Structure, or MSONAtoms of ``pymatgen.io.ase``.
            prev_dir: Not used; flows of atomate2 pass it to all makers.

        Returns:
            The job. Its output is a `repose.Relaxation`: ``output.structure``, ``output.energy``. If the
            prediction is suspect and no potential follows, ``output.structure`` is the given one. If forces
            have not converged, the job succeeds and ``output.converged`` is False.

        Raises:
            InvalidCrystalError: In the job: the crystal was refused, or the potential failed.
        """
        del prev_dir
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return relax_one(structure, **options)


@dataclass
class PrerelaxMaker(Maker):
    """Makes flows of two jobs: a prediction, and the job of another maker that starts from it.

    Args:
        maker: Maker of atomate2 (VASP, force field) or any other one whose ``make`` takes a structure.
        name: Name of the flows.
        relax_maker: Maker of the prediction.
    """

    maker: Maker
    name: str = "predict, then relax"  # type: ignore[override]
    relax_maker: RelaxMaker = field(default_factory=RelaxMaker)

    def make(self, structure: Structure, **kwargs: Any) -> Flow:
        """Flow of the two jobs; its output is that of the second one.

        Args:
            structure: A pymatgen Structure.
            **kwargs: Further arguments of ``maker.make``, such as ``prev_dir``.
        """
        predicted = self.relax_maker.make(structure)
        relaxed = self.maker.make(predicted.output.structure, **kwargs)
        return Flow([predicted, relaxed], output=relaxed.output, name=self.name)
