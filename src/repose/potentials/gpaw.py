"""Density functional theory for labels: PBE with GPAW, set up so that cells relax as they should.

``repose data label DIR --calculator repose.potentials.gpaw:pbe --fmax 0.03 --out OUT``. GPAW is under the
GPL and needs compiled libraries, so it is no extra of this package; ``tools/dft`` in the source tree installs
it. Whoever has VASP, Quantum ESPRESSO or another code passes the ASE calculator of that code instead.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, kptdensity2monkhorstpack

from repose.crystal.symmetry import SpaceGroup, find_space_group, idealise
from repose.errors import ConfigError, InvalidCrystalError, MissingExtraError

# Without spin these come out wrong rather than not at all: Cr to Ni, open 4f shells, actinides.
MAGNETIC = frozenset([*range(24, 29), *range(58, 71), *range(89, 104)])
# Cutoffs, relative to that of the calculation, whose energies give the slope for the Pulay stress.
BELOW, ABOVE = 0.95, 1.05
# Gap in eV from which a crystal counts as an insulator; coarse meshes see it too wide.
INSULATING = 0.5
# What is nearer to its symmetric geometry than this, in A, is taken to it.
SYMPREC = 1e-3
# Within one step of a relaxation no lattice vector stretches by this share and no atom moves so far, in A.
LARGEST_STRETCH, LARGEST_MOVE = 0.15, 0.7


@dataclass(frozen=True, eq=False)
class Conditions:
    """What stays the same along the relaxation of one crystal, or else its energies were not comparable.

    Attributes:
        group: Space group of the start.
        centre: An atom of highest site symmetry, which goes to the origin: operations that do not leave it in
            place GPAW finds only where their translations are simple fractions.
        mesh: k-points along each reciprocal vector.
        grid: Points of the real-space grid along each lattice vector.
        slope: Derivative of the energy with respect to the cutoff, eV/eV.
    """

    group: SpaceGroup
    centre: int
    mesh: tuple[int, ...]
    grid: tuple[int, ...]
    slope: float


class PlaneWaves(Calculator):
    """PBE in plane waves, without spin, for the relaxation of one crystal after another.

    A crystal that is asked about for the first time is computed at two more cutoffs: plane waves that come
    and go with the cell leave a stress of their own (Pulay), which the slope of the energy with the cutoff
    corrects. The slope, the mesh of k-points and the grid then stay until another crystal comes, that is
    one of other elements, or one that no step of a relaxation leads to. Geometries are taken to the space
    group of the start if they have it within 0.001 A, so that rounding costs no symmetry, which would make
    it several times slower.

    Args:
        cutoff: Of the plane waves in eV.
        kpoint_density: k-points per 1/A along each reciprocal vector.
        insulator_density: The same for crystals with a gap, which need fewer.
        width: Of the Fermi-Dirac occupations in eV.

    Raises:
        ConfigError: A setting is not positive.
    """

    def __init__(
        self,
        cutoff: float = 450.0,
        kpoint_density: float = 3.5,
        insulator_density: float = 2.5,
        width: float = 0.05,
    ) -> None:
        settings = {
            "cutoff": cutoff,
            "kpoint_density": kpoint_density,
            "insulator_density": insulator_density,
            "width": width,
        }
        for setting, value in settings.items():
            if not value > 0:
                raise ConfigError(f"{setting} must be positive; got {value}.")
        super().__init__()
        self.implemented_properties = ["energy", "free_energy", "forces", "stress"]
        self.cutoff, self.width = float(cutoff), float(width)
        self.kpoint_density, self.insulator_density = float(kpoint_density), float(insulator_density)
        self._conditions: Conditions | None = None
        self._last: Atoms | None = None
        self._engine: Any = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy in eV (extrapolated to no width), forces in eV/A, stress in eV/A^3 with Voigt's order.

        Raises:
            InvalidCrystalError: There are no atoms, or an element is magnetic.
            Exception: Whatever GPAW raises, above all where it does not converge.
        """
        super().calculate(atoms, properties or ["energy"], system_changes)
        if self.atoms is None:
            raise InvalidCrystalError("expected atoms; got none. Set `atoms.calc` and ask the atoms.")
        try:
            ideal = self._prepare(self.atoms)
            ideal.calc = self._engine
            self.results = {
                "energy": float(ideal.get_potential_energy()),
                "free_energy": float(ideal.get_potential_energy(force_consistent=True)),
                "forces": ideal.get_forces(),
                "stress": ideal.get_stress(),
            }
        except Exception:
            self._last = None  # whatever comes next starts afresh
            raise

    def engine(self, conditions: Conditions, cutoff: float) -> Any:
        """GPAW at these conditions; an empty grid stands for GPAW's own choice."""
        gpaw = importlib.import_module("gpaw")
        return gpaw.GPAW(
            mode={"name": "pw", "ecut": cutoff, "dedecut": conditions.slope},
            xc="PBE",
            kpts={"size": conditions.mesh, "gamma": True},
            gpts=conditions.grid or None,
            occupations={"name": "fermi-dirac", "width": self.width},
            convergence={"energy": 1e-4, "eigenstates": 1e-6},
            symmetry={"symmorphic": False},
            spinpol=False,
            maxiter=100,
            txt=None,
            legacy_gpaw=True,  # the other one ignores dedecut
        )

    def _prepare(self, atoms: Atoms) -> Atoms:
        """See to conditions and engine; the crystal as the engine shall see it."""
        known = self._conditions if _follows(self._last, atoms) else None
        if known is None:
            known = self._begin(atoms)
        elif _placed(atoms, known) is None:  # symmetry was lost on the way; all else stays
            group, centre = _symmetry(atoms)
            known = replace(known, group=group, centre=centre)
        if known is not self._conditions or self._last is None:
            self._conditions, self._engine = known, self.engine(known, self.cutoff)
        self._last = atoms.copy()
        return _placed(atoms, known) or atoms.copy()

    def _begin(self, atoms: Atoms) -> Conditions:
        """Conditions for a new crystal, from two energies and the gap."""
        magnetic = sorted(
            {str(symbol) for symbol, z in zip(atoms.symbols, atoms.numbers, strict=True) if z in MAGNETIC}
        )
        if magnetic:
            raise InvalidCrystalError(
                f"{', '.join(magnetic)} may be magnetic, and this calculator is without spin; leave the "
                "crystal out, or use a calculator with spin."
            )
        start = Conditions(*_symmetry(atoms), mesh=_mesh(atoms, self.insulator_density), grid=(), slope=0.0)
        ideal = _placed(atoms, start) or atoms.copy()
        ideal.calc = engine = self.engine(start, ABOVE * self.cutoff)
        above = ideal.get_potential_energy()
        # One grid for all, or else the energy jumps where the number of points does.
        occupied, empty = engine.get_homo_lumo()
        start = replace(start, grid=tuple(int(n) for n in engine.get_number_of_grid_points()))
        ideal.calc = self.engine(start, BELOW * self.cutoff)
        below = ideal.get_potential_energy()
        # The slope is a matter of the cores; k-points are not.
        slope = float(above - below) / ((ABOVE - BELOW) * self.cutoff)
        density = self.insulator_density if empty - occupied > INSULATING else self.kpoint_density
        return replace(start, mesh=_mesh(atoms, density), slope=slope)


def pbe(
    cutoff: float = 450.0, kpoint_density: float = 3.5, insulator_density: float = 2.5, width: float = 0.05
) -> PlaneWaves:
    """Calculator ``repose.potentials.gpaw:pbe`` for ``repose data label``; arguments as for `PlaneWaves`.

    Raises:
        MissingExtraError: GPAW is not installed.
        ConfigError: A setting is not positive.
    """
    if importlib.util.find_spec("gpaw") is None:
        raise MissingExtraError(
            "repose.potentials.gpaw:pbe needs the package 'gpaw', which is not installed. Install it with "
            "tools/dft/install_gpaw.sh of the source tree, or give --calculator the MODULE:NAME of another "
            "ASE calculator."
        )
    return PlaneWaves(cutoff, kpoint_density, insulator_density, width)


def _mesh(atoms: Atoms, density: float) -> tuple[int, ...]:
    return tuple(int(k) for k in kptdensity2monkhorstpack(atoms, density, even=False))


def _follows(last: Atoms | None, atoms: Atoms) -> bool:
    """Whether a step of a relaxation can have led from one geometry to the other."""
    if last is None or not np.array_equal(last.numbers, atoms.numbers) or (last.pbc != atoms.pbc).any():
        return False
    deformation = np.linalg.solve(last.cell.array, atoms.cell.array)
    move = atoms.positions - last.positions @ deformation
    stretch = np.linalg.norm(deformation - np.eye(3), 2)
    return bool(stretch < LARGEST_STRETCH and np.linalg.norm(move, axis=1).max() < LARGEST_MOVE)


def _symmetry(atoms: Atoms) -> tuple[SpaceGroup, int]:
    """Space group, and an atom of highest site symmetry."""
    group = find_space_group(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, SYMPREC)
    stays = (group.permutations == np.arange(len(atoms))).sum(axis=0)
    return group, int(stays.argmax())


def _placed(atoms: Atoms, conditions: Conditions) -> Atoms | None:
    """The crystal with exact symmetry and the centre at the origin; None if it has lost that symmetry."""
    cell = atoms.cell.array
    positions, ideal_cell = idealise(conditions.group, atoms.positions, cell)
    moved = max(np.abs(positions - atoms.positions).max(), np.abs(ideal_cell - cell).max())
    if moved > 5 * SYMPREC:
        return None
    # Made anew: constraints and magnetic moments of the user are none of GPAW's business.
    return Atoms(atoms.numbers, positions - positions[conditions.centre], cell=ideal_cell, pbc=atoms.pbc)
