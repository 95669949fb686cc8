"""Write small symmetric crystals that no model was trained on, for a validation with DFT on a small machine.

    .venv/bin/python tools/dft/validation_set.py OUT [--count 32] [--data DATASET ...] [--trained DATASET ...]

They are chosen from the test splits of datasets in this repository, and of more given with ``--data``. Their
chemical systems are in no train or val split of any dataset in ``datasets``, nor of those given with
``--trained``. They have 2 to 8 atoms, no magnetic metals (Cr to Ni), lanthanides or actinides, and keep their
space group when they relax. A third is near its relaxed geometry, the others are far from it. A fifth has no
other degree of freedom than its volume, more where others run out. Cheap crystals and rare chemistries are
preferred. The choice is deterministic. Inputs and references are symmetrised; references are those of the
datasets, PBE or CHGNet.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import spglib
from ase import Atoms
from ase.calculators.calculator import kptdensity2monkhorstpack
from ase.data import chemical_symbols
from candidates import valence

from repose.crystal.symmetry import SpaceGroup, find_space_group, idealise, symmetrise
from repose.data.dataset import INFO, Dataset, DatasetInfo, Pair, write_dataset
from repose.potentials.gpaw import MAGNETIC

ROOT = Path(__file__).resolve().parents[2] / "datasets"
SOURCES = ("pbe", "chgnet/bulk", "chgnet/subst")
EXCLUDED = MAGNETIC | {43, 57, *range(84, 119)}
MAX_ATOMS, MIN_OPERATIONS = 8, 4
# Mean change of a coordinate in A: below the first an input is near, beyond the second it is left out.
NEAR, FARTHEST = 0.06, 0.5
VOLUMES = (0.65, 1.55)  # relaxed over input
# Shares of crystals near their relaxed geometry, and of those with one degree of freedom.
NEAR_SHARE, SIMPLE_SHARE = 1 / 3, 1 / 5
KPOINTS = 2.5  # per 1/A, for costs
LARGEST_COST = 8.0
ANIONS = {
    "halide": "F Cl Br I",
    "oxide": "O",
    "nitride": "N",
    "chalcogenide": "S Se Te",
    "carbide": "C",
    "pnictide": "P As Sb",
    "hydride": "H",
    "boride": "B",
    "silicide": "Si Ge",
}
# Two of these in one crystal are mixed anions.
STRONG = ("halide", "oxide", "nitride", "chalcogenide", "carbide")
PEROVSKITES = ("perovskite", "AB3C_cP5_221_a_c_b", "A3BC_tP5_99_bc_a_b")


@dataclass(frozen=True)
class Choice:
    """A crystal, its chemistry, the expected cost of one energy, and what it may change as it relaxes."""

    pair: Pair
    chemistry: str
    near: bool
    freedom: int
    cost: float


def chemistry(pair: Pair) -> str:
    """Return the class of a crystal's chemistry, by its anions."""
    symbols = {chemical_symbols[z] for z in pair.numbers}
    found = [name for name, elements in ANIONS.items() if symbols.intersection(elements.split())]
    if len(set(found).intersection(STRONG)) > 1:
        return "mixed anions"
    if found and len(symbols) == 3 and pair.tags.get("prototype") in PEROVSKITES:
        return "perovskite"
    return found[0] if found else "intermetallic"


def freedom(group: SpaceGroup) -> int:
    """Return the number of strains and displacements that keep a space group, translations excluded."""
    trace = np.trace(group.rotations, axis1=1, axis2=2)
    squared = np.trace(group.rotations @ group.rotations, axis1=1, axis2=2)
    fixed = (group.permutations == np.arange(group.permutations.shape[1])).sum(axis=1)
    return round(((trace**2 + squared) / 2 + trace * (fixed - 1)).mean())


def standard_basis(atoms: Atoms) -> np.ndarray:
    """Return the integer matrix to the standard primitive cell, in which k-point meshes have the symmetry.

    It is the identity if the cell is not primitive.
    """
    crystal = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    standard = spglib.standardize_cell(crystal, to_primitive=True, no_idealize=True, symprec=1e-3)
    if standard is None or len(standard[2]) != len(atoms):
        return np.eye(3)
    return np.rint(standard[0] @ np.linalg.inv(atoms.cell.array))


def cost(atoms: Atoms) -> float:
    """Return the expected cost of one energy in arbitrary units: irreducible k-points, grid points, bands."""
    crystal = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    points, _ = spglib.get_ir_reciprocal_mesh(kptdensity2monkhorstpack(atoms, KPOINTS, even=False), crystal)
    bands = sum(valence(s) for s in atoms.symbols) / 2 + 4
    return len(np.unique(points)) * atoms.cell.lengths().prod() * bands / 1e4


def choice(pair: Pair) -> Choice | None:
    """Return a crystal with symmetrised input and reference, or None if it is not suitable."""
    numbers = pair.numbers
    if not 2 <= len(numbers) <= MAX_ATOMS or not pair.pbc.all() or EXCLUDED.intersection(numbers.tolist()):
        return None
    group = find_space_group(numbers, pair.positions, pair.cell, pair.pbc)
    relaxed = find_space_group(numbers, pair.relaxed_positions, pair.relaxed_cell, pair.pbc, 0.01)
    if group.n_operations < MIN_OPERATIONS or relaxed.number != group.number:
        return None
    positions, cell = idealise(group, pair.positions, pair.cell)
    ends = symmetrise(group, positions, cell, pair.relaxed_positions, pair.relaxed_cell)
    change = float(np.abs(ends[0] - positions).mean())
    ratio = abs(np.linalg.det(ends[1]) / np.linalg.det(cell))
    basis = standard_basis(Atoms(numbers, positions, cell=cell, pbc=True))
    expected = cost(Atoms(numbers, positions, cell=basis @ cell, pbc=True))
    if change > FARTHEST or not VOLUMES[0] < ratio < VOLUMES[1] or expected > LARGEST_COST:
        return None
    pair = replace(
        pair,
        positions=positions,
        cell=basis @ cell,
        relaxed_positions=ends[0],
        relaxed_cell=basis @ ends[1],
        split="test",
        path=(),
        charges=None,
    )
    return Choice(pair, chemistry(pair), change < NEAR, freedom(group), expected)


def choices(sources: list[Path], trained: list[Path]) -> Iterator[Choice]:
    """Yield suitable crystals of the test splits; their tag ``dataset`` is the name of the source."""
    seen = (Dataset(path).read(split, paths=False) for path in trained for split in ("train", "val"))
    systems = {pair.chemical_system for pairs in seen for pair in pairs}
    for path in sources:
        dataset = Dataset(path)
        for pair in dataset.read("test", paths=False):
            if pair.chemical_system not in systems and (found := choice(pair)) is not None:
                yield replace(
                    found, pair=replace(found.pair, tags=pair.tags | {"dataset": dataset.info.name})
                )


def ordered(left: list[Choice], count: int) -> Iterator[Pair]:
    """Yield crystals, cheap ones first; prefer chemistries, elements and regimes that are rare so far."""
    used = Counter[str]()

    def price(item: Choice) -> float:
        symbols = {chemical_symbols[z] for z in item.pair.numbers}
        rare = math.prod(1 + 0.5 * used[s] for s in symbols) ** (1 / len(symbols))
        return item.cost * rare * (1 + 2 * used[item.chemistry]) / min(item.freedom, 3)

    for done in range(count):
        near = used["near"] <= NEAR_SHARE * done
        simple = used["simple"] < SIMPLE_SHARE * (done + 1)
        able = [item for item in left if simple or item.freedom > 1] or left
        if not able:
            return
        best = min([item for item in able if item.near == near] or able, key=price)
        used.update(chemical_symbols[z] for z in set(best.pair.numbers.tolist()))
        used.update([best.chemistry] + ["near"] * best.near + ["simple"] * (best.freedom == 1))
        left = [item for item in left if item.pair.chemical_system != best.pair.chemical_system]
        tags = {"chemistry": best.chemistry, "regime": "near" if best.near else "far"}
        tags |= {"freedom": str(best.freedom), "cost": f"{best.cost:.2f}"}
        yield replace(best.pair, tags=best.pair.tags | tags)


def main() -> None:
    """Write the dataset and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="more datasets to choose from")
    parser.add_argument("--trained", type=Path, nargs="*", default=[], help="more datasets of shipped models")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # pymatgen warns of every missing property
    sources = [*given.data, *(ROOT / name for name in SOURCES)]
    found = list(choices(sources, [*(path.parent for path in sorted(ROOT.rglob(INFO))), *given.trained]))
    pairs = list(ordered(found, given.count))
    info = DatasetInfo(
        name="dft-validation",
        source=f"test splits of {', '.join(Dataset(path).info.name for path in sources)}",
        licence="; ".join(sorted({Dataset(path).info.licence for path in sources} - {""})),
        calculator="that of the tag dataset: "
        + "; ".join(sorted({Dataset(p).info.calculator for p in sources})),
        splits="all test; chemical systems of no train or val split",
    )
    write_dataset(given.out, info, pairs)
    for pair in pairs:
        tags = pair.tags
        name = Atoms(pair.numbers).get_chemical_formula("metal", empirical=True)
        print(name, *(tags[key] for key in ("chemistry", "regime", "freedom", "cost", "dataset")), pair.id)
    print(f"{len(pairs)} of {len(found)} crystals: {dict(Counter(pair.tags['chemistry'] for pair in pairs))}")


if __name__ == "__main__":
    main()
