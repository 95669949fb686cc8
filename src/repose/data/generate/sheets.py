"""Preset of monolayers, as in C2DB: decorated prototypes, or parents with substituted elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repose.data.candidates import Candidate
from repose.data.generate.monolayers import Symbols
from repose.data.generate.sheet_prototypes import METALS, MonolayerPrototype, monolayer_prototypes
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

# Standard deviations of the scale factors in the plane and across it.
SPREAD, SPREAD_ACROSS = 0.035, 0.03
# Fraction of distorted sheets, standard deviation of the strain, range of that of displacements (A).
DISTORTED, STRAIN, RATTLE = 0.65, 0.015, (0.02, 0.10)
# Normally distributed numbers are clipped at so many standard deviations.
LIMIT = 2.5
# Number of most similar elements that may replace an element.
SIMILAR = 6
NONMETALS = tuple("B C N O F Si P S Cl As Se Br Te I".split())  # noqa: SIM905  (fourteen lines otherwise)


def candidates(n: int, rng: np.random.Generator, parents: Sequence[Atoms] = ()) -> Iterator[Candidate]:
    """Make monolayers with vacuum along c, periodic along a and b.

    Without parents, a composition of a prototype is repeated only after all of its compositions. Tags:
    ``prototype``, ``formula``, ``made`` (``prototype`` or ``substitution``), ``start`` (``ideal`` or
    ``distorted``), and for substitutions ``substituted`` (``Mo>W``).

    Args:
        n: Number of candidates; the first k do not depend on it.
        rng: Random number generator.
        parents: Monolayers to substitute elements in; prototypes are decorated if there are none.

    Yields:
        Candidates.

    Raises:
        InvalidCrystalError: A parent is not a monolayer.
        DatasetError: Too few candidates can be made of the parents.
    """
    sheets = standardize_monolayers(parents)
    sample = composition_sampler(rng)

    def draw() -> TrialStructure | None:
        if sheets:
            substituted = _substitute(sheets[rng.integers(len(sheets))], rng)
            if substituted is None:
                return None
            atoms, tags = substituted.atoms, substituted.tags
        else:
            prototype, symbols = sample()
            atoms, tags = prototype.build(symbols), {"prototype": prototype.name, "made": "prototype"}
        in_plane, across = (1 + clipped_normal(rng, spread, LIMIT) for spread in (SPREAD, SPREAD_ACROSS))
        atoms = scale_sheet(atoms, in_plane, across)
        distorted = rng.random() < DISTORTED
        if distorted:
            atoms = _distort(atoms, rng)
        start = "distorted" if distorted else "ideal"
        return TrialStructure(center_in_vacuum(atoms), {**tags, "formula": formula(atoms), "start": start})

    return draw_candidates(n, "sheet", draw)


def composition_sampler(
    rng: np.random.Generator, layered: bool = False
) -> Callable[[], tuple[MonolayerPrototype, Symbols]]:
    """Return a function that draws a prototype and its elements.

    A composition of a prototype is repeated only after all of its compositions.

    Args:
        rng: Random number generator.
        layered: Skip prototypes that do not stack by van der Waals forces.
    """
    prototypes = [p for p in monolayer_prototypes().values() if p.layered or not layered]
    # A compromise between equal weights of prototypes and equal weights of compositions.
    weights = np.sqrt([len(p.compositions) for p in prototypes])
    remaining: dict[str, list[int]] = {p.name: [] for p in prototypes}

    def sample() -> tuple[MonolayerPrototype, Symbols]:
        prototype = prototypes[rng.choice(len(prototypes), p=weights / weights.sum())]
        indices = remaining[prototype.name]
        if not indices:
            indices.extend(rng.permutation(len(prototype.compositions)).tolist())
        return prototype, prototype.compositions[indices.pop()]

    return sample


def scale_sheet(atoms: Atoms, in_plane: float, across: float) -> Atoms:
    """Return a copy of a sheet scaled in its plane and across it; the height of the cell does not change."""
    new = atoms.copy()
    center = atoms.cell.array[2] / 2
    new.positions = (atoms.positions - center) * [in_plane, in_plane, across] + center
    new.set_cell(atoms.cell.array * [[in_plane], [in_plane], [1.0]])
    return new


def _distort(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Return a copy that is strained in its plane and rattled."""
    deformation = np.eye(3)
    xx, yy, xy = (clipped_normal(rng, STRAIN, LIMIT) for _ in range(3))
    deformation[:2, :2] += [[xx, xy], [xy, yy]]
    new = atoms.copy()
    new.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    new.positions += rng.normal(0.0, rng.uniform(*RATTLE), new.positions.shape)
    return new


def _substitute(parent: Atoms, rng: np.random.Generator) -> TrialStructure | None:
    """Replace one or two elements of a sheet by similar ones; None if two elements become equal."""
    from ase.data import chemical_symbols, covalent_radii

    present = sorted(set(parent.numbers.tolist()))
    count = min(len(present), 1 + int(rng.integers(2)))
    atoms, replaced = parent.copy(), []
    for old in rng.choice(present, count, replace=False):
        new = int(rng.choice(similar_elements(int(old))))
        if new in atoms.numbers:
            return None
        atoms.numbers[parent.numbers == old] = new
        replaced.append(f"{chemical_symbols[old]}>{chemical_symbols[new]}")
    # Bond lengths are assumed to scale with the sum of the covalent radii.
    factor = float(covalent_radii[atoms.numbers].sum() / covalent_radii[parent.numbers].sum())
    tags = {"prototype": formula(parent), "made": "substitution", "substituted": "+".join(sorted(replaced))}
    return TrialStructure(scale_sheet(atoms, factor, factor), tags)


@cache
def similar_elements(number: int) -> NDArray[np.int64]:
    """Return the atomic numbers closest in Pettifor's order; metals for metals, else nonmetals."""
    from ase.data import atomic_numbers, chemical_symbols
    from pymatgen.core import Element

    symbol = chemical_symbols[number]
    order = {s: Element(s).mendeleev_no or 0.0 for s in (*METALS, *NONMETALS, symbol)}
    pool = {*(NONMETALS if symbol in NONMETALS else METALS)} - {symbol}
    closest = sorted(pool, key=lambda s: (abs(order[s] - order[symbol]), s))[:SIMILAR]
    return np.array([atomic_numbers[s] for s in closest])
