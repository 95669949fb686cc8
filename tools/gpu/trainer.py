"""State of a training run: steps, validation, checkpoints and the model directory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repose.atomic_write import replacing_directory, replacing_file
from repose.config import TrainSettings
from repose.models.checkpoint import WEIGHTS, ModelConfig, find_model, load_model, save_model
from repose.models.network import Network
from repose.models.registry import family
from repose.nn.kernels.radial_tables import Compiled
from repose.training.losses import training_loss
from repose.training.samples import Sample
from repose.training.steps import clip_gradient, recycled, scored_errors, update_average

PART_BYTES = 15 * 2**20
UNITS = {"coordinates": "A", "lattice": "A", "shape": "A^2", "volume": "A^3"}
# Largest relative difference between the gradients of compiled and of plain operators.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass
class Trainer:
    """A network in training, the moving average of its weights, and how far it is.

    Attributes:
        run: Contents of ``run.json``.
        settings: Settings of the training.
        network: Network that is trained.
        average: Moving average of its weights.
        optimizer: Its optimizer.
        step: Steps done.
        progress: Share of the schedule done.
        seconds: Time spent in training so far.
        best: Lowest validation score so far.
    """

    run: dict[str, Any]
    settings: TrainSettings
    network: Network[Any]
    average: Network[Any]
    optimizer: torch.optim.Optimizer
    step: int = 0
    progress: float = 0.0
    seconds: float = 0.0
    best: float = float("inf")

    @classmethod
    def begin(
        cls,
        stage: Path,
        run: dict[str, Any],
        settings: TrainSettings,
        device: torch.device,
        init_from: str | None = None,
    ) -> Trainer:
        """Return a new run of a staged folder; it may start from the weights of a model."""
        kind = family(run["family"])
        torch.manual_seed(settings.seed)
        network = kind(kind.settings_type.parse(settings.model))
        network.get_buffer("atomic_volumes").copy_(torch.from_numpy(np.load(stage / "volumes.npy")))
        if init_from is not None:
            before, config = load_model(find_model(init_from))
            network.load_state_dict(before.state_dict(), strict=False)
            run = run | {"elements": sorted({*run["elements"], *config.elements})}
        network.to(device)
        average = copy.deepcopy(network).requires_grad_(False).eval()
        decay = {"weight_decay": settings.weight_decay, "amsgrad": settings.amsgrad}
        optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, **decay, fused=True)
        return cls(run, settings, network.train(), average, optimizer)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    @property
    def precision(self) -> torch.dtype:
        """Type of matrix products."""
        on_gpu = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        half = {"auto": on_gpu, "bf16": True, "32": False}[self.settings.precision]
        return torch.bfloat16 if half else torch.float32

    def mixed(self) -> torch.autocast:
        """Context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)

    def loss(self, network: Network[Any], sample: Sample) -> torch.Tensor:
        """Training loss of a sample, in A."""
        with self.mixed():
            found = network(sample.start, sample.graph)
        follow = network.settings.frame == "affine"
        return training_loss(found, sample.start, sample.graph, sample.target, self.settings, follow)

    def take_step(self, sample: Sample, rate: float) -> tuple[float, float]:
        """Train on a sample with a factor on the learning rate; return loss and norm of the gradient.

        The sample is not in use any more on a GPU when this returns.
        """
        rng = np.random.default_rng([self.settings.seed, self.step])
        with self.mixed():
            sample = recycled(self.network, sample, self.settings.sampling.recycled, rng)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate
        self.optimizer.zero_grad()
        loss = self.loss(self.network, sample)
        loss.backward()
        norm, value = clip_gradient(self.network, self.settings.clip), float(loss.detach())
        self.optimizer.step()
        self.step += 1
        update_average(self.average, self.network, self.step, self.settings.ema)
        return value, norm

    @torch.no_grad()
    def validate(self, samples: Sequence[Sample], source: np.ndarray) -> dict[str, dict[str, float]]:
        """Mean errors of the averaged weights by dataset and of all; ``source`` is that of each crystal."""
        rows = list[dict[str, torch.Tensor]]()
        for sample in samples:
            with self.mixed():
                found = self.average(sample.start, sample.graph)
            rows.append(scored_errors(self.average, found, sample, self.settings.score))
        errors = {name: torch.cat([row[name] for row in rows]).cpu().numpy() for name in rows[0]}
        chosen = {name: source == k for k, name in enumerate(self.run["datasets"])}
        chosen["all"] = np.ones(len(source), dtype=bool)
        return {
            name: {"crystals": int(own.sum())}
            | {k: round(float(v[own].mean()), 5) for k, v in errors.items()}
            for name, own in chosen.items()
            if own.any()
        }

    def use_kernels(self, sample: Sample) -> str:
        """Use compiled kernels if they compile and agree with plain operators; return what was found."""
        fused = compiled(copy.deepcopy(self.network))

        def gradient(network: Network[Any]) -> torch.Tensor:
            torch.manual_seed(0)  # noise of element properties
            self.loss(network, sample).backward()
            found = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
            network.zero_grad()
            return found

        plain = gradient(self.network)
        try:
            difference = float((gradient(fused) - plain).norm() / plain.norm())
        except Exception as error:  # whatever a compiler or a kernel leads to
            return f"no kernels, which is slower: {type(error).__name__}: {error}"
        if not difference < TOLERANCE[self.precision]:
            return f"no kernels, which is slower: their gradients differ by {difference:.1e}"
        compiled(self.network), compiled(self.average)
        return f"kernels, gradients differ by {difference:.1e}"

    def save(self, path: Path) -> None:
        """Write all that is needed to continue."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}
        numbers = {name: getattr(self, name) for name in ("step", "progress", "seconds", "best")}
        with replacing_file(path) as new:
            torch.save({**parts, **numbers}, new)

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from what `save` has written."""
        for name, value in saved.items():
            if isinstance(value, dict):
                getattr(self, name).load_state_dict(value)
            else:
                setattr(self, name, value)

    def export(self, directory: Path, errors: dict[str, float]) -> None:
        """Write the averaged weights as a model directory; large weights in parts, see `split`."""
        config = ModelConfig(
            family=self.run["family"],
            name=directory.parent.name,
            settings=self.network.settings.model_dump(mode="json"),
            elements=self.run["elements"],
            trained_on=self.run["trained_on"],
            test_error={f"val {name} ({unit})": errors[name] for name, unit in UNITS.items()},
        )
        card = f"# {config.name}\n\nFamily `{config.family}`, trained on {config.trained_on}.\n"
        with replacing_directory(directory) as new:
            save_model(new / "whole", self.average, config, card)
            for path in (new / "whole").iterdir():
                path.rename(new / path.name)
            (new / "whole").rmdir()
            split(new / WEIGHTS)


def compiled(network: Network[Any]) -> Network[Any]:
    """Switch on the compiled kernels of a network."""
    for module in network.modules():
        if isinstance(module, Compiled):
            module.compiled = True
    return network


def split(path: Path) -> None:
    """Replace a file of more than `PART_BYTES` by its parts, ``NAME.00`` and so on."""
    data = path.read_bytes()
    if len(data) > PART_BYTES:
        for k, first in enumerate(range(0, len(data), PART_BYTES)):
            path.with_name(f"{path.name}.{k:02d}").write_bytes(data[first : first + PART_BYTES])
        path.unlink()
