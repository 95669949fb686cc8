"""Errors of predicted crystals, one number per crystal, as defined in the papers.

Shapes: N atoms, S crystals. Lower is better, except for `matches`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph, edge_vectors, periodic_graph
from repose.crystal.lattice import follow_cell, nearest_image, volume
from repose.models.prediction import Geometry
from repose.nn.ops import segment_mean

# Graph of the bond-length error, as in the papers, with whole shells.
BOND_CUTOFF, BOND_NEIGHBOURS = 6.0, 50  # A, count
# An energy that rises by more than this between consecutive frames of a path counts as rising.
ENERGY_RISE = 1e-3  # eV per atom
# Positions (n, 3) and cell (3, 3) of one crystal, A.
Arrays = tuple[np.ndarray, np.ndarray]


class Metric(NamedTuple):
    """Column of a table: name in JSON and Parquet, label, unit (empty without any), and printed decimals."""

    key: str
    label: str
    unit: str
    digits: int

    @property
    def heading(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


METRICS = (
    Metric("coordinates", "coordinates", "Å", 4),
    Metric("coordinates_predicted_image", "coordinates (predicted image)", "Å", 4),
    Metric("bonds", "bonds", "Å", 4),
    Metric("lattice", "lattice", "Å", 4),
    Metric("shape", "shape", "Å²", 2),
    Metric("volume", "volume", "Å³", 2),
    Metric("relative_volume", "relative volume", "%", 2),
)


def errors(batch: CrystalBatch, predicted: Geometry, target: Geometry) -> dict[str, Tensor]:
    """All errors of `METRICS`, one value per crystal.

    Args:
        batch: The unrelaxed crystals.
        predicted: Positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A; finite.
        target: The relaxed crystals; atom k is input atom k. Any images.

    Returns:
        Values ``(S,)`` by key of `METRICS`.
    """
    # Images are equivalent: under shear, an atom may come nearer to another image of its initial position.
    # As the targets, predictions are moved to the images nearest to the input.
    crystal = batch.system_index
    near = Geometry(move_to_image(predicted, batch.positions, crystal), predicted.cells)
    graph = periodic_graph(batch, BOND_CUTOFF, BOND_NEIGHBOURS, ties="shell")
    return {
        "coordinates": coordinate_error(near, target, batch.positions, crystal),
        "coordinates_predicted_image": coordinate_error(near, target, near.positions, crystal),
        "bonds": bond_error(in_input_images(batch, predicted), in_input_images(batch, target), graph),
        "lattice": lattice_error(predicted.cells, target.cells),
        "shape": shape_deviation(predicted.cells, target.cells),
        "volume": volume_error(predicted.cells, target.cells),
        "relative_volume": relative_volume_error(predicted.cells, target.cells),
    }


def move_to_image(geometry: Geometry, reference: Tensor, system_index: Tensor) -> Tensor:
    """Positions in A, ``(N, 3)``, in the periodic images nearest to a reference, in A, ``(N, 3)``."""
    return reference + nearest_image(geometry.positions - reference, geometry.cells, system_index)


def in_input_images(batch: CrystalBatch, geometry: Geometry) -> Geometry:
    """Geometry with each atom in the image nearest to its input position carried along with the cell.

    Edges of the unrelaxed crystals then connect the same atoms in the result, also if it is rotated.
    """
    moved = follow_cell(batch.positions, batch.cells, geometry.cells, batch.system_index)
    return Geometry(move_to_image(geometry, moved, batch.system_index), geometry.cells)


def coordinate_error(
    predicted: Geometry, target: Geometry, reference: Tensor, system_index: Tensor
) -> Tensor:
    """Mean over atoms and x, y, z of the absolute error of positions, in A, ``(S,)``.

    Args:
        predicted: Positions and cells in A.
        target: The same, relaxed.
        reference: Positions to whose nearest images the target is moved: the unrelaxed ones (DeepRelax,
            E3Relax) or the predicted ones (E3Relax-H2), ``(N, 3)``.
        system_index: Crystal of every atom, ``(N,)``.
    """
    difference = predicted.positions - move_to_image(target, reference, system_index)
    return segment_mean(difference.abs().mean(dim=1), system_index, len(target.cells))


def bond_error(predicted: Geometry, target: Geometry, graph: PeriodicGraph) -> Tensor:
    """Mean over edges of the absolute error of their length, in A, ``(S,)``; NaN without edges.

    The graph has the edges of the unrelaxed crystals; both geometries are as from `in_input_images`.
    """
    n = len(target.cells)
    difference = edge_vectors(graph, *predicted).norm(dim=-1) - edge_vectors(graph, *target).norm(dim=-1)
    count = torch.bincount(graph.system_index, minlength=n)
    return segment_mean(difference.abs(), graph.system_index, n).masked_fill(count == 0, torch.nan)


def lattice_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the nine entries of cells ``(S, 3, 3)``, in A, ``(S,)``."""
    return (predicted - target).abs().mean(dim=(1, 2))


def shape_deviation(predicted: Tensor, target: Tensor) -> Tensor:
    """Frobenius norm of the difference of ``L @ L.T``, in A^2 (the papers print A), ``(S,)``.

    It is invariant to rotations of the predicted crystal.
    """
    return torch.linalg.matrix_norm(predicted @ predicted.mT - target @ target.mT)


def volume_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Absolute error of the volumes of cells ``(S, 3, 3)``, in A^3, ``(S,)``."""
    return (volume(predicted) - volume(target)).abs()


def relative_volume_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Absolute error of the volumes of cells ``(S, 3, 3)`` over the target's volume, in %, ``(S,)``."""
    return 100 * (volume(predicted) / volume(target) - 1).abs()


def kabsch(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation R, ``(3, 3)``, that minimises the root mean square distance of ``points @ R`` from the target.

    Points and targets, ``(n, 3)``, have their means at the origin. R is never a reflection. If the minimum is
    degenerate, as for points on a line, R is any of the rotations.

    Source: Kabsch, Acta Crystallographica A 32, 922 (1976).
    """
    left, _, right = np.linalg.svd(points.T @ target)
    # If the best orthogonal matrix is a reflection, flip the direction of the smallest singular value.
    handed = np.sign(np.linalg.det(left) * np.linalg.det(right))
    return (left * [1.0, 1.0, handed]) @ right


def aligned_rmsd(points: np.ndarray, target: np.ndarray) -> float:
    """Root mean square distance of atoms in A after the best shift and rotation.

    The atoms of one cell, in A, ``(n, 3)``, are aligned as a molecule, with equal weights; lattice vectors
    are ignored. The result for a crystal of one atom is zero.
    """
    points, target = points - points.mean(axis=0), target - target.mean(axis=0)
    difference = points @ kabsch(points, target) - target
    return float(np.sqrt(np.square(difference).sum(axis=1).mean()))


def matches(batch: CrystalBatch, predicted: Geometry, target: Geometry) -> np.ndarray:
    """Match prediction and target with pymatgen's StructureMatcher and its default tolerances.

    Much slower than the other metrics: tens of milliseconds per crystal. Arguments are those of `errors`.

    Returns:
        ``(S,)`` bool; False also for predictions that the matcher rejects.
    """
    from pymatgen.core import Structure
    from pymatgen.core.structure_matcher import StructureMatcher

    matcher = StructureMatcher()

    def structure(numbers: list[Any], positions: np.ndarray, cell: np.ndarray) -> Structure:
        return Structure(cell, numbers, positions, coords_are_cartesian=True)

    def match(numbers: list[Any], predicted: Arrays, target: Arrays) -> bool:
        try:
            return bool(matcher.fit(structure(numbers, *predicted), structure(numbers, *target)))
        except (ValueError, ArithmeticError):
            # A predicted cell that is flat, or almost, has no inverse or no reduced form.
            return False

    counts = batch.counts.tolist()
    numbers = [part.tolist() for part in batch.numbers.split(counts)]
    return np.array(list(map(match, numbers, _arrays(predicted, counts), _arrays(target, counts))))


def _arrays(geometry: Geometry, counts: list[int]) -> list[Arrays]:
    """Positions and cell of each crystal."""
    positions, cells = (tensor.cpu().numpy() for tensor in geometry)
    return list(zip(np.split(positions, np.cumsum(counts)[:-1]), cells, strict=True))
