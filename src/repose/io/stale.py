"""Results of calculations in a structure, which are invalid after its atoms have moved."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from repose.io.kinds import is_atoms, results_of

_RESULT = re.compile(
    r"\w*energ(y|ies)|forces?|stress(es)?|virials?|hessian|dipoles?|polari[sz]ation|fmax|toten|etot(al)?"
    r"|enthalpy|hull|velocit(y|ies)|moment(um|a)|predictor"
)
# Magnetic moments and charges are inputs, unless their name shows that they were calculated.
_MOMENT = re.compile(r"mag(netic|mom|moms)|moments?|charges?")
_CALCULATED = {
    "final", "ref", "reference", "dft", "pbe", "vasp", "mace", "chgnet", "pred", "predicted", "calc",
    "calculated", "bader", "born",
}  # fmt: skip
# Words of settings of a calculation: energy_cutoff, config_forces_weight, external_stress.
_SETTING = {
    "cutoff", "cut", "unit", "units", "weight", "weights", "tol", "tolerance", "convergence", "converged",
    "threshold", "criterion", "key", "field", "constant", "constants", "method", "source", "scale", "shift",
    "shifts", "external", "applied",
}  # fmt: skip
_NAMES = {"magmoms", "charges", "energies", "forces", "dielectric_tensor"}


def is_stale(name: object, value: object = None) -> bool:
    """Return whether a value is a result that is valid for one geometry only, by its name.

    Names are split into words at ``_``, other signs and capitals. Names of results contain a word such as
    energy, force, stress, virial, dipole or velocity (``REF_energy``, ``energy_above_hull``), or calculated
    moments and charges (``final_magmom``, ``dft_charges``). Settings (``energy_cutoff``) and logical values
    (``has_forces``) are not results.

    ``name`` is a key of ``info``, of an array or of a property.
    """
    return isinstance(name, str) and not isinstance(value, bool | np.bool_) and _is_result(name)


@cache
def _is_result(name: str) -> bool:
    if name in _NAMES:
        return True
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = [word for word in re.split(r"[^a-z]+", split) if word]
    if not _SETTING.isdisjoint(words):
        return False
    calculated = not _CALCULATED.isdisjoint(words) and any(_MOMENT.fullmatch(word) for word in words)
    return calculated or any(_RESULT.fullmatch(word) for word in words)


def stale_labels(structure: Any) -> list[str]:
    """Sorted names of the results in a structure that are invalid for another geometry.

    Args:
        structure: `ase.Atoms` (results of its calculator, ``info``, arrays) or a pymatgen Structure
            (the same of ``calc``, properties, site properties, and the energy of a Slab).
    """
    names = set(results_of(structure))
    if is_atoms(structure):
        tables = (structure.info, structure.arrays)
    else:
        names |= {"energy"} if vars(structure).get("energy") is not None else set()
        tables = (structure.properties, *(site.properties for site in structure))
    return sorted(names | {k for table in tables for k, value in table.items() if is_stale(k, value)})


def remove_stale(structure: Any) -> None:
    """Remove the results that `stale_labels` names, in place."""
    if is_atoms(structure):
        structure.calc = None
        tables = [structure.info, structure.arrays]
    else:
        vars(structure).pop("calc", None)
        tables = [structure._properties, *(site.properties for site in structure)]
        if vars(structure).get("energy") is not None:
            structure.energy = None
    for table in tables:
        for name in [name for name, value in table.items() if is_stale(name, value)]:
            del table[name]
