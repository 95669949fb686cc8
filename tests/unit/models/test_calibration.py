"""Conformal bounds, expected errors and out-of-distribution detection."""

import json
import math

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import repose
from repose.crystal.batch import CrystalBatch
from repose.crystal.graph import edge_vectors
from repose.errors import ConfigError
from repose.models.checkpoint import load_model, save_model
from repose.models.prediction import ErrorScales, Geometry
from repose.models.uncertainty.calibration import (
    MAX_GROUPS,
    Calibration,
    Curve,
    conformal_factor,
    element_pairs,
    fit_bound,
    quantile,
)
from repose.models.uncertainty.out_of_distribution import MahalanobisDistance
from repose.relaxer.direct import DirectRelaxer
from repose.training.calibrate import calibrate, calibrate_model
from repose.training.losses import component_errors, laplace, scale_loss, training_loss
from repose.training.samples import collate, crystal
from support.crystals import perovskite, random_crystal, random_pairs, random_rotation, rock_salt
from support.tiny import random_relaxer

CALIBRATION = Calibration(
    on="some",
    crystals=100,
    factors={50: 1.0, 80: 2.0, 90: 3.0, 95: 4.0},
    atoms=5.0,
    bonds=7.0,
    strains=11.0,
    max_distance=2.0,
    element_pairs={"Mg": "O", "O": "Mg Zn", "Zn": "O", "Na": "Cl", "Cl": "Na"},
)


@pytest.fixture
def batch():
    return CrystalBatch.collate([rock_salt(), random_crystal(2), perovskite(), random_crystal(5)])


# Conformal bounds


def test_the_factor_is_the_ratio_of_the_right_rank():
    errors = np.arange(1.0, 20.0)  # 19 cases, expected to be 2 each
    expected = np.full(19, 2.0)
    assert conformal_factor(errors, expected, 90) == 18 / 2  # ceil(20 * 0.9) = 18
    assert conformal_factor(errors, expected, 50) == 10 / 2
    assert conformal_factor(errors[::-1], expected, 95) == 19 / 2
    assert math.isinf(conformal_factor(errors[:8], expected[:8], 90))  # nine are needed


@pytest.mark.parametrize("level", [50, 80, 90, 95])
def test_bounds_cover_for_any_model(level):
    """Expected errors that are unrelated to the errors, and some that are related; 400 calibrations of 99."""
    rng = np.random.default_rng(0)
    for informed in (False, True):
        covered = []
        for _ in range(400):
            expected = rng.lognormal(size=199)
            errors = rng.exponential(size=199) * (expected if informed else 1.0)
            factor = conformal_factor(errors[:99], expected[:99], level)
            covered.append((errors[99:] <= factor * expected[99:]).mean())
        assert abs(np.mean(covered) - level / 100) < 0.01


def test_a_curve_covers_every_regime_where_one_factor_does_not():
    """Errors are larger than expected where little is expected: up to eight times over three decades."""
    rng = np.random.default_rng(0)

    def cases(n):
        expected = 10.0 ** rng.uniform(-3, 0, n)
        return rng.exponential(size=n) * expected**0.7, expected

    errors, expected = cases(3000)
    curve, factor = fit_bound(errors, expected, 90), conformal_factor(errors, expected, 90)
    assert isinstance(curve, Curve)
    assert len(curve.expected) == MAX_GROUPS
    errors, expected = cases(20_000)
    tensor = torch.from_numpy(expected)
    bounds = (curve * tensor).numpy()
    parts = [(low < expected) & (expected < 10 * low) for low in (0.001, 0.01, 0.1)]
    covered = [[(errors < bound)[part].mean() for part in parts] for bound in (bounds, factor * expected)]
    assert np.allclose(covered[0], 0.9, atol=0.02)
    assert covered[1][0] < 0.8
    assert covered[1][2] > 0.95
    ordered = bounds[np.argsort(expected)]
    assert (np.diff(ordered) >= 0).all()


def test_few_cases_give_one_factor_and_equal_expectations_too():
    errors, expected = np.linspace(0.1, 1, 299), np.linspace(1, 2, 299)
    assert fit_bound(errors, expected) == conformal_factor(errors, expected)
    same = np.ones(900)
    assert fit_bound(np.linspace(0, 1, 900), same) == conformal_factor(np.linspace(0, 1, 900), same)


def test_a_curve_is_linear_in_logarithms_with_constant_ratios_beyond_its_ends():
    curve = Curve(expected=(0.01, 0.1), bounds=(0.05, 0.2))
    at = torch.tensor([1e-4, 0.01, 0.1**1.5, 0.1, 10.0])
    assert torch.allclose(curve * at, torch.tensor([5e-4, 0.05, 0.1, 0.2, 20.0]))
    assert f"{curve:.3g}" == "2 to 5"
    config = CALIBRATION.model_copy(update={"atoms": curve})
    assert Calibration.model_validate_json(config.model_dump_json()) == config


@seed(0)
@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 1e3), min_size=9, max_size=60), st.floats(1e-3, 1e3))
def test_bounds_do_not_depend_on_the_unit_of_expected_errors(errors, unit):
    errors = np.array(errors)
    expected = np.linspace(1, 2, len(errors))
    bound = conformal_factor(errors, expected) * expected
    assert np.allclose(conformal_factor(errors, unit * expected) * unit * expected, bound)


def test_too_few_crystals_are_refused():
    network = random_relaxer("e3relax").network.float()
    with pytest.raises(ConfigError, match="8 crystals are too few"):
        calibrate(network, random_pairs(8), random_pairs(8, 50), "few")


# Out of distribution


def test_element_pairs_missing_in_training_are_named():
    seen = element_pairs([np.array([12, 8, 8]), np.array([30, 8]), np.array([11, 17]), np.array([29])])
    assert seen == {"O": "Mg Zn", "Na": "Cl", "Mg": "O", "Cl": "Na", "Cu": "", "Zn": "O"}
    assert element_pairs([np.array([8, 20])], {"O": "Mg", "Mg": "O"}) == {"O": "Mg Ca", "Mg": "O", "Ca": "O"}
    assert CALIBRATION.outside(torch.tensor([12, 8]), 1.0) is None
    assert CALIBRATION.outside(torch.tensor([8, 8]), 1.0) is None  # with itself always
    reason = CALIBRATION.outside(torch.tensor([12, 30, 17]), 1.0)
    assert reason == "no training crystal contains Mg-Cl, Mg-Zn, Cl-Zn together"
    assert "its features are 2.5 from theirs" in CALIBRATION.outside(torch.tensor([12, 8]), 2.5)
    assert CALIBRATION.outside(torch.tensor([12, 8]), math.nan) is not None


def test_latent_distance_is_the_mahalanobis_distance():
    torch.manual_seed(0)
    mixing = torch.randn(8, 8, dtype=torch.float64)
    seen = torch.randn(5000, 8, dtype=torch.float64) @ mixing + 3
    module = MahalanobisDistance(8).double()
    assert not module(seen).any()  # before the fit all distances are zero
    module.fit(seen)
    assert module(seen).square().mean() == pytest.approx(1, rel=1e-2)
    centred = seen - seen.mean(0)
    covariance = centred.T @ centred / len(seen)
    probe = torch.randn(10, 8, dtype=torch.float64) * 20
    expected = ((probe - seen.mean(0)) @ covariance.inverse() * (probe - seen.mean(0))).sum(-1).div(8).sqrt()
    assert torch.allclose(module(probe), expected, rtol=0.05)
    assert module(probe).min() > module(seen).mean()


def test_a_direction_without_spread():
    seen = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    seen[:, 2] = 1.0
    module = MahalanobisDistance(4)
    module.fit(seen)
    assert torch.isfinite(module(seen)).all()
    strange = seen[:1].clone()
    strange[0, 2] = 2.0
    assert module(strange) > 10 * module(seen).max()


def test_quantile_is_one_of_the_values():
    assert quantile(torch.arange(1.0, 101.0), 99) == 100.0
    assert quantile(torch.arange(1.0, 102.0), 50) == 51.0


# Uncertainty head


@pytest.mark.parametrize("family", ["e3relax", "e3relax-h2", "reposenet"])
def test_the_head_changes_neither_predictions_nor_gradients_of_the_trunk(family, batch):
    with_head = random_relaxer(family, uncertainty_head=True).network.requires_grad_(True)
    without = random_relaxer(family, uncertainty_head=False).network.requires_grad_(True)
    missing, strange = without.load_state_dict(with_head.state_dict(), strict=False)
    assert not missing
    assert all(name.startswith("uncertainty_head") for name in strange)
    from repose.config import TrainSettings

    target = batch.with_geometry(batch.positions + 0.1, batch.cells * 1.01)
    gradients = []
    for network in (with_head, without):
        start, graph = network.prepare(batch)
        prediction = network(start, graph)
        training_loss(prediction, start, graph, target, TrainSettings(), False).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if "scale" not in name})
    for name, gradient in gradients[1].items():
        other = gradients[0][name]
        assert (gradient is None and other is None) or torch.equal(gradient, other)
    heads = [p for name, p in with_head.named_parameters() if name.startswith("uncertainty_head")]
    assert heads
    assert all(p.grad.any() for p in heads)


@pytest.mark.parametrize("family", ["e3relax", "e3relax-h2", "reposenet"])
def test_scales_are_invariant(family, batch):
    network = random_relaxer(family).network
    rotation = random_rotation(1)
    turned = batch.with_geometry(batch.positions @ rotation, batch.cells @ rotation)
    flipped = batch.with_geometry(-batch.positions, -batch.cells)
    first = network(*network.prepare(batch)).error_scales
    for other in (turned, flipped):
        scales = network(*network.prepare(other)).error_scales
        assert torch.allclose(scales.atoms, first.atoms, atol=1e-10)
        assert torch.allclose(scales.strains, first.strains, atol=1e-10)
    alone = network(*network.prepare(batch.split()[2])).error_scales
    assert torch.allclose(alone.strains, first.strains[2:3], atol=1e-10)


def test_the_best_scale_is_the_mean_error():
    errors = torch.tensor([0.1, 0.2, 0.6])
    scales = torch.linspace(0.05, 1.0, 96)
    losses = torch.stack([laplace(errors, scale).mean() for scale in scales])
    assert scales[losses.argmin()] == pytest.approx(0.3, abs=0.01)
    # Laplace's density integrates to one.
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    assert torch.exp(-laplace(x, torch.tensor(0.7))).sum() * 1e-3 == pytest.approx(1, abs=1e-3)


def test_component_errors(batch):
    """A crystal stretched by 3 % along one axis is off by that strain, an atom by the mean over x, y, z."""
    stretch = torch.diag(torch.tensor([1.03, 1.0, 1.0], dtype=torch.float64))
    target = batch.with_geometry(batch.positions + torch.tensor([0.3, 0.0, 0.0]), batch.cells @ stretch)
    atoms, strains = component_errors(Geometry(batch.positions, batch.cells), target, "unrelaxed")
    assert torch.allclose(atoms, torch.full_like(atoms, 0.1))
    assert torch.allclose(strains, torch.full_like(strains, 0.01))
    good = scale_loss(
        ErrorScales(atoms, strains), Geometry(batch.positions, batch.cells), target, "unrelaxed"
    )
    for factor in (0.5, 2.0):
        worse = ErrorScales(factor * atoms, strains)
        assert scale_loss(worse, Geometry(batch.positions, batch.cells), target, "unrelaxed") > good


# From the network to the user


@pytest.mark.parametrize("family", ["deeprelax", "e3relax", "e3relax-h2", "reposenet"])
def test_bounds_are_expected_errors_times_factors(family, batch):
    relaxer = random_relaxer(family)
    assert relaxer.relax_batch(batch).bounds == {}
    relaxer.config = relaxer.config.model_copy(update={"calibration": CALIBRATION})
    relaxed = relaxer.relax_batch(batch)
    assert torch.equal(relaxed.geometry.positions, relaxer.predict(batch).positions)
    assert set(relaxed.bounds) == {50, 80, 90, 95}
    assert torch.allclose(relaxed.bounds[90], 3 * relaxed.expected.crystals)
    assert torch.allclose(relaxed.atom_uncertainty, 5 * relaxed.expected.atoms)
    assert (relaxed.strain_uncertainty is None) == (family == "deeprelax")
    assert sum(len(bonds.first) for bonds in relaxed.bond_uncertainty) == len(relaxed.expected.bonds)
    graph = relaxer.network.prepare(batch)[1]
    start = 0
    for k, (bonds, one) in enumerate(zip(relaxed.bond_uncertainty, batch.split(), strict=True)):
        inside = graph.system_index == k
        assert torch.equal(torch.from_numpy(bonds.first) + start, graph.receiver[inside])
        assert torch.equal(torch.from_numpy(bonds.second) + start, graph.sender[inside])
        lengths = edge_vectors(graph, *relaxed.geometry).norm(dim=-1)[inside]
        assert np.allclose(bonds.length, lengths)
        assert np.allclose(bonds.uncertainty, 7 * relaxed.expected.bonds[inside])
        start += one.n_atoms


@pytest.mark.parametrize("family", ["deeprelax", "e3relax"])
def test_results_have_uncertainties(family):
    relaxer = random_relaxer(family)
    crystals = [
        bulk("MgO", "rocksalt", a=4.2),
        bulk("NaCl", "rocksalt", a=5.6),
        bulk("MgS", "rocksalt", a=5.2),
    ]
    (plain, *_) = relaxer.relax(crystals)
    assert plain.uncertainty is None
    assert plain.bond_uncertainty is None
    assert plain.outside is None
    known = CALIBRATION.model_copy(update={"max_distance": math.inf})
    relaxer.config = relaxer.config.model_copy(update={"calibration": known})
    oxide, salt, sulfide = relaxer.relax(crystals)
    (alone,) = relaxer.relax(crystals[1])
    assert salt.uncertainty == pytest.approx(alone.uncertainty, abs=1e-10)
    for result in (oxide, salt, sulfide):
        assert result.uncertainty > 0
        assert result.atom_uncertainty.shape == (2,)
        assert result.bond_uncertainty.uncertainty.shape == result.bond_uncertainty.length.shape
        assert set(result.bond_uncertainty.first) == {0, 1}
    assert oxide.outside is None
    assert salt.outside is None
    assert "Mg-S" in sulfide.outside


def test_bonds_join_the_images_given():
    """An atom many cells away is wrapped for the network; the shift of its bonds undoes this."""
    relaxer = random_relaxer("e3relax", lattice_offset="axis", frame="affine")
    relaxer.config = relaxer.config.model_copy(update={"calibration": CALIBRATION})
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.positions[1] += np.array([5, -3, 40]) @ atoms.cell.array
    (result,) = relaxer.relax(atoms, symmetry="free")
    bonds, relaxed = result.bond_uncertainty, result.structure
    vectors = (
        relaxed.positions[bonds.second] + bonds.shift @ relaxed.cell.array - relaxed.positions[bonds.first]
    )
    assert np.allclose(np.linalg.norm(vectors, axis=1), bonds.length, atol=1e-8)


def test_a_crystal_without_bonds_has_no_uncertainty():
    relaxer = random_relaxer("deeprelax")
    relaxer.config = relaxer.config.model_copy(update={"calibration": CALIBRATION})
    (result,) = relaxer.relax(bulk("MgO", "rocksalt", a=60.0))
    assert result.uncertainty is None


# Calibrating a model


@pytest.mark.parametrize("family", ["deeprelax", "e3relax", "e3relax-h2", "reposenet"])
def test_a_calibrated_directory_covers_and_predicts_as_before(family, tmp_path):
    relaxer = random_relaxer(family)
    save_model(tmp_path / "m", relaxer.network.float(), relaxer.config, "# Card\n")
    before = repose.load(tmp_path / "m", path="plain")
    held_out = random_pairs(60, 100)
    calibration = calibrate_model(tmp_path / "m", random_pairs(30), held_out, "held out")
    after = repose.load(tmp_path / "m", path="plain")
    assert isinstance(after, DirectRelaxer)
    assert after.config.calibration == calibration
    assert (tmp_path / "m" / "card.md").read_text() == "# Card\n"
    assert calibration.crystals == 60
    assert calibration.on == "held out"
    assert list(calibration.factors.values()) == sorted(calibration.factors.values())
    batch = CrystalBatch.collate([crystal(p.numbers, p.positions, p.cell, p.pbc) for p in held_out])
    assert torch.equal(before.predict(batch).positions, after.predict(batch).positions)
    relaxed = after.relax_batch(batch)
    target = collate(after.network, held_out).target
    errors = (relaxed.geometry.positions - target.positions).abs().mean(-1)
    error = torch.stack([part.mean() for part in errors.split(batch.counts.tolist())])
    for level, bound in relaxed.bounds.items():
        # On the very crystals it was calibrated on the share is the level, up to the correction of one.
        assert level / 100 <= (error <= bound * (1 + 1e-4)).double().mean() <= level / 100 + 2.5 / 60


def test_a_network_without_scales_stays_as_it_is(tmp_path):
    relaxer = random_relaxer("e3relax", uncertainty_head=False)
    save_model(tmp_path / "m", relaxer.network.float(), relaxer.config, "")
    files = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    assert calibrate_model(tmp_path / "m", random_pairs(10), random_pairs(10, 50), "x") is None
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == files


def test_models_from_before_there_was_uncertainty_are_read(tmp_path, batch):
    relaxer = random_relaxer("e3relax", uncertainty_head=False)
    save_model(tmp_path / "m", relaxer.network.float(), relaxer.config, "")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for key in ("uncertainty_head",):
        del config["settings"][key]
    for key in ("members", "calibration"):
        del config[key]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "m" / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "out_of_distribution" not in k},
        tmp_path / "m" / "model.safetensors",
    )
    network, read = load_model(tmp_path / "m")
    assert network.uncertainty_head is None
    assert read.calibration is None
    assert DirectRelaxer(network, read).relax_batch(batch).bounds == {}
