"""Settings of graphs, networks and training runs; they are saved with every model."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from repose.errors import ConfigError, ReposeError, nearest

# Variants of the tensor operations in a forward pass, and the precision of its matrix products.
Computation = Literal["auto", "plain", "tabulated", "compiled"]
Precision = Literal["float32", "bfloat16"]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all settings. Names and values are checked: unknown names, infinity and NaN raise an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Build settings from a mapping.

        Args:
            values: Names and values, e.g. from a configuration file.

        Returns:
            The settings, with defaults for missing names.

        Raises:
            ConfigError: A name is unknown or a value is out of range; the message lists every error.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(f"{cls.__name__}: " + "; ".join(map(cls._explain, error.errors()))) from None

    @classmethod
    def load(cls, path: Path, version: int, error: type[ReposeError]) -> Self:
        """Read a JSON file with a ``format_version``.

        Args:
            path: The file.
            version: Version of the format that this release reads.
            error: Class of the error for a file that is unreadable or of another version.

        Returns:
            The settings.

        Raises:
            ConfigError: A name is unknown or a value is out of range.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            raise error(f"{path} cannot be read: {fault}.") from None
        found = values.get("format_version") if isinstance(values, dict) else None
        if found != version:
            raise error(f"{path} has format version {found}; this release of Repose reads {version}.")
        return cls.parse(values)

    @classmethod
    def _explain(cls, fault: Any) -> str:
        """Return an error of pydantic as one sentence."""
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            owner: Any = cls
            for part in fault["loc"][:-1]:
                owner = owner.model_fields[part].annotation
            known = list(owner.model_fields)
            close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            return f"unknown setting '{name}', {hint}"
        hint = ""
        if fault["type"] == "literal_error":
            hint = nearest(str(fault["input"]), re.findall(r"'([^']*)'", fault["ctx"]["expected"]))
        message = fault["msg"].removeprefix("Value error, ")
        return f"'{name}': {message}; got {fault['input']!r}.{hint}".removesuffix(".")


class GraphSettings(Settings):
    """Neighbours of an atom; see `repose.crystal.graph.periodic_graph`."""

    cutoff: float = Field(default=6.0, gt=0, description="largest distance of neighbours, Å")
    max_neighbours: int | None = Field(
        default=50, gt=0, description="neighbours per atom, the nearest ones; null: all within the cutoff"
    )
    ties: Literal["shell", "order"] = Field(
        default="shell",
        description="neighbours at equal distance beyond max_neighbours: keep all (shell), or cut (order)",
    )
    self_images: bool = Field(
        default=True, description="add edges from each atom to its six images along the lattice vectors"
    )
    within_cell: int = Field(
        default=0,
        ge=0,
        description="neighbours within the cell: so many nearest atoms, at any distance, as in the authors' "
        "code of DeepRelax (20); 0: those within the cutoff",
    )


class NetworkSettings(Settings):
    """Hyperparameters that all families share; the defaults are the published sizes.

    Attributes:
        training: Values of `TrainSettings` that are the defaults of a family in `repose train`.
    """

    training: ClassVar[dict[str, Any]] = {}

    graph: GraphSettings = Field(default=GraphSettings(), description="neighbours of an atom")
    features: int = Field(default=512, gt=0, description="number F of scalar and of vector features")
    layers: int = Field(default=4, gt=0, description="number of layers T")
    n_basis: int = Field(default=128, gt=1, description="number K of radial basis functions")
    reach: float = Field(
        default=30.0, gt=0, description="distance at which the radial basis functions vanish, Å"
    )
    embedding: Literal["free", "properties"] = Field(
        default="free", description="of elements: free vectors, or functions of tabulated properties"
    )
    property_noise: float = Field(
        default=0.0,
        ge=0,
        description="standard deviation of the noise on standardised element properties in training",
    )
    frame: Literal["cartesian", "affine"] = Field(
        default="cartesian",
        description="atoms move by the predicted displacement (cartesian), or also with the cell (affine)",
    )
    start: Literal["input", "rescaled"] = Field(
        default="input",
        description="initial cell: that of the input, or scaled to the volume estimated from composition",
    )

    @field_validator("graph", mode="before")
    @classmethod
    def _complete_graph(cls, values: Any) -> Any:
        """Add what a mapping leaves out from the default of the family, not from `GraphSettings`."""
        default = cls.model_fields["graph"].default
        return {**default.model_dump(), **values} if isinstance(values, dict) else values


class SamplingSettings(Settings):
    """Inputs and batches in training; see `repose.training.samples`."""

    edges_per_batch: int = Field(
        default=12_000, gt=0, description="most edges in a batch, not counting doubled cells"
    )
    crystals_per_batch: int | None = Field(
        default=None,
        gt=0,
        description="crystals in a batch, in every process; null: as many as edges_per_batch allows",
    )
    epoch_steps: int | None = Field(
        default=800,
        gt=0,
        description="optimiser steps per epoch; each epoch ends with a checkpoint; null: one pass over the "
        "crystals",
    )
    path_frames: Share = Field(
        default=0.0, description="share of inputs that are intermediate relaxation steps"
    )
    relaxed: Share = Field(
        default=0.0, description="share of inputs that are relaxed crystals, to be left as they are"
    )
    denoising: Share = Field(
        default=0.0,
        description="share of inputs that are perturbed relaxed crystals; unless it is 0, pairs of equal "
        "crystals are always perturbed, except for the share 'relaxed'",
    )
    interpolated: Share = Field(
        default=0.0, description="share of inputs between the relaxed and the unrelaxed crystal"
    )
    decades: float = Field(
        default=0.0,
        ge=0,
        description="amplitudes of perturbations and interpolations are even in their logarithm over so "
        "many powers of ten; 0: strains are always the largest, displacements even up to it",
    )
    symmetric: Share = Field(default=0.0, description="share of perturbations that keep the space group")
    rewritten: Share = Field(
        default=0.0, description="share of crystals given in another lattice basis, some as a doubled cell"
    )
    recycled: Share = Field(
        default=0.0, description="share of batches that start from the network's own output"
    )
    noise: float = Field(
        default=0.0, ge=0, description="standard deviation of normal noise on the positions of every input, Å"
    )
    strain: float = Field(default=0.03, ge=0, description="perturbation: standard deviation of the strain")
    dilation: float = Field(
        default=0.05, ge=0, description="perturbation: standard deviation of the isotropic strain"
    )
    rattle: float = Field(
        default=0.15, ge=0, description="perturbation: largest standard deviation of displacements, Å"
    )


class PathSettings(Settings):
    """Loss on relaxation paths (RelaxNet, equation 7); energies are per atom."""

    form: Literal["per-atom", "published"] = Field(
        default="per-atom",
        description="'published': equation 7 as printed, with energies per structure, squared errors of "
        "positions and of all forces, and neither cell nor stress",
    )
    energy: float = Field(default=1.0, ge=0, description="weight of energies, per eV and atom")
    rise: float = Field(
        default=5.0, ge=0, description="weight of an energy that rises along the path, per eV and atom"
    )
    forces: float = Field(default=1.0, ge=0, description="weight of squared errors of forces, per (eV/Å)²")
    stress: float = Field(
        default=0.3,
        ge=0,
        description="weight of squared errors of stress times volume per atom, per eV²",
    )
    displacement: float = Field(
        default=1.0,
        ge=0,
        description="weight of the error of positions and cells, averaged over frames, per Å",
    )
    direction: float = Field(default=0.1, ge=0, description="weight of the directions of displacements")

    @model_validator(mode="after")
    def _has_weight(self) -> Self:
        terms = self.energy, self.rise, self.forces, self.displacement, self.direction
        if not any(terms) and (self.form == "published" or not self.stress):
            raise ValueError("all weights of the loss are 0")
        return self


Target = Literal["relaxed", "forces"]


class TrainSettings(Settings):
    """Settings of a training run.

    The defaults are those of ReposeNet. `repose train` uses those of the paper for a published family, see
    `NetworkSettings.training`.
    """

    target: Target = Field(
        default="relaxed", description="training target: relaxed crystals, or forces on the inputs"
    )
    model: dict[str, Any] = Field(default_factory=dict, description="hyperparameters of the family")
    sampling: SamplingSettings = Field(
        default=SamplingSettings(), description="inputs and batches in training"
    )
    paths: PathSettings = Field(
        default=PathSettings(), description="loss of families that predict relaxation paths"
    )
    tolerance: float = Field(
        default=0.0,
        ge=0,
        description="errors of positions and cells far below it count as their squares in the loss, Å",
    )
    layer_weights: list[Annotated[float, Field(ge=0)]] | None = Field(
        default=None,
        description="weights of the layers in the loss (E3Relax, equation 19), the first layer first; "
        "null: all 1",
    )
    shape_weight: float = Field(
        default=0.0, ge=0, description="weight of the error of the cell shape in the loss, 1/Å"
    )
    volume_weight: float = Field(
        default=0.0, ge=0, description="weight of the error of the volume in the loss, 1/Å²"
    )
    dilation_weight: float = Field(
        default=0.0, ge=0, description="weight of the logarithm of the volume ratio in the loss, Å"
    )
    bond_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the error of distances after the last layer in the loss, each by its inverse "
        "sixth power",
    )
    lattice_weight: float = Field(
        default=1.0,
        ge=0,
        description="weight of the lattice relative to distances in the loss of DeepRelax (equation 15), 1/Å",
    )
    reduction: Literal["crystals", "mean", "sum"] = Field(
        default="crystals",
        description="loss of DeepRelax: mean over crystals of means over pairs, mean over all pairs of the "
        "batch (authors' code), or sum (equations 11 to 14)",
    )
    images: Literal["unrelaxed", "predicted"] = Field(
        default="unrelaxed",
        description="periodic image in the loss: the one nearest to the unrelaxed atom (as E3Relax), or "
        "nearest to the predicted atom (as E3Relax-H2)",
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="largest learning rate of AdamW")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay of AdamW")
    amsgrad: bool = Field(default=True, description="use the AMSGrad variant of AdamW")
    schedule: Literal["plateau", "cosine"] = Field(default="plateau", description="learning rate schedule")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warmup of the learning rate")
    decay: float = Field(default=0.8, gt=0, lt=1, description="plateau: factor on the learning rate")
    patience: int = Field(default=5, gt=0, description="plateau: epochs without improvement before a decay")
    score: Literal["absolute", "relative", "coordinates"] = Field(
        default="absolute",
        description="validation score: errors of coordinates and lattice in Å; these divided by those of the "
        "input, so that inputs at all distances count; or the error of coordinates alone. Families that "
        "predict paths add the error of energies in eV per atom",
    )
    early_stop: int = Field(default=10, gt=0, description="epochs without improvement before training ends")
    max_epochs: int = Field(default=1000, gt=0, description="largest number of epochs; length of the cosine")
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the moving average of weights, which is the model"
    )
    trunk_rate: float = Field(
        default=1.0,
        ge=0,
        description="factor on the learning rate of everything except the heads; 0 freezes it",
    )
    frozen_layers: int = Field(
        default=0, ge=0, description="layers to freeze, with the embedding, for fine-tuning; 0: none"
    )
    clip: float | None = Field(default=50.0, gt=0, description="largest norm of the gradient; null: any")
    seed: int = Field(default=0, ge=0, description="seed of all random numbers")
    crystals: int | None = Field(
        default=None,
        gt=0,
        description="number of training crystals, chosen by hash of their ids; null: all. A smaller set is "
        "part of every larger one. Training on paths chooses among those with enough frames",
    )
    validation_crystals: int | None = Field(
        default=None,
        gt=0,
        description="number of validation crystals in every epoch, chosen in the same way; null: all. The "
        "calibration at the end uses all",
    )
    workers: int = Field(
        default=0, ge=0, description="processes that prepare batches; 0: a thread of the training process"
    )
    precision: Literal["auto", "32", "bf16"] = Field(
        default="auto", description="auto: bf16 on GPUs that have it, else 32"
    )

    @field_validator("layer_weights")
    @classmethod
    def _have_weight(cls, weights: list[float] | None) -> list[float] | None:
        if weights is not None and not any(weights):
            raise ValueError("all weights of the loss are 0")
        return weights
