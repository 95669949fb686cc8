"""Errors that a network expects of its own prediction, before calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repose.crystal.graph import PeriodicGraph, edge_vectors
from repose.models.prediction import Geometry, Prediction
from repose.nn.ops import segment_mean


@dataclass(frozen=True, eq=False)
class ExpectedErrors:
    """Expected errors of a batch, not calibrated.

    Attributes:
        crystals: Mean error of coordinates in A, ``(S,)``; NaN where the model gives none.
        atoms: Error of each atom, mean over x, y, z in A, ``(N,)``.
        bonds: Error of the length of each edge in A, ``(E,)``.
        strains: Error of the strain, ``(S,)``, or None for families that do not predict it.
    """

    crystals: Tensor
    atoms: Tensor
    bonds: Tensor
    strains: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[ExpectedErrors]) -> ExpectedErrors:
        """Join the errors of consecutive crystals."""
        strains = [part.strains for part in parts if part.strains is not None]
        return cls(
            torch.cat([part.crystals for part in parts]),
            torch.cat([part.atoms for part in parts]),
            torch.cat([part.bonds for part in parts]),
            torch.cat(strains) if strains else None,
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> ExpectedErrors:
        """Apply a function to every tensor, e.g. one that moves it to a device."""
        strains = None if self.strains is None else function(self.strains)
        return ExpectedErrors(function(self.crystals), function(self.atoms), function(self.bonds), strains)


def expected_errors(
    prediction: Prediction, geometry: Geometry, system_index: Tensor, graph: PeriodicGraph
) -> ExpectedErrors | None:
    """Expected errors of a prediction; None if the network has no uncertainty head.

    For predicted distances they are the Laplace scales of the distances: a crystal's is the mean over its
    distances of both kinds (DeepRelax, equation 24), an atom's the mean over its own bonds. For predicted
    positions they are the scales of the atoms; a bond's is the sum of those of its two atoms and its length
    times the strain's.

    Args:
        prediction: Of one network, or of an ensemble, whose scales include its spread (equation 23).
        geometry: The relaxed geometry.
        system_index: Crystal of every atom, ``(N,)``.
        graph: The edges.
    """
    n = len(geometry.cells)
    if prediction.error_scales is not None:
        atoms, strains = prediction.error_scales
        length = edge_vectors(graph, *geometry).norm(dim=-1)
        bonds = atoms[graph.receiver] + atoms[graph.sender] + strains[graph.system_index] * length
        return ExpectedErrors(segment_mean(atoms, system_index, n), atoms, bonds, strains)
    distances = prediction.distances
    if distances is None or distances.scale is None or distances.displaced_scale is None:
        return None
    bonds = distances.scale
    of = torch.cat([graph.system_index, graph.system_index[distances.anchored]])
    empty = torch.bincount(of, minlength=n) == 0
    crystals = segment_mean(torch.cat([bonds, distances.displaced_scale]), of, n)
    atoms = segment_mean(bonds, graph.receiver, graph.n_atoms)
    return ExpectedErrors(crystals.masked_fill(empty, torch.nan), atoms, bonds)
