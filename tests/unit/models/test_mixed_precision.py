"""Mixed precision: bfloat16 has steps of 0.03 A at 5 A, so geometry must not be rounded to it."""

import pytest
import torch

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import nearest_image
from support.crystals import perovskite, random_crystal, rock_salt
from support.tiny import random_relaxer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"start": "input", "volume_feature": True, "stays": True, "passes": 2}]
)
def test_reposenet_rounds_what_it_adds_and_not_what_it_adds_to(training, options):
    network = random_relaxer("reposenet", 0, **options).network.float().train(training)
    batch = CrystalBatch.collate([rock_salt(), random_crystal(1), perovskite()]).to(dtype=torch.float32)
    start, graph = network.prepare(batch)
    with torch.no_grad():
        exact = network(start, graph)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(start, graph)
    assert rounded.error_scales.atoms.isfinite().all()
    for one, other in zip(exact.layers, rounded.layers, strict=True):
        for values, got, before in zip(one, other, (start.positions, start.cells), strict=True):
            assert got.dtype == torch.float32
            assert (got - values).norm() < 0.05 * (values - before).norm() + 1e-5


def test_nearest_images_are_exact():
    batch = random_crystal(3)
    vectors = torch.randn(batch.n_atoms, 3, generator=torch.Generator().manual_seed(0)).to(batch.cells) * 5
    with torch.autocast("cpu", torch.bfloat16):
        got = nearest_image(vectors.float(), batch.cells.float(), batch.system_index)
    assert torch.allclose(got, nearest_image(vectors, batch.cells, batch.system_index).float(), atol=1e-5)
