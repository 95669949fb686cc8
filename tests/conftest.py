"""Fixtures that tests share, and the profile of hypothesis."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from ase.build import bulk
from ase.io import write as ase_write
from hypothesis import settings

from repose.crystal.batch import CrystalBatch
from repose.io.files import write
from support.crystals import fcc, perovskite, random_crystal, rock_salt
from support.tiny import save_tiny_model

torch.set_num_threads(1)
settings.register_profile("repose", derandomize=True, deadline=None, max_examples=20)
settings.load_profile("repose")


@pytest.fixture
def crystals() -> CrystalBatch:
    """Symmetric and random crystals of 1 to 6 atoms."""
    return CrystalBatch.collate([rock_salt(), random_crystal(1), fcc(), perovskite(), random_crystal(2)])


@pytest.fixture
def repose(monkeypatch, capfd):
    """Run a command line; returns exit status, standard output and standard error."""

    from repose.cli import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["repose", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model with random weights, on disk."""
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A new working directory with crystals in several formats."""
    monkeypatch.chdir(tmp_path)
    write(bulk("CaO", "rocksalt", a=4.6, cubic=True), "CaO.cif", "cif")
    write(bulk("Al", "fcc", a=4.2), "one/POSCAR", "poscar")
    write(bulk("Cu", "fcc", a=3.7), "two/POSCAR", "poscar")
    ase_write("three.extxyz", [bulk("MgO", "rocksalt", a=a) for a in (4.0, 4.2, 4.4)])
    return tmp_path
