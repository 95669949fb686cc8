"""Relaxation paths from extended XYZ."""

from __future__ import annotations

import gzip
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from repose.data.dataset import Pair
from repose.data.importers.trajectories import file_stem, trajectory_to_pair
from repose.data.pairing import Refusal, attempt, describe, path_to_pair
from repose.errors import DatasetError

# Per-frame entries of extended XYZ that are not tags of the crystal.
_FRAME_KEYS = {"id", "step", "n_steps", "energy", "stress", "free_energy", "split"}
# `id=...` in a comment line, bare or quoted, and not the end of another key such as `material_id`.
_ID = re.compile(r"""(?:^|\s)id=(?:"([^"]*)"|'([^']*)'|(\S+))""")
_SHARE = "frames of one crystal share id=... in their comment lines"


def import_extxyz(path: Path) -> Iterator[Pair | Refusal]:
    """Relaxation paths from extended XYZ: frames that share ``id``, ordered by ``step``.

    The first frame is the input, the last the relaxed state; positions are taken as continuous along
    the path: they are not wrapped, matched or rotated. Energy (eV), forces (eV/A) and stress (eV/A^3, sign
    as in ASE) of every frame are kept. ``split`` is the crystal's split; other entries of the first comment
    line become tags. Frames of one crystal need not stand together.

    A file in which no frame has an id, as ASE writes trajectories, is one path, called like the file; all
    its frames must hold the same atoms, and atoms that jump by a lattice vector are put back.

    Args:
        path: ``.extxyz`` or ``.extxyz.gz``.

    Yields:
        One pair per id, as its last frame is read, with its path; or why there is none.

    Raises:
        DatasetError: The file holds no frame.
    """
    # A first pass over the comment lines counts the frames of every crystal, so that the second, which
    # parses them, can let go of a crystal at once.
    missing = Counter(name for name, _ in _frames(path))
    if not missing:
        raise DatasetError(f"{path} holds no frame of extended XYZ.")
    if "" in missing and not missing.keys() - {"", None}:
        yield attempt(file_stem(path), _nameless_path, path)
        return
    waiting: dict[str, list[Any]] = {}
    for index, (name, text) in enumerate(_frames(path)):
        missing[name] -= 1
        if name is None:
            yield Refusal(path.name, f"{path}: {text}")
        elif not name:
            yield Refusal(path.name, f"{path}: frame {index} has no id=... in its comment line; {_SHARE}.")
        else:
            waiting.setdefault(name, []).append(_parse(text))
            if missing[name] == 0:
                yield attempt(name, _path, name, waiting.pop(name))


def _parse(text: str) -> Any:
    """The atoms of a frame, or why it cannot be read."""
    from ase.io.extxyz import read_xyz

    try:
        return next(read_xyz(io.StringIO(text), index=0)) if text else EOFError("it is cut off")
    except Exception as error:  # the parser raises anything; the crystal is refused in `_path`
        return error


def _nameless_path(path: Path) -> Pair:
    steps = []
    for name, text in _frames(path):
        if name is None:
            raise DatasetError(f"{path}: {text}")
        steps.append(_parse(text))
    try:
        return _path(file_stem(path), steps, make=trajectory_to_pair)
    except DatasetError as error:
        raise DatasetError(
            f"{error} No frame of the file has id=..., so it is read as one path; {_SHARE}."
        ) from None


def _path(name: str, steps: list[Any], make: Callable[..., Pair] = path_to_pair) -> Pair:
    for index, atoms in enumerate(steps):
        if isinstance(atoms, Exception):
            raise DatasetError(f"'{name}': its frame {index} cannot be read: {describe(atoms)}.")
    numbers = [int(atoms.info.get("step", index)) for index, atoms in enumerate(steps)]
    twice = [step for step, count in Counter(numbers).items() if count > 1]
    if twice:
        raise DatasetError(f"'{name}': step {twice[0]} appears twice; two crystals may share this id.")
    ordered = [steps[k] for k in sorted(range(len(steps)), key=numbers.__getitem__)]
    info, last = ordered[0].info, max(numbers)
    if int(ordered[-1].info.get("n_steps", last)) > last:
        raise DatasetError(
            f"'{name}': the path ends at step {last} of {info['n_steps']}; the relaxed state is missing."
        )
    tags = {key: str(value) for key, value in info.items() if key not in _FRAME_KEYS}
    return make(name, ordered, split=str(info.get("split", "")), tags=tags)


def _frames(path: Path) -> Iterator[tuple[str | None, str]]:
    """Id (empty where it has none) and text of every frame; where the file is broken, None and the fault.

    A frame that is cut off comes out empty, under its crystal's id or the one before, so that a path
    without its relaxed end is refused.
    """
    name, index = None, 0
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
            while line := handle.readline():
                if not line.strip():
                    continue
                if not line.strip().isdigit():
                    raise ValueError("it does not begin with a number of atoms")
                comment = handle.readline()
                found = _ID.search(comment)
                own = next(group for group in found.groups() if group is not None) if found else ""
                name = own or name
                atoms = [handle.readline() for _ in range(int(line))]
                if not all(atoms):
                    raise ValueError(f"{line.strip()} atoms are announced, but the file ends before")
                yield own, "".join([line, comment, *atoms])
                index += 1
    except (OSError, EOFError, ValueError) as error:
        if name is not None:
            yield name, ""
        reason = str(error) if type(error) is ValueError else describe(error)
        yield None, f"the file cannot be read from frame {index} on: {reason}."
