"""Volumes of candidates, from what crystals of prototypes took up once relaxed."""

from __future__ import annotations

from functools import cache
from importlib import resources

from repose.crystal.volumes import Volumes


@cache
def default_volumes() -> Volumes:
    """The table that ships; see ``tools/make_volumes.py``."""
    table = resources.files("repose.data.generate").joinpath("volumes.csv")
    return Volumes.parse(table.read_text(encoding="utf-8"))
