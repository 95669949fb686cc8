"""Devices by name."""

from __future__ import annotations

import torch

from repose.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Device by name; ``"auto"`` is a GPU if there is one.

    Raises:
        ConfigError: The name is not valid, or the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise ConfigError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got '{name}'.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"there is no device '{name}': PyTorch finds {torch.cuda.device_count()} GPUs. Use 'cpu'."
        )
    return torch.device(name)
