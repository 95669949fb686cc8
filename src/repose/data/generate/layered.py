"""Preset of two layers bound by van der Waals forces: periodic stacks and bilayers.

Layers of one kind are stacked in high-symmetry registry, slid, or twisted by an angle at which both lattices
have an exact coincidence lattice. Layers of two kinds share a common cell, with opposite strains.
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
from repose.data.generate.sheets import composition_sampler, scale_sheet
from repose.data.generate.slabs import (
    center_in_vacuum,
    clipped_normal,
    draw_candidates,
    formula,
    standardize_monolayers,
)
from repose.data.generate.structure_builder import TrialStructure

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]

# Maximum number of atoms in a cell of two layers.
MAX_ATOMS = 60
# Maximum strain of a layer: of two kinds of layers, whose lattices may differ by twice as much, and of one
# kind, where strain comes only from lattice vectors that are slightly asymmetric.
MAX_STRAIN, MAX_ROUNDING_STRAIN = 0.02, 2e-3
# Standard deviation of the scale factor of layers made of prototypes.
SPREAD = 0.015
# Distance of the closest atoms of two layers over the sum of their van der Waals radii, and its standard
# deviation. It is the median of 40 known crystals; their interlayer distances scatter by 0.3 A.
CONTACT, CONTACT_SPREAD = 0.98, 0.04
# Probabilities of the kinds of stacking, and fraction of bilayers in vacuum.
STACKINGS = {"registry": 0.3, "slid": 0.2, "twisted": 0.2, "hetero": 0.3}
BILAYERS = 0.5
# Maximum number of primitive cells of a lattice in a coincidence lattice.
MAX_CELLS = 21
# Number of partners that are tried for a layer.
PARTNERS = 100
# Orientations of the upper layer: as built, rotated by 180 degrees about z, or inverted.
ORIENTATIONS = {"none": (1, 1, 1), "half": (-1, -1, 1), "inverted": (-1, -1, -1)}
# High-symmetry shifts in fractional coordinates.
REGISTRIES = {
    "hexagonal": {"AA": (0.0, 0.0), "AB": (1 / 3, 2 / 3), "BA": (2 / 3, 1 / 3)},
    "square": {"AA": (0.0, 0.0), "AB": (0.5, 0.5), "bridge": (0.5, 0.0)},
    "other": {"AA": (0.0, 0.0), "AB": (0.5, 0.5), "a/2": (0.5, 0.0), "b/2": (0.0, 0.5)},
}


@dataclass(frozen=True)
class Coincidence:
    """Supercells of two lattices of one kind that coincide at a ratio of lattice constants.

    Attributes:
        lower: Rows in units of the lattice vectors of the lower layer, ``(2, 2)`` integers.
        upper: The same for the upper layer.
        ratio: Lattice constant of the lower layer over that of the upper layer.
        twist: Angle from the lower to the upper lattice in degrees, below their rotational symmetry.
    """

    lower: tuple[tuple[int, int], tuple[int, int]]
    upper: tuple[tuple[int, int], tuple[int, int]]
    ratio: float
    twist: float

    @cached_property
    def cells(self) -> tuple[int, int]:
        """Numbers of primitive cells of the lower and of the upper layer in the supercell."""
        (a, b), (c, d) = self.lower
        (e, f), (g, h) = self.upper
        return a * d - b * c, e * h - f * g


def candidates(n: int, rng: np.random.Generator, parents: Sequence[Atoms] = ()) -> Iterator[Candidate]:
    """Make periodic stacks of two layers per cell, and bilayers with vacuum along c.

    Tags: ``prototype`` and ``layers`` (of the lower and the upper layer, ``MoS2/WSe2``), ``made``
    (``registry``, ``slid``, ``twisted``, ``hetero``), ``kind`` (``stack`` or ``bilayer``), ``registry``,
    ``turn`` (orientation of the upper layer), ``twist`` in degrees and ``strain`` of each layer.

    Args:
        n: Number of candidates; the first k do not depend on it.
        rng: Random number generator.
        parents: Monolayers to stack, with unchanged geometry; prototypes are decorated if there are none.

    Yields:
        Candidates of at most `MAX_ATOMS` atoms.

    Raises:
        InvalidCrystalError: A parent is not a monolayer.
        DatasetError: Too few candidates can be made of the parents.
    """
    draw_layer = _layer_sampler(rng, parents)
    stackings, weights = list(STACKINGS), np.array(list(STACKINGS.values()))

    def draw() -> TrialStructure | None:
        stacking = stackings[rng.choice(len(stackings), p=weights)]
        lower = draw_layer()
        if stacking == "hetero":
            partner = _find_partner(lower, draw_layer, rng)
            if partner is None:
                return None
            upper, match = partner
        else:
            upper, matches = lower, find_coincidences(lower, lower, twisted=stacking == "twisted")
            if not matches:
                return None
            match = matches[rng.integers(len(matches))]
        orientation = list(ORIENTATIONS)[rng.integers(len(ORIENTATIONS))]
        registry, shift = _draw_registry(stacking, lower, rng)
        contact = CONTACT * (1 + clipped_normal(rng, CONTACT_SPREAD, 2))
        below, above, strain = common_supercells(lower, oriented(upper, orientation), match)
        primitive = np.linalg.solve(np.array(match.lower), below.cell.array[:2, :2])
        layers = (below, above, shift @ primitive, contact)
        is_bilayer = rng.random() < BILAYERS
        atoms = bilayer(*layers) if is_bilayer else stack(*layers, rhombohedral=bool(rng.integers(2)))
        if len(atoms) > MAX_ATOMS:
            return None
        tags = {
            "prototype": "/".join(layer.info["prototype"] for layer in (lower, upper)),
            "layers": "/".join(formula(layer) for layer in (lower, upper)),
            "made": stacking,
            "kind": "bilayer" if is_bilayer else "stack",
            "registry": registry,
            "turn": orientation,
            "twist": f"{match.twist:.2f}",
            "strain": f"{strain:.4f}",
        }
        return TrialStructure(atoms, tags)

    return draw_candidates(n, "layered", draw)


def lattice_kind(atoms: Atoms) -> str:
    """Return the kind of the in-plane lattice: ``"hexagonal"`` (120 degrees), ``"square"`` or ``"other"``."""
    a, b = atoms.cell.array[:2, :2]
    if abs(np.linalg.norm(a) / np.linalg.norm(b) - 1) > 1e-3:
        return "other"
    cosine = a @ b / (a @ a)
    return "hexagonal" if abs(cosine + 0.5) < 1e-3 else "square" if abs(cosine) < 1e-3 else "other"


@cache
def coincidences(kind: str) -> tuple[Coincidence, ...]:
    """Return coincidences of two lattices of one kind, smallest first, without multiples of each other.

    Lattice vectors are complex numbers m + n w, where w is the third or fourth root of unity. Multiplication
    of the lattice by one of them gives a supercell of the same shape. ``"other"`` lattices have only the
    trivial coincidence.
    """
    if kind == "other":
        return (Coincidence(((1, 0), (0, 1)), ((1, 0), (0, 1)), 1.0, 0.0),)
    sector, root = (60.0, np.exp(2j * np.pi / 3)) if kind == "hexagonal" else (90.0, 1j)
    vectors = [(m, n, m + n * root) for m, n in product(range(MAX_CELLS), repeat=2)]
    # One sector contains all directions up to symmetry.
    vectors = [
        (m, n, z)
        for m, n, z in vectors
        if 0.5 < abs(z) ** 2 < MAX_CELLS + 0.5 and -1e-6 < np.angle(z, deg=True) < sector - 1e-6
    ]
    vectors.sort(key=lambda vector: (round(abs(vector[2]), 6), vector[0]))
    found: dict[tuple[int, int], Coincidence] = {}
    for (m1, n1, lower), (m2, n2, upper) in product(vectors, repeat=2):
        ratio = upper / lower
        # The upper lattice is rotated by minus the angle between both vectors.
        twist = -np.angle(ratio, deg=True) % sector
        twist = 0.0 if sector - twist < 1e-6 else float(twist)
        key = round(abs(ratio) * 1e6), round(twist * 1e4)
        match = Coincidence(_supercell(m1, n1, kind), _supercell(m2, n2, kind), float(abs(ratio)), twist)
        if key not in found or sum(match.cells) < sum(found[key].cells):
            found[key] = match
    return tuple(sorted(found.values(), key=lambda match: (sum(match.cells), match.ratio, match.twist)))


def find_coincidences(lower: Atoms, upper: Atoms, twisted: bool | None = None) -> list[Coincidence]:
    """Return coincidences within `MAX_STRAIN` and `MAX_ATOMS`, only with or only without a twist if given."""
    kind = lattice_kind(lower)
    if kind != lattice_kind(upper):
        return []
    a, b = lower.cell.lengths()[0], upper.cell.lengths()[0]
    matches = []
    for match in coincidences(kind):
        n_lower, n_upper = match.cells
        if n_lower * len(lower) + n_upper * len(upper) > MAX_ATOMS or twisted not in (None, match.twist > 0):
            continue
        # A fast check of one length before the check of the full cells.
        if abs(np.log(b * match.ratio / a)) < 2.5 * MAX_STRAIN:
            strain = _common_cell(lower, upper, match)[1]
            if strain <= (MAX_STRAIN if upper is not lower else MAX_ROUNDING_STRAIN):
                matches.append(match)
    return matches


def common_supercells(lower: Atoms, upper: Atoms, match: Coincidence) -> tuple[Atoms, Atoms, float]:
    """Return supercells of two monolayers in their mean cell, with a along x, and the larger strain."""
    from ase.build import make_supercell

    vectors, strain = _common_cell(lower, upper, match)
    layers = []
    for sheet, matrix in ((lower, match.lower), (upper, match.upper)):
        full = np.eye(3)
        full[:2, :2] = np.array(matrix)
        layer = make_supercell(sheet, full, wrap=False)
        cell = layer.cell.array.copy()
        cell[:2, :2] = vectors
        # At fixed fractional coordinates the layer is rotated and strained.
        layer.set_cell(cell, scale_atoms=True)
        layers.append(layer)
    return layers[0], layers[1], strain


def oriented(sheet: Atoms, orientation: str) -> Atoms:
    """Return a copy of a monolayer in one of `ORIENTATIONS`, with the same lattice."""
    new = sheet.copy()
    center = sheet.cell.array[2] / 2
    new.positions = (sheet.positions - center) * ORIENTATIONS[orientation] + center
    return new


def interlayer_gap(lower: Atoms, upper: Atoms, contact: float) -> float:
    """Return the distance in A from the top atom of a layer to the bottom atom of the next; may be negative.

    At this distance, the closest atoms of both layers are ``contact`` times the sum of their van der Waals
    radii apart. Both layers have the same cell; their heights do not matter.
    """
    vectors = lower.cell.array[:2, :2]
    fractional = (upper.positions[None, :, :2] - lower.positions[:, None, :2]) @ np.linalg.inv(vectors)
    fractional -= np.round(fractional)
    images = np.array(list(product((-1, 0, 1), repeat=2)))
    lateral = np.linalg.norm((fractional[:, :, None] + images) @ vectors, axis=-1).min(axis=-1)
    distance = contact * (_vdw_radii(lower)[:, None] + _vdw_radii(upper))
    rise = np.sqrt(np.maximum(distance**2 - lateral**2, 0.0))
    below, above = lower.positions[:, 2], upper.positions[:, 2]
    return float((rise - (below.max() - below)[:, None] - (above - above.min())).max())


def bilayer(lower: Atoms, upper: Atoms, shift: Floats, contact: float) -> Atoms:
    """Return a bilayer in vacuum, with a lateral shift of the upper layer in A, ``(2,)``."""
    upper = _shifted(upper, shift)
    upper.positions[:, 2] += lower.positions[:, 2].max() - upper.positions[:, 2].min()
    upper.positions[:, 2] += interlayer_gap(lower, upper, contact)
    return center_in_vacuum(lower + upper)


def stack(lower: Atoms, upper: Atoms, shift: Floats, contact: float, rhombohedral: bool = False) -> Atoms:
    """Return a `bilayer` repeated along c; in a rhombohedral stack each further layer is shifted as well."""
    cell_shift = 2 * shift if rhombohedral else np.zeros(2)
    atoms = bilayer(lower, upper, shift, contact)
    gap = interlayer_gap(_shifted(upper, shift), _shifted(lower, cell_shift), contact)
    # The shortest of equivalent lattice vectors.
    vectors = atoms.cell.array[:2, :2]
    fractional = cell_shift @ np.linalg.inv(vectors)
    cell = atoms.cell.array.copy()
    cell[2] = *((fractional - np.round(fractional)) @ vectors), np.ptp(atoms.positions[:, 2]) + gap
    atoms.positions[:, 2] -= atoms.positions[:, 2].min()
    atoms.set_cell(cell)
    atoms.pbc = True
    return atoms


def _layer_sampler(rng: np.random.Generator, parents: Sequence[Atoms]) -> Callable[[], Atoms]:
    """Return a function that draws monolayers, with the prototype in ``info``."""
    sheets = standardize_monolayers(parents)
    for sheet in sheets:
        sheet.info["prototype"] = formula(sheet)
    sample = composition_sampler(rng, layered=True)

    def draw_layer() -> Atoms:
        if sheets:
            return sheets[rng.integers(len(sheets))]
        prototype, symbols = sample()
        factor = 1 + clipped_normal(rng, SPREAD, 2)
        sheet = scale_sheet(prototype.build(symbols), factor, factor)
        sheet.info["prototype"] = prototype.name
        return sheet

    return draw_layer


def _find_partner(
    lower: Atoms, draw_layer: Callable[[], Atoms], rng: np.random.Generator
) -> tuple[Atoms, Coincidence] | None:
    """Return the first layer of another kind with a coincidence; None after `PARTNERS` attempts."""
    for _ in range(PARTNERS):
        upper = draw_layer()
        if upper.get_chemical_formula() == lower.get_chemical_formula():
            continue
        if matches := find_coincidences(lower, upper):
            return upper, matches[rng.integers(len(matches))]
    return None


def _draw_registry(stacking: str, lower: Atoms, rng: np.random.Generator) -> tuple[str, Floats]:
    """Return the registry of two layers and its shift in units of the lower layer's lattice vectors."""
    if stacking == "registry" or (stacking == "hetero" and rng.random() < 0.5):
        registries = REGISTRIES[lattice_kind(lower)]
        name = list(registries)[rng.integers(len(registries))]
        return name, np.array(registries[name])
    return "slid", rng.random(2)


def _common_cell(lower: Atoms, upper: Atoms, match: Coincidence) -> tuple[Floats, float]:
    """Return the mean of two supercells, with a along x, and the larger strain."""
    cells = [
        _a_along_x(np.array(matrix) @ sheet.cell.array[:2, :2])
        for sheet, matrix in ((lower, match.lower), (upper, match.upper))
    ]
    common = (cells[0] + cells[1]) / 2
    stretches = [np.linalg.svd(np.linalg.solve(cell, common), compute_uv=False) for cell in cells]
    return common, float(np.abs(np.array(stretches) - 1).max())


def _a_along_x(vectors: Floats) -> Floats:
    """Rotate two vectors ``(2, 2)`` so that the first is along x."""
    a, b = vectors
    length = np.linalg.norm(a)
    return np.array([[length, 0.0], [a @ b / length, np.linalg.det(vectors) / length]])


def _supercell(m: int, n: int, kind: str) -> tuple[tuple[int, int], tuple[int, int]]:
    return ((m, n), (-n, m - n)) if kind == "hexagonal" else ((m, n), (-n, m))


def _shifted(layer: Atoms, shift: Floats) -> Atoms:
    new = layer.copy()
    new.positions[:, :2] += shift
    return new


@cache
def _vdw_radius(symbol: str) -> float:
    from pymatgen.core import Element

    return float(Element(symbol).van_der_waals_radius or 2.0)


def _vdw_radii(atoms: Atoms) -> Floats:
    return np.array([_vdw_radius(symbol) for symbol in atoms.symbols])
