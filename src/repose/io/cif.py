"""Reading and writing of CIF.

gemmi parses the syntax (`repose.io.cif_syntax`). The contents are interpreted in `repose.io.cif_symmetry`,
`cif_sites` and `cif_checks`, because other parsers drop information: pymatgen the order of sites, ASE a
second atom on a site, and all of them symmetry under unknown tags.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.cif_checks import check_contradiction, check_formula, check_multiplicities
from repose.io.cif_orbits import expand
from repose.io.cif_sites import has_sites, sites
from repose.io.cif_symmetry import symmetry
from repose.io.cif_syntax import Block, parse, parse_number
from repose.io.convert import MIN_VOLUME

if TYPE_CHECKING:
    from ase import Atoms

_CELL = ("celllengtha", "celllengthb", "celllengthc", "cellanglealpha", "cellanglebeta", "cellanglegamma")


def read_cif(text: str) -> list[Atoms | InvalidCrystalError]:
    """Read the crystals of a CIF file; each site, in the order of the file, is followed by its images.

    Blocks without atoms, as in files of journals, are skipped if another block has atoms.

    Args:
        text: The whole file.

    Returns:
        One entry per block: the crystal, or an error with the reason.

    Raises:
        InvalidCrystalError: The file is not CIF, or is truncated.
    """
    blocks = parse(text)
    blocks = [b for b in blocks if isinstance(b, InvalidCrystalError) or has_sites(b)] or blocks[:1]
    if not blocks:
        raise InvalidCrystalError("it holds no CIF data block; expected a line that starts with 'data_'.")
    crystals: list[Atoms | InvalidCrystalError] = []
    for block in blocks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of spglib
            try:
                crystals.append(block if isinstance(block, InvalidCrystalError) else _to_atoms(block))
            except InvalidCrystalError as error:
                crystals.append(error)
    return crystals


def write_cif(
    numbers: Sequence[int],
    positions: NDArray[Any],
    cell: NDArray[Any],
    name: str,
    labels: Sequence[str] | None = None,
) -> str:
    """CIF text of an ordered crystal in P1, sites in order and not wrapped.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        name: Name of the data block.
        labels: Site labels, ``(N,)``: unique words of ASCII letters, digits and ``_.*'()+-`` that begin with
            a letter. Otherwise labels are made from symbols and numbers.
    """
    from ase.data import chemical_symbols
    from ase.geometry import cell_to_cellpar

    fractional = positions @ np.linalg.inv(cell)
    if np.linalg.det(cell) < 0:
        # Lengths and angles describe a right-handed cell; inverted vectors span the same lattice.
        fractional = -fractional
    symbols = [chemical_symbols[z] for z in numbers]
    formula = " ".join(f"{symbol}{count}" for symbol, count in sorted(Counter(symbols).items()))
    block = re.sub(r"[^\w.+-]", "_", name) or "crystal"
    lines = [f"data_{block}", f"_chemical_formula_sum '{formula}'", "_cell_formula_units_Z 1"]
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines += [f"_cell_{tag} {value:.10f}" for tag, value in zip(tags, cell_to_cellpar(cell), strict=True)]
    lines += ["_space_group_name_H-M_alt 'P 1'", "_space_group_IT_number 1"]
    lines += ["loop_", "_space_group_symop_operation_xyz", "'x, y, z'"]
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
    lines += ["loop_", *(f"_atom_site_{column}" for column in columns)]
    if labels is None or not _valid_labels(labels, len(symbols)):
        labels = _numbered(symbols)
    for label, symbol, (x, y, z) in zip(labels, symbols, fractional, strict=True):
        lines.append(f"{label} {symbol} {x:.10f} {y:.10f} {z:.10f} 1")
    return "\n".join(lines) + "\n"


def _valid_labels(labels: Sequence[str], n: int) -> bool:
    """Return whether labels are unique and need no quotes in a CIF."""
    reserved = re.compile(r"(?:data|save)_.*|loop_|global_|stop_", re.IGNORECASE)
    return len(set(labels)) == len(labels) == n and all(
        re.fullmatch(r"[A-Za-z][\w.*'()+-]*", label, re.ASCII) and not reserved.fullmatch(label)
        for label in labels
    )


def _numbered(symbols: Sequence[str]) -> list[str]:
    """Labels made from symbols: ``["Mg1", "O1", "O2"]``."""
    seen = Counter[str]()
    labels = []
    for symbol in symbols:
        seen[symbol] += 1
        labels.append(f"{symbol}{seen[symbol]}")
    return labels


def _to_atoms(block: Block) -> Atoms:
    """Crystal of a block; raises InvalidCrystalError if there is none, or if it is inconsistent."""
    from ase import Atoms

    cell = _cell(block)
    listed = sites(block, cell)
    found = symmetry(block, cell)
    symbols, fractional, sizes = expand(listed, found.operations, cell)
    atoms = Atoms(symbols, positions=fractional @ cell, cell=cell, pbc=True)
    check_multiplicities(listed, found, sizes)
    units = check_formula(block, atoms)
    if found.contradiction is not None:
        check_contradiction(found.contradiction, listed, found, atoms, units)
    # Labels made from symbols, and those of sites with images, are not kept.
    if len(atoms) == len(listed.labels) and listed.labels not in (symbols, _numbered(symbols)):
        atoms.set_array("labels", np.array(listed.labels))
    return atoms


def _cell(block: Block) -> NDArray[Any]:
    """Lattice vectors as rows in A, a along x and b in the xy plane."""
    from ase.geometry import cellpar_to_cell

    given = [parse_number(block.value(k)) for k in _CELL]
    parameters = [value for value in given if value is not None]
    if len(parameters) < len(given):
        raise InvalidCrystalError(
            f"block '{block.name}' has no complete cell; expected _cell_length_a ... _angle_gamma."
        )
    try:
        with np.errstate(all="ignore"):
            cell = cellpar_to_cell(parameters)
    except (AssertionError, ValueError, ZeroDivisionError):
        cell = np.zeros((3, 3))
    possible = min(parameters) > 0 and max(parameters[3:]) < 180
    if not possible or not np.linalg.det(cell) > MIN_VOLUME:
        raise InvalidCrystalError(f"its cell has no volume: lengths and angles are {parameters}.")
    return cell
