"""Settings of ReposeNet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from repose.config import GraphSettings, NetworkSettings


class ReposeNetSettings(NetworkSettings):
    """Hyperparameters of the house family; the defaults are what ships."""

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
        default="rescaled", description="the first geometry has the volume guessed from composition, or not"
    )
    uncertainty_head: bool = Field(
        default=True, description="say how large the error of every atom and of the strain will be"
    )
    radii: bool = Field(
        default=True,
        description="measure distances between learned radii of atoms; False: ablation, between centres",
    )
    rank2: bool = Field(default=True, description="False: ablation, atoms do not send their tensors")
    products: bool = Field(
        default=True, description="False: ablation, vectors and tensors of an atom do not multiply"
    )
    tied: bool = Field(default=False, description="the same weights in every layer")
    passes: int = Field(default=1, gt=0, description="how often the network is applied, outside of training")
