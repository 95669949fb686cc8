"""Candidates that are monolayers, as in C2DB: elements by role in prototypes, or substituted in parents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repose.data.candidates import Candidate
from repose.data.generate.sheet_prototypes import METALS, Prototype, compositions, prototypes
from repose.data.generate.slabs import Draft, as_monolayers, draw, formula, in_vacuum

if TYPE_CHECKING:
    from ase import Atoms

# Standard deviations by which a sheet comes out too large or too small in its plane, and too thick or thin.
SPREAD, SPREAD_ACROSS = 0.035, 0.03
# Share that is strained and rattled besides; standard deviation of a strain component, and range of that of
# a displacement (A).
DISTORTED, STRAIN, RATTLE = 0.65, 0.015, (0.02, 0.10)
# No draw is farther from the mean, in standard deviations.
FARTHEST = 2.5
# How many elements are similar enough to one to take its place.
SIMILAR = 6
NONMETALS = tuple("B C N O F Si P S Cl As Se Br Te I".split())  # noqa: SIM905  (fourteen lines otherwise)


def candidates(n: int, rng: np.random.Generator, parents: Sequence[Atoms] = ()) -> Iterator[Candidate]:
    """Monolayers with vacuum along c, periodic along a and b.

    Without parents every composition of a prototype comes once before any comes twice. Tags are
    ``prototype``, ``formula``, ``made`` (``prototype`` or ``substitution``) and ``start`` (``ideal`` or
    ``distorted``); of substituted ones also ``substituted`` (``Mo>W``).

    Args:
        n: How many; the first k do not depend on it.
        rng: Source of all randomness.
        parents: Monolayers in which to substitute elements, scaled by their radii; all prototypes if empty.

    Yields:
        Candidates.

    Raises:
        InvalidCrystalError: A parent is no monolayer.
        DatasetError: Nothing can be made of the parents.
    """
    sheets = as_monolayers(parents)
    compose = composer(rng)

    def attempt() -> Draft | None:
        if sheets:
            made = _substituted(sheets[rng.integers(len(sheets))], rng)
            if made is None:
                return None
            atoms, tags = made
        else:
            prototype, symbols = compose()
            atoms, tags = prototype.build(symbols), {"prototype": prototype.name, "made": "prototype"}
        atoms = scaled(atoms, 1 + _normal(rng, SPREAD), 1 + _normal(rng, SPREAD_ACROSS))
        distorted = rng.random() < DISTORTED
        if distorted:
            atoms = _distorted(atoms, rng)
        atoms = in_vacuum(atoms)
        return atoms, {**tags, "formula": formula(atoms), "start": "distorted" if distorted else "ideal"}

    return draw(n, "sheet", attempt)


def composer(
    rng: np.random.Generator, layered: bool = False
) -> Callable[[], tuple[Prototype, tuple[str, ...]]]:
    """A draw of prototypes and elements that repeats a composition only when all have come.

    Args:
        rng: Source of randomness.
        layered: Leave out prototypes that do not stack by van der Waals forces.
    """
    able = [p for p in prototypes().values() if p.layered or not layered]
    # Neither do those with many compositions leave no room for the others, nor come the few ever again.
    weights = np.sqrt([len(compositions(p.name)) for p in able])
    waiting: dict[str, list[int]] = {p.name: [] for p in able}

    def compose() -> tuple[Prototype, tuple[str, ...]]:
        prototype = able[rng.choice(len(able), p=weights / weights.sum())]
        left = waiting[prototype.name]
        if not left:
            left.extend(rng.permutation(len(compositions(prototype.name))).tolist())
        return prototype, compositions(prototype.name)[left.pop()]

    return compose


def scaled(atoms: Atoms, within: float, across: float) -> Atoms:
    """A copy of a sheet, its plane scaled by one factor, its thickness by another; the vacuum stays."""
    moved = atoms.copy()
    middle = atoms.cell.array[2] / 2
    moved.positions = (atoms.positions - middle) * [within, within, across] + middle
    moved.set_cell(atoms.cell.array * [[within], [within], [1.0]])
    return moved


def _normal(rng: np.random.Generator, deviation: float) -> float:
    return float(np.clip(rng.normal(), -FARTHEST, FARTHEST) * deviation)


def _distorted(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Strained in its plane, and rattled."""
    strain = np.eye(3)
    xx, yy, xy = (_normal(rng, STRAIN) for _ in range(3))
    strain[:2, :2] += [[xx, xy], [xy, yy]]
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    moved.positions += rng.normal(0.0, rng.uniform(*RATTLE), moved.positions.shape)
    return moved


def _substituted(parent: Atoms, rng: np.random.Generator) -> Draft | None:
    """One or two elements of a sheet replaced by similar ones; None where two would become the same."""
    from ase.data import chemical_symbols, covalent_radii

    present = sorted(set(parent.numbers.tolist()))
    count = min(len(present), 1 + int(rng.integers(2)))
    atoms, replaced = parent.copy(), []
    for old in rng.choice(present, count, replace=False):
        new = int(rng.choice(similar(int(old))))
        if new in atoms.numbers:
            return None
        atoms.numbers[parent.numbers == old] = new
        replaced.append(f"{chemical_symbols[old]}>{chemical_symbols[new]}")
    # Bonds are sums of radii: with as many atoms of each kind in both, they scale with the sums of all.
    factor = float(covalent_radii[atoms.numbers].sum() / covalent_radii[parent.numbers].sum())
    tags = {
        "prototype": formula(parent),
        "made": "substitution",
        "substituted": "+".join(sorted(replaced)),
    }
    return scaled(atoms, factor, factor), tags


@cache
def similar(number: int) -> NDArray[np.int64]:
    """Atomic numbers next to one in Pettifor's order; metals for metals, nonmetals for others."""
    from ase.data import atomic_numbers, chemical_symbols
    from pymatgen.core import Element

    pool = NONMETALS if chemical_symbols[number] in NONMETALS else METALS
    order = {s: Element(s).mendeleev_no or 0.0 for s in (*pool, chemical_symbols[number])}
    place = order.pop(chemical_symbols[number])
    nearest = sorted(order, key=lambda s: (abs(order[s] - place), s))[:SIMILAR]
    return np.array([atomic_numbers[s] for s in nearest])
