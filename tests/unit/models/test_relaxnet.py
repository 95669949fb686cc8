"""RelaxNet: energies whose gradient is the force, and the motion that follows from it."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import spherical_jn

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import volume
from repose.errors import ConfigError, InvalidCrystalError
from repose.models.relaxnet.network import EquationOfMotion, RelaxNet
from repose.models.relaxnet.settings import RelaxNetSettings
from repose.nn.bessel import BesselBasis, bessel_roots, spherical_harmonics
from repose.nn.messages import legendre
from repose.nn.triplets import TripletMessage, triplets
from repose.testing import ALL_CHECKS, check_relaxer
from support.crystals import fcc, make_crystal, perovskite, random_crystal, random_rotation, rock_salt
from support.tiny import random_relaxer

SMALL = {"graph": {"cutoff": 3.5, "max_neighbours": None, "self_images": False}, "triplet_cutoff": 3.0}
SMALL |= {"triplets": 4, "frames": 3, "n_basis": 8, "n_bessel": 2, "channels": 2, "features": 8, "heads": 2}
OPTIONS = {
    "explicit": {},
    "from the input": {"start": "input"},
    "fixed cell": {"cell": "fixed"},
    "as published": {"damped": False, "cell": "fixed", "start": "input"},
    "w/o triplets": {"triplets": 0},
    "w/o hidden steps": {"hidden_steps": False},
    "midpoint": {"solver": "midpoint", "substeps": 2},
    "implicit": {"evolution": "implicit", "solver": "euler", "layers": 1},
    "static": {"evolution": "static", "layers": 1},
    "adaptive": {"solver": "dopri5", "tolerance": 1e-2},
    "printed harmonics": {"expansion": "harmonics"},
}
EVOLUTIONS = ["explicit", "implicit"]


def make_relaxer(seed=0, **options):
    return random_relaxer("relaxnet", seed, **{**SMALL, **options})


def make_network(seed=0, **options) -> RelaxNet:
    return make_relaxer(seed, **options).network


def sheet() -> CrystalBatch:
    """A puckered hexagonal sheet with vacuum."""
    cell = [[2.5, 0, 0], [-1.2, 2.1, 0], [0, 0, 18.0]]
    return make_crystal([5, 7], [[0.1, 0.2, 0.5], [0.45, 0.8, 0.53]], cell, pbc=(True, True, False))


def chain() -> CrystalBatch:
    """Atoms in one line: every triplet is collinear."""
    return make_crystal([6, 8, 6], [[0, 0, 0], [0.3, 0, 0], [0.6, 0, 0]], np.diag([4.2, 12, 12]))


def motion_of(network, batch):
    """The equation of motion, and the features at the start."""
    motion = EquationOfMotion(network, *network.prepare(batch))
    with torch.no_grad():
        features = motion.encode(batch.positions, batch.cells)[0]
    return motion, features


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_contract(options):
    batch = CrystalBatch.collate([random_crystal(4, 3), fcc(3.9), sheet()])
    # Adaptive steps are as long as the error allows, of which a supercell has more components.
    broken = ["supercell"] if options.get("solver") == "dopri5" else []
    broken += ["rotation", "reflection"] if "expansion" in options else []
    checks = [name for name in ALL_CHECKS if name not in broken]
    check_relaxer(make_relaxer(**options), batch, checks=checks)


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_contract_property(seed):
    batch = CrystalBatch.collate([random_crystal(seed, 3), rock_salt(4.5 + seed % 5 / 10)])
    check_relaxer(make_relaxer(seed % 20), batch, seed=seed, checks=ALL_CHECKS)


@pytest.mark.parametrize("evolution", EVOLUTIONS)
@pytest.mark.parametrize(
    "make", [partial(random_crystal, 7, 4), chain, perovskite], ids=["any", "line", "cubic"]
)
def test_forces_and_stress_are_the_negative_gradient_of_the_energy(evolution, make):
    batch, step, clock = make(), 1e-4, torch.tensor(0.3, dtype=torch.float64)
    motion, features = motion_of(make_network(evolution=evolution), batch)

    def energy(positions, cells):
        with torch.no_grad():
            return float(motion.potential(positions, cells, features, clock).energy[0])

    with torch.no_grad():
        found = motion.potential(batch.positions, batch.cells, features, clock)
    assert found.forces.abs().max() < 1e-9 or make is not perovskite
    for atom in range(batch.n_atoms):
        for axis in range(3):
            moved = torch.zeros_like(batch.positions)
            moved[atom, axis] = step
            rise = energy(batch.positions + moved, batch.cells) - energy(batch.positions - moved, batch.cells)
            assert float(found.forces[atom, axis]) == pytest.approx(-rise / (2 * step), abs=1e-6)
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)]:
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] += step / 2
        strain[b, a] += step / 2
        up, down = (torch.eye(3, dtype=torch.float64) + sign * strain for sign in (1, -1))
        rise = energy(batch.positions @ up, batch.cells @ up) - energy(
            batch.positions @ down, batch.cells @ down
        )
        assert float(found.virial[0, a, b]) == pytest.approx(rise / (2 * step), abs=1e-6)


@pytest.mark.parametrize("evolution", EVOLUTIONS)
@pytest.mark.parametrize("make", [chain, rock_salt, perovskite, fcc])
def test_no_gradient_is_lost_where_vectors_vanish(evolution, make):
    """Atoms in one line, and at centres of inversion: also the second derivatives, which training needs."""
    network = make_network(evolution=evolution, solver="euler").train().requires_grad_(True)
    batch = make()
    prediction = network(*network.prepare(batch))
    path = prediction.trajectory
    loss = path.energies.sum() + path.forces.square().sum() + path.stresses.square().sum()
    (loss + path.positions.sum() + path.cells.square().sum()).backward()
    gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    assert float(gradients["layers.0.edges.mix.weight"].abs().max()) > 0
    if make is not chain:  # no force can point anywhere
        assert float(path.forces.detach().abs().max()) < 1e-10


@pytest.mark.parametrize("evolution", EVOLUTIONS)
def test_the_whole_path_turns_with_the_crystal(evolution):
    batch, turn = random_crystal(5, 4), random_rotation(3, reflect=True)
    network = make_network(evolution=evolution)
    with torch.no_grad():
        path = network(*network.prepare(batch)).trajectory
        other = batch.with_geometry(batch.positions @ turn, batch.cells @ turn)
        turned = network(*network.prepare(other)).trajectory
    assert float((turned.energies - path.energies).abs().max()) < 1e-8
    assert float((turned.forces - path.forces @ turn).abs().max()) < 1e-8
    assert float((turned.positions - path.positions @ turn).abs().max()) < 1e-8
    assert float((turned.stresses - turn.T @ path.stresses @ turn).abs().max()) < 1e-8


def test_a_supercell_has_twice_the_energy_and_the_same_forces():
    crystal = random_crystal(8, 3)
    network = make_network()
    double = doubled(crystal)
    with torch.no_grad():
        one, two = (network(*network.prepare(batch)).trajectory for batch in (crystal, double))
    assert float((two.energies - 2 * one.energies).abs().max()) < 1e-8
    assert float((two.forces - one.forces.repeat(1, 2, 1)).abs().max()) < 1e-8


def doubled(crystal: CrystalBatch) -> CrystalBatch:
    cell = crystal.cells[0]
    return CrystalBatch(
        numbers=crystal.numbers.repeat(2),
        positions=torch.cat([crystal.positions, crystal.positions + cell[1]]),
        cells=(torch.diag(torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)) @ cell)[None],
        system_index=torch.zeros(2 * crystal.n_atoms, dtype=torch.int64),
        pbc=crystal.pbc,
    )


def test_a_path_begins_at_the_input_and_ends_at_the_answer():
    batch = CrystalBatch.collate([random_crystal(1, 3), sheet()])
    network = make_network(frames=4)
    with torch.no_grad():
        prediction = network(*network.prepare(batch))
    path = prediction.trajectory
    assert path.energies.shape == (4, 2)
    assert torch.equal(path.positions[0], batch.positions)
    assert torch.equal(path.cells[0], batch.cells)
    assert torch.equal(path.positions[-1], prediction.geometry.positions)
    assert float((path.positions[-1] - batch.positions).abs().max()) > 1e-3
    with torch.no_grad():
        alone = network.potential(*network.prepare(batch))
    assert torch.allclose(path.energies[0], alone.energy, atol=1e-12)
    # The vacuum of the sheet stays, and so does the third vector.
    assert torch.allclose(path.cells[:, 1, 2], batch.cells[1, 2], atol=1e-12)


def test_the_static_model_is_the_encoder_of_the_implicit_one():
    """Energies and forces are the same, and the last layer's hidden positions are the relaxed ones."""
    batch = CrystalBatch.collate([random_crystal(1, 3), sheet(), fcc(3.9)])
    static, implicit = (make_network(evolution=evolution) for evolution in ("static", "implicit"))
    with torch.no_grad():
        path = static(*static.prepare(batch)).trajectory
        for frame in (0, 1):
            moved = batch.with_geometry(path.positions[frame], path.cells[frame])
            found = implicit.potential(*implicit.prepare(moved))
            assert torch.allclose(path.energies[frame], found.energy, atol=1e-10)
            assert torch.allclose(path.forces[frame], found.forces, atol=1e-10)
        fixed = make_network(evolution="static", cell="fixed")
        ends, motion = fixed(*fixed.prepare(batch)).geometry, EquationOfMotion(fixed, *fixed.prepare(batch))
        steps = motion.encode(batch.positions, batch.cells)[2] - batch.positions
    assert static.path_frames == len(path.energies) == 2
    assert torch.allclose(ends.positions, batch.positions + motion._centred(steps), atol=1e-12)
    assert float(steps.abs().max()) > 1e-3


def test_charges_are_inputs_where_the_model_takes_them():
    network, batch = make_network(charges=True), CrystalBatch.collate([random_crystal(1, 3), fcc(3.9)])
    charged = dataclasses.replace(batch, charges=torch.tensor([3.0, 5.0, 4.0, 1.0], dtype=torch.float64))
    check_relaxer(make_relaxer(charges=True), charged)
    with torch.no_grad():
        one, other = (
            network(*network.prepare(dataclasses.replace(charged, charges=charges))).trajectory
            for charges in (charged.charges, charged.charges + torch.tensor([0, 0, 0, 1.0]))
        )
        plain = [make_network()(*network.prepare(crystals)).geometry for crystals in (batch, charged)]
    assert torch.equal(one.energies[:, 0], other.energies[:, 0])
    assert float((one.energies - other.energies)[:, 1].abs().max()) > 1e-3
    assert torch.equal(plain[0].positions, plain[1].positions)
    with pytest.raises(InvalidCrystalError, match=r"needs charges of all atoms.* ASE.* OUTCAR"):
        network(*network.prepare(batch))


def test_the_volume_guess_is_reached_when_nothing_else_pulls():
    network = make_network(substeps=8)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith(("dilation", "velocity", "vectors", "energy")):
                weight.zero_()
    batch = CrystalBatch.collate([fcc(4.6), rock_salt(4.0)])
    with torch.no_grad():
        found = network(*network.prepare(batch)).geometry
    expected = 15.0 * batch.counts.double()  # A^3 per atom, see random_relaxer
    assert torch.allclose(volume(found.cells), expected, rtol=1e-3)


def test_solvers_agree_when_steps_are_short():
    batch = random_crystal(3, 4)
    answers = [
        make_relaxer(**options).predict(batch).positions
        for options in (
            {"substeps": 8},
            {"solver": "midpoint", "substeps": 64},
            {"solver": "dopri5", "tolerance": 1e-9},
        )
    ]
    assert float((answers[0] - answers[1]).abs().max()) < 1e-5
    assert float((answers[0] - answers[2]).abs().max()) < 1e-5


def test_the_adjoint_method_gives_the_same_gradients():
    batch, gradients = random_crystal(3, 3), []
    for adjoint in (False, True):
        network = make_network(adjoint=adjoint, substeps=8).train().requires_grad_(True)
        geometry = network(*network.prepare(batch)).geometry
        (geometry.positions.square().sum() + geometry.cells.square().sum()).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    names = [name for name in gradients[0] if not name.startswith("uncertainty_head")]
    assert {name.partition(".")[0] for name in names} >= {"layers", "velocity", "friction", "field"}
    for name in names:
        size = float(gradients[0][name].abs().max())
        assert float((gradients[0][name] - gradients[1][name]).abs().max()) <= 1e-3 * size + 1e-7, name


def test_energies_are_those_of_the_elements_when_the_network_is_silent():
    network = make_network()
    network.reference_energies[6], network.reference_energies[8] = -1.5, 2.0
    with torch.no_grad():
        network.energy[-1].weight.zero_()
        network.energy[-1].bias.zero_()
        path = network(*network.prepare(chain())).trajectory
    assert torch.allclose(path.energies, torch.full((3, 1), -1.0, dtype=torch.float64))
    assert not path.forces.any()


@pytest.mark.parametrize("broken", ["gain", "energy"])
def test_a_lost_path_is_suspect_and_says_where(broken):
    relaxer = make_relaxer()
    structure = random_crystal(6, 3)
    with torch.no_grad():
        if broken == "gain":  # flies apart
            relaxer.network.friction.fill_(-60.0)
            relaxer.network.dilation[-1].bias.fill_(300.0)
        else:
            relaxer.network.energy_scale.fill_(torch.nan)
    from repose.io.convert import to_atoms

    (atoms,) = to_atoms(structure)
    (result,) = relaxer.relax([atoms])
    assert result.status == "suspect"
    assert "the path diverges at frame" in result.reason
    assert ("frame 2 of 3" if broken == "gain" else "frame 1 of 3") in result.reason
    assert result.structure is atoms


def test_an_adaptive_solver_that_gives_up_is_no_crash():
    network = make_network(solver="dopri5")
    with torch.no_grad():
        network.energy_scale.fill_(1e12)
        path = network(*network.prepare(random_crystal(6, 3))).trajectory
    assert torch.isfinite(path.positions[0]).all()
    assert not torch.isfinite(path.positions[-1]).all()


def test_paths_come_with_relaxations_and_keep_symmetry():
    from repose.io.convert import to_atoms

    relaxer = make_relaxer()
    assert relaxer.gives_paths
    crystals = to_atoms(CrystalBatch.collate([perovskite(), sheet(), random_crystal(2, 3)]))
    far = crystals[2].copy()
    far.positions[0] += 5 * far.cell[1]  # written far away, the way is continuous all the same
    free, held, moved = relaxer.relax(crystals), relaxer.relax(crystals, fix_cell=True), relaxer.relax([far])
    for result, atoms in zip(free, crystals, strict=True):
        assert len(result.path) == 3
        assert np.allclose(result.path[0].positions, atoms.positions, atol=1e-9)
        assert np.allclose(result.path[-1].positions, result.structure.positions, atol=1e-9)
        assert all(
            frame.energy is not None and frame.forces.shape == (len(atoms), 3) for frame in result.path
        )
    assert np.allclose(
        moved[0].path[-1].positions - free[2].path[-1].positions,
        [*[5 * moved[0].path[-1].cell[1]], *np.zeros((2, 3))],
        atol=1e-6,
    )
    for result, atoms in zip(held, crystals, strict=True):
        assert all(
            np.allclose(frame.cell, atoms.cell.array) and frame.energy is None for frame in result.path
        )


def test_bessel_functions_are_those_of_scipy():
    basis = BesselBasis(4, 5, 5.0).double()
    distance = torch.linspace(0.6, 4.99, 40, dtype=torch.float64)
    roots = bessel_roots(4, 5)
    for degree in range(4):
        assert np.abs(spherical_jn(degree, roots[degree])).max() < 1e-12
        assert (np.diff(roots[degree]) > 2.5).all()
    x = distance.numpy()[:, None, None] / 5.0
    expected = np.stack([spherical_jn(degree, x[:, 0] * roots[degree]) for degree in range(4)], axis=1)
    found = basis(distance).numpy()
    ratio = found / (expected * basis.scale.numpy())
    steady = np.abs(expected) > 0.02
    spread = [
        row[mask].std() / row[mask].mean() for row, mask in zip(ratio, steady, strict=True) if mask.any()
    ]
    assert max(spread) < 1e-4  # one envelope for all functions; roots are kept in single precision
    assert float(basis(torch.tensor([5.0, 6.0], dtype=torch.float64)).abs().max()) == 0


@given(seed=st.integers(0, 10**6))
def test_spherical_harmonics_obey_the_addition_theorem(seed):
    u, w = torch.nn.functional.normalize(
        torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
    polynomials = legendre((u * w).sum(-1), torch.ones(5, dtype=torch.float64), 3)
    pairs = zip(spherical_harmonics(u, 4), spherical_harmonics(w, 4), strict=True)
    for degree, (one, other) in enumerate(pairs):
        assert one.shape == (5, 2 * degree + 1)
        assert torch.allclose((one * other).sum(-1), (2 * degree + 1) * polynomials[:, degree], atol=1e-12)


def test_triplets_are_all_pairs_of_near_edges_of_one_atom():
    receiver = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3])
    near = torch.tensor([True, True, False, True, True, True, False, True])
    found = set(zip(*(part.tolist() for part in triplets(receiver, near, 4)), strict=True))
    assert found == {(0, 1), (1, 0), (3, 4), (4, 3), (5, 7), (7, 5)}


def test_triplet_messages_turn_and_mirror_and_fade_in_line():
    torch.manual_seed(0)
    block = TripletMessage(6, 5, 4, 3).double()
    x, edge = torch.randn(3, 6, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    direction = torch.nn.functional.normalize(torch.randn(2, 3, dtype=torch.float64), dim=-1)
    ends, weight = (torch.tensor([0, 0]), torch.tensor([1, 2])), torch.ones(2, dtype=torch.float64)
    found = triplets(ends[0], weight > 0, 3)
    mirror = random_rotation(1, reflect=True)
    block.requires_grad_(False)
    scalars, vectors = block(x, edge, direction, weight, ends, found)
    turned = block(x, edge, direction @ mirror, weight, ends, found)
    assert torch.allclose(turned[0], scalars, atol=1e-12)
    assert torch.allclose(turned[1], torch.einsum("nif,ij->njf", vectors, mirror), atol=1e-12)
    # Nearly in line, nothing points sideways but as much as the atoms do.
    line = torch.tensor([[1.0, 0, 0], [-1.0, 1e-7, 0]], dtype=torch.float64)
    _, vectors = block(x, edge, line, weight, ends, found)
    assert float(vectors[0, 1:].abs().max()) < 1e-6


def test_heads_divide_features():
    with pytest.raises(ConfigError, match="heads must divide features; got 3 heads and 8 features"):
        make_network(heads=3)


def test_settings_say_what_ships():
    defaults = RelaxNetSettings()
    assert defaults.evolution == "explicit"
    assert RelaxNet(defaults).path_frames == defaults.frames == 5
