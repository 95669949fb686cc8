"""Crystals that carry something of every kind, and any values that they may carry."""

import json

import numpy as np
from ase.build import bulk
from ase.constraints import FixScaled
from hypothesis import strategies as st
from pymatgen.core import Lattice, Species, Structure

from repose.io.files import read
from repose.io.kinds import to_jsonable

SUFFIX = {"cif": ".cif", "poscar": ".vasp", "extxyz": ".extxyz", "json": ".json"}
NUMBERS = st.one_of(st.lists(st.integers(-9, 9), max_size=4), st.lists(st.floats(), max_size=4))
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), NUMBERS.map(np.array)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def rich_atoms():
    """Four atoms that carry something of every kind."""
    atoms = bulk("FeO", "rocksalt", a=4.33, orthorhombic=True)
    atoms.set_initial_magnetic_moments([4.0, 0.0, -4.0, 0.1])
    atoms.set_initial_charges([0.5, -0.5, 0.25, -0.25])
    atoms.set_tags([3, 2, 1, 0])
    atoms.set_array("oxi_states", np.array([2.0, -2.0, np.nan, -2.0]))
    atoms.set_array("labels", np.array(["Fe1", "O1", "Fe2", "O2"]))
    atoms.set_array("hubbard", np.array([4.0, 0.0, 3.9, 1e-12]))
    atoms.set_constraint(FixScaled([1, 2], [False, True, True]))
    atoms.info = {"material_id": "mp-1", "note": "two\nlines", "nested": {"a": [1, 2.5, None]}, 7: "seven"}
    return atoms


def rich_structure():
    """The same as a pymatgen Structure."""
    atoms = rich_atoms()
    return Structure(
        Lattice(atoms.cell.array),
        [Species("Fe", 2), Species("O", -2), "Fe", Species("O", -2)],
        atoms.get_scaled_positions(wrap=False),
        site_properties={
            "magmom": [4.0, 0.0, -4.0, 0.1],
            "charge": [0.5, -0.5, 0.25, -0.25],
            "tags": [3, 2, 1, 0],
            "hubbard": [4.0, 0.0, 3.9, 1e-12],
            "selective_dynamics": [[True] * 3, [True, False, False], [True, False, False], [True] * 3],
        },
        labels=["Fe1", "O1", "Fe2", "O2"],
        properties={
            "material_id": "mp-1",
            "note": "two\nlines",
            "nested": {"a": [1, 2.5, None]},
            "7": "seven",
        },
    )


def entry(path):
    """The only crystal of a file."""
    (only,) = read(path)
    assert only.reason is None, only.reason
    return only.crystal


def equal(one, other):
    """Whether values are the same, with NaN the same as itself."""
    return json.dumps(to_jsonable(one), sort_keys=True) == json.dumps(to_jsonable(other), sort_keys=True)
