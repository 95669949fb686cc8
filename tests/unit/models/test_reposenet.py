"""The house family: the answer depends on the crystal, not on how it is written."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from hypothesis import given, settings
from hypothesis import strategies as st

from repose.crystal.batch import CrystalBatch
from repose.crystal.lattice import deformation, to_fractional, volume
from repose.crystal.symmetry import find_space_group, symmetrise
from repose.errors import ConfigError
from repose.models.initial_structure import volume_ratio
from repose.models.prediction import Geometry
from repose.models.reposenet.network import ReposeNet, mean_of_passes
from repose.models.reposenet.settings import ReposeNetSettings
from repose.nn import tensors
from repose.testing import ALL_CHECKS, check_relaxer
from support.crystals import fcc, make_crystal, perovskite, random_crystal, random_rotation, rock_salt
from support.tiny import random_relaxer

OPTIONS = {
    "all": {},
    "from the input": {"start": "input"},
    "free embedding": {"embedding": "free"},
    "w/o rank 2": {"rank2": False},
    "w/o products": {"products": False},
    "w/o radii": {"radii": False},
    "tied": {"tied": True, "layers": 3},
    "three passes": {"passes": 3},
    "all distances": {"start": "input", "volume_feature": True, "stays": True, "passes": 2},
    "shells": {"graph": {"max_neighbours": 12, "self_images": False}},
}


def make_relaxer(seed=0, **options):
    """A small network with random weights, those of the embedded volume included."""
    relaxer = random_relaxer("reposenet", seed, **options)
    of_volume = relaxer.network.of_volume
    if of_volume is not None:
        torch.nn.init.normal_(of_volume[-1].weight)
    return relaxer


def sheet() -> CrystalBatch:
    """A puckered hexagonal sheet with vacuum, its cell a little strained."""
    cell = [[2.5, 0, 0], [-1.2, 2.1, 0], [0, 0, 18.0]]
    return make_crystal([5, 7], [[0.1, 0.2, 0.5], [0.45, 0.8, 0.53]], cell, pbc=(True, True, False))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_contract(options, crystals):
    check_relaxer(make_relaxer(**options), crystals, checks=ALL_CHECKS)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), weights=st.integers(0, 20))
def test_contract_property(seed, weights):
    batch = CrystalBatch.collate([random_crystal(seed), fcc(3.5 + seed % 7 / 5), sheet()])
    options = list(OPTIONS.values())[seed % len(OPTIONS)]
    check_relaxer(make_relaxer(weights, **options), batch, seed=seed, checks=ALL_CHECKS)


def test_contract_of_the_tabulated_computation(crystals):
    check_relaxer(make_relaxer(path="tabulated"), crystals, checks=ALL_CHECKS)


def test_single_precision(crystals):
    relaxer = make_relaxer()
    relaxer.network.float()
    single = CrystalBatch.collate([crystals, sheet()]).to("cpu", torch.float32)
    check_relaxer(relaxer, single, tolerance=1e-4, checks=ALL_CHECKS)


@pytest.mark.parametrize("make", [rock_salt, perovskite, fcc])
def test_symmetry_in_is_symmetry_out(make):
    """The answer lies on the projection onto the input's space group, and is not the input itself."""
    crystal = make()
    turned = crystal.with_geometry(crystal.positions @ random_rotation(3), crystal.cells @ random_rotation(3))
    answer = make_relaxer(start="input").predict(turned)
    group = find_space_group(turned.numbers, turned.positions, turned.cells[0], turned.pbc[0])
    assert group.n_operations >= 48
    expected = symmetrise(group, turned.positions, turned.cells[0], answer.positions, answer.cells[0])
    shift = expected[0] - answer.positions.numpy()
    assert np.abs(shift - shift.mean(axis=0)).max() < 1e-9
    assert np.abs(expected[1] - answer.cells[0].numpy()).max() < 1e-9
    assert (volume(answer.cells) / volume(turned.cells) - 1).abs() > 1e-4


def test_a_strained_crystal_shears(crystals):
    """Where all vectors vanish by symmetry, tensors still tell one direction from another."""
    strain = torch.tensor([[1.1, 0.0, 0.0], [0.0, 0.95, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    crystal = rock_salt()
    strained = crystal.with_geometry(crystal.positions @ strain, crystal.cells @ strain)
    answer = make_relaxer(start="input").predict(strained)
    gradient = deformation(strained.cells, answer.cells)[0]
    stretches = torch.linalg.eigvalsh(gradient)
    assert (stretches.diff() > 1e-5).all()
    assert torch.allclose(gradient, gradient.T, atol=1e-12)  # a stretch, no rotation
    off = gradient - torch.diag(gradient.diagonal())
    assert off.abs().max() < 1e-12  # along the axes of the strain


def test_atoms_follow_the_cell(crystals):
    """The mean of the displacements, in fractional coordinates, is zero."""
    relaxer = make_relaxer(start="input")
    answer = relaxer.predict(crystals)
    moved = to_fractional(answer.positions, answer.cells, crystals.system_index) - to_fractional(
        crystals.positions, crystals.cells, crystals.system_index
    )
    for index in range(len(crystals)):
        assert moved[crystals.system_index == index].mean(0).abs().max() < 1e-9
    assert moved.abs().max() > 1e-4


def test_a_second_pass_begins_where_the_first_ended(crystals):
    """In use; in training there is one, and what it begins with is for the task to say."""
    one, two = (make_relaxer(uncertainty_head=False, passes=passes) for passes in (1, 2))
    first = one.predict(crystals)
    moved = crystals.with_geometry(first.positions, first.cells)
    expected, answer = one.predict(moved), two.predict(crystals)
    assert torch.allclose(answer.positions, expected.positions, atol=1e-10)
    assert torch.allclose(answer.cells, expected.cells, atol=1e-10)
    assert (answer.positions - first.positions).abs().max() > 1e-4
    network = two.network.train()
    alone = network(*network.prepare(crystals)).geometry
    assert torch.allclose(alone.positions, first.positions, atol=1e-10)


@torch.no_grad()
def passes_of(network, crystals, count):
    """What passes one after another find, and the errors they expect, mean over a crystal and strain."""
    start, graph = network.prepare(crystals)
    found = [network.train()(start, graph)]
    for _ in range(count - 1):
        found.append(network(*network.prepare_again(start, found[-1].geometry)))
    network.eval()
    return start, found


def test_passes_are_weighted_by_the_errors_they_expect(crystals):
    network = make_relaxer(passes=3).network
    start, found = passes_of(network, crystals, 3)
    answer = network(*network.prepare(crystals))
    for index in range(len(crystals)):
        atoms = start.system_index == index
        errors = [float(p.error_scales.atoms[atoms].mean() * p.error_scales.strains[index]) for p in found]
        weights = [(sum(errors) / error) ** 3 for error in errors]  # s^-6 where s^2 is atoms times strains
        cell, positions, strain = (
            sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
            for values in (
                [p.geometry.cells[index] for p in found],
                [p.geometry.positions[atoms] for p in found],
                [p.error_scales.strains[index] for p in found],
            )
        )
        assert torch.allclose(answer.geometry.cells[index], cell, atol=1e-10)
        assert torch.allclose(answer.geometry.positions[atoms], positions, atol=1e-10)
        assert torch.allclose(answer.error_scales.strains[index], strain, atol=1e-10)


def test_a_pass_that_lost_a_crystal_does_not_count_for_it(crystals):
    network = make_relaxer(passes=2).network
    start, (one, two) = passes_of(network, crystals, 2)
    positions, cells = two.geometry.positions.clone(), two.geometry.cells.clone()
    positions[start.system_index == 0] = float("nan")
    lost = two._replace(layers=[Geometry(positions, cells)])
    answer, sound = mean_of_passes(start, [one, lost]), mean_of_passes(start, [one, two])
    first = start.system_index == 0
    assert torch.equal(answer.geometry.positions[first], one.geometry.positions[first])
    assert torch.equal(answer.geometry.positions[~first], sound.geometry.positions[~first])
    assert torch.equal(answer.latent[0], one.latent[0])
    calm = type(one.error_scales)(1e-3 * one.error_scales.atoms, 1e-3 * one.error_scales.strains)
    refused = mean_of_passes(start, [lost._replace(input_scales=calm), lost])
    assert refused.geometry.positions[first].isnan().all()  # the input does not stand in for a lost answer
    both = mean_of_passes(start, [lost, lost])
    assert both.geometry.positions[first].isnan().all()
    assert torch.equal(both.geometry.positions[~first], two.geometry.positions[~first])


def test_the_input_counts_by_the_error_expected_of_it(crystals):
    """It is returned where that is small, has no weight where it is large, and the passes keep theirs."""
    network = make_relaxer(start="input", stays=True, passes=2).network
    start, graph = network.prepare(crystals)
    one = network._refined(start, graph)
    two = network._refined(*network.prepare_again(start, one.geometry))
    passes = mean_of_passes(start, [one._replace(input_scales=None), two])
    of_input = one.input_scales

    def answer(factor):
        scaled = type(of_input)(of_input.atoms * factor, of_input.strains * factor)
        return mean_of_passes(start, [one._replace(input_scales=scaled), two])

    near, far = answer(1e-6), answer(1e6)
    assert torch.allclose(near.geometry.positions, start.positions, atol=1e-9)
    assert torch.allclose(near.geometry.cells, start.cells, atol=1e-9)
    assert torch.allclose(near.error_scales.atoms, of_input.atoms * 1e-6)
    assert torch.allclose(far.geometry.positions, passes.geometry.positions, atol=1e-9)
    for found in (near, far):
        assert torch.allclose(found.latent, passes.latent)
    assert network(start, graph).geometry.positions.ne(passes.geometry.positions).any()


def test_the_volume_is_seen_relative_to_that_of_the_composition(crystals):
    """A crystal at another volume with other atomic volumes by the same ratio gets the same feature."""
    network = make_relaxer(start="input", volume_feature=True).network
    before = network(*network.prepare(crystals)).geometry.cells
    network.atomic_volumes.mul_(1.3)
    after = network(*network.prepare(crystals)).geometry.cells
    assert (before - after).abs().max() > 1e-6
    ratio = volume_ratio(crystals, network.atomic_volumes)
    bigger = crystals.with_geometry(2 * crystals.positions, 2 * crystals.cells)
    assert torch.allclose(volume_ratio(bigger, 8 * network.atomic_volumes), ratio)
    assert (volume_ratio(sheet(), network.atomic_volumes) == 1).all()


def test_vacuum_counts_gradually():
    """Between bulk and sheet the volume of the composition loses its weight without a jump."""
    volumes = torch.full((119,), 15.0, dtype=torch.float64)
    lengths = np.linspace(7.9, 9.1, 25)
    cells = (make_crystal([6], [[0, 0, 0]], np.diag([2.5, 2.5, c])) for c in lengths)
    ratios = np.array([float(volume_ratio(crystal, volumes)) for crystal in cells])
    assert ratios[0] == pytest.approx(15.0 / (2.5**2 * 7.9))
    assert ratios[-1] == 1
    assert (np.diff(ratios) > -0.03).all()
    assert np.abs(np.diff(ratios)).max() < 0.1


def test_a_sheet_is_the_same_in_every_cell():
    """Also in supercells whose shortest vectors leave the sheet."""
    relaxer = make_relaxer(start="input", volume_feature=True)
    sheet = Atoms("MoS2", [[0, 0, 0], [1.6, 0.9, 1.6], [1.6, 0.9, -1.6]], cell=[3.2, 3.2, 14.0, 90, 90, 120])
    sheet.pbc = True
    larger = make_supercell(sheet, [[5, 0, 0], [0, 1, 0], [2, 0, 1]])
    before, after = (
        relaxer.predict(CrystalBatch.single(a.numbers, a.positions, a.cell.array, a.pbc)).cells[0]
        for a in (sheet, larger)
    )
    assert torch.allclose(after[0], 5 * before[0], atol=1e-8)
    assert torch.allclose(after[1], before[1], atol=1e-8)


@pytest.mark.parametrize("harm", [float("nan"), 100.0])
def test_a_crystal_lost_between_passes_harms_no_other(crystals, harm):
    """It begins again where it did before; what the others go on from is what was found for them."""
    network = make_relaxer().network
    start, graph = network.prepare(crystals)
    found = network(start, graph).geometry
    cells, positions = found.cells.clone(), found.positions.clone()
    cells[0] *= harm
    positions[start.system_index == 1] = float("nan")
    after, _ = network.prepare_again(start, Geometry(positions, cells))
    expected, _ = network.prepare_again(start, found)
    for index in range(len(start)):
        atoms = start.system_index == index
        kept = start if index < 2 else expected
        assert torch.allclose(after.cells[index], kept.cells[index])
        assert torch.allclose(after.positions[atoms], kept.positions[atoms])


def test_vacuum_is_not_strained():
    before = sheet()
    after = make_relaxer().predict(before)
    normal = torch.linalg.cross(before.cells[0, 0], before.cells[0, 1])
    assert torch.allclose(after.cells[0, 2], before.cells[0, 2], atol=1e-9)
    assert (after.cells[0, :2] @ normal).abs().max() < 1e-9
    assert (after.cells[0, :2] - before.cells[0, :2]).abs().max() > 1e-4


def test_nothing_jumps_where_a_neighbour_comes_or_goes():
    """A crystal that is stretched a little at a time, by shells that leave the cutoff."""
    relaxer = make_relaxer(start="input")
    answers = []
    for scale in np.linspace(0.99, 1.01, 41):
        crystal = rock_salt(4.8 * scale)
        answers.append(float(volume(relaxer.predict(crystal).cells) / volume(crystal.cells)))
    steps = np.abs(np.diff(answers))
    assert steps.max() < 4 * np.median(steps) + 1e-7


def test_no_gradient_is_lost_at_symmetric_sites(crystals):
    """Neither NaN nor infinity, where all vectors and tensors are zero."""
    torch.manual_seed(0)
    network = ReposeNet(ReposeNetSettings(features=16, layers=2)).double()
    network.atomic_volumes.fill_(15.0)
    start, graph = network.prepare(crystals)
    loss = sum(s.positions.square().sum() + s.cells.square().sum() for s in network(start, graph).layers)
    loss.backward()
    for name, parameter in network.named_parameters():
        if not name.startswith("uncertainty_head"):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_atoms_in_the_cartesian_frame_are_refused():
    with pytest.raises(ConfigError, match="frame"):
        ReposeNetSettings.parse({"frame": "cartesian"})


def test_tied_layers_share_their_weights():
    def size(tied):
        network = ReposeNet(ReposeNetSettings(features=8, layers=3, tied=tied))
        return sum(parameter.numel() for parameter in network.layers.parameters())

    assert size(False) == 3 * size(True)


# Tensors as five numbers


def test_five_numbers_stand_for_a_matrix():
    five = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full = tensors.matrices(five)
    assert torch.allclose(full, full.mT)
    assert torch.diagonal(full, dim1=1, dim2=2).sum(-1).abs().max() < 1e-12
    assert torch.allclose(full.square().sum((1, 2)), five.square().sum(1))  # lengths are kept


def test_products_of_vectors_and_tensors_are_those_of_matrices():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    five = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    product = vectors.unsqueeze(2) * vectors.unsqueeze(1)
    trace = vectors.square().sum(1)[:, None, None] / 3 * torch.eye(3).double()
    assert torch.allclose(tensors.matrices(tensors.dyads(vectors)), product - trace)
    expected = (tensors.matrices(five) @ vectors.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(tensors.applied(five, vectors), expected)
    assert torch.allclose((tensors.turns(vectors) @ five.unsqueeze(-1)).squeeze(-1), expected)
