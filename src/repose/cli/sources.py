"""The inputs of `repose relax`: files, the names of their outputs, and how many crystals they hold."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

STDIN = ("-", "stdin")


def find_sources(patterns: Iterable[str], skip: Path) -> list[tuple[str, str]]:
    """Files that the arguments of the command line stand for.

    A folder or a glob keeps its tree: below the folder, or below the part of the glob without wildcards.
    Files that would share a name keep the tree below their common parent.

    Args:
        patterns: Files, folders and globs; ``-`` is standard input.
        skip: Folder that is never searched, the output's.

    Returns:
        Pairs of a file and its name relative to the output folder, each file once. What matches nothing
        stands for itself, so that reading it gives the reason.
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
    """Number of crystals in a file for a progress bar, counted without parsing; 1 where it is not known.

    Args:
        source: Path of a file; standard input and files that cannot be read count as one.
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
    except Exception:  # a broken file, which reading will explain
        return 1


def _count_frames(source: str) -> int:
    """Frames of an extended XYZ file, by the numbers of atoms that head them."""
    count = 0
    with open(source, "rb") as stream:
        for head in stream:
            if head.strip():
                count += 1
                atoms = int(head)
                next(islice(stream, atoms, atoms + 1), None)  # the comment line and all atoms but the last
    return count
