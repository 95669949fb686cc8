"""Preset of ABX3 perovskites: cubic, with ordered cations, with mixed anions, or with tilted octahedra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import numpy as np
from ase import Atoms

from repose.crystal.elements import element_table
from repose.data.generate.chemistry import ElementSampler, atomic_number
from repose.data.generate.prototypes import Prototype
from repose.data.generate.structure_builder import StructureBuilder, TrialStructure

MAX_ATOMS = 20
CUBIC = "AB3C_cP5_221_a_c_b"
# Reference elements of the species: large and small metal, second metal, first and second anion.
_A, _B, _M, _X, _Y = 20, 22, 40, 8, 7
# Sampling weights of the anions X3 and X2Y.
_ANIONS = {
    ("O",): 4, ("F",): 2, ("Cl",): 1.5, ("Br",): 1, ("I",): 1, ("N",): 1, ("S",): 1.5,
    ("O", "N"): 1, ("O", "F"): 1, ("O", "S"): 0.7, ("N", "O"): 0.7, ("F", "O"): 0.5, ("Cl", "F"): 0.3,
    ("Br", "Cl"): 0.3, ("I", "Br"): 0.3,
}  # fmt: skip
# Ratio of relaxed to estimated volume. The median is 0.93 over 3,785 cubic perovskites by DFT (Perov-5, of
# Castelli et al., Energy Environ. Sci. 5, 9034 (2012)) for all anions, and 1.0 over a dozen by CHGNet.
_VOLUME_SCALE = 0.95
# Fraction of charge-balanced structures, with the larger metal on the A site.
_BALANCED = 0.5
_FORMS = {"cubic": 0.5, "ordered": 0.25, "tilted": 0.25}
# Cation orders: the split site, and whether its cell (i, j, k) of the supercell has the second metal.
_ORDERS = {
    "A-layered": (_A, lambda i, j, k: k % 2),
    "B-layered": (_B, lambda i, j, k: k % 2),
    "A-rocksalt": (_A, lambda i, j, k: (i + j + k) % 2),
    "B-rocksalt": (_B, lambda i, j, k: (i + j + k) % 2),
}
# Tilt systems in Glazer's notation: relative angles about x, y and z, and whether successive octahedra along
# the axis turn in phase (+1) or in antiphase (-1).
_TILTS = {
    "a0a0c+": ((0, 0, 1), (1, 1, 1)),
    "a0a0c-": ((0, 0, 1), (1, 1, -1)),
    "a0b-b-": ((0, 1, 1), (1, -1, -1)),
    "a-a-a-": ((1, 1, 1), (-1, -1, -1)),
    "a-a-c+": ((1, 1, 1), (-1, -1, 1)),
    "a+a+a+": ((1, 1, 1), (1, 1, 1)),
}
# Range of tilt angles in degrees; integers, so that prototypes can be cached.
_ANGLES = (4, 16)


def perovskites(builder: StructureBuilder, rng: np.random.Generator) -> Iterator[TrialStructure | None]:
    """Make perovskites ABX3 of any metals with O, N, F, S, Cl, Br, I or two of these.

    Half are charge-balanced, with the larger metal on the A site. Tag ``prototype`` is the AFLOW label of the
    cubic perovskite, or ``perovskite-FORM`` with the order, the mixed anion or the tilt in Glazer's notation.

    Yields:
        Trial structures, without end; None if no elements were found or the cell has too many atoms.
    """
    sampler = builder.sampler
    anions = [
        (tuple(map(atomic_number, symbols)), weight)
        for symbols, weight in _ANIONS.items()
        if set(map(atomic_number, symbols)) <= set(sampler.numbers.tolist())
    ]
    weights = np.array([weight for _, weight in anions])
    while len(anions) and len(sampler.metals) >= 3:
        drawn, _ = anions[rng.choice(len(anions), p=weights / weights.sum())]
        prototype = _draw_prototype(len(drawn) == 2, rng)
        elements = _draw_elements(prototype, drawn, sampler, rng)
        fits = len(prototype.species) <= (builder.max_atoms or MAX_ATOMS)
        yield builder.decorate(prototype, elements, rng, scale=_VOLUME_SCALE) if fits and elements else None


def _draw_prototype(mixed_anions: bool, rng: np.random.Generator) -> Prototype:
    if mixed_anions:
        return untilted("mixed")
    form = rng.choice(list(_FORMS), p=list(_FORMS.values()))
    if form == "cubic":
        return untilted("cubic")
    if form == "ordered":
        return untilted(str(rng.choice(list(_ORDERS))))
    return tilted(str(rng.choice(list(_TILTS))), int(rng.integers(_ANGLES[0], _ANGLES[1] + 1)))


def _draw_elements(
    prototype: Prototype, anions: Sequence[int], sampler: ElementSampler, rng: np.random.Generator
) -> list[int] | None:
    """Return the given anions with metals that balance them, or with any metals."""
    reference = prototype.reference_elements.tolist()
    chosen = {reference.index(site): z for site, z in zip((_X, _Y), anions, strict=False)}
    if rng.random() >= _BALANCED:
        return sampler.with_metals(len(reference), chosen, rng)
    elements = sampler.balancing(prototype.counts, chosen, rng)
    if elements is not None:
        a, b = reference.index(_A), reference.index(_B)
        radius = element_table()["covalent_radius"]
        # Exchanging A and B keeps the balance only if both have the same number of atoms.
        if prototype.counts[a] == prototype.counts[b] and radius[elements[a]] < radius[elements[b]]:
            elements[a], elements[b] = elements[b], elements[a]
    return elements


@cache
def untilted(form: str) -> Prototype:
    """Return a perovskite on ideal sites: cubic, mixed (second anion along c), or in one of `_ORDERS`."""
    atoms = _supercell()
    if form == "cubic":
        return _primitive(CUBIC, atoms)
    if form == "mixed":
        along_c = np.isclose(atoms.positions[:, 2] % 1, 0.5) & (atoms.numbers == _X)
        atoms.numbers[along_c] = _Y
        return _primitive("perovskite-X2Y", atoms)
    metal, has_second_metal = _ORDERS[form]
    cells = np.floor(atoms.positions + 1e-6).astype(int)
    mask = np.array([bool(has_second_metal(*cell)) for cell in cells])
    atoms.numbers[mask & (atoms.numbers == metal)] = _M
    return _primitive(f"perovskite-{form}", atoms)


@cache
def tilted(glazer: str, angle: float) -> Prototype:
    """Return a perovskite in a tilt system of Glazer, with octahedra that are rigid to first order.

    ``angle`` is the tilt about each tilted axis in degrees. The cell is not strained.
    """
    sizes, phases = _TILTS[glazer]
    atoms = _supercell()
    cell = np.floor(atoms.positions + 1e-6).astype(int)
    arm = np.where(atoms.numbers[:, None] == _X, atoms.positions - cell, 0.0)
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        # In the plane across the axis, octahedra that share a corner turn in opposite directions.
        sign = (-1.0) ** cell[:, others].sum(axis=1) * float(phases[axis]) ** cell[:, axis]
        rotation = np.zeros(3)
        rotation[axis] = np.tan(np.deg2rad(angle)) * sizes[axis]
        atoms.positions += np.cross(rotation, arm) * sign[:, None]
    return _primitive(f"perovskite-{glazer}", atoms)


def _supercell() -> Atoms:
    """Return 2 x 2 x 2 cubic cells with B at the corners and lattice constant 1."""
    corners = np.array(list(product(range(2), repeat=3)), dtype=float)
    offsets = {_B: np.zeros((1, 3)), _A: np.full((1, 3), 0.5), _X: np.eye(3) / 2}
    numbers = [z for z, sites in offsets.items() for _ in range(8 * len(sites))]
    positions = np.concatenate([corners + site for sites in offsets.values() for site in sites])
    return Atoms(numbers, positions, cell=2 * np.eye(3), pbc=True)


def _primitive(label: str, atoms: Atoms) -> Prototype:
    from pymatgen.core import Lattice, Structure

    lattice, symbols = Lattice(atoms.cell.array), atoms.get_chemical_symbols()
    structure = Structure(lattice, symbols, atoms.positions, coords_are_cartesian=True)
    # The tolerance, in lattice constants, is far below any tilt.
    primitive = structure.get_primitive_structure(tolerance=1e-3)
    cell, numbers = primitive.lattice.matrix, primitive.atomic_numbers
    return Prototype.from_atoms(label, Atoms(numbers, primitive.cart_coords, cell=cell, pbc=True))
