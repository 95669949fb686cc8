"""Settings of RelaxNet."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from repose.config import GraphSettings, NetworkSettings


class RelaxNetSettings(NetworkSettings):
    """Hyperparameters of RelaxNet; the defaults are the sizes of the shipped model."""

    # Appendix A.1 of the paper, which names neither AMSGrad, an average of weights nor a limit of gradients.
    training: ClassVar[dict[str, Any]] = {
        "sampling": {"crystals_per_batch": 64, "epoch_steps": None},
        "learning_rate": 5e-4,
        "weight_decay": 5e-5,
        "amsgrad": False,
        "decay": 0.8,
        "patience": 8,
        "early_stop": 20,
        "max_epochs": 1000,
        "ema": 0.0,
        "clip": None,
        "precision": "32",
    }

    graph: GraphSettings = Field(
        default=GraphSettings(cutoff=5.0, max_neighbours=None, self_images=False),
        description="how neighbours are found",
    )
    features: int = Field(default=96, gt=0, description="width F of atoms")
    layers: int = Field(default=2, gt=0, description="DTNN layers of the encoder")
    n_basis: int = Field(default=24, gt=1, description="Gaussians of the length of an edge")
    reach: float = Field(default=6.0, gt=0, description="distance in A where Gaussians vanish")
    embedding: Literal["free", "properties"] = Field(
        default="properties", description="elements: free vectors or tabulated properties"
    )
    frame: Literal["affine"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]  narrower
        default="affine", description="atoms follow the cell"
    )
    start: Literal["input", "rescaled"] = Field(
        default="rescaled",
        description="'rescaled': the initial strain rate leads to the volume predicted from composition "
        "(ours)",
    )
    uncertainty_head: bool = Field(
        default=True, description="predict errors of atoms and of the strain (ours)"
    )
    evolution: Literal["explicit", "implicit", "static"] = Field(
        default="explicit",
        description="'implicit': features are computed from the geometry at every step; 'explicit': they are "
        "computed once and evolved by a small network; 'static': the encoder alone, whose hidden steps lead "
        "to the relaxed crystal at once; the path has two frames",
    )
    frames: int = Field(default=5, gt=1, description="frames of a path, input and relaxed crystal included")
    references: bool = Field(
        default=True,
        description="the network predicts energies relative to those of the elements, which are fitted by "
        "least squares (ours)",
    )
    charges: bool = Field(
        default=False, description="charges of atoms are features, and every crystal must have them"
    )
    cell: Literal["moves", "fixed"] = Field(
        default="moves", description="'fixed': the published form, where only atoms move"
    )
    damped: bool = Field(default=True, description="learned friction (ours); False: du/dt = F/m")
    solver: Literal["rk4", "midpoint", "euler", "dopri5"] = Field(
        default="rk4",
        description="of torchdiffeq: fixed steps (rk4: the 3/8 rule), or (dopri5) adaptive steps per crystal",
    )
    substeps: int = Field(default=1, gt=0, description="steps of fixed length between two frames")
    tolerance: float = Field(default=1e-3, gt=0, description="largest error of a step of dopri5, in A")
    adjoint: bool = Field(
        default=False,
        description="train by the adjoint method: less memory, more time, less accurate gradients",
    )
    n_bessel: int = Field(default=4, gt=0, description="spherical Bessel functions of every degree")
    lmax: int = Field(default=3, ge=0, le=3, description="degree of spherical harmonics of edges")
    channels: int = Field(default=8, gt=0, description="channels of every degree")
    expansion: Literal["invariant", "harmonics"] = Field(
        default="invariant",
        description="of edges: angles with the other edges of an atom, or 'harmonics': equation 6b as "
        "printed, which depends on the coordinate system",
    )
    triplets: int = Field(default=32, ge=0, description="width of triplets; 0: ablation without them")
    triplet_cutoff: float = Field(default=3.6, gt=0, description="cutoff of edges in triplets in A")
    zonal: int = Field(default=5, gt=0, description="zonal harmonics of the angle of a triplet")
    hidden_steps: bool = Field(
        default=True, description="layers displace the positions used by later layers; False: ablation"
    )
    heads: int = Field(default=4, gt=0, description="heads of the attention between atoms; divides F")
