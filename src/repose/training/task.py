"""Training task: the LightningModule."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.utils.data import DataLoader

from repose.config import TrainSettings
from repose.data.dataset import Pair
from repose.errors import ConfigError
from repose.models.network import Network
from repose.training.losses import training_loss
from repose.training.prefetch import Prefetched
from repose.training.samples import EdgeCounter, Sample, TrainingBatches, ValidationBatches
from repose.training.steps import clip_gradient, cosine_rate, recycled, scored_errors, update_average
from repose.training.stopwatch import part, running

# Steps over which the edges per second are averaged.
SPEED_STEPS = 50


def parameter_groups(network: Network[Any], settings: TrainSettings) -> list[dict[str, Any]]:
    """Parameters of trunk and heads with their learning rates; gradients of frozen ones are switched off.

    Raises:
        ConfigError: All parameters are frozen.
    """
    trunk, heads = list[torch.nn.Parameter](), list[torch.nn.Parameter]()
    for name, parameter in network.named_parameters():
        depth = network.depth(name)
        frozen = bool(settings.frozen_layers) and depth is not None and depth <= settings.frozen_layers
        if depth is not None and (frozen or not settings.trunk_rate):
            parameter.requires_grad_(False)
        else:
            (heads if depth is None else trunk).append(parameter)
    rates = (settings.trunk_rate, trunk), (1.0, heads)
    groups = [{"params": params, "lr": rate * settings.learning_rate} for rate, params in rates if params]
    if not groups:
        raise ConfigError("frozen_layers and trunk_rate freeze every weight; leave some of them to train.")
    return groups


class RelaxationTask(lightning.LightningModule):
    """Layer-wise training of a network, with a moving average of its weights.

    The averaged weights are validated and exported. Logs ``train/loss`` (A, summed over layers),
    ``val/<metric>`` and ``val/score``, the sum of coordinate and lattice MAE in A, or that relative to the
    input (`TrainSettings.score`). ``train`` and ``val`` are the training and validation crystals; for
    ``edge_counter`` see `TrainingBatches`.
    """

    train_type: ClassVar[type[TrainingBatches]] = TrainingBatches
    val_type: ClassVar[type[ValidationBatches]] = ValidationBatches
    # Validation errors that are stored with the exported model, with units.
    reported: ClassVar[tuple[tuple[str, str], ...]] = (
        ("coordinates", "A"),
        ("lattice", "A"),
        ("shape", "A^2"),
        ("volume", "A^3"),
    )

    def __init__(
        self,
        network: Network[Any],
        settings: TrainSettings,
        train: Sequence[Pair],
        val: Sequence[Pair],
        edge_counter: EdgeCounter | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.settings = settings
        self.dropped = 0  # steps of the epoch without change
        # A copy on the CPU prepares the batches, possibly in other processes.
        preparing = copy.deepcopy(network).requires_grad_(False)
        self.train_batches = self.train_type(train, preparing, settings.sampling, settings.seed, edge_counter)
        self.val_batches = self.val_type(val, preparing, 2 * settings.sampling.edges_per_batch, edge_counter)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches of the current epoch; called in every epoch."""
        self.train_batches.epoch = self.trainer.current_epoch
        return self._loader(self.train_batches, self.settings.workers)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Validation batches."""
        return self._loader(self.val_batches, 0)

    def _loader(self, batches: Any, workers: int) -> DataLoader[Sample]:
        batches.rank, batches.world = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(batches if workers else Prefetched(batches), batch_size=None, num_workers=workers)

    def transfer_batch_to_device(self, batch: Sample, device: torch.device, dataloader_idx: int) -> Sample:
        """Move a batch to a device."""
        return batch.to(device)

    def training_step(self, batch: Sample, batch_idx: int) -> torch.Tensor:
        """Loss of a batch in A."""
        # Keep a frozen trunk in eval mode.
        self.network.train(self.settings.trunk_rate > 0)
        batch = self.recycle(batch, batch_idx)
        loss = self.loss(self.predict(self.network, batch), batch)
        size = len(batch.target)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return loss

    def recycle(self, batch: Any, batch_idx: int) -> Any:
        """Replace the inputs of a share of batches; see `repose.training.steps.recycled`."""
        batches, network = self.train_batches, self.network
        rng = np.random.default_rng([batches.seed, batches.epoch, batches.rank, batch_idx])
        return recycled(network, batch, self.settings.sampling.recycled, rng)

    def predict(self, network: Network[Any], batch: Any) -> Any:
        """Prediction for `loss` and `errors`, by the network or its average."""
        return network(batch.start, batch.graph)

    def loss(self, prediction: Any, batch: Any) -> torch.Tensor:
        """Training loss of a batch."""
        follow = self.network.settings.frame == "affine"
        return training_loss(prediction, batch.start, batch.graph, batch.target, self.settings, follow)

    def on_train_epoch_start(self) -> None:
        """Start the clock, and the count of gradients that are not finite."""
        self.dropped = 0
        self.last_step = time.perf_counter()
        self.last_steps: deque[tuple[int, float]] = deque(maxlen=SPEED_STEPS)

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        """Log the edges per second of this process in the last steps, including waits for batches."""
        now = time.perf_counter()
        self.last_steps.append((batch.graph.n_edges, now - self.last_step))
        edges, seconds = map(sum, zip(*self.last_steps, strict=True))
        self.log("train/edges_per_s", edges / seconds, on_step=True, prog_bar=True)
        self.last_step = now
        if (watch := running()) is not None:
            watch.count(batch.graph.n_edges)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient; see `repose.training.steps.clip_gradient`."""
        self.dropped += not clip_gradient(self.network, gradient_clip_val or math.inf)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step and update the moving average, with a smaller decay in the first steps."""
        super().optimizer_step(*args, **kwargs)
        with part("moving average"):
            update_average(self.average, self.network, self.trainer.global_step, self.settings.ema)

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        """Log the errors of the averaged weights."""
        errors = self.errors(self.predict(self.average, batch), batch)
        means = {f"val/{name}": value.mean() for name, value in errors.items()}
        self.log_dict(means, batch_size=len(batch.target), prog_bar=True, sync_dist=True)

    def errors(self, prediction: Any, batch: Any) -> dict[str, torch.Tensor]:
        """Validation errors, ``(S,)`` each; the exported weights are those of the lowest ``score``."""
        return scored_errors(self.network, prediction, batch, self.settings.score)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule; `on_train_epoch_end` steps those by plateau, which have a metric."""
        if metric is None:
            scheduler.step()

    def on_train_epoch_end(self) -> None:
        """Step the plateau schedule before the checkpoint is written; Lightning would step it after that.

        Warns of gradients that were dropped.
        """
        if self.dropped:
            warnings.warn(
                f"epoch {self.current_epoch}: {self.dropped} steps changed no weights, because the gradient "
                "was not finite; inputs or errors are too large.",
                stacklevel=2,
            )
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                config.scheduler.step(float(self.trainer.callback_metrics["val/score"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the states of random numbers, from which the noise on element properties is drawn."""
        checkpoint["random"] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint["random"]["cuda"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the states of random numbers; older checkpoints have none."""
        states = checkpoint.get("random", {})
        if "cpu" in states:
            torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])

    def on_validation_epoch_end(self) -> None:
        """Log the learning rate, that of the heads if the trunk has its own."""
        self.log("lr", self.trainer.optimizers[0].param_groups[-1]["lr"], rank_zero_only=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warmup, followed by a plateau decay or a cosine decay to 1 %."""
        s = self.settings
        groups = parameter_groups(self.network, s)
        own = [p for name, p in self.named_parameters() if not name.startswith(("network.", "average."))]
        if own:  # heads of a task that are not part of the model
            groups.append({"params": own, "lr": s.learning_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=s.weight_decay, amsgrad=s.amsgrad, fused=True)
        total = s.max_epochs * (s.sampling.epoch_steps or len(self.train_batches.plan()))

        def cosine(step: int) -> float:
            return cosine_rate(step, s.warmup_steps, step / total)

        schedulers = torch.optim.lr_scheduler
        if s.schedule == "cosine":
            whole = schedulers.LambdaLR(optimizer, cosine)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": whole, "interval": "step"}}
        plateau = schedulers.ReduceLROnPlateau(optimizer, factor=s.decay, patience=s.patience)
        plan: list[Any] = [{"scheduler": plateau, "monitor": "val/score"}]
        if s.warmup_steps > 1:  # multiplies the current rate, so both schedulers apply
            rise = schedulers.LinearLR(optimizer, 1 / s.warmup_steps, total_iters=s.warmup_steps - 1)
            plan.append({"scheduler": rise, "interval": "step"})
        return [optimizer], plan
