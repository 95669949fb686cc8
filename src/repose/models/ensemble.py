"""Networks of one family, trained from different seeds, as one network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph
from repose.crystal.lattice import deformation
from repose.errors import ModelError
from repose.models.network import Network
from repose.models.prediction import Distances, ErrorScales, Geometry, Prediction, Trajectory


class Ensemble(Network[Any]):
    """Mean of several networks; their spread is added to the expected errors.

    Args:
        members: Networks of one family with equal settings and equal atomic volumes.

    Raises:
        ModelError: Families, settings or atomic volumes differ.
    """

    def __init__(self, members: Sequence[Network[Any]]) -> None:
        if len({(type(member), member.settings.model_dump_json()) for member in members}) != 1:
            raise ModelError("an ensemble needs members of one family with the same settings; they differ.")
        buffers = [dict(member.named_buffers()) for member in members]
        volumes = [own["atomic_volumes"] for own in buffers if "atomic_volumes" in own]
        if any(not torch.equal(own, volumes[0]) for own in volumes):
            raise ModelError("an ensemble needs members with equal atomic volumes; got different ones.")
        super().__init__(members[0].settings)
        for name in ("family", "settings_type", "plain_edge_bytes", "differentiates", "double_geometry"):
            setattr(self, name, getattr(members[0], name))
        self.members = nn.ModuleList(members)
        self.accelerated = False

    @property
    def path_frames(self) -> int | None:
        """See `Network.path_frames`."""
        return self._all()[0].path_frames

    @property
    def together(self) -> bool:
        """Return whether members are evaluated at once or one after another; results are the same.

        At once, every operation acts on the weights of all T members: some T times the memory, but a third of
        the kernel launches, which is faster on a GPU. On a CPU the loop is faster. Fused kernels cannot be
        batched over members; see docs/ensembles.md.
        """
        passes = self._all()[0].passes > 1  # neighbours are searched again between passes
        sequential = self.accelerated or self.training or self.differentiates or passes
        return not sequential and next(self.parameters()).is_cuda

    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """See `Network.prepare`; the same for all members."""
        return self._all()[0].prepare(batch)

    def accelerate(self, compiled: bool) -> None:
        """See `Network.accelerate`."""
        for member in self._all():
            member.accelerate(compiled)
        self.accelerated = True

    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """See `Network.forward`."""
        predictions = self.at_once if self.together else self.one_by_one
        return combine(predictions(batch, graph))

    def solve_positions(
        self, prediction: Prediction, batch: CrystalBatch, graph: PeriodicGraph
    ) -> tuple[Geometry, Tensor | None]:
        """See `Network.solve_positions`."""
        return self._all()[0].solve_positions(prediction, batch, graph)

    def one_by_one(self, batch: CrystalBatch, graph: PeriodicGraph) -> list[Prediction]:
        """Predictions of the members, one after another; arguments as for `forward`."""
        return [member(batch, graph) for member in self._all()]

    def at_once(self, batch: CrystalBatch, graph: PeriodicGraph) -> list[Prediction]:
        """Predictions of the members by operations on all of them; not for accelerated members."""
        example: list[Prediction] = []

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> list[Tensor]:
            # Layers share the radial basis. With tied weights torch would restore it twice, the second time
            # to tensors of this transform.
            prediction = functional_call(
                self._skeleton, (parameters, buffers), (batch, graph), tie_weights=False
            )
            example[:] = [prediction]
            return list(_tensors(prediction))

        self._skeleton.train(self.training)
        columns = vmap(one)(*stack_module_state(self._all()))
        return [_with_tensors(example[0], iter(row)) for row in zip(*columns, strict=True)]

    @cached_property
    def _skeleton(self) -> Network[Any]:
        """A member without weights, not registered as a submodule."""
        return copy.deepcopy(self._all()[0]).to("meta")

    def _all(self) -> list[Network[Any]]:
        return list(self.members)  # type: ignore[arg-type]


def _tensors(values: Any) -> Iterator[Tensor]:
    """Tensors in nested tuples and lists."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def _with_tensors(values: Any, tensors: Iterator[Tensor]) -> Any:
    """The same nested tuples and lists with other tensors."""
    if isinstance(values, Tensor):
        return next(tensors)
    if isinstance(values, tuple | list):
        parts = [_with_tensors(value, tensors) for value in values]
        return type(values)(*parts) if hasattr(values, "_fields") else type(values)(parts)
    return values


def combine(predictions: Sequence[Prediction]) -> Prediction:
    """Combine the predictions of T members for one batch.

    Geometries, distances, features and trajectories are means over members; energies, forces and stresses are
    means over the members' own frames of equal time. A scale is the mean over members of their scale (data
    uncertainty) plus their deviation from the mean prediction (model uncertainty): DeepRelax, equations 21 to
    23, for distances; applied to positions and strains, too. Members without scales contribute the deviation.

    Args:
        predictions: Predictions of the members; a single one is returned unchanged.
    """
    if len(predictions) == 1:
        return predictions[0]
    layers = [
        Geometry(*(_mean(parts) for parts in zip(*layer, strict=True)))
        for layer in zip(*(prediction.layers for prediction in predictions), strict=True)
    ]
    latent = _mean([prediction.latent for prediction in predictions])
    found = [prediction.distances for prediction in predictions if prediction.distances is not None]
    if found:
        return Prediction(layers, latent, distances=_combine_distances(found))
    paths = [prediction.trajectory for prediction in predictions if prediction.trajectory is not None]
    path = Trajectory(*map(_mean, zip(*paths, strict=True))) if paths else None
    return Prediction(layers, latent, _combine_scales(predictions, layers[-1]), trajectory=path)


def _combine_scales(predictions: Sequence[Prediction], mean: Geometry) -> ErrorScales:
    """Return equations 21 to 23 for positions and strains."""
    atoms, strains = [], []
    for prediction in predictions:
        geometry = prediction.geometry
        moved = (geometry.positions - mean.positions).abs().mean(-1)
        strain = deformation(mean.cells, geometry.cells) - torch.eye(3).to(mean.cells)
        strained = strain.square().mean((-1, -2)).sqrt()
        own = prediction.error_scales
        atoms.append(moved if own is None else own.atoms + moved)
        strains.append(strained if own is None else own.strains + strained)
    return ErrorScales(_mean(atoms), _mean(strains))


def _combine_distances(found: Sequence[Distances]) -> Distances:
    relaxed, scale = _combine_lengths([one.relaxed for one in found], [one.scale for one in found])
    displaced, displaced_scale = _combine_lengths(
        [one.displaced for one in found], [one.displaced_scale for one in found]
    )
    return Distances(relaxed, scale, found[0].anchored, displaced, displaced_scale, found[0].exact)


def _combine_lengths(lengths: Sequence[Tensor], scales: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Return mean length and total uncertainty, equations 22 and 23."""
    mean = _mean(lengths)  # eq. 22
    uncertainty = [
        (length - mean).abs() + (0 if scale is None else scale)  # eq. 21
        for length, scale in zip(lengths, scales, strict=True)
    ]
    return mean, _mean(uncertainty)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(dim=0)
