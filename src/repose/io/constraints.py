"""Fixed coordinates of a structure: constraints of ASE, selective dynamics of pymatgen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.kinds import is_structure
from repose.io.text import parse_logical

if TYPE_CHECKING:
    from repose.io.kinds import Crystal

# A vector lies in a plane if its distance from it is less than this share of its length (0.06 degrees):
# relaxed cells are only nearly rectangular.
PARALLEL = 1e-3


def fixed_coordinates(structure: Crystal) -> NDArray[np.bool_]:
    """Fractional coordinates fixed by the structure itself, ``(N, 3)`` bool.

    Sources are ASE's FixAtoms, FixScaled and FixCartesian, as which ASE reads the selective dynamics of a
    POSCAR and the ``move_mask`` of extended XYZ, and pymatgen's site property ``selective_dynamics``.
    FixCartesian is supported if its free directions are spanned by lattice vectors: for example z of a slab
    whose first two vectors lie in the xy plane. FixSymmetry and empty constraints are ignored.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure.

    Raises:
        InvalidCrystalError: A constraint is not supported.
    """
    fixed = np.zeros((len(structure), 3), dtype=bool)
    if is_structure(structure):
        moves = structure.site_properties.get("selective_dynamics")  # type: ignore[union-attr]
        for k, flags in enumerate([] if moves is None else moves):
            fixed[k] = False if flags is None else [not flag for flag in _three_flags(flags, k)]
        return fixed
    atoms: Any = structure
    if not atoms.constraints:
        return fixed
    cartesian = np.zeros_like(fixed)
    for constraint in atoms.constraints:
        kind = type(constraint).__name__
        if kind == "FixAtoms":
            fixed[constraint.index] = True
        elif kind == "FixScaled":
            fixed[constraint.index] |= np.asarray(constraint.mask, dtype=bool)
        elif kind == "FixCartesian":
            cartesian[constraint.index] |= np.asarray(constraint.mask, dtype=bool)
        elif kind != "FixSymmetry":  # symmetry="keep" does the same
            raise InvalidCrystalError(
                f"its constraint {kind} cannot be kept; expected FixAtoms, FixScaled or FixCartesian. "
                "Remove the others with atoms.set_constraint()."
            )
    scaled = to_other_axes(cartesian, np.eye(3), atoms.cell.array)
    for k in np.flatnonzero((scaled < 0).any(axis=1))[:1]:
        axes = "".join(axis for axis, held in zip("xyz", cartesian[k], strict=True) if held)
        raise InvalidCrystalError(
            f"its constraint FixCartesian along {axes} of atom {k} cannot be kept: its free "
            "directions are not spanned by lattice vectors. Use FixScaled, or vectors along x, y and z."
        )
    return fixed | (scaled > 0)


def to_constraints(fixed: NDArray[np.bool_]) -> list[Any]:
    """ASE constraints that fix fractional coordinates ``(N, 3)``: FixAtoms, and FixScaled for the rest."""
    from ase.constraints import FixAtoms, FixScaled

    whole = fixed.all(axis=1)
    constraints: list[Any] = [FixAtoms(np.flatnonzero(whole))] if whole.any() else []
    masks = np.unique(fixed[~whole & fixed.any(axis=1)], axis=0)
    return constraints + [FixScaled(np.flatnonzero((fixed == mask).all(axis=1)), mask) for mask in masks]


def to_other_axes(fixed: NDArray[np.bool_], axes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.int_]:
    """Express fixed components along some axes as fixed components along others.

    Args:
        fixed: Components along ``axes`` that are fixed, ``(N, 3)``.
        axes: Three vectors as rows, ``(3, 3)``.
        others: The other axes, ``(3, 3)``.

    Returns:
        ``(N, 3)``: 1 for fixed and 0 for free components along ``others``; -1 in all three if there is no
        equivalent choice.
    """
    result = np.empty(fixed.shape, dtype=int)
    for mask in np.unique(fixed, axis=0):
        plane = np.linalg.qr(axes[~mask].T)[0]  # (3, free), orthonormal
        off = np.linalg.norm(others - others @ plane @ plane.T, axis=1)
        inside = off <= PARALLEL * np.linalg.norm(others, axis=1)
        same = inside.sum() == (~mask).sum()
        result[(fixed == mask).all(axis=1)] = ~inside if same else -1
    return result


def _three_flags(flags: Any, site: int) -> list[bool]:
    given = np.asarray(flags).ravel().tolist()
    values = [parse_logical(flag) if isinstance(flag, str) else flag for flag in given]
    if len(values) != 3 or not all(value in (True, False) for value in values):
        raise InvalidCrystalError(
            f"its site property selective_dynamics is {flags!r} at site {site}; expected three flags."
        )
    return [bool(value) for value in values]
