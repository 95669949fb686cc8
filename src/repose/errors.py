"""What can go wrong, as types: every error says what was expected, what came and what to do."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from difflib import get_close_matches

# Which extra brings which importable module; the one place that knows.
EXTRAS = {
    "pyarrow": "data",
    "requests": "data",
    "matplotlib": "evaluate",
    "lightning": "train",
    "tensorboard": "train",
    "chgnet": "chgnet",
    "pandas": "notebook",
}


class ReposeError(Exception):
    """Base of all errors raised on purpose by Repose."""


class InvalidCrystalError(ReposeError, ValueError):
    """A crystal cannot be relaxed; the message names the cause in words a user can act on."""


class ShapeError(ReposeError, ValueError):
    """An array has the wrong shape or type."""


class ConfigError(ReposeError, ValueError):
    """A setting is unknown or out of range."""


class ModelError(ReposeError):
    """A model is unknown, or its directory is incomplete or of another format."""


class DatasetError(ReposeError):
    """A dataset is missing, incomplete or of another format."""


class MissingExtraError(ReposeError, ImportError):
    """An optional package is not installed; the message holds the install command."""


def require(module: str, purpose: str) -> None:
    """Make sure that an optional package can be imported.

    Args:
        module: Importable name of the top-level package, e.g. ``"pyarrow"``.
        purpose: What it is needed for, e.g. ``"reading datasets"``.

    Raises:
        MissingExtraError: The package is not installed; says which extra brings it.
    """
    if importlib.util.find_spec(module) is None:
        extra = EXTRAS[module]
        raise MissingExtraError(
            f"{purpose} needs the package '{module}', which is not installed. "
            f"Install it with: pip install 'repose-crystal[{extra}]'"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint `` Did you mean 'x'?`` for a mistyped name, or an empty string."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""
