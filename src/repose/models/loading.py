"""From the name of a model to a relaxer, and from a crystal to a relaxed one in one call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from repose.errors import ConfigError, InvalidCrystalError, ModelError
from repose.io import convert
from repose.models.base import Relaxer
from repose.models.checkpoint import find_model, load_model
from repose.models.direct import Computation, DirectRelaxer, Precision


def load(
    name: str | Path = "default",
    device: str = "auto",
    *,
    path: Computation = "auto",
    precision: Precision = "float32",
) -> Relaxer:
    """Load a model.

    Args:
        name: One of the models that ship (`repose models` lists them), or a directory that `repose train`
            wrote.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"``: a GPU if there is one.
        path: How the numbers are computed, see `repose.models.direct.DirectRelaxer`; they are the same.
        precision: ``"float32"`` or, faster and less exact, ``"bfloat16"``; see there.

    Returns:
        A relaxer; loading takes much longer than relaxing, so keep it.

    Raises:
        ModelError: There is no such model, it is broken, or it was trained on forces alone.
        ConfigError: There is no such device.
    """
    network, config = load_model(find_model(name))
    if config.target != "relaxed":
        raise ModelError(
            f"model '{name}' was trained on {config.target}, to begin a training from: "
            f"repose train --model {config.family} --init-from {name} ..."
        )
    return DirectRelaxer(network, config, resolve_device(device), path, precision)


def relax(
    structure: Any, *, model: str | Path | Relaxer = "default", device: str = "auto", **options: Any
) -> Any:
    """Relax one crystal or a list of them.

    Args:
        structure: `ase.Atoms`, a pymatgen Structure, or a list of either; not changed.
        model: Name or directory, see `load`, or a loaded relaxer.
        device: See `load`.
        **options: ``symmetry``, ``fix_cell``, ``fix_axes``, ``fix_atoms``: see `Relaxer.relax`.

    Returns:
        The relaxed crystal or crystals, of the same type.

    Raises:
        InvalidCrystalError: A crystal was refused. To go on with the others use `Relaxer.relax`.

    Warns:
        UserWarning: A prediction fails a sanity check.
    """
    import warnings

    relaxer = model if isinstance(model, Relaxer) else _loaded(find_model(model), device)
    single = (
        convert.is_atoms(structure) or convert.is_structure(structure) or not isinstance(structure, Iterable)
    )
    results = relaxer.relax([structure] if single else structure, **options)
    for index, result in enumerate(results):
        where = "the crystal" if single else f"crystal {index}"
        if result.status == "refused":
            raise InvalidCrystalError(f"{where} cannot be relaxed: {result.reason}")
        if result.status == "suspect":
            warnings.warn(f"{where} is suspect: {result.reason}", stacklevel=2)
    return results[0].structure if single else [result.structure for result in results]


_CACHE: dict[tuple[Path, int, str], Relaxer] = {}


def _loaded(directory: Path, device: str) -> Relaxer:
    """The model last loaded, if it is the one wanted; a retrained one is read again."""
    key = (directory.resolve(), (directory / "config.json").stat().st_mtime_ns, device)
    if key not in _CACHE:
        relaxer = load(directory, device)
        _CACHE.clear()
        _CACHE[key] = relaxer
    return _CACHE[key]


def resolve_device(name: str) -> torch.device:
    """Device of a name; ``"auto"`` is a GPU if there is one.

    Raises:
        ConfigError: The name is unknown, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise ConfigError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got '{name}'.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"there is no device '{name}': PyTorch sees {torch.cuda.device_count()} GPUs. Use 'cpu'."
        )
    return torch.device(name)
