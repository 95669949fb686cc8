"""Builders of CIF texts for tests, and what is read of them."""

from collections.abc import Iterable, Sequence

import numpy as np
import spglib
from ase import Atoms

from repose.errors import InvalidCrystalError
from repose.io.cif import read_cif

ROCK_SALT = (("Na1", "Na", 0, 0, 0), ("Cl1", "Cl", 0.5, 0.5, 0.5))
FACES = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
# All eight atoms of the cubic cell.
ALL_ROCK_SALT = tuple(
    (f"{s}{k}", s, *((x + shift) % 1 for x in face))
    for s, shift in (("Na", 0), ("Cl", 0.5))
    for k, face in enumerate(FACES)
)
CUBIC = (5.64, 5.64, 5.64, 90, 90, 90)
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
HEXAGONAL = (4.99, 4.99, 17.06, 90, 90, 120)
CALCITE = [("Ca1", "Ca", 0, 0, 0), ("C1", "C", 0, 0, 0.25), ("O1", "O", 0.2578, 0, 0.25)]
# Hall numbers of spglib.
FM3M, PM3M, FD3M_1, FD3M_2, R3C_H, R3C_R = 523, 517, 525, 526, 460, 461


def cif(
    lines: str | Iterable[str] = (),
    sites: Sequence[Sequence[object]] = ROCK_SALT,
    cell: Sequence[float] = CUBIC,
    columns: Sequence[str] = COLUMNS,
    name: str = "x",
) -> str:
    """A block: cell, any lines, and a loop of sites with these columns."""
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    return "\n".join(
        [
            f"data_{name}",
            *(f"_cell_{tag} {value}" for tag, value in zip(tags, cell, strict=True)),
            *([lines] if isinstance(lines, str) else lines),
            "loop_",
            *(f"_atom_site_{column}" for column in columns),
            *(" ".join(str(value) for value in site) for site in sites),
            "",
        ]
    )


def operations(hall_number: int) -> list[str]:
    """The operations of a setting of spglib's tables, as texts."""
    table = spglib.get_symmetry_from_database(hall_number)
    texts = []
    for rotation, translation in zip(table["rotations"], table["translations"], strict=True):
        rows = []
        for row, step in zip(rotation, translation, strict=True):
            terms = "".join(f"{'-' if v < 0 else '+'}{axis}" for v, axis in zip(row, "xyz", strict=True) if v)
            rows.append(f"{terms.removeprefix('+')}{f'+{round(12 * step)}/12' if step else ''}")
        texts.append(",".join(rows))
    return texts


def listed(texts: Iterable[str], tag: str = "_space_group_symop_operation_xyz") -> str:
    """A loop of operations."""
    return "\n".join(["loop_", tag, *(f"'{text}'" for text in texts)])


def read_one(text):
    """The only crystal of a text."""
    (parsed,) = read_cif(text)
    assert isinstance(parsed, Atoms), parsed
    return parsed


def reason(text):
    """Why the only block of a text is refused; one printable line."""
    try:
        (refused,) = read_cif(text)
    except InvalidCrystalError as error:
        refused = error
    assert isinstance(refused, InvalidCrystalError), f"read: {refused}"
    assert str(refused).isprintable()
    return str(refused)


def space_group(atoms):
    """Number by spglib, for a right-handed cell; it differs between a chiral crystal and its mirror image."""
    cell = atoms.cell.array
    assert np.linalg.det(cell) > 0
    return spglib.get_symmetry_dataset((cell, atoms.get_scaled_positions(), atoms.numbers)).number


def is_rock_salt(text):
    """Whether the text is read as the cubic cell of NaCl."""
    atoms = read_one(text)
    return atoms.get_chemical_symbols() == ["Na"] * 4 + ["Cl"] * 4 and space_group(atoms) == 225
