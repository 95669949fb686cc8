"""Crystals that the tests share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write as ase_write
from hypothesis import settings

from repose.crystal.batch import CrystalBatch
from repose.io.files import write
from support.tiny import save_tiny_model

torch.set_num_threads(1)
settings.register_profile("repose", derandomize=True, deadline=None, max_examples=20)
settings.load_profile("repose")


def make_crystal(numbers, fractional, cell, pbc=(True, True, True), dtype=torch.float64) -> CrystalBatch:
    """One crystal from fractional coordinates."""
    cell = torch.as_tensor(np.asarray(cell, dtype=float), dtype=dtype)
    return CrystalBatch(
        numbers=torch.tensor(numbers),
        positions=torch.as_tensor(np.asarray(fractional, dtype=float), dtype=dtype) @ cell,
        cells=cell[None],
        system_index=torch.zeros(len(numbers), dtype=torch.int64),
        pbc=torch.tensor(pbc)[None],
    )


def rock_salt(a: float = 4.8) -> CrystalBatch:
    """Primitive CaO."""
    return make_crystal([20, 8], [[0, 0, 0], [0.5, 0.5, 0.5]], a / 2 * (np.ones((3, 3)) - np.eye(3)))


def perovskite(a: float = 3.9) -> CrystalBatch:
    """Cubic SrTiO3."""
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return make_crystal([38, 22, 8, 8, 8], sites, a * np.eye(3))


def fcc(a: float = 4.05) -> CrystalBatch:
    """Primitive aluminium: one atom."""
    return make_crystal([13], [[0, 0, 0]], a / 2 * (np.ones((3, 3)) - np.eye(3)))


def random_crystal(seed: int, n_atoms: int | None = None) -> CrystalBatch:
    """Atoms anywhere in a skewed cell; symmetric in no way."""
    rng = np.random.default_rng(seed)
    n = n_atoms or int(rng.integers(2, 7))
    cell = (np.eye(3) + rng.uniform(-0.35, 0.35, (3, 3))) * rng.uniform(3.5, 6.0)
    return make_crystal(rng.choice([8, 12, 13, 22, 25, 56], n), rng.random((n, 3)), cell)


@pytest.fixture
def crystals() -> CrystalBatch:
    """Symmetric and random crystals of 1 to 6 atoms."""
    return CrystalBatch.collate([rock_salt(), random_crystal(1), fcc(), perovskite(), random_crystal(2)])


def random_rotation(seed: int, reflect: bool = False) -> torch.Tensor:
    """A rotation, or a rotation with a reflection, ``(3, 3)`` float64."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    wanted = -1.0 if reflect else 1.0
    return q if torch.sign(torch.linalg.det(q)) == wanted else -q


@pytest.fixture
def repose(monkeypatch, capfd):
    """Run a command line; gives exit status, standard output and standard error."""

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
    """A folder of its own, with crystals in it, as the current one."""
    monkeypatch.chdir(tmp_path)
    write(bulk("CaO", "rocksalt", a=4.6, cubic=True), "CaO.cif", "cif")
    write(bulk("Al", "fcc", a=4.2), "one/POSCAR", "poscar")
    write(bulk("Cu", "fcc", a=3.7), "two/POSCAR", "poscar")
    ase_write("three.extxyz", [bulk("MgO", "rocksalt", a=a) for a in (4.0, 4.2, 4.4)])
    return tmp_path
