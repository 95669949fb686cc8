"""Settings of DeepRelax."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from repose.config import GraphSettings, NetworkSettings


class DeepRelaxSettings(NetworkSettings):
    """Hyperparameters of DeepRelax; the defaults have the published size."""

    # Rate and patience are in the paper (Implementation details), the rest is from the authors' code.
    training: ClassVar[dict[str, Any]] = {
        "sampling": {"crystals_per_batch": 32, "epoch_steps": 800},
        "learning_rate": 1e-4,
        "patience": 5,
        "score": "coordinates",
        "early_stop": 50,
        "max_epochs": 800,
        "clip": 150.0,
        "precision": "32",
    }

    graph: GraphSettings = Field(
        default=GraphSettings(self_images=False), description="how neighbours are found"
    )
    offsets: bool = Field(
        default=True,
        description="encode the cell of a neighbour (equations 2-3); the prediction then depends on the "
        "choice of cell and of periodic images. False: ablation",
    )
    bond_uncertainty: bool = Field(
        default=True, description="False: ablation, distances without scales, trained by the L1 loss"
    )
    maps: Literal["networks", "released", "matrices"] = Field(
        default="networks",
        description="maps of equations 4 to 10: two-layer networks; 'released': as in the authors' code, "
        "narrower in messages, with more layers for the edges of predicted distances; 'matrices': a matrix "
        "each, and the cell instead of its change, as printed",
    )
    lattice: Literal["matrix", "strain"] = Field(
        default="matrix",
        description="'matrix': nine numbers from the entries of the cell (equation 9), not equivariant; "
        "'strain': tensors pooled over edges after every layer (ours), equivariant",
    )
    pooling: Literal["mean", "sum"] = Field(
        default="mean",
        description="atoms in equation 9: their mean, equal in a supercell, or their sum (published)",
    )
    distances: Literal["whole", "change"] = Field(
        default="whole",
        description="'change': predict changes of the distances that atoms at their fractional coordinates "
        "have in the predicted cell (ours)",
    )
    positions: Literal["bounds", "likelihood"] = Field(
        default="bounds",
        description="'bounds': distances within one scale of the predicted ones (equations 18-20); "
        "'likelihood': the most probable positions under the predicted Laplace distributions (ours)",
    )
    solver: Literal["gauss-newton", "adam", "released"] = Field(
        default="gauss-newton",
        description="solver for positions; 'adam' (published): on equation 20, with the 100 steps at a rate "
        "of 0.1 of the authors' code; 'released': the same on means over either kind of distances, as there",
    )
    anchors: Literal["cell", "all"] = Field(
        default="cell",
        description="pairs with a distance from one atom's old to the other's new position: those within the "
        "cell as given (published), or all edges, which does not depend on periodic images",
    )
