"""Settings of DeepRelax."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from repose.config import GraphSettings, NetworkSettings


class DeepRelaxSettings(NetworkSettings):
    """Hyperparameters of DeepRelax; the defaults are the published form and size."""

    graph: GraphSettings = Field(
        default=GraphSettings(self_images=False), description="how neighbours are found"
    )
    offsets: bool = Field(
        default=True,
        description="encode the cell that a neighbour stands in (equations 2-3); the answer then depends on "
        "the choice of cell, and of the image that an atom is written in. False: ablation",
    )
    bond_uncertainty: bool = Field(
        default=True, description="False: ablation, distances have no scale and are learned by L1"
    )
    lattice: Literal["matrix", "strain"] = Field(
        default="matrix",
        description="'matrix': nine numbers from the entries of the cell (equation 9), which do not turn "
        "with the crystal; 'strain': tensors pooled over edges, after every layer (ours), which do",
    )
    distances: Literal["whole", "change"] = Field(
        default="whole",
        description="'change': what is predicted is added to the distance that a pair has in the predicted "
        "cell when atoms follow it (ours)",
    )
    positions: Literal["bounds", "likelihood"] = Field(
        default="bounds",
        description="'bounds': distances within one scale of the predicted ones (equations 18-20); "
        "'likelihood': the most probable positions under the predicted Laplace distributions (ours)",
    )
    anchors: Literal["cell", "all"] = Field(
        default="cell",
        description="pairs for the distance between one atom's old and the other's new place: those within "
        "the cell as written (published), or all edges, whatever images atoms are written in",
    )
