"""Finding and reading files of crystals; `repose.io.write` writes them.

Reading yields crystals or reasons; it raises no errors for the contents of files.
"""

from __future__ import annotations

import glob
import gzip
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repose.errors import InvalidCrystalError
from repose.io.extxyz import read_extxyz
from repose.io.poscar import read_poscar
from repose.io.structure_json import read_json
from repose.io.text import decode, guess_format, read_lines
from repose.io.write import FORMATS, ExtxyzWriter, Format, write

__all__ = ["FORMATS", "SUFFIXES", "Entry", "ExtxyzWriter", "Format", "find", "kind_of", "read", "write"]

SUFFIXES: dict[str, str] = {
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".contcar": "poscar",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".json": "json",
    ".traj": "traj",
    ".db": "db",
}
# Files that describe their folder and hold no crystal.
DESCRIPTIONS = ("candidates.json", "dataset.json")
KNOWN = "CIF, POSCAR/CONTCAR/.vasp, .xyz/.extxyz, pymatgen .json (all these also as .gz), ASE .traj/.db"
# Errors of parsers whose text does not help users.
_UNINFORMATIVE = (IndexError, KeyError, StopIteration, AttributeError, TypeError, AssertionError)


@dataclass(frozen=True, eq=False)
class Entry:
    """Crystal in a file, or the reason why it cannot be read.

    Attributes:
        source: Path of the file, or ``"-"``.
        index: Index in the file, from 0.
        crystal: `ase.Atoms`, or a pymatgen Structure from JSON; None if it cannot be read.
        reason: Why it cannot be read, or None.
        format: Format for writing it again.
        many: The file holds more than one crystal.
        remarks: Messages for the user, e.g. ``"velocities are not read"``.
    """

    source: str
    index: int
    crystal: Any
    reason: str | None
    format: Format = "extxyz"
    many: bool = False
    remarks: tuple[str, ...] = ()


def kind_of(path: str | Path) -> str | None:
    """Kind of a file by its name, one of the values of `SUFFIXES`, or None."""
    name = os.path.basename(path)
    zipped = name.endswith(".gz")
    name = name.removesuffix(".gz")
    kind = SUFFIXES.get(os.path.splitext(name)[1].lower())
    if name.upper().startswith(("POSCAR", "CONTCAR")):
        kind = kind or "poscar"
    return None if zipped and kind in ("traj", "db") else kind


def find(pattern: str, skip: Path | None = None) -> list[tuple[str, str]]:
    """Find files by path, folder or glob.

    Args:
        pattern: Path, folder or glob. Folders are searched recursively for files with known names.
        skip: A folder that is not searched, e.g. that of the output.

    Returns:
        Pairs of a file and its name in an output folder (relative to the searched folder); empty if nothing
        matches.
    """
    path = Path(pattern)
    if path.is_dir():
        avoid = skip.resolve() if skip is not None else None
        found = []
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(
                f for f in folders if not f.startswith(".") and (Path(folder) / f).resolve() != avoid
            )
            found += [
                Path(folder) / name
                for name in sorted(names)
                if not name.startswith(".") and name not in DESCRIPTIONS and kind_of(name)
            ]
        found = [file for file in found if file.suffix != ".json" or _holds_structures(file)]
        return [(str(file), str(file.relative_to(path))) for file in found]
    if not path.exists() and glob.has_magic(pattern):
        matches = sorted(glob.glob(pattern, recursive=True))
        return [pair for match in matches for pair in find(match, skip)]
    return [(pattern, path.name)]


def _holds_structures(path: Path) -> bool:
    """Return whether a JSON file in a folder may hold structures, unlike settings and results."""
    try:
        text = path.read_bytes()
    except OSError:
        return True  # reading it gives the reason
    return b'"lattice"' in text or b'"sites"' in text


def read(path: str | Path) -> Iterator[Entry]:
    """Read the crystals of one file.

    The kind of a file is determined by its name, or else by its content if that is unambiguous.

    Args:
        path: A file, or ``"-"`` for standard input: POSCAR, CIF, pymatgen JSON or extended XYZ.

    Yields:
        An entry for every crystal; for an unreadable file one entry with the reason.
    """
    source = str(path)
    kind = None if source == "-" else kind_of(source)

    def refused(index: int, reason: str, many: bool = False) -> Entry:
        return Entry(source, index, None, reason, _format(kind), many)

    if Path(source).is_dir():
        yield refused(0, f"the folder holds no crystals; expected {KNOWN}.")
        return
    try:
        text = _text(source, kind)
    except OSError as error:
        if glob.has_magic(source) and isinstance(error, FileNotFoundError):
            yield refused(0, "No such file: nothing matches this pattern.")
        else:
            yield refused(0, f"the file cannot be opened: {error.strerror or error}.")
        return
    except (EOFError, ValueError, zlib.error) as error:  # a broken .gz, or an invalid name
        yield refused(0, f"the file cannot be unpacked: {error}.")
        return
    if text == "":
        yield refused(0, "the file is empty." if source != "-" else "standard input is empty.")
        return
    if kind is None:
        kind = guess_format(str(text))
    if kind is None:
        basis = "content" if source == "-" else "name and content"
        yield refused(0, f"unknown kind of file by its {basis}; expected {KNOWN}. Rename it or convert it.")
        return

    crystals = _READERS[kind](text or source)
    index = 0
    ahead = _next(crystals, kind)
    while ahead is not None:
        current, ahead = ahead, _next(crystals, kind) if not isinstance(ahead, _End) else None
        many = index > 0 or ahead is not None
        if isinstance(current, InvalidCrystalError):
            yield refused(index, str(current), many)
        else:
            crystal, remarks = current if isinstance(current, tuple) else (current, ())
            yield Entry(source, index, crystal, None, _format(kind), many, remarks)
        index += 1
    if index == 0:
        yield refused(0, "it holds no crystals.")


def _format(kind: str | None) -> Format:
    """Format for writing crystals of a kind of file."""
    return kind if kind in FORMATS else "extxyz"  # type: ignore[return-value]


class _End(InvalidCrystalError):
    """Failure of a reader; nothing follows."""


def _next(crystals: Iterator[Any], kind: str) -> Any:
    """Next crystal, the error that ended the file, or None at its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of parsers
        try:
            return next(crystals, None)
        except InvalidCrystalError as error:
            return _End(str(error))
        except Exception as error:  # parsers raise any error for invalid input
            return _End(_parser_error(error, kind))


def _parser_error(error: Exception, kind: str) -> str:
    """Message for the error of a parser, with its type and text."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))[:200].rstrip(".")
    cause = f"{type(error).__name__}: {text}" if text else type(error).__name__
    hint = "it is truncated or of another kind" if isinstance(error, _UNINFORMATIVE) else "its parser failed"
    return f"it cannot be read as {kind}: {hint} ({cause})."


def _text(source: str, kind: str | None) -> str | Iterator[str] | None:
    """Contents of a text file, unpacked and empty if blank; None for binary files, which are read later.

    Files of many frames, which may be large, are read line by line.
    """
    if source == "-":
        stream = getattr(sys.stdin, "buffer", sys.stdin)  # may be a text stream
        data = stream.read()
        data = data.encode() if isinstance(data, str) else data
    elif kind in ("traj", "db"):
        with open(source, "rb") as handle:
            return None if handle.read(1) else ""
    elif kind == "extxyz" and os.path.isfile(source):  # a pipe cannot be read twice
        return read_lines(source) or ""
    else:
        data = Path(source).read_bytes()
    if source.endswith(".gz") or data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    text = decode(data)
    return text if text.strip() else ""


def _read_poscar(text: str) -> Iterator[Any]:
    yield read_poscar(text)


def _read_cif(text: str) -> Iterator[Any]:
    from repose.io.cif import read_cif

    yield from read_cif(text)


def _read_traj(path: str) -> Iterator[Any]:
    """Read frame by frame, so that invalid frames do not affect others."""
    from ase.io.trajectory import Trajectory

    frames: Any = Trajectory(path)
    with frames:
        for k in range(len(frames)):
            try:
                yield frames[k]
            except Exception as error:  # ASE raises any error for invalid input
                yield InvalidCrystalError(_parser_error(error, "traj"))


def _read_db(path: str) -> Iterator[Any]:
    """Read rows of an ASE database; key-value pairs become info."""
    from ase.db import connect

    for row in connect(path, type="db").select():
        try:
            atoms = row.toatoms()
            atoms.info |= row.key_value_pairs
            yield atoms
        except Exception as error:  # ASE raises any error for invalid input
            yield InvalidCrystalError(_parser_error(error, "db"))


_READERS: dict[str, Callable[[Any], Iterator[Any]]] = {
    "cif": _read_cif,
    "poscar": _read_poscar,
    "extxyz": read_extxyz,
    "json": read_json,
    "traj": _read_traj,
    "db": _read_db,
}
