"""CIF: crystals out of blocks, and back.

ASE splits the file into blocks and loops; what they mean is worked out here, because both common
parsers lose something that relaxing needs: pymatgen the order of sites, ASE a second atom on a site and
rows that it could not split.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.convert import MIN_VOLUME

if TYPE_CHECKING:
    from ase import Atoms

# Images of one site closer than this are one atom on a special position (coordinates have few digits).
SAME_SITE = 0.1  # A
# Largest difference between an element's share of atoms and of _chemical_formula_sum.
FORMULA_TOLERANCE = 0.002


def read_cif(text: str) -> list[Atoms | InvalidCrystalError]:
    """Read the crystals of a CIF file, sites in the order of the file, each followed by its images.

    Blocks without atoms, as journals add them, are passed over if another block has some.

    Args:
        text: The whole file.

    Returns:
        One entry a block: the crystal, or why it is none.

    Raises:
        InvalidCrystalError: The file is no CIF, or ends early.
    """
    from ase.io.cif import parse_cif

    # A blank line ends a loop for ASE, though not for CIF.
    text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # ASE drops such a row and only warns, which would lose an atom or a symmetry operation.
        warnings.filterwarnings("error", message="Wrong number")
        try:
            blocks = list(parse_cif(io.BytesIO(text.encode("latin1", "replace"))))
        except Warning as error:
            raise InvalidCrystalError(
                f"a row of a CIF loop cannot be split: {error}; put quotes around it."
            ) from None
        except Exception as error:  # ASE raises whatever Python does on junk
            said = f" ({error})" if str(error) else ""
            raise InvalidCrystalError(
                f"it is not CIF, or ends early{said}; expected data blocks with cell and atoms."
            ) from None
    blocks = [b for b in blocks if any(tag.startswith("_atom_site_") for tag in b)] or blocks[:1]
    if not blocks:
        raise InvalidCrystalError("it holds no CIF data block; expected a line that starts with 'data_'.")
    crystals: list[Atoms | InvalidCrystalError] = []
    for block in blocks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, of its own internals
            try:
                crystals.append(_to_atoms(block))
            except InvalidCrystalError as error:
                crystals.append(error)
    return crystals


def write_cif(numbers: Sequence[int], positions: NDArray[Any], cell: NDArray[Any], name: str) -> str:
    """CIF text of an ordered crystal in P1, sites in order and not wrapped.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        name: Of the data block.
    """
    from ase.data import chemical_symbols
    from ase.geometry import cell_to_cellpar

    fractional = positions @ np.linalg.inv(cell)
    if np.linalg.det(cell) < 0:
        # Lengths and angles describe a right-handed cell; the vectors reversed span the same lattice.
        fractional = -fractional
    symbols = [chemical_symbols[z] for z in numbers]
    formula = " ".join(f"{symbol}{count}" for symbol, count in sorted(Counter(symbols).items()))
    block = re.sub(r"[^\w.+-]", "_", name) or "crystal"
    lines = [f"data_{block}", f"_chemical_formula_sum '{formula}'", "_cell_formula_units_Z 1"]
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines += [f"_cell_{tag} {value:.10f}" for tag, value in zip(tags, cell_to_cellpar(cell), strict=True)]
    lines += [
        "_space_group_name_H-M_alt 'P 1'",
        "_space_group_IT_number 1",
        "loop_",
        "_space_group_symop_operation_xyz",
        "'x, y, z'",
        "loop_",
        "_atom_site_label",
        "_atom_site_type_symbol",
        "_atom_site_fract_x",
        "_atom_site_fract_y",
        "_atom_site_fract_z",
        "_atom_site_occupancy",
    ]
    seen = Counter[str]()
    for symbol, (x, y, z) in zip(symbols, fractional, strict=True):
        seen[symbol] += 1
        lines.append(f"{symbol}{seen[symbol]} {symbol} {x:.10f} {y:.10f} {z:.10f} 1")
    return "\n".join(lines) + "\n"


def _to_atoms(block: Any) -> Atoms:
    from ase import Atoms
    from ase.geometry import cellpar_to_cell

    parameters = [_number(block.get(tag)) for tag in block.cell_tags]
    if any(value is None for value in parameters):
        raise InvalidCrystalError(
            f"block '{block.name}' has no complete cell; expected _cell_length_a ... _angle_gamma."
        )
    try:
        with np.errstate(all="ignore"):
            cell = cellpar_to_cell(parameters)
    except (AssertionError, ValueError, ZeroDivisionError):
        cell = np.zeros((3, 3))
    if not abs(np.linalg.det(cell)) > MIN_VOLUME:
        raise InvalidCrystalError(f"its cell has no volume: lengths and angles are {parameters}.")
    symbols, fractional = _sites(block, cell)
    rotations, translations = _operations(block, cell)
    numbers: list[str] = []
    positions: list[NDArray[Any]] = []
    for symbol, site in zip(symbols, fractional, strict=True):
        orbit = _orbit(site, rotations, translations, cell)
        numbers += [symbol] * len(orbit)
        positions.append(orbit @ cell)
    atoms = Atoms(numbers, positions=np.concatenate(positions), cell=cell, pbc=True)
    _check_formula(block, atoms)
    return atoms


def _sites(block: Any, cell: NDArray[Any]) -> tuple[list[str], NDArray[Any]]:
    """Element symbols and fractional coordinates ``(n, 3)`` of the sites listed."""
    from ase.data import atomic_numbers

    def column(name: str) -> list[Any] | None:
        values = block.get(f"_atom_site_{name}")
        return values if values is None or isinstance(values, list) else [values]

    labels = [str(label) for label in column("label") or column("type_symbol") or []]
    kinds = column("type_symbol") or labels
    raw = [column(f"fract_{axis}") for axis in "xyz"]
    cartesian = raw[0] is None
    if cartesian:
        raw = [column(f"cartn_{axis}") for axis in "xyz"]
    columns = [values for values in raw if values is not None]
    if not labels or len(columns) < 3:
        raise InvalidCrystalError(
            f"block '{block.name}' lists no atoms; expected _atom_site_label and _atom_site_fract_x ..."
        )
    if len({len(values) for values in (labels, kinds, *columns)}) != 1:
        raise InvalidCrystalError("its list of atoms is incomplete.")
    symbols = []
    for label, kind in zip(labels, kinds, strict=True):
        match = re.match(r"([A-Z][a-z]?)", str(kind).strip())
        symbol = match.group(1) if match else str(kind)
        symbol = symbol if symbol in atomic_numbers else symbol[:1]  # "Ow", "Cd1" is not "C"
        symbol = "H" if symbol in ("D", "T") else symbol
        if atomic_numbers.get(symbol, 0) == 0:
            raise InvalidCrystalError(f"site '{label}' is of no known element ('{kind}').")
        symbols.append(symbol)
    for label, occupancy in zip(labels, column("occupancy") or [], strict=False):
        share = _number(occupancy)
        if share is not None and abs(share - 1) > 1e-3:
            raise InvalidCrystalError(
                f"partial occupancy: site '{label}' is occupied to {share:g}; expected 1. "
                "Choose an ordered one, e.g. with pymatgen's OrderDisorderedStructureTransformation."
            )
    values = np.array(
        [[np.nan if (v := _number(x)) is None else v for x in col] for col in columns], dtype=float
    ).T
    if not np.isfinite(values).all():
        site = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        given = [col[site] for col in columns]
        raise InvalidCrystalError(
            f"site '{labels[site]}' has coordinates {given}; expected three finite numbers."
        )
    return symbols, values @ np.linalg.inv(cell) if cartesian else values


def _orbit(
    site: NDArray[Any], rotations: NDArray[Any], translations: NDArray[Any], cell: NDArray[Any]
) -> NDArray[Any]:
    """All images of a site in one cell, ``(m, 3)``, the site first; a special position is met exactly."""

    def apart(images: NDArray[Any], point: NDArray[Any]) -> NDArray[Any]:
        difference = images - point
        return np.linalg.norm((difference - np.rint(difference)) @ cell, axis=-1)

    images = rotations @ site + translations
    same = apart(images, site) < SAME_SITE
    if same.any():
        shifts = images[same] - site
        site = site + (shifts - np.rint(shifts)).mean(axis=0)
    orbit = [site]
    for image in rotations @ site + translations:
        if (apart(np.array(orbit), image) >= SAME_SITE).all():
            orbit.append(image - np.floor(image))
    return np.array(orbit)


def _operations(block: Any, cell: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rotations ``(m, 3, 3)`` and translations ``(m, 3)`` on fractional columns, checked against the cell."""
    from ase.spacegroup.spacegroup import parse_sitesym

    for tag in (
        "_space_group_symop_operation_xyz",
        "_space_group_symop.operation_xyz",
        "_symmetry_equiv_pos_as_xyz",
    ):
        listed = block.get(tag)
        if listed:
            listed = [listed] if isinstance(listed, str) else listed
            try:
                rotations, translations = parse_sitesym([str(op) for op in listed])
            except (ValueError, IndexError, TypeError):
                rotations = np.zeros((1, 3, 3))
                translations = np.zeros((1, 3))
            if not np.allclose(np.abs(np.linalg.det(rotations)), 1):
                raise InvalidCrystalError(f"its symmetry operations cannot be read: {listed[0]!r}, ...")
            if not _fits(rotations, cell):
                raise InvalidCrystalError(
                    "its symmetry operations do not fit its cell; check lengths and angles."
                )
            return rotations, translations
    return _tabulated(block, cell)


def _fits(rotations: NDArray[Any], cell: NDArray[Any]) -> bool:
    """Whether the operations keep all lengths in the cell, within one per cent."""
    metric = cell @ cell.T
    return bool(
        np.allclose(rotations.transpose(0, 2, 1) @ metric @ rotations, metric, atol=0.02 * metric.max())
    )


def _tabulated(block: Any, cell: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Operations of the space group that the file names without listing them; P1 if it names none."""
    import spglib

    def squeezed(value: Any) -> str:
        return re.sub(r"[\s_]", "", str(value)).lower()

    def first(*tags: str) -> Any:
        return next((block[tag] for tag in tags if block.get(tag) not in (None, "?", ".", "")), None)

    hall = first("_space_group_name_hall", "_symmetry_space_group_name_hall")
    name = first("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m", "_space_group_name_h-m")
    number = first("_space_group_it_number", "_space_group.it_number", "_symmetry_int_tables_number")
    wanted = hall or name or number
    if wanted is None:
        return np.eye(3, dtype=int)[None], np.zeros((1, 3))
    base, _, choice = squeezed(name).partition(":")
    found = []
    for index in range(1, 531):
        kind: Any = spglib.get_spacegroup_type(index)
        if hall:
            matches = squeezed(kind.hall_symbol) == squeezed(hall)
        elif name:
            names = {squeezed(n) for n in (kind.international_full, kind.international_short)}
            names |= {squeezed(n) for n in kind.international.split("=")}
            # "P 1 21/n 1" is also called "P 21/n".
            names.add(squeezed(re.sub(r"(?<=\s)1(?=\s|$)", "", kind.international_full)))
            matches = base in names and choice in ("", kind.choice.lower())
        else:
            matches = kind.number == int(_number(number) or 0)
        if matches:
            table: Any = spglib.get_symmetry_from_database(index)
            if _fits(table["rotations"], cell):
                found.append((kind, table))
    if not found:
        raise InvalidCrystalError(
            f"it lists no symmetry operations, and its space group {wanted!r} is unknown or does not fit "
            "its cell; write the operations into the file."
        )
    # Several settings fit: the first is the standard one, but nobody can tell two choices of origin apart.
    if {kind.choice for kind, _ in found} >= {"1", "2"}:
        raise InvalidCrystalError(
            f"it lists no symmetry operations, and its space group {wanted!r} has two choices of origin; "
            "write the operations or the choice (e.g. 'F d -3 m :2') into the file."
        )
    return found[0][1]["rotations"], found[0][1]["translations"]


def _check_formula(block: Any, atoms: Atoms) -> None:
    """Refuse a file whose atoms are not those of its formula: it is cut off, or lacks e.g. its hydrogen."""
    stated = block.get("_chemical_formula_sum")
    parts = re.findall(r"([A-Z][a-z]?)\s*(\d*\.?\d*)", str(stated or ""))
    counts = Counter[str]()
    for symbol, count in parts:
        counts["H" if symbol in ("D", "T") else symbol] += float(count or 1)  # type: ignore[assignment]
    total = sum(counts.values())
    if not total or not re.fullmatch(r"[A-Za-z0-9.\s]+", str(stated)):
        return
    actual = Counter(atoms.get_chemical_symbols())
    if any(abs(actual[s] / len(atoms) - counts[s] / total) > FORMULA_TOLERANCE for s in {*actual, *counts}):
        raise InvalidCrystalError(
            f"its atoms make up {atoms.get_chemical_formula('metal')}, but its formula is '{stated}': "
            "the file is cut off, or leaves atoms out."
        )


def _number(value: Any) -> float | None:
    """A CIF number, with or without its uncertainty in brackets; None for '?', '.' and text."""
    try:
        return float(re.sub(r"\(\d*\)$", "", str(value)))
    except ValueError:
        return None
