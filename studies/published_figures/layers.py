"""Errors of interlayer distances in crystals of two layers (DeepRelax, Supplementary Table 1)."""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

import numpy as np

import repose
from repose.crystal.batch import CrystalBatch
from repose.crystal.connectivity import BOND, components
from repose.crystal.lattice import to_fractional
from repose.data.dataset import Dataset, Pair
from repose.evaluation.metrics import in_input_images
from repose.evaluation.runner import finite_or_input, to_batch, trivial_relaxers
from repose.models.checkpoint import find_model
from repose.models.prediction import Geometry

MODELS = ("deeprelax", "e3relax", "default")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the part ``layers`` of the result."""
    everyone = [pair for path in arguments.data for pair in Dataset(path).read("test", paths=False)]
    fitted = (pair for path in arguments.train for pair in Dataset(path).read("train", paths=False))
    models = {name: repose.load(name, device="cpu") for name in MODELS}
    relaxers = {relaxer.name: relaxer for relaxer in trivial_relaxers(fitted)} | models
    true: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {name: [] for name in relaxers}
    for pair in everyone:
        upper = atoms_of_layers(pair, pair.positions, pair.cell)
        if upper is None:
            raise SystemExit(f"the input {pair.id} does not consist of two layers parallel to a and b")
        if atoms_of_layers(pair, pair.relaxed_positions, pair.relaxed_cell) is None:
            continue
        batch, target = to_batch([pair])
        true.append(gaps(batch, target, upper))
        for name, relaxer in relaxers.items():
            found[name].append(gaps(batch, finite_or_input(batch, relaxer.predict(batch))[0], upper))
    stacks = np.array([len(own) == 2 for own in true])
    groups = {"all": stacks | True, "stacks": stacks, "bilayers": ~stacks}
    return {
        "crystals": len(everyone),
        "not_separate_when_relaxed": len(everyone) - len(true),
        "weights": {name: fingerprint(name) for name in MODELS},
        "groups": {name: describe(which, true, found) for name, which in groups.items()},
    }


def atoms_of_layers(pair: Pair, positions: np.ndarray, cell: np.ndarray) -> np.ndarray | None:
    """Return which atoms are in the upper layer, ``(N,)`` bool; None unless there are two layers."""
    found = components(pair.numbers, positions, cell, pair.pbc, BOND)
    if [len(vectors) for vectors in found.translations] != [2, 2] or np.any(found.span[:, 2]):
        return None
    height = (positions @ np.linalg.inv(cell))[:, 2]
    upper = height[found.label == 1].mean() > height[found.label == 0].mean()
    return found.label == int(upper)


def gaps(batch: CrystalBatch, geometry: Geometry, upper: np.ndarray) -> np.ndarray:
    """Return the distances in A of the outermost atoms of two layers, along the normal of a and b.

    Args:
        batch: One unrelaxed crystal with whole layers; where c is periodic, there are two gaps.
        geometry: Of the same crystal, in any images.
        upper: Atoms of the upper layer, ``(N,)`` bool.
    """
    positions, cells = in_input_images(batch, geometry)
    period = 1 / np.linalg.norm(np.linalg.inv(cells[0].numpy())[:, 2])
    height = to_fractional(positions, cells, batch.system_index)[:, 2].numpy() * period
    inner = height[upper].min() - height[~upper].max()
    outer = period + height[~upper].min() - height[upper].max()
    return np.array([inner, outer] if batch.pbc[0, 2] else [inner])


def describe(which: np.ndarray, true: list[np.ndarray], found: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Return the relaxed gap (least, median, largest) and, by relaxer, errors of a crystal's mean gap, A."""
    errors = {
        name: np.array([(a - b).mean() for a, b in zip(own, true, strict=True)])[which]
        for name, own in found.items()
    }
    return {
        "crystals": int(which.sum()),
        "gap": np.percentile(np.array([own.mean() for own in true])[which], (0, 50, 100)).tolist(),
        "error": {name: float(np.abs(own).mean()) for name, own in errors.items()},
        "median_error": {name: float(np.median(np.abs(own))) for name, own in errors.items()},
        "difference": {name: float(own.mean()) for name, own in errors.items()},
    }


def fingerprint(name: str) -> dict[str, str]:
    """Return the folder and the hash of the weights of a model."""
    folder = find_model(name)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return {"model": folder.name, "weights_sha256": digest}
