"""Training runs: from datasets to a model directory, resumed after interruptions (`repose train`)."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from repose import native
from repose.atomic_write import interrupted_version, replacing_file
from repose.config import TrainSettings
from repose.data.dataset import Dataset, Pair
from repose.data.frames import select_paths
from repose.device import resolve_device
from repose.errors import ConfigError
from repose.models.checkpoint import find_model, load_config, load_model
from repose.models.initial_structure import is_bulk
from repose.models.network import Network
from repose.models.registry import family
from repose.relaxer.baselines import fit_atomic_volumes
from repose.training.calibrate import calibrate_model
from repose.training.callbacks import AtomicCheckpoints, ExportBest, LightningParts, LineProgress
from repose.training.forces import force_task
from repose.training.paths import path_task
from repose.training.reading import EdgeCounts, chemical_systems, choose, read_split
from repose.training.stopwatch import measured, part, running
from repose.training.task import RelaxationTask

SETTINGS = "train.json"
LAST = "last.ckpt"
PROFILE_STEPS = 100
# Hyperparameters that may differ from those of the model that training starts from, if given.
ADDED = ("uncertainty_head", "passes", "start", "volume_feature", "stays")


def train(
    family_name: str,
    data: Sequence[Path],
    out: Path,
    settings: TrainSettings,
    *,
    init_from: str | Path | None = None,
    held_out: Sequence[Path] = (),
    device: str = "auto",
    processes: int | None = None,
    compiled: bool | None = None,
    progress: Literal["bar", "lines", "none"] = "lines",
) -> Path:
    """Train or fine-tune a model; resume from the last checkpoint if there is one.

    Args:
        family_name: Name in the registry of families.
        data: Dataset directories; their train splits are joined, and so are their val splits. A dataset given
            several times has a higher weight in training.
        out: Directory of the run: ``model/`` (best so far), ``last.ckpt``, ``train.json``, logs.
        settings: Settings of the training.
        init_from: Model, by name or directory, to start from, with its hyperparameters.
        held_out: Datasets for later tests: crystals of their chemical systems are left out.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` (all visible GPUs) or ``"cuda:N"``.
        processes: Number of processes (DDP); by default one per GPU in use, else one.
        compiled: Use compiled kernels, see `Network.compile_training`; by default on a CPU with a C compiler.
        progress: Output on standard error: a progress bar, lines, or none.

    Returns:
        The model directory ``out/model``.

    Raises:
        ConfigError: ``out`` holds a run with other settings, settings do not fit ``init_from`` or the family,
            or training diverged before there was a model.
        DatasetError: A dataset is missing, or a split is empty.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no messages about its products
    out.mkdir(parents=True, exist_ok=True)
    check_run(out, family_name, data, settings, init_from, held_out)
    if (whole := interrupted_version(out / "model")) is not None:  # the process ended between two renames
        os.replace(whole, out / "model")
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    datasets = [Dataset(path) for path in data]
    # A dataset given twice counts twice in training, but once in validation.
    unique = list({dataset.directory: dataset for dataset in datasets}.values())
    network, known = _network(family_name, settings, init_from)
    if not (out / LAST).is_file():
        network.check_training(settings)
    whole = settings.target == "forces" or network.path_frames is not None
    with_paths = whole or settings.sampling.path_frames > 0
    frames = network.path_frames if settings.target == "relaxed" else None
    with part("reading"):
        without = chemical_systems(held_out)
        training = read_split(
            datasets, "train", crystals=settings.crystals, paths=with_paths, frames=frames, without=without
        )
        validation = read_split(unique, "val", paths=whole, without=without)
    train_pairs, val_pairs = (list(chain.from_iterable(parts)) for parts in (training, validation))
    fit_volumes(network, train_pairs)
    directories = [dataset.directory for dataset in (*datasets, *unique)]
    edge_counter = EdgeCounts(network, zip(directories, [*training, *validation], strict=True))
    trained_on = "; ".join(described(dataset) for dataset in unique if dataset.info.counts.get("train"))
    compiled = _compiles(device) if compiled is None else compiled
    if compiled:  # before the task copies the network, so that validation is compiled too
        network.compile_training()
    validated = val_pairs
    if settings.validation_crystals is not None:
        long_enough = () if frames is None else select_paths(val_pairs, frames).pairs
        ids = choose((pair.id for pair in long_enough or val_pairs), settings.validation_crystals)
        validated = [pair for pair in val_pairs if pair.id in ids]
    task, kind = _task(network, settings, train_pairs, validated, edge_counter)
    if kind:
        trained_on = f"{kind}: {trained_on}"
        if progress != "none":
            print(kind, file=sys.stderr, flush=True)
    if settings.crystals is not None:
        trained_on = f"{settings.crystals} crystals of: {trained_on}"
    elements = known | {int(z) for pair in train_pairs for z in pair.numbers}
    export = ExportBest(out / "model", sorted(elements), trained_on, settings.target)
    last = ModelCheckpoint(
        out, "last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
    )
    callbacks: list[Callback] = [export, EarlyStopping("val/score", patience=settings.early_stop), last]
    if progress != "none":
        callbacks.append(TQDMProgressBar() if progress == "bar" else LineProgress())
    trainer = lightning.Trainer(
        accelerator="cpu" if device == "cpu" else "cuda" if device.startswith("cuda") else "auto",
        devices=processes or _devices(device),
        strategy=_strategy(device, processes),
        precision=_precision(settings, device),  # type: ignore[arg-type]
        max_epochs=settings.max_epochs,
        limit_train_batches=settings.sampling.epoch_steps,
        gradient_clip_val=settings.clip,
        # One CSV folder per start: Lightning deletes the previous one.
        logger=[CSVLogger(out, name="csv"), TensorBoardLogger(out, name="tensorboard", version="")],
        callbacks=callbacks,
        profiler=None if (watch := running()) is None else LightningParts(watch),
        plugins=[AtomicCheckpoints()],
        inference_mode=not network.differentiates,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=progress == "bar",
        enable_model_summary=False,
        log_every_n_steps=min(50, settings.sampling.epoch_steps or 50),
    )
    checkpoint = out / LAST
    with warnings.catch_warnings():
        # Intended, but warned of by Lightning: an existing directory, and batches without workers.
        for message in (".*exists and is not empty.*", ".*does not have many workers.*", ".*LeafSpec.*"):
            warnings.filterwarnings("ignore", message)
        trainer.fit(task, ckpt_path=checkpoint if checkpoint.is_file() else None)
    if trainer.is_global_zero and not (out / "model").is_dir():
        raise ConfigError(
            f"training diverged: no epoch had a finite validation score, and {out} holds no model. Use a "
            "smaller learning_rate, and another --out."
        )
    if trainer.is_global_zero and settings.target == "relaxed":
        budget = settings.sampling.edges_per_batch
        try:
            previous = load_config(find_model(init_from)).calibration if init_from is not None else None
            on = ", ".join(dataset.info.name for dataset in unique)
            options: dict[str, Any] = {"edge_counter": edge_counter, "compiled": compiled}
            calibrate_model(out / "model", train_pairs, val_pairs, on, budget, previous=previous, **options)
        except ConfigError as error:  # the model is valid without
            warnings.warn(f"the model gives no uncertainty: {error}", stacklevel=2)
    return out / "model"


def profile(
    family_name: str, data: Sequence[Path], settings: TrainSettings, **options: Any
) -> dict[str, Any]:
    """Measure the parts of a short run in a temporary directory: one epoch of at most `PROFILE_STEPS` steps.

    The arguments are those of `train`; the run has one process. See `Stopwatch.report` for the result.
    """
    steps = min(PROFILE_STEPS, settings.sampling.epoch_steps or PROFILE_STEPS)
    sampling = settings.sampling.model_copy(update={"epoch_steps": steps})
    short = settings.model_copy(update={"max_epochs": 1, "sampling": sampling})
    with tempfile.TemporaryDirectory() as directory, measured() as watch:
        train(family_name, data, Path(directory), short, processes=1, **options)
        return watch.report()


def check_run(
    out: Path,
    family_name: str,
    data: Sequence[Path],
    settings: TrainSettings,
    init_from: str | Path | None,
    held_out: Sequence[Path] = (),
) -> None:
    """Store the arguments of a new run, or check that those of a resumed run are the same; see `train`.

    Raises:
        ConfigError: The directory holds a run with other arguments.
    """
    description = {
        "family": family_name,
        "data": [str(path) for path in data],
        "init_from": None if init_from is None else str(init_from),
        **({"held_out": [str(path) for path in held_out]} if held_out else {}),
        "settings": settings.model_dump(mode="json"),
    }
    path = out / SETTINGS
    if path.is_file():
        before = json.loads(path.read_text())
        with suppress(ConfigError):  # settings that were added since that start had their defaults
            before["settings"] = TrainSettings.parse(before.get("settings", {})).model_dump(mode="json")
        differing = [key for key in description if before.get(key) != description[key]]
        if differing and (out / LAST).is_file():
            raise ConfigError(
                f"{out} holds a run with other {' and '.join(differing)} (see {path}); "
                "choose another --out, or remove the folder to restart."
            )
    with replacing_file(path) as new:
        new.write_text(json.dumps(description, indent=2) + "\n")


def _network(
    family_name: str, settings: TrainSettings, init_from: str | Path | None
) -> tuple[Network[Any], set[int]]:
    """Network to train, and the elements that it was trained on before."""
    cls = family(family_name)
    if init_from is not None:
        network, config = load_model(find_model(init_from))
        if config.members > 1:
            raise ConfigError(
                f"--init-from {init_from} is an ensemble of {config.members} networks; give one of "
                "its members, e.g. the folder member-0 of its run."
            )
        if config.family != family_name:
            raise ConfigError(
                f"--init-from {init_from} is a model of family '{config.family}', not '{family_name}'."
            )
        own, given = network.settings.model_dump(), settings.model
        if isinstance(graph := given.get("graph"), dict):
            given = {**given, "graph": {**own["graph"], **graph}}
        wanted = cls.settings_type.parse({**own, **given})
        # Heads and inputs may be added, and weights do not depend on the number of passes or the start.
        free = {key: settings.model[key] for key in ADDED if settings.model.get(key)}
        kept = network.settings.model_copy(update=free)
        if differing := [f"model.{key}" for key, value in wanted if value != getattr(kept, key)]:
            raise ConfigError(
                f"the settings {', '.join(differing)} differ from those of --init-from {init_from}. Leave "
                f"them out; if they are of a preset, give --model {family_name} instead of it."
            )
        if wanted != network.settings:
            weights, network = network.state_dict(), cls(wanted)
            network.load_state_dict(weights, strict=False)
        known = set(config.elements)
    else:
        network, known = cls(cls.settings_type.parse(settings.model)), set()
    return network.train().requires_grad_(True), known


def _compiles(device: str) -> bool:
    """Return whether kernels are the default: in C they take a second to compile, on a GPU half a minute."""
    return resolve_device(device).type == "cpu" and native.compiler() is not None


def fit_volumes(network: Network[Any], pairs: Sequence[Pair]) -> None:
    """Fit atomic volumes to bulk crystals, for elements without a volume in the network."""
    own = dict(network.named_buffers()).get("atomic_volumes")
    if own is None:
        return
    bulk = [pair for pair in pairs if is_bulk(pair.relaxed_positions, pair.relaxed_cell, pair.pbc)]
    if bulk:
        known = np.array([abs(np.linalg.det(pair.relaxed_cell)) for pair in bulk])
        volumes = fit_atomic_volumes([pair.numbers for pair in bulk], known)
        own.copy_(torch.where(own == 0, torch.as_tensor(volumes).to(own), own))  # zero: not fitted


def _task(
    network: Network[Any],
    settings: TrainSettings,
    train: Sequence[Pair],
    val: Sequence[Pair],
    edge_counter: EdgeCounts,
) -> tuple[RelaxationTask, str]:
    """Training task, and the kind of its data unless these are pairs.

    Raises:
        ConfigError: Inputs are recycled although the target is not only the relaxed crystal.
        DatasetError: There are no data for the task.
    """
    if settings.sampling.recycled and (settings.target == "forces" or network.path_frames is not None):
        raise ConfigError(
            "sampling.recycled is for training on relaxed crystals: forces or the path of a frame do not "
            "hold for the output of a network. Set it to 0."
        )
    if settings.target == "forces":
        task, frames = force_task(network, settings, train, val, edge_counter)
        return task, f"forces of {frames}"
    if network.path_frames is not None:
        paths, left_out = path_task(network, settings, train, val, edge_counter)
        return paths, f"whole paths ({left_out})"
    return RelaxationTask(network, settings, train, val, edge_counter), ""


def _devices(device: str) -> list[int] | int | str:
    """Argument ``devices`` of Lightning: one named GPU, one process on a CPU, or all GPUs."""
    return [int(device[5:])] if device.startswith("cuda:") else 1 if device == "cpu" else "auto"


def _strategy(device: str, processes: int | None) -> str:
    """DDP for several processes; some weights of the last layer may be unused."""
    several = (processes or (torch.cuda.device_count() if device in ("auto", "cuda") else 1)) > 1
    return "ddp_find_unused_parameters_true" if several else "auto"


def _precision(settings: TrainSettings, device: str) -> str:
    on_gpu = device != "cpu" and torch.cuda.is_available()
    fast = settings.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if fast or settings.precision == "bf16" else "32-true"


def described(dataset: Dataset) -> str:
    """Return name, size and labels of a dataset, for the card of a model."""
    info = dataset.info
    labels = f", labels {info.calculator}" if info.calculator else ""
    return f"{info.name} ({info.counts.get('train', 0)} crystals{labels})"
