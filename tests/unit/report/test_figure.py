"""The figure of one crystal."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from matplotlib.patches import Circle

import repose
from repose.crystal.frame import Frame
from repose.errors import ConfigError, MissingExtraError
from support.tiny import Known


@pytest.fixture(scope="module")
def result():
    crystal = bulk("CaO", "rocksalt", a=4.6, cubic=True)
    return Known(1.1 * np.eye(3)).relax(crystal)[0]


def circles(axis):
    return [patch for patch in axis.patches if isinstance(patch, Circle)]


def test_before_and_after_on_one_scale(result):
    figure = repose.plot(result)
    before, after = figure.axes
    # Rock salt with atoms on all faces: 14 calcium atoms, 13 oxygen atoms.
    assert [len(circles(axis)) for axis in (before, after)] == [27, 27]
    assert before.get_xlim() == after.get_xlim()
    small, large = (np.array([c.center for c in circles(axis)]) for axis in (before, after))
    assert np.allclose(large, 1.1 * small)
    title = figure.get_suptitle()
    assert "Ca4O4" in title
    assert "+33.1 %" in title
    assert figure._repr_png_().startswith(b"\x89PNG")
    pickle.loads(pickle.dumps(figure))


def test_colours_of_bounds_and_energies(result):
    bounds = np.linspace(0.01, 0.08, 8)
    frames = tuple(Frame(np.zeros((8, 3)), np.eye(3), energy) for energy in (-8.0, -9.6, -10.4))
    known = replace(result, uncertainty=0.05, atom_uncertainty=bounds, trajectory=frames, calculator="emt")
    figure = repose.plot(known, colours="bound")
    assert len({c.get_facecolor() for c in circles(figure.axes[0])}) == 8
    energies = figure.axes[2]
    assert energies.get_title() == "emt"
    assert np.allclose(energies.lines[0].get_ydata(), [0.3, 0.1, 0])  # eV/atom
    assert "0.050" in figure.get_suptitle()
    path = replace(known, trajectory=None, path=frames)
    assert repose.plot(path).axes[2].get_title() == "predicted path"


def test_without_the_input(result):
    (axis,) = repose.plot(replace(result, before=None)).axes
    assert axis.get_title() == "after"


def test_errors(result, monkeypatch):
    with pytest.raises(ConfigError, match="bounds of atoms"):
        repose.plot(result, colours="bound")
    with pytest.raises(ConfigError, match="'element' or 'bound'; got 'red'"):
        repose.plot(result, colours="red")  # type: ignore[arg-type]
    refused = Known().relax(["no.cif"])[0]
    with pytest.raises(ConfigError, match="refused"):
        repose.plot(refused)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"repose-crystal\[evaluate\]"):
        repose.plot(result)
