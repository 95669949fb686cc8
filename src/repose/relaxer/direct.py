"""Trained networks as relaxers: one forward pass."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from math import pi
from typing import Any

import torch
from torch import Tensor, nn

from repose.config import Computation, GraphSettings, Precision
from repose.crystal.batch import CrystalBatch
from repose.crystal.deformation import determinant
from repose.crystal.graph import PeriodicGraph
from repose.models.checkpoint import ModelConfig
from repose.models.ensemble import Ensemble
from repose.models.network import Network
from repose.models.prediction import Geometry, Trajectory
from repose.models.uncertainty.expected_errors import expected_errors
from repose.relaxer.base import Relaxer
from repose.relaxer.batch_relaxation import BatchRelaxation, split_bonds, split_trajectory
from repose.relaxer.side_by_side import each

# Bytes of memory of one forward pass, measured on a CPU with 200 to 6,000 atoms, for all but the plain
# computation (`Network.plain_edge_bytes`): per edge and feature, per edge, and per atom and feature; and per
# pair of atoms within the cutoff while the graph is built. On a GPU each batch corrects them for the next.
EDGE_FEATURE_BYTES, EDGE_BYTES, ATOM_BYTES = 12, 900, 150
PAIR_BYTES = 250

# Seconds of predicting on a GPU after which compiling, which takes some ten seconds, pays off.
COMPILE_AFTER = 30.0


class DirectRelaxer(Relaxer):
    """A trained network as a relaxer: one forward pass.

    Args:
        network: Network; moved to the device and prepared for inference.
        config: Configuration of the model directory.
        device: Device that it computes on.
        path: Computation path; results agree within 1e-4 A. ``"plain"``: as in training; ``"tabulated"``:
            radial filters are read from splines; ``"compiled"``: also with compiled kernels, where there is a
            compiler; ``"auto"``: compiled on a CPU; on a GPU tabulated, and compiled after `COMPILE_AFTER`
            seconds of predicting.
        precision: ``"float32"``, or ``"bfloat16"`` in matrix products, for processors and GPUs that support
            it: faster, results differ by 1e-3 A on average and 0.03 A at most (shipped `e3relax`, 100
            crystals). Geometry stays in full precision.
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
        self.seconds_predicting = 0.0
        if path == "auto" and self.device.type == "cpu":
            self._compile()
        elif path != "plain":
            self.network.accelerate(compiled=path == "compiled")
        self.reduced = precision == "bfloat16"
        if self.reduced:  # weights are converted here, activations by autocast
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
        """Floating-point type of geometries and features."""
        return torch.float32 if self.reduced else next(self.network.parameters()).dtype

    def predict(self, batch: CrystalBatch) -> Geometry:
        """See `Relaxer.predict`."""
        return self._forward(batch)[0].geometry

    def relax_batch(self, batch: CrystalBatch) -> BatchRelaxation:
        """See `Relaxer.relax_batch`."""
        relaxed, latent_distance, graph = self._forward(batch)
        calibration, expected = self.config.calibration, relaxed.expected
        if calibration is None or expected is None:
            return relaxed
        strains = None
        if expected.strains is not None and calibration.strains is not None:
            strains = calibration.strains * expected.strains
        counts = batch.counts.cpu()
        crystals = zip(batch.numbers.cpu().split(counts.tolist()), latent_distance.tolist(), strict=True)
        return replace(
            relaxed,
            bounds=calibration.bounds(expected),
            atom_uncertainty=calibration.atoms * expected.atoms,
            strain_uncertainty=strains,
            bond_uncertainty=split_bonds(graph, relaxed.geometry, calibration.bonds * expected.bonds, counts),
            outside=[calibration.outside(numbers, distance) for numbers, distance in crystals],
        )

    def _forward(self, batch: CrystalBatch) -> tuple[BatchRelaxation, Tensor, PeriodicGraph]:
        """Relaxed geometry and expected errors, not calibrated; latent distances ``(S,)``; the graph."""
        start = time.perf_counter()
        together = self.device.type != "cpu" or self.network.differentiates
        work = batch.n_atoms * self.network.settings.features**2
        parts = [self._pass(batch)] if together else each(self._pass, batch, work)
        self.seconds_predicting += time.perf_counter() - start
        if self.path == "auto" and self.seconds_predicting > COMPILE_AFTER:
            self._compile()
        relaxed, latent_distances, graphs = zip(*parts, strict=True)
        if len(parts) == 1:
            return parts[0]
        sizes = [len(one.geometry.cells) for one in relaxed]
        return (
            BatchRelaxation.joined(relaxed),
            torch.cat(latent_distances),
            PeriodicGraph.joined(graphs, sizes),
        )

    def _pass(self, batch: CrystalBatch) -> tuple[BatchRelaxation, Tensor, PeriodicGraph]:
        """Return `_forward` by one forward pass."""
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced)
        # Tensors of inference mode cannot be differentiated in the forward pass.
        no_gradients = torch.no_grad() if self.network.differentiates else torch.inference_mode()
        with no_gradients, mixed:
            # Bond lengths are differences of positions: single precision loses digits in every pass.
            double = self.network.double_geometry and self.device.type != "mps"  # without float64
            dtype = torch.float64 if double else self.dtype
            first, graph = self.network.prepare(batch.to(self.device, dtype))
            prediction = self.network(first, graph)
            geometry, violation = self.network.solve_positions(prediction, first, graph)
            expected = expected_errors(prediction, geometry, first.system_index, graph)
            latent_distance = self.network.out_of_distribution(prediction.latent)

        def back(tensor: Tensor) -> Tensor:
            return tensor.to(batch.device, batch.dtype)

        paths = None
        if prediction.trajectory is not None:
            paths = split_trajectory(Trajectory(*map(back, prediction.trajectory)), batch.counts.cpu())
        relaxed = BatchRelaxation(
            Geometry(*map(back, geometry)),
            expected=None if expected is None else expected.map(back),
            violation=None if violation is None else back(violation),
            paths=paths,
        )
        return relaxed, back(latent_distance), graph.to(batch.device, batch.dtype)

    def _compile(self) -> None:
        """Compile kernels where that is possible; without a warning, since the user did not ask for them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.network.accelerate(compiled=True)
        self.path = "compiled" if self.network.compiled else "tabulated"

    def memory(self, crystal: CrystalBatch) -> float:
        """See `Relaxer.memory`; estimated from the number of edges under the limit on neighbours."""
        settings: Any = self.network.settings
        graph: GraphSettings = getattr(settings, "graph", None) or GraphSettings.parse({})
        atoms = crystal.n_atoms
        volume = abs(determinant(crystal.cells[0].numpy(force=True)))
        inside = atoms / volume * 4 / 3 * pi * graph.cutoff**3
        neighbours = min(inside, 1.2 * graph.max_neighbours if graph.max_neighbours else inside)
        neighbours += min(atoms, graph.within_cell)
        scale = self.dtype.itemsize / 4
        edges, features = atoms * (neighbours + 6 * graph.self_images), getattr(settings, "features", 128)
        if self.path == "plain" or self.network.differentiates:
            network = edges * features * self.network.plain_edge_bytes
        else:
            network = edges * (features * EDGE_FEATURE_BYTES + EDGE_BYTES) + atoms * features * ATOM_BYTES
        if isinstance(self.network, Ensemble) and self.network.together:
            network *= len(self.network.members)
        return network * scale + atoms * inside * PAIR_BYTES
