"""Errors. Every message says what was expected, what was given, and what to do."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from difflib import get_close_matches

# Optional packages by importable name, and the extra of this package that installs each.
EXTRAS = {
    "pyarrow": "data",
    "requests": "data",
    "matplotlib": "evaluate",
    "lightning": "train",
    "tensorboard": "train",
    "chgnet": "chgnet",
    "sevenn": "sevenn",
    "pandas": "notebook",
    "jobflow": "jobflow",
    "quacc": "quacc",
}


class ReposeError(Exception):
    """Base of all errors that Repose raises for wrong input."""


class InvalidCrystalError(ReposeError, ValueError):
    """A crystal cannot be relaxed; the message gives the cause."""


class ShapeError(ReposeError, ValueError):
    """An array has the wrong shape or type."""


class ConfigError(ReposeError, ValueError):
    """A setting is unknown or out of range."""


class ModelError(ReposeError):
    """A model is unknown, or its directory is incomplete or of another format."""


class DatasetError(ReposeError):
    """A dataset is missing, incomplete or of another format."""


class MissingExtraError(ReposeError, ImportError):
    """An optional package is not installed; the message gives the install command."""


def require(module: str, purpose: str) -> None:
    """Check that an optional package is installed.

    Args:
        module: Importable name of the package, e.g. ``"pyarrow"``.
        purpose: Subject of the message, e.g. ``"reading datasets"``.

    Raises:
        MissingExtraError: The package is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"{purpose} needs the package '{module}', which is not installed. "
            f"Install it with: pip install 'repose-crystal[{EXTRAS[module]}]'"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the hint `` Did you mean 'x'?`` for a mistyped name, or an empty string."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.65)
    return f" Did you mean '{matches[0]}'?" if matches else ""
