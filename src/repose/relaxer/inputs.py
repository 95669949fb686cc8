"""Inputs of a relaxation: structures, files, or lists of both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from repose.io import convert


class Input(NamedTuple):
    """One crystal, or the reason why it could not be read.

    Attributes:
        structure: The structure; the path if nothing could be read.
        reason: Why nothing could be read, or None.
        source: File that it was read from, with the frame number if the file has several frames.
        remarks: Messages of the reader for the user.
    """

    structure: Any
    reason: str | None = None
    source: str | None = None
    remarks: tuple[str, ...] = ()


def is_crystal(value: object) -> bool:
    """Return whether a value is an `ase.Atoms` or a pymatgen Structure."""
    return convert.is_atoms(value) or convert.is_structure(value)


def is_path(value: object) -> bool:
    """Return whether a value is a string or a path object."""
    return isinstance(value, str | os.PathLike)


def is_single(value: object) -> bool:
    """Return whether a value is a single input and not a list of inputs.

    Pymatgen molecules and dictionaries are iterable, but single inputs.
    """
    sites = getattr(sys.modules.get("pymatgen.core.structure"), "SiteCollection", ())
    single = convert.is_atoms(value) or isinstance(value, sites) or is_path(value)
    return single or isinstance(value, Mapping) or not isinstance(value, Iterable)


def expand(given: Any) -> list[Input]:
    """List the inputs in order; a file contributes all of its crystals.

    Args:
        given: A structure, a path (of a file, a folder or a glob), or any iterable of these.
    """
    values = [given] if is_single(given) else given
    return [one for value in values for one in (_read(value) if is_path(value) else [Input(value)])]


def _read(path: str | os.PathLike[str]) -> list[Input]:
    from repose.io.files import find, read

    name = os.fspath(path)
    found = []
    for file in [source for source, _ in find(name)] or [name]:
        for entry in read(file):
            source = f"{entry.source}[{entry.index}]" if entry.many else entry.source
            crystal = file if entry.crystal is None else entry.crystal
            found.append(Input(crystal, entry.reason, source, tuple(entry.remarks)))
    return found
