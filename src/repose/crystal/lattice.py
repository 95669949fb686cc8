"""Geometry of lattices, batched over crystals.

Convention, used everywhere in Repose: a cell holds lattice vectors as ROWS, so that
``cartesian = fractional @ cell``; lengths are Angstrom.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Integer shifts of the 27 cells around and including the home cell, home cell first.
NEIGHBOUR_CELLS = torch.tensor(
    sorted(
        ((i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)),
        key=lambda shift: sum(map(abs, shift)),
    )
)


def to_fractional(vectors: Tensor, cells: Tensor, system_index: Tensor) -> Tensor:
    """Fractional coordinates of Cartesian vectors.

    Args:
        vectors: Cartesian vectors in A, ``(N, 3)``.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
        system_index: Crystal index of every vector, ``(N,)``.
    """
    return to_cartesian(vectors, torch.linalg.inv(cells), system_index)


def to_cartesian(fractional: Tensor, cells: Tensor, system_index: Tensor) -> Tensor:
    """Cartesian vectors in A of fractional coordinates ``(N, 3)``; see `to_fractional`."""
    # Products and sums instead of a matrix product: mixed precision would round that to bfloat16.
    rows, columns = cells[system_index].unbind(dim=-2), fractional.unsqueeze(-1).unbind(dim=-2)
    return columns[0] * rows[0] + columns[1] * rows[1] + columns[2] * rows[2]


def volume(cells: Tensor) -> Tensor:
    """Volumes in A^3 of cells ``(S, 3, 3)``, always positive: ``(S,)``."""
    return torch.linalg.det(cells).abs()


def deformation(cells: Tensor, new_cells: Tensor) -> Tensor:
    """Deformation gradients F, ``(S, 3, 3)``, with ``cells @ F = new_cells`` for cells as rows."""
    return torch.linalg.solve(cells, new_cells)


def follow_cell(positions: Tensor, cells: Tensor, new_cells: Tensor, system_index: Tensor) -> Tensor:
    """Positions with unchanged fractional coordinates in a deformed cell.

    Args:
        positions: A, ``(N, 3)``.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
        new_cells: The same after deformation, ``(S, 3, 3)``.
        system_index: Crystal of every atom, ``(N,)``.
    """
    return to_cartesian(positions, deformation(cells, new_cells), system_index)


def periodic_span(cells: Tensor, pbc: Tensor) -> Tensor:
    """Projectors ``(S, 3, 3)`` on the periodic directions ``pbc``, ``(S, 3)``, of cells ``(S, 3, 3)``."""
    if bool(pbc.all()):
        return torch.eye(3).to(cells).expand_as(cells)
    # Orthonormal frame with the periodic vectors first: the other vectors do not affect their span.
    order = torch.argsort((~pbc).long(), dim=1, stable=True)
    frame = torch.linalg.qr(torch.gather(cells, 1, order.unsqueeze(-1).expand_as(cells)).mT).Q  # columns
    kept = torch.gather(pbc, 1, order).to(cells).unsqueeze(1)
    return (frame * kept) @ frame.mT


def periodic_projector(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Return `periodic_span` of one crystal, ``(3, 3)``, from a cell ``(3, 3)`` and pbc ``(3,)`` in numpy."""
    return periodic_span(torch.as_tensor(cell)[None], torch.as_tensor(pbc)[None])[0].numpy()


def reduced(cells: Tensor) -> Tensor:
    """Return cells ``(S, 3, 3)`` of the same lattices with short vectors, by pairwise Gauss reduction."""
    rows = list(cells.unbind(dim=1))
    changed = True
    while changed:
        changed = False
        for one, other in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)):
            share = (rows[one] * rows[other]).sum(-1) / rows[other].square().sum(-1)
            # A tie within rounding is kept; the loop would not end otherwise.
            times = torch.where(share.abs() > 0.5 + 1e-6, share.round(), 0.0)
            if bool((times != 0).any()):
                rows[one] = rows[one] - times.unsqueeze(-1) * rows[other]
                changed = True
    return torch.stack(rows, dim=1)


def nearest_image(vectors: Tensor, cells: Tensor, system_index: Tensor) -> Tensor:
    """Shortest periodic image of vectors, searched in the 27 cells around the rounded one.

    Exact for reduced and for not strongly skewed cells; data import uses the exact, slower search of ASE.

    Args:
        vectors: Differences of positions in A, ``(N, 3)``.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
        system_index: Crystal index of every vector, ``(N,)``.

    Returns:
        Vectors in A that differ from the input by lattice vectors, ``(N, 3)``.
    """
    fractional = to_fractional(vectors, cells, system_index)
    # Not `fractional - round`: vectors that are short already are not changed, bit for bit.
    rounded = vectors - to_cartesian(torch.round(fractional), cells, system_index)
    # As in `to_cartesian`: not a matrix product.
    shifts = (NEIGHBOUR_CELLS.to(cells).unsqueeze(-1) * cells.unsqueeze(1)).sum(-2)  # (S, 27, 3)
    candidates = rounded.unsqueeze(1) + shifts[system_index]  # (N, 27, 3)
    best = candidates.detach().norm(dim=-1).argmin(dim=1)
    return candidates[torch.arange(len(best), device=best.device), best]


def vacuum_thickness(positions: Tensor, cells: Tensor, system_index: Tensor) -> Tensor:
    """Thickness of the thickest slab without atoms, parallel to each pair of lattice vectors.

    It is large for sheets and surfaces with vacuum, and small in bulk crystals.

    Args:
        positions: A, ``(N, 3)``; they need not be wrapped.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
        system_index: Crystal of every atom, ``(N,)``, ascending.

    Returns:
        Thickness in A along the normals of bc, ca and ab, ``(S, 3)``.
    """
    fractional = to_fractional(positions, cells, system_index)
    fractional = fractional - fractional.floor()
    gaps = _cyclic_gaps(fractional, system_index)
    thickest = gaps.new_zeros(len(cells), 3).scatter_reduce(
        0, system_index.unsqueeze(1).expand_as(gaps), gaps, "amax"
    )
    heights = 1 / torch.linalg.inv(cells).norm(dim=1)  # columns of the inverse are the normals
    return thickest.to(cells) * heights


def thickest_slab(positions: Tensor, cells: Tensor, system_index: Tensor, least: float) -> Tensor:
    """Thickness of the thickest slab without atoms, parallel to any lattice planes.

    All planes of a spacing above ``least`` are searched, so that the result does not depend on the choice of
    the lattice vectors or on the size of the cell.

    Args:
        positions: A, ``(N, 3)``; they need not be wrapped.
        cells: Lattice vectors as rows in A, ``(S, 3, 3)``.
        system_index: Crystal of every atom, ``(N,)``, ascending.
        least: Thinner slabs are not searched for, A.

    Returns:
        Thickness in A, ``(S,)``; 0 for crystals without planes of that spacing.
    """
    cells = reduced(cells.double())
    n = len(cells)
    # A plane hkl of spacing d intersects the lattice vector a at most |a| / d times.
    most = (cells.norm(dim=-1).amax(0) / least).long().tolist()
    axes = [torch.arange(-m, m + 1, device=cells.device) for m in most]
    indices = torch.cartesian_prod(*axes)
    indices = indices[len(indices) // 2 + 1 :].to(cells)  # one of hkl and -h-k-l
    spacing = 1 / (indices @ torch.linalg.inv(cells).mT).norm(dim=-1)  # (S, planes)
    crystal, plane = torch.nonzero(spacing > least, as_tuple=True)
    # Every atom once for every plane of its crystal.
    counts = torch.bincount(system_index, minlength=n)
    begin = counts.cumsum(0) - counts
    repeats = counts[crystal]
    pair = torch.repeat_interleave(repeats)
    atom = (
        begin[crystal][pair]
        + torch.arange(len(pair), device=pair.device)
        - (repeats.cumsum(0) - repeats)[pair]
    )
    fractional = to_fractional(positions.double(), cells, system_index)
    height = (fractional[atom] * indices[plane][pair]).sum(-1)
    gaps = _cyclic_gaps((height - height.floor()).unsqueeze(1), pair).squeeze(1)
    thickness = gaps * spacing[crystal, plane][pair]
    return thickness.new_zeros(n).scatter_reduce(0, crystal[pair], thickness, "amax").to(positions)


def _cyclic_gaps(fractional: Tensor, owner: Tensor) -> Tensor:
    """Differences to the next larger of the numbers between 0 and 1 of an owner, along each column.

    Args:
        fractional: ``(N, K)``.
        owner: Ascending, ``(N,)``.
    """
    if len(owner) == 0:
        return fractional
    ordered = torch.sort(fractional.double() + 2 * owner.unsqueeze(1), dim=0).values - 2 * owner.unsqueeze(1)
    last = torch.cat([owner.diff() > 0, owner.new_ones(1, dtype=torch.bool)])
    gaps = ordered.roll(-1, dims=0) - ordered
    gaps[last] = ordered[last.roll(1)] + 1 - ordered[last]  # around the border of the cell
    return gaps
