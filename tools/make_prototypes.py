"""Write src/repose/data/generate/prototypes.extxyz: primitive cells of the AFLOW library of prototypes.

The library as the package `pymatgen` distributes it (MIT licence; not part of `pymatgen-core`). Run once; the
table is part of the repository, so that candidates do not depend on versions of pymatgen and spglib.

Sources: M. J. Mehl et al., The AFLOW library of crystallographic prototypes: part 1, Comput. Mater. Sci. 136,
S1 (2017), and D. Hicks et al., part 2, Comput. Mater. Sci. 161, S1 (2019).
"""

from pathlib import Path

import spglib
from ase import Atoms
from ase.io.extxyz import write_xyz
from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

TARGET = Path(__file__).parents[1] / "src/repose/data/generate/prototypes.extxyz"
MOST_ATOMS = 20
ELEMENTS = range(2, 5)
SYMPREC = 1e-3


def primitive(structure) -> Atoms:
    """Return the symmetrised primitive cell in its standard orientation, with the orbit of every atom."""
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    lattice, fractional, numbers = spglib.standardize_cell(cell, to_primitive=True, symprec=SYMPREC)
    atoms = Atoms(numbers, scaled_positions=fractional, cell=lattice, pbc=True)
    found = spglib.get_symmetry_dataset((lattice, fractional, numbers), symprec=SYMPREC)
    atoms.new_array("orbit", found.equivalent_atoms)
    return atoms


def main() -> None:
    """Write the table."""
    entries = sorted(AFLOW_PROTOTYPE_LIBRARY, key=lambda entry: entry["tags"]["aflow"])
    with TARGET.open("w", encoding="utf-8") as handle:
        for entry in entries:
            atoms = primitive(entry["snl"].structure)
            if len(atoms) > MOST_ATOMS or len(set(atoms.numbers)) not in ELEMENTS:
                continue
            atoms.info = {"prototype": entry["tags"]["aflow"], "mineral": entry["tags"]["mineral"]}
            write_xyz(handle, [atoms], columns=["symbols", "positions", "orbit"])


if __name__ == "__main__":
    main()
