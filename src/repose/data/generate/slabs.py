"""What the generators of sheets share: vacuum, users' monolayers, and draws that count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from repose.crystal.neighbours import neighbours
from repose.data.candidates import Candidate
from repose.errors import DatasetError, InvalidCrystalError

if TYPE_CHECKING:
    from ase import Atoms

# Empty space along c (A): more than twice the range of a potential that sees 6 A far.
VACUUM = 15.0
# Two atoms closer than this times the sum of their covalent radii are no crystal's.
CLOSEST = 0.62
# A thicker slab without atoms (A) is vacuum; between the layers of a crystal there are some 3 A.
LEAST_VACUUM = 7.0
# Draws in a row that come to nothing before we give up.
ATTEMPTS = 2000

Draft = tuple["Atoms", dict[str, str]]


def draw(n: int, prefix: str, attempt: Callable[[], Draft | None]) -> Iterator[Candidate]:
    """Number what comes of repeated attempts.

    Args:
        n: How many candidates.
        prefix: Of their ids.
        attempt: Makes a crystal and its tags, or None where the draw came to nothing.

    Yields:
        Candidates; crystals with atoms too close are left out.

    Raises:
        DatasetError: Many attempts in a row came to nothing: there is no further candidate to be made.
    """
    made = failed = 0
    while made < n:
        drawn = attempt()
        if drawn is None or too_close(drawn[0]):
            failed += 1
            if failed == ATTEMPTS:
                raise DatasetError(
                    f"{made} of {n} {prefix} could be made, then {ATTEMPTS} attempts came to nothing; "
                    "ask for fewer, or give other parents."
                )
            continue
        atoms, tags = drawn
        yield Candidate.from_atoms(f"{prefix}-{made:06d}", atoms, tags)
        made, failed = made + 1, 0


def formula(atoms: Atoms) -> str:
    """Reduced formula, metals first: ``WSe2``."""
    return atoms.get_chemical_formula("metal", empirical=True)


def in_vacuum(atoms: Atoms) -> Atoms:
    """Put a slab into the middle of a cell with `VACUUM` that is periodic in its plane alone.

    Args:
        atoms: a and b in the xy plane; the atoms must not be wrapped along c. Changed and returned.
    """
    z = atoms.positions[:, 2]
    height = float(np.ptp(z)) + VACUUM
    cell = atoms.cell.array.copy()
    cell[2] = 0.0, 0.0, height
    atoms.positions[:, 2] += height / 2 - (z.max() + z.min()) / 2
    atoms.set_cell(cell)
    atoms.pbc = (True, True, False)
    return atoms


def as_monolayers(parents: Sequence[Atoms]) -> list[Atoms]:
    """Users' monolayers in the form that the generators work with; their geometry stays as it is.

    Args:
        parents: Sheets with vacuum along c, which need not be marked as not periodic. They stay as they are.

    Returns:
        Copies: a along x, b in the xy plane at an obtuse or right angle, each sheet in one piece in the
        middle of `VACUUM`.

    Raises:
        InvalidCrystalError: One has no vacuum along c, or atoms that are too close; says which.
    """
    return [_as_monolayer(atoms, f"parent {k} ({atoms.symbols})") for k, atoms in enumerate(parents)]


def _as_monolayer(atoms: Atoms, name: str) -> Atoms:
    from ase import Atoms

    a, b, c = atoms.cell.array
    if abs(np.linalg.det(atoms.cell.array)) < 1e-3:
        raise InvalidCrystalError(f"{name} has no cell, or one without volume; expected a monolayer.")
    normal = np.cross(a, b) / np.linalg.norm(np.cross(a, b))
    fractional = atoms.get_scaled_positions(wrap=False)
    if atoms.pbc[2]:
        height = fractional[:, 2] % 1.0
        order = np.sort(height)
        gaps = np.append(order[1:], order[0] + 1.0) - order
        widest = int(gaps.argmax())
        empty = gaps[widest] * abs(c @ normal)
        if empty < LEAST_VACUUM:
            raise InvalidCrystalError(
                f"{name} has no vacuum along c: the widest gap between its atoms is {empty:.1f} A, expected "
                f"at least {LEAST_VACUUM:g} A. Give monolayers, with c across them."
            )
        # Atoms above the gap belong below those under it.
        fractional[:, 2] = height - (height > order[widest])
    x = a / np.linalg.norm(a)
    frame = np.array([x, np.cross(normal, x), normal])
    positions = fractional @ atoms.cell.array @ frame.T
    if a @ b > 1e-6 * np.linalg.norm(a) * np.linalg.norm(b):
        b = b - a
    sheet = in_vacuum(Atoms(atoms.numbers, positions, cell=[frame @ a, frame @ b, [0.0, 0.0, 1.0]]))
    if too_close(sheet):
        raise InvalidCrystalError(f"{name} has atoms that are too close; relax it first.")
    return sheet


def too_close(atoms: Atoms) -> bool:
    """Whether two atoms, images included, are closer than `CLOSEST` times the sum of their covalent radii."""
    from ase.data import covalent_radii

    radii = covalent_radii[atoms.numbers]
    cutoff = 2 * CLOSEST * float(radii.max())
    first, second, _, distance = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, half=True)
    return bool((distance < CLOSEST * (radii[first] + radii[second])).any())
