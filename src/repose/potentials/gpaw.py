"""PBE labels by density functional theory with GPAW, with settings for the relaxation of cells.

``repose data label DIR --calculator repose.potentials.gpaw:pbe --fmax 0.03 --out OUT``. GPAW is not an extra
of this package, since it is under the GPL and needs compiled libraries; ``tools/dft`` in the source tree
installs it. Other codes (VASP, Quantum ESPRESSO) are used through their ASE calculators.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, kptdensity2monkhorstpack
from ase.data import chemical_symbols
from numpy.typing import NDArray

from repose.crystal.symmetry import SpaceGroup, find_space_group, idealise
from repose.errors import ConfigError, InvalidCrystalError, MissingExtraError, nearest

# Elements with wrong results without spin: Cr to Ni, open 4f shells, actinides.
MAGNETIC = frozenset([*range(24, 29), *range(58, 71), *range(89, 104)])
# Relative cutoffs for the derivative of the energy with respect to the cutoff (Pulay stress).
LOW_CUTOFF, HIGH_CUTOFF = 0.95, 1.05
# Smallest gap of an insulator in eV; coarse k-point meshes overestimate the gap.
INSULATOR_GAP = 0.5
# Geometries closer to their symmetric geometry than this, in A, are symmetrised.
SYMPREC = 1e-3
# Upper bounds of one step of a relaxation: strain of the cell and displacement of an atom in A.
MAX_STRAIN, MAX_DISPLACEMENT = 0.15, 0.7
# Structures for which parameters are kept.
KEEP = ("relaxation", "composition")
# GPAW finds operations whose translations are fractions with denominators up to this.
MAX_DENOMINATOR = 50


@dataclass(frozen=True, eq=False)
class RunParameters:
    """Parameters that are constant during the relaxation of one crystal, so that energies are comparable.

    Attributes:
        group: Space group of the initial structure.
        origin_atom: An atom of highest site symmetry. It is placed at the origin, since GPAW finds operations
            that move it only if their translations are simple fractions.
        mesh: k-points along each reciprocal vector.
        grid: Points of the real-space grid along each lattice vector; empty for GPAW's own choice.
        dedecut: Derivative of the energy with respect to the cutoff, eV/eV.
        use_symmetry: Whether GPAW uses the space group. It must not if the grid does not have it.
    """

    group: SpaceGroup
    origin_atom: int
    mesh: tuple[int, ...]
    grid: tuple[int, ...]
    dedecut: float
    use_symmetry: bool = True


class PlaneWaves(Calculator):
    """PBE in plane waves, without spin, for relaxing one crystal after another.

    The first structure of a crystal is also computed at two other cutoffs. The derivative of the energy with
    respect to the cutoff corrects the Pulay stress. This derivative, the k-point mesh and the grid are kept
    until the next crystal. Geometries that have the space group of the initial structure within 0.001 A are
    symmetrised. Otherwise rounding would break the symmetry and make calculations several times slower.

    Args:
        cutoff: Cutoff of the plane waves in eV.
        kpoint_density: k-points per 1/A along each reciprocal vector.
        insulator_density: The same for crystals with a gap, which need fewer.
        width: Width of the Fermi-Dirac occupations in eV.
        keep: Where the next crystal begins. ``"relaxation"``: at a structure with other elements, or one that
            no single relaxation step leads to. ``"composition"``: at one with other atomic numbers or in
            another order, so that relaxations of a crystal from several starts, one after another, are
            comparable; only the space group may then change.

    Raises:
        ConfigError: A setting is not positive, or ``keep`` is unknown.
    """

    def __init__(
        self,
        cutoff: float = 450.0,
        kpoint_density: float = 3.5,
        insulator_density: float = 2.5,
        width: float = 0.05,
        keep: str = "relaxation",
    ) -> None:
        super().__init__()
        self.implemented_properties = ["energy", "free_energy", "forces", "stress"]
        self.cutoff, self.width = float(cutoff), float(width)
        self.kpoint_density, self.insulator_density = float(kpoint_density), float(insulator_density)
        for setting in ("cutoff", "kpoint_density", "insulator_density", "width"):
            if not (value := getattr(self, setting)) > 0:
                raise ConfigError(f"{setting} must be positive; got {value}.")
        if keep not in KEEP:
            raise ConfigError(f"keep must be {' or '.join(KEEP)}; got {keep!r}.{nearest(keep, KEEP)}")
        self.keep = keep
        self._parameters: RunParameters | None = None
        self._last: Atoms | None = None
        self._gpaw: Any = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute energy (eV, extrapolated to zero width), forces (eV/A) and stress (eV/A^3, Voigt order).

        Raises:
            InvalidCrystalError: There are no atoms, or an element is magnetic.
            Exception: Any error of GPAW, e.g. if it does not converge.
        """
        super().calculate(atoms, properties or ["energy"], system_changes)
        if self.atoms is None:
            raise InvalidCrystalError(
                "expected atoms; got none. Set `atoms.calc` and call methods of the atoms."
            )
        try:
            ideal = self._prepare(self.atoms)
            ideal.calc = self._gpaw
            self.results = {
                "energy": float(ideal.get_potential_energy()),
                "free_energy": float(ideal.get_potential_energy(force_consistent=True)),
                "forces": ideal.get_forces(),
                "stress": ideal.get_stress(),
            }
        except Exception:
            self._gpaw = None
            if self.keep == "relaxation":
                self._last = None  # the next structure starts a new run
            raise

    def make_gpaw(self, parameters: RunParameters, cutoff: float) -> Any:
        """Return a GPAW calculator with these parameters and this cutoff in eV."""
        gpaw = importlib.import_module("gpaw")
        return gpaw.GPAW(
            mode={"name": "pw", "ecut": cutoff, "dedecut": parameters.dedecut},
            xc="PBE",
            kpts={"size": parameters.mesh, "gamma": True},
            gpts=parameters.grid or None,
            occupations={"name": "fermi-dirac", "width": self.width},
            convergence={"energy": 1e-4, "eigenstates": 1e-6},
            symmetry={"symmorphic": False, "point_group": parameters.use_symmetry},
            spinpol=False,
            maxiter=100,
            txt=None,
            legacy_gpaw=True,  # the new implementation ignores dedecut
        )

    def _prepare(self, atoms: Atoms) -> Atoms:
        """Update parameters and GPAW calculator; return the structure to compute."""
        known = self._parameters if self._is_same_crystal(atoms) else None
        parameters = self._start_run(atoms) if known is None else self._with_symmetry(known, atoms)
        if parameters is not self._parameters or self._gpaw is None:
            self._parameters, self._gpaw = parameters, self.make_gpaw(parameters, self.cutoff)
        self._last = atoms.copy()
        return _symmetrised(atoms, parameters) or atoms.copy()

    def _is_same_crystal(self, atoms: Atoms) -> bool:
        """Return whether the parameters are kept for a structure."""
        last = self._last
        if last is None or not np.array_equal(last.numbers, atoms.numbers) or (last.pbc != atoms.pbc).any():
            return False
        return self.keep == "composition" or _is_next_step(last, atoms)

    def _with_symmetry(self, known: RunParameters, atoms: Atoms) -> RunParameters:
        """Replace the space group if the symmetry broke or, at another start, is higher."""
        broken = _symmetrised(atoms, known) is None
        if not broken and self.keep == "relaxation":
            return known
        group, origin_atom = _symmetry(atoms)
        if not broken and group.n_operations <= known.group.n_operations:
            return known
        new = replace(known, group=group, origin_atom=origin_atom)
        return replace(new, use_symmetry=_fits_grid(new, atoms))

    def _start_run(self, atoms: Atoms) -> RunParameters:
        """Determine the parameters for a new crystal from two energies and the gap."""
        if magnetic := sorted(chemical_symbols[z] for z in MAGNETIC.intersection(atoms.numbers)):
            raise InvalidCrystalError(
                f"{', '.join(magnetic)} may be magnetic, and this calculator has no spin; leave the crystal "
                "out, or use a calculator with spin."
            )
        start = RunParameters(
            *_symmetry(atoms), mesh=_mesh(atoms, self.insulator_density), grid=(), dedecut=0.0
        )
        ideal = _symmetrised(atoms, start) or atoms.copy()
        ideal.calc = gpaw = self.make_gpaw(start, HIGH_CUTOFF * self.cutoff)
        high = ideal.get_potential_energy()
        # The grid is kept, since the energy jumps when the number of points changes.
        homo, lumo = gpaw.get_homo_lumo()
        start = replace(start, grid=tuple(int(n) for n in gpaw.get_number_of_grid_points()))
        ideal.calc = self.make_gpaw(start, LOW_CUTOFF * self.cutoff)
        low = ideal.get_potential_energy()
        # The derivative depends on the cores of the atoms, hardly on the k-points.
        dedecut = float(high - low) / ((HIGH_CUTOFF - LOW_CUTOFF) * self.cutoff)
        density = self.insulator_density if lumo - homo > INSULATOR_GAP else self.kpoint_density
        return replace(start, mesh=_mesh(atoms, density), dedecut=dedecut)


def pbe(
    cutoff: float = 450.0,
    kpoint_density: float = 3.5,
    insulator_density: float = 2.5,
    width: float = 0.05,
    keep: str = "relaxation",
) -> PlaneWaves:
    """Return the calculator ``repose.potentials.gpaw:pbe``; arguments as for `PlaneWaves`.

    Raises:
        MissingExtraError: GPAW is not installed.
        ConfigError: As for `PlaneWaves`.
    """
    if importlib.util.find_spec("gpaw") is None:
        raise MissingExtraError(
            "repose.potentials.gpaw:pbe requires the package 'gpaw', which is not installed. Install it with "
            "tools/dft/install_gpaw.sh of the source tree, or set --calculator to MODULE:NAME of another "
            "ASE calculator."
        )
    return PlaneWaves(cutoff, kpoint_density, insulator_density, width, keep)


def _mesh(atoms: Atoms, density: float) -> tuple[int, ...]:
    return tuple(int(k) for k in kptdensity2monkhorstpack(atoms, density, even=False))


def _is_next_step(last: Atoms, atoms: Atoms) -> bool:
    """Return whether one step of a relaxation can lead from the last geometry to this one."""
    deformation = np.linalg.solve(last.cell.array, atoms.cell.array)
    displacements = atoms.positions - last.positions @ deformation
    strain = np.linalg.norm(deformation - np.eye(3), 2)
    return bool(strain < MAX_STRAIN and np.linalg.norm(displacements, axis=1).max() < MAX_DISPLACEMENT)


def _symmetry(atoms: Atoms) -> tuple[SpaceGroup, int]:
    """Find the space group and an atom of highest site symmetry."""
    group = find_space_group(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, SYMPREC)
    site_symmetry = (group.permutations == np.arange(len(atoms))).sum(axis=0)
    return group, int(site_symmetry.argmax())


def _fits_grid(parameters: RunParameters, atoms: Atoms) -> bool:
    """Return whether operations that GPAW may find map points of the grid onto points."""
    if (ideal := _symmetrised(atoms, parameters)) is None:
        return False
    group, n = parameters.group, np.array(parameters.grid)
    # The origin atom is at zero, so that the position of its image is the translation.
    translations = ideal.get_scaled_positions()[group.permutations[:, parameters.origin_atom]]
    fractions = _is_integer(translations[..., None] * np.arange(1, MAX_DENOMINATOR + 1))
    used = np.all(np.any(fractions, axis=2), axis=1)
    return bool(
        _is_integer(group.rotations[used] * n[:, None] / n).all()
        and _is_integer(translations[used] * n).all()
    )


def _is_integer(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.abs(values - np.rint(values)) < 1e-4)


def _symmetrised(atoms: Atoms, parameters: RunParameters) -> Atoms | None:
    """Return the crystal with exact symmetry and shifted origin; None if it does not have the space group."""
    cell = atoms.cell.array
    positions, ideal_cell = idealise(parameters.group, atoms.positions, cell)
    moved = max(np.abs(positions - atoms.positions).max(), np.abs(ideal_cell - cell).max())
    if moved > 5 * SYMPREC:
        return None
    # Without the user's constraints and magnetic moments.
    return Atoms(atoms.numbers, positions - positions[parameters.origin_atom], cell=ideal_cell, pbc=atoms.pbc)
