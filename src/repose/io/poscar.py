"""POSCAR and CONTCAR of VASP.

Files are read strictly by the rules of VASP (https://www.vasp.at/wiki/index.php/POSCAR): ambiguous files are
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.constraints import to_constraints
from repose.io.text import parse_element, parse_logical, parse_number, split_words

if TYPE_CHECKING:
    from ase import Atoms

# First line of the species, or of the counts in files of VASP 4.
_SPECIES = 5
# Line of an atom as most programs write it: three decimal numbers, then letters or nothing.
_PLAIN_ROW = re.compile(3 * r"\s*([+-]?\d+\.\d+)(?=\s|$)" + r"((?:\s+[A-Za-z]+)?)\s*", re.ASCII)


def read_poscar(text: str) -> tuple[Atoms, tuple[str, ...]]:
    """Read the crystal of a POSCAR or CONTCAR without the blocks after the coordinates.

    Args:
        text: The whole file, as `repose.io.text.decode` returns it.

    Returns:
        The crystal, with selective dynamics as FixAtoms and FixScaled, and messages for the user.

    Raises:
        InvalidCrystalError: The file is not a POSCAR; names the line and the expected content.
    """
    from ase import Atoms

    lines = text.split("\n")
    cell, scale = _lattice(lines)
    symbols, row = _species(lines)
    mode = _line(lines, row, "'Selective dynamics', 'Direct' or 'Cartesian'").strip()
    selective = mode[:1] in ("S", "s")
    if selective:
        row += 1
        mode = _line(lines, row, "'Direct' or 'Cartesian'").strip()
    if "configuration" in mode.lower():
        raise InvalidCrystalError(
            "it is an XDATCAR, a trajectory of VASP; convert it to extended XYZ, e.g. with ase convert."
        )
    if mode[:1].lower() not in ("d", "f", "c", "k"):
        _fail(lines, row, "'Direct' or 'Cartesian'")
    rows = [_coordinates(lines, row + 1 + k, k, len(symbols), selective) for k in range(len(symbols))]
    positions = np.array([values for values, _, _ in rows], dtype=float).reshape(-1, 3)
    positions = positions * scale if mode[:1].lower() in ("c", "k") else positions @ cell
    atoms = Atoms(symbols, positions=positions, cell=cell, pbc=True)
    if selective:
        moves = np.array([flags for _, flags, _ in rows], dtype=bool).reshape(-1, 3)
        atoms.set_constraint(to_constraints(~moves))
    end = row + 1 + len(symbols)
    remarks = [*_notes(symbols, [rest for _, _, rest in rows], selective), *_tail(lines, end, len(symbols))]
    return atoms, tuple(remarks)


def write_poscar(
    numbers: Iterable[int], positions: NDArray[Any], cell: NDArray[Any], fixed: NDArray[np.bool_]
) -> str:
    """POSCAR text of a crystal in the format of VASP 5, sites in order and not wrapped.

    Args:
        numbers: Atomic numbers, ``(N,)``.
        positions: A, ``(N, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.
        fixed: Fixed fractional coordinates, ``(N, 3)``; selective dynamics is written if there are any.
    """
    from ase.data import chemical_symbols

    def row(values: NDArray[Any]) -> str:
        return "{:21.16f} {:21.16f} {:21.16f}".format(*values.tolist())

    selective = fixed.any()
    blocks = [(chemical_symbols[z], len(list(group))) for z, group in groupby(numbers)]
    fractional = positions @ np.linalg.inv(cell)
    lines = [" ".join(symbol for symbol, _ in blocks), "1.0", *(row(vector) for vector in cell)]
    lines += [" ".join(f"{symbol:>4}" for symbol, _ in blocks), " ".join(f"{n:>4}" for _, n in blocks)]
    lines += ["Selective dynamics", "Direct"] if selective else ["Direct"]
    for site, flags in zip(fractional, fixed, strict=True):
        moves = "".join(f"   {'F' if flag else 'T'}" for flag in flags) if selective else ""
        lines.append(row(site) + moves)
    return "\n".join(lines) + "\n"


def _lattice(lines: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lattice vectors as rows in A, and the factors of Cartesian coordinates, ``(3,)``."""
    given = split_words(_line(lines, 1, "the scaling factor"))
    factors = [f for f in takewhile(lambda f: f is not None, map(parse_number, given)) if f is not None]
    if len(factors) not in (1, 3):
        _fail(lines, 1, "one scaling factor, or three")
    if 0 in factors or (len(factors) == 3 and min(factors) < 0):
        _fail(lines, 1, "a scaling factor that is not zero (three must be positive)")
    vectors = np.array([_numbers(lines, 2 + k, "of a lattice vector") for k in range(3)])
    if factors[0] > 0:
        return vectors * factors, np.broadcast_to(factors, 3)
    volume = abs(float(np.linalg.det(vectors)))
    if volume == 0:
        raise InvalidCrystalError("its scaling factor is a volume, but its lattice vectors span none.")
    # A negative factor is minus the volume; the vectors keep their directions, also in a left-handed cell.
    scale = np.full(3, np.cbrt(-factors[0] / volume))
    return vectors * scale, scale


def _species(lines: list[str]) -> tuple[list[str], int]:
    """Symbol of every atom, and the index of the line after the counts; both may take several lines."""
    row, names, counts = _SPECIES, list[str](), list[int]()
    while True:
        found = split_words(_line(lines, row, "element symbols and counts"))
        if not found:
            _fail(lines, row, "element symbols or their counts")
        if found[0].isdecimal():
            break
        names += found
        row += 1
    if not names:
        raise InvalidCrystalError(
            "it has no line with element symbols (VASP 4); write one before the counts."
        )
    symbols = []
    for name in names:
        # Names of POTCARs are Fe_pv, or Fe_pv/HASH in VASP 6; Mg/Ca is a mixture.
        potcar = re.fullmatch(r"([^_/]+)(_[^/]*)?(/[0-9A-Fa-f]{4,})?", name)
        symbol = parse_element(potcar.group(1)) if potcar else None
        if symbol is None:
            raise InvalidCrystalError(f"it cannot be read as poscar: {name[:40]!r} names no element.")
        symbols.append(symbol)
    while len(counts) < len(names) and row < len(lines):
        found = [int(word) for word in takewhile(str.isdecimal, split_words(lines[row]))]
        if not found:
            break
        counts += found
        row += 1
    if len(counts) != len(names):
        raise InvalidCrystalError(
            f"it cannot be read as poscar: it names {len(names)} elements ({' '.join(names)[:60]}), but "
            f"gives {len(counts)} counts; expected one count per element."
        )
    if sum(counts) > len(lines):
        raise InvalidCrystalError(
            f"it cannot be read as poscar: its counts add up to {sum(counts)} atoms, but it has {len(lines)} "
            "lines; the file is cut off, or its counts are wrong."
        )
    return [symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count)], row


def _coordinates(
    lines: list[str], row: int, atom: int, count: int, selective: bool
) -> tuple[list[float], list[bool], list[str]]:
    """Coordinates of an atom, whether it may move along the lattice vectors, and the rest of the line."""
    if not selective and row < len(lines) and (plain := _PLAIN_ROW.fullmatch(lines[row])):
        return list(map(float, plain.group(1, 2, 3))), [True] * 3, plain[4].split()
    what = f"of atom {atom + 1} of {count}, as the counts announce"
    values = _numbers(lines, row, what)
    rest = split_words(lines[row])[3:]
    if not selective:
        return values, [True] * 3, rest
    flags = [parse_logical(word) for word in rest[:3]]
    if len(flags) < 3 or None in flags:
        _fail(lines, row, "three flags (T or F, apart from each other) after the coordinates")
    return values, [bool(flag) for flag in flags], rest[3:]


def _notes(symbols: list[str], rests: list[list[str]], selective: bool) -> list[str]:
    """Messages on text after coordinates that contradicts the head of the file."""
    from ase.data import atomic_numbers

    if not selective and any(
        len(rest) > 2 and all(parse_logical(word) is not None for word in rest[:3]) for rest in rests
    ):
        return ["flags T and F without a line 'Selective dynamics' are not read, as in VASP"]
    named = [rest[0] if rest and rest[0] in atomic_numbers else None for rest in rests]
    if any(name is not None and name != symbol for name, symbol in zip(named, symbols, strict=True)):
        return ["element names behind the coordinates differ from the line of symbols, which is used"]
    return []


def _tail(lines: list[str], start: int, count: int) -> list[str]:
    """Messages on the text after the coordinates.

    Raises:
        InvalidCrystalError: There are more atoms than the counts give.
    """
    rest = lines[start:]

    def is_triple(line: str) -> bool:
        values = [parse_number(word) for word in line.split()[:3]]
        return len(values) == 3 and None not in values

    if rest and is_triple(rest[0]):
        raise InvalidCrystalError(
            f"it cannot be read as poscar: its counts add up to {count} atoms, but line {start + 1} holds "
            f"one more: {rest[0].strip()[:60]!r}."
        )
    if not any(line.strip() for line in rest):
        return []
    if rest[0].strip().lower().startswith("l"):  # lattice velocities: a number, three velocities, the lattice
        rest = rest[8:]
    block = rest[1:]  # after a blank line or the kind of coordinates
    found = next((k for k, line in enumerate(block) if not is_triple(line)), len(block))
    if found >= count:
        return ["velocities are not read"]
    if found:
        return ["velocities end early; they are not read"]
    return ["text after the coordinates is not read"] if any(line.strip() for line in rest) else []


def _line(lines: list[str], row: int, expected: str) -> str:
    if row >= len(lines):
        raise InvalidCrystalError(
            f"it cannot be read as poscar: it ends after line {len(lines)}; expected {expected}."
        )
    return lines[row]


def _numbers(lines: list[str], row: int, what: str) -> list[float]:
    """Three numbers at the start of a line."""
    line = _line(lines, row, f"three numbers {what}")
    values = [parse_number(word) for word in split_words(line)[:3]]
    found = [value for value in values if value is not None]
    if len(found) < 3 or re.search(r"\d,\d", line):
        _fail(lines, row, f"three numbers {what}")
    return found


def _fail(lines: list[str], row: int, expected: str) -> NoReturn:
    raise InvalidCrystalError(
        f"it cannot be read as poscar: line {row + 1} should hold {expected}; "
        f"got {lines[row].strip()[:60]!r}."
    )
