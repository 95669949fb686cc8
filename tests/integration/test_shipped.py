"""The models inside the package: sound, small, and the same as when they were made."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import repose
from repose.crystal.batch import CrystalBatch
from repose.data.dataset import Dataset
from repose.evaluation.metrics import coordinate_error
from repose.evaluation.runner import to_batch
from repose.io.files import find, read
from repose.models.checkpoint import DEFAULT, load_model, shipped_models
from repose.models.prediction import Geometry
from repose.relaxer.direct import DirectRelaxer
from repose.testing import ALL_CHECKS, CHECKS, check_relaxer
from support.crystals import fcc, perovskite, random_crystal, rock_salt
from support.paths import ROOT

NAMES = sorted(set(shipped_models()) - {"default"})


def exact(name: str) -> DirectRelaxer:
    network, config = load_model(shipped_models()[name])
    return DirectRelaxer(network.double(), config)


def test_default_is_one_of_the_others():
    shipped = shipped_models()
    assert DEFAULT in NAMES
    assert shipped["default"] == shipped[DEFAULT]


def test_package_stays_small():
    files = [p for directory in set(shipped_models().values()) for p in directory.iterdir()]
    assert sum(p.stat().st_size for p in files) <= 60e6
    assert sum(p.stat().st_size for p in shipped_models()["default"].iterdir()) <= 25e6


@pytest.mark.parametrize("name", NAMES)
def test_contract_on_shipped_weights(name, crystals):
    relaxer = exact(name)
    checks = ALL_CHECKS if relaxer.config.family in ("reposenet", "relaxnet") else CHECKS
    check_relaxer(relaxer, crystals, checks=checks)


@pytest.mark.parametrize("path", ["plain", "tabulated"])
def test_the_house_model_is_invariant_in_single_precision(path, crystals):
    relaxer = DirectRelaxer(*load_model(shipped_models()["repose"]), path=path)
    single = crystals.to("cpu", torch.float32)
    assert relaxer.dtype == torch.float32
    check_relaxer(relaxer, single, tolerance=1e-4, checks=ALL_CHECKS)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_contract_property_on_shipped_weights(seed):
    batch = CrystalBatch.collate(
        [random_crystal(seed), rock_salt(4.2 + seed % 11 / 10), fcc(), random_crystal(seed + 1)]
    )
    check_relaxer(exact("default"), batch, seed=seed, checks=ALL_CHECKS)


@pytest.mark.parametrize("name", NAMES)
def test_golden_values(name):
    """1e-3 A: single precision on another processor differs by less, another model by more."""
    golden = json.loads((ROOT / f"tests/data/golden_{name}.json").read_text())
    relaxer = repose.load(name, device="cpu")
    compared = 0
    for source, label in find(str(ROOT / "examples"), skip=ROOT / "examples/relaxed"):
        found = [entry.crystal for entry in read(source) if entry.crystal is not None]
        for index, result in enumerate(relaxer.relax(found, symmetry="free")):
            expected = golden[f"{label}:{index}"]
            assert np.allclose(result.after.cells[0], expected["cell"], atol=1e-3, rtol=0)
            assert np.allclose(result.after.positions, expected["positions"], atol=1e-3, rtol=0)
            compared += 1
    assert compared == len(golden) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_card_says_what_it_must(name):
    card = (shipped_models()[name] / "card.md").read_text()
    for word in ("Dummy", "Rescale", "CHGNet", "Limits"):
        assert word in card


@pytest.mark.parametrize("name", NAMES)
def test_models_are_calibrated(name):
    calibration = load_model(shipped_models()[name])[1].calibration
    assert calibration is not None
    expected = torch.tensor([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    bounds = torch.stack([calibration.factors[level] * expected for level in sorted(calibration.factors)])
    assert (bounds.diff(dim=0) >= 0).all()
    assert (bounds.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("name", ["default", "deeprelax"])
def test_bounds_hold_on_crystals_never_seen(name):
    """Of 200 test crystals some 180 lie below; 165 to 193 is three standard deviations to either side."""
    pairs = list(islice(Dataset(ROOT / "datasets" / "chgnet" / "subst").read("test"), 200))
    relaxer = repose.load(name, device="cpu")
    batch, target = to_batch(pairs)
    relaxed = relaxer.relax_batch(batch)
    error = coordinate_error(relaxed.geometry, target, batch.positions, batch.system_index)
    assert 165 <= int((error <= relaxed.bounds[90]).sum()) <= 193
    order = torch.argsort(relaxed.bounds[90])
    assert error[order[:100]].mean() < 0.75 * error[order[100:]].mean()


def test_relaxed_crystals_nearly_stay():
    """The DFT-relaxed crystals of the test split, of systems that were never seen, as inputs."""
    pairs = list(Dataset(ROOT / "datasets" / "pbe").read("test"))
    batch, target = to_batch(pairs)
    relaxed = batch.with_geometry(target.positions, target.cells)
    found = repose.load("default", device="cpu").relax_batch(relaxed).geometry
    moved = coordinate_error(found, target, relaxed.positions, relaxed.system_index)
    assert moved.mean() < 0.02
    inputs = Geometry(batch.positions, batch.cells)
    assert moved.mean() < 0.3 * coordinate_error(inputs, target, batch.positions, batch.system_index).mean()


def test_strained_crystals_come_back_towards_equilibrium():
    """CaO and SrTiO3 written 8% too long or too short end nearer to CHGNet's volume than they began."""
    equilibrium = {
        "CaO": 4.851,
        "SrTiO3": 3.945,
    }  # A, lattice constants of these crystals relaxed with CHGNet
    for make, name, atoms_per_cube in ((rock_salt, "CaO", 0.25), (perovskite, "SrTiO3", 1.0)):
        target = atoms_per_cube * equilibrium[name] ** 3
        for factor in (0.92, 1.08):
            crystal = make(equilibrium[name] * factor)
            volume = float(torch.linalg.det(exact("default").predict(crystal).cells).abs())
            before = float(torch.linalg.det(crystal.cells).abs())
            assert abs(volume - target) < 0.6 * abs(before - target), (name, factor, volume, target)
