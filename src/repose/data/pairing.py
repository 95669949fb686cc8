"""Conversion of crystals of ASE to a checked `Pair`, or to a refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.crystal.frame import Frame
from repose.crystal.neighbours import neighbours
from repose.data.dataset import SPLITS, Pair
from repose.data.matching import SMALLEST_ROTATION, match, rotation_angle, stretch_and_rotation
from repose.errors import DatasetError, InvalidCrystalError, ReposeError

if TYPE_CHECKING:
    from ase import Atoms

# Smallest distance of atoms in a valid crystal, relaxed or not (A).
MIN_DISTANCE = 0.5
# Split of a crystal whose source gives none; it must be assigned before a dataset is written.
UNASSIGNED = ""


@dataclass(frozen=True)
class Refusal:
    """A crystal that could not be imported.

    Attributes:
        id: Name in the source, or the file.
        reason: Error for the user.
    """

    id: str
    reason: str


def attempt(name: str, make: Callable[..., Pair], *arguments: Any, **options: Any) -> Pair | Refusal:
    """Call a function that makes a pair; return a refusal if it raises an error."""
    try:
        return make(*arguments, **options)
    except ReposeError as error:
        return Refusal(name, str(error))
    except Exception as error:  # readers of other packages raise anything, even AssertionError
        return Refusal(name, f"cannot be read: {describe(error)}")


def describe(error: Exception) -> str:
    """Return an exception of another package as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def states_to_pair(
    name: str,
    unrelaxed: Atoms,
    relaxed: Atoms,
    *,
    align: bool = True,
    split: str = UNASSIGNED,
    tags: dict[str, str] | None = None,
) -> Pair:
    """Make a pair of two crystals that were stored separately.

    Relaxed atoms are matched to input atoms and unwrapped; see `repose.data.matching.match`. Fractional
    displacements are measured in the mean of both cells, so that an expansion of the cell does not change
    the nearest image of atoms far from the origin. Corrections are recorded in the tags ``atom_order`` =
    ``matched`` and ``origin`` = ``shifted``.

    CIF has no orientation: both crystals are read with a along x and b in the xy plane, so that a shear of
    the cell includes a small rotation. With ``align``, the relaxed crystal is rotated back by the rotation of
    the polar decomposition if that exceeds 1e-3 radian. It then differs from the input by a symmetric
    stretch and displacements only, which is what an equivariant model can predict. Published tables on CIF
    archives were made without it.

    Args:
        name: Id of the pair.
        unrelaxed: Unrelaxed crystal.
        relaxed: The same atoms, in any order and any periodic image.
        align: Remove a rigid rotation.
        split: Split given by the source.
        tags: Free columns.

    Raises:
        InvalidCrystalError: A crystal is invalid, or the two do not have the same atoms.
        DatasetError: The split is unknown.
    """
    check_crystal(unrelaxed, "unrelaxed")
    check_crystal(relaxed, "relaxed")
    _check_composition(unrelaxed, relaxed)
    cell, relaxed_cell = unrelaxed.cell.array, relaxed.cell.array
    stretch, rotation = stretch_and_rotation(cell, relaxed_cell)
    found = match(
        numbers=unrelaxed.numbers,
        fractional=unrelaxed.positions @ np.linalg.inv(cell),
        relaxed_numbers=relaxed.numbers,
        relaxed_fractional=relaxed.positions @ np.linalg.inv(relaxed_cell),
        cell=cell @ (np.eye(3) + stretch) / 2,
        pbc=unrelaxed.pbc,
    )
    # Added to the original positions, which avoids rounding.
    positions = relaxed.positions[found.order] + (found.images - found.shift) @ relaxed_cell
    if align and rotation_angle(rotation) > SMALLEST_ROTATION:
        positions, relaxed_cell = positions @ rotation.T, relaxed_cell @ rotation.T
    tags = dict(tags or {})
    if not np.array_equal(found.order, np.arange(len(found.order))):
        tags["atom_order"] = "matched"
    if found.shift.any():
        tags["origin"] = "shifted"
    return _pair(name, unrelaxed, positions, relaxed_cell, split, tags)


def path_to_pair(
    name: str, steps: Sequence[Atoms], *, split: str = UNASSIGNED, tags: dict[str, str] | None = None
) -> Pair:
    """Make a pair of a relaxation path; positions must be continuous and are not changed.

    Args:
        name: Id of the pair.
        steps: At least two frames with the same order of atoms. Energies, forces and stresses are taken from
            the results of their calculators.
        split: Split given by the source.
        tags: Free columns.

    Raises:
        InvalidCrystalError: A frame is invalid, or has other atoms than the first.
        DatasetError: There is only one frame, or the split is unknown.
    """
    if len(steps) < 2:
        raise DatasetError(
            f"'{name}' has {len(steps)} frame; expected at least the unrelaxed and the relaxed one. "
            "Give frames of one crystal the same id=... in the comment line."
        )
    first, last = steps[0], steps[-1]
    if not all(np.array_equal(atoms.numbers, first.numbers) for atoms in steps):
        raise InvalidCrystalError(f"'{name}': not all frames have the same atoms in the same order.")
    check_crystal(first, "unrelaxed")
    check_crystal(last, "relaxed")
    path = tuple(map(_frame, steps))
    return _pair(name, first, last.positions, last.cell.array, split, dict(tags or {}), path)


def check_crystal(atoms: Atoms, which: str) -> None:
    """Check a crystal, which is called ``which`` in messages.

    Raises:
        InvalidCrystalError: It has no atoms, no cell or volume, values that are not finite, atoms of no
            element, a partial occupancy, or two atoms within 0.5 A.
    """
    if len(atoms) == 0:
        raise InvalidCrystalError(f"the {which} crystal has no atoms.")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise InvalidCrystalError(
            f"the {which} crystal has positions or lattice vectors that are not finite."
        )
    if abs(np.linalg.det(atoms.cell.array)) < 1e-3:
        raise InvalidCrystalError(f"the {which} crystal has no cell, or a cell without volume.")
    if ((atoms.numbers < 1) | (atoms.numbers > 118)).any():
        raise InvalidCrystalError(f"the {which} crystal has an atom of no known element.")
    for site, species in (atoms.info.get("occupancy") or {}).items():
        if len(species) > 1 or min(species.values()) < 1 - 1e-6:
            raise InvalidCrystalError(
                f"site {site} of the {which} crystal is partially occupied ({species}); order it first."
            )
    first, second, _, distance = neighbours(
        atoms.positions, atoms.cell.array, atoms.pbc, MIN_DISTANCE, half=True
    )
    if len(distance):
        k = distance.argmin()
        raise InvalidCrystalError(
            f"atoms {first[k]} and {second[k]} of the {which} crystal are {distance[k]:.2f} A apart, "
            f"less than {MIN_DISTANCE} A."
        )


def check_split(split: str) -> str:
    """Return a split that a source gives, if it is train, val, test or empty.

    Raises:
        DatasetError: It is none of these.
    """
    if split not in (*SPLITS, UNASSIGNED):
        raise DatasetError(f"the source gives the split '{split}'; expected {', '.join(SPLITS)}.")
    return split


def _pair(
    name: str,
    unrelaxed: Atoms,
    positions: np.ndarray,
    cell: np.ndarray,
    split: str,
    tags: dict[str, str],
    path: tuple[Frame, ...] = (),
) -> Pair:
    numbers, pbc = unrelaxed.numbers.astype(np.int64), unrelaxed.pbc.copy()
    before = unrelaxed.positions.copy(), unrelaxed.cell.array.copy()
    charges = unrelaxed.arrays.get("initial_charges")
    if charges is not None and not np.isfinite(charges).all():
        charges = None
    return Pair(name, numbers, pbc, *before, positions, cell.copy(), check_split(split), path, tags, charges)


def _check_composition(unrelaxed: Atoms, relaxed: Atoms) -> None:
    if np.array_equal(np.sort(unrelaxed.numbers), np.sort(relaxed.numbers)):
        return
    before, after = (atoms.get_chemical_formula() for atoms in (unrelaxed, relaxed))
    reduced = [atoms.symbols.formula.reduce()[0].format("hill") for atoms in (unrelaxed, relaxed)]
    reason = "one cell is a multiple of the other" if reduced[0] == reduced[1] else "the compositions differ"
    raise InvalidCrystalError(
        f"unrelaxed {before} but relaxed {after}: {reason}; both must have the same atoms."
    )


def _frame(atoms: Atoms) -> Frame:
    results: dict[str, Any] = getattr(atoms.calc, "results", {})
    energy, stress = results.get("energy"), results.get("stress")
    if stress is not None and np.shape(stress) == (6,):
        from ase.stress import voigt_6_to_full_3x3_stress

        stress = voigt_6_to_full_3x3_stress(stress)
    energy = None if energy is None else float(energy)
    return Frame(atoms.positions, atoms.cell.array, energy, results.get("forces"), stress)
