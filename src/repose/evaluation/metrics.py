"""Errors of predicted crystals, one number a crystal, as the papers define them.

Predictions p are compared with targets t (relaxed); N atoms, S crystals, cells hold lattice vectors as rows.
Lower is better everywhere except for `matches`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph, edge_vectors, periodic_graph
from repose.crystal.lattice import carried, nearest_image, volume
from repose.models.prediction import Geometry
from repose.nn.ops import segment_mean

# Neighbours whose distances the bond-length error compares: the graph of the papers, whole shells.
BOND_CUTOFF, BOND_NEIGHBOURS = 6.0, 50  # A, count


# Positions (n, 3) and cell (3, 3) of one crystal, A.
Arrays = tuple[np.ndarray, np.ndarray]


class Metric(NamedTuple):
    """What a column of the table is.

    Attributes:
        key: Name in JSON and Parquet.
        label: Heading in the table.
        unit: Its unit.
        digits: Digits printed after the point.
    """

    key: str
    label: str
    unit: str
    digits: int


METRICS = (
    Metric("coordinates", "coordinates", "Å", 4),
    Metric("coordinates_predicted_image", "coordinates (predicted image)", "Å", 4),
    Metric("bonds", "bonds", "Å", 4),
    Metric("lattice", "lattice", "Å", 4),
    Metric("shape", "shape", "Å²", 2),
    Metric("volume", "volume", "Å³", 2),
)


def errors(batch: CrystalBatch, predicted: Geometry, target: Geometry) -> dict[str, Tensor]:
    """All errors of `METRICS`, one value a crystal.

    Args:
        batch: The unrelaxed crystals.
        predicted: Positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A; finite.
        target: The relaxed ones, atom k being input atom k; both in any image.

    Returns:
        Values ``(S,)`` by key of `METRICS`.
    """
    # An atom that follows a cell under shear may end nearer to another image of where it began. Which image
    # an answer names says nothing of the crystal, so it stands where the target does, nearest to the input.
    crystal = batch.system_index
    near = Geometry(move_to_image(predicted, batch.positions, crystal), predicted.cells)
    graph = periodic_graph(batch, BOND_CUTOFF, BOND_NEIGHBOURS, ties="shell")
    return {
        "coordinates": coordinate_error(near, target, batch.positions, crystal),
        "coordinates_predicted_image": coordinate_error(near, target, near.positions, crystal),
        "bonds": bond_error(following(batch, predicted), following(batch, target), graph),
        "lattice": lattice_error(predicted.cells, target.cells),
        "shape": shape_deviation(predicted.cells, target.cells),
        "volume": volume_error(predicted.cells, target.cells),
    }


def move_to_image(state: Geometry, reference: Tensor, system_index: Tensor) -> Tensor:
    """Positions, each in the periodic image nearest to a reference.

    Args:
        state: Positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A; images are those of these cells.
        reference: Positions to be near to, A, ``(N, 3)``.
        system_index: Crystal of every atom, ``(N,)``.

    Returns:
        Positions in A, ``(N, 3)``.
    """
    return reference + nearest_image(state.positions - reference, state.cells, system_index)


def following(batch: CrystalBatch, state: Geometry) -> Geometry:
    """A geometry of crystals, each atom in the image nearest to where it comes by following the cell.

    So an edge of the input is the same edge in the result, and a result that is turned has the same edges.

    Args:
        batch: The unrelaxed crystals.
        state: Positions ``(N, 3)`` and cells ``(S, 3, 3)`` in A.

    Returns:
        The same crystals, in A.
    """
    place = carried(batch.positions, batch.cells, state.cells, batch.system_index)
    return Geometry(move_to_image(state, place, batch.system_index), state.cells)


def coordinate_error(
    predicted: Geometry, target: Geometry, reference: Tensor, system_index: Tensor
) -> Tensor:
    """Mean over atoms and x, y, z of the absolute error of positions, in A, ``(S,)``.

    Args:
        predicted: Positions and cells in A.
        target: The same, relaxed.
        reference: Which positions the target is moved near to: the unrelaxed ones (DeepRelax, E3Relax) or
            the predicted ones (E3Relax-H2), ``(N, 3)``.
        system_index: Crystal of every atom, ``(N,)``.
    """
    difference = predicted.positions - move_to_image(target, reference, system_index)
    return segment_mean(difference.abs().mean(dim=1), system_index, len(target.cells))


def bond_error(predicted: Geometry, target: Geometry, graph: PeriodicGraph) -> Tensor:
    """Mean over edges of the absolute error of their length, in A, ``(S,)``; NaN without edges.

    Args:
        predicted: Positions and cells in A.
        target: The same, relaxed; both in images that follow those of the crystal the graph was built at.
        graph: Edges of the unrelaxed crystals.
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

    Does not depend on how the predicted crystal is turned.
    """
    return torch.linalg.matrix_norm(predicted @ predicted.mT - target @ target.mT)


def volume_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Absolute error of the volumes of cells ``(S, 3, 3)``, in A^3, ``(S,)``."""
    return (volume(predicted) - volume(target)).abs()


def matches(batch: CrystalBatch, predicted: Geometry, target: Geometry) -> np.ndarray:
    """Whether pymatgen's StructureMatcher, with its defaults, finds prediction and target alike.

    Much slower than everything else here (tens of milliseconds a crystal).

    Args:
        batch: The unrelaxed crystals.
        predicted: Positions and cells in A; finite.
        target: The same, relaxed.

    Returns:
        ``(S,)`` bool; False too where the matcher cannot make sense of a prediction.
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
    """The crystals of a geometry one by one."""
    positions, cells = (tensor.cpu().numpy() for tensor in geometry)
    return list(zip(np.split(positions, np.cumsum(counts)[:-1]), cells, strict=True))
