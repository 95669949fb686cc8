"""Callbacks of training runs: checkpoints, progress, and the export of the best model so far."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import Profiler

from repose.atomic_write import replacing_file
from repose.config import Target
from repose.models.checkpoint import ModelConfig, save_model
from repose.training.stopwatch import Stopwatch
from repose.training.task import RelaxationTask


class AtomicCheckpoints(CheckpointIO):
    """Checkpoints that are written atomically and read without executing pickled code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        with replacing_file(Path(path), durable=True) as new:
            torch.save(checkpoint, new)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


class LightningParts(Profiler):
    """Pass the actions of Lightning to a stopwatch."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.start, self.stop = watch.start, watch.stop  # type: ignore[method-assign]

    def start(self, action_name: str) -> None:
        """Replaced by that of the stopwatch."""

    def stop(self, action_name: str) -> None:
        """Replaced by that of the stopwatch."""


class LineProgress(Callback):
    """Print a line of progress on standard error after every epoch and every few seconds."""

    SECONDS = 10.0

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print step and loss."""
        if trainer.is_global_zero and time.monotonic() - self.last > self.SECONDS:
            self._print(trainer, f"loss {float(outputs['loss']):.4f}")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Print the validation errors."""
        if trainer.is_global_zero:
            metrics = trainer.callback_metrics.items()
            errors = (f"{k[4:]} {float(v):.4f}" for k, v in metrics if k[:4] == "val/")
            self._print(trainer, ", ".join(errors))

    def _print(self, trainer: lightning.Trainer, values: str) -> None:
        speed = float(trainer.callback_metrics.get("train/edges_per_s", 0))
        line = f"epoch {trainer.current_epoch} step {trainer.global_step}: {values}"
        print(f"{line}, {speed:,.0f} edges/s" if speed else line, file=sys.stderr, flush=True)
        self.last = time.monotonic()


class ExportBest(Callback):
    """Write the model directory whenever the validation score improves.

    The arguments after ``directory`` are entries of ``config.json``.
    """

    def __init__(
        self, directory: Path, elements: Sequence[int], trained_on: str, target: Target = "relaxed"
    ) -> None:
        self.directory = directory
        self.elements = list(elements)
        self.trained_on = trained_on
        self.target: Target = target
        self.best = float("inf")

    def state_dict(self) -> dict[str, Any]:
        """State for checkpoints: the best score so far, in A."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: RelaxationTask) -> None:  # type: ignore[override]
        """Export the averaged weights if their score is the best so far."""
        score = float(trainer.callback_metrics["val/score"])
        # Equal scores are exported too: with a frozen trunk only error scales improve.
        if not trainer.is_global_zero or not math.isfinite(score) or score > self.best:
            return
        self.best = score
        errors = {
            f"val {name} ({unit})": round(value, 5)
            for name, unit in pl_module.reported
            if math.isfinite(value := float(trainer.callback_metrics[f"val/{name}"]))
        }
        network = pl_module.average
        config = ModelConfig(
            family=network.family,
            name=self.directory.parent.name,
            settings=network.settings.model_dump(mode="json"),
            elements=self.elements,
            trained_on=self.trained_on,
            target=self.target,
            test_error=errors,
        )
        card = f"# {config.name}\n\nFamily `{config.family}`, trained on {self.trained_on}.\n\n" + "".join(
            f"- {name}: {value}\n" for name, value in errors.items()
        )
        save_model(self.directory, network, config, card)
