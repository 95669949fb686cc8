"""DeepRelax as a relaxer: fast computation paths, and failures that are reported."""

import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.io import convert
from repose.models.deeprelax.network import DeepRelax
from support.crystals import perovskite, random_crystal, rock_salt
from support.deeprelax import OURS, check_computation, deeprelax_relaxer


@pytest.mark.parametrize("options", [{}, OURS], ids=["paper with strain", "ours"])
def test_tabulated_is_plain(options, crystals):
    check_computation("tabulated", options, crystals)


# Failures


def atoms_of(*batches: CrystalBatch):
    return convert.to_atoms(CrystalBatch.collate(batches))


@pytest.mark.parametrize("where", ["layers", *DeepRelax.heads])
def test_weights_that_are_not_finite_make_results_suspect(where):
    relaxer = deeprelax_relaxer(**OURS)
    if not any(name.startswith(where) for name, _ in relaxer.network.named_parameters()):
        relaxer = deeprelax_relaxer(**{**OURS, "lattice": "matrix"})
    mine = [p for name, p in relaxer.network.named_parameters() if name.startswith(where)]
    assert mine
    for parameter in mine:
        parameter.data.fill_(torch.nan)
    for result in relaxer.relax(atoms_of(rock_salt(), random_crystal(3))):
        assert result.status == "suspect"
        assert "not finite" in result.reason


def test_a_distance_that_is_not_finite_makes_its_crystal_suspect(monkeypatch):
    relaxer = deeprelax_relaxer(**OURS)
    given = atoms_of(rock_salt(), perovskite(), rock_salt(4.6))

    def change(distances, graph):
        """The largest crystal comes last."""
        return torch.where(graph.system_index == graph.system_index.max(), torch.nan, distances.relaxed)

    spoiled(monkeypatch, relaxer, change)
    results = relaxer.relax(given, symmetry="free")
    assert results[1].status == "suspect"
    assert "a predicted distance is not finite" in results[1].reason
    assert results[1].structure is given[1]
    assert [r.reason is not None and "finite" in r.reason for r in results] == [False, True, False]


@pytest.mark.parametrize("positions", ["bounds", "likelihood"])
def test_inconsistent_distances_are_suspect(monkeypatch, positions):
    relaxer = deeprelax_relaxer(**{**OURS, "positions": positions})
    spoiled(monkeypatch, relaxer, lambda d, graph: d.relaxed + 20)
    for result in relaxer.relax(atoms_of(rock_salt(), perovskite())):
        assert result.status == "suspect"
        assert "are inconsistent" in result.reason


def spoiled(monkeypatch, relaxer, change) -> None:
    """Change the distances that the relaxer's network predicts."""
    forward = relaxer.network.forward

    def other(batch, graph):
        prediction = forward(batch, graph)
        distances = prediction.distances
        return prediction._replace(distances=distances._replace(relaxed=change(distances, graph)))

    monkeypatch.setattr(relaxer.network, "forward", other)
