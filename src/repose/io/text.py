"""Decoding of text files, detection of formats, and parsing of words."""

from __future__ import annotations

import codecs
import gzip
import io
import re
from collections.abc import Iterator
from typing import Any, TextIO

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Fortran omits the letter before an exponent of three digits: 0.1-100.
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eEdDqQ]([+-]?\d+)|(?<=\d)([+-]\d{3}))?")
_SYMBOL = re.compile(r"([A-Za-z]{1,2})(?:\d*[+-]|[+-]?\d+)?")
_CHUNK = 1 << 16  # characters of a file that are checked at a time
_LOGICAL = {"t": True, "true": True, "f": False, "false": False}


def decode(data: bytes) -> str:
    """Decode a text file and normalise line ends to line feeds.

    The encoding is that of the byte order mark, else UTF-8, else Latin-1, in which every byte is valid.
    """
    try:
        encoding = _marked(data) or "utf-8"
        text = data.decode(encoding, _errors(encoding))
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    # Concatenated files have marks in the middle.
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str) -> Iterator[str] | None:
    """Lines of a file, decoded as by `decode`, without their ends; only a few are in memory.

    The file is read twice, because all of it determines the encoding.

    Args:
        path: A text file, or one packed by gzip.

    Returns:
        The lines, or None if all are blank.

    Raises:
        OSError: The file cannot be opened.
        EOFError: A packed file is cut off; ``zlib.error`` if it is broken.
    """
    with _unpacked(path) as stream:
        encoding = _marked(stream.read(4)) or "utf-8"
    try:
        blank = _is_blank(path, encoding)
    except UnicodeDecodeError:
        encoding = "latin-1"
        blank = _is_blank(path, encoding)
    return None if blank else _lines(path, encoding)


def _lines(path: str, encoding: str) -> Iterator[str]:
    with _decoded(path, encoding) as stream:
        for line in stream:
            yield line.removesuffix("\n").replace("\ufeff", "")


def _is_blank(path: str, encoding: str) -> bool:
    """Return whether a file holds only blanks; all of it is read, so that every error in it is raised."""
    blank = True
    with _decoded(path, encoding) as stream:
        while text := stream.read(_CHUNK):
            blank = blank and not text.replace("\ufeff", "").strip()
    return blank


def _decoded(path: str, encoding: str) -> TextIO:
    """Open a file as text with line feeds as line ends."""
    return io.TextIOWrapper(_unpacked(path), encoding, _errors(encoding))


def _unpacked(path: str) -> Any:
    """Open a file for reading bytes, unpacked."""
    with open(path, "rb") as stream:
        packed = path.endswith(".gz") or stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")


def _marked(data: bytes) -> str | None:
    """Encoding by the byte order mark at the start of a file, or None."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)


def _errors(encoding: str) -> str:
    """Return how to decode invalid bytes: an error for UTF-8, where they mean another encoding, or marks."""
    return "strict" if encoding == "utf-8" else "replace"


def guess_format(text: str) -> str | None:
    """Format of a text: ``"poscar"``, ``"extxyz"``, ``"cif"`` or ``"json"``; None if it is not clear."""
    lines = text.split("\n")
    if _is_poscar(lines):
        return "poscar"
    if _is_extxyz(lines):
        return "extxyz"
    if re.match(r"\s*(\{\s*\"|\[\s*\{)", text):
        return "json"
    if re.search(r"(?im)^\s*data_", text) and re.search(r"(?im)^\s*_(cell|atom_site)", text):
        return "cif"
    return None


def _is_poscar(lines: list[str]) -> bool:
    """Return whether scale, three lattice vectors and, some lines later, counts are in place."""
    rows = [split_words(line) for line in lines[1:12]]
    if len(rows) < 6 or not rows[0]:
        return False
    vectors = all(len(row) >= 3 and None not in map(parse_number, row[:3]) for row in rows[1:4])
    counts = any(row and row[0].isdecimal() for row in rows[4:])
    return vectors and counts and parse_number(rows[0][0]) is not None and len(rows[0]) != 2


def _is_extxyz(lines: list[str]) -> bool:
    """Return whether the first line is a number of atoms, and a lattice or an atom follows."""
    start = next((k for k, line in enumerate(lines) if line.strip()), 0)
    if not lines[start].strip().isdecimal() or len(lines) < start + 2:
        return False
    if re.search(r"(?i)\b(lattice|properties)\s*=", lines[start + 1]):
        return True
    row = lines[start + 2].split() if len(lines) > start + 2 else []
    return len(row) >= 4 and parse_element(row[0]) is not None and None not in map(parse_number, row[1:4])


def split_words(line: str) -> list[str]:
    """Split a line of a Fortran-like file into words, without comments after ``!`` or ``#``."""
    return re.split(r"[!#]", line, maxsplit=1)[0].replace(", ", " ").split()


def parse_number(word: str) -> float | None:
    """Parse a decimal number, with an exponent after E, D or Q as in Fortran; None for other text.

    ``nan``, ``inf``, ``1_000`` and ``1/3`` are not numbers here.
    """
    match = _NUMBER.fullmatch(word)
    return None if match is None else float(f"{match[1]}e{match[2] or match[3] or 0}")


def parse_logical(word: str) -> bool | None:
    """Parse a logical value of Fortran or Python: ``T``, ``f``, ``.TRUE.``, ``False``; else None."""
    return _LOGICAL.get(word.lower().strip("."))


def parse_element(word: str) -> str | None:
    """Parse the symbol of an element in any case of letters; None for other text.

    The symbol may be followed by a charge (``Fe3+``, ``O-2``) or a number (``Fe1``). ``D`` is hydrogen.
    """
    from ase.data import atomic_numbers

    match = _SYMBOL.fullmatch(word)
    if match is None:
        return None
    symbol = "H" if match[1] == "D" else match[1].capitalize()
    return symbol if atomic_numbers.get(symbol, 0) else None
