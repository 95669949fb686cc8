"""Settings of a validation."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from repose.potentials import loading
from repose.potentials.base import Potential
from repose.potentials.chgnet import CHGNetPotential
from repose.potentials.settings import CalculatorSettings


class ValidationSettings(CalculatorSettings):
    """Calculator and relaxations, the same for all starts."""

    symmetry: Literal["keep", "free"] = Field(
        default="keep", description="keep the space group of the input in predictions and relaxations"
    )

    @property
    def potential(self) -> str:
        """Name, options and precision of the calculator."""
        precision = ", float64" if self.calculator in ("chgnet", "chgnet-r2scan") else ""
        return loading.calculator_name(self.calculator, self.options) + precision

    def load_potential(self, device: str) -> Potential:
        """Load the calculator; CHGNet in float64, so that steps do not depend on the batch.

        Raises:
            ConfigError: It cannot be loaded; see `repose.potentials.loading.load_potential`.
        """
        potential = loading.load_potential(self.calculator, device, self.options)
        if isinstance(potential, CHGNetPotential):
            potential.dtype, potential.model = torch.float64, potential.model.double()
        return potential
