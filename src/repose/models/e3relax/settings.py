"""Settings of E3Relax."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from repose.models.lattice_network import LatticeNodeSettings


class E3RelaxSettings(LatticeNodeSettings):
    """Hyperparameters of E3Relax; the defaults are the published size."""

    lattice_offset: Literal["tip", "axis"] = Field(
        default="tip",
        description="lattice vector as input of atoms: 'tip', r_i - l_c as in eqs. 15-16, with r_i from the "
        "mean of the crystal; 'axis', -l_c, which does not depend on periodic images",
    )
