"""From what a file says about one crystal to a checked `Pair`, or to a refusal with its reason."""

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

# Closer atoms are an error of the file, in an unrelaxed crystal too (A).
CLOSEST = 0.5
# Split of a crystal whose source names none; a dataset is written only once it has one.
UNASSIGNED = ""


@dataclass(frozen=True)
class Refusal:
    """A crystal that could not be imported.

    Attributes:
        id: Its name in the source; where it has none, the file.
        reason: What is wrong with it, in words a user can act on.
    """

    id: str
    reason: str


def attempt(name: str, make: Callable[..., Pair], *arguments: Any, **options: Any) -> Pair | Refusal:
    """Call a function that makes a pair; whatever goes wrong becomes a refusal: no crystal costs others."""
    try:
        return make(*arguments, **options)
    except ReposeError as error:
        return Refusal(name, str(error))
    except Exception as error:  # readers of foreign formats raise anything, down to AssertionError
        return Refusal(name, f"cannot be read: {describe(error)}")


def describe(error: Exception) -> str:
    """One line about an exception of another package."""
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
    """Make a pair of two states that were written apart from each other.

    Relaxed atoms are matched to input atoms and unwrapped (see `repose.data.matching.match`); nearest
    is meant in fractional terms, measured in the mean of both cells, so that atoms far from the origin
    are not torn off by a cell that grows. Two tags say what had to be undone: ``atom_order`` =
    ``matched`` and ``origin`` = ``shifted``.

    A CIF says nothing about orientation: both states are read in the standard one (a along x, b in the
    xy plane), so that a sheared cell comes out slightly rotated. With ``align`` the relaxed crystal is
    turned back by the rotation of the polar decomposition, where that exceeds 1e-3 radian: cell and
    atoms then differ from the input by a symmetric stretch and by displacements alone, which is all that
    an equivariant model can learn. Published tables on CIF archives were made without it.

    Args:
        name: Its id.
        unrelaxed: The input.
        relaxed: The same atoms, in any order and image.
        align: Remove a rigid rotation.
        split: As named by the source.
        tags: Free columns.

    Raises:
        InvalidCrystalError: A state is not a crystal, or the two do not hold the same atoms.
        DatasetError: The split is unknown.
    """
    check_crystal(unrelaxed, "unrelaxed")
    check_crystal(relaxed, "relaxed")
    _check_composition(unrelaxed, relaxed)
    cell, relaxed_cell = unrelaxed.cell.array, relaxed.cell.array
    stretch, rotation = stretch_and_rotation(cell, relaxed_cell)
    fractional = relaxed.positions @ np.linalg.inv(relaxed_cell)
    found = match(
        numbers=unrelaxed.numbers,
        fractional=unrelaxed.positions @ np.linalg.inv(cell),
        relaxed_numbers=relaxed.numbers,
        relaxed_fractional=fractional,
        cell=cell @ (np.eye(3) + stretch) / 2,
        pbc=unrelaxed.pbc,
    )
    # Added to the positions as they were read, so that nothing is rounded that need not be.
    positions = relaxed.positions[found.order] + (found.images - found.shift) @ relaxed_cell
    if align and rotation_angle(rotation) > SMALLEST_ROTATION:
        positions, relaxed_cell = positions @ rotation.T, relaxed_cell @ rotation.T
    tags = dict(tags or {})
    if not np.array_equal(found.order, np.arange(len(found.order))):
        tags["atom_order"] = "matched"
    if found.shift.any():
        tags["origin"] = "shifted"
    return Pair(
        id=name,
        numbers=unrelaxed.numbers.astype(np.int64),
        pbc=unrelaxed.pbc.copy(),
        positions=unrelaxed.positions.copy(),
        cell=cell.copy(),
        relaxed_positions=positions,
        relaxed_cell=relaxed_cell.copy(),
        split=check_split(split),
        tags=tags,
    )


def path_to_pair(
    name: str, steps: Sequence[Atoms], *, split: str = UNASSIGNED, tags: dict[str, str] | None = None
) -> Pair:
    """Make a pair of the frames along one relaxation path, first to last.

    Positions along a path are continuous and stay as they are: nothing is matched, wrapped or rotated.

    Args:
        name: Its id.
        steps: At least two frames, atoms in one and the same order; energies, forces and stresses are
            taken from their calculators' results, where there are any.
        split: As named by the source.
        tags: Free columns.

    Raises:
        InvalidCrystalError: A frame is not a crystal, or holds other atoms than the first.
        DatasetError: There is only one frame, or the split is unknown.
    """
    if len(steps) < 2:
        raise DatasetError(
            f"'{name}' has {len(steps)} frame; a path needs the unrelaxed and the relaxed one. "
            "Frames of one crystal share id=... in the comment line."
        )
    first, last = steps[0], steps[-1]
    for atoms in steps:
        if not np.array_equal(atoms.numbers, first.numbers):
            raise InvalidCrystalError(
                f"'{name}': the frames of the path do not hold the same atoms in the same order."
            )
    check_crystal(first, "unrelaxed")
    check_crystal(last, "relaxed")
    return Pair(
        id=name,
        numbers=first.numbers.astype(np.int64),
        pbc=first.pbc,
        positions=first.positions,
        cell=first.cell.array,
        relaxed_positions=last.positions,
        relaxed_cell=last.cell.array,
        split=check_split(split),
        path=tuple(map(_frame, steps)),
        tags=dict(tags or {}),
    )


def check_crystal(atoms: Atoms, which: str) -> None:
    """Refuse what is not a crystal.

    Args:
        atoms: One state.
        which: What to call it in the message.

    Raises:
        InvalidCrystalError: No atoms, no cell or volume, values that are not finite, atoms of no element,
            partial occupancy, or two atoms within 0.5 A.
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
        raise InvalidCrystalError(f"the {which} crystal holds an atom of no known element.")
    for site, species in (atoms.info.get("occupancy") or {}).items():
        if len(species) > 1 or min(species.values()) < 1 - 1e-6:
            raise InvalidCrystalError(
                f"site {site} of the {which} crystal is partially occupied ({species}); order it first."
            )
    _check_distances(atoms, which)


def check_split(split: str) -> str:
    """Return a split's name if it is one, or empty.

    Raises:
        DatasetError: It is neither.
    """
    if split not in (*SPLITS, UNASSIGNED):
        raise DatasetError(f"the source puts it into split '{split}'; expected {', '.join(SPLITS)}.")
    return split


def _check_distances(atoms: Atoms, which: str) -> None:
    first, second, _, distance = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, CLOSEST, half=True)
    if len(distance):
        k = distance.argmin()
        raise InvalidCrystalError(
            f"atoms {first[k]} and {second[k]} of the {which} crystal are {distance[k]:.2f} A apart, "
            f"less than {CLOSEST} A."
        )


def _check_composition(unrelaxed: Atoms, relaxed: Atoms) -> None:
    if np.array_equal(np.sort(unrelaxed.numbers), np.sort(relaxed.numbers)):
        return
    before, after = (atoms.get_chemical_formula() for atoms in (unrelaxed, relaxed))
    reduced = [atoms.symbols.formula.reduce()[0].format("hill") for atoms in (unrelaxed, relaxed)]
    reason = "one cell is a multiple of the other" if reduced[0] == reduced[1] else "the compositions differ"
    raise InvalidCrystalError(
        f"unrelaxed {before} but relaxed {after}: {reason}; a pair needs the same atoms twice."
    )


def _frame(atoms: Atoms) -> Frame:
    results: dict[str, Any] = getattr(atoms.calc, "results", {})
    energy, stress = results.get("energy"), results.get("stress")
    if stress is not None and np.shape(stress) == (6,):
        from ase.stress import voigt_6_to_full_3x3_stress

        stress = voigt_6_to_full_3x3_stress(stress)
    energy = None if energy is None else float(energy)
    return Frame(atoms.positions, atoms.cell.array, energy, results.get("forces"), stress)
