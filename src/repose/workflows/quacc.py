"""Recipe of quacc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repose.errors import require

require("quacc", "a recipe")

from quacc import __version__, get_settings, job
from quacc.schemas.ase import Summarize
from quacc.schemas.atoms import atoms_to_metadata
from quacc.schemas.prep import prep_next_run
from quacc.utils.dicts import clean_dict

from repose.io.convert import frame_to_atoms
from repose.workflows.single import relax_one

if TYPE_CHECKING:
    from ase import Atoms


@job
def relax_job(
    atoms: Atoms,
    model: str = "default",
    relax_cell: bool = True,
    symmetry: str = "keep",
    then: Any = None,
    fmax: float = 0.05,
    max_steps: int = 500,
    when_uncertain: float | None = None,
    device: str = "auto",
    additional_fields: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Relax a crystal by a model and, if asked for, go on with a potential.

    Args:
        atoms: The crystal; not changed.
        model: Name or directory of a model.
        relax_cell: Whether the cell relaxes too.
        symmetry: ``"keep"`` or ``"free"``, see `repose.Relaxer.relax`.
        then: Potential to go on with: a name such as ``"chgnet"``, ``"MODULE:CLASS"``, or an ASE calculator.
        fmax: Largest force of a relaxed crystal in eV/A.
        max_steps: Steps of the potential.
        when_uncertain: Go on only if the bound exceeds this, in A.
        device: See `repose.load`.
        additional_fields: Further entries of the result.

    Returns:
        If it went on, entries as in quacc's ``OptSchema``, else those on atoms: ``atoms``, ``input_atoms``,
        ``structure_metadata``. ``relaxation`` holds `repose.Relaxation.summary`: ``status``, the bound
        ``uncertainty``, ``volume_change``. If the prediction is suspect and no potential follows, ``atoms``
        are the given ones.

    Raises:
        InvalidCrystalError: The crystal was refused, or the potential failed.
        RuntimeError: Forces have not converged, and quacc's setting ``CHECK_CONVERGENCE`` is on.
    """
    options: dict[str, Any] = {"symmetry": symmetry, "fix_cell": not relax_cell}
    options["when_uncertain"] = when_uncertain
    if then is not None:
        options |= {"fmax": fmax, "max_steps": max_steps, "trajectory": True}
    result = relax_one(atoms, model=model, device=device, then=then, **options)
    document = {
        "name": "Repose Relax",
        "parameters": {"model": model, "calculator": result.calculator},
        "relaxation": result.summary(),
    }
    if result.trajectory is None or result.before is None:
        about = {"input_atoms": atoms_to_metadata(atoms), "quacc_version": __version__}
        predicted = atoms_to_metadata(prep_next_run(result.structure))
        return clean_dict(predicted | about | document | (additional_fields or {}))
    if get_settings().CHECK_CONVERGENCE and not result.converged:
        raise RuntimeError(f"{result.reason} Raise max_steps or fmax.")
    trajectory = [frame_to_atoms(result.before, frame) for frame in result.trajectory]
    document |= {
        "parameters_opt": {"fmax": fmax, "max_steps": max_steps, "start": result.start},
        "converged": result.converged,
        "trajectory": trajectory,
        "trajectory_results": [frame.calc.results for frame in trajectory if frame.calc is not None],
    }
    return dict(
        Summarize(additional_fields=document | (additional_fields or {})).run(result.structure, atoms)
    )
