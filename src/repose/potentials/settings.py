"""Settings of a relaxation with a potential."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from repose.config import Settings


class LbfgsSettings(Settings):
    """Step sizes and stopping criteria of a relaxation by L-BFGS."""

    fmax: float = Field(
        default=0.05,
        gt=0,
        description="largest force on an atom of a relaxed crystal, eV/Å; rows of stress times volume per "
        "atom count as forces, as in ASE's cell filters",
    )
    max_steps: int = Field(default=500, gt=0, description="steps after which a crystal counts as failed")
    max_step: float = Field(default=0.2, gt=0, description="longest step of an atom, Å")
    history: int = Field(default=30, gt=0, description="steps kept for the L-BFGS update")
    batch_atoms: int | None = Field(
        default=None, gt=0, description="atoms evaluated in one batch; null: chosen by the potential"
    )
    fixed_cell: bool = Field(default=False, description="keep the cell fixed and relax the atoms only")
    max_volume_ratio: float = Field(
        default=4.0, gt=1, description="factor of the volume, up or down, beyond which a crystal has failed"
    )


class CalculatorSettings(Settings):
    """Calculator and relaxations with it."""

    calculator: str = Field(
        default="chgnet", description="chgnet, chgnet-r2scan, sevennet, or MODULE:NAME of an ASE calculator"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the calculator, e.g. options.model=mace.model"
    )
    relaxation: LbfgsSettings = Field(default=LbfgsSettings(), description="how crystals are relaxed")
