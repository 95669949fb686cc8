"""`repose train --members T`: networks from T seeds, joined to one model."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import torch

from repose.atomic_write import replacing_file
from repose.config import TrainSettings
from repose.data.dataset import Dataset, Pair
from repose.errors import ConfigError
from repose.models.checkpoint import ModelConfig, load_config, load_model, save_model
from repose.models.ensemble import Ensemble
from repose.training.calibrate import calibrate
from repose.training.losses import validation_errors
from repose.training.reading import read_split
from repose.training.run import LAST, claim, train
from repose.training.samples import ValidationBatches

FINISHED = "finished"  # an empty file beside a member's checkpoint
UNITS = {"coordinates": "A", "lattice": "A", "shape": "A^2", "volume": "A^3"}


def train_members(
    family_name: str,
    data: Sequence[Path],
    out: Path,
    settings: TrainSettings,
    members: int,
    *,
    init_from: str | Path | None = None,
    device: str = "auto",
    processes: int | None = None,
    compiled: bool = False,
    progress: Literal["bar", "lines", "none"] = "lines",
) -> Path:
    """Train an ensemble; go on where it was stopped. Arguments that are not named here are those of `train`.

    Members are trained one after another, each as a run of its own, which differ in nothing but the seed. The
    weights and the order of crystals follow from that; with ``init_from`` all start from the same weights.

    Args:
        family_name: See `train`.
        data: See `train`.
        out: Directory of runs ``member-0/``, ``member-1/``, ..., and of ``model/``, the ensemble.
        settings: Of the first member; the t-th has the seed ``settings.seed + t``.
        members: How many, T. One is an ordinary run. More can be asked for later, and those that there are
            stay as they are.
        init_from: See `train`.
        device: See `train`.
        processes: See `train`.
        compiled: See `train`.
        progress: See `train`.

    Returns:
        The model directory ``out/model``.

    Raises:
        ConfigError: As `train`; or ``out`` holds a run of another kind.
        DatasetError: As `train`.
    """
    if members < 1:
        raise ConfigError(f"members must be 1 or more; got {members}.")
    run = partial(
        train,
        family_name,
        data,
        init_from=init_from,
        device=device,
        processes=processes,
        compiled=compiled,
        progress=progress,
    )
    if (out / _member(0)).is_dir() if members == 1 else (out / LAST).is_file():
        there, wanted = ("an ensemble", "one network") if members == 1 else ("one network", "an ensemble")
        raise ConfigError(f"{out} holds the run of {there}, not of {wanted}; choose another --out.")
    if members == 1:
        return run(out, settings)
    directories = [out / _member(number) for number in range(members)]
    for number, directory in enumerate(directories):
        own = settings.model_copy(update={"seed": settings.seed + number})
        claim(directory, family_name, data, own, init_from)
        if (directory / FINISHED).is_file():
            continue
        if progress != "none" and _rank() == 0:
            print(f"member {number + 1} of {members}", file=sys.stderr, flush=True)
        model = run(directory, own)
        if _rank() == 0:
            load_config(model)  # a run that never got a model is not finished
            with replacing_file(directory / FINISHED, durable=True):
                pass
    if _rank() == 0:
        _join(directories, data, out, settings)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # nobody looks for the model before it is there
    return out / "model"


def _member(number: int) -> str:
    return f"member-{number}"


def _rank() -> int:
    """Number of this process among those that train together; 0 writes."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _join(directories: Sequence[Path], data: Sequence[Path], out: Path, settings: TrainSettings) -> None:
    """Write the ensemble of trained members, with its own errors and its own calibration."""
    networks, configs = zip(*(load_model(directory / "model") for directory in directories), strict=True)
    network = Ensemble(networks).eval()
    datasets = {dataset.directory: dataset for dataset in map(Dataset, data)}.values()
    train_pairs, val_pairs = (
        list(chain.from_iterable(read_split(list(datasets), split, crystals=crystals, paths=False)))
        for split, crystals in (("train", settings.crystals), ("val", None))
    )
    budget = settings.sampling.edges_per_batch
    errors = mean_errors(network, val_pairs, budget)
    calibration = None
    try:
        on = ", ".join(dataset.info.name for dataset in datasets)
        calibration = calibrate(network, train_pairs, val_pairs, on, budget)
    except ConfigError as error:  # the model itself is good
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
        f"on {config.trained_on} from the seeds {seeds}. Its answer is the mean of theirs, and "
        "where they differ, their spread is part of its uncertainty.\n\n"
        + "".join(f"- {name}: {value}\n" for name, value in errors.items())
        + f"\nThese are errors of the ensemble. Its members alone have {first}: {alone}.\n"
    )
    save_model(out / "model", network, config, card)


@torch.inference_mode()
def mean_errors(network: Ensemble, pairs: Sequence[Pair], edges_per_batch: int) -> dict[str, float]:
    """Errors on validation crystals from their unrelaxed states, as training exports them.

    Args:
        network: In evaluation mode.
        pairs: The crystals.
        edges_per_batch: Budget of a forward pass.

    Returns:
        Means over crystals by name, with the unit, coordinates first.
    """
    parts = []
    for batch in ValidationBatches(pairs, network, edges_per_batch):
        prediction = network(batch.start, batch.graph)
        geometry, _ = network.solve_positions(prediction, batch.start, batch.graph)
        parts.append(validation_errors(geometry, batch.target))
    return {
        f"val {name} ({unit})": round(float(torch.cat([part[name] for part in parts]).mean()), 5)
        for name, unit in UNITS.items()
    }
