"""Import of relaxation paths from ``vasprun.xml``.

Conversions: VASP gives stress in kB with the sign of a pressure, Repose uses eV/A^3 with the sign of ASE;
fractional coordinates are wrapped into the cell, those of Repose are continuous along the path. The energy is
energy(sigma->0), as ASE's ``get_potential_energy`` and pymatgen's ``final_energy``. Forces and stress are
derivatives of the free energy, which differs from it by a part of the smearing's entropy; this part is small
and changes little along a path. Charges of the unrelaxed atoms are those of an ``OUTCAR`` beside the file.
"""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repose.data.dataset import Pair
from repose.data.importers.trajectories import file_stem, trajectory_to_pair
from repose.data.pairing import Refusal, attempt, describe
from repose.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.io.vasp.outputs import Vasprun

# Values of IBRION for relaxations: quasi-Newton, conjugate gradients, damped dynamics.
_RELAXATIONS = (1, 2, 3)
_NAME = re.compile(r"(?:.+[._-])?vasprun.*\.xml(?:\.gz)?", re.IGNORECASE)


def is_vasprun(path: Path) -> bool:
    """Return whether a file is named ``vasprun*.xml`` or ``NAME.vasprun.xml``, with or without ``.gz``."""
    return _NAME.fullmatch(path.name) is not None


def find_runs(folder: Path) -> list[Path]:
    """Return all such files in a folder and its subfolders, in order."""
    return sorted(path for path in folder.rglob("*.xml*") if is_vasprun(path) and path.is_file())


def run_name(path: Path, root: Path | None = None) -> str:
    """Return the id of a run: A for ``A/vasprun.xml`` and ``A.vasprun.xml``, else the stem of the file.

    Runs in subfolders of ``root``, the folder that was searched, have the relative path as id, such as
    ``A/relax`` for ``A/relax/vasprun.xml``, since names of folders may repeat.
    """
    stem = file_stem(path).removesuffix("vasprun").rstrip("._-")
    folder = path.parent if root is None else path.parent.relative_to(root)
    if root is None or folder == Path("."):
        return stem or path.parent.resolve().name
    return (folder / stem if stem else folder).as_posix()


def import_vasprun(path: Path, name: str = "") -> Iterator[Pair | Refusal]:
    """Import the path of one relaxation by VASP, with all its ionic steps; for ``name`` see `run_name`.

    Refused are files that are cut off (the job was killed), runs that are not relaxations, and relaxations
    that did not converge. Ionic steps without electronic convergence have no energy, forces and stress. Tags:
    ``isif`` (whether the cell relaxes), and ``pstress_kB`` if a pressure is set; energies do not include its
    part of the enthalpy.
    """
    name = name or run_name(path)
    yield attempt(name, _pair, path, name)


def _pair(path: Path, name: str) -> Pair:
    run = _read(path)
    _check(run, path)
    pressure = float(run.parameters.get("PSTRESS") or 0)
    tags = {"isif": str(run.parameters.get("ISIF", "unknown"))}
    if pressure:
        tags["pstress_kB"] = f"{pressure:g}"
    steps = [_atoms(step, run, pressure) for step in run.ionic_steps]
    charges = read_charges(path)
    if charges is not None and len(charges) == len(steps[0]):
        steps[0].set_initial_charges(charges)
    return trajectory_to_pair(name, steps, tags=tags)


def read_charges(vasprun: Path) -> np.ndarray | None:
    """Return charges of atoms from the ``OUTCAR`` of a run, ``(n,)``, or None.

    VASP writes a table "total charge" (electrons near each atom) after every ionic step if LORBIT is set; the
    first is that of the unrelaxed crystal. The file is named like ``vasprun``, with OUTCAR and without xml.
    """
    name = vasprun.name.removesuffix(".gz").removesuffix(".xml")
    path = vasprun.with_name(re.sub("vasprun", "OUTCAR", name, flags=re.IGNORECASE))
    packed = path.with_name(f"{path.name}.gz")
    try:
        with path.open() if path.is_file() else gzip.open(packed, "rt") as lines:
            if not any(line.strip() == "total charge" for line in lines):
                return None
            rows = dropwhile(lambda row: not _is_atom(row), map(str.split, lines))
            return np.array([float(row[-1]) for row in takewhile(_is_atom, rows)])
    except (OSError, EOFError, ValueError):  # no such file, cut off, or numbers that do not fit
        return None


def _is_atom(row: list[str]) -> bool:
    return bool(row) and row[0].isdigit()


def _read(path: Path) -> Vasprun:
    from pymatgen.io.vasp.outputs import Vasprun

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about runs without convergence, which are refused below
            return Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    except Exception as error:  # errors of XML, gzip and pymatgen
        raise DatasetError(
            f"{path} is not a complete vasprun.xml; it is cut off if the job was killed: {describe(error)}."
        ) from None


def _check(run: Vasprun, path: Path) -> None:
    """Raise a DatasetError if the run is not a converged relaxation."""
    settings = run.parameters
    ibrion, nsw, ediffg = (settings.get(key) for key in ("IBRION", "NSW", "EDIFFG"))
    if ibrion not in _RELAXATIONS:
        kind = "molecular dynamics, " if ibrion == 0 else ""
        raise DatasetError(f"{path} (IBRION={ibrion}) is {kind}not a relaxation (IBRION=1, 2 or 3).")
    if run.incar.get("IMAGES"):
        raise DatasetError(f"{path} is an image of an elastic band (IMAGES), not a relaxation.")
    if run.incar.get("ML_LMLFF"):
        raise DatasetError(f"{path}: steps of its path are from a force field (ML_LMLFF), not from DFT.")
    steps = run.ionic_steps
    if len(steps) < 2:
        raise DatasetError(f"{path} has {len(steps)} ionic step; a path needs at least 2.")
    if nsw is not None and len(steps) >= nsw:
        raise DatasetError(
            f"{path} stopped after NSW={nsw} ionic steps without reaching its required accuracy; "
            "continue from its CONTCAR."
        )
    if not _converged(steps[-1], run):
        raise DatasetError(
            f"{path}: the electronic steps of the last ionic step did not converge (NELM={settings['NELM']})."
        )
    # A run stopped by STOPCAR has the same output as a converged one; only its forces differ.
    forces = _array(steps[-1], "forces")
    if ediffg is not None and ediffg < 0 and forces is not None:
        free = [all(flags) for flags in run.initial_structure.site_properties.get("selective_dynamics", [])]
        norms = np.linalg.norm(forces, axis=1)[free or slice(None)]
        if len(norms) and norms.max() > -1.01 * ediffg:
            raise DatasetError(
                f"{path} ended with a force of {norms.max():.3f} eV/A, before its required accuracy "
                f"(EDIFFG={ediffg:g})."
            )


def _converged(step: dict[str, Any], run: Vasprun) -> bool:
    """Return whether there are fewer electronic steps than allowed."""
    return len(step["electronic_steps"]) < run.parameters.get("NELM", np.inf)


def _atoms(step: dict[str, Any], run: Vasprun, pressure: float) -> Atoms:
    """Return an ionic step in units of ASE, with energy, forces and stress as results of a calculator."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.units import GPa

    structure = step["structure"]
    atoms = Atoms(
        numbers=[site.specie.Z for site in structure],
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
        pbc=True,
    )
    if _converged(step, run):
        kilobar = 0.1 * GPa
        stress = _array(step, "stress")
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=_energy(step, pressure * kilobar * atoms.get_volume()),
            forces=_array(step, "forces"),
            stress=None if stress is None else -kilobar * stress,
        )
    return atoms


def _energy(step: dict[str, Any], pressure_volume: float) -> float | None:
    """Return energy(sigma->0) in eV, or None.

    VASP writes a wrong e_0_energy for the ionic step. That of the last electronic step is right, but lacks
    dispersion corrections. So e_fr_energy is taken from the ionic step, and its difference to e_0_energy from
    the last electronic step. With a pressure, e_fr_energy is an enthalpy.
    """
    try:
        last = step["electronic_steps"][-1]
        return step["e_fr_energy"] + last["e_0_energy"] - last["e_fr_energy"] - pressure_volume
    except (KeyError, IndexError):  # some functionals lack some energies
        return None


def _array(step: dict[str, Any], key: str) -> np.ndarray | None:
    return None if key not in step else np.asarray(step[key], dtype=float)
