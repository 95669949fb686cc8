"""Energies, forces and geometry along the paths of RelaxNet (Fig. 3, A.1 to A.3)."""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

import numpy as np
import torch

import repose
from repose.crystal.batching import batches_by_cost
from repose.data.dataset import Dataset
from repose.data.frames import select_paths
from repose.evaluation.metrics import move_to_image
from repose.evaluation.paths import PathBatch, score
from repose.evaluation.runner import EDGES_PER_BATCH, estimate_edges, to_batch
from repose.models.checkpoint import find_model, load_model

# A; the forces of predicted frames that are nearer than this to the reference are compared on their own.
NEAR = 0.02


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the part ``paths`` of the result."""
    folder = find_model("relaxnet")
    relaxer = repose.load("relaxnet", device="cpu")
    frames = load_model(folder)[0].path_frames or 0
    pairs = [pair for path in arguments.data for pair in Dataset(path).read("test")]
    kept = select_paths(pairs, frames).pairs
    rows = [
        row
        for packed in batches_by_cost(kept, estimate_edges, EDGES_PER_BATCH)
        for row in one(relaxer, packed)
    ]
    return {
        "model": "relaxnet",
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "frames": frames,
        **describe(rows),
    }


def one(relaxer: repose.Relaxer, pairs: list[Any]) -> list[dict[str, np.ndarray]]:
    """Return the paths of a batch crystal by crystal; shapes and units as in `PathBatch`."""
    batch, known = to_batch(pairs)[0], PathBatch.join([pair.path for pair in pairs])
    found = PathBatch.join(relaxer.relax_batch(batch).paths or [])
    near = [
        move_to_image(known.geometry(k), batch.positions, batch.system_index) for k in range(len(known.cells))
    ]
    scores, counts = score(found, known, batch), batch.counts.tolist()
    split = {
        name: [part.numpy() for part in values.split(counts, dim=1)]
        for name, values in (
            ("forces", found.forces),
            ("true_forces", known.forces),
            ("positions", found.positions),
            ("true_positions", torch.stack(near)),
        )
    }
    return [
        {
            "atoms": np.array(counts[k]),
            "energies": found.energies[:, k].numpy(),
            "true_energies": known.energies[:, k].numpy(),
            "coordinates": scores.coordinates[k],
            "aligned": scores.aligned[k],
            **{name: values[k] for name, values in split.items()},
        }
        for k in range(len(pairs))
    ]


def describe(rows: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return the numbers behind the figures."""
    atoms = np.array([row["atoms"] for row in rows])
    found, true = (np.array([row[key] for row in rows]) for key in ("energies", "true_energies"))  # (S, T)
    forces, true_forces = (
        np.concatenate([row[key] for row in rows], axis=1) for key in ("forces", "true_forces")
    )
    errors = np.abs(found - true)
    moved = {
        key: np.array([displacements(row[key]) for row in rows]) for key in ("positions", "true_positions")
    }
    coordinates = np.array([row["coordinates"] for row in rows])
    average = moved["true_positions"][:, 1:].mean(axis=1)
    return {
        "crystals": len(rows),
        "atoms": quantiles(atoms),
        "energy_per_atom": quantiles((true / atoms[:, None]).ravel()),
        "energy": by_frame(found, true),
        "energy_of_atoms": by_frame(found / atoms[:, None], true / atoms[:, None]),
        "forces": by_frame(forces.reshape(len(forces), -1).T, true_forces.reshape(len(forces), -1).T),
        "forces_near": [near(rows, frame) for frame in range(coordinates.shape[1])],
        "energy_error_by_fifths": {
            "of_absolute_energy": fifths(np.abs(true).mean(axis=1), errors.mean(axis=1)),
            "of_displacement": fifths(average, errors.mean(axis=1)),
            "of_displacement_per_atom": fifths(average, errors.mean(axis=1) / atoms),
        },
        "geometry": {
            "displacement": moved["positions"].mean(axis=0).tolist(),
            "true_displacement": moved["true_positions"].mean(axis=0).tolist(),
            "straightness": straightness([row["positions"] for row in rows]),
            "true_straightness": straightness([row["true_positions"] for row in rows]),
            "coordinate_error": [quantiles(frame) for frame in coordinates.T],
            "coordinates": float(coordinates[:, -1].mean()),
            "aligned": float(np.mean([row["aligned"] for row in rows])),
        },
    }


def by_frame(found: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Return mean absolute error, R2 and Pearson's coefficient of ``(n, T)``, by frame and of all."""
    columns = [*zip(found.T, true.T, strict=True), (found.ravel(), true.ravel())]
    return {
        "mae": [float(np.abs(a - b).mean()) for a, b in columns],
        "r2": [r2(a, b) for a, b in columns],
        "pearson": [float(np.corrcoef(a, b)[0, 1]) for a, b in columns],
    }


def near(rows: list[dict[str, np.ndarray]], frame: int) -> dict[str, float]:
    """Return Pearson's coefficient of forces in crystals whose error of coordinates is below `NEAR`."""
    kept = [row for row in rows if row["coordinates"][frame] < NEAR]
    found, true = (
        np.concatenate([row[key][frame].ravel() for row in kept]) for key in ("forces", "true_forces")
    )
    return {"crystals": len(kept), "pearson": float(np.corrcoef(found, true)[0, 1])}


def r2(found: np.ndarray, true: np.ndarray) -> float:
    """Return the coefficient of determination."""
    return float(1 - np.square(found - true).sum() / np.square(true - true.mean()).sum())


def displacements(path: np.ndarray) -> np.ndarray:
    """Return the mean absolute displacement of positions ``(T, N, 3)`` from the first frame, ``(T,)``."""
    return np.abs(path - path[0]).mean(axis=(1, 2))


def straightness(paths: list[np.ndarray]) -> float:
    """Return the mean over paths ``(T, N, 3)`` of net displacement over length; 1 on a straight line."""
    steps = [np.linalg.norm(np.diff(path, axis=0), axis=(1, 2)).sum() for path in paths]
    net = [np.linalg.norm(path[-1] - path[0]) for path in paths]
    return float(np.mean([whole / length for whole, length in zip(net, steps, strict=True) if length > 1e-6]))


def quantiles(values: np.ndarray) -> list[float]:
    """Return the 10, 50 and 90 % quantiles."""
    return np.percentile(values, (10, 50, 90)).tolist()


def fifths(by: np.ndarray, values: np.ndarray) -> dict[str, list[float]]:
    """Return the means of a quantity and of values in fifths of the quantity, the smallest first."""
    parts = np.array_split(np.argsort(by, kind="stable"), 5)
    return {"mean": [float(by[p].mean()) for p in parts], "error": [float(values[p].mean()) for p in parts]}
