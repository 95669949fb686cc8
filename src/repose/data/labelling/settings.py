"""Settings of labelling."""

from __future__ import annotations

from pydantic import Field

from repose.potentials.settings import CalculatorSettings


class LabelSettings(CalculatorSettings):
    """Calculator, relaxation and stored frames of labelled crystals."""

    frames: int = Field(
        default=0, ge=0, description="frames kept of each path, evenly spaced; 0 keeps all of them"
    )
    bonds_kept: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="smallest share of bonds that a crystal keeps; with fewer it counts as failed",
    )

    @property
    def labels(self) -> str:
        """Calculator and convergence of the labels, for ``dataset.json``."""
        from repose.potentials.loading import calculator_name

        name = calculator_name(self.calculator, self.options)
        cell = ", fixed cell" if self.relaxation.fixed_cell else ""
        return f"{name}, relaxed to {self.relaxation.fmax:g} eV/A{cell}"
