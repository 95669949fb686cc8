"""The one place where conventions are converted: ASE and pymatgen from and to `CrystalBatch`.

Both have cells as rows of lattice vectors in A, as we do. Order of sites is always kept, and
coordinates are never wrapped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from repose.crystals import CrystalBatch
from repose.errors import InvalidCrystalError
from repose.trajectory import Frame

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core.structure import IStructure

    Crystal: TypeAlias = Atoms | IStructure
else:
    Crystal = Any

C = TypeVar("C")

# Cells with less than this are flat; no crystal has it.
MIN_VOLUME = 1e-3  # A^3


def is_atoms(structure: object) -> bool:
    """Whether this is an `ase.Atoms`; imports nothing."""
    return _is(structure, "ase.atoms", "Atoms")


def is_structure(structure: object) -> bool:
    """Whether this is a pymatgen Structure or IStructure; imports nothing."""
    return _is(structure, "pymatgen.core.structure", "IStructure")


def _is(structure: object, module: str, name: str) -> bool:
    # Nobody can hold an instance of a class whose module was never imported.
    return isinstance(structure, getattr(sys.modules.get(module), name, ()))


def to_batch(structure: Crystal) -> CrystalBatch:
    """One crystal as a batch of one, in float64.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure; not changed.

    Returns:
        The crystal, atoms in the same order.

    Raises:
        InvalidCrystalError: It is no ordered crystal: no cell, no volume, NaN, partial occupancy, an
            unknown element. The message names the atoms.
    """
    if is_atoms(structure):
        numbers, positions, cell, pbc = _from_atoms(structure)
    elif is_structure(structure):
        numbers, positions, cell, pbc = _from_structure(structure)
    else:
        raise InvalidCrystalError(
            f"expected an ase.Atoms or a pymatgen Structure; got {type(structure).__name__}. "
            "Read a file with ase.io.read, or give it to the command 'repose relax'."
        )
    _check(numbers, positions, cell, pbc)
    return CrystalBatch(
        numbers=torch.from_numpy(numbers),
        positions=torch.from_numpy(positions),
        cells=torch.from_numpy(cell)[None],
        crystal=torch.zeros(len(numbers), dtype=torch.int64),
        pbc=torch.from_numpy(pbc)[None],
    )


def to_atoms(batch: CrystalBatch) -> list[Atoms]:
    """The crystals of a batch as ASE Atoms, in order."""
    from ase import Atoms

    return [
        Atoms(
            numbers=crystal.numbers.cpu().numpy(),
            positions=crystal.positions.detach().cpu().double().numpy(),
            cell=crystal.cells[0].detach().cpu().double().numpy(),
            pbc=crystal.pbc[0].cpu().numpy(),
        )
        for crystal in batch
    ]


def frame_to_atoms(crystal: CrystalBatch, frame: Frame) -> Atoms:
    """A frame of the way of one crystal, with energy, forces and stress where they are known."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    cell = torch.from_numpy(frame.cell)[None]
    (atoms,) = to_atoms(crystal.with_geometry(torch.from_numpy(frame.positions), cell))
    stress = None if frame.stress is None else full_3x3_to_voigt_6_stress(frame.stress)
    known = {"energy": frame.energy, "forces": frame.forces, "stress": stress}
    known = {name: value for name, value in known.items() if value is not None}
    if known:
        atoms.calc = SinglePointCalculator(atoms, **known)
    return atoms


def with_geometry(structure: C, positions: NDArray[Any], cell: NDArray[Any]) -> C:
    """The same crystal in another geometry; everything else it carries is kept, but for its calculator.

    Args:
        structure: `ase.Atoms` (info, arrays, constraints and pbc are kept) or a pymatgen Structure (site
            properties, labels, charge, properties and the lattice's pbc are kept).
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        A new object of the same type.
    """
    if is_atoms(structure):
        atoms: Any = structure.copy()  # type: ignore[attr-defined]
        atoms.set_cell(cell, scale_atoms=False, apply_constraint=False)
        atoms.set_positions(positions, apply_constraint=False)
        return atoms
    from pymatgen.core import Lattice

    old: Any = structure
    return type(old)(
        Lattice(cell, pbc=old.lattice.pbc),
        [site.species for site in old],
        positions @ np.linalg.inv(cell),
        charge=old._charge,
        site_properties=old.site_properties,
        labels=old.labels,
        properties=dict(old.properties),
    )


def fixed_coordinates(structure: Crystal) -> NDArray[np.bool_]:
    """Fractional coordinates that the structure itself asks to keep, ``(N, 3)`` bool.

    From ASE's FixAtoms and FixScaled, which is also how ASE reads the selective dynamics of a POSCAR, and
    from pymatgen's site property ``selective_dynamics``.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure.

    Raises:
        InvalidCrystalError: There is a constraint that cannot be kept.
    """
    fixed = np.zeros((len(structure), 3), dtype=bool)
    if is_structure(structure):
        moves = structure.site_properties.get("selective_dynamics")  # type: ignore[union-attr]
        for k, flags in enumerate(moves or []):
            fixed[k] = False if flags is None else ~np.asarray(flags, dtype=bool)
        return fixed
    constraints: list[Any] = list(structure.constraints)  # type: ignore[union-attr]
    for constraint in constraints:
        kind = type(constraint).__name__
        if kind == "FixAtoms":
            fixed[constraint.index] = True
        elif kind == "FixScaled":
            fixed[constraint.index] |= np.asarray(constraint.mask, dtype=bool)
        elif kind != "FixSymmetry":  # which is what symmetry="keep" does
            raise InvalidCrystalError(
                f"its constraint {kind} cannot be kept; expected FixAtoms or FixScaled. "
                "Remove the others with atoms.set_constraint()."
            )
    return fixed


def formula(numbers: Sequence[int] | NDArray[Any]) -> str:
    """Chemical formula, not reduced, metals first: ``"SrTiO3"``."""
    from ase.symbols import Symbols

    return Symbols(np.asarray(numbers)).get_chemical_formula("metal")


def symbol(number: int) -> str:
    """Symbol of an element; ``"?"`` where there is none."""
    from ase.data import chemical_symbols

    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else "?"


def _from_atoms(atoms: Any) -> tuple[NDArray[Any], ...]:
    # ASE's CIF reader leaves the occupancies of disordered sites in info, keyed by kind of site.
    for kind, shares in dict(atoms.info.get("occupancy") or {}).items():
        if len(shares) > 1 or any(abs(share - 1) > 1e-3 for share in shares.values()):
            listed = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise InvalidCrystalError(
                f"partial occupancy: sites of kind {kind} hold {listed}; choose an ordered one."
            )
    return (
        atoms.numbers.astype(np.int64),
        np.array(atoms.positions, dtype=float),
        np.array(atoms.cell.array, dtype=float),
        np.array(atoms.pbc, dtype=bool),
    )


def _from_structure(structure: Any) -> tuple[NDArray[Any], ...]:
    numbers = []
    for k, site in enumerate(structure):
        if not site.is_ordered:
            raise InvalidCrystalError(
                f"partial occupancy: site {k} holds {site.species_string}; choose an ordered configuration, "
                "e.g. with pymatgen's OrderDisorderedStructureTransformation."
            )
        numbers.append(getattr(site.specie, "Z", 0))
    return (
        np.array(numbers, dtype=np.int64),
        np.array(structure.cart_coords, dtype=float).reshape(-1, 3),
        np.array(structure.lattice.matrix, dtype=float),
        np.array(structure.lattice.pbc, dtype=bool),
    )


def _check(numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any]) -> None:
    """Raise with names of atoms what `CrystalBatch` would refuse without."""
    if len(numbers) == 0:
        raise InvalidCrystalError("it has no atoms.")
    if not cell.any() or not pbc.any():
        raise InvalidCrystalError(
            f"it has no cell, or is not periodic (cell {'all zero' if not cell.any() else 'given'}, "
            f"pbc {pbc.tolist()}); expected a crystal, not a molecule. Set the lattice vectors and pbc."
        )
    if not np.isfinite(cell).all():
        raise InvalidCrystalError(f"its lattice vectors hold NaN or infinity: {cell.tolist()}.")
    for k in np.flatnonzero((numbers < 1) | (numbers > 118))[:1]:
        raise InvalidCrystalError(
            f"atom {k} is of no known element (atomic number {numbers[k]}); expected 1 to 118."
        )
    for k in np.flatnonzero(~np.isfinite(positions).all(axis=1))[:1]:
        raise InvalidCrystalError(
            f"atom {k} ({symbol(int(numbers[k]))}) is at {positions[k].tolist()}; expected finite numbers."
        )
    if abs(np.linalg.det(cell)) < MIN_VOLUME:
        raise InvalidCrystalError(
            f"its cell has no volume ({abs(np.linalg.det(cell)):.2g} A^3): {cell.tolist()}. Expected three "
            "lattice vectors that do not lie in one plane; a sheet needs one across its vacuum."
        )
