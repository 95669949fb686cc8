"""Errors of one crystal do not affect the others; fixed atoms by index and by mask."""

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.core import Lattice, Molecule, Structure

import repose
from repose.crystal import checks, symmetry
from repose.errors import ConfigError, ModelError
from repose.io import convert
from repose.relaxer import base, constraints, single_crystal
from support.tiny import Known, save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return repose.load(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


class Fails(Known):
    """Raises on crystals that hold a certain element, as a bug would."""

    def __init__(self, error, number=8):
        super().__init__(1.01 * np.eye(3))
        self.error, self.number = error, number

    def predict(self, batch):
        if (batch.numbers == self.number).any():
            self.batches.append(batch.n_crystals)
            raise self.error
        return super().predict(batch)


def crystals():
    return (
        [bulk("NaCl", "rocksalt", a=5.6)] * 3
        + [bulk("MgO", "rocksalt", a=4.2)]
        + [bulk("Cu", "fcc", a=3.6)] * 4
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug\nin two lines"), ValueError("odd"), IndexError(3), KeyError("x")]
)
def test_one_crystal_that_the_network_fails_on(error):
    relaxer = Fails(error)
    results = relaxer.relax(crystals())
    assert [r.status for r in results] == ["relaxed"] * 3 + ["refused"] + ["relaxed"] * 4
    said = " ".join(f"{type(error).__name__}: {error}".split())
    assert said in results[3].reason
    assert "\n" not in results[3].reason
    assert results[3].structure.get_chemical_formula() == "MgO"
    assert all(abs(r.volume_change - (1.01**3 - 1)) < 1e-10 for r in results if r.status == "relaxed")


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), ConfigError("wrong"), ModelError("broken")]
)
def test_errors_of_the_set_up_are_raised(error):
    with pytest.raises(type(error)):
        Fails(error).relax(crystals())


STEPS = {
    "conversion": (convert, "to_batch"),
    "duplicates": (checks, "close_atoms"),
    "layout": (single_crystal, "layout"),
    "constraints": (convert, "fixed_coordinates"),
    "memory": (Known, "memory"),
    "symmetry": (symmetry, "find_space_group"),
    "images": (base, "wrap_far_atoms"),
    "projection": (constraints.ConstraintProjection, "__call__"),
    "checks": (checks, "sanity_warnings"),
    "result": (convert, "with_geometry"),
    "bounds": (single_crystal, "attach_uncertainties"),
}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_isolated(step, monkeypatch):
    """The step raises at its fourth call only."""
    owner, name = STEPS[step]
    original, calls = getattr(owner, name), []

    def broken(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise ZeroDivisionError(f"in {step}")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, broken)
    monkeypatch.setattr(base, "batch_bytes", lambda device: 0.0)  # one crystal a batch
    given = [bulk("Cu", "fcc", a=3.5 + 0.01 * k) for k in range(8)]
    if step != "memory":
        monkeypatch.setattr(Known, "memory", lambda self, crystal: 1.0)
    results = Known(1.02 * np.eye(3)).relax(given)
    refused = [r for r in results if r.status == "refused"]
    assert (len(refused), len(results)) == (1, 8)
    assert f"ZeroDivisionError: in {step}" in refused[0].reason
    assert all(r.structure is atoms for r, atoms in zip(results, given, strict=True) if r.status == "refused")
    done = [k for k, r in enumerate(results) if r.status == "relaxed"]
    for k in done:
        np.testing.assert_allclose(results[k].structure.cell, 1.02 * given[k].cell.array, atol=1e-10)


def test_inputs_that_are_not_crystals(tiny):
    given = [
        bulk("MgO", "rocksalt", a=4.2), None, 7, object(), Molecule(["H"], [[0, 0, 0]]), {"a": 1}, b"bytes",
        Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]]), bulk("CaO", "rocksalt", a=4.8),
    ]  # fmt: skip
    results = tiny.relax(given)
    assert [r.status for r in results] == ["relaxed", *["refused"] * 7, "relaxed"]
    assert all(r.reason for r in results[1:-1])
    assert "got Molecule" in tiny.relax(given[4])[0].reason
    assert "got dict" in tiny.relax({"a": 1})[0].reason
    assert len(tiny.relax(None)) == 1


def mgo():
    return bulk("MgO", "rocksalt", a=4.2, cubic=True)


DISPLACEMENT = np.random.default_rng(0).normal(0, 0.02, (8, 3))


def fixed_atoms(**options):
    (result,) = Known(None, DISPLACEMENT).relax([mgo()], symmetry="free", **options)
    change = result.structure.get_scaled_positions(wrap=False) - mgo().get_scaled_positions(wrap=False)
    return np.flatnonzero(np.abs(change).max(axis=1) < 1e-12).tolist()


@pytest.mark.parametrize(
    ("fix_atoms", "expected"),
    [
        ([2, 5], [2, 5]),
        ((2, 5), [2, 5]),
        (np.array([2, 5]), [2, 5]),
        (np.array([5, 2, 2], dtype=np.int32), [2, 5]),
        ([np.int64(2), 5], [2, 5]),
        (range(2, 4), [2, 3]),
        ({5, 2}, [2, 5]),
        ((k for k in (2, 5)), [2, 5]),
        ([False, False, True, False, False, True, False, False], [2, 5]),
        (np.arange(8) > 5, [6, 7]),
        ([np.True_] + 7 * [False], [0]),
        (8 * [False], []),
        ([], []),
        (np.array([], dtype=bool), []),
    ],
)
def test_atoms_by_index_and_by_mask(fix_atoms, expected):
    assert fixed_atoms(fix_atoms=fix_atoms) == expected


@pytest.mark.parametrize(
    "fix_atoms",
    [[True, False], [True] * 9, [True, 2], [0, False], [1.0], [-1], np.array([-1]), ["0"], "0", 3, True, None,
     [[0, 1]], np.eye(8, dtype=bool), [None], np.array([0.5])],
)  # fmt: skip
def test_neither_indices_nor_a_mask(fix_atoms):
    with pytest.raises(ConfigError, match="fix_atoms"):
        Known().relax([mgo()], fix_atoms=fix_atoms)


def test_a_mask_must_fit_all_crystals():
    mask = [True] + 7 * [False]
    results = Known(None, 0.01).relax([mgo(), "nowhere.cif", mgo()], fix_atoms=mask)
    assert [r.status for r in results] == ["relaxed", "refused", "relaxed"]
    with pytest.raises(ConfigError, match="mask of 8 atoms, but a crystal has 2"):
        Known().relax([mgo(), bulk("MgO", "rocksalt", a=4.2)], fix_atoms=mask)
