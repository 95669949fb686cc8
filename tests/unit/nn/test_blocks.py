"""Blocks: limits, gradients at zero, agreement with plain loops."""

import numpy as np
import pytest
import torch

from repose.crystal.elements import element_properties
from repose.nn.element_embedding import ElementEmbedding
from repose.nn.equivariant import SelfUpdate
from repose.nn.ops import safe_norm, segment_mean, segment_sum, unit
from repose.nn.radial import GaussianBasis, envelope


def test_segments_against_loops():
    values = torch.randn(7, 2, 3, dtype=torch.float64)
    index = torch.tensor([0, 2, 2, 0, 2, 4, 4])
    sums = torch.stack([values[index == k].sum(0) for k in range(5)])
    assert torch.allclose(segment_sum(values, index, 5), sums)
    means = torch.stack([values[index == k].mean(0) if (index == k).any() else sums[k] for k in range(5)])
    assert torch.allclose(segment_mean(values, index, 5), means)


def test_norms_at_zero():
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    assert safe_norm(zero).tolist() == [0.0, 0.0]
    (safe_norm(zero).sum() + unit(zero).sum()).backward()
    assert torch.isfinite(zero.grad).all()
    vectors = torch.randn(5, 3, dtype=torch.float64)
    assert torch.allclose(safe_norm(vectors), vectors.norm(dim=-1), atol=2e-6)
    assert torch.allclose(unit(vectors).norm(dim=-1), torch.ones(5, dtype=torch.float64), atol=1e-9)


def test_radial_basis_is_smooth_to_its_reach_and_zero_beyond():
    basis = GaussianBasis(16, 5.0).double()
    at_reach = torch.tensor([5.0 - 1e-4, 5.0, 7.0], dtype=torch.float64)
    assert basis(at_reach).abs().max() < 1e-10
    assert envelope(torch.zeros(1, dtype=torch.float64), 5) == 1
    edge = torch.tensor([1.0 - 1e-9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(envelope(edge, 5).sum(), edge)
    assert slope.abs() < 1e-8
    assert basis(torch.tensor([0.0], dtype=torch.float64))[0].argmax() == 0


def test_self_update_turns_with_its_vectors():
    torch.manual_seed(0)
    block = SelfUpdate(4).double()
    x, v = torch.randn(3, 4).double(), torch.randn(3, 3, 4).double()
    q, _ = torch.linalg.qr(torch.randn(3, 3).double())
    plain, turned = block(x, v), block(x, torch.einsum("ab,nbf->naf", q, v))
    assert torch.allclose(plain[0], turned[0])
    assert torch.allclose(torch.einsum("ab,nbf->naf", q, plain[1]), turned[1])


def test_element_properties():
    table = element_properties()
    assert table.shape[0] == 119
    assert np.isfinite(table).all()
    assert np.abs(table[1:95].mean(axis=0)).max() < 0.2
    distances = np.linalg.norm(table - table[11], axis=1)
    assert set(np.argsort(distances)[1:4]) & {3, 19, 37}  # sodium's like are the other alkali metals
    assert not table[110].any()


@pytest.mark.parametrize("kind", ["free", "properties"])
def test_embedding_tells_elements_apart(kind):
    torch.manual_seed(0)
    embedded = ElementEmbedding(8, kind)(torch.tensor([8, 16, 26, 26]))
    assert embedded.shape == (4, 8)
    assert torch.equal(embedded[2], embedded[3])
    assert not torch.allclose(embedded[0], embedded[1])
