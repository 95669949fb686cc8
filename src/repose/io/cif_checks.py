"""Checks of the atoms made from a CIF block against its formula, Z and multiplicities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.errors import InvalidCrystalError
from repose.io.cif_orbits import SAME_SITE, apart, expand
from repose.io.cif_sites import Sites
from repose.io.cif_symmetry import Contradiction, Symmetry
from repose.io.cif_syntax import Block, number
from repose.io.space_groups import Operations

if TYPE_CHECKING:
    from ase import Atoms

# Largest difference between an element's share of atoms and of _chemical_formula_sum.
FORMULA_TOLERANCE = 0.002
# Of the symmetry of relaxed coordinates, in A.
_SYMPREC = 0.05


def check_multiplicities(sites: Sites, symmetry: Symmetry, orbits: Sequence[int]) -> None:
    """Refuse sites whose number of images is not the one that the file says.

    Args:
        sites: With the multiplicities of the file.
        symmetry: Of the block.
        orbits: How many images each site has, ``(n,)``.

    Raises:
        InvalidCrystalError: They differ; names the site.
    """
    order = len(symmetry.rotations)
    # SHELXL-97 wrote the order of the site symmetry under the tag of the multiplicity.
    inverse = [order // count for count in orbits]
    for stated, ways in ((sites.multiplicities, (orbits, inverse)), (sites.orders, (inverse,))):
        wrong = [
            [k for k, value in enumerate(stated) if value is not None and abs(value - way[k]) > 1e-3]
            for way in ways
        ]
        if all(wrong):
            k = wrong[0][0]
            raise InvalidCrystalError(
                f"site '{sites.labels[k]}' has {orbits[k]} images in the cell by the {order} symmetry "
                f"operations, but its multiplicity or site symmetry is given as {stated[k]:g}."
            )


def check_formula(block: Block, atoms: Atoms) -> float | None:
    """Refuse atoms that are not Z times the formula: the file is cut off, or leaves symmetry or atoms out.

    Args:
        block: With formula and Z, or without.
        atoms: The crystal.

    Returns:
        Z, if it and the formula are given and the atoms are Z formula units; else None.

    Raises:
        InvalidCrystalError: The composition differs, or the number of formula units.
    """
    actual = Counter(atoms.get_chemical_symbols())
    made = atoms.get_chemical_formula("metal")
    units = number(block.value("cellformulaunitsz"))
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


def settle(
    contradiction: Contradiction, sites: Sites, symmetry: Symmetry, atoms: Atoms, units: float | None
) -> None:
    """Refuse a crystal whose named group is not that of its operations, unless its atoms are right anyway.

    They are if the named group makes the same atoms of the sites (all atoms of the cell are listed), if the
    formula confirms their number, or, where the named group has other axes (the cell is a primitive one), if
    the atoms have its symmetry.

    Args:
        contradiction: What is named.
        sites: Of the block.
        symmetry: Operations that made the atoms.
        atoms: The crystal.
        units: Formula units that formula and Z confirm (`check_formula`).

    Raises:
        InvalidCrystalError: Nothing shows that the atoms are right.
    """
    if any(_makes(other, sites, atoms) for other in contradiction.others):
        return
    if not contradiction.others and _space_group(atoms) in contradiction.numbers:
        return
    # A formula with Z = 1 may have been counted from the sites.
    confirmed = units is not None and (units > 1 or contradiction.hint)
    if not confirmed or contradiction.order == len(symmetry.rotations):
        raise InvalidCrystalError(
            f"{contradiction.words}; write all operations of its space group, or list all atoms in P 1."
        )


def _makes(operations: Operations, sites: Sites, atoms: Atoms) -> bool:
    """Whether operations make these atoms of the sites."""
    cell = atoms.cell.array
    try:
        symbols, fractional, _ = expand(sites, operations, cell)
    except InvalidCrystalError:
        return False
    if sorted(symbols) != sorted(atoms.get_chemical_symbols()):
        return False
    actual = atoms.positions @ np.linalg.inv(cell)
    return all(
        bool((apart(actual, point, cell) < SAME_SITE)[np.array(atoms.get_chemical_symbols()) == symbol].any())
        for symbol, point in zip(symbols, fractional, strict=True)
    )


def _space_group(atoms: Atoms) -> int:
    import spglib

    crystal: Any = (atoms.cell.array, atoms.positions @ np.linalg.inv(atoms.cell.array), atoms.numbers)
    dataset: Any = spglib.get_symmetry_dataset(crystal, _SYMPREC)
    return dataset.number if dataset is not None else 0


def _formulas(stated: str) -> list[Counter[str]]:
    """Numbers of atoms in a formula, in each way to read it ('FE1 O1' is iron in capitals); none if none."""
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
