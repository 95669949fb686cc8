"""Settings: typed, closed, saved with every model."""

from __future__ import annotations

import difflib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repose.errors import ConfigError


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused with the nearest match, values are checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check a mapping against these settings.

        Args:
            values: Names and values, e.g. from a configuration file.

        Returns:
            The settings, defaults filled in.

        Raises:
            ConfigError: A key is unknown or a value out of range; every fault is listed.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(f"{cls.__name__}: " + "; ".join(map(cls._explain, error.errors()))) from None

    @classmethod
    def _explain(cls, fault: Any) -> str:
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, cls.model_fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(cls.model_fields)}"
            return f"unknown setting '{name}', {hint}"
        return f"'{name}': {fault['msg']}; got {fault['input']!r}"


class GraphSettings(Settings):
    """How neighbours are found; see `repose.graph.periodic_graph`."""

    cutoff: float = Field(6.0, gt=0, description="largest distance of neighbours in A")
    max_neighbours: int | None = Field(50, gt=0, description="nearest neighbours kept per atom")
    ties: Literal["shell", "order"] = Field("shell", description="keep whole shells, or cut by order")
    self_images: bool = Field(True, description="self-connecting edges to six images of the atom")


class E3RelaxSettings(Settings):
    """Hyperparameters of E3Relax; the defaults are the published size."""

    graph: GraphSettings = GraphSettings()
    features: int = Field(512, gt=0, description="width F of scalar and vector features")
    layers: int = Field(4, gt=0, description="number of layers T")
    n_basis: int = Field(128, gt=1, description="radial functions K")
    reach: float = Field(30.0, gt=0, description="distance in A where radial functions vanish")
    lattice_nodes: bool = Field(True, description="False: ablation 'w/o lattice nodes' of Table 3")
    refinement: bool = Field(True, description="False: ablation 'w/o refinement', geometry moves in the last layer only")
    shared_axes: bool = Field(True, description="one set of weights for a, b and c, so that their order does not matter")
    embedding: Literal["free", "properties"] = Field("free", description="elements: free vectors or tabulated properties")
    frame: Literal["cartesian", "affine"] = Field(
        "cartesian",
        description="'cartesian': atoms move as in equation 8; 'affine': they also follow the cell's deformation",
    )
    start: Literal["input", "rescaled"] = Field(
        "input", description="'rescaled': the first geometry has the volume guessed from composition"
    )
