"""Pairs and paths from what people have: extended XYZ, CIF pairs, ASE databases, pymatgen JSON.

Every importer is a generator of `Pair` and `Refusal`, in the order of the source: it holds few crystals
in memory (JSON files, which must be parsed whole, excepted), and a broken crystal never costs the others.
"""

from __future__ import annotations

import gzip
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repose.data.cif_pairs import holds_cifs, import_cif_pairs
from repose.data.databases import import_ase_db, import_pymatgen_json
from repose.data.pairing import Refusal, attempt, describe, path_to_pair
from repose.data.splits import BY_SOURCE
from repose.data.store import Pair
from repose.errors import DatasetError, ReposeError

FORMATS = ("extxyz", "cif-pairs", "ase-db", "pymatgen-json")
# Per-frame entries of extended XYZ that are not tags of the crystal.
_FRAME_KEYS = {"id", "step", "n_steps", "energy", "stress", "free_energy", "split"}
# `id=...` in a comment line, bare or quoted, and not the end of another key such as `material_id`.
_ID = re.compile(r"""(?:^|\s)id=(?:"([^"]*)"|'([^']*)'|(\S+))""")


@dataclass(frozen=True)
class Source:
    """A file or folder to import.

    Attributes:
        path: Where it is.
        format: One of `FORMATS`.
    """

    path: Path
    format: str


def find_sources(paths: Iterable[Path], kind: str = "auto") -> list[Source]:
    """Decide what every path is; a folder without CIFs stands for the files in it.

    Args:
        paths: Files and folders.
        kind: One of `FORMATS`, or ``"auto"``: by name and content.

    Raises:
        DatasetError: The format is unknown, or a path is missing or of no known kind.
    """
    if kind not in ("auto", *FORMATS):
        raise DatasetError(f"format must be auto or one of {', '.join(FORMATS)}; got '{kind}'.")
    sources = []
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path} does not exist.")
        if path.is_dir() and kind in ("auto", "extxyz") and not holds_cifs(path):
            inside = [file for file in sorted(path.iterdir()) if file.is_file() and detect(file)]
            if not inside:
                raise DatasetError(f"{path} holds nothing to import: no CIF pairs, .extxyz, .db or .json.")
            sources += [Source(file, kind if kind != "auto" else str(detect(file))) for file in inside]
            continue
        found = detect(path) if kind == "auto" else kind
        if found is None:
            raise DatasetError(
                f"{path}: the format cannot be told from its name; say --format {'|'.join(FORMATS)}."
            )
        sources.append(Source(path, found))
    return sources


def detect(path: Path) -> str | None:
    """Format of a file or folder, or None where it cannot be told."""
    if path.is_dir():
        return "cif-pairs" if holds_cifs(path) else None
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".extxyz", ".xyz")):
        return "extxyz"
    if name.endswith(".db"):
        return "ase-db"
    if name.endswith(".jsonl"):
        return "pymatgen-json"
    if name.endswith(".json") and name != "dataset.json":
        return "ase-db" if _is_ase_json(path) else "pymatgen-json"
    return None


def _is_ase_json(path: Path) -> bool:
    """ASE ends its JSON databases with the next row number."""
    if path.suffix == ".gz":
        return False
    with path.open("rb") as handle:
        handle.seek(0, io.SEEK_END)
        handle.seek(max(0, handle.tell() - 200))
        return b'"nextid"' in handle.read()


def import_sources(
    sources: Iterable[Source], *, align: bool = True, assign: Callable[[Pair], str] | None = None
) -> Iterator[Pair | Refusal]:
    """Read all sources in turn, with ids unique over all of them.

    Args:
        sources: See `find_sources`.
        align: Remove a rigid rotation of relaxed crystals; see `repose.data.pairing.states_to_pair`.
        assign: Gives a crystal its split; see `repose.data.splits`. None keeps the source's.

    Yields:
        Pairs with a split, and refusals.
    """
    seen: dict[str, Path] = {}
    for source in sources:
        for item in import_source(source, align=align):
            if isinstance(item, Refusal):
                yield item
            elif item.id in seen:
                yield Refusal(item.id, f"{source.path}: this id was already imported from {seen[item.id]}.")
            else:
                yield (given := _assigned(item, assign))
                if isinstance(given, Pair):
                    seen[item.id] = source.path


def _assigned(pair: Pair, assign: Callable[[Pair], str] | None) -> Pair | Refusal:
    if assign is not None:
        return attempt(pair.id, lambda: replace(pair, split=assign(pair)))
    if pair.split:
        return pair
    return Refusal(
        pair.id, f"the source names no split for it; split by chemical-system or a tag, not '{BY_SOURCE}'."
    )


def import_source(source: Source, *, align: bool = True) -> Iterator[Pair | Refusal]:
    """Read one source.

    Yields:
        Pairs, with the source's split or an empty one, and refusals.
    """
    try:
        if source.format == "extxyz":
            yield from import_extxyz(source.path)
        elif source.format == "cif-pairs":
            yield from import_cif_pairs(source.path, align=align)
        elif source.format == "ase-db":
            yield from import_ase_db(source.path, align=align)
        else:
            yield from import_pymatgen_json(source.path, align=align)
    except ReposeError as error:
        yield Refusal(source.path.name, str(error))


def import_extxyz(path: Path) -> Iterator[Pair | Refusal]:
    """Relaxation paths from extended XYZ: frames that share ``id``, ordered by ``step``.

    The first frame is the input, the last the relaxed state; positions are taken as continuous along
    the path: they are not wrapped, matched or rotated. Energy (eV), forces (eV/A) and stress (eV/A^3, sign
    as in ASE) of every frame are kept. ``split`` is the crystal's split; other entries of the first comment
    line become tags. Frames of one crystal need not stand together.

    Args:
        path: ``.extxyz`` or ``.extxyz.gz``.

    Yields:
        One pair per id, as its last frame is read, with its path; or why there is none.

    Raises:
        DatasetError: The file holds no frame.
    """
    from ase.io.extxyz import read_xyz

    # A first pass over the comment lines counts the frames of every crystal, so that the second, which
    # parses them, can let go of a crystal at once.
    missing = Counter(name for name, _ in _frames(path))
    if not missing:
        raise DatasetError(f"{path} holds no frame of extended XYZ.")
    waiting: dict[str, list[Any]] = {}
    for name, text in _frames(path):
        missing[name] -= 1
        if name is None:
            yield Refusal(path.name, f"{path}: {text}")
            continue
        steps = waiting.setdefault(name, [])
        try:
            steps.append(next(read_xyz(io.StringIO(text), index=0)) if text else EOFError("it is cut off"))
        except Exception as error:  # the parser raises anything; the crystal is refused below
            steps.append(error)
        if missing[name] == 0:
            yield attempt(name, _path, name, steps)
            del waiting[name]


def _path(name: str, steps: list[Any]) -> Pair:
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
    return path_to_pair(name, ordered, split=str(info.get("split", "")), tags=tags)


def _frames(path: Path) -> Iterator[tuple[str | None, str]]:
    """Id and text of every frame; where the file is broken, None and what is wrong with it.

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
                name = next(group for group in found.groups() if group is not None) if found else name
                atoms = [handle.readline() for _ in range(int(line))]
                if not all(atoms):
                    raise ValueError(f"{line.strip()} atoms are announced, but the file ends before")
                if found:
                    yield str(name), "".join([line, comment, *atoms])
                else:
                    yield (
                        None,
                        f"frame {index} has no id=... in its comment line; frames of one crystal share it.",
                    )
                index += 1
    except (OSError, EOFError, ValueError) as error:
        if name is not None:
            yield name, ""
        reason = str(error) if type(error) is ValueError else describe(error)
        yield None, f"the file cannot be read from frame {index} on: {reason}."
