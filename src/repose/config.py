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
    """How neighbours are found; see `repose.graph.periodic_graph`."""

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


class LatticeNodeSettings(NetworkSettings):
    """Hyperparameters that families with lattice nodes share."""

    scale_head: bool = Field(
        default=True,
        description="say how large the error of every atom and of the strain will be (ours); what is "
        "predicted is the same without",
    )
    lattice_nodes: bool = Field(
        default=True, description="False: ablation, nine numbers from the mean of the scalars change the cell"
    )
    refinement: bool = Field(
        default=True, description="False: ablation, geometry moves in the last layer only"
    )
    shared_axes: bool = Field(
        default=True, description="one set of weights for a, b and c, so that their order does not matter"
    )
    edge_channels: int = Field(
        default=0,
        ge=0,
        description="channels of messages from edges straight to lattice nodes (ours); 0 is the papers, "
        "where lattice nodes see no anisotropy of sites whose vectors vanish by symmetry",
    )


class E3RelaxSettings(LatticeNodeSettings):
    """Hyperparameters of E3Relax; the defaults are the published size."""

    lattice_offset: Literal["tip", "axis"] = Field(
        default="tip",
        description="what atoms see of a lattice vector: 'tip' is r_i - l_c as in eqs. 15-16, with r_i from "
        "the crystal's mean; 'axis' is -l_c alone, which does not depend on the image an atom is written in",
    )


class E3RelaxH2Settings(LatticeNodeSettings):
    """Hyperparameters of E3Relax-H2; the defaults are the published form and size."""

    shared_axes: bool = Field(
        default=False, description="one set of weights for a, b and c, so that their order does not matter"
    )
    angular: bool = Field(
        default=True, description="False: ablation without the gate of high degree and order on messages"
    )
    lmax: int = Field(default=3, ge=0, description="degree of the spherical harmonics in the gate")
    lattice_to_atoms: bool = Field(
        default=True, description="False: ablation, messages go from atoms to lattice nodes only"
    )
    axis_mixing: bool = Field(
        default=True, description="False: ablation, the three lattice nodes do not mix with each other"
    )
    lattice_offset: Literal["parts", "tip", "axis"] = Field(
        default="parts",
        description="what atoms see of a lattice vector: 'parts', their position along it and across it; "
        "'tip', the distance to its tip as in E3Relax; 'axis', the vector alone, whatever image an atom is "
        "written in",
    )
    keep_vectors: bool = Field(
        default=False,
        description="add messages from the lattice to the atoms' vectors (ours) instead of replacing them",
    )
    stacking: Literal["rows", "columns"] = Field(
        default="rows",
        description="'columns': read the change of the cell as the released code does, which does not turn "
        "with the crystal; only for weights that were trained so",
    )


class DeepRelaxSettings(NetworkSettings):
    """Hyperparameters of DeepRelax; the defaults are the published form and size."""

    graph: GraphSettings = Field(
        default=GraphSettings(self_images=False), description="how neighbours are found"
    )
    offsets: bool = Field(
        default=True,
        description="encode the cell that a neighbour stands in (equations 2-3); the answer then depends on "
        "the choice of cell, and of the image that an atom is written in. False: ablation",
    )
    bond_uncertainty: bool = Field(
        default=True, description="False: ablation, distances have no scale and are learned by L1"
    )
    lattice: Literal["matrix", "strain"] = Field(
        default="matrix",
        description="'matrix': nine numbers from the entries of the cell (equation 9), which do not turn "
        "with the crystal; 'strain': tensors pooled over edges, after every layer (ours), which do",
    )
    distances: Literal["whole", "change"] = Field(
        default="whole",
        description="'change': what is predicted is added to the distance that a pair has in the predicted "
        "cell when atoms follow it (ours)",
    )
    positions: Literal["bounds", "likelihood"] = Field(
        default="bounds",
        description="'bounds': distances within one scale of the predicted ones (equations 18-20); "
        "'likelihood': the most probable positions under the predicted Laplace distributions (ours)",
    )
    anchors: Literal["cell", "all"] = Field(
        default="cell",
        description="pairs for the distance between one atom's old and the other's new place: those within "
        "the cell as written (published), or all edges, whatever images atoms are written in",
    )


class ReposeSettings(NetworkSettings):
    """Hyperparameters of the house family; the defaults are what ships."""

    graph: GraphSettings = Field(
        default=GraphSettings(max_neighbours=None, self_images=False), description="how neighbours are found"
    )
    features: int = Field(default=128, gt=0, description="width F of scalars, vectors and tensors")
    layers: int = Field(default=3, gt=0, description="number of refinements")
    n_basis: int = Field(default=24, gt=1, description="radial functions K")
    reach: float = Field(default=8.0, gt=0, description="distance in A where radial functions vanish")
    embedding: Literal["free", "properties"] = Field(
        default="properties", description="elements: free vectors or tabulated properties"
    )
    frame: Literal["affine"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]  narrower
        default="affine", description="atoms follow the cell"
    )
    start: Literal["input", "rescaled"] = Field(
        default="rescaled", description="the first geometry has the volume guessed from composition, or not"
    )
    scale_head: bool = Field(
        default=True, description="say how large the error of every atom and of the strain will be"
    )
    radii: bool = Field(
        default=True,
        description="measure distances between learned radii of atoms; False: ablation, between centres",
    )
    rank2: bool = Field(default=True, description="False: ablation, atoms do not send their tensors")
    products: bool = Field(
        default=True, description="False: ablation, vectors and tensors of an atom do not multiply"
    )
    tied: bool = Field(default=False, description="the same weights in every layer")
    passes: int = Field(default=1, gt=0, description="how often the network is applied, outside of training")


class RelaxNetSettings(NetworkSettings):
    """Hyperparameters of RelaxNet; the defaults are what ships."""

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
        description="'rescaled': the cell sets out for the volume guessed from composition (ours)",
    )
    scale_head: bool = Field(
        default=True, description="say how large the error of every atom and of the strain will be (ours)"
    )
    evolution: Literal["explicit", "implicit"] = Field(
        default="explicit",
        description="'implicit': features are made anew from the geometry at every step; 'explicit': they "
        "are made once, and a small network moves them on",
    )
    frames: int = Field(default=5, gt=1, description="frames of a path, input and relaxed crystal included")
    cell: Literal["moves", "fixed"] = Field(
        default="moves", description="'fixed': the published form, where atoms alone move"
    )
    damped: bool = Field(
        default=True, description="learned friction (ours); False: du/dt = F/m and nothing else"
    )
    solver: Literal["rk4", "midpoint", "euler", "dopri5"] = Field(
        default="rk4",
        description="steps of fixed length, or (dopri5) as long as the error allows, crystal by crystal",
    )
    substeps: int = Field(default=1, gt=0, description="steps of fixed length between two frames")
    tolerance: float = Field(default=1e-3, gt=0, description="largest error of a step of dopri5, in A")
    adjoint: bool = Field(
        default=False, description="train by the adjoint method: less memory, more time, gradients less exact"
    )
    n_bessel: int = Field(default=4, gt=0, description="spherical Bessel functions of every degree")
    lmax: int = Field(default=3, ge=0, le=3, description="degree of spherical harmonics of edges")
    channels: int = Field(default=8, gt=0, description="channels of every degree")
    triplets: int = Field(default=32, ge=0, description="width of triplets; 0: ablation, without them")
    triplet_cutoff: float = Field(default=3.6, gt=0, description="distance in A where edges leave triplets")
    zonal: int = Field(default=5, gt=0, description="zonal harmonics of the angle of a triplet")
    hidden_steps: bool = Field(
        default=True, description="layers move the positions that later layers see; False: ablation"
    )
    heads: int = Field(default=4, gt=0, description="heads of the attention between atoms; divides F")


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
