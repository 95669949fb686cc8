"""Results of a calculation that a structure carries, which are wrong once its atoms have moved."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from repose.io.kinds import is_atoms

_RESULT = re.compile(
    r"\w*energ(y|ies)|forces?|stress(es)?|virials?|hessian|dipoles?|polari[sz]ation|fmax|toten|etot(al)?"
    r"|enthalpy|hull|velocit(y|ies)|moment(um|a)|predictor"
)
# Magnetic moments and charges are inputs, unless something says that they were calculated.
_MOMENT = re.compile(r"mag(netic|mom|moms)|moments?|charges?")
_CALCULATED = {
    "final", "ref", "reference", "dft", "pbe", "vasp", "mace", "chgnet", "pred", "predicted", "calc",
    "calculated", "bader", "born",
}  # fmt: skip
# Numbers about a calculation: energy_cutoff, config_forces_weight, external_stress.
_SETTING = {
    "cutoff", "cut", "unit", "units", "weight", "weights", "tol", "tolerance", "convergence", "converged",
    "threshold", "criterion", "key", "field", "constant", "constants", "method", "source", "scale", "shift",
    "shifts", "external", "applied",
}  # fmt: skip
_NAMES = {"magmoms", "charges", "energies", "forces", "dielectric_tensor"}


def is_stale(name: object, value: object = None) -> bool:
    """Whether something of this name belongs to the geometry that it was calculated for.

    Names are split into words at ``_``, other signs and capitals. Stale is what has the word energy, force,
    stress, virial, dipole, velocity or the like in it, whatever stands before and after (``REF_energy``,
    ``mace_forces``, ``energy_above_hull``), and moments and charges that are said to be calculated
    (``final_magmom``, ``dft_charges``); not a setting of the calculation (``energy_cutoff``), nor a logical
    value (``has_forces``).

    Args:
        name: Key of ``info``, of an array or of a property.
        value: Its value.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(name, str):
        return False
    if name in _NAMES:
        return True
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = [word for word in re.split(r"[^a-z]+", split) if word]
    if not _SETTING.isdisjoint(words):
        return False
    calculated = not _CALCULATED.isdisjoint(words) and any(_MOMENT.fullmatch(word) for word in words)
    return calculated or any(_RESULT.fullmatch(word) for word in words)


def stale_labels(structure: Any) -> list[str]:
    """Names of the results that a structure carries and that do not hold for another geometry, sorted.

    Args:
        structure: `ase.Atoms` (results of its calculator, ``info``, arrays) or a pymatgen Structure
            (properties, site properties, and the energy of a Slab).
    """
    if is_atoms(structure):
        results = getattr(structure.calc, "results", None) or {}
        names = {name for name, value in results.items() if value is not None}
        tables = (structure.info, structure.arrays)
    else:
        names = {"energy"} if vars(structure).get("energy") is not None else set[str]()
        tables = (structure.properties, *(site.properties for site in structure))
    return sorted(names | {k for table in tables for k, value in table.items() if is_stale(k, value)})


def remove_stale(structure: Any) -> None:
    """Remove the results that `stale_labels` names, in place.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure.
    """
    if is_atoms(structure):
        structure.calc = None
        tables = [structure.info, structure.arrays]
    else:
        tables = [structure._properties, *(site.properties for site in structure)]
        if vars(structure).get("energy") is not None:
            structure.energy = None
    for table in tables:
        for name in [name for name, value in table.items() if is_stale(name, value)]:
            del table[name]
