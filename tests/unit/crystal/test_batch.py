"""The batch: what it accepts, what it refuses, and that nothing is lost in joining and splitting."""

import dataclasses

import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.errors import InvalidCrystalError, ReposeError, ShapeError
from support.crystals import fcc, perovskite, random_crystal


def fields(batch):
    return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}


def test_split_undoes_collate(crystals):
    parts = crystals.split()
    again = CrystalBatch.collate(parts)
    assert [len(p.numbers) for p in parts] == crystals.counts.tolist()
    for name, value in fields(crystals).items():
        assert torch.equal(value, getattr(again, name)), name


def test_collate_of_batches_of_several(crystals):
    twice = CrystalBatch.collate([crystals, crystals])
    assert twice.n_crystals == 2 * crystals.n_crystals
    assert torch.equal(twice.system_index[crystals.n_atoms :], crystals.system_index + crystals.n_crystals)


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
