"""Networks of one family, trained from different seeds, as one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repose.crystals import CrystalBatch
from repose.errors import ModelError
from repose.graph import PeriodicGraph
from repose.lattice import deformation
from repose.models.network import Distances, Geometry, Network, Prediction, Scales


class Ensemble(Network[Any]):
    """The mean of its members; where they differ, their spread joins the errors to expect.

    Args:
        members: Networks of one family with the same settings, which also start from the same geometry.

    Raises:
        ModelError: They are not.
    """

    def __init__(self, members: Sequence[Network[Any]]) -> None:
        if len({(type(member), member.settings.model_dump_json()) for member in members}) != 1:
            raise ModelError("an ensemble needs members of one family with the same settings.")
        super().__init__(members[0].settings)
        self.family = members[0].family  # type: ignore[misc]
        self.settings_type = members[0].settings_type  # type: ignore[misc]
        self.members = nn.ModuleList(members)

    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """See `Network.prepare`; the same for all members."""
        return self._all()[0].prepare(batch)

    def accelerate(self, compiled: bool) -> None:
        """See `Network.accelerate`."""
        for member in self._all():
            member.accelerate(compiled)

    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """See `Network.forward`."""
        return combine([member(batch, graph) for member in self._all()])

    def _all(self) -> list[Network[Any]]:
        return list(self.members)  # type: ignore[arg-type]


def combine(predictions: Sequence[Prediction]) -> Prediction:
    """One prediction out of T.

    Geometries, distances and features are means. A scale becomes the mean over members of their own scale
    plus their distance from the mean prediction: data uncertainty and model uncertainty (DeepRelax, equations
    21 to 23, there for distances; here for positions and strains, too).

    Args:
        predictions: Of the members, for one batch.
    """
    layers = [
        Geometry(*(_mean(parts) for parts in zip(*layer, strict=True)))
        for layer in zip(*(prediction.layers for prediction in predictions), strict=True)
    ]
    latent = _mean([prediction.latent for prediction in predictions])
    all_scales = [prediction.scales for prediction in predictions if prediction.scales is not None]
    scales = _combine_scales(all_scales, predictions, layers[-1]) if all_scales else None
    found = [prediction.distances for prediction in predictions if prediction.distances is not None]
    return Prediction(layers, latent, scales, _combine_distances(found) if found else None)


def _combine_scales(scales: Sequence[Scales], predictions: Sequence[Prediction], mean: Geometry) -> Scales:
    atoms, strains = [], []
    for own, prediction in zip(scales, predictions, strict=True):
        geometry = prediction.geometry
        atoms.append(own.atoms + (geometry.positions - mean.positions).abs().mean(-1))
        strain = deformation(mean.cells, geometry.cells) - torch.eye(3).to(mean.cells)
        strains.append(own.strains + strain.square().mean((-1, -2)).sqrt())
    return Scales(_mean(atoms), _mean(strains))


def _combine_distances(found: Sequence[Distances]) -> Distances:
    relaxed, scale = _combine_lengths([one.relaxed for one in found], [one.scale for one in found])
    displaced, displaced_scale = _combine_lengths(
        [one.displaced for one in found], [one.displaced_scale for one in found]
    )
    return Distances(relaxed, scale, found[0].anchored, displaced, displaced_scale, found[0].exact)


def _combine_lengths(lengths: Sequence[Tensor], scales: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Mean length and total uncertainty, equations 22 and 23; members without a scale bring their spread."""
    mean = _mean(lengths)  # eq. 22
    uncertainty = [
        (length - mean).abs() + (0 if scale is None else scale)  # eq. 21
        for length, scale in zip(lengths, scales, strict=True)
    ]
    return mean, _mean(uncertainty)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(dim=0)
