"""Reading of extended XYZ.

``Lattice``, ``pbc`` and ``Properties`` are read in every unambiguous spelling; others are refused. (ASE takes
``lattice=`` as a comment, the crystal as a molecule, and unknown flags as False.) Other entries are read as
by ASE.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.comment_line import Comment, parse_comment
from repose.io.constraints import to_constraints
from repose.io.text import parse_element, parse_logical, parse_number

if TYPE_CHECKING:
    from ase import Atoms

_START = re.compile(r"(?i)(^|\s)(lattice|properties)\s*=")
_CELL_KEYS = {"cell", "box", "unit_cell", "unitcell", "lattice_vectors", "cell_vectors", "celldim"}
# Other names of the required columns.
_COLUMNS = {
    "numbers": {"numbers", "atomic_number", "atomic_numbers"},
    "symbols": {"species", "symbol", "symbols", "element", "elements"},
    "positions": {"pos", "position", "positions"},
}
_USUAL = {"numbers": "Z", "symbols": "species", "positions": "pos"}
# Numbers of a column, separated by single blanks, in the spelling of Python.
_NUMBERS = re.compile(r"(?:[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?: |\Z))*")
_BOOLEAN = {"1": True, "0": False}


class _Column(NamedTuple):
    name: str
    kind: str  # S, R, I or L
    first: int  # index of its first value in a row
    width: int


class FrameText(NamedTuple):
    """Lines of a frame.

    Attributes:
        line: Number of the comment line in the file, from 1.
        comment: Comment line.
        atoms: Lines of the atoms.
        vectors: Lines VEC1, VEC2, VEC3 of lattice vectors, if any.
        fault: Why the frame is invalid; empty if it is valid.
    """

    line: int
    comment: str
    atoms: Sequence[str]
    vectors: Sequence[str]
    fault: str = ""


def read_extxyz(text: str | Iterable[str]) -> Iterator[tuple[Atoms, tuple[str, ...]] | InvalidCrystalError]:
    """Read the frames of an extended XYZ file; invalid frames do not affect others.

    Args:
        text: The whole file, as `repose.io.text.decode` returns it, or its lines, as from `read_lines`.

    Yields:
        The crystal of a frame with messages for the user, or an error with the reason.
    """
    lines = text.removesuffix("\n").split("\n") if isinstance(text, str) else text
    for frame in split_frames(lines):
        try:
            yield parse_frame(frame)
        except InvalidCrystalError as error:
            yield error
        except Exception as error:  # ASE and numpy raise any error for invalid input
            yield _fault(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}.")


def split_frames(lines: Iterable[str]) -> Iterator[FrameText]:
    """Split lines into frames; few frames are in memory at a time.

    Args:
        lines: Lines without their ends.

    Yields:
        Frames. After an invalid one, splitting continues at the next Lattice or Properties.
    """
    for start, block in _blocks(lines):
        row = 0
        while row < len(block):
            head, number = block[row].strip(), start + row
            if not head:
                row += 1
                continue
            left = max(len(block) - row - 2, 0)
            if not head.isdecimal() or len(head) > 9 or left < int(head):
                yield FrameText(
                    number + 1, "".join(block[row + 1 : row + 2]), (), (),
                    f"line {number} should hold the number of atoms that follow, and {left} lines are left "
                    f"in the frame; got {head[:40]!r}.",
                )  # fmt: skip
                break
            atoms = end = row + 2 + int(head)
            while end < len(block) and re.match(r"\s*VEC\d\b", block[end]):
                end += 1
            frame = FrameText(number + 1, block[row + 1], block[row + 2 : atoms], block[atoms:end])
            surplus = next((line for line in block[end:] if line.strip()), "")
            if len(surplus.split()) > 3 and parse_element(surplus.split()[0]):
                fault = f"line {number} announces {head} atoms, but more follow: {surplus.strip()[:40]!r}."
                yield frame._replace(fault=fault)
                break
            yield frame
            row = end


def _blocks(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield lines up to the next frame with Lattice or Properties, after the number of the first line."""
    first, block = 1, list[str]()
    for line in lines:
        if block and block[-1].strip().isdecimal() and _START.search(line):
            yield first, block[:-1]
            first, block = first + len(block) - 1, block[-1:]
        block.append(line)
    yield first, block


def _fault(reason: str) -> InvalidCrystalError:
    return InvalidCrystalError(f"it cannot be read as extxyz: {reason}")


def parse_frame(frame: FrameText) -> tuple[Atoms, tuple[str, ...]]:
    """Return the crystal of a frame, and messages for the user.

    Raises:
        InvalidCrystalError: The frame is invalid. ASE and numpy may raise other errors.
    """
    from ase import Atoms

    if frame.fault:
        raise _fault(frame.fault)
    comment, first = parse_comment(frame.comment), frame.line + 1
    columns = _columns(comment)
    rows = [line.split() for line in frame.atoms]
    width = sum(column.width for column in columns)
    for k, row in enumerate(rows):
        if len(row) < width:
            raise _fault(f"line {first + k} should hold {width} values; got {' '.join(row)[:60]!r}.")
    remarks = list(comment.remarks)
    if comment.properties is not None and any(len(row) > width for row in rows):
        remarks.append("columns beyond those of Properties are not read")
    arrays = {column.name: _values(column, rows, first) for column in columns}
    numbers = _numbers(arrays.pop("symbols", None), arrays.pop("numbers", None), first)
    cell, pbc = _cell(comment, frame.vectors)
    atoms = Atoms(numbers, positions=arrays.pop("positions"), cell=cell, pbc=pbc, info=comment.info)
    atoms.set_constraint(_constraints(arrays, len(rows)))
    _set_arrays(atoms, arrays, remarks)
    return atoms, tuple(remarks)


def _columns(comment: Comment) -> list[_Column]:
    """Columns of Properties, or those of plain XYZ."""
    given = comment.properties or "species:S:1:pos:R:3"
    fields = given.split(":")
    triples = list(zip(fields[::3], fields[1::3], fields[2::3], strict=False))
    good = all(
        kind.upper() in ("S", "R", "I", "L") and re.fullmatch("[1-9][0-9]*", width)
        for _, kind, width in triples
    )
    if len(fields) % 3 or not good:
        raise _fault(f"Properties should be NAME:TYPE:COLUMNS, repeated; got {given[:80]!r}.")
    columns, first = list[_Column](), 0
    for name, kind, width in triples:
        for known, usual in _USUAL.items():
            # Other names count only if the usual name is missing.
            if name == usual or (name.lower() in _COLUMNS[known] and usual not in fields[::3]):
                name = known
        columns.append(_Column(name, kind.upper(), first, int(width)))
        first += int(width)
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise _fault(f"Properties names a column twice: {given[:80]!r}.")
    sizes = {column.name: column.width for column in columns}
    if sizes.get("positions") != 3 or not {sizes.get("symbols"), sizes.get("numbers")} & {1}:
        raise _fault(f"Properties should have species:S:1 (or Z:I:1) and pos:R:3; got {given[:80]!r}.")
    if any(column.name == "symbols" and column.kind != "S" for column in columns):
        raise _fault(f"the column of species should hold chemical symbols (species:S:1); got {given[:80]!r}.")
    return columns


def _values(column: _Column, rows: list[list[str]], first: int) -> NDArray[Any]:
    """Values of a column, ``(N,)`` or ``(N, count)``."""
    words = [word for row in rows for word in row[column.first : column.first + column.width]]
    if column.kind == "R" and _NUMBERS.fullmatch(" ".join(words)):
        array = np.array(list(map(float, words))).reshape(len(rows), column.width)
        return array[:, 0] if column.width == 1 else array
    read = {"S": str, "R": _real, "I": _integer, "L": _flag}[column.kind]
    kind = {"S": object, "R": float, "I": int, "L": bool}[column.kind]
    values = []
    for k, row in enumerate(rows):
        cells = [read(word) for word in row[column.first : column.first + column.width]]
        if None in cells:
            expected = {"R": "numbers", "I": "integers", "L": "T or F"}[column.kind]
            got = " ".join(row)[:60]
            raise _fault(f"line {first + k} should hold {expected} in column '{column.name}'; got {got!r}.")
        values.append(cells)
    array = np.array(values, dtype=kind).reshape(len(rows), column.width)
    array = array.astype(str) if column.kind == "S" else array
    return array[:, 0] if column.width == 1 else array


def _real(word: str) -> float | None:
    # NaN in coordinates is refused later, with the name of the atom.
    return float(word) if re.fullmatch(r"(?i)[+-]?(nan|inf(inity)?)", word) else parse_number(word)


def _integer(word: str) -> int | None:
    return int(word) if re.fullmatch(r"[+-]?\d+", word) else None


def _flag(word: str) -> bool | None:
    return _BOOLEAN.get(word, parse_logical(word))


def _numbers(symbols: NDArray[Any] | None, numbers: NDArray[Any] | None, first: int) -> NDArray[Any]:
    """Atomic numbers; 0 for the placeholder X."""
    from ase.data import atomic_numbers

    if symbols is None:
        if numbers is None:
            raise _fault("there is a column of neither species nor atomic numbers.")
        if numbers.dtype.kind != "i" or ((numbers < 0) | (numbers > 118)).any():
            raise _fault(f"atomic numbers should be integers from 1 to 118; got {numbers.tolist()[:20]}.")
        return numbers
    found = []
    for k, word in enumerate(symbols):
        symbol = "X" if word == "X" else parse_element(word)
        if symbol is None:
            raise _fault(f"line {first + k} should begin an atom of a known element; got {word[:40]!r}.")
        found.append(atomic_numbers[symbol])
    named = np.array(found, dtype=int)
    if numbers is not None and not np.array_equal(numbers, named):
        k = int(np.flatnonzero(numbers != named)[0])
        raise _fault(f"line {first + k} names {symbols[k]}, but the atomic number {numbers[k]}.")
    return named


def _cell(comment: Comment, vectors: Sequence[str]) -> tuple[NDArray[Any] | None, Any]:
    """Lattice vectors as rows in A, and the periodic directions."""
    if vectors:
        if comment.lattice is not None:
            raise _fault("its cell is given twice, by Lattice and by lines VEC1, VEC2, VEC3.")
        cell = np.zeros((3, 3))
        for k, line in enumerate(vectors):
            values = [parse_number(word) for word in line.split()[1:]]
            if line.split()[0] != f"VEC{k + 1}" or len(values) != 3 or None in values:
                raise _fault(f"expected VEC{k + 1} and three numbers; got {line.strip()[:60]!r}.")
            cell[k] = values
        return cell, [k < len(vectors) for k in range(3)]
    if comment.lattice is None:
        for key in comment.info:
            if key.lower() in _CELL_KEYS:
                raise _fault(f"its comment line has an entry '{key}', but no Lattice; write it as "
                             'Lattice="ax ay az bx by bz cx cy cz".')  # fmt: skip
        return None, False if comment.pbc is None else comment.pbc
    return comment.lattice, True if comment.pbc is None else comment.pbc


def _constraints(arrays: dict[str, NDArray[Any]], count: int) -> list[Any]:
    """Constraints of ``move_mask`` (along x, y, z) and ``selective_dynamics`` (along lattice vectors)."""
    from ase.constraints import FixCartesian

    fixed_by = {}
    for name in ("move_mask", "selective_dynamics"):
        mask = arrays.pop(name, None)
        if mask is None:
            continue
        if mask.dtype.kind not in "bi" or mask.size not in (count, 3 * count):
            raise _fault(f"column '{name}' should be L:1 or L:3, T where an atom may move.")
        fixed = ~mask.astype(bool)
        fixed_by[name] = np.broadcast_to(fixed.reshape(count, -1), (count, 3))
    if not fixed_by:
        return []
    free = np.zeros((count, 3), dtype=bool)
    scaled, cartesian = fixed_by.get("selective_dynamics", free).copy(), fixed_by.get("move_mask", free)
    whole = cartesian.all(axis=1)
    scaled[whole] = True
    constraints = to_constraints(scaled)
    for mask in np.unique(cartesian[~whole & cartesian.any(axis=1)], axis=0):
        constraints.append(FixCartesian(np.flatnonzero((cartesian == mask).all(axis=1)), mask))
    return constraints


def _set_arrays(atoms: Atoms, arrays: dict[str, NDArray[Any]], remarks: list[str]) -> None:
    """Store results of calculations in a calculator, as ASE does, and other columns as arrays."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io.extxyz import per_atom_properties, per_config_properties
    from ase.stress import full_3x3_to_voigt_6_stress

    results: dict[str, Any] = {}
    for name, array in arrays.items():
        name = {"charge": "charges"}.get(name, name)
        if name not in per_atom_properties:
            atoms.set_array(name, array)
        elif array.dtype.kind in "if":
            results[name] = array
        else:
            remarks.append(f"the column {name} is not read; expected numbers")
    for name in [name for name in atoms.info if name in per_config_properties]:
        value = atoms.info.pop(name)
        array = np.asarray(value)
        if array.dtype.kind not in "if" or (name == "stress" and array.size not in (6, 9)):
            remarks.append(f"{name} is not read; expected numbers")
        elif name == "stress":
            results[name] = array if array.size == 6 else full_3x3_to_voigt_6_stress(array.reshape(3, 3))
        else:
            results[name] = value
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
