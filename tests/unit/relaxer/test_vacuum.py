"""Molecules, vacuum, and sanity checks of volumes and distances."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import (
    bulk,
    fcc111,
    graphene,
    graphene_nanoribbon,
    make_supercell,
    molecule,
    mx2,
    nanotube,
)

from repose.crystal import checks
from repose.crystal.connectivity import candidates, components, layout
from repose.crystal.frame import Frame
from support.tiny import Known

STRETCH = np.diag([0.98, 0.97, 1.09])


def found(atoms):
    return layout(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def boxed(atoms, *sides):
    """A molecule in a periodic box."""
    atoms.set_cell(sides if len(sides) == 3 else 3 * sides)
    atoms.center()
    atoms.pbc = True
    return atoms


def sheet(**options):
    atoms = mx2("MoS2", a=3.2, vacuum=9, **options)
    atoms.pbc = True
    return atoms


def zeolite():
    """Connected rods, 10 A apart: an open framework."""
    side = 10.4
    points = [[k / 4, 0, 0] for k in range(4)] + [[0, k / 4, 0] for k in range(1, 4)]
    points += [[0, 0, k / 4] for k in range(1, 4)]
    return Atoms("SiOSiOOSiOOSiO", scaled_positions=points, cell=3 * [side / 1.4], pbc=True)


def layered(gap):
    """Bulk MoS2 with a gap in A between the sulphur atoms of adjacent layers."""
    atoms = mx2("MoS2", a=3.16)
    atoms.cell[2] = [0, 0, 3.19 + gap]
    atoms.pbc = True
    return atoms


def ice():
    """Water molecules whose hydrogen bonds run through the crystal, 2.75 A from O to O."""
    units = []
    for shift in ([0, 0, 0], [0, 0, 2.75]):
        water = molecule("H2O")
        water.rotate(water.positions[1] - water.positions[0], [0, 0, 1])
        water.translate(np.array(shift) - water.positions[0])
        units.append(water)
    atoms = units[0] + units[1]
    atoms.set_cell([3.4, 3.4, 5.5])
    atoms.pbc = True
    return atoms


def dimers(kind, bond, cell):
    return Atoms(2 * kind, [[0, 0, 0], [0, 0, bond]], cell=cell, pbc=True)


ORDINARY = {
    "one metal atom": bulk("Cu", "fcc", a=3.6),
    "caesium": bulk("Cs", "bcc", a=6.1),
    "caesium, twice the volume": bulk("Cs", "bcc", a=7.7),
    "rock salt, 1.5 times the volume": bulk("NaCl", "rocksalt", a=5.64 * 1.5 ** (1 / 3)),
    "caesium chloride, 3 times the volume": bulk("CsCl", "cesiumchloride", a=5.9),
    "copper, 4 times the volume": bulk("Cu", "fcc", a=5.7),
    "beryllium, 4 times the volume": bulk("Be", "hcp", a=3.6, c=5.7),
    "diamond": bulk("C", "diamond", a=3.57),
    "graphite": Atoms(graphene().numbers, graphene(vacuum=1.68).positions, cell=graphene(vacuum=1.68).cell,
                      pbc=True),
    "layers": layered(3.0),
    "layers, expanded": layered(4.5),
    "framework": zeolite(),
    "zinc blende, squeezed": bulk("ZnS", "zincblende", a=4.6),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_crystals_have_no_remarks(name):
    (result,) = Known(STRETCH).relax(ORDINARY[name], symmetry="free")
    assert (result.status != "refused", result.remarks) == (True, ())
    np.testing.assert_allclose(result.structure.cell, ORDINARY[name].cell.array @ STRETCH, atol=1e-10)


@pytest.mark.parametrize(
    "atoms",
    [
        boxed(molecule("CO2"), 12),
        boxed(molecule("H2"), 10),
        boxed(molecule("H2"), 6),
        boxed(molecule("N2"), 8),
        boxed(molecule("H2O"), 8),
        boxed(molecule("C6H6"), 15, 16, 12),
        boxed(Atoms("Ar"), 12),
        boxed(Atoms("Fe"), 10),
        boxed(Atoms("Au4", [[0, 0, 0], [2.8, 0, 0], [0, 2.8, 0], [0, 0, 2.8]]), 18),
        boxed(molecule("H2O") + Atoms("Ar", [[9.0, 9.0, 9.0]]), 22),
        Atoms("H2", [[0, 0, 0], [0, 0, 9.3]], cell=3 * [10.0], pbc=True),  # across the border of the cell
    ],
    ids=str,
)
def test_an_isolated_molecule_is_refused(atoms):
    turned = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    bad, skewed, good = Known().relax([atoms, turned, bulk("Cu", "fcc", a=3.6)])
    assert [r.status for r in (bad, skewed, good)] == ["refused", "refused", "relaxed"]
    assert "isolated molecule" in bad.reason
    assert bad.structure is atoms


@pytest.mark.parametrize(
    "atoms",
    [
        ice(),
        dimers("I", 2.72, [[4.4, 0, 0], [0, 4.4, 0], [2.2, 2.2, 4.4]]),
        dimers("N", 1.1, [[3.9, 0, 0], [0, 3.9, 0], [1.9, 1.9, 3.4]]),
        bulk("Ar", "fcc", a=5.3),
        boxed(Atoms("SF6", 1.56 * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])), 6.3),
    ],
    ids=str,
)
def test_a_molecular_crystal_is_relaxed_with_a_remark(atoms):
    (result,) = Known(STRETCH).relax(atoms, symmetry="free")
    assert result.status != "refused"
    assert [remark for remark in result.remarks if "separate molecules" in remark] == list(result.remarks)
    assert len(result.remarks) == 1
    np.testing.assert_allclose(result.structure.cell, atoms.cell.array @ STRETCH, atol=1e-10)


def permuted(atoms, axes):
    """The same crystal with its lattice vectors in another order."""
    other = atoms.copy()
    other.set_cell(atoms.cell.array[list(axes)], scale_atoms=False)
    other.pbc = atoms.pbc[list(axes)]
    return other


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_vacuum_is_kept_along_any_lattice_vector(axes, shift):
    atoms = sheet()
    atoms.positions += shift * atoms.cell.array[2]
    atoms.wrap()
    atoms = permuted(atoms, axes)
    stretched = Known(np.diag([0.98, 0.97, 1.09]))
    (result,) = stretched.relax(atoms, symmetry="free")
    k = axes.index(2)
    letter = "abc"[k]
    assert result.status == "relaxed"
    assert len(result.remarks) == 1
    assert f"along {letter} count as vacuum" in result.remarks[0]
    assert "18.0 A" in result.remarks[0]
    assert np.array_equal(result.structure.cell[k], atoms.cell[k])
    others = np.delete(atoms.cell.array @ np.diag([0.98, 0.97, 1]), k, axis=0)
    lengths = np.delete(result.structure.cell.lengths(), k)
    np.testing.assert_allclose(lengths, np.linalg.norm(others, axis=1), atol=1e-10)
    (asked,) = stretched.relax(atoms, symmetry="free", fix_axes=letter)
    assert np.array_equal(asked.structure.cell, result.structure.cell)
    assert asked.remarks == ()
    atoms.pbc = [axis != letter for axis in "abc"]
    (marked,) = stretched.relax(atoms, symmetry="free")
    assert marked.remarks == ()
    np.testing.assert_allclose(marked.structure.cell, result.structure.cell, atol=1e-12)


def test_a_tilted_vacuum_vector_keeps_its_length_and_direction():
    atoms = sheet()
    atoms.cell[2] += atoms.cell[0]  # the same sheet
    (result,) = Known(STRETCH).relax(atoms, symmetry="free")
    assert np.array_equal(result.structure.cell[2], atoms.cell[2])


def test_vacuum_between_lattice_vectors_keeps_the_cell():
    atoms = make_supercell(sheet(), [[1, 0, 1], [0, 1, 0], [0, 0, 1]])
    (result,) = Known(STRETCH, [[0.01, 0, 0], [0, 0, 0], [0, 0.01, 0]]).relax(atoms, symmetry="free")
    assert np.array_equal(result.structure.cell, atoms.cell)
    assert "not that of a lattice vector" in result.remarks[0]
    assert result.max_displacement > 0
    (result,) = Known(STRETCH).relax(atoms, fix_cell=True)
    assert result.remarks == ()


@pytest.mark.parametrize(
    ("atoms", "kept"),
    [
        (nanotube(6, 0, length=1, vacuum=7), "ab"),
        (graphene_nanoribbon(2, 1, type="zigzag", saturated=True, vacuum=7), "ab"),
        (fcc111("Al", (1, 1, 5), vacuum=8), "c"),
        (graphene(vacuum=8) * (3, 3, 1), "c"),
    ],
    ids=["tube", "ribbon", "slab", "graphene"],
)
def test_chains_and_slabs_keep_their_vacuum(atoms, kept):
    atoms.pbc = True
    axes = [k for k, letter in enumerate("abc") if letter in found(atoms).empty]
    assert len(axes) == len(kept)
    (result,) = Known(np.diag([1.05, 1.05, 1.05])).relax(atoms, symmetry="free")
    for k in range(3):
        assert np.array_equal(result.structure.cell[k], atoms.cell[k]) == (k in axes)
    assert len([r for r in result.remarks if "vacuum" in r]) == len(kept)


def test_constraints_apply_to_the_path():
    class WithPath(Known):
        def relax_batch(self, batch):
            relaxed = super().relax_batch(batch)
            end = Frame(relaxed.geometry.positions.numpy(), relaxed.geometry.cells[0].numpy(), -1.0)
            return replace(relaxed, paths=[(end, end)])

    (result,) = WithPath(STRETCH).relax(sheet(), symmetry="free")
    for frame in result.path:
        np.testing.assert_allclose(frame.cell, result.structure.cell, atol=1e-12)
        assert frame.energy is None  # it is that of another cell
    (result,) = WithPath(STRETCH).relax(bulk("Cu", "fcc", a=3.6), symmetry="free")
    assert result.path[0].energy == -1.0


def test_components_and_their_dimensions():
    cases = [(molecule("C6H6"), 0), (nanotube(6, 0, length=1, vacuum=7), 1), (sheet(), 2), (bulk("Si"), 3)]
    for atoms, rank in cases:
        atoms = boxed(atoms, 20) if rank == 0 else atoms
        for repeat in ((1, 1, 1), (2, 1, 3)):
            large = atoms.repeat(repeat)
            large.pbc = True
            rng = np.random.default_rng(0)
            large.positions += rng.integers(-3, 4, (len(large), 3)) @ large.cell.array  # other images
            split = components(large.numbers, large.positions, large.cell.array, large.pbc, 0.6)
            assert {len(t) for t in split.translations} == {rank}
            lines = np.prod([n for n, ranked in zip(repeat, _open(atoms), strict=True) if ranked])
            assert len(split.translations) == lines


def _open(atoms):
    """Directions along which copies of a component are not bonded."""
    split = components(atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, bool), 0.6)
    return [not split.span[:, k].any() for k in range(3)]


@pytest.mark.parametrize("name", ["MgO", "NaCl", "Si", "Cu", "Cs", "SrTiO3"])
def test_volumes_of_known_crystals(name):
    real = {
        "MgO": bulk("MgO", "rocksalt", a=4.21),
        "NaCl": bulk("NaCl", "rocksalt", a=5.64),
        "Si": bulk("Si", "diamond", a=5.43),
        "Cu": bulk("Cu", "fcc", a=3.61),
        "Cs": bulk("Cs", "bcc", a=6.14),
        "SrTiO3": Atoms(
            "SrTiO3",
            scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
            cell=3 * [3.9],
            pbc=True,
        ),
    }[name]
    for scale, believable in ((0.3, False), (0.8, True), (1.0, True), (1.4, True), (4.0, False)):
        # Whatever the input was: only the prediction is judged.
        for start in (0.6, 1.0, 2.5):
            atoms = real.copy()
            atoms.set_cell(atoms.cell.array * start ** (1 / 3), scale_atoms=True)
            (result,) = Known((scale / start) ** (1 / 3) * np.eye(3)).relax(atoms)
            assert ("volume" in (result.reason or "")) == (not believable and scale != start)
            assert result.status == ("relaxed" if believable else "suspect")


def test_volumes_where_none_is_known():
    """With vacuum, or elements without known volume, the volume is compared with that of the input."""
    neon = bulk("Ne", "fcc", a=4.4)
    sides = np.array([1.5, 1.5, 1.0])
    for atoms, growth in ((neon, 1.35 * np.eye(3)), (sheet(), np.diag(sides))):
        (result,) = Known(growth).relax(atoms, symmetry="free")
        assert "times that of the input" in result.reason
        (result,) = Known(1.05 * np.eye(3)).relax(atoms, symmetry="free")
        assert result.status == "relaxed"
    # A cell that is kept is the user's.
    (result,) = Known(2 * np.eye(3)).relax(bulk("Cu", "fcc", a=6.5), fix_cell=True)
    assert result.status == "relaxed"


def test_overlap_is_by_kind_of_atoms():
    def reason(kinds, distance):
        return checks.close_atoms(
            Atoms(kinds).numbers, np.array([[0, 0, 0], [0, 0, distance]]), 20 * np.eye(3), np.ones(3, bool),
            checks.OVERLAP,
        )  # fmt: skip

    for kinds, close, apart in (("Cs2", 2.0, 2.6), ("H2", 0.45, 0.6), ("CsH", 1.3, 1.5)):
        assert reason(kinds, close)
        assert reason(kinds, apart) is None


def test_of_equally_close_pairs_the_first_is_named():
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (2, 1, 1)
    crystal.set_cell(0.15 * crystal.cell.array, scale_atoms=True)
    numbers, cell, pbc = crystal.numbers, crystal.cell.array, crystal.pbc
    for seed in range(4):
        noise = 1e-9 * np.random.default_rng(seed).normal(size=(16, 3))
        assert "atoms 0 (Na) and 1 (Cl)" in checks.close_atoms(numbers, crystal.positions + noise, cell, pbc)


@pytest.mark.parametrize("distance", [0.4, 0.6])
def test_known_pairs_replace_the_search(distance):
    crystal = bulk("Cu", cubic=True)
    crystal.positions[1] = crystal.positions[0] + [0, 0, distance]
    arguments = crystal.numbers, crystal.positions, crystal.cell.array, crystal.pbc
    near = candidates(*arguments)
    assert checks.close_atoms(*arguments, near=near) == checks.close_atoms(*arguments)
    assert layout(*arguments, near) == layout(*arguments)


def graphene(c):
    return Atoms("C2", scaled_positions=[[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]],
                 cell=[[2.46, 0, 0], [-1.23, 2.1304, 0], [0, 0, c]], pbc=True)  # fmt: skip


@pytest.mark.parametrize(("c", "kept"), [(6.5, False), (7.0, False), (9.0, True), (20.0, True)])
def test_a_gap_is_kept_or_remarked_on(c, kept):
    (result,) = Known(0.9 * np.eye(3)).relax([graphene(c)])
    assert result.remarks
    assert result.structure.cell.lengths()[2] == pytest.approx(c if kept else 0.9 * c)
    assert ("count as vacuum, so" in result.remarks[0]) is kept
    assert ("may close" in result.remarks[0]) is not kept
    (held,) = Known(0.9 * np.eye(3)).relax([graphene(c)], fix_axes="c")
    assert held.remarks == ()


def test_layers_in_contact_need_no_remark():
    places = [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25], [0, 0, 0.75], [2 / 3, 1 / 3, 0.75]]
    graphite = Atoms("C4", scaled_positions=places, cell=graphene(6.7).cell, pbc=True)
    (result,) = Known().relax([graphite])
    assert result.remarks == ()


def test_molecules_that_collapse_are_suspect():
    """For molecules the volume is compared with that of the input."""
    nitrogen = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], cell=[5.0, 5.0, 5.0], pbc=True)
    (result,) = Known(0.7 * np.eye(3)).relax([nitrogen])
    assert result.status == "suspect"
    assert "times that of the input" in result.reason
