"""Candidates that are two layers held together by van der Waals forces: endless stacks, and bilayers.

Layers of one kind lie on each other in high-symmetry registry, slid, or twisted by an angle at which both
lattices coincide exactly; layers of two kinds in a common cell to which both are strained evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repose.data.candidates import Candidate
from repose.data.generate.sheets import composer, scaled
from repose.data.generate.slabs import Draft, as_monolayers, draw, formula, in_vacuum

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]

# Most atoms in a cell of two layers.
MOST_ATOMS = 60
# Largest strain of either layer of two kinds, whose lattices then differ by twice as much; and of one kind,
# where it comes of lattice vectors that are rounded and so not quite symmetric.
LARGEST_STRAIN, ROUNDING = 0.02, 2e-3
# Standard deviation by which layers made of prototypes come out too large or too small.
SPREAD = 0.015
# Nearest atoms of two layers are this share of their van der Waals radii apart, with a standard deviation:
# the median of 40 known crystals, where single ones differ by 0.3 A in the distance of their layers.
CONTACT, CONTACT_SPREAD = 0.98, 0.04
# How often layers lie in registry, slid, twisted, or are of two kinds; and share of bilayers in vacuum.
WAYS = {"registry": 0.3, "slid": 0.2, "twisted": 0.2, "hetero": 0.3}
BILAYERS = 0.5
# Largest supercell of a lattice in which coincidences are sought, in cells.
MOST_CELLS = 21
# Partners that are tried for a layer.
PARTNERS = 100
# What is done to the upper layer before it is put down: half a turn about z; inversion, which also puts it
# upside down.
TURNS = {"none": (1, 1, 1), "half": (-1, -1, 1), "inverted": (-1, -1, -1)}
# Shifts of high symmetry, in fractions of the lattice vectors.
REGISTRIES = {
    "hexagonal": {"AA": (0.0, 0.0), "AB": (1 / 3, 2 / 3), "BA": (2 / 3, 1 / 3)},
    "square": {"AA": (0.0, 0.0), "AB": (0.5, 0.5), "bridge": (0.5, 0.0)},
    "other": {"AA": (0.0, 0.0), "AB": (0.5, 0.5), "a/2": (0.5, 0.0), "b/2": (0.0, 0.5)},
}


@dataclass(frozen=True)
class Coincidence:
    """Supercells of two lattices of one kind that coincide if these are sized right.

    Attributes:
        lower: Rows in units of the lower layer's lattice vectors, ``(2, 2)`` integers.
        upper: The same for the upper layer.
        ratio: Length of the lower layer's lattice constant over that of the upper one, where they coincide.
        twist: Angle from the lower to the upper lattice in degrees, less than their symmetry's.
    """

    lower: tuple[tuple[int, int], tuple[int, int]]
    upper: tuple[tuple[int, int], tuple[int, int]]
    ratio: float
    twist: float

    @cached_property
    def cells(self) -> tuple[int, int]:
        """Primitive cells of the lower and of the upper layer in the supercell."""
        (a, b), (c, d) = self.lower
        (e, f), (g, h) = self.upper
        return a * d - b * c, e * h - f * g


def candidates(n: int, rng: np.random.Generator, parents: Sequence[Atoms] = ()) -> Iterator[Candidate]:
    """Stacks of two layers a cell, periodic in three directions, and bilayers with vacuum along c.

    Tags: ``prototype`` and ``layers`` (of the lower and the upper layer, ``MoS2/WSe2``), ``made``
    (``registry``, ``slid``, ``twisted``, ``hetero``), ``kind`` (``stack`` or ``bilayer``), ``registry``,
    ``turn`` of the upper layer, ``twist`` in degrees and ``strain`` of either layer.

    Args:
        n: How many; the first k do not depend on it.
        rng: Source of all randomness.
        parents: Monolayers to stack, kept as they are; made of prototypes if empty.

    Yields:
        Candidates of at most `MOST_ATOMS` atoms.

    Raises:
        InvalidCrystalError: A parent is no monolayer.
        DatasetError: Nothing can be made of the parents.
    """
    source = _layers(rng, parents)
    ways, shares = list(WAYS), np.array(list(WAYS.values()))

    def attempt() -> Draft | None:
        made = ways[rng.choice(len(ways), p=shares)]
        lower = source()
        if made == "hetero":
            found = _partner(lower, source, rng)
            if found is None:
                return None
            upper, match = found
        else:
            upper, fitting = lower, coincidences_of(lower, lower, twisted=made == "twisted")
            if not fitting:
                return None
            match = fitting[rng.integers(len(fitting))]
        turn = list(TURNS)[rng.integers(len(TURNS))]
        registry, shift = _shift(made, lower, rng)
        contact = CONTACT * (1 + CONTACT_SPREAD * float(np.clip(rng.normal(), -2, 2)))
        below, above, strain = joined(lower, turned(upper, turn), match)
        primitive = np.linalg.solve(np.array(match.lower), below.cell.array[:2, :2])
        pair = (below, above, shift @ primitive, contact)
        bilayer = rng.random() < BILAYERS
        # A stack's next cell lies on this one as it is, or goes on sliding.
        onward = not bilayer and bool(rng.integers(2))
        atoms = put_together(*pair) if bilayer else stacked_up(*pair, onward=onward)
        if len(atoms) > MOST_ATOMS:
            return None
        tags = {
            "prototype": "/".join(layer.info["prototype"] for layer in (lower, upper)),
            "layers": "/".join(formula(layer) for layer in (lower, upper)),
            "made": made,
            "kind": "bilayer" if bilayer else "stack",
            "registry": registry,
            "turn": turn,
            "twist": f"{match.twist:.2f}",
            "strain": f"{strain:.4f}",
        }
        return atoms, tags

    return draw(n, "layered", attempt)


def lattice_kind(atoms: Atoms) -> str:
    """Kind of the lattice in the plane: ``"hexagonal"`` (at 120 degrees), ``"square"`` or ``"other"``."""
    a, b = atoms.cell.array[:2, :2]
    if abs(np.linalg.norm(a) / np.linalg.norm(b) - 1) > 1e-3:
        return "other"
    cosine = a @ b / (a @ a)
    return "hexagonal" if abs(cosine + 0.5) < 1e-3 else "square" if abs(cosine) < 1e-3 else "other"


@cache
def coincidences(kind: str) -> tuple[Coincidence, ...]:
    """Pairs of supercells of one shape of a lattice, none a multiple of another, small ones first.

    Vectors of the lattice are complex numbers m + n w, w being the third or fourth root of one: a supercell
    of the lattice's own shape is then a product with one of them.

    Args:
        kind: Of both lattices; only one pair for ``"other"``.
    """
    if kind == "other":
        return (Coincidence(((1, 0), (0, 1)), ((1, 0), (0, 1)), 1.0, 0.0),)
    sector, root = (60.0, np.exp(2j * np.pi / 3)) if kind == "hexagonal" else (90.0, 1j)
    numbers = [(m, n, m + n * root) for m, n in product(range(MOST_CELLS), repeat=2)]
    # By symmetry, all directions are those of one sector.
    numbers = [
        (m, n, z)
        for m, n, z in numbers
        if 0.5 < abs(z) ** 2 < MOST_CELLS + 0.5 and -1e-6 < np.angle(z, deg=True) < sector - 1e-6
    ]
    numbers.sort(key=lambda number: (round(abs(number[2]), 6), number[0]))
    found: dict[tuple[int, int], Coincidence] = {}
    for (m1, n1, lower), (m2, n2, upper) in product(numbers, repeat=2):
        ratio = upper / lower
        # Where both come to lie on each other, the upper one is turned by minus the angle between them.
        twist = -np.angle(ratio, deg=True) % sector
        twist = 0.0 if sector - twist < 1e-6 else float(twist)
        key = round(abs(ratio) * 1e6), round(twist * 1e4)
        match = Coincidence(_supercell(m1, n1, kind), _supercell(m2, n2, kind), float(abs(ratio)), twist)
        if key not in found or sum(match.cells) < sum(found[key].cells):
            found[key] = match
    return tuple(sorted(found.values(), key=lambda match: (sum(match.cells), match.ratio, match.twist)))


def coincidences_of(lower: Atoms, upper: Atoms, twisted: bool | None = None) -> list[Coincidence]:
    """Those coincidences that fit two monolayers within `LARGEST_STRAIN` and `MOST_ATOMS`.

    Args:
        lower: A monolayer.
        upper: Another one, or the same.
        twisted: Only with a twist, or only without; None for both.
    """
    kind = lattice_kind(lower)
    if kind != lattice_kind(upper):
        return []
    a, b = lower.cell.lengths()[0], upper.cell.lengths()[0]
    fitting = []
    for match in coincidences(kind):
        below, above = match.cells
        if below * len(lower) + above * len(upper) > MOST_ATOMS or twisted not in (None, match.twist > 0):
            continue
        # A quick look at one length before both cells are compared.
        if abs(np.log(b * match.ratio / a)) < 2.5 * LARGEST_STRAIN:
            strain = _common_cell(lower, upper, match)[1]
            if strain <= (LARGEST_STRAIN if upper is not lower else ROUNDING):
                fitting.append(match)
    return fitting


def joined(lower: Atoms, upper: Atoms, match: Coincidence) -> tuple[Atoms, Atoms, float]:
    """Supercells of two monolayers in one common cell, the mean of both.

    Args:
        lower: A monolayer.
        upper: Another one.
        match: From `coincidences_of`.

    Returns:
        Both supercells, a along x, and the largest strain that either came under; 0 for exact coincidence.
    """
    from ase.build import make_supercell

    vectors, strain = _common_cell(lower, upper, match)
    layers = []
    for sheet, matrix in ((lower, match.lower), (upper, match.upper)):
        full = np.eye(3)
        full[:2, :2] = np.array(matrix)
        layer = make_supercell(sheet, full, wrap=False)
        cell = layer.cell.array.copy()
        cell[:2, :2] = vectors
        # Fractional coordinates stay: turned and strained at once.
        layer.set_cell(cell, scale_atoms=True)
        layers.append(layer)
    return layers[0], layers[1], strain


def turned(sheet: Atoms, turn: str) -> Atoms:
    """A copy of a monolayer after one of `TURNS`; its lattice stays."""
    moved = sheet.copy()
    middle = sheet.cell.array[2] / 2
    moved.positions = (sheet.positions - middle) * TURNS[turn] + middle
    return moved


def gap(lower: Atoms, upper: Atoms, contact: float) -> float:
    """Distance along z from the top atom of one layer to the bottom atom of the next.

    Args:
        lower: A layer.
        upper: Another one in the same cell, where it is to lie; its height does not matter.
        contact: No two atoms of both come closer than this share of the sum of their van der Waals radii, and
            one pair is just as close.

    Returns:
        The distance in A; negative where layers interlock.
    """
    vectors = lower.cell.array[:2, :2]
    fractional = (upper.positions[None, :, :2] - lower.positions[:, None, :2]) @ np.linalg.inv(vectors)
    fractional -= np.round(fractional)
    images = np.array(list(product((-1, 0, 1), repeat=2)))
    lateral = np.linalg.norm((fractional[:, :, None] + images) @ vectors, axis=-1).min(axis=-1)
    reach = contact * (_vdw_radii(lower)[:, None] + _vdw_radii(upper))
    rise = np.sqrt(np.maximum(reach**2 - lateral**2, 0.0))
    below, above = lower.positions[:, 2], upper.positions[:, 2]
    return float((rise - (below.max() - below)[:, None] - (above - above.min())).max())


def put_together(lower: Atoms, upper: Atoms, shift: Floats, contact: float) -> Atoms:
    """A bilayer in vacuum.

    Args:
        lower: The lower layer.
        upper: The upper layer in the same cell.
        shift: By which the upper one slides, A, ``(2,)``.
        contact: See `gap`.
    """
    upper = _slid(upper, shift)
    upper.positions[:, 2] += lower.positions[:, 2].max() - upper.positions[:, 2].min()
    upper.positions[:, 2] += gap(lower, upper, contact)
    return in_vacuum(lower + upper)


def stacked_up(lower: Atoms, upper: Atoms, shift: Floats, contact: float, onward: bool = False) -> Atoms:
    """Both layers repeated along c without end; see `put_together`.

    Args:
        lower: The lower layer.
        upper: The upper layer in the same cell.
        shift: By which the upper one slides, A, ``(2,)``.
        contact: See `gap`.
        onward: Whether the next cell slides as much again, as in rhombohedral stacks.
    """
    onto = 2 * shift if onward else np.zeros(2)
    atoms = put_together(lower, upper, shift, contact)
    height = np.ptp(atoms.positions[:, 2]) + gap(_slid(upper, shift), _slid(lower, onto), contact)
    # The nearest of equivalent vectors, so that the cell is not skewed more than need be.
    vectors = atoms.cell.array[:2, :2]
    parts = onto @ np.linalg.inv(vectors)
    cell = atoms.cell.array.copy()
    cell[2] = *((parts - np.round(parts)) @ vectors), height
    atoms.positions[:, 2] -= atoms.positions[:, 2].min()
    atoms.set_cell(cell)
    atoms.pbc = True
    return atoms


def _layers(rng: np.random.Generator, parents: Sequence[Atoms]) -> Callable[[], Atoms]:
    """A draw of monolayers that know what prototype they are of."""
    sheets = as_monolayers(parents)
    for sheet in sheets:
        sheet.info["prototype"] = formula(sheet)
    compose = composer(rng, layered=True)

    def layer() -> Atoms:
        if sheets:
            return sheets[rng.integers(len(sheets))]
        prototype, symbols = compose()
        factor = 1 + SPREAD * float(np.clip(rng.normal(), -2, 2))
        sheet = scaled(prototype.build(symbols), factor, factor)
        sheet.info["prototype"] = prototype.name
        return sheet

    return layer


def _partner(
    lower: Atoms, source: Callable[[], Atoms], rng: np.random.Generator
) -> tuple[Atoms, Coincidence] | None:
    """The first layer of another kind that fits, and how; None if none of many does."""
    for _ in range(PARTNERS):
        upper = source()
        if upper.get_chemical_formula() == lower.get_chemical_formula():
            continue
        if fitting := coincidences_of(lower, upper):
            return upper, fitting[rng.integers(len(fitting))]
    return None


def _shift(made: str, lower: Atoms, rng: np.random.Generator) -> tuple[str, Floats]:
    """Registry of two layers, and the shift in fractions of the lower one's primitive cell."""
    if made == "registry" or (made == "hetero" and rng.random() < 0.5):
        known = REGISTRIES[lattice_kind(lower)]
        name = list(known)[rng.integers(len(known))]
        return name, np.array(known[name])
    return "slid", rng.random(2)


def _common_cell(lower: Atoms, upper: Atoms, match: Coincidence) -> tuple[Floats, float]:
    """Mean of two supercells, a along x, and the largest strain that takes either of them there."""
    cells = [
        _upright(np.array(matrix) @ sheet.cell.array[:2, :2])
        for sheet, matrix in ((lower, match.lower), (upper, match.upper))
    ]
    common = (cells[0] + cells[1]) / 2
    stretches = [np.linalg.svd(np.linalg.solve(cell, common), compute_uv=False) for cell in cells]
    return common, float(np.abs(np.array(stretches) - 1).max())


def _upright(vectors: Floats) -> Floats:
    """Two vectors in the plane, turned so that the first lies along x, ``(2, 2)``."""
    a, b = vectors
    length = np.linalg.norm(a)
    return np.array([[length, 0.0], [a @ b / length, np.linalg.det(vectors) / length]])


def _supercell(m: int, n: int, kind: str) -> tuple[tuple[int, int], tuple[int, int]]:
    return ((m, n), (-n, m - n)) if kind == "hexagonal" else ((m, n), (-n, m))


def _slid(layer: Atoms, shift: Floats) -> Atoms:
    moved = layer.copy()
    moved.positions[:, :2] += shift
    return moved


def _vdw_radii(atoms: Atoms) -> Floats:
    return np.array([_vdw_radius(symbol) for symbol in atoms.symbols])


@cache
def _vdw_radius(symbol: str) -> float:
    from pymatgen.core import Element

    return float(Element(symbol).van_der_waals_radius or 2.0)
