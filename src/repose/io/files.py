"""Files of crystals: finding and reading them; `repose.io.write` writes them.

Whatever stands in a file, reading yields a crystal or a reason; it never raises for what users wrote.
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
from repose.io.cif import read_cif
from repose.io.extxyz import read_extxyz
from repose.io.poscar import read_poscar
from repose.io.structure_json import read_json
from repose.io.text import decode, recognise
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
# They describe the folder that they stand in, and hold no crystal.
DESCRIPTIONS = ("candidates.json", "dataset.json")
KNOWN = "CIF, POSCAR/CONTCAR/.vasp, .xyz/.extxyz, pymatgen .json (all these also as .gz), ASE .traj/.db"
# Errors of parsers whose text says nothing to a user.
_SPEECHLESS = (IndexError, KeyError, StopIteration, AttributeError, TypeError, AssertionError)


@dataclass(frozen=True, eq=False)
class Entry:
    """One crystal in a file, or why there is none.

    Attributes:
        source: The file as the user would name it, or ``"-"``.
        index: Place in the file, from 0.
        crystal: `ase.Atoms`, or a pymatgen Structure from JSON; None if it cannot be read.
        reason: Why it cannot be read, else None.
        format: In which it is written again if the format is to stay the same.
        many: Whether the file holds more than one crystal.
        remarks: What the user should know about reading, e.g. ``"velocities are not read"``.
    """

    source: str
    index: int
    crystal: Any
    reason: str | None
    format: Format = "extxyz"
    many: bool = False
    remarks: tuple[str, ...] = ()


def kind_of(path: str | Path) -> str | None:
    """Kind of a file by its name, one of the values of `SUFFIXES`; None if the name is of no known kind."""
    path = Path(path)
    zipped = path.suffix == ".gz"
    path = path.with_suffix("") if zipped else path
    kind = SUFFIXES.get(path.suffix.lower())
    if path.name.upper().startswith(("POSCAR", "CONTCAR")):
        kind = kind or "poscar"
    return None if zipped and kind in ("traj", "db") else kind


def find(pattern: str, skip: Path | None = None) -> list[tuple[str, str]]:
    """Files that a path, folder or glob stands for.

    Args:
        pattern: What the user typed. Folders are searched to the bottom for files of known names.
        skip: A folder that is never searched, the output's.

    Returns:
        Pairs of a file and the name it should have in an output folder (relative to the folder searched);
        empty if nothing matches.
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
    """Whether a JSON file in a folder is meant: settings and results of other programs lie there, too."""
    try:
        text = path.read_bytes()
    except OSError:
        return True  # reading it will say why
    return b'"lattice"' in text or b'"sites"' in text


def read(path: str | Path) -> Iterator[Entry]:
    """Read the crystals of one file.

    The kind of a file is told by its name, else by its content where that leaves no doubt.

    Args:
        path: A file, or ``"-"`` for standard input: POSCAR, CIF, pymatgen JSON or extended XYZ.

    Yields:
        An entry for every crystal; an unreadable file gives one entry with the reason.
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
    except (EOFError, ValueError, zlib.error) as error:  # a broken .gz, or a name that cannot be one
        yield refused(0, f"the file cannot be unpacked: {error}.")
        return
    if text is not None and not text.strip():
        yield refused(0, "the file is empty." if source != "-" else "standard input is empty.")
        return
    if kind is None:
        kind = recognise(text or "")
    if kind is None:
        what = "its content is" if source == "-" else "its name and content tell"
        yield refused(0, f"{what} no known kind of file; expected {KNOWN}. Rename it or convert it.")
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
    """Format in which crystals of a file of some kind are written again."""
    return kind if kind in FORMATS else "extxyz"  # type: ignore[return-value]


class _End(InvalidCrystalError):
    """A reader failed; nothing follows."""


def _next(crystals: Iterator[Any], kind: str) -> Any:
    """The next crystal, the error that ended the file, or None at its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers' remarks on files are not the user's business
        try:
            return next(crystals, None)
        except InvalidCrystalError as error:
            return _End(str(error))
        except Exception as error:  # parsers raise whatever Python does on junk
            return _End(_blame(error, kind))


def _blame(error: Exception, kind: str) -> str:
    """What an error of a parser means to a user, with its type and words."""
    said = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))[:200].rstrip(".")
    cause = f"{type(error).__name__}: {said}" if said else type(error).__name__
    hint = "it ends early or is of another kind" if isinstance(error, _SPEECHLESS) else "its parser failed"
    return f"it cannot be read as {kind}: {hint} ({cause})."


def _text(source: str, kind: str | None) -> str | None:
    """Contents of a text file, unpacked; None for binary kinds, which are read in place."""
    if source == "-":
        stream = getattr(sys.stdin, "buffer", sys.stdin)  # tests give a stream of text
        data = stream.read()
        data = data.encode() if isinstance(data, str) else data
    elif kind in ("traj", "db"):
        with open(source, "rb") as handle:
            return None if handle.read(1) else ""
    else:
        data = Path(source).read_bytes()
    if source.endswith(".gz") or data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    return decode(data)


def _read_poscar(text: str) -> Iterator[Any]:
    yield read_poscar(text)


def _read_cif(text: str) -> Iterator[Any]:
    yield from read_cif(text)


def _read_traj(path: str) -> Iterator[Any]:
    """Frame by frame, so that a bad one does not take the others with it."""
    from ase.io.trajectory import Trajectory

    frames: Any = Trajectory(path)
    with frames:
        for k in range(len(frames)):
            try:
                yield frames[k]
            except Exception as error:  # ASE raises whatever Python does on junk
                yield InvalidCrystalError(_blame(error, "traj"))


def _read_db(path: str) -> Iterator[Any]:
    """Rows of an ASE database; their key-value pairs become info."""
    from ase.db import connect

    for row in connect(path, type="db").select():
        try:
            atoms = row.toatoms()
            atoms.info |= row.key_value_pairs
            yield atoms
        except Exception as error:  # ASE raises whatever Python does on junk
            yield InvalidCrystalError(_blame(error, "db"))


_READERS: dict[str, Callable[[str], Iterator[Any]]] = {
    "cif": _read_cif,
    "poscar": _read_poscar,
    "extxyz": read_extxyz,
    "json": read_json,
    "traj": _read_traj,
    "db": _read_db,
}
