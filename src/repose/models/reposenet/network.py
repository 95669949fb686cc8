"""ReposeNet: equivariant, and invariant under the choice of cell, images and supercell.

The published families are equivariant under rotation, but another periodic image of an atom, another choice
of lattice vectors or a supercell changes their predictions. ReposeNet does not depend on these:

* Affine and internal displacements are separate. The crystal has a symmetric stretch, which atoms follow; on
  top of it every atom has a displacement, with zero mean over the crystal. The orientation of the input is
  kept.
* The stretch is the exponential of strains, read out as tensors averaged over the atoms: the mean is the same
  in a primitive cell and in a supercell. There are no lattice nodes; atoms receive the mean of the scalars
  and tensors of their crystal instead.
* Atoms have scalars, vectors and symmetric traceless tensors of rank 2, and products of them (`Update`). At a
  centre of inversion vectors vanish, tensors do not.
* Messages are multiplied by a smooth cutoff function; no limit on neighbours cuts a shell of equal distances.

All operations are smooth and commute with the symmetry operations of the crystal: the prediction has every
symmetry of the input.

Example configuration::

    {"model": {"features": 128, "layers": 3, "passes": 3}, "sampling": {"recycled": 0.3}}
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from repose.crystal.batch import CrystalBatch
from repose.crystal.elements import MAX_NUMBER
from repose.crystal.graph import SHELL_WIDTH, PeriodicGraph
from repose.crystal.lattice import follow_cell, periodic_span
from repose.models.initial_structure import initial_structure, volume_ratio
from repose.models.network import Network
from repose.models.prediction import ErrorScales, Geometry, Motion, Prediction, is_valid
from repose.models.registry import register
from repose.models.reposenet.settings import ReposeNetSettings
from repose.models.uncertainty.head import UncertaintyHead
from repose.nn.element_embedding import ElementEmbedding
from repose.nn.equivariant import mlp
from repose.nn.kernels.radial_tables import Compiled
from repose.nn.messages import EdgeGeometry
from repose.nn.ops import segment_mean
from repose.nn.radial import GaussianBasis, envelope
from repose.nn.tensor_messages import Features, TensorMessage, compiles
from repose.nn.tensor_updates import Owners, invariants, readout, updated
from repose.nn.tensors import matrices

# Strain, and displacement in A, of an output of one.
STRAIN, DISPLACEMENT = 0.1, 0.3
# Logarithm of a length, from the volume predicted by composition, that counts as one.
LOG_LENGTH = 0.05
# Exponent of the expected variances in the weights of passes, and factor on the weight of the input.
POWER, STAYING = 3, 10.0
# Exponent of the polynomial cutoff function.
ENVELOPE_EXPONENT = 5


class Update(Compiled):
    """Update of an atom's features by products with each other and with their means over the crystal."""

    def __init__(self, settings: ReposeNetSettings) -> None:
        super().__init__()
        f = settings.features
        self.products = settings.products
        self.norm = nn.LayerNorm(f)
        self.vectors = nn.Linear(f, 2 * f, bias=False)
        self.tensors = nn.Linear(f, 2 * f, bias=False)
        self.phi = mlp(5 * f, f, 6 * f)

    def forward(self, features: Features, owners: Owners) -> Features:
        """Return new features."""
        native = self.compiled and features.x.device.type == "cpu"
        vv, tt = self.vectors(features.v), self.tensors(features.t)
        factors = self.phi(invariants(self.norm(features.x), vv, tt, owners, native))
        return updated(features, factors, vv, tt, self.products, native)


class Readout(Compiled):
    """Displacements of atoms and the strain of the crystal."""

    def __init__(self, features: int, stays: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.gates = mlp(features, features, 2 * features)
        self.amount = mlp(3 * features, features, 2) if stays else None
        self.vector = nn.Linear(features, 1, bias=False)
        self.tensor = nn.Linear(features, 1, bias=False)
        self.isotropic = mlp(3 * features, features, 1)
        with torch.no_grad():  # small change of volume at initialisation
            self.isotropic[-1].weight.mul_(0.1)  # type: ignore[operator, union-attr]
            self.isotropic[-1].bias.zero_()  # type: ignore[operator, union-attr]
            if self.amount is not None:
                self.amount[-1].bias.fill_(3.0)  # type: ignore[operator, union-attr]

    def forward(self, features: Features, owners: Owners) -> Motion:
        """Return displacements with zero mean over every crystal, and strains."""
        native = self.compiled and features.x.device.type == "cpu"
        features = features._replace(x=self.norm(features.x))
        of_v, of_t = self.vector.weight[0], self.tensor.weight[0]
        step, tensor, lengths = readout(features, self.gates(features.x), of_v, of_t, owners, native)
        strain = matrices(tensor) + self.isotropic(lengths).unsqueeze(-1) * torch.eye(3).to(step)
        if self.amount is not None:
            amount = torch.sigmoid(self.amount(lengths))
            step, strain = step * amount[owners.index, :1], strain * amount[:, 1:, None]
        return Motion(DISPLACEMENT * step, STRAIN * strain)


class ReposeNetLayer(nn.Module):
    """Messages, update and readout."""

    def __init__(self, settings: ReposeNetSettings) -> None:
        super().__init__()
        self.message = TensorMessage(settings.features, settings.n_basis, settings.radii, settings.rank2)
        self.update = Update(settings)
        self.readout = Readout(settings.features, settings.stays)

    def forward(
        self, features: Features, edges: EdgeGeometry, inside: Tensor, owners: Owners
    ) -> tuple[Features, Motion]:
        """Return new features and their readout.

        Args:
            features: Features of atoms.
            edges: Edges at the current geometry.
            inside: Cutoff function of every edge, ``(E,)``.
            owners: Crystals of the atoms.
        """
        features = self.update(self.message(features, edges, inside), owners)
        return features, self.readout(features, owners)


def mean_of_passes(batch: CrystalBatch, found: list[Prediction]) -> Prediction:
    """Mean of the predictions of several passes and of the input, weighted by their expected errors (ours).

    Weights are s^-6, where s^2 is the mean square error expected of the atoms times that of the strains; not
    inverse squares as for independent errors, because errors of passes are correlated. The input has a weight
    if its error is predicted, and it has `STAYING` times that weight: a crystal at rest stays at rest.

    Args:
        batch: Input of the first pass, N atoms in S crystals.
        found: Predictions of the passes. Crystals that are not valid in a pass have weight zero there. The
            last pass is returned for crystals that are valid in none, and without expected errors.

    Returns:
        Mean geometry in A, its expected errors, and the mean features of the passes, ``(S, F)``.
    """
    last, of_input = found[-1], found[0].input_scales
    geometries = [prediction.geometry for prediction in found]
    errors = [prediction.error_scales for prediction in found]
    if of_input is not None:
        geometries, errors = [*geometries, Geometry(batch.positions, batch.cells)], [*errors, of_input]
    scales = [scale for scale in errors if scale is not None]
    if len(scales) < max(2, len(errors)):
        return last
    n, crystal, passes = len(batch), batch.system_index, len(found)
    variances = torch.stack([segment_mean(scale.atoms, crystal, n) * scale.strains for scale in scales])
    valid = torch.stack([is_valid(batch, geometry) for geometry in geometries])  # (candidates, S)
    logits = -POWER * variances.to(batch.cells).log()
    logits[passes:] += math.log(STAYING)
    logits[~valid] = -math.inf
    lost = ~valid[:passes].any(0)
    logits[:, lost] = -math.inf
    logits[passes - 1, lost] = 0.0

    def mean(values: list[Tensor], owner: Tensor | None = None) -> Tensor:
        """Return the mean of values of crystals, or of atoms with the given crystals."""
        stacked, weights = torch.stack(values), logits[: len(values)].softmax(0)
        weights = weights if owner is None else weights[:, owner]
        weights = weights.view(*weights.shape, *[1] * (stacked.dim() - 2)).to(stacked.dtype)
        return torch.where(weights > 0, weights * stacked, 0).sum(0)  # 0 * inf is NaN

    geometry = Geometry(
        mean([geometry.positions for geometry in geometries], crystal),
        mean([geometry.cells for geometry in geometries]),
    )
    expected = ErrorScales(mean([s.atoms for s in scales], crystal), mean([s.strains for s in scales]))
    return Prediction([geometry], mean([prediction.latent for prediction in found]), expected)


@register("reposenet")
class ReposeNet(Network[ReposeNetSettings]):
    """Network of ReposeNet."""

    settings_type = ReposeNetSettings
    heads = ("uncertainty_head", "input_head")
    learns_forces = True
    double_geometry = True
    plain_edge_bytes = 150  # six filters, vectors and tensors of senders

    def __init__(self, settings: ReposeNetSettings) -> None:
        super().__init__(settings)
        f = settings.features
        self.basis = GaussianBasis(settings.n_basis, settings.reach)
        self.embedding = ElementEmbedding(f, settings.embedding, settings.property_noise)
        # A^3 per atom of every element, fitted to the training crystals; zero where unknown.
        self.atomic_volumes: Tensor
        self.register_buffer("atomic_volumes", torch.zeros(MAX_NUMBER + 1))
        self.of_volume = mlp(2, f, f) if settings.volume_feature else None
        if self.of_volume is not None:
            nn.init.zeros_(self.of_volume[-1].weight)  # type: ignore[arg-type]
        different = 1 if settings.tied else settings.layers
        self.layers = nn.ModuleList(ReposeNetLayer(settings) for _ in range(different))
        self.uncertainty_head = UncertaintyHead(f) if settings.uncertainty_head else None
        self.input_head = UncertaintyHead(f) if settings.uncertainty_head and settings.stays else None

    @property
    def passes(self) -> int:
        """See `Network.passes`."""
        return self.settings.passes

    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """Starting geometry and its graph; see `Network.prepare`."""
        return initial_structure(batch, self.settings, self.atomic_volumes)

    def compiles(self) -> bool:
        """See `Network.compiles`."""
        return compiles(self.settings.features, next(self.parameters()))

    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """Refine the geometry layer by layer, in `passes` passes; see `Network.forward`."""
        found = [self._refined(batch, graph)]
        if self.training:
            return found[0]
        for _ in range(self.passes - 1):
            found.append(self._refined(*self.prepare_again(batch, found[-1].geometry)))
        return mean_of_passes(batch, found)

    def _refined(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """One pass through the layers."""
        crystal, owners = batch.system_index, Owners(batch.system_index, batch.start)
        features, edges, inside = self._begin(batch, graph)
        state = Geometry(batch.positions, batch.cells)
        exact = torch.autocast(batch.device.type, enabled=False)  # mixed precision would round cells
        with exact:
            span = periodic_span(batch.cells, batch.pbc)
        logarithm, geometries = torch.zeros_like(batch.cells), list[Geometry]()
        for index, layer in enumerate(self._stack()):
            features, (step, strain) = layer(features, edges, inside, owners)
            with exact:
                logarithm = logarithm + span @ strain.to(span) @ span  # vacuum is not strained
                cells = batch.cells @ torch.linalg.matrix_exp(logarithm)
            followed = follow_cell(state.positions, state.cells, cells, crystal)
            state = Geometry(followed + step, cells)
            geometries.append(state)
            if index + 1 < self.settings.layers:
                edges = EdgeGeometry.at(graph, *state, self.basis, self.compiled)
        change = features.x, Geometry(batch.positions, batch.cells), state, crystal
        scales, input_scales = (
            None if head is None else head(*change) for head in (self.uncertainty_head, self.input_head)
        )
        return Prediction(geometries, owners.mean(features.x), scales, input_scales=input_scales)

    def readout_forces(self, batch: CrystalBatch, graph: PeriodicGraph) -> tuple[list[Motion], Tensor]:
        """See `Network.readout_forces`."""
        features, edges, inside = self._begin(batch, graph)
        motions, owners = list[Motion](), Owners(batch.system_index, batch.start)
        for layer in self._stack():
            features, motion = layer(features, edges, inside, owners)
            motions.append(motion)
        return motions, features.x

    def _begin(self, batch: CrystalBatch, graph: PeriodicGraph) -> tuple[Features, EdgeGeometry, Tensor]:
        """Return the embedding of the elements, the edges, and their cutoff function ``(E,)``."""
        x = self.embedding(batch.numbers).to(self.basis.centres)  # sums of features are not rounded
        if self.of_volume is not None:
            ratio = volume_ratio(batch, self.atomic_volumes).log() / (3 * LOG_LENGTH)
            of_volume = self.of_volume(torch.stack([ratio, torch.tanh(ratio)], dim=-1).to(x))
            x = x + of_volume[batch.system_index]
        features = Features(x, x.new_zeros(len(x), 3, x.shape[-1]), x.new_zeros(len(x), 5, x.shape[-1]))
        edges = EdgeGeometry.at(graph, batch.positions, batch.cells, self.basis, self.compiled)
        # The cutoff function is that of the starting geometry in all layers.
        inside = envelope(edges.distance / (self.settings.graph.cutoff + SHELL_WIDTH), ENVELOPE_EXPONENT)
        return features, edges, inside

    def _stack(self) -> list[nn.Module]:
        """Layers in order of use; with ``tied`` one layer is repeated."""
        return [self.layers[0 if self.settings.tied else k] for k in range(self.settings.layers)]
