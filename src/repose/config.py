"""Settings: typed, closed, saved with every model."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repose.errors import ConfigError, ReposeError


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
    def load(cls, path: Path, version: int, error: type[ReposeError]) -> Self:
        """Read a JSON file with a ``format_version``.

        Args:
            path: The file.
            version: The version of the format that this release reads.
            error: What to raise where the file is unreadable or of another version.

        Returns:
            The settings.

        Raises:
            ConfigError: A key is unknown or a value out of range.
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
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            owner: Any = cls
            for part in fault["loc"][:-1]:
                owner = owner.model_fields[part].annotation
            known = list(owner.model_fields)
            close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            return f"unknown setting '{name}', {hint}"
        return f"'{name}': {fault['msg']}; got {fault['input']!r}"


class GraphSettings(Settings):
    """How neighbours are found; see `repose.crystal.graph.periodic_graph`."""

    cutoff: float = Field(default=6.0, gt=0, description="largest distance of neighbours in A")
    max_neighbours: int | None = Field(default=50, gt=0, description="nearest neighbours kept per atom")
    ties: Literal["shell", "order"] = Field(default="shell", description="keep whole shells, or cut by order")
    self_images: bool = Field(default=True, description="self-connecting edges to six images of the atom")


class NetworkSettings(Settings):
    """Hyperparameters that all families share; sizes by default are the published ones."""

    graph: GraphSettings = Field(default=GraphSettings(), description="how neighbours are found")
    features: int = Field(default=512, gt=0, description="width F of scalar and vector features")
    layers: int = Field(default=4, gt=0, description="number of layers T")
    n_basis: int = Field(default=128, gt=1, description="radial functions K")
    reach: float = Field(default=30.0, gt=0, description="distance in A where radial functions vanish")
    embedding: Literal["free", "properties"] = Field(
        default="free", description="elements: free vectors or tabulated properties"
    )
    property_noise: float = Field(
        default=0.0,
        ge=0,
        description="standard deviation of noise on standardised element properties in training",
    )
    frame: Literal["cartesian", "affine"] = Field(
        default="cartesian",
        description="'cartesian': atoms move by what is predicted; 'affine': they also follow the cell",
    )
    start: Literal["input", "rescaled"] = Field(
        default="input", description="'rescaled': the first geometry has the volume guessed from composition"
    )


class SamplingSettings(Settings):
    """What training sees; see `repose.training.samples`."""

    edges_per_batch: int = Field(
        default=12_000,
        gt=0,
        description="batches are filled up to this many edges, doubled cells not counted",
    )
    epoch_steps: int = Field(
        default=800, gt=0, description="optimiser steps in a pseudo-epoch; a checkpoint follows each"
    )
    path_frames: float = Field(
        default=0.0, ge=0, le=1, description="share of inputs that are frames inside a path"
    )
    denoising: float = Field(
        default=0.0, ge=0, le=1, description="share of inputs that are noised relaxed crystals"
    )
    rewritten: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of crystals written in another lattice basis, some as a double cell",
    )
    recycled: float = Field(default=0.0, ge=0, le=1, description="share of batches begun from own answers")
    strain: float = Field(default=0.03, ge=0, description="standard deviation of strain in noised copies")
    dilation: float = Field(
        default=0.05, ge=0, description="standard deviation of isotropic strain in noised copies"
    )
    rattle: float = Field(
        default=0.15, ge=0, description="largest standard deviation of displacements in A in noised copies"
    )


class PathSettings(Settings):
    """Weights of the loss on whole paths (RelaxNet, equation 7); energies count per atom."""

    energy: float = Field(default=1.0, ge=0, description="of energies, per eV and atom")
    rise: float = Field(default=5.0, ge=0, description="of a rising energy, per eV and atom")
    forces: float = Field(default=1.0, ge=0, description="of squares of forces, per (eV/A)^2")
    stress: float = Field(
        default=0.3, ge=0, description="of squares of stress times volume per atom, per eV^2"
    )
    displacement: float = Field(
        default=1.0, ge=0, description="of positions and cells of every frame, in the mean over frames, per A"
    )
    direction: float = Field(default=0.1, ge=0, description="of the directions of displacements")


Target = Literal["relaxed", "forces"]


class TrainSettings(Settings):
    """All of a training run but the family; unset values are those of the E3Relax paper."""

    target: Target = Field(
        default="relaxed",
        description="what is learned: where crystals relax to, or what acts on them before",
    )
    model: dict[str, Any] = Field(default_factory=dict, description="hyperparameters of the family")
    sampling: SamplingSettings = Field(default=SamplingSettings(), description="what training sees")
    paths: PathSettings = Field(default=PathSettings(), description="the loss of families that follow paths")
    shape_weight: float = Field(
        default=0.0, ge=0, description="weight in 1/A of the cell-shape deviation in the loss"
    )
    volume_weight: float = Field(
        default=0.0, ge=0, description="weight in 1/A^2 of the volume error in the loss"
    )
    lattice_weight: float = Field(
        default=1.0,
        ge=0,
        description="weight in 1/A of the lattice beside distances in the loss of DeepRelax (equation 15)",
    )
    images: Literal["unrelaxed", "predicted"] = Field(
        default="unrelaxed",
        description="the loss compares with the periodic image nearest to the unrelaxed atom (E3Relax) or to "
        "the predicted one (E3Relax-H2)",
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="largest step size of AdamW")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled decay of AdamW")
    amsgrad: bool = Field(default=True, description="the AMSGrad variant of AdamW")
    schedule: Literal["plateau", "cosine"] = Field(
        default="plateau", description="decay of the learning rate"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear rise of the learning rate")
    decay: float = Field(default=0.8, gt=0, lt=1, description="plateau: factor of a decay")
    patience: int = Field(default=5, gt=0, description="plateau: epochs without improvement before a decay")
    early_stop: int = Field(default=10, gt=0, description="epochs without improvement before the end")
    max_epochs: int = Field(default=1000, gt=0, description="pseudo-epochs; the length of the cosine")
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the moving average of weights, which is evaluated"
    )
    trunk_rate: float = Field(
        default=1.0,
        ge=0,
        description="factor on the learning rate of all but the heads, for fine-tuning; 0 holds that fixed",
    )
    frozen_layers: int = Field(
        default=0,
        ge=0,
        description="hold the embedding and so many layers fixed, for fine-tuning; 0 holds nothing",
    )
    clip: float = Field(default=50.0, gt=0, description="largest norm of the gradient")
    seed: int = Field(default=0, ge=0, description="source of all randomness")
    crystals: int | None = Field(
        default=None,
        gt=0,
        description="train on so many of the training crystals, drawn by the hash of their ids, so that "
        "fewer are part of more; for learning curves",
    )
    workers: int = Field(
        default=0, ge=0, description="processes that prepare batches; 0 prepares them in the training process"
    )
    precision: Literal["auto", "32", "bf16"] = Field(
        default="auto", description="auto: bf16 where a GPU has it"
    )
