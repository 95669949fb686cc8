"""Training of ensembles: networks from T seeds, joined in one model (`repose train --members T`)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from repose.atomic_write import replacing_file
from repose.config import TrainSettings
from repose.data.dataset import Dataset, Pair
from repose.errors import ConfigError
from repose.models.checkpoint import ModelConfig, load_config, load_model, save_model
from repose.models.ensemble import Ensemble
from repose.training.calibrate import calibrate
from repose.training.losses import validation_errors
from repose.training.reading import chemical_systems, read_split
from repose.training.run import LAST, check_run, train
from repose.training.samples import ValidationBatches
from repose.training.task import RelaxationTask

FINISHED = "finished"  # empty file in the run of a finished member


def train_members(
    family_name: str,
    data: Sequence[Path],
    out: Path,
    settings: TrainSettings,
    members: int,
    *,
    init_from: str | Path | None = None,
    held_out: Sequence[Path] = (),
    device: str = "auto",
    processes: int | None = None,
    compiled: bool | None = None,
    progress: Literal["bar", "lines", "none"] = "lines",
) -> Path:
    """Train an ensemble, or resume its training.

    Members are trained one after another, each in its own run. The seeds of their initial weights and of the
    order of crystals differ; with ``init_from`` all members start from the same weights.

    ``out`` is the directory of the runs ``member-0/``, ``member-1/``, ..., and of ``model/``, the ensemble.
    Member t has the seed ``settings.seed + t``. One member is an ordinary run. Members can be added later.
    See `train` for the other arguments, the result and further errors.

    Raises:
        ConfigError: ``out`` holds a run of another kind, or ``members`` is less than 1.
    """
    if members < 1:
        raise ConfigError(f"members must be at least 1; got {members}.")
    options: dict[str, Any] = {"device": device, "processes": processes, "compiled": compiled}
    options |= {"init_from": init_from, "held_out": held_out, "progress": progress}
    run = partial(train, family_name, data, **options)
    if (out / _member(0)).is_dir() if members == 1 else (out / LAST).is_file():
        there, wanted = ("an ensemble", "one network") if members == 1 else ("one network", "an ensemble")
        raise ConfigError(f"{out} holds the run of {there}, not of {wanted}; choose another --out.")
    if members == 1:
        return run(out, settings)
    directories = [out / _member(number) for number in range(members)]
    for number, directory in enumerate(directories):
        own = settings.model_copy(update={"seed": settings.seed + number})
        check_run(directory, family_name, data, own, init_from, held_out)
        if (directory / FINISHED).is_file():
            continue
        if progress != "none" and _rank() == 0:
            print(f"member {number + 1} of {members}", file=sys.stderr, flush=True)
        model = run(directory, own)
        if _rank() == 0:
            load_config(model)  # fails if no model was exported
            with replacing_file(directory / FINISHED, durable=True):
                pass
    if _rank() == 0:
        _join(directories, data, held_out, out, settings)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # until the model is written
    return out / "model"


def _member(number: int) -> str:
    return f"member-{number}"


def _rank() -> int:
    """Rank of this process; rank 0 writes files."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _join(
    directories: Sequence[Path],
    data: Sequence[Path],
    held_out: Sequence[Path],
    out: Path,
    settings: TrainSettings,
) -> None:
    """Write the ensemble of trained members, with its own errors and calibration."""
    networks, configs = zip(*(load_model(directory / "model") for directory in directories), strict=True)
    network = Ensemble(networks).eval()
    datasets = {dataset.directory: dataset for dataset in map(Dataset, data)}.values()
    frames = network.path_frames if settings.target == "relaxed" else None
    options: dict[str, Any] = {"paths": False, "frames": frames, "without": chemical_systems(held_out)}
    train_pairs, val_pairs = (
        list(chain.from_iterable(read_split(list(datasets), split, crystals=crystals, **options)))
        for split, crystals in (("train", settings.crystals), ("val", None))
    )
    budget = settings.sampling.edges_per_batch
    errors = mean_errors(network, val_pairs, budget)
    calibration = None
    try:
        on = ", ".join(dataset.info.name for dataset in datasets)
        calibration = calibrate(network, train_pairs, val_pairs, on, budget)
    except ConfigError as error:  # the model is valid without
        warnings.warn(f"the ensemble gives no uncertainty: {error}", stacklevel=2)
    config = ModelConfig(
        family=network.family,
        name=out.name,
        settings=network.settings.model_dump(mode="json"),
        elements=sorted({z for own in configs for z in own.elements}),
        trained_on=configs[0].trained_on,
        test_error=errors,
        members=len(networks),
        calibration=calibration,
    )
    first = next(iter(errors))
    alone = ", ".join(str(own.test_error[first]) for own in configs)
    seeds = f"{settings.seed} to {settings.seed + config.members - 1}"
    card = (
        f"# {config.name}\n\nAn ensemble of {config.members} networks of family `{config.family}`, trained "
        f"on {config.trained_on} with the seeds {seeds}. Its prediction is the mean over the members; "
        "their spread is part of its uncertainty.\n\n"
        + "".join(f"- {name}: {value}\n" for name, value in errors.items())
        + f"\nErrors are those of the ensemble. Single members have {first}: {alone}.\n"
    )
    save_model(out / "model", network, config, card)


@torch.inference_mode()
def mean_errors(network: Ensemble, pairs: Sequence[Pair], edges_per_batch: int) -> dict[str, float]:
    """Mean errors on unrelaxed validation crystals, as exported in training, by name with unit.

    The ensemble is in eval mode. Coordinates are first.
    """
    parts = []
    for batch in ValidationBatches(pairs, network, edges_per_batch):
        prediction = network(batch.start, batch.graph)
        geometry, _ = network.solve_positions(prediction, batch.start, batch.graph)
        parts.append(validation_errors(geometry, batch.target))
    return {
        f"val {name} ({unit})": round(float(torch.cat([part[name] for part in parts]).mean()), 5)
        for name, unit in RelaxationTask.reported
    }
