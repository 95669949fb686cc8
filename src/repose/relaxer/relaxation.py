"""The result of relaxing one crystal, and tables of such results."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from repose.crystal import symmetry
from repose.crystal.batch import CrystalBatch
from repose.crystal.frame import Frame
from repose.errors import require
from repose.io import convert
from repose.io.kinds import plain
from repose.models.uncertainty.estimate import Bonds

if TYPE_CHECKING:
    from pandas import DataFrame

Status = Literal["relaxed", "suspect", "refused"]

# Where relaxed structures carry bounds: `info` and `arrays` of Atoms, properties of Structures and sites.
UNCERTAINTY, OUTSIDE, ATOM_UNCERTAINTY = "repose_uncertainty", "repose_outside", "repose_atom_uncertainty"
WIDTH = 200  # characters of a line of `repr`

_ARRAYS = ("positions", "cell", "forces", "stress")


@dataclass(frozen=True, eq=False, repr=False)
class Relaxation:
    """Result for one crystal.

    Attributes:
        structure: The relaxed crystal, of the type that was given. If the input was refused, or the
            prediction is no crystal at all (not finite), the input itself, the very object. A relaxed one
            carries the bounds: `ase.Atoms` as ``info["repose_uncertainty"]``, ``info["repose_outside"]`` and
            the array ``repose_atom_uncertainty``; a pymatgen Structure as properties of the same names and as
            a site property.
        status: ``"relaxed"``; ``"suspect"``: relaxed, but the prediction fails a sanity check;
            ``"refused"``: not a crystal that can be relaxed.
        reason: Why it is suspect or refused, in words a user can act on; None if it is neither.
        volume_change: Relaxed over input volume, minus one.
        max_displacement: How far an atom moved at most beyond the deformation of the cell, in A: change of
            fractional coordinates times the new cell. It does not depend on where the crystal is written.
        uncertainty: Where the model gives one, a bound in A that the mean error of coordinates stays below
            for 90 % of crystals like those it was calibrated on, constraints left out.
        atom_uncertainty: The same for every atom, ``(N,)``.
        strain_uncertainty: The same for the strain from this cell to the relaxed one, root mean square of its
            nine entries.
        bond_uncertainty: The same for the length of every bond.
        outside: Why the crystal lies outside of the training data, so that bounds may not hold; None if it
            does not, or if the model cannot tell.
        path: The way from the input to the output, both included, where the model gives it: energies in eV
            and forces in eV/A are the model's. Where constraints hold something back, frames have none.
        seconds: Time this crystal took, its share of the batch's.
        remarks: What else the user should know, e.g. that vacuum was recognised and kept.
        source: The file that the crystal was read from, if it was, with the number of the frame in brackets
            where there are several.
        before: The input as numbers, None if it was refused; `spacegroup_in` is found from it.
        after: The output as numbers, None if there is none.
        known_group: Space group number of the input, if it had to be found anyway.
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
    seconds: float = 0.0
    remarks: tuple[str, ...] = ()
    source: str | None = None
    before: CrystalBatch | None = field(default=None)
    after: CrystalBatch | None = field(default=None)
    known_group: int | None = field(default=None)

    # Found when asked for: on a cubic crystal spglib takes longer than the model.
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
        """Chemical formula, not reduced, metals first; empty if it is no crystal."""
        return convert.formula_of(self.structure)

    @property
    def n_atoms(self) -> int:
        """Number of atoms; 0 if it is no crystal."""
        known = convert.is_atoms(self.structure) or convert.is_structure(self.structure)
        return len(self.structure) if known else 0

    def summary(self) -> dict[str, Any]:
        """Numbers and words that fit into a row of a table, by name; None where there is no prediction."""
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
        lines = [f"Relaxation({', '.join(parts)})"]
        said = [text for text in (self.reason, self.outside and f"outside: {self.outside}") if text]
        lines += ["; ".join(part) for part in (said, self.remarks) if part]
        return "\n  ".join(shorten(line, WIDTH, placeholder=" ...") for line in lines)

    def _repr_html_(self) -> str:
        shown = {
            "status": self.status,
            "reason": self.reason,
            "atoms": f"{self.formula}, {self.n_atoms}",
            "volume change": f"{100 * self.volume_change:+.1f} %" if self.after is not None else None,
            "largest displacement": f"{self.max_displacement:.3f} Å" if self.after is not None else None,
            "error below (90 %)": None if self.uncertainty is None else f"{self.uncertainty:.3f} Å",
            "outside of the training data": self.outside,
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
        """All of it as values of JSON, with the keys that monty uses for objects.

        A pymatgen Structure is given by its own ``as_dict``, `ase.Atoms` as ASE's JSON has them, anything
        else that was refused by its ``repr``; so are objects in ``info`` or properties that JSON cannot hold.
        """
        bonds = self.bond_uncertainty
        return {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "@version": version("repose-crystal"),
            "structure": _structure_to_dict(self.structure),
            "status": self.status,
            "reason": self.reason,
            "volume_change": self.volume_change,
            "max_displacement": self.max_displacement,
            "uncertainty": self.uncertainty,
            "atom_uncertainty": _listed(self.atom_uncertainty),
            "strain_uncertainty": self.strain_uncertainty,
            "bond_uncertainty": None
            if bonds is None
            else {k: v.tolist() for k, v in bonds._asdict().items()},
            "outside": self.outside,
            "path": None if self.path is None else [_frame_to_dict(frame) for frame in self.path],
            "seconds": self.seconds,
            "remarks": list(self.remarks),
            "source": self.source,
            "spacegroup_in": self.spacegroup_in,
            "spacegroup_out": self.spacegroup_out,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make it again from `as_dict`; `before` is lost."""
        known: dict[str, Any] = {k: v for k, v in values.items() if not k.startswith(("@", "spacegroup"))}
        known["structure"] = _structure_from_dict(known["structure"])
        known["remarks"] = tuple(known["remarks"])
        if known["atom_uncertainty"] is not None:
            known["atom_uncertainty"] = np.array(known["atom_uncertainty"])
        if (bonds := known["bond_uncertainty"]) is not None:
            known["bond_uncertainty"] = Bonds(**{name: np.array(column) for name, column in bonds.items()})
        if known["path"] is not None:
            known["path"] = tuple(map(_frame_from_dict, known["path"]))
        if values["spacegroup_out"]:
            known["after"] = convert.to_batch(known["structure"])
        return cls(**known, known_group=values["spacegroup_in"])


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


def write_bounds(
    structure: Any, uncertainty: float | None, atoms: NDArray[np.float64] | None, outside: str | None
) -> None:
    """Let a structure carry the bounds of its geometry, in place of any that it carried before.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure; changed.
        uncertainty: Bound on the mean error of coordinates in A.
        atoms: The same for every atom, ``(N,)``.
        outside: Why the crystal lies outside of the training data.
    """
    noted = structure.info if convert.is_atoms(structure) else structure.properties
    for name, value in ((UNCERTAINTY, uncertainty), (OUTSIDE, outside)):
        noted.pop(name, None)
        if value is not None:
            noted[name] = value
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


def _listed(values: NDArray[Any] | None) -> list[Any] | None:
    return None if values is None else values.tolist()


def _frame_to_dict(frame: Frame) -> dict[str, Any]:
    return {name: _listed(getattr(frame, name)) for name in _ARRAYS} | {"energy": frame.energy}


def _frame_from_dict(values: Mapping[str, Any]) -> Frame:
    known: dict[str, Any] = dict(values)
    for name in _ARRAYS:
        known[name] = None if known[name] is None else np.array(known[name])
    return Frame(**known)


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
    """What stands in JSON for an object that users have attached."""
    try:
        return plain(value)
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
