"""Preset of monolayers with point defects, as in the 2DMD data: MoS2, WSe2, or parents.

The unrelaxed structure is a perfect supercell with atoms removed, replaced or added; no atom is displaced.
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
from repose.data.generate.sheets import NONMETALS, similar_elements
from repose.data.generate.slabs import center_in_vacuum, draw_candidates, formula, standardize_monolayers
from repose.data.generate.structure_builder import TrialStructure

if TYPE_CHECKING:
    from ase import Atoms

# Lattice constant and thickness (A) of monolayers relaxed with PBE.
RELAXED = {"MoS2": (3.184, 3.127), "WSe2": (3.319, 3.358)}
# Probabilities of the number of cells along each lattice vector.
SIZES = {3: 0.4, 4: 0.4, 5: 0.2}
# Range of the number of atoms in a supercell.
MIN_ATOMS, MAX_ATOMS = 27, 75
# Probabilities of the number of point defects, and of their kinds.
COUNTS = {1: 0.2, 2: 0.4, 3: 0.4}
KINDS = {"vacancy": 0.45, "substitution": 0.45, "adatom": 0.1}
# Fraction of further defects that are next to an earlier one, and the maximum distance of the two (A).
# Otherwise clusters such as divacancies would be rare.
CLUSTERED, NEIGHBOUR_DISTANCE = 0.5, 3.6
DOPANTS = ("O", "S", "Se", "Te", "N", "P", "F", "Cl")
METAL_DOPANTS = ("Nb", "Re", "V", "W", "Mo", "Ti", "Cr", "Ta")
ADATOMS = ("O", "S", "Se", "N", "H", "Li")
# Occupation of a site: an atomic number or `VACANCY`, plus `ADATOM` times the atomic number of an adatom.
VACANCY, ADATOM = 0, 128


@dataclass(frozen=True, eq=False)
class Host:
    """A perfect supercell of N atoms.

    Attributes:
        name: Formula of the sheet.
        atoms: The supercell, periodic along a and b.
    """

    name: str
    atoms: Atoms

    @cached_property
    def permutations(self) -> NDArray[np.int64]:
        """Image of each site under each symmetry operation, translations included, ``(M, N)``."""
        atoms = self.atoms
        group = find_space_group(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, symprec=1e-2)
        return group.permutations

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        """Shortest distances between sites in A, ``(N, N)``."""
        return self.atoms.get_all_distances(mic=True)

    @cached_property
    def faces(self) -> NDArray[np.int64]:
        """1 for sites at the top of the sheet, -1 at the bottom, 0 between, ``(N,)``."""
        z = self.atoms.positions[:, 2]
        return np.where(z > z.max() - 0.1, 1, np.where(z < z.min() + 0.1, -1, 0))


def candidates(n: int, rng: np.random.Generator, parents: Sequence[Atoms] = ()) -> Iterator[Candidate]:
    """Make supercells of monolayers with one to three point defects, all inequivalent by symmetry.

    Defects are vacancies, substitutions (of nonmetals by `DOPANTS`, of transition metals by `METAL_DOPANTS`,
    of other elements by similar ones) and adatoms on top of surface atoms. Tags: ``prototype`` and ``host``
    (formula), ``supercell`` (``4x4``), ``defect`` (``Nb_Mo+vac_S``; adatoms are ``O@S``) and ``defects``
    (their number).

    Args:
        n: Number of candidates; the first k do not depend on it.
        rng: Random number generator.
        parents: Relaxed monolayers; MoS2 and WSe2 relaxed with PBE if there are none.

    Yields:
        Candidates.

    Raises:
        InvalidCrystalError: A parent is not a monolayer.
        DatasetError: There are fewer inequivalent candidates.
    """
    sheets = standardize_monolayers(parents) or [_mx2_monolayer(name) for name in RELAXED]
    hosts: dict[tuple[int, int], Host] = {}
    seen: set[tuple[int, int, bytes]] = set()

    def draw() -> TrialStructure | None:
        index = int(rng.integers(len(sheets)))
        sheet = sheets[index]
        size = _draw_size(sheet, rng)
        if (index, size) not in hosts:
            hosts[index, size] = Host(formula(sheet), sheet.repeat((size, size, 1)))
        host = hosts[index, size]
        occupations, names = _draw_defects(host, rng)
        if not names or (key := (index, size, canonical_key(occupations, host.permutations))) in seen:
            return None
        seen.add(key)
        tags = {
            "prototype": host.name,
            "host": host.name,
            "supercell": f"{size}x{size}",
            "defect": "+".join(sorted(names)),
            "defects": str(len(names)),
        }
        return TrialStructure(build_defects(host, occupations), tags)

    return draw_candidates(n, "defect", draw)


def canonical_key(occupations: NDArray[np.int64], permutations: NDArray[np.int64]) -> bytes:
    """Return a key that occupations ``(N,)`` share if, and only if, they are equivalent by symmetry."""
    images = np.empty_like(permutations)
    np.put_along_axis(images, permutations, np.broadcast_to(occupations, permutations.shape), axis=1)
    return min(image.tobytes() for image in images.astype(np.int16))


def build_defects(host: Host, occupations: NDArray[np.int64]) -> Atoms:
    """Return the crystal of a host with given occupations ``(N,)``, see `ADATOM`."""
    from ase import Atom
    from ase.data import chemical_symbols, covalent_radii

    atoms = host.atoms.copy()
    adatoms, numbers = np.divmod(occupations, ADATOM)
    atoms.numbers = numbers
    for site in np.flatnonzero(adatoms):
        height = covalent_radii[numbers[site]] + covalent_radii[adatoms[site]]
        offset = np.array([0.0, 0.0, host.faces[site] * height])
        atoms.append(Atom(chemical_symbols[adatoms[site]], atoms.positions[site] + offset))
    del atoms[np.flatnonzero(numbers == VACANCY).tolist()]
    return center_in_vacuum(atoms)


def _mx2_monolayer(name: str) -> Atoms:
    from ase.build import mx2

    a, thickness = RELAXED[name]
    return center_in_vacuum(mx2(name, "2H", a=a, thickness=thickness))


def _draw_size(sheet: Atoms, rng: np.random.Generator) -> int:
    """Return the number of cells along a and b, from `SIZES` if one of them fits."""
    sizes = {s: p for s, p in SIZES.items() if MIN_ATOMS <= s * s * len(sheet) <= MAX_ATOMS}
    if not sizes:
        return max(1, round((MIN_ATOMS / len(sheet)) ** 0.5))
    weights = np.array(list(sizes.values()))
    return int(rng.choice(list(sizes), p=weights / weights.sum()))


def _draw_defects(host: Host, rng: np.random.Generator) -> tuple[NDArray[np.int64], list[str]]:
    """Return the occupations after one to three defects, and their names; no names if the draw failed."""
    from ase.data import chemical_symbols

    perfect = host.atoms.numbers
    occupations = perfect.astype(np.int64)
    names: list[str] = []
    used: list[int] = []
    count, kinds = rng.choice(list(COUNTS), p=list(COUNTS.values())), list(KINDS)
    for _ in range(count):
        free = np.setdiff1d(np.arange(len(perfect)), used)
        if used and rng.random() < CLUSTERED:
            free = free[(host.distances[free][:, used] < NEIGHBOUR_DISTANCE).any(axis=1)]
        kind = kinds[rng.choice(len(kinds), p=list(KINDS.values()))]
        if kind == "adatom":
            free = free[host.faces[free] != 0]
        if not len(free):
            return occupations, []
        # The element is drawn before the site, so that all elements of the host are equally likely.
        element = rng.choice(np.unique(perfect[free]))
        site = int(rng.choice(free[perfect[free] == element]))
        used.append(site)
        old = chemical_symbols[element]
        if kind == "vacancy":
            occupations[site] = VACANCY
            names.append(f"vac_{old}")
        elif kind == "substitution":
            new = int(rng.choice(_dopants(int(element))))
            occupations[site] = new
            names.append(f"{chemical_symbols[new]}_{old}")
        else:
            new = int(rng.choice(_numbers(ADATOMS)))
            occupations[site] += ADATOM * new
            names.append(f"{chemical_symbols[new]}@{old}")
    return occupations, names


def _dopants(element: int) -> NDArray[np.int64]:
    """Return the atomic numbers that may replace an element."""
    from ase.data import chemical_symbols

    symbol = chemical_symbols[element]
    if symbol not in (*NONMETALS, *TRANSITION_METALS):
        return similar_elements(element)
    dopants = _numbers(DOPANTS if symbol in NONMETALS else METAL_DOPANTS)
    return dopants[dopants != element]


def _numbers(symbols: Sequence[str]) -> NDArray[np.int64]:
    from ase.data import atomic_numbers

    return np.array([atomic_numbers[symbol] for symbol in symbols])
