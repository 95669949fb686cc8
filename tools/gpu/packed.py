"""Crystals as compact arrays: relaxed positions in float32, displacements of inputs and frames in float16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from repose.crystal.frame import Frame
from repose.data.frames import evenly_spaced
from repose.data.rows import Pair


def pack(pairs: Sequence[Pair], frames: int) -> dict[str, np.ndarray]:
    """Pack crystals with at most ``frames`` intermediate frames of each path.

    Displacements are fractional, from the relaxed crystal: symmetric positions stay symmetric, and small
    displacements keep their relative precision. An input that equals the relaxed crystal takes no space.
    """
    offsets, cells, counts = list[np.ndarray](), list[np.ndarray](), list[int]()
    for pair in pairs:
        relaxed = pair.relaxed_positions @ np.linalg.inv(pair.relaxed_cell)
        inner = evenly_spaced(pair.path, frames + 2)[1:-1] if frames else ()
        known = [(pair.positions, pair.cell), *((frame.positions, frame.cell) for frame in inner)]
        same = np.array_equal(pair.positions, pair.relaxed_positions)
        if len(known) == 1 and same and np.array_equal(pair.cell, pair.relaxed_cell):
            known = []
        counts.append(len(known))
        offsets += [positions @ np.linalg.inv(cell) - relaxed for positions, cell in known]
        cells += [cell for _, cell in known]
    return {
        "atoms": np.array([len(pair.numbers) for pair in pairs], dtype=np.uint16),
        "geometries": np.array(counts, dtype=np.uint8),
        "numbers": np.concatenate([pair.numbers for pair in pairs]).astype(np.uint8),
        "pbc": np.array([pair.pbc for pair in pairs], dtype=bool),
        "relaxed": np.concatenate([pair.relaxed_positions for pair in pairs]).astype(np.float32),
        "relaxed_cells": np.array([pair.relaxed_cell for pair in pairs], dtype=np.float32),
        "offsets": np.concatenate([np.zeros((0, 3)), *offsets]).astype(np.float16),
        "cells": np.array(cells, dtype=np.float32).reshape(-1, 3, 3),
    }


def unpack(arrays: Mapping[str, np.ndarray]) -> list[Pair]:
    """Return the crystals of `pack`, in order; ids are their places."""
    a = {k: array.astype(float) if array.dtype.kind == "f" else array for k, array in arrays.items()}
    pairs, atom, row, geometry = list[Pair](), 0, 0, 0
    for k, (n, count) in enumerate(zip(a["atoms"].tolist(), a["geometries"].tolist(), strict=True)):
        positions, cell = a["relaxed"][atom : atom + n], a["relaxed_cells"][k]
        fractional = positions @ np.linalg.inv(cell)
        known = [
            Frame((fractional + a["offsets"][row + i * n : row + (i + 1) * n]) @ own, own)
            for i, own in enumerate(a["cells"][geometry : geometry + count])
        ]
        relaxed = Frame(positions, cell)
        first = known[0] if known else relaxed
        pairs.append(
            Pair(
                id=str(k),
                numbers=a["numbers"][atom : atom + n].astype(np.int64),
                pbc=a["pbc"][k],
                positions=first.positions,
                cell=first.cell,
                relaxed_positions=positions,
                relaxed_cell=cell,
                path=(*known, relaxed) if count > 1 else (),
            )
        )
        atom, row, geometry = atom + n, row + n * count, geometry + count
    return pairs


def read(path: Path, repeats: Sequence[int] | None = None) -> tuple[list[Pair], np.ndarray, np.ndarray]:
    """Return the crystals of a staged split, their numbers of edges, and the indices of their datasets.

    With ``repeats`` the crystals of each dataset are given so many times.
    """
    with np.load(path) as arrays:
        pairs = unpack(arrays)
        edges, source = arrays["edges"].astype(int), arrays["source"].astype(int)
    if repeats is None:
        return pairs, edges, source
    rows = np.repeat(np.arange(len(pairs)), np.array(repeats)[source])
    return [pairs[row] for row in rows], edges[rows], source[rows]
