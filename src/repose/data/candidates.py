"""Candidate crystals on disk: unrelaxed, waiting to be labelled by a calculator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field

from repose.atomic_write import replacing_directory
from repose.config import Settings
from repose.data.pairing import Refusal, check_crystal
from repose.errors import DatasetError, InvalidCrystalError

if TYPE_CHECKING:
    from ase import Atoms

FORMAT_VERSION = 1
INFO = "candidates.json"
CRYSTALS = "candidates.extxyz"
# Entries of a comment line that can be tags.
PLAIN = (str, int, float, bool, np.integer, np.floating, np.bool_)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An unrelaxed crystal of n atoms.

    Attributes:
        id: Unique name.
        numbers: Atomic numbers, ``(n,)`` int64.
        pbc: Periodic directions, ``(3,)`` bool.
        positions: A, ``(n, 3)``.
        cell: Lattice vectors as rows, A, ``(3, 3)``.
        tags: Free columns: prototype, how it was made, ...
    """

    id: str
    numbers: np.ndarray
    pbc: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_atoms(cls, name: str, atoms: Atoms, tags: dict[str, str] | None = None) -> Self:
        """Take a crystal over from ASE.

        Raises:
            InvalidCrystalError: It is none: no cell, two atoms on top of each other, not finite, ...
        """
        check_crystal(atoms, "candidate")
        return cls(
            id=name,
            numbers=atoms.numbers.astype(np.int64),
            pbc=np.array(atoms.pbc),
            positions=atoms.positions.copy(),
            cell=atoms.cell.array.copy(),
            tags=dict(tags or {}),
        )

    def to_atoms(self) -> Atoms:
        """The crystal for ASE."""
        from ase import Atoms

        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)


class CandidatesInfo(Settings):
    """Contents of ``candidates.json``."""

    format_version: Literal[1] = FORMAT_VERSION
    preset: str = Field(default="", description="what made them")
    seed: int = Field(default=0, description="source of all randomness")
    settings: dict[str, str | int | float | bool | list[str] | None] = Field(
        default_factory=dict, description="what else was asked for"
    )
    source: str = Field(default="", description="structures or datasets they were made from")
    licence: str = Field(default="", description="under which they may be used")
    count: int = Field(default=0, description="how many there are")


def write_candidates(
    directory: Path, info: CandidatesInfo, candidates: Iterable[Candidate]
) -> CandidatesInfo:
    """Write candidates, atomically, as extended XYZ beside a description.

    Args:
        directory: Where; must not exist yet, be empty, or hold candidates (which are then replaced).
        info: Description; ``count`` is filled in here.
        candidates: Consumed once.

    Returns:
        The description as it was written.

    Raises:
        DatasetError: The directory holds something else, two candidates share an id, or there are none.
    """
    from ase.io.extxyz import write_xyz

    check_directory(directory)
    seen: set[str] = set()
    with replacing_directory(directory) as new:
        with (new / CRYSTALS).open("w", encoding="utf-8") as handle:
            for candidate in candidates:
                if candidate.id in seen:
                    raise DatasetError(f"two candidates are called '{candidate.id}'; ids must be unique.")
                seen.add(candidate.id)
                atoms = candidate.to_atoms()
                atoms.info = {"id": candidate.id, **candidate.tags}
                write_xyz(handle, [atoms], columns=["symbols", "positions"])
        if not seen:
            raise DatasetError("no candidate was made; see what was asked for.")
        info = info.model_copy(update={"count": len(seen)})
        (new / INFO).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info


def check_directory(directory: Path) -> None:
    """Make sure that candidates may be written here.

    Raises:
        DatasetError: Something stands there that is neither candidates nor an empty directory.
    """
    if not directory.exists() or (directory / INFO).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise DatasetError(f"{directory} exists and holds no candidates; choose another --out.")


def read_info(path: Path) -> CandidatesInfo | None:
    """Description of a directory of candidates; None where there is none, as for a user's own files."""
    file = path / INFO
    return CandidatesInfo.load(file, FORMAT_VERSION, DatasetError) if file.is_file() else None


def read_candidates(path: Path) -> Iterator[Candidate | Refusal]:
    """Candidates from a directory of `write_candidates`, or from any files that `repose relax` reads.

    Ids are the entry ``id`` of extended XYZ, or else made of the file's name and the frame; the other
    entries become tags.

    Args:
        path: A directory or a file.

    Yields:
        Candidates in the order of the files, and refusals: a broken crystal costs no other.

    Raises:
        DatasetError: There is nothing to read.
    """
    from repose.io.convert import to_atoms, to_batch
    from repose.io.files import find, read

    files = find(str(path / CRYSTALS if (path / INFO).is_file() else path))
    if not files:
        raise DatasetError(f"{path} holds no crystals and no candidates.")
    seen: set[str] = set()
    for file, shown in files:
        for entry in read(file):
            name = f"{shown}#{entry.index}" if entry.many else shown
            if entry.reason is not None:
                yield Refusal(name, entry.reason)
                continue
            info = dict(getattr(entry.crystal, "info", {}))
            name = str(info.pop("id", name))
            try:
                (atoms,) = to_atoms(to_batch(entry.crystal))
                if name in seen:
                    raise InvalidCrystalError(f"'{name}' was already read; ids must be unique.")
                plain = {k: str(v) for k, v in info.items() if isinstance(v, PLAIN)}
                candidate = Candidate.from_atoms(name, atoms, plain)
            except InvalidCrystalError as error:
                yield Refusal(name, str(error))
                continue
            seen.add(name)
            yield candidate
