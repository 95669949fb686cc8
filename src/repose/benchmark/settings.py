"""Settings of benchmarks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from repose.config import Computation, Precision, Settings

Counts = tuple[Annotated[int, Field(gt=0)], ...]


class SpeedSettings(Settings):
    """Crystals and variants of the network that are measured."""

    batches: Counts = Field(default=(1, 8, 32, 128), description="crystals in a batch")
    size: int = Field(default=9, gt=0, description="atoms of each crystal in a batch")
    atoms: Counts = Field(default=(10, 50, 200, 1000, 5000), description="atoms of single crystals")
    computation: tuple[Computation, ...] = Field(
        default=("plain", "tabulated", "compiled"), description="plain, tabulated, compiled or auto"
    )
    precision: tuple[Precision, ...] = Field(
        default=("float32",), description="of matrix products: float32 or bfloat16"
    )
    threads: int | None = Field(default=None, gt=0, description="CPU threads; null: PyTorch's default")
    seconds: float = Field(default=5.0, ge=0, description="time of each measurement, about, s")


class ProfileSettings(Settings):
    """Crystals and variant of the network that are profiled."""

    batch: int = Field(default=32, gt=0, description="crystals in the batch")
    size: int = Field(default=9, gt=0, description="atoms of each crystal")
    computation: Computation = Field(default="plain", description="variant of the network")
    precision: Precision = Field(default="float32", description="of matrix products")
    threads: int | None = Field(default=None, gt=0, description="CPU threads; null: PyTorch's default")
    passes: int = Field(default=5, gt=0, description="forward passes that are averaged")
