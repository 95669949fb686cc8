"""Conversion of ASE and pymatgen objects from and to `CrystalBatch`.

Conventions change only here. All three have lattice vectors as rows, in A. The order of sites is kept, and
coordinates are not wrapped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from repose.crystal.batch import CrystalBatch
from repose.crystal.deformation import determinant
from repose.crystal.elements import MAX_NUMBER, symbol
from repose.crystal.frame import Frame
from repose.errors import InvalidCrystalError
from repose.io.constraints import fixed_coordinates as fixed_coordinates
from repose.io.kinds import Crystal, is_atoms, is_structure
from repose.io.stale import remove_stale
from repose.io.stale import stale_labels as stale_labels

if TYPE_CHECKING:
    from ase import Atoms

C = TypeVar("C")

# Cells with a smaller volume are refused as flat.
MIN_VOLUME = 1e-3  # A^3
# Symmetry operations hold if they map atoms onto atoms within this.
SYMMETRY_TOLERANCE = 0.01  # A


def to_batch(structure: Crystal) -> CrystalBatch:
    """Crystal as a batch of one, in float64.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure; not changed.

    Returns:
        The crystal, atoms in the same order, with initial charges if it has them.

    Raises:
        InvalidCrystalError: It is not an ordered crystal: no cell, no volume, NaN, partial occupancy, or an
            unknown element. The message names the atoms.
    """
    if is_atoms(structure):
        numbers, positions, cell, pbc = _from_atoms(structure)
    elif is_structure(structure):
        numbers, positions, cell, pbc = _from_structure(structure)
    else:
        raise InvalidCrystalError(
            f"expected an ase.Atoms or a pymatgen Structure; got {type(structure).__name__}. Read a file "
            "with ase.io.read, or give it to the command 'repose relax'; a Molecule needs a lattice."
        )
    _check(numbers, positions, cell, pbc)
    return CrystalBatch.single(numbers, positions, cell, pbc, charges=_charges(structure))


def to_atoms(batch: CrystalBatch) -> list[Atoms]:
    """Crystals of a batch as ASE Atoms."""
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
    """Frame of a relaxation path as ASE Atoms, with energy, forces and stress if known."""
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


def attach_results(structure: Any, energy: float, forces: NDArray[Any], stress: NDArray[Any] | None) -> None:
    """Set ``structure.calc`` to an ASE calculator that holds these results.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure; changed.
        energy: eV per cell.
        forces: eV/A, ``(N, 3)``.
        stress: eV/A^3, ``(3, 3)``, or None.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    atoms = structure if is_atoms(structure) else to_atoms(to_batch(structure))[0]
    known = {} if stress is None else {"stress": full_3x3_to_voigt_6_stress(stress)}
    structure.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, **known)


def with_geometry(structure: C, positions: NDArray[Any], cell: NDArray[Any]) -> C:
    """Copy of a crystal with another geometry, without results of calculations.

    Results are the calculator, energies, forces, stresses and velocities, see `stale_labels`.

    Args:
        structure: `ase.Atoms` (info, arrays, constraints and pbc are kept) or a pymatgen Structure (class,
            site properties, labels, charge, properties, attributes of the class and the lattice's pbc are
            kept).
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        A new object of the same type. A SymmetrizedStructure whose symmetry does not hold in the new geometry
        becomes a Structure.
    """
    if is_atoms(structure):
        atoms: Any = structure.copy()  # type: ignore[attr-defined]
        atoms.set_cell(cell, scale_atoms=False, apply_constraint=False)
        atoms.set_positions(positions, apply_constraint=False)
        remove_stale(atoms)
        return atoms
    from pymatgen.core import IStructure, Lattice, Structure
    from pymatgen.symmetry.structure import SymmetrizedStructure

    old: Any = structure
    lattice = Lattice(cell, pbc=old.lattice.pbc)
    fractional = positions @ np.linalg.inv(cell)
    stale = isinstance(old, SymmetrizedStructure) and not _is_symmetric(old, fractional, cell)
    if stale or type(old) in (Structure, IStructure):
        kind: Any = Structure if stale else type(old)
        new: Any = kind(
            lattice,
            [site.species for site in old],
            fractional,
            charge=old._charge,
            site_properties=old.site_properties,
            labels=old.labels,
            properties=copy.deepcopy(old.properties),
        )
    else:
        # Constructors of derived classes have other arguments, so a copy is changed in place.
        new = copy.deepcopy(old)
        new._lattice = lattice
        for site, coordinates in zip(new, fractional, strict=True):
            site._lattice = lattice
            site.frac_coords = coordinates
    remove_stale(new)
    return new


def _is_symmetric(structure: Any, fractional: NDArray[Any], cell: NDArray[Any]) -> bool:
    """Return whether the operations of a SymmetrizedStructure hold for these coordinates."""
    for operation in structure.spacegroup:
        images = fractional @ operation.rotation_matrix.T + operation.translation_vector
        for sites in structure.equivalent_indices:
            apart = images[sites][:, None] - fractional[sites]
            distances = np.linalg.norm((apart - np.rint(apart)) @ cell, axis=-1)
            if (distances.min(axis=1) > SYMMETRY_TOLERANCE).any():
                return False
    return True


def formula(numbers: Sequence[int] | NDArray[Any]) -> str:
    """Chemical formula, not reduced, metals first: ``"SrTiO3"``; X where there is no such element."""
    from ase.symbols import Symbols

    numbers = np.asarray(numbers)
    known = np.where((numbers > 0) & (numbers <= MAX_NUMBER), numbers, 0)
    return Symbols(known).get_chemical_formula("metal")


def formula_of(structure: object) -> str:
    """Chemical formula of a structure, ordered or not, not reduced, metals first; empty for other objects."""
    if is_atoms(structure):
        return formula(structure.numbers)  # type: ignore[attr-defined]
    if not is_structure(structure):
        return ""
    sites: Any = structure
    if sites.is_ordered and all(hasattr(site.specie, "Z") for site in sites):
        return formula([site.specie.Z for site in sites])
    return sites.composition.formula.replace(" ", "")


def _from_atoms(atoms: Any) -> tuple[NDArray[Any], ...]:
    _check_occupancy(atoms)
    return (
        np.asarray(atoms.numbers, dtype=np.int64),
        np.asarray(atoms.positions, dtype=float),
        atoms.cell.array,
        atoms.pbc,
    )


def _charges(structure: Any) -> NDArray[Any] | None:
    """Return initial charges of ASE, or the site property ``charge`` of pymatgen, if all are finite."""
    known = structure.arrays.get("initial_charges") if is_atoms(structure) else None
    if not is_atoms(structure):
        known = structure.site_properties.get("charge")
    if known is None or any(charge is None for charge in known):
        return None
    charges = np.asarray(known, dtype=float)
    return charges if np.isfinite(charges).all() else None


def _check_occupancy(atoms: Any) -> None:
    """Refuse partially occupied sites.

    ASE's CIF reader stores occupancies in ``info``, a dictionary of shares for every kind of site; other
    files have a column. Other data called occupancy are ignored.
    """
    kinds = atoms.info.get("occupancy")
    for kind, shares in kinds.items() if isinstance(kinds, dict) else ():
        if not isinstance(shares, dict) or not all(isinstance(s, int | float) for s in shares.values()):
            continue
        if len(shares) > 1 or any(abs(share - 1) > 1e-3 for share in shares.values()):
            listed = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise InvalidCrystalError(
                f"partial occupancy: sites of kind {kind} hold {listed}; choose an ordered one."
            )
    for name in ("occupancy", "occupancies"):
        values = atoms.arrays.get(name)
        if values is not None and values.ndim == 1 and values.dtype.kind in "if":
            for k in np.flatnonzero(np.abs(values - 1) > 1e-3)[:1]:
                raise InvalidCrystalError(
                    f"partial occupancy: atom {k} ({symbol(int(atoms.numbers[k]))}) is occupied to "
                    f"{values[k]:g}; expected 1. Choose an ordered configuration."
                )


def _from_structure(structure: Any) -> tuple[NDArray[Any], ...]:
    from ase.data import chemical_symbols

    numbers = []
    for k, site in enumerate(structure):
        if not site.is_ordered:
            raise InvalidCrystalError(
                f"partial occupancy: site {k} holds {site.species_string}; choose an ordered configuration, "
                "e.g. with pymatgen's OrderDisorderedStructureTransformation."
            )
        # Atomic numbers of DummySpecies are meaningless.
        numbers.append(0 if site.specie.symbol not in chemical_symbols else site.specie.Z)
    return (
        np.array(numbers, dtype=np.int64),
        np.array(structure.cart_coords, dtype=float).reshape(-1, 3),
        np.array(structure.lattice.matrix, dtype=float),
        np.array(structure.lattice.pbc, dtype=bool),
    )


def _check(numbers: NDArray[Any], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any]) -> None:
    """Check that a crystal is valid, with names of atoms in errors, which `CrystalBatch` lacks."""
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
    if (volume := abs(determinant(cell))) < MIN_VOLUME:
        raise InvalidCrystalError(
            f"its cell has no volume ({volume:.2g} A^3): {cell.tolist()}. Expected three "
            "lattice vectors that do not lie in one plane; a sheet needs one across its vacuum."
        )
