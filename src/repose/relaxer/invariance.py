"""Invariance of relaxers: equivalent descriptions of a crystal must give equivalent results.

Equivalent descriptions are rotated, reflected or translated; list the atoms in another order or in other
periodic images; use other vectors of the same lattice; or use a supercell. Each check relaxes both
descriptions and returns the largest difference in A between the results, after mapping them onto each other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import to_cartesian
from repose.models.prediction import Geometry
from repose.nn.ops import segment_mean
from repose.relaxer.base import Relaxer

# Rows are the lattice vectors of the supercell in terms of those of the cell.
SUPERCELLS = {
    "2x1x1": ((2, 0, 0), (0, 1, 0), (0, 0, 1)),
    "2x2x1": ((2, 0, 0), (0, 2, 0), (0, 0, 1)),
    "skewed": ((1, 1, 0), (-1, 1, 0), (0, 1, 1)),
}


def rotation(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Rotate positions and cell at random: the result must rotate with them.

    Args:
        relaxer: Relaxer to check.
        batch: Crystals; in float64 an invariant relaxer differs by about 1e-12 A.
        seed: Seed of the random numbers.

    Returns:
        Largest difference of a position or lattice vector component in A.
    """
    return _rotated(relaxer, batch, seed, sign=1.0)


def reflection(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Rotate and reflect, as `rotation`."""
    return _rotated(relaxer, batch, seed, sign=-1.0)


def translation(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Translate every crystal at random: the result must be equal up to a translation.

    The length of the translation is not compared: when the cell changes, a translation is kept either in
    Cartesian or in fractional coordinates.
    """
    moved = batch.positions + _normal(batch, seed, batch.n_crystals, 3)[batch.system_index] * 3
    return difference(
        _centred(relaxer.predict(batch), batch),
        _centred(relaxer.predict(batch.with_geometry(moved, batch.cells)), batch),
    )


def atom_order(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Permute the atoms of every crystal: the results of the atoms must be permuted alike."""
    shuffled = torch.argsort(batch.system_index + torch.rand(batch.n_atoms, generator=_generator(seed)))
    n, r, owner = (part[shuffled] for part in (batch.numbers, batch.positions, batch.system_index))
    charges = None if batch.charges is None else batch.charges[shuffled]
    other = CrystalBatch(n, r, batch.cells, owner, batch.pbc, charges)
    expected, got = relaxer.predict(batch), relaxer.predict(other)
    return difference(Geometry(expected.positions[shuffled], expected.cells), got)


def periodic_images(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Move each atom by lattice vectors: its result must move by the same vectors of the new cell."""
    steps = torch.randint(-2, 3, (batch.n_atoms, 3), generator=_generator(seed))
    steps = (steps * batch.pbc.cpu()[batch.system_index.cpu()]).to(batch.positions)
    moved = batch.positions + to_cartesian(steps, batch.cells, batch.system_index)
    expected, got = relaxer.predict(batch), relaxer.predict(batch.with_geometry(moved, batch.cells))
    positions = expected.positions + to_cartesian(steps, expected.cells, batch.system_index)
    # The mean of a crystal's atoms depends on their images, see `translation`.
    return difference(_centred(Geometry(positions, expected.cells), batch), _centred(got, batch))


def lattice_basis(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Use other vectors of the same lattice: the positions of the result must be the same."""
    generator = _generator(seed)
    bases = torch.stack([_unimodular(pbc, generator) for pbc in batch.pbc.cpu()]).to(batch.cells)
    expected = relaxer.predict(batch)
    got = relaxer.predict(batch.with_geometry(batch.positions, bases @ batch.cells))
    expected = Geometry(expected.positions, bases @ expected.cells)
    return difference(_centred(expected, batch), _centred(got, batch))


def supercell(relaxer: Relaxer, batch: CrystalBatch, seed: int = 0) -> float:
    """Use supercells, straight and skewed: all copies of an atom must have equivalent results.

    Crystals that are not periodic in all directions stay unchanged.
    """
    del seed
    expected, differences = relaxer.predict(batch), []
    for rows in SUPERCELLS.values():
        larger, source, shift, multiples = supercells(batch, torch.tensor(rows))
        copies = expected.positions[source] + to_cartesian(shift, expected.cells, larger.system_index)
        wanted = Geometry(copies, multiples @ expected.cells)
        differences.append(difference(_centred(wanted, larger), _centred(relaxer.predict(larger), larger)))
    return max(differences)


INVARIANCE_CHECKS: dict[str, Callable[[Relaxer, CrystalBatch, int], float]] = {
    "rotation": rotation,
    "reflection": reflection,
    "translation": translation,
    "atom order": atom_order,
    "periodic images": periodic_images,
    "lattice basis": lattice_basis,
    "supercell": supercell,
}


def supercells(batch: CrystalBatch, rows: Tensor) -> tuple[CrystalBatch, Tensor, Tensor, Tensor]:
    """Supercells of the crystals that are periodic in all directions; the others stay unchanged.

    Args:
        batch: S crystals.
        rows: Lattice vectors of the supercell in terms of those of the cell, ``(3, 3)`` int64.

    Returns:
        The supercells with M atoms; for each of these the atom of ``batch`` that it is a copy of, ``(M,)``,
        and the lattice vectors between them, ``(M, 3)``; the lattice vectors of the supercells in terms of
        those of the cells, ``(S, 3, 3)``.
    """
    one, (cells, home) = torch.eye(3, dtype=torch.int64), (_cells_within(rows), torch.zeros(1, 3))
    whole = batch.pbc.all(dim=1).tolist()
    first = (batch.counts.cumsum(0) - batch.counts).tolist()
    source, shift, crystal = [], [], []
    for index, (start, count) in enumerate(zip(first, batch.counts.tolist(), strict=True)):
        copies = cells if whole[index] else home
        source.append((start + torch.arange(count)).repeat(len(copies)))
        shift.append(copies.repeat_interleave(count, dim=0))
        crystal.append(torch.full((count * len(copies),), index))
    taken, owner = torch.cat(source).to(batch.device), torch.cat(crystal).to(batch.device)
    away = torch.cat(shift).to(batch.positions)
    multiples = torch.stack([rows if repeats else one for repeats in whole]).to(batch.cells)
    larger = CrystalBatch(
        batch.numbers[taken],
        batch.positions[taken] + to_cartesian(away, batch.cells, owner),
        multiples @ batch.cells,
        owner,
        batch.pbc,
        None if batch.charges is None else batch.charges[taken],
    )
    return larger, taken, away, multiples


def _cells_within(rows: Tensor) -> Tensor:
    """Lattice points of the cell within the supercell, ``(det, 3)``."""
    reach = int(rows.abs().sum(dim=0).max())
    points = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 3).double()
    inside = points @ torch.linalg.inv(rows.double()) + 1e-9
    return points[((inside >= 0) & (inside < 1)).all(dim=1)]


def _unimodular(pbc: Tensor, generator: torch.Generator) -> Tensor:
    """Random change of basis of the periodic directions, ``(3, 3)``: order, signs, and two shears."""
    axes = pbc.nonzero().flatten()
    basis = torch.eye(3, dtype=torch.float64)
    if not len(axes):
        return basis
    mixed = basis[axes[torch.randperm(len(axes), generator=generator)]]
    mixed = mixed * (2.0 * torch.randint(2, (len(axes), 1), generator=generator) - 1)
    for _ in range(2 if len(axes) > 1 else 0):
        one, other = torch.randperm(len(axes), generator=generator)[:2].tolist()
        mixed[one] = mixed[one] + mixed[other]
    basis[axes] = mixed
    return basis


def _rotated(relaxer: Relaxer, batch: CrystalBatch, seed: int, sign: float) -> float:
    q, _ = torch.linalg.qr(_normal(batch, seed, 3, 3))
    q = q * (torch.linalg.det(q) * sign)
    expected = relaxer.predict(batch)
    got = relaxer.predict(batch.with_geometry(batch.positions @ q, batch.cells @ q))
    return difference(Geometry(expected.positions @ q, expected.cells @ q), got)


def _centred(geometry: Geometry, batch: CrystalBatch) -> Geometry:
    mean = segment_mean(geometry.positions, batch.system_index, batch.n_crystals)
    return Geometry(geometry.positions - mean[batch.system_index], geometry.cells)


def difference(a: Geometry, b: Geometry) -> float:
    """Largest difference of a position or lattice vector component in A."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(batch: CrystalBatch, seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64).to(batch.positions)
