"""RelaxNet: relaxation paths with energies and forces, from the input to the relaxed crystal.

An encoder computes features of the atoms. They give initial velocities of atoms and cell, and an energy,
whose negative gradient accelerates them. torchdiffeq integrates the equation of motion; frames at even
pseudotimes are the predicted path, and the last frame is the relaxed crystal.

Where this differs from the paper:

* The cell moves too: its strain rate follows the stress as velocities follow forces, with as much inertia
  as the atoms have. ``cell="fixed"`` is the published form.
* Motion is damped by learned friction, so that it comes to rest, forces and stress have learned factors, and
  the mean of the positions is kept. ``damped=False`` is the published form, du/dt = F/m.
* The energy is a sum over elements, fitted by least squares, plus the output of the network.
  ``references=False`` leaves out the elements.
* With explicit evolution the energy depends on the features, which evolve by an equation of their own, and on
  the geometry through one pairwise convolution: forces are its gradient at fixed features.
* Directions enter through invariants only (`repose.models.relaxnet.encoder`); equation 6b as printed is
  ``expansion="harmonics"``.

``evolution="static"`` is the paper's baseline: the encoder without the equation of motion.

Example configuration::

    {"model": {"features": 96, "layers": 2, "frames": 5, "solver": "rk4"}, "paths": {"forces": 1.0}}
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from repose.config import TrainSettings
from repose.crystal.batch import CrystalBatch
from repose.crystal.elements import MAX_NUMBER, atomic_masses
from repose.crystal.graph import PeriodicGraph, periodic_graph
from repose.crystal.lattice import periodic_span, to_cartesian, volume
from repose.errors import ConfigError, InvalidCrystalError
from repose.models.initial_structure import rescale_volume
from repose.models.network import DISTANCE_LOSS, GEOMETRY_LOSS, Network
from repose.models.prediction import ErrorScales, Geometry, Prediction, Trajectory
from repose.models.registry import register
from repose.models.relaxnet.encoder import (
    TYPICAL_NEIGHBOURS,
    Attention,
    DTNNLayer,
    NeighbourField,
    weighted_edges,
)
from repose.models.relaxnet.settings import RelaxNetSettings
from repose.models.uncertainty.head import UncertaintyHead
from repose.nn.element_embedding import ElementEmbedding
from repose.nn.equivariant import mlp
from repose.nn.ops import segment_mean, segment_sum
from repose.nn.radial import GaussianBasis
from repose.nn.triplets import triplets

# Factor on the cutoff of the neighbour search, for atoms that approach along the path.
SKIN = 1.1
# Strain, and displacement in A, of an output of one.
STRAIN, DISPLACEMENT = 0.1, 0.3
# Largest number of steps of an adaptive solver between two frames.
MOST_STEPS = 100
# Length in A; an atom contributes its mass times the square of this to the inertia of the cell.
CELL_LENGTH = 3.0
# Random inputs of `SamplingSettings`, for which there are no paths.
PERTURBATIONS = (
    *("relaxed", "denoising", "interpolated", "decades", "symmetric", "rewritten"),
    *("strain", "dilation", "rattle"),
)


class PathState(NamedTuple):
    """Variables of the equation of motion.

    They do not depend on the origin, on the periodic images of atoms or on the choice of lattice vectors, nor
    do the lengths of adaptive steps.

    Attributes:
        displacements: Displacements from the input, in its undeformed frame, A, ``(N, 3)``.
        velocities: Velocities of atoms relative to the cell, A, ``(N, 3)``; pseudotime has no unit.
        gradients: Deformation gradient F of the cell, ``cell = input cell @ F``, ``(S, 3, 3)``.
        rates: Strain rates, symmetric, ``(S, 3, 3)``.
        features: Features of atoms, ``(N, F)``; with implicit evolution ``(N, 0)``.
    """

    displacements: Tensor
    velocities: Tensor
    gradients: Tensor
    rates: Tensor
    features: Tensor


class Potential(NamedTuple):
    """Energy of a geometry and its derivatives.

    Attributes:
        energy: eV per cell, ``(S,)``.
        forces: eV/A, ``(N, 3)``.
        virial: dE/dstrain, symmetric, eV, ``(S, 3, 3)``.
        change: Derivative of the features by pseudotime, ``(N, F)``.
    """

    energy: Tensor
    forces: Tensor
    virial: Tensor
    change: Tensor


@register("relaxnet")
class RelaxNet(Network[RelaxNetSettings]):
    """The network of RelaxNet."""

    settings_type = RelaxNetSettings
    heads = ("uncertainty_head", "energy", "velocity", "vectors", "dilation")
    unused = (*GEOMETRY_LOSS, *DISTANCE_LOSS, *(f"sampling.{name}" for name in PERTURBATIONS))
    differentiates = True

    reference_energies: Tensor
    energy_scale: Tensor
    atomic_volumes: Tensor
    gain: nn.Parameter
    friction: nn.Parameter
    field: NeighbourField  # with explicit evolution only, as `motion`
    motion: nn.Sequential

    def __init__(self, settings: RelaxNetSettings) -> None:
        super().__init__(settings)
        f = settings.features
        # Explicit evolution differentiates without the encoder, the others with it.
        self.plain_edge_bytes = 200 if settings.evolution == "explicit" else 700
        self.basis = GaussianBasis(settings.n_basis, settings.reach)
        self.embedding = ElementEmbedding(f, settings.embedding, settings.property_noise)
        self.charge = nn.Linear(1, f, bias=False) if settings.charges else None
        self.layers = nn.ModuleList(DTNNLayer(settings) for _ in range(settings.layers))
        self.join = nn.Linear((settings.layers + 1) * f, f)
        # Energies of the elements are fitted by the training task.
        self.attention = Attention(f, settings.heads)
        self.energy = mlp(f, f, 1)
        self.register_buffer("reference_energies", torch.zeros(MAX_NUMBER + 1))  # eV per atom
        self.register_buffer("energy_scale", torch.ones(()))  # eV per atom
        # A^3 per atom, for the initial rate of the volume.
        self.register_buffer("atomic_volumes", torch.zeros(MAX_NUMBER + 1))
        self.velocity = mlp(2 * f, f, 2)
        self.vectors = nn.Linear(settings.triplets, 1, bias=False) if settings.triplets else None
        self.dilation = mlp(2 * f, f, 1)
        with torch.no_grad():  # small change of volume at initialisation
            self.dilation[-1].weight.mul_(0.1)  # type: ignore[operator, union-attr]
            self.dilation[-1].bias.zero_()  # type: ignore[operator, union-attr]
        # Factors of the equation of motion for atoms and cell, before softplus.
        self.gain = nn.Parameter(torch.full((2,), _inverse_softplus(1.0)))
        self.friction = nn.Parameter(torch.full((2,), _inverse_softplus(2.0)))
        if settings.evolution == "explicit":
            self.field = NeighbourField(f, settings.n_basis)
            self.motion = mlp(2 * f + 1, f, f)
        self.uncertainty_head = UncertaintyHead(f) if settings.uncertainty_head else None

    @property
    def path_frames(self) -> int:
        """See `Network.path_frames`."""
        return 2 if self.settings.evolution == "static" else self.settings.frames

    def check_training(self, settings: TrainSettings) -> None:
        """See `Network.check_training`."""
        super().check_training(settings)
        s = self.settings
        if s.graph.within_cell:
            raise ConfigError("model.graph.within_cell: without effect on family 'relaxnet'; leave it out.")
        if s.triplets and s.triplet_cutoff > s.graph.cutoff:
            raise ConfigError(
                f"model.triplet_cutoff must not exceed model.graph.cutoff, where edges end; got "
                f"{s.triplet_cutoff} and {s.graph.cutoff}."
            )
        if s.evolution == "static" and not s.hidden_steps:
            raise ConfigError("model.hidden_steps=false with model.evolution=static: no atom would move.")

    def prepare(self, batch: CrystalBatch) -> tuple[CrystalBatch, PeriodicGraph]:
        """Input geometry and its graph, with a skin beyond the cutoff; see `Network.prepare`."""
        s = self.settings.graph
        return batch, periodic_graph(
            batch, s.cutoff * SKIN, s.max_neighbours, ties=s.ties, self_images=s.self_images
        )

    def forward(self, batch: CrystalBatch, graph: PeriodicGraph) -> Prediction:
        """Integrate the relaxation paths; see `Network.forward`."""
        evolution = self.settings.evolution
        if self.settings.solver == "dopri5" and evolution != "static" and len(batch) > 1:
            # Adaptive steps are per crystal.
            return _concatenated([self(*self.prepare(crystal)) for crystal in batch])
        motion = EquationOfMotion(self, batch, graph)
        features, rates, velocities, steps = motion.initial_rates()
        hidden = features if evolution == "explicit" else features[:, :0]
        undeformed = torch.eye(3).to(rates).expand_as(rates)
        start = PathState(torch.zeros_like(velocities), velocities, undeformed, rates, hidden)
        if evolution == "static":
            end = start._replace(displacements=steps, gradients=torch.linalg.matrix_exp(rates))
            states = PathState(*map(torch.stack, zip(start, end, strict=True)))
        else:
            states = motion.integrate(start)
        trajectory = motion.trajectory(states)
        frames = [Geometry(*frame) for frame in zip(trajectory.positions, trajectory.cells, strict=True)]
        last = states.features[-1] if evolution == "explicit" else features
        scales = None
        if self.uncertainty_head is not None:
            scales = self.uncertainty_head(last, frames[0], frames[-1], batch.system_index)
        latent = segment_mean(features, batch.system_index, len(batch))
        return Prediction(frames[1:], latent, scales, trajectory=trajectory)

    def potential(self, batch: CrystalBatch, graph: PeriodicGraph) -> Potential:
        """Energies, forces and virials at the input geometry, as at the first frame of a path."""
        motion = EquationOfMotion(self, batch, graph)
        features = motion.encode(batch.positions, batch.cells)[0]
        return motion.potential(batch.positions, batch.cells, features, torch.zeros(()).to(features))


class EquationOfMotion:
    """Equation of motion of a batch."""

    def __init__(self, network: RelaxNet, batch: CrystalBatch, graph: PeriodicGraph) -> None:
        self.network, self.settings = network, network.settings
        self.batch, self.graph, self.n = batch, graph, len(batch)
        self.span = periodic_span(batch.cells, batch.pbc)  # vacuum is not strained
        masses = torch.from_numpy(atomic_masses()).to(batch.positions)
        self.masses = masses[batch.numbers].unsqueeze(-1)  # u, (N, 1)
        self.inertia = CELL_LENGTH**2 * segment_sum(self.masses, batch.system_index, self.n).unsqueeze(-1)
        start = weighted_edges(graph, batch.positions, batch.cells, network.basis, self.settings)
        near = start.geometry.distance < self.settings.triplet_cutoff * SKIN
        self.found = triplets(graph.receiver, near, graph.n_atoms)

    def encode(self, positions: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of atoms ``(N, F)``, vectors ``(N, 3, V)`` and hidden positions ``(N, 3)``."""
        network = self.network
        x = network.embedding(self.batch.numbers)
        if network.charge is not None:
            if self.batch.charges is None:
                raise InvalidCrystalError(
                    "the model needs charges of all atoms: initial charges of ASE, or in a dataset those of "
                    "VASP, imported with the OUTCAR beside vasprun.xml."
                )
            x = x + network.charge(self.batch.charges.unsqueeze(-1))
        v = x.new_zeros(len(x), 3, self.settings.triplets)
        seen = [x]
        for layer in network.layers:
            around = weighted_edges(self.graph, positions, cells, network.basis, self.settings)
            x, v, step = layer(x, v, around, self.found)
            seen.append(x)
            if step is not None:
                positions = positions + step
        return network.join(torch.cat(seen, dim=-1)), v, positions

    def initial_rates(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features ``(N, F)``, strain rates ``(S, 3, 3)``, velocities and hidden steps, ``(N, 3)`` each."""
        network, batch, graph, n = self.network, self.batch, self.graph, self.n
        x, v, hidden = self.encode(batch.positions, batch.cells)
        around = weighted_edges(graph, batch.positions, batch.cells, network.basis, self.settings)
        direction, inside = around.geometry.direction, around.inside.unsqueeze(-1)
        pair = torch.cat([x[graph.receiver] + x[graph.sender], x[graph.receiver] * x[graph.sender]], dim=-1)
        along, across = (network.velocity(pair) * inside).split(1, dim=-1)  # (E, 1)
        velocities = segment_sum(along * direction, graph.receiver, len(x)) / math.sqrt(TYPICAL_NEIGHBOURS)
        if network.vectors is not None:
            velocities = velocities + network.vectors(v).squeeze(-1)
        velocities = DISPLACEMENT * velocities
        dyads = direction.unsqueeze(-1) * direction.unsqueeze(-2) - torch.eye(3).to(x) / 3
        pulled = segment_sum(across.unsqueeze(-1) * dyads, graph.receiver, len(x)) / math.sqrt(
            TYPICAL_NEIGHBOURS
        )
        whole = segment_mean(x, batch.system_index, n)
        spread = segment_mean(torch.tanh(x), batch.system_index, n)
        isotropic = network.dilation(torch.cat([whole, spread], dim=-1)).unsqueeze(-1) * torch.eye(3).to(x)
        rates = STRAIN * (segment_mean(pulled, batch.system_index, n) + isotropic)
        if self.settings.start == "rescaled":
            guess = volume(rescale_volume(batch, network.atomic_volumes).cells) / volume(batch.cells)
            # Compensates for the friction.
            damped, brake = self.settings.damped and self.settings.evolution != "static", self.friction[1]
            boost = brake / -torch.expm1(-brake) if damped else 1.0
            rates = rates + boost * (guess.log() / 3)[:, None, None] * torch.eye(3).to(x)
        steps = self._centred(hidden - batch.positions)
        return x, self._allowed(rates), self._centred(velocities), steps

    @property
    def friction(self) -> Tensor:
        """Friction of atoms and of the cell, ``(2,)``."""
        return nn.functional.softplus(self.network.friction)

    def _allowed(self, rates: Tensor) -> Tensor:
        """Strain rates projected on the periodic directions; zero for a fixed cell."""
        return self.span @ rates @ self.span if self.settings.cell == "moves" else torch.zeros_like(rates)

    def _centred(self, vectors: Tensor) -> Tensor:
        """Vectors minus their mean over the crystal."""
        return vectors - segment_mean(vectors, self.batch.system_index, self.n)[self.batch.system_index]

    def potential(self, positions: Tensor, cells: Tensor, features: Tensor, time: Tensor) -> Potential:
        """Energy, its exact gradient by positions and strain, and the derivative of the features.

        Args:
            positions: A, ``(N, 3)``.
            cells: Rows, A, ``(S, 3, 3)``.
            features: Features of atoms, ``(N, F)``; used with explicit evolution only.
            time: Pseudotime.
        """
        network, crystal, n = self.network, self.batch.system_index, self.n
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            shift = torch.zeros_like(positions).requires_grad_()
            strain = torch.zeros_like(cells).requires_grad_()
            moved = positions + shift
            moved = moved + to_cartesian(moved, strain, crystal)
            strained = cells + cells @ strain
            if self.settings.evolution != "explicit":
                x, change = self.encode(moved, strained)[0], features
            else:
                around = weighted_edges(self.graph, moved, strained, network.basis, self.settings)
                own = nn.functional.layer_norm(features, features.shape[-1:])
                message = network.field(own, around.geometry.basis, around.inside, self.graph)
                clock = time.expand(len(own), 1).to(own)
                change = network.motion(torch.cat([own, message, clock], dim=-1))
                x = features + message
            x = x + network.attention(x, crystal, n)
            own = network.energy_scale * network.energy(x).squeeze(-1)
            energy = segment_sum(own, crystal, n)
            of_atoms, of_cells = torch.autograd.grad(energy.sum(), (shift, strain), create_graph=training)
        reference = segment_sum(network.reference_energies[self.batch.numbers], crystal, n)
        found = Potential(energy + reference, -of_atoms, (of_cells + of_cells.transpose(-1, -2)) / 2, change)
        return found if training else Potential(*(part.detach() for part in found))

    def __call__(self, time: Tensor, state: tuple[Tensor, ...]) -> PathState:
        """Return the derivative of the state by pseudotime."""
        displacements, velocities, gradients, rates, features = PathState(*state)
        found = self.potential(*self.geometry(displacements, gradients), features, time)
        gain = nn.functional.softplus(self.network.gain) if self.settings.damped else (1.0, 1.0)
        pushed, strained = found.forces / self.masses, -gain[1] * found.virial / self.inertia
        if self.settings.damped:
            pushed = gain[0] * self._centred(pushed) - self.friction[0] * velocities
            strained = strained - self.friction[1] * rates
        # The inverse of a flat cell is not finite; the relaxer checks the path for it.
        inverse = torch.linalg.inv_ex(gradients).inverse
        moved = to_cartesian(velocities, inverse, self.batch.system_index)
        return PathState(moved, pushed, gradients @ rates, self._allowed(strained), found.change)

    def geometry(self, displacements: Tensor, gradients: Tensor) -> Geometry:
        """Positions and cells of a state, or of several, ``(T, ...)``."""
        moved = self.batch.positions + displacements
        positions = (moved.unsqueeze(-1) * gradients[..., self.batch.system_index, :, :]).sum(-2)
        return Geometry(positions, (self.batch.cells.unsqueeze(-1) * gradients.unsqueeze(-3)).sum(-2))

    def integrate(self, start: PathState) -> PathState:
        """Return states at all frames, each part ``(T, ...)``; NaN after the first if the solver fails."""
        from torchdiffeq import odeint, odeint_adjoint

        s = self.settings
        times = torch.linspace(0, 1, s.frames).to(start.velocities)
        if s.solver == "dopri5":
            options: dict[str, float] = {"max_num_steps": MOST_STEPS}
        else:
            options = {"step_size": 1 / (s.frames - 1) / s.substeps}
        tools: dict[str, Any] = {"method": s.solver, "options": options}
        # A relative tolerance would depend on the origin.
        tools |= {"rtol": 0.0, "atol": s.tolerance}
        try:
            if s.adjoint and torch.is_grad_enabled():
                weights = tuple(self.network.parameters())
                solved: Any = odeint_adjoint(self, start, times, adjoint_params=weights, **tools)
            else:
                solved = odeint(self, start, times, **tools)
        except AssertionError:  # raised where steps are too short or too many
            solved = [
                torch.stack([part, *[torch.full_like(part, torch.nan)] * (s.frames - 1)]) for part in start
            ]
        return PathState(*solved)

    def trajectory(self, states: PathState) -> Trajectory:
        """Energies, forces and stresses of all frames."""
        positions, cells = self.geometry(states.displacements, states.gradients)
        times = torch.linspace(0, 1, len(positions)).to(positions)
        frames = [self.potential(*at) for at in zip(positions, cells, states.features, times, strict=True)]
        energies, forces, virials, _ = (torch.stack(column) for column in zip(*frames, strict=True))
        stresses = virials / torch.linalg.det(cells).abs()[..., None, None]
        return Trajectory(positions, cells, energies, forces, stresses)


def _concatenated(predictions: list[Prediction]) -> Prediction:
    """Concatenate predictions of single crystals to that of a batch."""

    def along(dim: int, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, dim=dim)

    layers = [
        Geometry(*map(partial(along, 0), *frames))
        for frames in zip(*(one.layers for one in predictions), strict=True)
    ]
    latent = along(0, *(one.latent for one in predictions))
    scales = [one.error_scales for one in predictions if one.error_scales is not None]
    ways = [one.trajectory for one in predictions if one.trajectory is not None]
    return Prediction(
        layers,
        latent,
        ErrorScales(*map(partial(along, 0), *scales)) if scales else None,
        trajectory=Trajectory(*map(partial(along, 1), *ways)),
    )


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))
