"""Settings of E3Relax."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from repose.models.lattice_network import LatticeNodeSettings


class E3RelaxSettings(LatticeNodeSettings):
    """Hyperparameters of E3Relax; the defaults are the published size."""

    # Rate and patience are in the paper (Implementation Details), the rest is from the authors' code.
    training: ClassVar[dict[str, Any]] = {
        "sampling": {"crystals_per_batch": 32, "epoch_steps": 800},
        "learning_rate": 1e-4,
        "patience": 5,
        "score": "coordinates",
        "early_stop": 15,
        "max_epochs": 800,
        "clip": 150.0,
        "precision": "32",
    }

    atom_update: Literal["residual", "gated"] = Field(
        default="residual",
        description="update of atoms: messages are added to their features (residual), as in the released "
        "code, or replace them (gated), equations 3 and 4 as printed",
    )
    lattice_offset: Literal["tip", "axis"] = Field(
        default="tip",
        description="lattice vector as input of atoms: 'tip', r_i - l_c as in eqs. 15-16, with r_i from the "
        "mean of the crystal; 'axis', -l_c, which does not depend on periodic images",
    )
