"""Import of relaxation paths from extended XYZ."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from repose.data.dataset import Pair
from repose.data.importers.trajectories import file_stem, trajectory_to_pair
from repose.data.pairing import Refusal, attempt, describe, path_to_pair
from repose.errors import DatasetError, ReposeError
from repose.io.extxyz import FrameText, parse_frame, split_frames

# Entries of a comment line that are not tags of the crystal.
_FRAME_KEYS = {"id", "step", "n_steps", "energy", "stress", "free_energy", "split"}
# `id=...` in a comment line, bare or quoted, and not the end of another key such as `material_id`.
_ID = re.compile(r"""(?:^|\s)id=(?:"([^"]*)"|'([^']*)'|(\S+))""")
_SHARED_ID = "frames of one crystal share id=... in their comment lines"


def import_extxyz(path: Path) -> Iterator[Pair | Refusal]:
    """Import relaxation paths: frames with the same ``id``, ordered by ``step``.

    The first frame is the input, the last the relaxed structure. Positions must be continuous along the path:
    they are not wrapped, matched or rotated. Energy (eV), forces (eV/A) and stress (eV/A^3, sign as in ASE)
    of every frame are kept. ``split`` is the split of the crystal; other entries of the first comment line
    become tags. Frames of one crystal need not be consecutive.

    If no frame has an id, as in files of ASE, the file is one path and its name the id. All frames must then
    hold the same atoms, and atoms that jump by a lattice vector are unwrapped.

    Args:
        path: ``.extxyz`` or ``.extxyz.gz``.

    Yields:
        One pair per id as soon as its last frame is read, or a refusal.

    Raises:
        DatasetError: The file holds no frame.
    """
    # The first pass counts the frames of every crystal. The second pass can then free each complete crystal.
    missing = Counter(name for name, _ in _frames(path))
    if not missing:
        raise DatasetError(f"{path} holds no frame of extended XYZ.")
    if "" in missing and not missing.keys() - {"", None}:
        yield attempt(file_stem(path), _path_without_id, path)
        return
    waiting: dict[str, list[Any]] = {}
    for index, (name, frame) in enumerate(_frames(path)):
        missing[name] -= 1
        if name is None:
            yield Refusal(path.name, f"{path}: {frame}")
        elif not name:
            yield Refusal(
                path.name, f"{path}: frame {index} has no id=... in its comment line; {_SHARED_ID}."
            )
        else:
            waiting.setdefault(name, []).append(_parse(frame))
            if missing[name] == 0:
                yield attempt(name, _path, name, waiting.pop(name))


def _parse(frame: FrameText | str) -> Any:
    """Return the atoms of a frame, or the error."""
    try:
        return DatasetError(frame) if isinstance(frame, str) else parse_frame(frame)[0]
    except Exception as error:  # any error of ASE and numpy; `_path` refuses the crystal
        return error


def _path_without_id(path: Path) -> Pair:
    steps = []
    for name, frame in _frames(path):
        if name is None:
            raise DatasetError(f"{path}: {frame}")
        steps.append(_parse(frame))
    try:
        return _path(file_stem(path), steps, make=trajectory_to_pair)
    except DatasetError as error:
        raise DatasetError(
            f"{error} No frame of the file has id=..., so it is read as one path; {_SHARED_ID}."
        ) from None


def _path(name: str, steps: list[Any], make: Callable[..., Pair] = path_to_pair) -> Pair:
    for index, atoms in enumerate(steps):
        if isinstance(atoms, Exception):
            reason = atoms if isinstance(atoms, ReposeError) else f"{describe(atoms)}."
            raise DatasetError(f"'{name}', frame {index}: {reason}")
    numbers = [int(atoms.info.get("step", index)) for index, atoms in enumerate(steps)]
    repeated = [step for step, count in Counter(numbers).items() if count > 1]
    if repeated:
        raise DatasetError(f"'{name}': step {repeated[0]} appears twice; two crystals may share this id.")
    ordered = [steps[k] for k in sorted(range(len(steps)), key=numbers.__getitem__)]
    info, last = ordered[0].info, max(numbers)
    expected = int(ordered[-1].info.get("n_steps", last))
    if expected > last:
        raise DatasetError(
            f"'{name}': the path ends at step {last} of {expected}; the relaxed structure is missing."
        )
    tags = {key: str(value) for key, value in info.items() if key not in _FRAME_KEYS}
    return make(name, ordered, split=str(info.get("split", "")), tags=tags)


def _frames(path: Path) -> Iterator[tuple[str | None, FrameText | str]]:
    """Yield id (empty if there is none) and text of every frame, up to the first invalid one.

    For an invalid frame, yield first its id (or the id of the frame before) with a reason, so that a path
    without its relaxed end is refused; then None with the error of the file.
    """
    name, index = None, 0
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
            for frame in split_frames(line.removesuffix("\n") for line in handle):
                found = _ID.search(frame.comment)
                own = next(group for group in found.groups() if group is not None) if found else ""
                name = own or name
                if frame.fault:
                    raise DatasetError(frame.fault)
                yield own, frame
                index += 1
    except (OSError, EOFError, ValueError, DatasetError) as error:
        if name is not None:
            yield name, "the file is invalid or cut off here."
        reason = error if isinstance(error, DatasetError) else f"{describe(error)}."
        yield None, f"the file cannot be read from frame {index} on: {reason}"
