"""Trained networks as relaxers: one forward pass."""

from __future__ import annotations

import time
import warnings
from math import pi
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from repose.config import Computation, GraphSettings, Precision
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import PeriodicGraph
from repose.crystal.lattice import volume
from repose.models.checkpoint import ModelConfig
from repose.models.deeprelax.positions import settle
from repose.models.ensemble import Ensemble
from repose.models.network import Network
from repose.models.prediction import Geometry, Trajectory
from repose.models.uncertainty.estimate import (
    Errors,
    Estimate,
    expected_errors,
    split_bonds,
    split_trajectory,
)
from repose.relaxer.base import Relaxer

# Bytes of memory that one forward pass needs, measured on a CPU with 200 to 6,000 atoms: on all but the plain
# path (`Network.plain_edge_bytes`) for an edge and feature, for an edge, and for an atom and feature; for a
# pair of atoms within the cutoff while the graph is made. On a GPU every batch corrects them for the next.
EDGE_FEATURE_BYTES, EDGE_BYTES, ATOM_BYTES = 12, 900, 150
PAIR_BYTES = 250

# Seconds of predicting after which compiling, some ten seconds, is worth its while.
COMPILE_AFTER = 30.0


class Answer(NamedTuple):
    """What comes out of a forward pass, on the device and in the type of the batch that went in."""

    geometry: Geometry
    errors: Errors | None
    distance: Tensor  # of the features from those of training, (S,)
    violation: Tensor | None
    graph: PeriodicGraph
    trajectory: Trajectory | None


class DirectRelaxer(Relaxer):
    """A trained network as a relaxer: one forward pass.

    Args:
        network: Weights; moved to the device, made ready for inference.
        config: What the model directory says about it.
        device: Where it runs.
        path: How the numbers are computed; they are the same to 1e-4 A. ``"plain"`` as in training;
            ``"tabulated"`` with radial filters read from splines; ``"compiled"`` with these and with kernels
            that torch makes, where there is a compiler; ``"auto"``: tabulated, and compiled once that has
            been at work for `COMPILE_AFTER` seconds.
        precision: ``"float32"``, or ``"bfloat16"`` in the matrix products, for processors and GPUs that have
            it: faster, answers differ by 1e-3 A in the mean and 0.03 A at most (the shipped `e3relax`, 100
            crystals); geometry keeps its digits.
    """

    def __init__(
        self,
        network: Network[Any],
        config: ModelConfig,
        device: torch.device | str = "cpu",
        path: Computation = "auto",
        precision: Precision = "float32",
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.path: Computation = path
        self.worked = 0.0
        if path != "plain":
            self.network.accelerate(compiled=path == "compiled")
        self.reduced = precision == "bfloat16"
        if self.reduced:  # weights once and for all; autocast sees to what they are multiplied with
            for module in self.network.modules():
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)
        self.config = config
        self.name = config.name
        self.gives_bounds = config.calibration is not None
        self.gives_paths = network.path_frames is not None
        self.elements = frozenset(config.elements) or None

    def __repr__(self) -> str:
        atoms = "all" if self.elements is None else len(self.elements)
        return f"{type(self).__name__}({self.name!r}, device='{self.device}', elements={atoms})"

    @property
    def dtype(self) -> torch.dtype:
        """Type of geometries and features."""
        return torch.float32 if self.reduced else next(self.network.parameters()).dtype

    def predict(self, batch: CrystalBatch) -> Geometry:
        """See `Relaxer.predict`."""
        return self._answer(batch).geometry

    def estimate(self, batch: CrystalBatch) -> Estimate:
        """See `Relaxer.estimate`."""
        answer = self._answer(batch)
        calibration, expected = self.config.calibration, answer.errors
        paths = None if answer.trajectory is None else split_trajectory(answer.trajectory, batch.counts.cpu())
        if calibration is None or expected is None:
            return Estimate(answer.geometry, expected=expected, violation=answer.violation, paths=paths)
        strains = None
        if expected.strains is not None and calibration.strains is not None:
            strains = calibration.strains * expected.strains
        numbers, distances = batch.numbers.cpu().split(batch.counts.tolist()), answer.distance.tolist()
        return Estimate(
            answer.geometry,
            calibration.bounds(expected),
            expected,
            calibration.atoms * expected.atoms,
            strains,
            split_bonds(
                answer.graph, answer.geometry, calibration.bonds * expected.bonds, batch.counts.cpu()
            ),
            [calibration.outside(own, far) for own, far in zip(numbers, distances, strict=True)],
            answer.violation,
            paths,
        )

    def _answer(self, batch: CrystalBatch) -> Answer:
        """Forward pass, search for positions where distances are predicted, and what errors to expect."""
        start = time.perf_counter()
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced)
        # Families that differentiate on the way need tensors that can be, though nothing remembers how.
        frozen = torch.no_grad() if self.network.differentiates else torch.inference_mode()
        with frozen, mixed:
            # Positions lose in single precision what bonds are made of, and every pass enlarges that.
            double = self.network.double_geometry and self.device.type != "mps"  # which has no doubles
            dtype = torch.float64 if double else self.dtype
            first, graph = self.network.prepare(batch.to(self.device, dtype))
            prediction = self.network(first, graph)
            geometry, violation = settle(prediction, first.system_index, graph)
            errors = expected_errors(prediction, geometry, first.system_index, graph)
            distance = self.network.out_of_distribution(prediction.latent)

        def back(tensor: Tensor) -> Tensor:
            return tensor.to(batch.device, batch.dtype)

        answer = Answer(
            Geometry(*map(back, geometry)),
            None if errors is None else errors.map(back),
            back(distance),
            None if violation is None else back(violation),
            graph.to(batch.device, batch.dtype),
            None if prediction.trajectory is None else Trajectory(*map(back, prediction.trajectory)),
        )
        self.worked += time.perf_counter() - start
        if self.path == "auto" and self.worked > COMPILE_AFTER:
            self.path = "compiled"
            with warnings.catch_warnings():  # nobody asked for it
                warnings.simplefilter("ignore")
                self.network.accelerate(compiled=True)
        return answer

    def memory(self, crystal: CrystalBatch) -> float:
        """See `Relaxer.memory`: by the edges that the cap on neighbours lets in."""
        settings: Any = self.network.settings
        graph: GraphSettings = getattr(settings, "graph", None) or GraphSettings.parse({})
        atoms = crystal.n_atoms
        inside = atoms / float(volume(crystal.cells)[0]) * 4 / 3 * pi * graph.cutoff**3
        neighbours = min(inside, 1.2 * graph.max_neighbours if graph.max_neighbours else inside)
        scale = self.dtype.itemsize / 4
        edges, features = atoms * (neighbours + 6 * graph.self_images), getattr(settings, "features", 128)
        if self.path == "plain" or self.network.differentiates:
            network = edges * features * self.network.plain_edge_bytes
        else:
            network = edges * (features * EDGE_FEATURE_BYTES + EDGE_BYTES) + atoms * features * ATOM_BYTES
        if isinstance(self.network, Ensemble) and self.network.together:
            network *= len(self.network.members)
        return network * scale + atoms * inside * PAIR_BYTES
