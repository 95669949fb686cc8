"""Loading of potentials by name."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from repose.device import resolve_device
from repose.errors import ConfigError, ReposeError, nearest
from repose.potentials.base import Potential

# Potentials evaluated in batches: their names here, in datasets and in tables.
BATCHED = {"chgnet": "CHGNet 0.3.0", "chgnet-r2scan": "CHGNet r2scan", "sevennet": "SevenNet-0"}


def load_potential(name: str, device: str = "auto", options: dict[str, Any] | None = None) -> Potential:
    """Load a potential by its name or import path.

    Args:
        name: ``"chgnet"``, ``"chgnet-r2scan"``, ``"sevennet"``, or ``MODULE:NAME`` of a class or function
            that returns an ASE calculator or a `Potential`, e.g. ``"ase.calculators.emt:EMT"``. Modules in
            the working directory are found too.
        device: See `repose.device.resolve_device`; not used for ASE calculators.
        options: Arguments of the class or function.

    Raises:
        ConfigError: The name is unknown, cannot be imported, or does not return a calculator.
        MissingExtraError: A required package is not installed.
    """
    options = options or {}
    if name in BATCHED:
        if options:
            raise ConfigError(f"the calculator '{name}' takes no options; got {', '.join(options)}.")
        if name == "sevennet":
            from repose.potentials.sevennet import SevenNetPotential

            return SevenNetPotential(BATCHED[name], resolve_device(device))
        from repose.potentials.chgnet import CHGNetPotential

        return CHGNetPotential(BATCHED[name].removeprefix("CHGNet "), resolve_device(device))
    if ":" not in name:
        raise ConfigError(
            f"calculator '{name}' is unknown: expected {', '.join(BATCHED)}, or MODULE:NAME of an ASE "
            f"calculator such as ase.calculators.emt:EMT.{nearest(name, BATCHED)}"
        )
    made = _make(name, options)
    if isinstance(made, Potential):
        return made
    if not _is_calculator(made):
        raise ConfigError(f"{name} returns a {type(made).__name__}; expected an ASE calculator.")
    from repose.potentials.ase import AsePotential

    return AsePotential(made, name.rpartition(":")[2])


def as_potential(given: Any, device: str = "auto") -> Potential:
    """Potential from a name or import path as for `load_potential`, an ASE calculator, or a potential.

    Raises:
        ConfigError: It is none of these, or as for `load_potential`.
        MissingExtraError: A required package is not installed.
    """
    if isinstance(given, Potential):
        return given
    if isinstance(given, str):
        return load_potential(given, device)
    if isinstance(given, type) or not _is_calculator(given):
        raise ConfigError(
            "expected the name of a calculator such as 'chgnet', MODULE:CLASS, or an ASE calculator; got "
            f"{given!r}."
        )
    from repose.potentials.ase import AsePotential

    return AsePotential(given)


def _is_calculator(value: Any) -> bool:
    return callable(getattr(value, "get_property", None))


def calculator_name(name: str, options: dict[str, Any] | None = None) -> str:
    """Name of a calculator in datasets: ``"CHGNet 0.3.0"``, ``"EMT"``."""
    if name in BATCHED:
        return BATCHED[name]
    arguments = ", ".join(f"{key}={value}" for key, value in sorted((options or {}).items()))
    return name.rpartition(":")[2] + (f" ({arguments})" if arguments else "")


def _make(name: str, options: dict[str, Any]) -> Any:
    """Return what a class or function returns, or a calculator that the module holds."""
    found = _import(name)
    if _is_calculator(found) and not isinstance(found, type):
        return found
    try:
        return found(**options)
    except ReposeError:
        raise
    except Exception as error:
        raise ConfigError(
            f"calculator {name} cannot be made: {type(error).__name__}: {error}. If it needs arguments, name "
            "a function without arguments, in a module of your own, that returns it."
        ) from None


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise ConfigError(f"calculator {name}: the module has no '{attribute}'.") from None
    except Exception as error:  # the code of a user's module
        text = f"{type(error).__name__}: {error}"
        raise ConfigError(f"calculator {name}: the module cannot be imported: {text}.") from None
