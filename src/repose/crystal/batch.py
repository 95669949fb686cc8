"""Batches of crystals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from repose.errors import InvalidCrystalError, ShapeError


@dataclass(frozen=True, eq=False)
class CrystalBatch:
    """Crystals concatenated into one set of tensors; immutable, checked at construction.

    N atoms in all, S crystals. Atoms are grouped by crystal, in the order of the source.

    Attributes:
        numbers: Atomic numbers, ``(N,)`` int64, 1 to 118.
        positions: Cartesian positions in A, ``(N, 3)`` float; not wrapped into the cell.
        cells: Lattice vectors as ROWS in A, ``(S, 3, 3)`` float: ``cartesian = fractional @ cell``.
        system_index: Index of the crystal of every atom, ``(N,)`` int64, ascending, every crystal present:
            two crystals of 1 and 2 atoms are ``[0, 1, 1]``.
        pbc: Periodic directions, ``(S, 3)`` bool; a sheet with vacuum along c is ``[True, True, False]``.
        charges: Charges of atoms, ``(N,)`` float, or None where they are unknown.

    Raises:
        ShapeError: A tensor has the wrong shape or type.
        InvalidCrystalError: A value is not finite, a cell has no volume, a crystal has no atoms.
    """

    numbers: Tensor
    positions: Tensor
    cells: Tensor
    system_index: Tensor
    pbc: Tensor
    charges: Tensor | None = None

    def __post_init__(self) -> None:
        n, s = len(self.numbers), len(self.cells)
        for name, shape, kind in (
            ("numbers", (n,), torch.int64),
            ("positions", (n, 3), None),
            ("cells", (s, 3, 3), None),
            ("system_index", (n,), torch.int64),
            ("pbc", (s, 3), torch.bool),
            *((("charges", (n,), self.positions.dtype),) if self.charges is not None else ()),
        ):
            value: Tensor = getattr(self, name)
            if tuple(value.shape) != shape:
                hint = " For one crystal pass cell[None]." if name == "cells" and value.ndim == 2 else ""
                raise ShapeError(f"{name} must be {shape}; got {tuple(value.shape)}.{hint}")
            if kind is None and not value.is_floating_point():
                raise ShapeError(f"{name} must be a floating-point tensor; got {value.dtype}.")
            if kind is not None and value.dtype != kind:
                raise ShapeError(f"{name} must be {kind}; got {value.dtype}.")
        if self.positions.dtype != self.cells.dtype:
            raise ShapeError(
                f"positions are {self.positions.dtype} but cells {self.cells.dtype}; make them equal."
            )
        if s == 0:
            raise ShapeError("a batch needs at least one crystal; got none.")
        # In numpy, where an operation on a few numbers takes a tenth of its time in torch.
        numbers, index = (tensor.detach().cpu().numpy() for tensor in (self.numbers, self.system_index))
        positions, cells = (tensor.detach().cpu().double().numpy() for tensor in (self.positions, self.cells))
        counts = np.bincount(index, minlength=s)
        if len(counts) != s or not counts.all() or (index[1:] < index[:-1]).any():
            raise InvalidCrystalError(
                f"system_index must ascend from 0 to {s - 1} and give every crystal at least one atom; "
                f"atoms per crystal: {counts.tolist()[:10]}."
            )
        if numbers.min() < 1 or numbers.max() > 118:
            raise InvalidCrystalError("atomic numbers must lie between 1 and 118.")
        if not (np.isfinite(positions).all() and np.isfinite(cells).all()):
            raise InvalidCrystalError("positions and cells must be finite; found NaN or infinity.")
        if (np.abs(np.linalg.det(cells)) < 1e-3).any():
            raise InvalidCrystalError("a cell has (almost) no volume; check its lattice vectors.")

    @property
    def n_crystals(self) -> int:
        """Number of crystals S."""
        return len(self.cells)

    @property
    def n_atoms(self) -> int:
        """Number of atoms N over all crystals."""
        return len(self.numbers)

    @property
    def counts(self) -> Tensor:
        """Atoms of every crystal, ``(S,)`` int64."""
        return torch.bincount(self.system_index, minlength=self.n_crystals)

    @property
    def start(self) -> Tensor:
        """First atom of every crystal, and the number of atoms, ``(S + 1,)`` int64."""
        return starts(self.system_index, self.n_crystals)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of positions and cells."""
        return self.positions.dtype

    @classmethod
    def single(
        cls,
        numbers: ArrayLike,
        positions: ArrayLike,
        cell: ArrayLike,
        pbc: ArrayLike,
        dtype: torch.dtype = torch.float64,
        charges: ArrayLike | None = None,
    ) -> CrystalBatch:
        """Return one crystal as a batch; the arrays are copied.

        Args:
            numbers: Atomic numbers, ``(N,)``.
            positions: Cartesian positions in A, ``(N, 3)``.
            cell: Lattice vectors as rows in A, ``(3, 3)``.
            pbc: Periodic directions, ``(3,)``.
            dtype: Floating-point type of the batch.
            charges: Charges of atoms, ``(N,)``, if known.

        Raises:
            ShapeError: An array has another shape.
            InvalidCrystalError: As for the class.
        """
        positions, cell = (
            torch.from_numpy(np.array(a, dtype=np.float64)).to(dtype) for a in (positions, cell)
        )
        known = None if charges is None else torch.from_numpy(np.array(charges, dtype=np.float64)).to(dtype)
        return cls(
            numbers=torch.from_numpy(np.array(numbers, dtype=np.int64)),
            positions=positions,
            cells=cell[None],
            system_index=torch.zeros(len(positions), dtype=torch.int64),
            pbc=torch.from_numpy(np.array(pbc, dtype=bool))[None],
            charges=known,
        )

    @classmethod
    def stack(
        cls,
        numbers: Sequence[ArrayLike],
        positions: Sequence[ArrayLike],
        cells: Sequence[ArrayLike],
        pbc: Sequence[ArrayLike],
        dtype: torch.dtype = torch.float64,
        charges: Sequence[ArrayLike | None] = (),
    ) -> CrystalBatch:
        """Return the batch of several crystals, checked at once; for the arrays of each see `single`.

        Charges are kept if all crystals have them.
        """
        counts = torch.tensor([len(own) for own in numbers])  # type: ignore[arg-type]
        known = [own for own in charges if own is not None]
        return cls(
            numbers=torch.from_numpy(np.concatenate(numbers).astype(np.int64)),
            positions=torch.from_numpy(np.concatenate(positions).astype(np.float64)).to(dtype),
            cells=torch.from_numpy(np.array(cells, dtype=np.float64)).to(dtype),
            system_index=torch.repeat_interleave(counts),
            pbc=torch.from_numpy(np.array(pbc, dtype=bool)),
            charges=torch.from_numpy(np.concatenate(known).astype(np.float64)).to(dtype)
            if len(known) == len(numbers)
            else None,
        )

    @classmethod
    def collate(cls, batches: Sequence[CrystalBatch]) -> CrystalBatch:
        """Join batches of one device and type, in order; raises ShapeError if there are none.

        Charges are kept if all batches have them.
        """
        if not batches:
            raise ShapeError("collate needs at least one batch; got an empty sequence.")
        offsets = torch.tensor([0, *(b.n_crystals for b in batches[:-1])]).cumsum(0).tolist()
        charges = [b.charges for b in batches if b.charges is not None]
        return cls(
            numbers=torch.cat([b.numbers for b in batches]),
            positions=torch.cat([b.positions for b in batches]),
            cells=torch.cat([b.cells for b in batches]),
            system_index=torch.cat([b.system_index + k for b, k in zip(batches, offsets, strict=True)]),
            pbc=torch.cat([b.pbc for b in batches]),
            charges=torch.cat(charges) if len(charges) == len(batches) else None,
        )

    def split(self) -> list[CrystalBatch]:
        """One batch per crystal, in order; the inverse of `collate`."""
        counts = self.counts.tolist()
        charges = [None] * len(self) if self.charges is None else self.charges.split(counts)
        parts = zip(
            self.numbers.split(counts),
            self.positions.split(counts),
            self.cells,
            self.pbc,
            charges,
            strict=True,
        )
        return [
            CrystalBatch(numbers, positions, cell[None], torch.zeros_like(numbers), pbc[None], own)
            for numbers, positions, cell, pbc, own in parts
        ]

    def __iter__(self) -> Iterator[CrystalBatch]:
        return iter(self.split())

    def __len__(self) -> int:
        return self.n_crystals

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as numpy arrays, which takes a tenth of the time of tensors; checked already."""
        tensors = (getattr(self, field.name) for field in fields(self))
        arrays = (None if tensor is None else tensor.detach().cpu().numpy() for tensor in tensors)
        return _from_arrays, (self.device, *arrays)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CrystalBatch:
        """The same crystals on another device or in another floating-point type."""
        return CrystalBatch(
            numbers=self.numbers.to(device),
            positions=self.positions.to(device, dtype),
            cells=self.cells.to(device, dtype),
            system_index=self.system_index.to(device),
            pbc=self.pbc.to(device),
            charges=None if self.charges is None else self.charges.to(device, dtype),
        )

    def with_geometry(self, positions: Tensor, cells: Tensor) -> CrystalBatch:
        """The same atoms at other positions ``(N, 3)`` A in other cells ``(S, 3, 3)`` A."""
        return replace(self, positions=positions, cells=cells)


def _from_arrays(device: torch.device, *arrays: NDArray[Any] | None) -> CrystalBatch:
    batch = object.__new__(CrystalBatch)
    for field, array in zip(fields(CrystalBatch), arrays, strict=True):
        object.__setattr__(batch, field.name, None if array is None else torch.from_numpy(array).to(device))
    return batch


def starts(index: Tensor, n: int) -> Tensor:
    """Return the first place of every number below n in an ascending index, and its length, ``(n + 1,)``."""
    return torch.searchsorted(index, torch.arange(n + 1, device=index.device))
