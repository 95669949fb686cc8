"""Settings of ReposeNet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from repose.config import GraphSettings, NetworkSettings


class ReposeNetSettings(NetworkSettings):
    """Hyperparameters of ReposeNet; the defaults are the sizes of the shipped models."""

    graph: GraphSettings = Field(
        default=GraphSettings(max_neighbours=None, self_images=False), description="how neighbours are found"
    )
    features: int = Field(default=128, gt=0, description="width F of scalars, vectors and tensors")
    layers: int = Field(default=3, gt=0, description="number of refinements")
    n_basis: int = Field(default=24, gt=1, description="radial functions K")
    reach: float = Field(default=8.0, gt=0, description="distance in A where radial functions vanish")
    embedding: Literal["free", "properties"] = Field(
        default="properties", description="elements: free vectors or tabulated properties"
    )
    frame: Literal["affine"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]  narrower
        default="affine", description="atoms follow the cell"
    )
    start: Literal["input", "rescaled"] = Field(
        default="rescaled",
        description="'rescaled': the starting geometry has the volume predicted from composition",
    )
    volume_feature: bool = Field(
        default=False, description="embed the ratio of the volume to that predicted from composition"
    )
    stays: bool = Field(
        default=False,
        description="predict the error of the input, too, and scale displacements and strains by a factor "
        "per crystal: nearly relaxed crystals are hardly changed",
    )
    uncertainty_head: bool = Field(default=True, description="predict errors of atoms and of the strain")
    radii: bool = Field(
        default=True,
        description="subtract learned radii of atoms from distances; False: ablation",
    )
    rank2: bool = Field(default=True, description="False: ablation without tensors in messages")
    products: bool = Field(
        default=True, description="False: ablation without products of vectors and tensors"
    )
    tied: bool = Field(default=False, description="share weights between layers")
    passes: int = Field(default=1, gt=0, description="number of forward passes, except in training")
