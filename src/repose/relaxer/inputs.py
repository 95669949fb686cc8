"""What users hand over: structures, files, or lists of both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from repose.io import convert


class Input(NamedTuple):
    """One crystal, or why there is none.

    Attributes:
        structure: As given, or as read; the path where nothing could be read.
        reason: Why nothing could be read, else None.
        source: The file that it was read from, with the number of the frame where there are several.
        remarks: What reading has to say.
    """

    structure: Any
    reason: str | None = None
    source: str | None = None
    remarks: tuple[str, ...] = ()


def is_crystal(value: object) -> bool:
    """Whether this is an `ase.Atoms` or a pymatgen Structure."""
    return convert.is_atoms(value) or convert.is_structure(value)


def is_path(value: object) -> bool:
    """Whether this names files: a string or a path object."""
    return isinstance(value, str | os.PathLike)


def is_single(value: object) -> bool:
    """Whether this is one thing to relax, not a list of such.

    A molecule of pymatgen and a dictionary can be iterated over, but hold no crystals.
    """
    sites = getattr(sys.modules.get("pymatgen.core.structure"), "SiteCollection", ())
    single = convert.is_atoms(value) or isinstance(value, sites) or is_path(value)
    return single or isinstance(value, Mapping) or not isinstance(value, Iterable)


def expand(given: Any) -> list[Input]:
    """List what is to be relaxed, in order; files contribute all of their crystals.

    Args:
        given: A structure, a path (of a file, a folder or a glob), or any iterable of these.
    """
    values = [given] if is_single(given) else given
    return [one for value in values for one in (_from_path(value) if is_path(value) else [Input(value)])]


def _from_path(path: str | os.PathLike[str]) -> list[Input]:
    from repose.io.files import find, read

    name = os.fspath(path)
    found = []
    for file in [source for source, _ in find(name)] or [name]:
        for entry in read(file):
            source = f"{entry.source}[{entry.index}]" if entry.many else entry.source
            crystal = file if entry.crystal is None else entry.crystal
            found.append(Input(crystal, entry.reason, source, tuple(entry.remarks)))
    return found
