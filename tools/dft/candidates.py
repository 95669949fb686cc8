"""Write small symmetric crystals of many chemistries, for labelling with DFT on a small machine.

    .venv/bin/python tools/dft/candidates.py OUT [--count 400] [--seed 0]

Two to six atoms in simple structure types: salts with closed shells, balanced charges and radii that fit the
type, and some intermetallics. Magnetic metals (Cr to Ni), lanthanides except La, and actinides are left out,
since the calculator has no spin. Cells come from tabulated radii and are strained by some percent, and atoms
are displaced, as far as the space group allows, since symmetry makes calculations cheap. Cheap crystals come
first and chemistries alternate, so that any finished part of the list is a useful dataset. Chemical systems
that the usual split (80/10/10, seed 0) assigns to the test are preferred, since a tenth of a small dataset is
too small for a test. Needs GPAW for its numbers of valence electrons.
"""

from __future__ import annotations

import argparse
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import kptdensity2monkhorstpack
from ase.data import atomic_numbers, chemical_symbols
from pymatgen.core import Element, Species

from repose.crystal.symmetry import find_space_group, symmetrise
from repose.data.candidates import Candidate, CandidatesInfo, write_candidates
from repose.data.dataset import Pair
from repose.data.generate.prototypes import Prototype, aflow_prototypes
from repose.data.splits import GroupSplit

CATIONS = {
    1: "Li Na K Rb Cs Cu Ag Tl",
    2: "Be Mg Ca Sr Ba Zn Cd Hg Sn Pb",
    3: "B Al Ga In Sc Y La Bi",
    4: "Si Ge Sn Ti Zr Hf",
    5: "V Nb Ta",
    6: "Mo W",
}
# Radii of anions in A, for six neighbours; those of charges 3 and 4 from rock salts and antifluorites.
ANIONS = {
    -1: {"H": 1.35, "F": 1.33, "Cl": 1.81, "Br": 1.96, "I": 2.20},
    -2: {"O": 1.40, "S": 1.84, "Se": 1.98, "Te": 2.21},
    -3: {"N": 1.46, "P": 1.92, "As": 2.00, "Sb": 2.18, "Bi": 2.25},
    -4: {"C": 1.58, "Si": 2.05, "Ge": 2.10, "Sn": 2.25},
}
METALS = (
    "Li Mg Al Ca Sc Ti Zn Ga Sr Y Zr Nb Mo Rh Pd Ag Cd In Sn La Hf Ta W Ir Pt Au Tl Pb Cu Bi"  # no magnets
)


@dataclass(frozen=True)
class Kind:
    """A structure type and the elements that it may have.

    Attributes:
        name: Name of the type.
        label: Label of the prototype in the library.
        charges: Allowed charges of each species, in the order of the letters of the label; empty for
            intermetallics.
        ratio: Range of the ratio of the radii of cation and anion, or of the first metal and the others.
        share: Relative frequency.
    """

    name: str
    label: str
    charges: tuple[tuple[int, ...], ...] = ()
    ratio: tuple[float, float] = (0.0, 9.0)
    share: float = 1.0


ANY_ANION = (-4, -3, -2, -1)
KINDS = [
    Kind("rock salt", "AB_cF8_225_a_b", (ANY_ANION, (1, 2, 3, 4)), (0.32, 1.1), 2.5),
    Kind("CsCl", "AB_cP2_221_b_a", (ANY_ANION, (1, 2, 3)), (0.6, 1.5)),
    Kind("zinc blende", "AB_cF8_216_c_a", (ANY_ANION, (1, 2, 3, 4)), (0.1, 0.56), 2.5),
    Kind("wurtzite", "AB_hP4_186_b_b", (ANY_ANION, (1, 2, 3, 4)), (0.1, 0.56)),
    Kind("NiAs", "AB_hP4_194_c_a", ((-3, -2), (2, 3)), (0.3, 0.7), 0.5),
    Kind("fluorite", "AB2_cF12_225_a_c", ((2, 4), (-1, -2)), (0.5, 1.2), 1.5),
    Kind("antifluorite", "AB2_cF12_225_a_c", ((-4, -2), (1, 2)), (0.2, 1.0), 1.5),
    Kind("half-Heusler", "ABC_cF12_216_b_c_a", ((1, 2), (2,), (-3,)), (0.2, 0.9), 1.5),
    Kind("half-Heusler", "ABC_cF12_216_b_c_a", ((1,), (3,), (-4,)), (0.2, 0.9), 0.5),
    Kind("perovskite", "AB3C_cP5_221_a_c_b", ((1, 2, 3), (-1, -2), (2, 3, 4, 5)), (0.4, 1.6), 2.0),
    Kind("antiperovskite", "AB3C_cP5_221_a_c_b", ((-4, -3), (2,), (-3, -2)), (0.3, 1.0), 0.7),
    Kind("ReO3", "A3B_cP4_221_d_a", ((-1, -2), (3, 6)), (0.35, 0.9)),
    Kind("BiF3", "AB3_cF16_225_a_bc", ((-3,), (1,)), (0.3, 0.9)),
    Kind("elpasolite", "AB2C_cF16_225_a_c_b", ((1,), (1,), (-3,)), (0.3, 0.9), 0.5),
    Kind("rutile", "A2B_tP6_136_f_a", ((-1, -2), (2, 4)), (0.25, 0.75)),
    Kind("delafossite", "ABC2_hR4_166_a_b_c", ((3,), (1,), (-2,)), (0.3, 0.9), 1.5),
    Kind("litharge", "AB_tP4_129_a_c", ((-2,), (2,)), (0.5, 1.0), 0.3),
    Kind("cuprite", "A2B_cP6_224_b_a", ((1,), (-2,)), (0.2, 1.0), 0.4),
    Kind("L1_0", "AB_tP2_123_a_d", (), (0.8, 1.25), 1.5),
    Kind("L1_2", "AB3_cP4_221_a_c", (), (0.8, 1.25), 1.5),
    Kind("B2", "AB_cP2_221_b_a", (), (0.75, 1.33), 1.5),
    Kind("D0_22", "A3B_tI8_139_bd_a", (), (0.8, 1.25), 0.5),
    Kind("C11_b", "AB2_tI6_139_a_e", (), (0.8, 1.25), 0.5),
    Kind("Heusler", "AB2C_cF16_225_a_c_b", (), (0.75, 1.33), 1.0),
]
# Radii that Shannon did not tabulate for six neighbours.
MISSING = {("Sn", 2): 1.18, ("Sb", 3): 0.76}
# Volume of a metal atom in a compound over that in the element.
CONTRACTION = 0.93
# Standard deviations: of the lattice constants as a whole, of each strain that symmetry allows, and of
# displacements in A.
SPREAD, STRAIN, RATTLE = 0.03, 0.02, 0.06
# Initial counts of uses of the cheapest elements, so that hydrides and beryllium are rare.
CHEAP = {"H": 10, "Be": 5}
# Most crystals with the same elements, and most choices that are tried for each kind.
SAME_ELEMENTS, CHOICES = 2, 150
LARGEST_COST = 40.0
# Wanted shares of the splits.
SPLIT_SHARES = {"train": 0.6, "val": 0.1, "test": 0.3}


@cache
def ionic_radius(symbol: str, charge: int) -> float:
    """Return the radius in A of an ion with six neighbours."""
    if charge < 0:
        return ANIONS[charge][symbol]
    if (symbol, charge) in MISSING:
        return MISSING[symbol, charge]
    return float(Species(symbol, charge).get_shannon_radius("VI", radius_type="ionic"))


@cache
def atomic_volume(symbol: str) -> float:
    """Return the volume in A^3 of an atom in the element."""
    return float(Element(symbol).molar_volume) / 0.602214


@cache
def valence(symbol: str) -> int:
    """Return the number of electrons that GPAW treats as valence."""
    from gpaw.setup_data import SetupData

    return int(SetupData(symbol, "PBE").Nv)


def choices(kind: Kind, prototype: Prototype) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Yield elements and charges for the species of a type; charges of metals are zero."""
    if not kind.charges:
        for symbols in itertools.permutations(METALS.split(), len(prototype.counts)):
            sizes = [math.cbrt(atomic_volume(s)) for s in symbols]
            if all(kind.ratio[0] <= sizes[0] / size <= kind.ratio[1] for size in sizes[1:]):
                yield symbols, (0,) * len(symbols)
        return
    for charges in itertools.product(*kind.charges):
        if np.dot(charges, prototype.counts) != 0:
            continue
        elements = [list(ANIONS[c]) if c < 0 else CATIONS[c].split() for c in charges]
        for symbols in itertools.product(*elements):
            radii = {c > 0: [] for c in charges}
            for symbol, charge in zip(symbols, charges, strict=True):
                radii[charge > 0].append(ionic_radius(symbol, charge))
            ratios = [cation / anion for cation in radii[True] for anion in radii[False]]
            fits = all(kind.ratio[0] <= ratio <= kind.ratio[1] for ratio in ratios)
            if len(set(symbols)) == len(symbols) and fits and tolerable(kind, symbols, charges):
                yield symbols, charges


def tolerable(kind: Kind, symbols: tuple[str, ...], charges: tuple[int, ...]) -> bool:
    """Check Goldschmidt's tolerance factor of perovskites; A is the larger cation."""
    if kind.name != "perovskite":
        return True
    a, x, b = (ionic_radius(s, c) for s, c in zip(symbols, charges, strict=True))
    # 0.16 A: from six to twelve neighbours.
    return a > b and 0.82 <= (a + 0.16 + x) / (math.sqrt(2) * (b + x)) <= 1.08


def ideal_crystal(prototype: Prototype, symbols: tuple[str, ...], charges: tuple[int, ...]) -> Atoms:
    """Return the ideal crystal with a volume from tabulated radii or, for metals, volumes."""
    numbers = [atomic_numbers[s] for s in symbols]
    if not any(charges):
        counts = prototype.counts
        volume = sum(n * atomic_volume(s) for n, s in zip(counts, symbols, strict=True))
        return prototype.decorate(numbers, CONTRACTION * volume)
    # In a cell of volume 1 all bonds are shorter than 1.
    atoms = prototype.decorate(numbers, 1.0)
    tiled = atoms.repeat(5)
    centre = tiled.positions.reshape(125, len(atoms), 3)[62]
    charge = np.array(charges)[prototype.species]
    scales = []
    for k in np.flatnonzero(charge > 0):
        others = np.tile(charge, 125) < 0
        distance = np.linalg.norm(tiled.positions[others] - centre[k], axis=1)
        near = distance < 1.15 * distance.min()
        neighbour = chemical_symbols[tiled.numbers[others][distance.argmin()]]
        anion = ionic_radius(neighbour, int(np.tile(charge, 125)[others][distance.argmin()]))
        bond = ionic_radius(atoms.symbols[k], int(charge[k])) + anion
        # Born and Pauling: more neighbours, longer bonds.
        scales.append(bond * (near.sum() / 6) ** 0.125 / distance[near].mean())
    return prototype.decorate(numbers, float(np.mean(scales)) ** 3)


def unrelaxed(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Return a copy with random strain and displacements that keep the space group."""
    cell, positions = atoms.cell.array, atoms.positions
    group = find_space_group(atoms.numbers, positions, cell, atoms.pbc)
    strain = rng.normal(0.0, STRAIN, (3, 3))
    size = 1 + np.clip(rng.normal(0.0, SPREAD), -2.5 * SPREAD, 2.5 * SPREAD)
    new_cell = size * cell @ (np.eye(3) + (strain + strain.T) / 2)
    moved = atoms.get_scaled_positions(wrap=False) @ new_cell + rng.normal(0.0, RATTLE, positions.shape)
    new_positions, new_cell = symmetrise(group, positions, cell, moved, new_cell)
    return Atoms(atoms.numbers, new_positions, cell=new_cell, pbc=True)


def cost(atoms: Atoms) -> float:
    """Return the expected cost of one energy in arbitrary units: irreducible k-points, plane waves, bands."""
    from spglib import get_ir_reciprocal_mesh

    crystal = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    _, points = get_ir_reciprocal_mesh(kptdensity2monkhorstpack(atoms, 3.5, even=False), crystal)
    bands = sum(valence(s) for s in atoms.symbols) / 2 + 4
    return len(np.unique(points)) * atoms.get_volume() * bands / 1e4


@dataclass(frozen=True)
class Offer:
    """A candidate with its elements, the split that they belong to, and its expected cost."""

    candidate: Candidate
    elements: frozenset[str]
    split: str
    cost: float


def offers(rng: np.random.Generator) -> Iterator[Offer]:
    """Yield crystals of all kinds."""
    prototypes = {prototype.label: prototype for prototype in aflow_prototypes()}
    for kind in KINDS:
        prototype = prototypes[kind.label]
        found = list(choices(kind, prototype))
        for k in rng.permutation(len(found))[:CHOICES]:
            symbols, charges = found[k]
            atoms = unrelaxed(ideal_crystal(prototype, symbols, charges), rng)
            if (expected := cost(atoms)) > LARGEST_COST:
                continue
            name = f"{atoms.get_chemical_formula('metal', empirical=True)}-{kind.name}".replace(" ", "-")
            chemistry = "salt" if any(charges) else "metal"
            tags = {"prototype": kind.name, "label": kind.label, "chemistry": chemistry}
            made = Candidate.from_atoms(name, atoms, tags)
            where = made.positions, made.cell
            split = GroupSplit()(Pair(name, made.numbers, made.pbc, *where, *where))
            yield Offer(made, frozenset(symbols), split, expected)


def ordered(left: list[Offer], count: int) -> Iterator[Candidate]:
    """Yield cheap offers first, and prefer elements and kinds that are rare so far."""
    used, systems, splits = Counter[str](CHEAP), Counter[frozenset[str]](), Counter[str]()
    shares = {kind.name: kind.share for kind in KINDS}

    def price(offer: Offer) -> float:
        name = offer.candidate.tags["prototype"]
        seen = math.prod(1 + 0.3 * used[e] for e in offer.elements) ** (1 / len(offer.elements))
        return math.sqrt(offer.cost) * seen * (1 + used[name] / shares[name])

    for done in range(count):
        # Fill the split that is furthest below its share.
        want = max(SPLIT_SHARES, key=lambda split: SPLIT_SHARES[split] * (done + 1) - splits[split])
        able = [offer for offer in left if offer.split == want] or left
        if not able:
            return
        best = min(able, key=price)
        systems[best.elements] += 1
        splits[best.split] += 1
        used.update([best.candidate.tags["prototype"], *best.elements])
        full = systems[best.elements] >= SAME_ELEMENTS
        left = [o for o in left if o is not best and not (full and o.elements == best.elements)]
        yield best.candidate


def main() -> None:
    """Write the candidates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # pymatgen warns of every missing property
    made = {offer.candidate.id: offer for offer in offers(np.random.default_rng(given.seed))}
    info = CandidatesInfo(
        preset="small-symmetric", seed=given.seed, source="prototypes of AFLOW", licence="MIT"
    )
    info = write_candidates(given.out, info, ordered(list(made.values()), given.count))
    print(f"{info.count} of {len(made)} candidates in {given.out}")


if __name__ == "__main__":
    main()
