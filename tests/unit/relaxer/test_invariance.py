"""Invariance checks and the table of them."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from repose.cli import app
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import periodic_graph
from repose.crystal.lattice import to_cartesian, to_fractional, volume
from repose.data.dataset import DatasetInfo, Pair, write_dataset
from repose.errors import DatasetError
from repose.evaluation.invariance import invariances, table
from repose.models.checkpoint import save_model
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.baselines import Dummy
from repose.relaxer.invariance import INVARIANCE_CHECKS, SUPERCELLS, supercells
from support.crystals import fcc, make_crystal, perovskite, random_crystal, rock_salt
from support.tiny import random_relaxer


def pair(name: str, crystal: CrystalBatch, split: str = "test") -> Pair:
    numbers, positions = crystal.numbers.numpy(), crystal.positions.numpy()
    cell = crystal.cells[0].numpy()
    return Pair(name, numbers, crystal.pbc[0].numpy(), positions, cell, positions, cell, split=split)


PAIRS = [pair("salt", rock_salt()), pair("any", random_crystal(1)), pair("cubic", perovskite())]


class Faulty(Relaxer):
    """A result that depends on the description of the crystal."""

    name = "faulty"

    def __init__(self, fault):
        self.fault = fault

    def predict(self, batch):
        return Geometry(*self.fault(batch))


def wrapped(batch):
    """Atoms are wrapped into the cell."""
    fractional = to_fractional(batch.positions, batch.cells, batch.system_index)
    return to_cartesian(fractional - fractional.floor(), batch.cells, batch.system_index), batch.cells


def along_a(batch):
    """The first lattice vector grows, with the atoms."""
    stretched = torch.diag(torch.tensor([1.1, 1, 1], dtype=torch.float64)) @ batch.cells
    fractional = to_fractional(batch.positions, batch.cells, batch.system_index)
    return to_cartesian(fractional, stretched, batch.system_index), stretched


def by_atoms(batch):
    """Positions and cell grow with the number of atoms."""
    scale = 1 + 0.1 * batch.counts.to(batch.cells)
    return batch.positions * scale[batch.system_index, None], batch.cells * scale[:, None, None]


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (wrapped, {"translation", "periodic images"}),
        (along_a, {"lattice basis"}),
        (by_atoms, {"supercell"}),
    ],
)
def test_every_fault_fails_its_check(fault, seen):
    batch = CrystalBatch.collate([random_crystal(k) for k in range(3)])
    found = {name for name, change in INVARIANCE_CHECKS.items() if change(Faulty(fault), batch, 0) > 1e-3}
    assert found >= seen
    assert not found & {"rotation", "reflection", "atom order"}


def test_dummy_is_invariant(crystals):
    assert all(change(Dummy(), crystals, 3) < 1e-12 for change in INVARIANCE_CHECKS.values())


@pytest.mark.parametrize("rows", SUPERCELLS.values(), ids=SUPERCELLS)
def test_a_supercell_is_the_same_crystal(rows):
    sheet = make_crystal([5], [[0.1, 0.2, 0.5]], np.diag([2.5, 2.5, 15.0]), pbc=(True, True, False))
    batch = CrystalBatch.collate([random_crystal(4), sheet, fcc()])
    larger, source, _, multiples = supercells(batch, torch.tensor(rows))
    times = round(abs(np.linalg.det(np.array(rows))))
    assert larger.counts.tolist() == [times * int(batch.counts[0]), 1, times]
    assert torch.allclose(volume(larger.cells), volume(batch.cells) * torch.linalg.det(multiples).abs())
    few, many = (periodic_graph(crystals, 5.0) for crystals in (batch, larger))
    neighbours = torch.bincount(few.receiver, minlength=few.n_atoms)
    assert torch.equal(torch.bincount(many.receiver, minlength=many.n_atoms), neighbours[source])


def test_rows_of_the_table():
    sound, broken = random_relaxer("reposenet"), Faulty(along_a)
    first, second = invariances([sound, broken], PAIRS)
    assert max(first.changes.values()) < 1e-8
    assert (first.symmetric, first.kept, second.kept) == (2, 2, 0)
    assert first.broken < 1e-8
    assert second.broken > 0.1
    lines = table([first, second]).splitlines()
    assert len(lines) == 4
    assert "100.0 of 2" in lines[2]
    assert "0.0 of 2" in lines[3]


def test_no_crystals():
    with pytest.raises(DatasetError, match="empty"):
        invariances([Dummy()], [])


# On the command line


@pytest.fixture
def command(tmp_path):
    """``repose compare`` on a small dataset and a small model."""
    write_dataset(tmp_path / "data", DatasetInfo(name="made"), iter(PAIRS))
    relaxer = random_relaxer("reposenet")
    save_model(tmp_path / "house", relaxer.network.float(), relaxer.config, "# card\n")
    arguments = ["compare", "--data", tmp_path / "data", "--model", tmp_path / "house", "--device", "cpu"]
    return partial(CliRunner().invoke, app, env={"COLUMNS": "300"}), [str(a) for a in arguments]


def test_compare(command, tmp_path):
    invoke, arguments = command
    result = invoke([*arguments, "--invariance", "--json", "--out", str(tmp_path / "t.md")])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout.strip().splitlines()[-1])
    assert set(row["changes"]) == set(INVARIANCE_CHECKS)
    assert max(row["changes"].values()) < 1e-4
    assert row["kept"] == row["symmetric"] == 2
    assert (tmp_path / "t.md").read_text().startswith("| ")


def test_compare_without_a_comparison(command):
    invoke, arguments = command
    assert invoke(arguments).exit_code == 2
    assert invoke([*arguments, "--invariance", "--split", "all"]).exit_code == 2
    assert invoke([*arguments, "--invariance", "--count", "1"]).exit_code == 0


def test_far_periodic_images_keep_single_precision():
    """Atoms a hundred cells away: at 500 A float32 has a resolution of 3e-5 A only."""
    relaxer, batch = random_relaxer("reposenet"), random_crystal(3)
    relaxer.network.float()
    away = torch.tensor(np.random.default_rng(0).integers(-100, 101, (batch.n_atoms, 3)).astype(float))
    moved = batch.positions + to_cartesian(away, batch.cells, batch.system_index)
    near, far = (relaxer.predict(batch.with_geometry(r, batch.cells)) for r in (batch.positions, moved))
    back = far.positions - to_cartesian(away, far.cells, batch.system_index)
    torch.testing.assert_close(back, near.positions, rtol=0, atol=2e-5)
    torch.testing.assert_close(far.cells, near.cells, rtol=0, atol=2e-5)
