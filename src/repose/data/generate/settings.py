"""Settings of generated candidates."""

from __future__ import annotations

from pydantic import Field

from repose.config import Settings


class GenerateSettings(Settings):
    """Changes to a preset; values that are not given are the preset's defaults."""

    elements: tuple[str, ...] = Field(
        default=(), description="elements to draw from, e.g. Li,Fe,P,O; all tabulated ones if empty"
    )
    max_atoms: int | None = Field(
        default=None,
        gt=0,
        description="most atoms in a cell; presets: bulk 12, xmno and perovskites 20, others no limit",
    )
    volume_spread: float | None = Field(
        default=None, ge=0, description="standard deviation of the logarithm of the volume"
    )
    strain: float | None = Field(default=None, ge=0, description="standard deviation of strain components")
    rattle: float | None = Field(
        default=None, ge=0, description="largest standard deviation of displacements, Å"
    )
