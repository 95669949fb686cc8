"""Equations of E3Relax as printed, and its variants in E3Relax-H2, atom by atom.

MLPs and matrices are those of the network under test. Its factors 1/sqrt(3), 1/sqrt(F) and 1/sqrt(2), and the
sign of the directions of edges, count as part of φ and W.
"""

import torch

BASIS = 9  # radial functions, up to 30 A


def radial(d):
    """Radial basis λ with the envelope of exponent 5; a last axis is added to ``d``."""
    x = d.unsqueeze(-1) / 30
    steps = torch.arange(BASIS, dtype=torch.float64)
    envelope = 1 - 21 * x**5 + 35 * x**6 - 15 * x**7
    return torch.exp(-(((BASIS - 1) * x - steps) ** 2) / 2) * envelope


def random_features(n, features=16):
    """Scalars and vectors of n nodes."""
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(n, *shape, features, generator=generator).double() for shape in ((), (3,))]


def each(function, *columns):
    """Apply a function to rows one by one; returns stacked results."""
    return [torch.stack(column) for column in zip(*map(function, *columns), strict=True)]


def assert_equal(got, expected):
    """Compare two lists of tensors."""
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-10, rtol=0)


def gated(phi, gamma):
    """The three parts of φ(x) ∘ γ(λ) with factors: for scalars, vectors and directions, ``(3, F)``."""
    parts = (phi * gamma).view(3, -1) / 3**0.5
    return parts * torch.tensor([1, parts.shape[1] ** -0.5, parts.shape[1] ** -0.5]).to(parts)[:, None]


def equations_1_2(block, x, v, positions, cell, graph, factor=None):
    """Sums of messages; ``factor`` multiplies the filters of edges, ``(E, 3F)``."""
    m, mv = torch.zeros_like(x), torch.zeros_like(v)
    for e, (i, j, k) in enumerate(zip(graph.receiver, graph.sender, graph.shift, strict=True)):
        r_ji = positions[i] - positions[j] - k @ cell
        gamma = block.gamma(radial(r_ji.norm())) * (1 if factor is None else factor[e])
        h, u, w = gated(block.phi(x[j]), gamma)
        m[i] += h
        mv[i] += u * v[j] - w * (r_ji / r_ji.norm())[:, None]
    return m, mv


def equations_3_4(block, m, mv):
    """Scalars and vectors of a node from intermediate ones, without the last term of equation 12."""
    s, gate, vectors = _parts(block, m, mv)
    return s + gate * m, vectors


def self_interaction(block, m, mv):
    """Scalars and vectors of a node from intermediate ones in E3Relax-H2."""
    s, gate, vectors = _parts(block, m, mv)
    return (m + s / 2**0.5 + m * gate) / 2**0.5, mv + vectors


def _parts(block, m, mv):
    u, v = block.mix.weight.chunk(2)
    s1, s2, s3 = block.phi(torch.cat([m, (mv @ u.T).norm(dim=0)])).chunk(3)
    return s1, torch.tanh(s2), s3 * (mv @ v.T)


def equations_5_8(layer, x, v, r):
    """New position of an atom."""
    p = layer.weights(x).exp()
    return r + v @ layer.displacement.weight[0] + (p / p.sum() * v).sum(dim=1)


def equations_9_10(axis, x, v, y, w):
    """Intermediate scalars and vectors of a lattice node, from all atoms of the crystal."""
    return axis.gamma(torch.cat([x.mean(dim=0), y])), (v.mean(dim=0) + w) @ axis.mix.weight.T


def equations_9_12(axis, x, v, y, w):
    """New scalars and vectors of a lattice node."""
    n, nv = equations_9_10(axis, x, v, y, w)
    y, change = equations_3_4(axis.update, n, nv)
    return y, change + nv


def equations_13_14(axis, w, l_c):
    """New lattice vector."""
    return l_c + w @ axis.head.weight[0]


def equations_15_18(axis, x, v, y, w, seen, direction):
    """New scalars and vectors of an atom from a lattice node, seen by λ in the direction of r_i - l_c."""
    h, u, turn = gated(axis.phi(x), axis.gamma(seen))
    n, nv = h + x, u * v + turn * direction[:, None]
    return axis.fuse(torch.cat([n, y])) + n, (nv + w) @ axis.mix.weight.T / 2**0.5 + nv
