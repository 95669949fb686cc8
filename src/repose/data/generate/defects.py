"""Candidates that are monolayers with point defects, as in the 2DMD data: MoS2, WSe2 and parents.

The unrelaxed structure is a perfect supercell with atoms taken out, exchanged or put on; nothing else moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repose.crystal.symmetry import find_space_group
from repose.data.candidates import Candidate
from repose.data.generate.sheet_prototypes import TRANSITION_METALS
from repose.data.generate.sheets import NONMETALS, similar
from repose.data.generate.slabs import Draft, as_monolayers, draw, formula, in_vacuum

if TYPE_CHECKING:
    from ase import Atoms

# Relaxed monolayers with PBE: lattice constant and thickness, A.
RELAXED = {"MoS2": (3.184, 3.127), "WSe2": (3.319, 3.358)}
# Supercells along each lattice vector, and how often each is taken.
SIZES = {3: 0.4, 4: 0.4, 5: 0.2}
# Parents with other cells are repeated to between so many atoms.
FEWEST_ATOMS, MOST_ATOMS = 27, 75
# How often there are one, two and three point defects, and of what kind they are.
COUNTS = {1: 0.2, 2: 0.4, 3: 0.4}
KINDS = {"vacancy": 0.45, "substitution": 0.45, "adatom": 0.1}
# Share of further defects that sit next to an earlier one, and how far that is at most (A): divacancies and
# the like would hardly ever come by chance.
CLUSTERED, NEXT_TO = 0.5, 3.6
DOPANTS = ("O", "S", "Se", "Te", "N", "P", "F", "Cl")
METAL_DOPANTS = ("Nb", "Re", "V", "W", "Mo", "Ti", "Cr", "Ta")
ADATOMS = ("O", "S", "Se", "N", "H", "Li")
# A vacancy, as an atomic number; an adatom's is counted in units beyond all elements.
VACANT, ADATOM = 0, 128


@dataclass(frozen=True, eq=False)
class Host:
    """A perfect supercell.

    Attributes:
        name: Formula of the sheet.
        size: Cells along a and b.
        atoms: The supercell, periodic along a and b.
    """

    name: str
    size: int
    atoms: Atoms

    @cached_property
    def permutations(self) -> NDArray[np.int64]:
        """Where each symmetry operation, translations among them, sends each site, ``(M, N)``."""
        atoms = self.atoms
        group = find_space_group(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, symprec=1e-2)
        return group.permutations

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        """Shortest distances between sites in A, ``(N, N)``."""
        return self.atoms.get_all_distances(mic=True)

    @cached_property
    def faces(self) -> NDArray[np.int64]:
        """1 for sites at the top of the sheet, -1 at its bottom, 0 between, ``(N,)``."""
        z = self.atoms.positions[:, 2]
        return np.where(z > z.max() - 0.1, 1, np.where(z < z.min() + 0.1, -1, 0))


def candidates(n: int, rng: np.random.Generator, parents: Sequence[Atoms] = ()) -> Iterator[Candidate]:
    """Supercells of monolayers with one to three point defects, no two of them equivalent by symmetry.

    Defects are vacancies, substitutions (of nonmetals by `DOPANTS`, of transition metals by `METAL_DOPANTS`,
    of other elements by similar ones) and adatoms on top of outer atoms. Tags: ``prototype`` and ``host``
    (formula), ``supercell`` (``4x4``), ``defect`` (``Nb_Mo+vac_S``; an adatom is ``O@S``), ``defects`` (how
    many).

    Args:
        n: How many; the first k do not depend on it.
        rng: Source of all randomness.
        parents: Relaxed monolayers; MoS2 and WSe2 as relaxed with PBE if empty.

    Yields:
        Candidates.

    Raises:
        InvalidCrystalError: A parent is no monolayer.
        DatasetError: There are no further candidates that differ.
    """
    hosts: dict[tuple[int, int], Host] = {}
    sheets = as_monolayers(parents) or [_relaxed(name) for name in RELAXED]
    seen: set[tuple[int, int, bytes]] = set()

    def attempt() -> Draft | None:
        which = int(rng.integers(len(sheets)))
        size = _size(sheets[which], rng)
        if (which, size) not in hosts:
            hosts[which, size] = Host(formula(sheets[which]), size, sheets[which].repeat((size, size, 1)))
        host = hosts[which, size]
        states, names = _defects(host, rng)
        if not names or (key := (which, size, canonical(states, host.permutations))) in seen:
            return None
        seen.add(key)
        tags = {
            "prototype": host.name,
            "host": host.name,
            "supercell": f"{size}x{size}",
            "defect": "+".join(sorted(names)),
            "defects": str(len(names)),
        }
        return defective(host, states), tags

    return draw(n, "defect", attempt)


def canonical(states: NDArray[np.int64], permutations: NDArray[np.int64]) -> bytes:
    """The same for states of sites that a symmetry operation turns into each other, else different.

    Args:
        states: What is at every site, ``(N,)``.
        permutations: Of the perfect crystal, ``(M, N)``.
    """
    images = np.empty_like(permutations)
    np.put_along_axis(images, permutations, np.broadcast_to(states, permutations.shape), axis=1)
    return min(image.tobytes() for image in images.astype(np.int16))


def defective(host: Host, states: NDArray[np.int64]) -> Atoms:
    """The crystal of a host with a state at every site.

    Args:
        host: A perfect supercell.
        states: Atomic number or `VACANT`, plus `ADATOM` times that of an atom on top, ``(N,)``.
    """
    from ase import Atom
    from ase.data import chemical_symbols, covalent_radii

    atoms = host.atoms.copy()
    numbers, adatoms = states % ADATOM, states // ADATOM
    atoms.numbers = numbers
    for site in np.flatnonzero(adatoms):
        height = covalent_radii[numbers[site]] + covalent_radii[adatoms[site]]
        up = np.array([0.0, 0.0, host.faces[site] * height])
        atoms.append(Atom(chemical_symbols[adatoms[site]], atoms.positions[site] + up))
    del atoms[[k for k in range(len(numbers)) if numbers[k] == VACANT]]
    return in_vacuum(atoms)


def _relaxed(name: str) -> Atoms:
    from ase.build import mx2

    a, thickness = RELAXED[name]
    return in_vacuum(mx2(name, "2H", a=a, thickness=thickness))


def _size(sheet: Atoms, rng: np.random.Generator) -> int:
    """Cells along a and b: of `SIZES` if one fits, else whatever comes closest to the fewest atoms."""
    fitting = {s: p for s, p in SIZES.items() if FEWEST_ATOMS <= s * s * len(sheet) <= MOST_ATOMS}
    if not fitting:
        return max(1, round((FEWEST_ATOMS / len(sheet)) ** 0.5))
    shares = np.array(list(fitting.values()))
    return int(rng.choice(list(fitting), p=shares / shares.sum()))


def _defects(host: Host, rng: np.random.Generator) -> tuple[NDArray[np.int64], list[str]]:
    """States of all sites after one to three defects, and these by name; none where the draw is void."""
    from ase.data import chemical_symbols

    perfect = host.atoms.numbers
    states = perfect.astype(np.int64)
    names: list[str] = []
    touched: list[int] = []
    count, kinds = rng.choice(list(COUNTS), p=list(COUNTS.values())), list(KINDS)
    for _ in range(count):
        free = np.setdiff1d(np.arange(len(perfect)), touched)
        if touched and rng.random() < CLUSTERED:
            free = free[(host.distances[free][:, touched] < NEXT_TO).any(axis=1)]
        kind = kinds[rng.choice(len(kinds), p=list(KINDS.values()))]
        if kind == "adatom":
            free = free[host.faces[free] != 0]
        if not len(free):
            return states, []
        # First the element, then the site: as many defects of metals as of the more numerous anions.
        element = rng.choice(np.unique(perfect[free]))
        site = int(rng.choice(free[perfect[free] == element]))
        touched.append(site)
        here = chemical_symbols[element]
        if kind == "vacancy":
            states[site] = VACANT
            names.append(f"vac_{here}")
        elif kind == "substitution":
            new = int(rng.choice(_dopants(int(element))))
            states[site] = new
            names.append(f"{chemical_symbols[new]}_{here}")
        else:
            new = int(rng.choice(_numbers(ADATOMS)))
            states[site] += ADATOM * new
            names.append(f"{chemical_symbols[new]}@{here}")
    return states, names


def _dopants(element: int) -> NDArray[np.int64]:
    """Elements that may stand in for one."""
    from ase.data import chemical_symbols

    symbol = chemical_symbols[element]
    if symbol in NONMETALS:
        found = _numbers(DOPANTS)
    elif symbol in TRANSITION_METALS:
        found = _numbers(METAL_DOPANTS)
    else:
        found = similar(element)
    return found[found != element]


def _numbers(symbols: Sequence[str]) -> NDArray[np.int64]:
    from ase.data import atomic_numbers

    return np.array([atomic_numbers[symbol] for symbol in symbols])
