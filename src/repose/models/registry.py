"""Registry of model families: every folder of this package that has a `network` module is one.

A new family needs no edit elsewhere: its folder ``models/NAME/`` holds ``network.py``, which registers the
class of its network with ``@register("NAME")``. Underscores of the folder are hyphens in the name of the
family.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import repose.models
from repose.errors import ModelError, nearest

if TYPE_CHECKING:
    from repose.models.network import Network

N = TypeVar("N", bound="Network[Any]")

_FAMILIES: dict[str, type[Network[Any]]] = {}


def register(name: str) -> Callable[[type[N]], type[N]]:
    """Class decorator that enters a family in the registry under its name."""

    def enter(cls: type[N]) -> type[N]:
        cls.family = name
        _FAMILIES[name] = cls
        return cls

    return enter


def _modules() -> dict[str, str]:
    """Modules of the families by name, found in the folders of this package without importing them."""
    folders = [f"repose.models.{m.name}" for m in pkgutil.iter_modules(repose.models.__path__) if m.ispkg]
    return {
        folder.rpartition(".")[2].replace("_", "-"): f"{folder}.network"
        for folder in folders
        if find_spec(f"{folder}.network") is not None
    }


def families() -> list[str]:
    """Names of the model families that can be trained."""
    return sorted({*_modules(), *_FAMILIES})


def family(name: str) -> type[Network[Any]]:
    """Class of a model family.

    Raises:
        ModelError: No family has this name.
    """
    if name not in _FAMILIES and (module := _modules().get(name)):
        importlib.import_module(module)
    if name not in _FAMILIES:
        raise ModelError(
            f"no model family is called '{name}'; known: {', '.join(families())}.{nearest(name, families())}"
        )
    return _FAMILIES[name]
