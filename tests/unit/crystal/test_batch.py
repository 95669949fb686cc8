"""The batch: what it accepts, what it refuses, and that nothing is lost in joining and splitting."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.errors import InvalidCrystalError, ReposeError, ShapeError
from support.crystals import fcc, perovskite, random_crystal


def fields(batch):
    return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}


def test_split_undoes_collate(crystals):
    crystals = dataclasses.replace(crystals, charges=crystals.positions[:, 0] / 3)
    parts = crystals.split()
    again = pickle.loads(pickle.dumps(CrystalBatch.collate(parts)))
    assert [len(p.numbers) for p in parts] == crystals.counts.tolist()
    for name, value in fields(crystals).items():
        assert torch.equal(value, getattr(again, name)), name


def test_collate_of_batches_of_several(crystals):
    twice = CrystalBatch.collate([crystals, crystals])
    assert twice.n_crystals == 2 * crystals.n_crystals
    assert torch.equal(twice.system_index[crystals.n_atoms :], crystals.system_index + crystals.n_crystals)


def test_charges_are_kept_if_all_crystals_have_them():
    alone = CrystalBatch.single([13], [[0.0] * 3], 4 * np.eye(3), [True] * 3, torch.float32, [2.5])
    assert alone.charges.tolist() == [2.5]
    assert alone.to(dtype=torch.float64).charges.dtype == torch.float64
    bare = dataclasses.replace(alone, charges=None)
    assert CrystalBatch.collate([alone, alone]).charges.tolist() == [2.5, 2.5]
    assert CrystalBatch.collate([alone, bare]).charges is None
    assert CrystalBatch.collate([bare, bare]).split()[1].charges is None
    assert pickle.loads(pickle.dumps(bare)).charges is None
    with pytest.raises(ShapeError, match="charges must be"):
        dataclasses.replace(alone, charges=torch.ones(2))


def test_a_single_crystal_from_arrays():
    """Lists, read-only arrays and other types are accepted; the arrays are copied."""
    positions = np.arange(6.0).reshape(2, 3)[:, ::-1]
    positions.flags.writeable = False
    for numbers in ([6, 8], np.array([6, 8], dtype=np.int32)):
        batch = CrystalBatch.single(numbers, positions, 4 * np.eye(3), [True, True, False], torch.float32)
        assert batch.numbers.tolist() == [6, 8]
        assert np.array_equal(batch.positions, positions)
        assert (batch.n_crystals, batch.dtype, batch.pbc.tolist()) == (
            1,
            torch.float32,
            [[True, True, False]],
        )
    batch.positions.zero_()
    assert positions.any()
    with pytest.raises(ShapeError, match="positions must be"):
        CrystalBatch.single([6], positions, 4 * np.eye(3), [True] * 3)


def test_is_frozen(crystals):
    with pytest.raises(dataclasses.FrozenInstanceError):
        crystals.cells = crystals.cells * 2


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda b: {"cells": b.cells[0]}, ShapeError, "cell\\[None\\]"),
        (lambda b: {"positions": b.positions[:-1]}, ShapeError, "positions must be"),
        (lambda b: {"numbers": b.numbers.float()}, ShapeError, "int64"),
        (lambda b: {"positions": b.positions.float()}, ShapeError, "float32"),
        (lambda b: {"pbc": b.pbc.int()}, ShapeError, "bool"),
        (lambda b: {"positions": b.positions * torch.nan}, InvalidCrystalError, "finite"),
        (lambda b: {"cells": b.cells * 0}, InvalidCrystalError, "no volume"),
        (lambda b: {"numbers": b.numbers * 0}, InvalidCrystalError, "118"),
        (lambda b: {"system_index": b.system_index.flip(0)}, InvalidCrystalError, "ascend"),
        (lambda b: {"system_index": b.system_index * 0}, InvalidCrystalError, "at least one atom"),
    ],
)
def test_refuses_what_does_not_fit(change, error, words):
    batch = CrystalBatch.collate([fcc(), perovskite()])
    with pytest.raises(error, match=words):
        CrystalBatch(**{**fields(batch), **change(batch)})


def test_empty_collate():
    with pytest.raises(ReposeError, match="at least one"):
        CrystalBatch.collate([])


def test_to_changes_type_of_floats_alone():
    single = random_crystal(0).to(dtype=torch.float32)
    assert single.dtype == torch.float32
    assert single.numbers.dtype == torch.int64
