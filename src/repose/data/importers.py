"""Pairs and paths from what people have: extended XYZ, CIF pairs, ASE databases, pymatgen JSON."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from repose.data.store import Frame, Pair
from repose.errors import DatasetError

# Per-frame entries of extended XYZ that are not tags of the crystal.
_FRAME_KEYS = {"id", "step", "n_steps", "energy", "stress", "free_energy"}


def import_extxyz(path: Path) -> Iterator[Pair]:
    """Relaxation paths from extended XYZ: frames that share ``id``, ordered by ``step``.

    The first frame is the input, the last the relaxed state; positions are taken as continuous along
    the path (not wrapped). Other entries of the comment line become tags.

    Args:
        path: ``.extxyz`` or ``.extxyz.gz``.

    Yields:
        One pair per id, in the order of appearance, with its path.

    Raises:
        DatasetError: The file cannot be read or frames lack ``id``.
    """
    from ase.io import iread

    frames: dict[str, list[Any]] = {}
    try:
        for index, atoms in enumerate(iread(_text(path), format="extxyz", index=":")):
            if "id" not in atoms.info:
                raise DatasetError(f"{path}, frame {index}: the comment line has no id=...; frames of one crystal share it.")
            frames.setdefault(str(atoms.info["id"]), []).append(atoms)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DatasetError(f"{path} cannot be read as extended XYZ: {error}") from None
    for name, steps in frames.items():
        steps.sort(key=lambda atoms: int(atoms.info.get("step", 0)))
        yield path_to_pair(name, steps)


def _text(path: Path) -> io.StringIO:
    """The whole file, decompressed: ASE seeks back and forth, which gzip does in quadratic time."""
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as handle:
        return io.StringIO(handle.read())


def path_to_pair(name: str, steps: list[Any]) -> Pair:
    """Make a pair of the ASE Atoms along one relaxation path, first to last.

    Args:
        name: Its id.
        steps: At least one `ase.Atoms`, atoms in one and the same order.

    Raises:
        DatasetError: The frames do not hold the same atoms.
    """
    first, last = steps[0], steps[-1]
    for atoms in steps:
        if not np.array_equal(atoms.numbers, first.numbers):
            raise DatasetError(f"'{name}': the frames of the path do not hold the same atoms in the same order.")
    return Pair(
        id=name,
        numbers=first.numbers.astype(np.int64),
        pbc=first.pbc,
        positions=first.positions,
        cell=first.cell.array,
        relaxed_positions=last.positions,
        relaxed_cell=last.cell.array,
        path=tuple(map(_frame, steps)) if len(steps) > 1 else (),
        tags={k: str(v) for k, v in first.info.items() if k not in _FRAME_KEYS},
    )


def _frame(atoms: Any) -> Frame:
    results = atoms.calc.results if atoms.calc is not None else {}
    stress = results.get("stress")
    if stress is not None and np.shape(stress) == (6,):
        from ase.stress import voigt_6_to_full_3x3_stress

        stress = voigt_6_to_full_3x3_stress(stress)
    return Frame(atoms.positions, atoms.cell.array, results.get("energy"), results.get("forces"), stress)
