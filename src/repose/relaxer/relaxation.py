"""The result of relaxing one crystal, and tables of such results."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from monty.json import MSONable
from numpy.typing import NDArray

from repose.crystal import symmetry
from repose.crystal.batch import CrystalBatch
from repose.crystal.frame import Frame
from repose.errors import require
from repose.io import convert
from repose.io.kinds import to_jsonable
from repose.relaxer.batch_relaxation import Bonds

if TYPE_CHECKING:
    from pandas import DataFrame

Status = Literal["relaxed", "suspect", "refused"]
StartKind = Literal["prediction", "input"]

# Keys of uncertainties on structures: in `info` and `arrays` of Atoms, properties of Structures and sites.
UNCERTAINTY, OUTSIDE, ATOM_UNCERTAINTY = "repose_uncertainty", "repose_outside", "repose_atom_uncertainty"
# Columns of tables for relaxations that went on with a calculator.
CONTINUED = ("energy", "steps", "converged", "start", "calculator", "energy_input", "energy_predicted")
REPR_WIDTH = 200  # characters of a line of `repr`


@dataclass(frozen=True, eq=False, repr=False)
class Relaxation(MSONable):
    """Result for one crystal.

    Attributes:
        structure: The relaxed crystal, of the type that was given. If the input was refused, or the
            prediction is not finite or has no volume, the input object itself. Unless a calculator relaxed it
            further, it carries uncertainties: `ase.Atoms` as ``info["repose_uncertainty"]``,
            ``info["repose_outside"]`` and the array ``repose_atom_uncertainty``; a pymatgen Structure as
            properties of the same names and as a site property.
        status: ``"relaxed"``; ``"suspect"``: relaxed, but the prediction fails a sanity check;
            ``"refused"``: the crystal cannot be relaxed.
        reason: Why it is suspect or refused, and what to do; otherwise None.
        volume_change: Relaxed over input volume, minus one.
        max_displacement: Largest displacement of an atom in A, without the deformation of the cell: change
            of fractional coordinates times the new cell.
        uncertainty: Bound in A on the mean error of coordinates, where the model gives one. It holds for
            90 % of crystals like the calibration crystals, before constraints are applied.
        atom_uncertainty: The same for every atom, ``(N,)``.
        strain_uncertainty: The same for the strain from this cell to the relaxed one, root mean square of its
            nine entries.
        bond_uncertainty: The same for the length of every bond.
        outside: Why the crystal is out of distribution, so that bounds may not hold; None if it is not, or if
            the model cannot tell.
        path: Predicted relaxation path from the input to the output, both included, where the model gives
            it: energies in eV and forces in eV/A are the model's. Frames changed by constraints have none.
        energy: Energy of the relaxed crystal in eV per cell, where the relaxation went on with a calculator;
            `ase.Atoms` then have it, forces and stress as results of a calculator. This field and the next
            ones are None where it did not.
        forces: Forces in eV/A, ``(N, 3)``.
        stress: Stress in eV/A^3, sign as in ASE, ``(3, 3)``.
        steps: Steps of the optimizer.
        converged: Whether forces are below the threshold.
        start: ``"prediction"``, or ``"input"`` if the input has the lower energy.
        calculator: Name of the calculator.
        energy_input: Energy of the input in eV per cell.
        energy_predicted: Energy of the prediction in eV per cell.
        trajectory: All steps with energies, forces and stresses, if asked for; the input comes first.
        seconds: Time for this crystal, including its share of the batch.
        remarks: Further messages for the user, e.g. that vacuum was found and kept.
        source: File that the crystal was read from, followed by the frame number in brackets if the file
            has several frames.
        before: The input as a batch of one, None if it was refused; `spacegroup_in` is computed from it.
        after: The output as a batch of one, None if there is none.
        known_group: Space group number of the input, if it is known already.
    """

    structure: Any
    status: Status
    reason: str | None = None
    volume_change: float = 0.0
    max_displacement: float = 0.0
    uncertainty: float | None = None
    atom_uncertainty: NDArray[np.float64] | None = None
    strain_uncertainty: float | None = None
    bond_uncertainty: Bonds | None = None
    outside: str | None = None
    path: tuple[Frame, ...] | None = None
    energy: float | None = None
    forces: NDArray[np.float64] | None = None
    stress: NDArray[np.float64] | None = None
    steps: int | None = None
    converged: bool | None = None
    start: StartKind | None = None
    calculator: str | None = None
    energy_input: float | None = None
    energy_predicted: float | None = None
    trajectory: tuple[Frame, ...] | None = None
    seconds: float = 0.0
    remarks: tuple[str, ...] = ()
    source: str | None = None
    before: CrystalBatch | None = field(default=None)
    after: CrystalBatch | None = field(default=None)
    known_group: int | None = field(default=None)

    # Computed on demand: for a cubic crystal spglib takes longer than the model.
    @cached_property
    def spacegroup_in(self) -> int:
        """Space group number of the input; 0 if it was refused."""
        return _space_group(self.before) if self.known_group is None else self.known_group

    @cached_property
    def spacegroup_out(self) -> int:
        """Space group number of the output; 0 if there is none."""
        return _space_group(self.after)

    @property
    def formula(self) -> str:
        """Chemical formula, not reduced, metals first; empty for an input that is not a crystal."""
        return convert.formula_of(self.structure)

    @property
    def n_atoms(self) -> int:
        """Number of atoms; 0 for an input that is not a crystal."""
        known = convert.is_atoms(self.structure) or convert.is_structure(self.structure)
        return len(self.structure) if known else 0

    def summary(self) -> dict[str, Any]:
        """Scalar values by name, for a row of a table; None where there is no prediction."""
        predicted = self.after is not None
        return {
            "source": self.source,
            "formula": self.formula,
            "n_atoms": self.n_atoms,
            "status": self.status,
            "reason": self.reason,
            "volume_change": self.volume_change if predicted else None,
            "max_displacement": self.max_displacement if predicted else None,
            "uncertainty": self.uncertainty,
            "strain_uncertainty": self.strain_uncertainty,
            "outside": self.outside,
            "spacegroup_in": self.spacegroup_in or None,
            "spacegroup_out": self.spacegroup_out or None,
            **{name: getattr(self, name) for name in CONTINUED},
            "seconds": self.seconds,
            "remarks": "; ".join(self.remarks),
        }

    def __repr__(self) -> str:
        named = f"{self.formula}, {self.n_atoms} atoms" if self.formula else type(self.structure).__name__
        parts = [f"{self.status}: {named}"]
        if self.after is not None:
            parts.append(f"volume {100 * self.volume_change:+.1f} %")
            parts.append(f"largest displacement {self.max_displacement:.3f} A")
        if self.uncertainty is not None:
            parts.append(f"error below {self.uncertainty:.3f} A")
        if self.steps is not None:
            parts.append(self._continued())
        lines = [f"Relaxation({', '.join(parts)})"]
        reasons = [text for text in (self.reason, self.outside and f"outside: {self.outside}") if text]
        lines += ["; ".join(part) for part in (reasons, self.remarks) if part]
        return "\n  ".join(shorten(line, REPR_WIDTH, placeholder=" ...") for line in lines)

    def _continued(self) -> str:
        """Words on the relaxation by the calculator."""
        energy = "" if self.energy is None else f", {self.energy:.3f} eV"
        converged = "converged" if self.converged else "not converged"
        return f"{converged} in {self.steps} steps from the {self.start or 'prediction'}{energy}"

    def _repr_html_(self) -> str:
        shown = {
            "status": self.status,
            "reason": self.reason,
            "atoms": f"{self.formula}, {self.n_atoms}",
            "volume change": f"{100 * self.volume_change:+.1f} %" if self.after is not None else None,
            "largest displacement": f"{self.max_displacement:.3f} Å" if self.after is not None else None,
            "error below (90 %)": None if self.uncertainty is None else f"{self.uncertainty:.3f} Å",
            "out of distribution": self.outside,
            self.calculator or "calculator": None if self.steps is None else self._continued(),
            "space group": f"{self.spacegroup_in} → {self.spacegroup_out}"
            if self.after is not None
            else None,
            "remarks": "; ".join(self.remarks) or None,
        }
        left = "style='text-align:left'"
        rows = (
            f"<tr><th {left}>{name}</th><td {left}>{html.escape(text)}</td></tr>"
            for name, text in shown.items()
            if text is not None
        )
        return f"<table>{''.join(rows)}</table>"

    def as_dict(self) -> dict[str, Any]:
        """Fields and space groups as values of JSON, with the keys that monty uses for objects.

        A pymatgen Structure becomes its own ``as_dict``, `ase.Atoms` become ASE's JSON, any other input its
        ``repr``; so do objects in ``info`` or properties that JSON cannot represent.
        """
        return {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "@version": version("repose-crystal"),
            "structure": _structure_to_dict(self.structure),
            **{f.name: _to_json(getattr(self, f.name)) for f in fields(self) if f.name not in _NOT_IN_JSON},
            "spacegroup_in": self.spacegroup_in,
            "spacegroup_out": self.spacegroup_out,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:  # type: ignore[override]
        """Construct from `as_dict`; `before` is not restored."""
        known = {k: v for k, v in _to_arrays(values).items() if not k.startswith(("@", "spacegroup"))}
        known["structure"] = _structure_from_dict(values["structure"])
        known["remarks"] = tuple(values["remarks"])
        if (bonds := values["bond_uncertainty"]) is not None:
            known["bond_uncertainty"] = Bonds(**_to_arrays(bonds))
        for name in ("path", "trajectory"):
            if values.get(name) is not None:
                known[name] = tuple(Frame(**_to_arrays(frame)) for frame in values[name])
        if values["spacegroup_out"]:
            known["after"] = convert.to_batch(known["structure"])
        if known.get("energy") is not None and known.get("forces") is not None:
            results = known["energy"], known["forces"], known.get("stress")
            convert.attach_results(known["structure"], *results)
        return cls(**known, known_group=values["spacegroup_in"])


_NOT_IN_JSON = ("structure", "before", "after", "known_group")


def to_dataframe(results: Iterable[Relaxation]) -> DataFrame:
    """Table of results, one row each, in order; columns as in `Relaxation.summary`.

    Args:
        results: From `Relaxer.relax`.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    require("pandas", "a table of results")
    import pandas

    columns = list(Relaxation(None, "refused").summary())
    return pandas.DataFrame([result.summary() for result in results], columns=columns)  # type: ignore[arg-type]


def attach_uncertainties(
    structure: Any, uncertainty: float | None, atoms: NDArray[np.float64] | None, outside: str | None
) -> None:
    """Store uncertainties on a structure, replacing any that it has.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure; changed.
        uncertainty: Bound on the mean error of coordinates in A.
        atoms: The same for every atom, ``(N,)``.
        outside: Why the crystal is out of distribution.
    """
    properties = structure.info if convert.is_atoms(structure) else structure.properties
    for name, value in ((UNCERTAINTY, uncertainty), (OUTSIDE, outside)):
        properties.pop(name, None)
        if value is not None:
            properties[name] = value
    if convert.is_atoms(structure):
        structure.arrays.pop(ATOM_UNCERTAINTY, None)
        if atoms is not None:
            structure.set_array(ATOM_UNCERTAINTY, atoms)
        return
    for site in structure:
        site.properties.pop(ATOM_UNCERTAINTY, None)
    if atoms is not None:
        structure.add_site_property(ATOM_UNCERTAINTY, atoms.tolist())


def _space_group(crystal: CrystalBatch | None) -> int:
    if crystal is None:
        return 0
    return symmetry.space_group_number(
        crystal.numbers.numpy(), crystal.positions.numpy(), crystal.cells[0].numpy()
    )


def _to_json(value: Any) -> Any:
    """Value of a field of `Relaxation` as lists, dictionaries and scalars."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Bonds):
        return {name: column.tolist() for name, column in value._asdict().items()}
    if isinstance(value, Frame):
        return {name: _to_json(part) for name, part in vars(value).items()}
    return list(map(_to_json, value)) if isinstance(value, tuple) else value


def _to_arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.array(value) if isinstance(value, list) else value for name, value in values.items()}


def _structure_to_dict(structure: Any) -> Any:
    if convert.is_structure(structure):
        return json.loads(json.dumps(structure.as_dict(), default=_as_json))
    if convert.is_atoms(structure):
        from ase.io.jsonio import encode

        atoms = structure.copy()
        atoms.info = {str(k): json.loads(json.dumps(v, default=_as_json)) for k, v in atoms.info.items()}
        return json.loads(encode(atoms))
    return repr(structure)


def _as_json(value: Any) -> Any:
    """Plain value, or the ``repr``, of an object that users have attached."""
    try:
        return to_jsonable(value)
    except TypeError:
        return repr(value)


def _structure_from_dict(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    if "__ase_objtype__" in values:
        from ase.io.jsonio import decode

        return decode(json.dumps(values))
    from pymatgen.core import Structure

    return Structure.from_dict(values)
