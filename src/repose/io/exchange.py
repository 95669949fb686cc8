"""Conversion between pymatgen and ASE with all data, and names of the data that cannot be converted.

Names are those of pymatgen's AseAtomsAdaptor:

==================  =======================  =============================================
ASE                 pymatgen                 data
==================  =======================  =============================================
``initial_magmoms`` site property ``magmom`` magnetic moments (also spins of Species)
``initial_charges`` site property ``charge`` charges
``tags``            site property ``tags``   tags
``oxi_states``      Species                  oxidation states, NaN where there is none
``labels``          ``labels``               site labels other than the name of the species
constraints         ``selective_dynamics``   fixed fractional coordinates
``calc``            ``calc``                 results of a calculator (only to ASE)
``info``            ``properties``           the rest
other arrays        other site properties    the rest
==================  =======================  =============================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.constraints import fixed_coordinates, to_constraints
from repose.io.convert import to_atoms, to_batch
from repose.io.kinds import is_atoms, results_of, to_jsonable

# Arrays of ASE, site properties of pymatgen, and their labels in messages.
ARRAYS = (
    ("initial_magmoms", "magmom", "magnetic moments"),
    ("initial_charges", "charge", "charges"),
    ("tags", "tags", "tags"),
)
LABELS = {array: label for array, _, label in ARRAYS} | {
    "oxi_states": "oxidation states",
    "labels": "site labels",
    "momenta": "velocities",
    "masses": "masses",
}


def supported_constraints(structure: Any) -> tuple[NDArray[np.bool_], list[str]]:
    """Fixed fractional coordinates, ``(N, 3)``, and names of constraints that have no such form."""
    names = []
    if is_atoms(structure):
        names = sorted({type(c).__name__ for c in structure.constraints} - {"FixAtoms", "FixScaled"})
    try:
        fixed = fixed_coordinates(structure)
        names = [name for name in names if name == "FixSymmetry"]
    except InvalidCrystalError:
        kept = structure.copy()
        kept.set_constraint([c for c in structure.constraints if type(c).__name__ not in names])
        fixed = fixed_coordinates(kept)
    return fixed, [f"constraints: {name}" for name in names]


def as_atoms(crystal: Any) -> tuple[Any, list[str]]:
    """Crystal as `ase.Atoms` with all data; Atoms are returned unchanged.

    Args:
        crystal: `ase.Atoms` or a pymatgen Structure.

    Returns:
        The atoms, and names of the dropped data.

    Raises:
        InvalidCrystalError: It is a Structure, but not an ordered crystal.
    """
    if is_atoms(crystal):
        return crystal, []
    (atoms,) = to_atoms(to_batch(crystal))
    species = [site.specie for site in crystal]
    columns = dict(crystal.site_properties)
    columns.pop("selective_dynamics", None)
    states = [getattr(kind, "oxi_state", None) for kind in species]
    spins = [getattr(kind, "spin", None) for kind in species]
    if any(state is not None for state in states):
        atoms.set_array("oxi_states", np.array([np.nan if s is None else s for s in states], dtype=float))
    if any(spin is not None for spin in spins):
        columns.setdefault("magmom", spins)
    labels = [site.label for site in crystal]
    if labels != [site.species_string for site in crystal]:
        atoms.set_array("labels", np.array(labels, dtype=object).astype(str))
    dropped = []
    for name, values in columns.items():
        array = next((a for a, p, _ in ARRAYS if p == name), name)
        column = _column([_moment(v) for v in values] if name == "magmom" else values)
        taken = array in atoms.arrays or (array == "tags" and (column is None or column.dtype.kind != "i"))
        if column is None or taken:
            dropped.append(LABELS.get(array, f"site property: {name}"))
        else:
            atoms.set_array(str(array), column)
    atoms.info = dict(crystal.properties)
    charge = crystal._charge
    if charge and abs(charge - sum(state or 0 for state in states)) > 1e-6:
        atoms.info.setdefault("charge", charge)
    fixed, _ = supported_constraints(crystal)
    atoms.set_constraint(to_constraints(fixed))
    if results := results_of(crystal):
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms, dropped


def as_structure(crystal: Any) -> tuple[Any, list[str]]:
    """Crystal as a pymatgen Structure with all data; a Structure is returned unchanged.

    Args:
        crystal: `ase.Atoms` or a pymatgen Structure.

    Returns:
        The structure, and names of the dropped data.
    """
    from pymatgen.core import Element, Lattice, Species, Structure

    if not is_atoms(crystal):
        return crystal, sorted(results_of(crystal))
    fixed, dropped = supported_constraints(crystal)
    columns: dict[str, Any] = {"selective_dynamics": (~fixed).tolist()} if fixed.any() else {}
    states, labels = crystal.arrays.get("oxi_states"), crystal.arrays.get("labels")
    if states is not None and (states.ndim != 1 or states.dtype.kind not in "if"):
        dropped.append(LABELS["oxi_states"])
        states = None
    if labels is not None and (labels.ndim != 1 or not all(isinstance(label, str) for label in labels)):
        dropped.append(LABELS["labels"])
        labels = None
    for name, values in crystal.arrays.items():
        if name in ("numbers", "positions", "oxi_states", "labels"):
            continue
        column = next((p for a, p, _ in ARRAYS if a == name), name)
        try:
            if column in columns:
                raise TypeError(f"There are two columns {column}.")
            columns[column] = to_jsonable(values)
        except TypeError:
            dropped.append(LABELS.get(name, f"site property: {name}"))
    properties = {}
    for name, value in crystal.info.items():
        try:
            if str(to_jsonable(name)) in properties:
                raise TypeError(f"There are two entries {name}.")
            properties[str(to_jsonable(name))] = to_jsonable(value)
        except (TypeError, RecursionError):
            dropped.append(f"info: {name}")
    dropped += sorted(results_of(crystal))
    charge = properties.get("charge")
    number = isinstance(charge, int | float) and not isinstance(charge, bool)
    a, b, c = map(bool, crystal.pbc)
    structure = Structure(
        Lattice(crystal.cell.array, pbc=(a, b, c)),
        [
            Element(s) if states is None or not np.isfinite(states[k]) else Species(s, float(states[k]))
            for k, s in enumerate(crystal.get_chemical_symbols())
        ],
        crystal.positions,
        coords_are_cartesian=True,
        charge=charge if number else None,  # type: ignore[arg-type]
        site_properties=columns or None,
        labels=None if labels is None else [str(label) for label in labels],
        properties=properties,
    )
    return structure, dropped


def _moment(value: Any) -> Any:
    """Magnetic moment in Bohr magnetons: a number, or a vector along x, y and z."""
    if not hasattr(value, "get_moment"):
        return 0.0 if value is None else value
    moment = np.asarray(value.get_moment(), dtype=float)  # along the global axes
    return float(moment[2]) if not moment[:2].any() else moment.tolist()


def _column(values: Any) -> NDArray[Any] | None:
    """Values of all sites as an array of numbers, logical values or text; None for other values."""
    try:
        column = np.array(to_jsonable(list(values)))
    except (TypeError, ValueError):  # objects, or lists of different lengths
        return None
    words = column.dtype.kind == "U" and all(isinstance(value, str) for value in values)
    return column if column.ndim in (1, 2) and (words or column.dtype.kind in "ifb") else None
