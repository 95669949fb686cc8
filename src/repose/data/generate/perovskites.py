"""ABX3 perovskites: cubic, with two kinds of A or B in order, with mixed anions, with tilted octahedra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import numpy as np
from ase import Atoms

from repose.crystal.elements import element_table
from repose.data.generate.chemistry import Chemistry, atomic_number
from repose.data.generate.prototypes import Prototype
from repose.data.generate.structure_builder import Draft, Ingredients

MAX_ATOMS = 20
CUBIC = "AB3C_cP5_221_a_c_b"
# Species of a perovskite by the elements that stand for them: large and small metal, a second metal, anions.
_A, _B, _M, _X, _Y = 20, 22, 40, 8, 7
# Anions X3 or X2Y, and how often they are drawn.
_ANIONS = {
    ("O",): 4, ("F",): 2, ("Cl",): 1.5, ("Br",): 1, ("I",): 1, ("N",): 1, ("S",): 1.5,
    ("O", "N"): 1, ("O", "F"): 1, ("O", "S"): 0.7, ("N", "O"): 0.7, ("F", "O"): 0.5, ("Cl", "F"): 0.3,
    ("Br", "Cl"): 0.3, ("I", "Br"): 0.3,
}  # fmt: skip
# Relaxed over guessed volume: 0.93 in the median over 3,785 cubic perovskites by DFT, whatever their anions
# (Perov-5, of Castelli et al., Energy Environ. Sci. 5, 9034 (2012)), and 1.0 over a dozen by CHGNet.
_PACKING = 0.95
# Share of charge-balanced ones, with the larger metal as A.
_BALANCED = 0.5
_FORMS = {"cubic": 0.5, "ordered": 0.25, "tilted": 0.25}
# Cells of the second metal, by name: which corner or centre of the 2 x 2 x 2 cell it takes.
_ORDERS = {
    "A-layered": (_A, lambda i, j, k: k % 2),
    "B-layered": (_B, lambda i, j, k: k % 2),
    "A-rocksalt": (_A, lambda i, j, k: (i + j + k) % 2),
    "B-rocksalt": (_B, lambda i, j, k: (i + j + k) % 2),
}
# Tilts in the notation of Glazer, by size about x, y and z and by whether successive octahedra along the axis
# turn the same way (+1) or the other (-1).
_TILTS = {
    "a0a0c+": ((0, 0, 1), (1, 1, 1)),
    "a0a0c-": ((0, 0, 1), (1, 1, -1)),
    "a0b-b-": ((0, 1, 1), (1, -1, -1)),
    "a-a-a-": ((1, 1, 1), (-1, -1, -1)),
    "a-a-c+": ((1, 1, 1), (-1, -1, 1)),
    "a+a+a+": ((1, 1, 1), (1, 1, 1)),
}
# Degrees by which octahedra turn: whole ones, so that types can be kept.
_ANGLES = (4, 16)


def perovskites(given: Ingredients, rng: np.random.Generator) -> Iterator[Draft | None]:
    """Endless drafts ABX3 of any metals with O, N, F, S, Cl, Br, I or two of these.

    Half are charge-balanced, with the larger metal as A. Tag ``prototype`` is the AFLOW label of the cubic
    perovskite, or ``perovskite-FORM`` with the order, the mixed anion or the tilt in Glazer's notation.

    Yields:
        Drafts, and None where no elements were found or the cell holds more atoms than asked for.
    """
    anions = [
        (tuple(map(atomic_number, symbols)), share)
        for symbols, share in _ANIONS.items()
        if set(map(atomic_number, symbols)) <= set(given.chemistry.numbers.tolist())
    ]
    shares = np.array([share for _, share in anions])
    while len(anions) and len(given.chemistry.metals) >= 3:
        drawn, _ = anions[rng.choice(len(anions), p=shares / shares.sum())]
        prototype = _draw_type(len(drawn) == 2, rng)
        elements = _draw_elements(prototype, drawn, given.chemistry, rng)
        fits = len(prototype.species) <= (given.max_atoms or MAX_ATOMS)
        yield given.fill(prototype, elements, rng, scale=_PACKING) if fits and elements else None


def _draw_type(mixed: bool, rng: np.random.Generator) -> Prototype:
    if mixed:
        return untilted("mixed")
    form = rng.choice(list(_FORMS), p=list(_FORMS.values()))
    if form == "cubic":
        return untilted("cubic")
    if form == "ordered":
        return untilted(str(rng.choice(list(_ORDERS))))
    return tilted(str(rng.choice(list(_TILTS))), int(rng.integers(_ANGLES[0], _ANGLES[1] + 1)))


def _draw_elements(
    prototype: Prototype, anions: Sequence[int], chemistry: Chemistry, rng: np.random.Generator
) -> list[int] | None:
    """Elements of the prototype's species: these anions, and metals that balance them or any."""
    markers = prototype.original.tolist()
    chosen = {markers.index(marker): z for marker, z in zip((_X, _Y), anions, strict=False)}
    metals = [k for k in range(len(markers)) if k not in chosen]
    if rng.random() >= _BALANCED:
        return chemistry.complete(chosen, metals, rng)
    elements = chemistry.balance(prototype.counts, chosen, rng)
    if elements is not None:
        a, b = markers.index(_A), markers.index(_B)
        radius = element_table()["covalent_radius"]
        # As many A as B, so that the charges stay balanced; where one is split, the draw stands.
        if prototype.counts[a] == prototype.counts[b] and radius[elements[a]] < radius[elements[b]]:
            elements[a], elements[b] = elements[b], elements[a]
    return elements


@cache
def untilted(form: str) -> Prototype:
    """Perovskite with anions where they are in the cubic one.

    Args:
        form: ``"cubic"``, ``"mixed"`` with a second anion along c, or one of the orders of a second metal:
            ``"A-layered"``, ``"B-layered"``, ``"A-rocksalt"``, ``"B-rocksalt"``.
    """
    atoms = _supercell()
    if form == "cubic":
        return _reduced(CUBIC, atoms)
    if form == "mixed":
        along_c = np.isclose(atoms.positions[:, 2] % 1, 0.5) & (atoms.numbers == _X)
        atoms.numbers[along_c] = _Y
        return _reduced("perovskite-X2Y", atoms)
    metal, second = _ORDERS[form]
    sites = np.floor(atoms.positions + 1e-6).astype(int)
    is_second = np.array([bool(second(*site)) for site in sites])
    atoms.numbers[is_second & (atoms.numbers == metal)] = _M
    return _reduced(f"perovskite-{form}", atoms)


@cache
def tilted(glazer: str, angle: float) -> Prototype:
    """Octahedra turned as rigid as they can be without straining the cell.

    Args:
        glazer: One of the tilt systems in Glazer's notation, e.g. ``"a-a-c+"``.
        angle: About every axis that turns, in degrees.
    """
    sizes, successive = _TILTS[glazer]
    atoms = _supercell()
    site = np.floor(atoms.positions + 1e-6).astype(int)
    arm = np.where(atoms.numbers[:, None] == _X, atoms.positions - site, 0.0)
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        # In the plane across the axis, neighbours that share a corner must turn against each other.
        sign = (-1.0) ** site[:, others].sum(axis=1) * float(successive[axis]) ** site[:, axis]
        turn = np.zeros(3)
        turn[axis] = np.tan(np.deg2rad(angle)) * sizes[axis]
        atoms.positions += np.cross(turn, arm) * sign[:, None]
    return _reduced(f"perovskite-{glazer}", atoms)


def _supercell() -> Atoms:
    """2 x 2 x 2 cubic cells with B at their corners, lattice constant 1."""
    corners = np.array(list(product(range(2), repeat=3)), dtype=float)
    offsets = {_B: np.zeros((1, 3)), _A: np.full((1, 3), 0.5), _X: np.eye(3) / 2}
    numbers = [z for z, places in offsets.items() for _ in range(8 * len(places))]
    positions = np.concatenate([corners + place for places in offsets.values() for place in places])
    return Atoms(numbers, positions, cell=2 * np.eye(3), pbc=True)


def _reduced(label: str, atoms: Atoms) -> Prototype:
    from pymatgen.core import Lattice, Structure

    whole = Structure(
        Lattice(atoms.cell.array),
        atoms.get_chemical_symbols(),
        atoms.positions,
        coords_are_cartesian=True,
    )
    # Lengths are in lattice constants; the tolerance must stay far below any tilt.
    part = whole.get_primitive_structure(tolerance=1e-3)
    reduced = Atoms(part.atomic_numbers, part.cart_coords, cell=part.lattice.matrix, pbc=True)
    return Prototype.from_atoms(label, reduced)
