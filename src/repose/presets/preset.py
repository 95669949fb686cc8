"""Presets: how a paper trains a family on a dataset, and which errors it reports.

A preset is a JSON file of this folder, ``FAMILY/DATA.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from repose.config import Settings
from repose.errors import ConfigError, nearest

FOLDER = Path(__file__).parent


class Preset(Settings):
    """Contents of a preset."""

    format_version: Literal[1] = 1
    paper: str = Field(description="the paper")
    place: str = Field(description="table or figure of the paper")
    archives: tuple[str, ...] = Field(
        description="datasets of `repose data fetch` that hold its crystals, the one to use first"
    )
    note: str = Field(default="", description="what the paper leaves open, and where a value is from")
    published: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="published errors on the test split, by model and metric"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="settings of the training that are not defaults of the family"
    )


def preset_names() -> list[str]:
    """Names of all presets, e.g. ``"e3relax/mp"``."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.json"))


def load_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in (known := preset_names()):
        raise ConfigError(f"there is no preset '{name}'; known: {', '.join(known)}.{nearest(name, known)}")
    return Preset.load(FOLDER / f"{name}.json", 1, ConfigError)
