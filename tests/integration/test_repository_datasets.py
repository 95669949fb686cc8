"""Datasets of the repository: size, descriptions, splits and labels."""

import numpy as np
import pytest

from repose.crystal.batch import CrystalBatch
from repose.data.dataset import INFO, Dataset
from repose.potentials.loading import load_potential
from support.paths import DATASETS as ROOT

DIRECTORIES = sorted(path.parent for path in ROOT.rglob(INFO))
CHGNET = [path for path in DIRECTORIES if Dataset(path).info.calculator.startswith("CHGNet 0.3.0,")]


def name(path):
    return str(path.relative_to(ROOT))


def test_total_size():
    assert DIRECTORIES
    assert sum(file.stat().st_size for file in ROOT.rglob("*.parquet")) < 45e6


@pytest.mark.parametrize("directory", DIRECTORIES, ids=name)
def test_counts_and_licence(directory):
    dataset = Dataset(directory)
    assert len(dataset.ids()) == len(set(dataset.ids())) == len(dataset)
    assert dataset.info.licence


def test_chemical_systems_have_the_same_split_in_all_datasets():
    """Datasets that are split by chemical system can be joined."""
    where: dict[str, set[str]] = {}
    for directory in DIRECTORIES:
        dataset = Dataset(directory)
        if dataset.info.splits.startswith("by chemical-system"):
            for pair in dataset:
                where.setdefault(pair.chemical_system, set()).add(pair.split)
    assert len(where) > 100
    assert [system for system, splits in where.items() if len(splits) > 1] == []


@pytest.mark.parametrize("directory", CHGNET, ids=name)
def test_labels_are_those_of_chgnet(directory):
    """Energies, forces and stresses of relaxed crystals, up to the rounding of positions to float32."""
    pytest.importorskip("chgnet")
    pairs = [pair for pair in Dataset(directory).read("test") if pair.path][:12]
    crystals = [
        CrystalBatch.single(pair.numbers, pair.relaxed_positions, pair.relaxed_cell, pair.pbc)
        for pair in pairs
    ]
    found = load_potential("chgnet", "cpu").evaluate(CrystalBatch.collate(crystals))
    forces = found.forces.split([len(pair.numbers) for pair in pairs])
    for k, pair in enumerate(pairs):
        last = pair.path[-1]
        assert float(found.energy[k]) == pytest.approx(last.energy, abs=2e-3)
        assert np.abs(forces[k].numpy() - last.forces).max() < 5e-3
        assert np.abs(found.stress[k].numpy() - last.stress).max() < 1e-3
        assert np.linalg.norm(last.forces, axis=1).max() <= 0.05 + 1e-6
