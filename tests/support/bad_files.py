"""Files that hold no crystal or a broken one, and the words of the reason for which they are refused."""

import json

from ase.build import bulk

from repose.io.cif import write_cif

GOOD = bulk("CaO", "rocksalt", a=4.8, cubic=True)
CIF = write_cif(GOOD.numbers, GOOD.positions, GOOD.cell.array, "CaO")
NO_VOLUME = "CaO\n1.0\n1 0 0\n0 1 0\n1 1 0\nCa\n1\nDirect\n0 0 0\n"
NOT_A_NUMBER = CIF.replace("Ca2 Ca 0.0000000000", "Ca2 Ca nan")
LINE = CIF[CIF.index("O4 ") :]  # of the last atom


# File, how it is made, words that the reason must hold.
BAD = {
    "cut_in_a_row.cif": (CIF[: CIF.index("O3 O") + 12], ["ends early"]),
    "cut_between_rows.cif": (CIF.replace(LINE, ""), ["Ca4O3", "Ca4 O4", "cut off"]),
    "cut_in_the_head.cif": (CIF[: CIF.index("_cell_angle_beta")], ["no complete cell"]),
    "cut_before_atoms.cif": (CIF[: CIF.index("loop_\n_atom")], ["lists no atoms"]),
    "no_operation.cif": (CIF.replace("'x, y, z'", "'a, b, c'"), ["symmetry operations"]),
    "wrong_row.cif": (CIF.replace("Ca2 Ca", "Ca2 Ca Ca"), ["Wrong number"]),
    "partial.cif": (CIF.replace(LINE, LINE[:-2] + "0.75\n"), ["partial occupancy", "O4", "0.75"]),
    "no_coordinates.cif": (CIF.replace("Ca2 Ca 0.0000000000", "Ca2 Ca ?"), ["Ca2", "three finite numbers"]),
    "nan.cif": (NOT_A_NUMBER, ["Ca2", "three finite numbers"]),
    "no_element.cif": (CIF.replace("Ca2 Ca ", "Q2 Qq "), ["Q2", "no known element"]),
    "flat.cif": (CIF.replace("angle_gamma 90.0", "angle_gamma 0.0"), ["volume"]),
    "flat.vasp": (NO_VOLUME, ["no volume"]),
    "vasp4.vasp": (NO_VOLUME.replace("Ca\n1\n", "1\n"), ["element symbols"]),
    "cut.vasp": ("CaO\n1.0\n5 0 0\n0 5 0\n0 0 5\nCa O\n1 1\nDirect\n0 0 0\n", ["cannot be read as poscar"]),
    "nan.extxyz": ('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nFe nan 0.0 0.0\n', ["atom 0 (Fe)", "nan"]),
    "one_site.extxyz": (
        '3\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nCa 0 0 0\nO 2 2 2\nO 2 2 -2\n',
        ["atoms 1 (O) and 2 (O)", "0.00 A apart"],
    ),
    "unknown_symbol.extxyz": ('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nQq 0 0 0\n', ["cannot be read"]),
    "unseen.extxyz": (
        '1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nPu 0 0 0\n',
        ["training data of the model lack", "Pu"],
    ),
    "placeholder.extxyz": (
        '1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nX 0 0 0\n',
        ["atom 0", "no known element"],
    ),
    "cut.extxyz": ('3\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nCa 0 0 0\n', ["cannot be read as extxyz"]),
    "promises.extxyz": ("999999999999\n\nCa 0 0 0\n", ["cannot be read as extxyz"]),
    "water.xyz": ("3\n\nO 0 0 0\nH 1 0 0\nH 0 1 0\n", ["no cell", "molecule"]),
    "not_periodic.extxyz": ('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="F F F"\nCa 0 0 0\n', ["not periodic"]),
    "no_atoms.extxyz": ('0\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\n', []),
    "empty.cif": ("", ["empty"]),
    "blank.vasp": ("  \n\n", ["empty"]),
    "text.cif": ("Dear editor,\nplease find\n", ["not CIF"]),
    "no_blocks.cif": ("# nothing but a comment\n", ["no CIF data block"]),
    "settings.json": (json.dumps({"a": 1}), ["no pymatgen Structure"]),
    "broken.json": ('{"lattice": ', ["cannot be read as json"]),
    "half.json": (json.dumps({"lattice": {"matrix": []}, "sites": [1]}), ["no complete pymatgen Structure"]),
    "notes.txt": ("hello", ["unknown kind of file", "CIF"]),
    "nothing.traj": ("", ["empty"]),
    "words.traj": ("hello", ["cannot be read as traj"]),
    "words.db": ("hello", ["cannot be read as db"]),
    "words.cif.gz": ("not zipped", ["cannot be"]),
}
JUNK = ["junk.cif", "junk.vasp", "junk.xyz", "junk.json", "junk.traj", "junk.db", "junk.cif.gz"]
