"""Checks of the atoms of a CIF block against its formula, Z and multiplicities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.errors import InvalidCrystalError
from repose.io.cif_orbits import SAME_SITE, distances, expand
from repose.io.cif_sites import Sites
from repose.io.cif_symmetry import Contradiction, Symmetry
from repose.io.cif_syntax import Block, parse_number
from repose.io.space_groups import Operations

if TYPE_CHECKING:
    from ase import Atoms

# Largest difference between an element's share of atoms and of _chemical_formula_sum.
FORMULA_TOLERANCE = 0.002
_SYMPREC = 0.05  # A, for the symmetry of relaxed coordinates


def check_multiplicities(sites: Sites, symmetry: Symmetry, orbits: Sequence[int]) -> None:
    """Check the number of images of each site against the multiplicities of the file.

    Args:
        sites: Sites with the multiplicities of the file.
        symmetry: Symmetry of the block.
        orbits: Number of images of each site, ``(n,)``.

    Raises:
        InvalidCrystalError: They differ; names the site.
    """
    order = len(symmetry.rotations)
    # SHELXL-97 writes the order of the site symmetry under the tag of the multiplicity.
    inverse = [order // count for count in orbits]
    for stated, allowed in ((sites.multiplicities, (orbits, inverse)), (sites.orders, (inverse,))):
        wrong = [
            [k for k, value in enumerate(stated) if value is not None and abs(value - expected[k]) > 1e-3]
            for expected in allowed
        ]
        if all(wrong):
            k = wrong[0][0]
            raise InvalidCrystalError(
                f"site '{sites.labels[k]}' has {orbits[k]} images in the cell by the {order} symmetry "
                f"operations, but its multiplicity or site symmetry is given as {stated[k]:g}."
            )


def check_formula(block: Block, atoms: Atoms) -> float | None:
    """Check that the atoms are Z times the formula; otherwise symmetry or atoms are missing.

    Args:
        block: The data block, with or without formula and Z.
        atoms: The crystal.

    Returns:
        Z, if formula and Z are given and confirmed; else None.

    Raises:
        InvalidCrystalError: The composition or the number of formula units differs.
    """
    actual = Counter(atoms.get_chemical_symbols())
    made = atoms.get_chemical_formula("metal")
    units = parse_number(block.value("cellformulaunitsz"))
    units = units if units is not None and units > 0 else None
    stated = block.value("chemicalformulasum") or ""
    readings = _formulas(stated)
    if not readings:
        if units is not None and any(count % units for count in actual.values()):
            raise InvalidCrystalError(
                f"its atoms make up {made}, which is not {units:g} formula units (_cell_formula_units_Z): "
                "symmetry operations or atoms are missing."
            )
        return None
    counts = next((c for c in readings if _same_ratio(actual, c)), None)
    if counts is None:
        raise InvalidCrystalError(
            f"its atoms make up {made}, but its formula is '{stated}': "
            "the file is cut off, or leaves atoms out."
        )
    ratio = len(atoms) / sum(counts.values())
    if units is None or abs(ratio - units) < 0.01 * units:
        return units
    whole = [round(count) for count in counts.values()]
    # Some programs (pymatgen) write the contents of the cell as the formula, and its Z.
    if abs(ratio - 1) < 0.01 and np.gcd.reduce(whole) == units:
        return None
    raise InvalidCrystalError(
        f"its atoms make up {made}, but Z x formula is {units:g} x '{stated}': symmetry operations or "
        "atoms are missing, or Z is wrong."
    )


def check_contradiction(
    contradiction: Contradiction, sites: Sites, symmetry: Symmetry, atoms: Atoms, units: float | None
) -> None:
    """Check the atoms of a crystal whose named group is not that of its operations.

    The atoms are accepted if the named group generates the same atoms from the sites (all atoms of the cell
    are listed), if the formula confirms their number, or, for a named group with other axes (primitive cell),
    if the atoms have its symmetry.

    Args:
        contradiction: The named group.
        sites: Sites of the block.
        symmetry: Operations that generated the atoms.
        atoms: The crystal.
        units: Formula units confirmed by formula and Z (`check_formula`).

    Raises:
        InvalidCrystalError: The atoms are not confirmed.
    """
    if any(_generates(other, sites, atoms) for other in contradiction.others):
        return
    if not contradiction.others and _space_group(atoms) in contradiction.numbers:
        return
    # A formula with Z = 1 may have been counted from the sites.
    confirmed = units is not None and (units > 1 or contradiction.hint)
    if not confirmed or contradiction.order == len(symmetry.rotations):
        raise InvalidCrystalError(
            f"{contradiction.message}; write all operations of its space group, or list all atoms in P 1."
        )


def _generates(operations: Operations, sites: Sites, atoms: Atoms) -> bool:
    """Return whether operations generate these atoms from the sites."""
    cell = atoms.cell.array
    try:
        symbols, fractional, _ = expand(sites, operations, cell)
    except InvalidCrystalError:
        return False
    if sorted(symbols) != sorted(atoms.get_chemical_symbols()):
        return False
    actual = atoms.positions @ np.linalg.inv(cell)
    names = np.array(atoms.get_chemical_symbols())
    return all(
        bool((distances(actual, point, cell) < SAME_SITE)[names == symbol].any())
        for symbol, point in zip(symbols, fractional, strict=True)
    )


def _space_group(atoms: Atoms) -> int:
    import spglib

    crystal: Any = (atoms.cell.array, atoms.positions @ np.linalg.inv(atoms.cell.array), atoms.numbers)
    dataset: Any = spglib.get_symmetry_dataset(crystal, _SYMPREC)
    return dataset.number if dataset is not None else 0


def _formulas(stated: str) -> list[Counter[str]]:
    """Numbers of atoms in a formula, for each possible reading ('FE1 O1' is iron in capitals)."""
    from ase.data import atomic_numbers

    readings = []
    if re.fullmatch(r"[A-Za-z0-9.\s]+", stated):
        for pattern in (r"([A-Z][a-z]?)\s*(\d*\.?\d*)", r"\b([A-Za-z]{1,2})(\d*\.?\d*)(?=\s|$)"):
            counts = Counter[str]()
            for symbol, count in re.findall(pattern, stated):
                symbol = "H" if symbol in ("D", "T") else symbol
                symbol = symbol if symbol in atomic_numbers else symbol.title()
                counts[symbol] += float(count) if count.strip(".") else 1  # type: ignore[assignment]
            if sum(counts.values()):
                readings.append(counts)
    return readings


def _same_ratio(actual: Counter[str], stated: Counter[str]) -> bool:
    n, total = sum(actual.values()), sum(stated.values())
    return all(abs(actual[s] / n - stated[s] / total) <= FORMULA_TOLERANCE for s in {*actual, *stated})
