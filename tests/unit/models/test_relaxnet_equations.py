"""RelaxNet: every numbered equation of the paper against a computation of its own, in float64."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, jv, lpmv

from repose.config import PathSettings
from repose.crystal.batch import CrystalBatch
from repose.models.prediction import Geometry, Prediction, Trajectory
from repose.models.relaxnet.encoder import weighted_edges
from repose.models.relaxnet.network import EquationOfMotion, PathState
from repose.nn.bessel import BesselBasis, spherical_bessel, spherical_harmonics
from repose.training.paths import PathSample, path_loss
from support.crystals import random_crystal, random_rotation
from support.tiny import random_relaxer

PUBLISHED = {
    "damped": False,
    "cell": "fixed",
    "start": "input",
    "references": False,
    "uncertainty_head": False,
}
SMALL = {"graph": {"cutoff": 3.5, "max_neighbours": None, "self_images": False}, "triplet_cutoff": 3.0}
SMALL |= {"triplets": 4, "frames": 3, "n_basis": 8, "n_bessel": 2, "channels": 2, "features": 8, "heads": 2}
EVOLUTIONS = ["explicit", "implicit"]

assert_close = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


def motion_of(batch, **options) -> EquationOfMotion:
    network = random_relaxer("relaxnet", **{**SMALL, **PUBLISHED, **options}).network.requires_grad_(False)
    return EquationOfMotion(network, *network.prepare(batch))


def edges_of(motion):
    batch = motion.batch
    return weighted_edges(motion.graph, batch.positions, batch.cells, motion.network.basis, motion.settings)


def features_of(motion):
    return motion.encode(motion.batch.positions, motion.batch.cells)[0]


def harmonic(degree, order, direction):
    """Equation 5 for a unit vector; the real form of orders m and -m."""
    x, y, z = direction.tolist()
    m, azimuth = abs(order), math.atan2(y, x)
    constant = (2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m)
    value = math.sqrt(constant) * np.exp(1j * m * azimuth) * lpmv(m, degree, z)
    part = value.imag if order < 0 else value.real
    return part if m == 0 else math.sqrt(2) * (-1) ** m * part


ORDERS = ([0], [1, -1, 0], range(-2, 3), range(-3, 4))


def bessel(degree, x):
    """Equation 6a."""
    return math.sqrt(math.pi / (2 * x)) * jv(degree + 0.5, x)


def radial(basis: BesselBasis, degree, distance):
    """Equation 6a at the roots of a basis, normalised on the ball and with the envelope, ``(roots,)``."""
    x = distance / basis.cutoff
    inside = (1 - 21 * x**5 + 35 * x**6 - 15 * x**7) * (x < 1)
    roots = basis.roots[degree].tolist()
    return basis.scale[degree] * torch.tensor([inside * bessel(degree, x * root) for root in roots])


def test_equations_1a_and_1b():
    """Messages of pairs, their sum, and the update of the atoms, without triplets."""
    motion = motion_of(random_crystal(3, 4), triplets=0, hidden_steps=False)
    layer, around, graph = motion.network.layers[0], edges_of(motion), motion.graph
    x = torch.randn(4, 8, dtype=torch.float64)
    found, _, _ = layer(x, x.new_zeros(4, 3, 0), around, motion.found)
    own, pairs = layer.norm(x), layer.pairs
    edge = layer.edges(own, around.geometry)
    for i in range(4):
        m = torch.zeros(8, dtype=torch.float64)
        for e in (graph.receiver == i).nonzero().flatten():
            m += around.inside[e] * torch.tanh(pairs.atoms(own[graph.sender[e]]) * pairs.filter(edge[e]))
        middle = x[i] + pairs.out.weight @ m / math.sqrt(40)
        assert_close(found[i], middle + layer.update(layer.norm(middle)))


def test_triplet_messages():
    """Scalars and vectors of section 4.2: MLP_s and MLP_v, and a basis by the Gram-Schmidt algorithm."""
    motion = motion_of(random_crystal(3, 3))
    layer, around, graph = motion.network.layers[0], edges_of(motion), motion.graph
    block, d, width = layer.triplets, around.geometry.direction, 4
    x, edge = (torch.randn(n, 8, dtype=torch.float64) for n in (3, graph.n_edges))
    scalars, vectors = torch.zeros(3, width).double(), torch.zeros(3, 3, width).double()
    for a in range(graph.n_edges):
        for b in range(graph.n_edges):
            i, weight = graph.receiver[a], around.near[a] * around.near[b]
            if a == b or graph.receiver[b] != i or not weight:
                continue
            cosine = d[a] @ d[b]
            zonal = torch.tensor([eval_legendre(degree, float(cosine)) for degree in range(block.degrees)])
            atoms = torch.cat([x[i], x[graph.sender[a]], x[graph.sender[b]]])
            mixed = torch.cat(list(block.atoms.weight.split(width)), dim=1) @ atoms
            mixed += torch.cat(list(block.edges.weight.split(width)), dim=1) @ torch.cat([edge[a], edge[b]])
            s, along, across = (weight / 10 * block.out(mixed + block.angle(zonal))).split(width)
            scalars[i] += s
            basis = torch.stack([d[a], d[b] - cosine * d[a]], dim=1)
            vectors[i] += basis @ torch.stack([along, across])
    found = block(x, edge, d, around.near, (graph.receiver, graph.sender), motion.found)
    assert_close(found[0], block.scalars(scalars))
    assert_close(found[1], vectors)


@pytest.mark.parametrize("evolution", [*EVOLUTIONS, "static"])
def test_equations_2a_and_2b(evolution):
    """The energy keeps its value when a crystal moves or turns, and forces turn with it."""
    batch, turn = random_crystal(5, 4), random_rotation(3, reflect=True)
    network = motion_of(batch, evolution=evolution).network
    crystals = batch, batch.with_geometry((batch.positions + 1.3) @ turn, batch.cells @ turn)
    with torch.no_grad():
        one, other = (network(*network.prepare(crystal)).trajectory for crystal in crystals)
    assert_close(other.energies, one.energies)
    assert_close(other.forces, one.forces @ turn)
    assert_close(other.positions, (one.positions + 1.3) @ turn)


@pytest.mark.parametrize("evolution", EVOLUTIONS)
def test_equation_3(evolution):
    """Forces are minus the derivative of the energy: differences of eighth order."""
    batch, clock, step = random_crystal(7, 3), torch.tensor(0.3).double(), 1e-3
    motion = motion_of(batch, evolution=evolution)
    with torch.no_grad():
        features = features_of(motion)
        found = motion.potential(batch.positions, batch.cells, features, clock).forces
        for atom, axis in ((0, 0), (1, 1), (2, 2)):
            slope = 0.0
            for k, weight in enumerate((4 / 5, -1 / 5, 4 / 105, -1 / 280), start=1):
                for sign in (1, -1):
                    moved = batch.positions.clone()
                    moved[atom, axis] += sign * k * step
                    energy = motion.potential(moved, batch.cells, features, clock).energy[0]
                    slope = slope + sign * weight * energy / step
            assert_close(found[atom, axis], -slope)


@pytest.mark.parametrize("evolution", EVOLUTIONS)
def test_equation_4a(evolution):
    """dx/dt = u and du/dt = F/m (section 4.2), and nothing else moves."""
    batch = random_crystal(2, 4)
    motion = motion_of(batch, evolution=evolution)
    velocities, clock = torch.randn_like(batch.positions), torch.tensor(0.4).double()
    still, unit = torch.zeros_like(batch.cells), torch.eye(3, dtype=torch.float64)[None]
    with torch.no_grad():
        features = features_of(motion)
        state = PathState(torch.zeros_like(velocities), velocities, unit, still, features)
        change = motion(clock, state)
        forces = motion.potential(batch.positions, batch.cells, features, clock).forces
    assert_close(change.displacements, velocities)
    assert_close(change.velocities, forces / motion.masses)
    assert not change.gradients.any()
    assert not change.rates.any()


@pytest.mark.parametrize("evolution", EVOLUTIONS)
def test_equation_4b(evolution):
    """The integral by torchdiffeq's ``rk4``, which is Kutta's 3/8 rule, with a step from frame to frame."""
    batch = random_crystal(2, 3)
    motion = motion_of(batch, evolution=evolution)

    def plus(state, *terms):
        return [part + sum(w * k[n] for w, k in terms) for n, part in enumerate(state)]

    with torch.no_grad():
        network = motion.network
        path = network(batch, motion.graph).trajectory
        features, rates, velocities, _ = motion.initial_rates()
        hidden = features if evolution == "explicit" else features[:, :0]
        state, h = [0 * velocities, velocities, torch.eye(3)[None].to(rates), rates, hidden], 0.5
        for frame in (0, 1):
            t = torch.tensor(frame * h).double()
            a = motion(t, state)
            b = motion(t + h / 3, plus(state, (h / 3, a)))
            c = motion(t + 2 * h / 3, plus(state, (-h / 3, a), (h, b)))
            d = motion(t + h, plus(state, (h, a), (-h, b), (h, c)))
            state = plus(state, (h / 8, a), (3 * h / 8, b), (3 * h / 8, c), (h / 8, d))
            assert_close(path.positions[frame + 1], batch.positions + state[0])


def test_equation_5():
    directions = torch.nn.functional.normalize(torch.randn(6, 3, dtype=torch.float64), dim=-1)
    for degree, found in enumerate(spherical_harmonics(directions, 4)):
        expected = [[harmonic(degree, order, d) for order in ORDERS[degree]] for d in directions]
        assert_close(found / math.sqrt(4 * math.pi), torch.tensor(expected))


def test_equation_6a():
    x = torch.linspace(1.0, 14.0, 40, dtype=torch.float64)
    for degree in range(4):
        expected = torch.tensor([bessel(degree, float(value)) for value in x])
        assert_close(spherical_bessel(degree, x), expected)


def test_equation_6b():
    motion = motion_of(random_crystal(4, 3), expansion="harmonics", graph={**SMALL["graph"], "cutoff": 4.0})
    edges, block = edges_of(motion).geometry, motion.network.layers[0].edges
    for e in (edges.distance < 4.0).nonzero().flatten()[:20]:
        length, direction = float(edges.distance[e]), edges.direction[e]
        terms = [
            radial(block.bessel, degree, length) * harmonic(degree, order, direction)
            for degree in range(4)
            for order in ORDERS[degree]
        ]
        assert_close(block.expand(edges)[e], torch.stack(terms).sum(0))


def test_equation_6b_by_the_addition_theorem():
    """Sums over orders of products of two edges of an atom are Legendre polynomials of their angle."""
    motion = motion_of(random_crystal(4, 3))
    geometry, block, graph = edges_of(motion).geometry, motion.network.layers[0].edges, motion.graph
    x, d = torch.randn(3, 8, dtype=torch.float64), geometry.direction
    functions = [
        torch.stack([block.radial.weight @ radial(block.bessel, n, float(r)) for r in geometry.distance])
        for n in range(4)
    ]
    for e in range(0, graph.n_edges, 7):
        others = (graph.receiver == graph.receiver[e]).nonzero().flatten()
        parts = [geometry.basis[e]]
        for degree, values in enumerate(functions):
            around = sum(
                eval_legendre(degree, float(d[e] @ d[k])) * block.weights(x[graph.sender[k]]) * values[k]
                for k in others
            )
            parts.append(values[e] * around / math.sqrt(40))
        assert_close(block(x, geometry)[e], block.mix(torch.cat(parts)))


TERMS = ("energy", "rise", "forces", "displacement", "direction")


def equation_7(true: Trajectory, found: Trajectory, start: CrystalBatch) -> dict[str, float]:
    """The five sums with all weights λ one; δ and the least length of a displacement are 1e-3 A."""
    (frames, structures), sums = true.energies.shape, dict.fromkeys(TERMS, 0.0)
    for s in range(structures):
        atoms = (start.system_index == s).nonzero().flatten()
        for t in range(frames):
            sums["energy"] += abs(true.energies[t, s] - found.energies[t, s]) / (frames * structures)
            if t + 1 < frames:
                rise = found.energies[t + 1, s] - found.energies[t, s]
                sums["rise"] += max(rise, 0) / ((frames - 1) * structures)
            for i, axis in ((int(i), axis) for i in atoms for axis in range(3)):
                size = frames * structures * 3 * len(atoms)
                sums["forces"] += (true.forces[t, i, axis] - found.forces[t, i, axis]) ** 2 / size
                sums["displacement"] += (true.positions[t, i, axis] - found.positions[t, i, axis]) ** 2 / size
    moved, ours = (path.positions[-1] - path.positions[0] for path in (true, found))
    far = [i for i in range(start.n_atoms) if moved[i].norm() > 1e-3]
    top = sum((1 - moved[i] @ ours[i] / moved[i].norm() / ours[i].norm()) * moved[i].norm() for i in far)
    return {**sums, "direction": top / (sum(moved[i].norm() for i in far) + 1e-3)}


def test_equation_7():
    start = CrystalBatch.collate([random_crystal(1, 3), random_crystal(2, 5)])
    torch.manual_seed(0)
    true, found = (
        Trajectory(
            start.positions + torch.randn(3, 8, 3).double(),
            start.cells + 0.1 * torch.randn(3, 2, 3, 3).double(),
            *(8 * torch.randn(shape, dtype=torch.float64) for shape in ((3, 2), (3, 8, 3), (3, 2, 3, 3))),
        )
        for _ in range(2)
    )
    true.positions[-1, 4] = true.positions[0, 4]  # does not move
    prediction = Prediction(
        [Geometry(found.positions[-1], found.cells[-1])], start.positions, trajectory=found
    )
    sample = PathSample(start, None, start, true)
    expected = equation_7(true, found, start)
    for term in TERMS:  # without any for the stress
        weights = dict.fromkeys(TERMS, 0.0) | {term: 1.7, "stress": 1.3, "form": "published"}
        loss = path_loss(prediction, sample, PathSettings.parse(weights))
        assert_close(loss, torch.as_tensor(1.7 * expected[term]).double())
