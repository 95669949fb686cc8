"""Files of crystals: finding, reading and writing them.

Whatever stands in a file, reading yields a crystal or a reason; it never raises for what users wrote.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from repose.atomic import beside, publish, replacing_file
from repose.errors import ConfigError, InvalidCrystalError
from repose.io import convert
from repose.io.cif import read_cif, write_cif

Format = Literal["cif", "poscar", "extxyz", "json"]
FORMATS: tuple[Format, ...] = ("cif", "poscar", "extxyz", "json")
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
    """

    source: str
    index: int
    crystal: Any
    reason: str | None
    format: Format = "extxyz"
    many: bool = False


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
        return [(str(file), str(file.relative_to(path))) for file in found]
    if not path.exists() and glob.has_magic(pattern):
        matches = sorted(glob.glob(pattern, recursive=True))
        return [pair for match in matches for pair in find(match, skip)]
    return [(pattern, path.name)]


def read(path: str | Path) -> Iterator[Entry]:
    """Read the crystals of one file.

    Args:
        path: A file, or ``"-"``: extended XYZ on standard input.

    Yields:
        An entry for every crystal; an unreadable file gives one entry with the reason.
    """
    source = str(path)
    kind = "extxyz" if source == "-" else kind_of(source)
    form: Format = kind if kind in FORMATS else "extxyz"  # type: ignore[assignment]

    def refused(index: int, reason: str, many: bool = False) -> Entry:
        return Entry(source, index, None, reason, form, many)

    if Path(source).is_dir():
        yield refused(0, f"the folder holds no crystals; expected {KNOWN}.")
        return
    try:
        text = _text(source, kind)
    except OSError as error:
        yield refused(0, f"the file cannot be opened: {error.strerror or error}.")
        return
    except (EOFError, ValueError) as error:  # a broken .gz
        yield refused(0, f"the file cannot be unpacked: {error}.")
        return
    if text is not None and not text.strip():
        yield refused(0, "the file is empty.")
        return
    if kind is None:
        yield refused(0, f"its name tells no known kind of file; expected {KNOWN}. Rename it or convert it.")
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
            yield Entry(source, index, current, None, form, many)
        index += 1
    if index == 0:
        yield refused(0, "it holds no crystals.")


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
    """What an error of a parser means to a user."""
    said = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))[:200]
    if isinstance(error, _SPEECHLESS):
        said = f"it ends early or is of another kind ({type(error).__name__}: {said})"
    return f"it cannot be read as {kind}: {said.rstrip('.') or type(error).__name__}."


def _text(source: str, kind: str | None) -> str | None:
    """Contents of a text file, unpacked; None for binary kinds, which are read in place."""
    if source == "-":
        return sys.stdin.read()
    if kind in ("traj", "db"):
        with open(source, "rb") as handle:
            return None if handle.read(1) else ""
    data = Path(source).read_bytes()
    if source.endswith(".gz"):
        data = gzip.decompress(data)
    return data.decode("utf-8", "replace")


def _read_cif(text: str) -> Iterator[Any]:
    yield from read_cif(text)


def _read_poscar(text: str) -> Iterator[Any]:
    from ase.io.vasp import read_vasp

    names = text.splitlines()[5:6]
    if names and all(word.isdigit() for word in names[0].split()):
        raise InvalidCrystalError(
            "it has no line with element symbols (VASP 4); write one before the counts."
        )
    yield read_vasp(io.StringIO(text))


def _read_extxyz(text: str) -> Iterator[Any]:
    """Frame by frame, so that a bad one does not take the others with it."""
    from ase.io.extxyz import read_extxyz

    lines = text.splitlines(keepends=True)
    start = 0
    while start < len(lines):
        head = lines[start].strip()
        if not head:
            start += 1
            continue
        # ASE would try to skip as many lines as are promised, however many that are.
        end = start + 2 + (int(head) if head.isdecimal() and len(head) < 10 else len(lines))
        if end > len(lines):
            raise InvalidCrystalError(
                f"it cannot be read as extxyz: line {start + 1} should hold the number of atoms that follow, "
                f"and {len(lines) - start - 2} lines are left; got {head[:40]!r}."
            )
        try:
            yield from read_extxyz(io.StringIO("".join(lines[start:end])), index=slice(0, None))  # type: ignore[arg-type]
        except Exception as error:  # ASE raises whatever Python does on junk
            yield InvalidCrystalError(_blame(error, "extxyz"))
        start = end


def _read_ase(path: str) -> Iterator[Any]:
    from ase.io import iread

    yield from iread(path, index=":", format="traj" if path.lower().endswith(".traj") else "db")


def _read_json(text: str) -> Iterator[Any]:
    from pymatgen.core import Structure

    # Without "@module" nothing in the file can make pymatgen import and call other code.
    values = json.loads(text, object_hook=lambda d: {k: v for k, v in d.items() if k != "@module"})
    for value in values if isinstance(values, list) else [values]:
        entry = value.get("structure", value) if isinstance(value, dict) else None
        if not isinstance(entry, dict) or not {"lattice", "sites"} <= entry.keys():
            yield InvalidCrystalError(
                "it is no pymatgen Structure; expected an object with 'lattice' and 'sites', or a list."
            )
            continue
        try:
            yield Structure.from_dict(entry)
        except Exception as error:  # pymatgen raises whatever Python does on junk
            yield InvalidCrystalError(
                f"it is no complete pymatgen Structure ({type(error).__name__}: {error})."
            )


_READERS: dict[str, Callable[[str], Iterator[Any]]] = {
    "cif": _read_cif,
    "poscar": _read_poscar,
    "extxyz": _read_extxyz,
    "json": _read_json,
    "traj": _read_ase,
    "db": _read_ase,
}


def write(crystal: Any, path: str | Path, format: Format) -> None:
    """Write one crystal, atomically; folders are made.

    Args:
        crystal: `ase.Atoms` or a pymatgen Structure; order of sites and images of atoms are kept.
        path: Where; replaced if it is there.
        format: ``"cif"``, ``"poscar"``, ``"extxyz"`` or ``"json"``. CIF knows no orientation and no vacuum.

    Raises:
        ConfigError: The format is unknown.
    """
    target = Path(path)
    text = _rendered(crystal, format, target.stem)
    with replacing_file(target) as new:
        new.write_text(text, encoding="utf-8")


def _rendered(crystal: Any, format: Format, name: str) -> str:
    if format == "json":
        return json.dumps(_structure(crystal).as_dict(), default=_plain) + "\n"
    atoms = _atoms(crystal)
    if format == "cif":
        return write_cif(atoms.numbers, atoms.positions, atoms.cell.array, name)
    stream = io.StringIO()
    if format == "poscar":
        from ase.io.vasp import write_vasp

        write_vasp(stream, atoms, direct=True, vasp5=True)
    elif format == "extxyz":
        from ase.io.extxyz import write_extxyz

        write_extxyz(stream, [atoms])
    else:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}; got '{format}'.")
    return stream.getvalue()


class ExtxyzWriter:
    """Writes many crystals into one extended XYZ file, which appears when it is closed.

    Args:
        path: Where; replaced if it is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = beside(path)
        self._stream = self._temporary.open("w", encoding="utf-8")

    def append(self, crystal: Any) -> None:
        """Add one crystal."""
        self._stream.write(_rendered(crystal, "extxyz", ""))

    def close(self) -> None:
        """Put the file in its place."""
        self._stream.close()
        publish(self._temporary, self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._stream.close()
        self._temporary.unlink(missing_ok=True)


def _atoms(crystal: Any) -> Any:
    if convert.is_atoms(crystal):
        return crystal
    (atoms,) = convert.to_atoms(convert.to_batch(crystal))
    fixed = convert.fixed_coordinates(crystal)
    if fixed.any():
        from ase.constraints import FixScaled

        atoms.set_constraint([FixScaled(k, fixed[k]) for k in np.flatnonzero(fixed.any(axis=1))])
    return atoms


def _structure(crystal: Any) -> Any:
    from pymatgen.core import Lattice, Structure

    if convert.is_structure(crystal):
        return crystal
    fixed = convert.fixed_coordinates(crystal)
    a, b, c = map(bool, crystal.pbc)
    return Structure(
        Lattice(crystal.cell.array, pbc=(a, b, c)),
        crystal.get_chemical_symbols(),
        crystal.positions,
        coords_are_cartesian=True,
        site_properties={"selective_dynamics": (~fixed).tolist()} if fixed.any() else None,
    )


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, which json does not know."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
