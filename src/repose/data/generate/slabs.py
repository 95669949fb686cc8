"""Common steps of the presets of sheets: vacuum, parents as monolayers, and repeated draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from repose.data.candidates import Candidate
from repose.data.generate.distortion import min_bond_ratio
from repose.data.generate.structure_builder import TrialStructure
from repose.errors import DatasetError, InvalidCrystalError

if TYPE_CHECKING:
    from ase import Atoms

# Vacuum along c (A): more than twice the cutoff of a potential with a cutoff of 6 A.
VACUUM = 15.0
# Structures with shorter bonds, relative to the sum of covalent radii, are rejected.
MIN_BOND_RATIO = 0.62
# Thickness (A) of an empty slab that counts as vacuum; the gap between layers of a crystal is about 3 A.
MIN_VACUUM = 7.0
# Number of failed draws in a row after which an error is raised.
MAX_FAILURES = 2000


def draw_candidates(n: int, prefix: str, draw: Callable[[], TrialStructure | None]) -> Iterator[Candidate]:
    """Draw structures until n of them are valid.

    Args:
        n: Number of candidates.
        prefix: Prefix of their ids.
        draw: Returns a structure, or None if the draw failed.

    Yields:
        Candidates; structures with atoms that are too close are skipped.

    Raises:
        DatasetError: `MAX_FAILURES` draws in a row failed.
    """
    made = failed = 0
    while made < n:
        structure = draw()
        if structure is None or too_close(structure.atoms):
            failed += 1
            if failed == MAX_FAILURES:
                raise DatasetError(
                    f"found only {made} of {n} candidates ({prefix}), then {MAX_FAILURES} attempts failed; "
                    "ask for fewer, or give other parents."
                )
            continue
        yield Candidate.from_atoms(f"{prefix}-{made:06d}", structure.atoms, structure.tags)
        made, failed = made + 1, 0


def clipped_normal(rng: np.random.Generator, deviation: float, limit: float) -> float:
    """Return a normally distributed number, clipped at ``limit`` standard deviations."""
    return float(np.clip(rng.normal(), -limit, limit) * deviation)


def formula(atoms: Atoms) -> str:
    """Return the reduced formula, metals first: ``WSe2``."""
    return atoms.get_chemical_formula("metal", empirical=True)


def center_in_vacuum(atoms: Atoms) -> Atoms:
    """Center a slab in a cell with `VACUUM` along c that is periodic along a and b only.

    Args:
        atoms: Slab with a and b in the xy plane, not wrapped along c. Changed in place and returned.
    """
    z = atoms.positions[:, 2]
    height = float(np.ptp(z)) + VACUUM
    cell = atoms.cell.array.copy()
    cell[2] = 0.0, 0.0, height
    atoms.positions[:, 2] += height / 2 - (z.max() + z.min()) / 2
    atoms.set_cell(cell)
    atoms.pbc = (True, True, False)
    return atoms


def standardize_monolayers(parents: Sequence[Atoms]) -> list[Atoms]:
    """Return monolayers in a standard cell, with unchanged geometry.

    Args:
        parents: Sheets with vacuum along c, which may be marked as periodic. They are not changed.

    Returns:
        Copies with a along x, b in the xy plane at an obtuse or right angle, and the unwrapped sheet in the
        middle of `VACUUM`.

    Raises:
        InvalidCrystalError: A parent has no vacuum along c, or atoms that are too close.
    """
    return [_standardize(atoms, f"parent {k} ({atoms.symbols})") for k, atoms in enumerate(parents)]


def _standardize(atoms: Atoms, name: str) -> Atoms:
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
        vacuum = gaps[widest] * abs(c @ normal)
        if vacuum < MIN_VACUUM:
            raise InvalidCrystalError(
                f"{name} has no vacuum along c: the widest gap between its atoms is {vacuum:.1f} A, expected "
                f"at least {MIN_VACUUM:g} A. Give monolayers with vacuum along c."
            )
        # Unwrap: atoms above the gap are shifted by one cell below the others.
        fractional[:, 2] = height - (height > order[widest])
    x = a / np.linalg.norm(a)
    frame = np.array([x, np.cross(normal, x), normal])
    positions = fractional @ atoms.cell.array @ frame.T
    if a @ b > 1e-6 * np.linalg.norm(a) * np.linalg.norm(b):
        b = b - a
    sheet = center_in_vacuum(Atoms(atoms.numbers, positions, cell=[frame @ a, frame @ b, [0.0, 0.0, 1.0]]))
    if too_close(sheet):
        raise InvalidCrystalError(f"{name} has atoms that are too close; relax it first.")
    return sheet


def too_close(atoms: Atoms) -> bool:
    """Return whether a bond is shorter than `MIN_BOND_RATIO` times the sum of covalent radii."""
    return min_bond_ratio(atoms) < MIN_BOND_RATIO
