"""Inputs of `repose relax`: files, the names of their outputs, and their numbers of crystals."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

STDIN = ("-", "stdin")


def find_inputs(patterns: Iterable[str], skip: Path) -> list[tuple[str, str]]:
    """Return the files that match the arguments of the command line.

    The names of outputs keep the folders below a given folder, or below the part of a glob without
    wildcards. Files that would share a name keep the folders below their common parent.

    Args:
        patterns: Files, folders and globs; ``-`` is standard input.
        skip: The output folder, which is not searched.

    Returns:
        Pairs of a file and its name relative to the output folder, each file once. A pattern without a
        match is returned itself; reading it gives an error with the reason.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        for source, name in _matches(pattern, skip):
            found.setdefault(source, name)
    sharing: dict[str, list[str]] = defaultdict(list)
    for source, name in found.items():
        sharing[name].append(source)
    for sources in sharing.values():
        if len(sources) > 1:
            absolute = [os.path.abspath(source) for source in sources]
            parent = os.path.commonpath([os.path.dirname(path) for path in absolute])
            found |= {s: os.path.relpath(p, parent) for s, p in zip(sources, absolute, strict=True)}
    return list(found.items())


def _matches(pattern: str, skip: Path) -> list[tuple[str, str]]:
    from repose.io.files import find

    if pattern == "-":
        return [STDIN]
    path = Path(pattern)
    if path.exists() or not glob.has_magic(pattern):
        return find(pattern, skip) or [(pattern, path.name)]
    fixed = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    root = Path(*fixed)
    pairs = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        below = Path(os.path.relpath(match, root))
        nested = Path(match).is_dir()
        pairs += [(s, str(below / n) if nested else str(below)) for s, n in find(match, skip)]
    return pairs or [(pattern, path.name)]


def count_crystals(source: str) -> int:
    """Count the crystals in a file without parsing it, for a progress bar.

    Args:
        source: Path of a file; standard input and unreadable files count as one crystal.
    """
    from repose.io.files import kind_of

    kind = kind_of(source)
    if source == "-" or source.endswith(".gz") or kind not in ("extxyz", "cif", "traj", "db"):
        return 1
    try:
        if kind == "extxyz":
            return max(1, _count_frames(source))
        if kind == "cif":
            return max(1, len(re.findall(rb"(?im)^data_", Path(source).read_bytes())))
        if kind == "traj":
            from ase.io.trajectory import Trajectory

            with Trajectory(source) as frames:
                return len(frames)
        from ase.db import connect

        return connect(source).count()
    except Exception:  # reading it will give the reason
        return 1


def _count_frames(source: str) -> int:
    """Count the frames of an extended XYZ file by their numbers of atoms."""
    count = 0
    with open(source, "rb") as stream:
        for head in stream:
            if head.strip():
                count += 1
                atoms = int(head)
                next(islice(stream, atoms, atoms + 1), None)  # skip the comment line and the atoms
    return count
