"""Candidates on disk: unrelaxed crystals to be labelled by a calculator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field

from repose.atomic_write import replacing_directory
from repose.config import Settings
from repose.data.dataset import check_target, write_info
from repose.data.pairing import Refusal, check_crystal
from repose.errors import DatasetError, InvalidCrystalError

if TYPE_CHECKING:
    from ase import Atoms

FORMAT_VERSION = 1
INFO = "candidates.json"
CRYSTALS = "candidates.extxyz"
# Types of entries of a comment line that become tags.
TAG_TYPES = (str, int, float, bool, np.integer, np.floating, np.bool_)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An unrelaxed crystal of n atoms.

    Attributes:
        id: Unique name.
        numbers: Atomic numbers, ``(n,)`` int64.
        pbc: Periodic directions, ``(3,)`` bool.
        positions: A, ``(n, 3)``.
        cell: Lattice vectors as rows, A, ``(3, 3)``.
        tags: Free columns, such as the prototype.
    """

    id: str
    numbers: np.ndarray
    pbc: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_atoms(cls, name: str, atoms: Atoms, tags: dict[str, str] | None = None) -> Self:
        """Convert a crystal of ASE.

        Raises:
            InvalidCrystalError: See `check_crystal`.
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
        """Convert to ASE."""
        from ase import Atoms

        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)


class CandidatesInfo(Settings):
    """Contents of ``candidates.json``."""

    format_version: Literal[1] = FORMAT_VERSION
    preset: str = Field(default="", description="generator of the candidates")
    seed: int = Field(default=0, description="seed of random numbers")
    settings: dict[str, str | int | float | bool | list[str] | None] = Field(
        default_factory=dict, description="further options"
    )
    source: str = Field(default="", description="original structures or datasets")
    licence: str = Field(default="", description="licence of the data")
    count: int = Field(default=0, description="number of candidates")


def write_candidates(
    directory: Path, info: CandidatesInfo, candidates: Iterable[Candidate]
) -> CandidatesInfo:
    """Write candidates as extended XYZ, atomically; return the description that was written.

    Args:
        directory: A new or empty directory, or candidates to replace.
        info: Description; ``count`` is filled in.
        candidates: Candidates; iterated once.

    Raises:
        DatasetError: The directory has other contents, two candidates share an id, or there are none.
    """
    from ase.io.extxyz import write_xyz

    check_directory(directory)
    seen: set[str] = set()
    with replacing_directory(directory) as new:
        with (new / CRYSTALS).open("w", encoding="utf-8") as handle:
            for candidate in candidates:
                if candidate.id in seen:
                    raise DatasetError(f"two candidates have the id '{candidate.id}'; ids must be unique.")
                seen.add(candidate.id)
                atoms = candidate.to_atoms()
                atoms.info = {"id": candidate.id, **candidate.tags}
                write_xyz(handle, [atoms], columns=["symbols", "positions"])
        if not seen:
            raise DatasetError("no candidate was generated; change the options.")
        info = info.model_copy(update={"count": len(seen)})
        write_info(info, new / INFO)
    return info


def check_directory(directory: Path) -> None:
    """Check that candidates may be written to a directory; see `write_candidates`."""
    check_target(directory, INFO, "a directory of candidates")


def read_info(path: Path) -> CandidatesInfo | None:
    """Return the description of candidates; None for other files."""
    file = path / INFO
    return CandidatesInfo.load(file, FORMAT_VERSION, DatasetError) if file.is_file() else None


def read_candidates(path: Path) -> Iterator[Candidate | Refusal]:
    """Read candidates from a directory of `write_candidates`, or from any files that `repose relax` reads.

    Ids are the entries ``id`` of extended XYZ, or file name and frame; other entries become tags.

    Args:
        path: A directory or a file.

    Yields:
        Candidates in the order of the files; refusals in place of invalid crystals.

    Raises:
        DatasetError: There are no crystals.
    """
    from repose.io.convert import to_atoms, to_batch
    from repose.io.files import find, read

    files = find(str(path / CRYSTALS if (path / INFO).is_file() else path))
    if not files:
        raise DatasetError(f"{path} holds no crystals; give a directory of candidates, or files of crystals.")
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
                tags = {k: str(v) for k, v in info.items() if isinstance(v, TAG_TYPES)}
                candidate = Candidate.from_atoms(name, atoms, tags)
            except InvalidCrystalError as error:
                yield Refusal(name, str(error))
                continue
            seen.add(name)
            yield candidate
