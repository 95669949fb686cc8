"""Settings of E3Relax-H2."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from repose.models.lattice_network import LatticeNodeSettings


class E3RelaxH2Settings(LatticeNodeSettings):
    """Hyperparameters of E3Relax-H2; the defaults are the published size."""

    # From the paper (periodicity-aware loss) and the authors' code.
    training: ClassVar[dict[str, Any]] = {
        "sampling": {"crystals_per_batch": 32, "epoch_steps": 800},
        "images": "predicted",
        "learning_rate": 1e-4,
        "patience": 5,
        "score": "coordinates",
        "early_stop": 10,
        "max_epochs": 800,
        "clip": 50.0,
        "precision": "32",
    }

    shared_axes: bool = Field(
        default=False, description="one set of weights for a, b and c, so that their order does not matter"
    )
    angular: bool = Field(
        default=True, description="False: ablation without the gate of high degree and order on messages"
    )
    lmax: int = Field(default=3, ge=0, description="degree of the spherical harmonics in the gate")
    fade: float = Field(
        default=1e-3,
        gt=0,
        description="length of the mean unit vector to the neighbours below which the gate's reference "
        "direction goes to zero",
    )
    lattice_to_atoms: bool = Field(
        default=True, description="False: ablation, messages go from atoms to lattice nodes only"
    )
    axis_mixing: bool = Field(
        default=True, description="False: ablation, the three lattice nodes do not mix with each other"
    )
    lattice_offset: Literal["parts", "tip", "axis"] = Field(
        default="parts",
        description="lattice vector as input of atoms: 'parts', their position along and across it; 'tip', "
        "the vector to its tip as in E3Relax; 'axis', the vector alone, which does not depend on periodic "
        "images",
    )
    keep_vectors: bool = Field(
        default=False,
        description="add messages from the lattice to the atoms' vectors (ours) instead of replacing them",
    )
