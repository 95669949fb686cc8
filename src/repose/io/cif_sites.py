"""Sites of a CIF block: elements and coordinates, and checks that the crystal is ordered."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.cif_syntax import Block, parse_number
from repose.io.symbols import bears_hydrogen, site_element

# Tags of columns, see `tag_key`, with the labels of PDBx/mmCIF.
_LABELS = ("atomsitelabel", "atomsitelabelatomid", "atomsiteauthatomid")
_TYPES = ("atomsitetypesymbol",)
_FRACTIONAL = tuple(f"atomsitefract{axis}" for axis in "xyz")
_CARTESIAN = tuple(f"atomsitecartn{axis}" for axis in "xyz")
_OCCUPANCY = "atomsiteoccupancy"
_MULTIPLICITY = ("atomsitesymmetrymultiplicity", "atomsitesitesymmetrymultiplicity")
_ORDER = "atomsitesitesymmetryorder"
_DISORDER = ("atomsitedisordergroup", "atomsitelabelaltid", "atomsitepdbxpdbmodelnum")
_READ = {*_LABELS, *_TYPES, *_FRACTIONAL, *_CARTESIAN, _OCCUPANCY, *_MULTIPLICITY, _ORDER, *_DISORDER}


@dataclass(frozen=True)
class Sites:
    """Sites in the order of the file.

    Attributes:
        labels: Site labels.
        symbols: Elements.
        fractional: Fractional coordinates, ``(n, 3)``.
        multiplicities: Number of images in the cell given by the file, or None.
        orders: Order of the site symmetry given by the file, or None.
    """

    labels: list[str]
    symbols: list[str]
    fractional: NDArray[Any]
    multiplicities: list[float | None]
    orders: list[float | None]


def has_sites(block: Block) -> bool:
    """Return whether the block has tags of sites."""
    return any(k.startswith("atomsite") for k in block.columns)


def sites(block: Block, cell: NDArray[Any]) -> Sites:
    """Sites of a block without dummy sites.

    Args:
        block: The data block.
        cell: Lattice vectors as rows in A, ``(3, 3)``.

    Raises:
        InvalidCrystalError: The list is missing or incomplete, or the crystal is disordered. Names the site.
    """
    _check_one_list(block)
    labels = block.column(*_LABELS, *_TYPES)
    axes = _FRACTIONAL if block.column(_FRACTIONAL[0]) else _CARTESIAN
    columns = [block.columns[axis] for axis in axes if axis in block.columns]
    if not labels or len(columns) < 3:
        raise InvalidCrystalError(
            f"block '{block.name}' lists no atoms; expected _atom_site_label and _atom_site_fract_x ..."
        )
    n = len(labels)
    used = [k for k in block.columns if k in _READ]
    if {len(block.columns[k]) for k in used} != {n}:
        raise InvalidCrystalError("its list of atoms is incomplete.")

    def column(*keys: str) -> list[str]:
        return block.column(*keys) or [""] * n

    real = [k for k, flag in enumerate(column("atomsitecalcflag")) if flag.lower() != "dum"]
    kinds = column(*_TYPES)
    symbols = [site_element(labels[k], kinds[k]) for k in real]
    _check_hydrogen(real, labels, kinds, symbols, column("atomsiteattachedhydrogens"))
    _check_order(real, labels, column(_OCCUPANCY))
    for k in _DISORDER:
        _check_alternatives(block, real, labels, column(k), column("atomsitedisorderassembly"))
    values = np.array([[_finite(col[k]) for col in columns] for k in real], dtype=float).reshape(-1, 3)
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1))[:1]:
        given = [col[real[row]] or "?" for col in columns]
        raise InvalidCrystalError(
            f"site '{labels[real[row]]}' has coordinates {given}; expected three finite numbers."
        )
    if not real:
        raise InvalidCrystalError(f"block '{block.name}' lists no atoms but dummies.")
    return Sites(
        labels=[labels[k] for k in real],
        symbols=symbols,
        fractional=values if axes is _FRACTIONAL else _to_fractional(block, values, cell),
        multiplicities=[parse_number(column(*_MULTIPLICITY)[k]) for k in real],
        orders=[parse_number(column(_ORDER)[k]) for k in real],
    )


def _check_one_list(block: Block) -> None:
    repeated = [tag for tag in block.repeated if tag.lower().startswith("_atom_site")]
    if repeated or sum(bool(_READ & set(loop)) for loop in block.loops) > 1:
        raise InvalidCrystalError(
            f"block '{block.name}' has two lists of atoms; expected one loop_ with all _atom_site_ columns."
        )
    if block.repeated:
        raise InvalidCrystalError(f"{block.repeated[0]} occurs twice in block '{block.name}'; keep one.")


def _check_hydrogen(
    real: list[int], labels: list[str], kinds: list[str], symbols: list[str], attached: list[str]
) -> None:
    """Refuse files with hydrogen atoms without coordinates."""
    for k in real:
        if (parse_number(attached[k]) or 0) > 0:
            raise InvalidCrystalError(
                f"site '{labels[k]}' has {attached[k]} hydrogen atoms attached without coordinates "
                "(_atom_site_attached_hydrogens); list them as sites."
            )
        if "H" not in symbols and bears_hydrogen(labels[k], kinds[k]):
            raise InvalidCrystalError(
                f"site '{labels[k]}' ('{kinds[k] or labels[k]}') holds hydrogen, but no hydrogen atoms are "
                "listed; list them as sites."
            )


def _check_order(real: list[int], labels: list[str], occupancy: list[str]) -> None:
    for k in real:
        share = parse_number(occupancy[k])
        if share is None and occupancy[k]:
            raise InvalidCrystalError(
                f"site '{labels[k]}' has the occupancy {occupancy[k]!r}; expected a number."
            )
        if share is not None and abs(share - 1) > 1e-3:
            raise InvalidCrystalError(
                f"partial occupancy: site '{labels[k]}' is occupied to {share:g}; expected 1. "
                "Choose an ordered one, e.g. with pymatgen's OrderDisorderedStructureTransformation."
            )


def _check_alternatives(
    block: Block, real: list[int], labels: list[str], groups: list[str], assemblies: list[str]
) -> None:
    """Refuse alternative sites: several groups of an assembly, locations or models."""
    seen: dict[str, set[str]] = defaultdict(set)
    for k in real:
        group = groups[k] if groups[k] != "0" else ""
        if group:
            seen[assemblies[k]].add(group)
        if len(seen[assemblies[k]]) > 1 or group.startswith("-"):
            raise InvalidCrystalError(
                f"partial occupancy: site '{labels[k]}' belongs to one of several alternatives "
                f"('{group or groups[k]}'); expected an ordered crystal. Choose one of them."
            )


def _finite(value: str) -> float:
    found = parse_number(value)
    return np.nan if found is None else found


def _to_fractional(block: Block, cartesian: NDArray[Any], cell: NDArray[Any]) -> NDArray[Any]:
    """Fractional coordinates, by the matrix of the file or for a along x and b in the xy plane."""
    matrix, vector = np.full((3, 3), np.nan), np.zeros(3)
    for tag, values in block.columns.items():
        match = re.fullmatch(r"atomsitesfracttransf?(?:matrix|vector)\[?([123])\]?\[?([123])?\]?", tag)
        if match is None:
            continue
        row, column = int(match.group(1)) - 1, match.group(2)
        if column:
            matrix[row, int(column) - 1] = _finite(values[0])
        else:
            vector[row] = _finite(values[0])
    if np.isnan(matrix).all():
        matrix = np.linalg.inv(cell).T
    fractional = cartesian @ matrix.T + vector
    if not np.isfinite(fractional).all():
        raise InvalidCrystalError("its transformation from Cartesian coordinates is incomplete.")
    metric, given = cell @ cell.T, np.linalg.pinv(matrix @ matrix.T)
    if not np.allclose(given, metric, rtol=0, atol=0.02 * metric.max()):
        raise InvalidCrystalError("its transformation from Cartesian coordinates does not fit its cell.")
    return fractional
