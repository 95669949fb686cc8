"""Models on disk: a directory of weights, settings and a card. Nothing is ever unpickled.

PyTorch is imported only where weights are read or written: listing models does not need it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from repose.atomic_write import replacing_directory, replacing_file
from repose.config import Settings, Target
from repose.errors import ConfigError, ModelError, nearest
from repose.models.registry import family
from repose.models.uncertainty.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from repose.models.network import Network

FORMAT_VERSION = 1
# Defaults for settings that older model files lack.
DEFAULTS_OF_OLD_MODELS = {"uncertainty_head": False}
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.md"


class ModelConfig(Settings):
    """Contents of ``config.json``."""

    format_version: Literal[1] = FORMAT_VERSION
    family: str = Field(description="name in the registry of families")
    name: str = Field(description="name of the model")
    settings: dict[str, Any] = Field(description="all hyperparameters of the family")
    elements: list[int] = Field(description="atomic numbers of the training crystals; others are refused")
    trained_on: str = Field(default="", description="one line: data and calculator or functional")
    target: Target = Field(
        default="relaxed", description="training target; only models trained on 'relaxed' can relax crystals"
    )
    test_error: dict[str, float] = Field(default_factory=dict, description="metric (with unit) to value")
    members: int = Field(default=1, gt=0, description="number of networks; more than 1: an ensemble")
    calibration: Calibration | None = Field(default=None, description="conformal bounds, or None")


def save_model(directory: Path, network: Network[Any], config: ModelConfig, card: str) -> None:
    """Write a model directory atomically: an old one is replaced only when the new one is complete.

    Args:
        directory: Path; replaced if it exists.
        network: The weights. Tensors whose values are all exact in half precision are stored in it.
        config: The configuration.
        card: Markdown text: training data, errors, limits.
    """
    from safetensors.torch import save_file

    with replacing_directory(directory) as new:
        save_file({k: _smallest(v.cpu()) for k, v in network.state_dict().items()}, new / WEIGHTS)
        (new / WEIGHTS).chmod(0o644)  # safetensors lets nobody else read it
        save_config(new, config)
        (new / CARD).write_text(card)


def _smallest(tensor: Tensor) -> Tensor:
    """Tensor in half precision if all of its values are exact in it, otherwise unchanged; contiguous."""
    import torch

    half = tensor.half()
    exact = tensor.is_floating_point() and torch.equal(half.to(tensor.dtype), tensor)
    return (half if exact else tensor).contiguous()


def save_config(directory: Path, config: ModelConfig) -> None:
    """Write ``config.json`` of a model directory atomically.

    Args:
        directory: The model directory; created if missing.
        config: The configuration.
    """
    with replacing_file(directory / CONFIG) as new:
        new.write_text(config.model_dump_json(indent=2) + "\n")


def with_passes(config: ModelConfig, passes: int) -> ModelConfig:
    """Return a configuration with another number of passes; the weights do not depend on it.

    The calibration does: calibrate the model again.

    Args:
        config: The configuration.
        passes: Number of passes, at least 1.

    Raises:
        ConfigError: The family has no setting ``passes``.
    """
    if "passes" not in family(config.family).settings_type.model_fields:
        raise ConfigError(
            f"family '{config.family}' has no setting 'passes'; leave it out, or use a model of a family "
            "with this setting, such as 'reposenet'."
        )
    return config.model_copy(update={"settings": {**config.settings, "passes": passes}})


def load_config(directory: Path) -> ModelConfig:
    """Read and check ``config.json`` of a model directory.

    Raises:
        ModelError: It is missing, unreadable, or of another format version.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise ModelError(f"{directory} is not a model directory: it has no {CONFIG}.")
    return ModelConfig.load(path, FORMAT_VERSION, ModelError)


def load_model(directory: Path) -> tuple[Network[Any], ModelConfig]:
    """Read a model directory; weights in half precision are converted to single.

    Args:
        directory: Written by `save_model`.

    Returns:
        The network on the CPU, in evaluation mode, without gradients; and its configuration.

    Raises:
        ModelError: A file is missing, or weights and configuration do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from repose.models.ensemble import Ensemble

    config = load_config(directory)
    cls = family(config.family)
    settings = cls.settings_type.parse(
        {
            **{k: v for k, v in DEFAULTS_OF_OLD_MODELS.items() if k in cls.settings_type.model_fields},
            **config.settings,
        }
    )
    network = cls(settings)
    if config.members > 1:
        network = Ensemble([network, *(cls(settings) for _ in range(config.members - 1))])
    try:
        missing, unknown = network.load_state_dict(load_file(directory / WEIGHTS), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{directory / WEIGHTS} does not fit {directory / CONFIG}: {error}") from None
    missing = [name for name in missing if "out_of_distribution." not in name]  # older models lack them
    if missing or unknown:
        raise ModelError(
            f"{directory / WEIGHTS} does not fit {directory / CONFIG}: missing "
            f"{', '.join(missing) or 'nothing'}; unknown {', '.join(unknown) or 'nothing'}."
        )
    return network.eval().requires_grad_(False), config


# Buffers of networks by the last part of their names.
BUFFERS = ("properties", "atomic_volumes", "reference_energies", "energy_scale")


def count_parameters(directory: Path) -> int:
    """Return the number of weights of a model directory, read from the header of its weights.

    Buffers, such as tabulated properties and statistics of the training data, are not counted.

    Raises:
        ModelError: The file cannot be read.
    """
    path = directory / WEIGHTS
    try:
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from None
    return sum(
        math.prod(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
        and "out_of_distribution." not in name
        and name.split(".")[-1] not in BUFFERS
    )


# Interatomic potentials that users may mistake for models.
CALCULATORS = ("chgnet", "chgnet-r2scan", "m3gnet", "mace", "mattersim", "orb", "sevennet", "sevennet-0")

# Model behind the name `default`: the shipped model with the smallest validation errors.
DEFAULT = "repose"


def shipped_models() -> dict[str, Path]:
    """Directories of the models in the package by name; first `default`, an alias of one of the others."""
    root = Path(__file__).parent.parent / "weights"
    own = {path.parent.name: path.parent for path in sorted(root.glob(f"*/{CONFIG}"))}
    return {"default": own[DEFAULT], **own} if DEFAULT in own else own


def find_model(name: str | Path) -> Path:
    """Return the directory of a model, given by the name of a shipped model or by a path.

    Raises:
        ModelError: Neither exists.
    """
    shipped = shipped_models()
    if str(name) in shipped:
        return shipped[str(name)]
    for path in (Path(name), Path(name) / "model"):  # the second is where `repose train` writes it
        if (path / CONFIG).is_file():
            return path
    if str(name).lower() in CALCULATORS:
        own = next((own for own in ("chgnet", "sevennet") if own in str(name).lower()), "MODULE:NAME")
        raise ModelError(
            f"'{name}' is an interatomic potential, which relaxes step by step, and not a model of Repose. "
            f"To relax with it use 'repose data label PATH --calculator {own} --out DIR'; the shipped models "
            f"are {', '.join(shipped) or 'none'}."
        )
    raise ModelError(
        f"no model '{name}': it is neither a model directory nor one of the shipped models "
        f"({', '.join(shipped) or 'none'}).{nearest(str(name), shipped)}"
    )
