"""Files changed at random: no exception escapes, and independent readers find the same crystals."""

import io
import json
import warnings
from collections import Counter

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import write as ase_write
from ase.spacegroup import crystal as spacegroup_crystal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.io.vasp import Poscar

from repose.io.cif import write_cif
from repose.io.files import read
from support.tiny import Known

QUARTZ = spacegroup_crystal(
    ["Si", "O"],
    [(0.4697, 0, 0), (0.4135, 0.2669, 0.1191)],
    spacegroup=152,
    cellpar=[4.916, 4.916, 5.4054, 90, 90, 120],
)
STRUCTURES = [
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"],
                              [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
    Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.6, 2.95), ["Ti", "O"],
                              [[0, 0, 0], [0.305, 0.305, 0]]),
]  # fmt: skip
# Words that stand for other things in some format, numbers that are none, and characters that files hide.
STRANGE = [
    "nan", "inf", "1e999", "0", "-1", "1", "2", "4", "0.5", "0.25", "?", ".", "T", "F", "FFF", "true", "null",
    "[]", "{}", "#", "!", "'", '"', ";", "loop_", "data_x", "Fe", "FE", "X", "Xx", "D", "T1", "Va1", "Fe3+",
    "Nb/Zr", "Direct", "Cartesian", "Selective", "_atom_site_occupancy", "_cell_formula_units_Z",
    "occupancy=0.5", "Lattice=", 'pbc="T T F"', "-x,-y,-z", "'x, y, z'", "'F m -3 m'", "'P 1'",
    "\x00", "\ufeff", "é", "\r", "\t", "",
]  # fmt: skip


def rendered(write):
    stream = io.StringIO()
    write(stream)
    return stream.getvalue()


def cifs():
    yield from (str(CifWriter(structure, symprec=0.01)) for structure in STRUCTURES)
    yield from (str(CifWriter(structure)) for structure in STRUCTURES[:1])
    yield write_cif(QUARTZ.numbers, QUARTZ.positions, QUARTZ.cell.array, "quartz")
    stream = io.BytesIO()
    ase_write(stream, QUARTZ, format="cif")
    yield stream.getvalue().decode()


def poscars():
    yield from (Poscar(structure).get_str() for structure in STRUCTURES)
    held = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    held.set_constraint(FixAtoms([0, 3]))
    yield rendered(lambda stream: ase_write(stream, held, format="vasp", direct=True))
    yield rendered(lambda stream: ase_write(stream, QUARTZ, format="vasp"))


def extxyzs():
    for atoms in (QUARTZ, bulk("NaCl", "rocksalt", a=5.6)):
        atoms = atoms.copy()
        atoms.info |= {"id": "a b", "severity": 1.5}
        atoms.arrays["tags"] = np.arange(len(atoms))
        yield rendered(lambda stream, atoms=atoms: ase_write(stream, [atoms, atoms], format="extxyz"))


BASES = {
    "cif": (list(cifs()), "x.cif"),
    "poscar": (list(poscars()), "x.vasp"),
    "extxyz": (list(extxyzs()), "x.extxyz"),
    "json": ([json.dumps(structure.as_dict(), indent=1) for structure in STRUCTURES], "x.json"),
}


@st.composite
def mutated(draw, kind):
    """Text of a file with one to three changes."""
    text = draw(st.sampled_from(BASES[kind][0]))
    for _ in range(draw(st.integers(1, 3))):
        lines = text.split("\n")
        k, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        what = draw(
            st.sampled_from(["drop", "twice", "swap", "word", "word", "word", "cut", "letter", "end"])
        )
        if what == "drop":
            del lines[k]
        elif what == "twice":
            lines.insert(other, lines[k])
        elif what == "swap":
            lines[k], lines[other] = lines[other], lines[k]
        elif what == "word":
            words = lines[k].split(" ")
            taken = draw(st.sampled_from([*STRANGE, *lines[other].split()]))
            words[draw(st.integers(0, len(words) - 1))] = taken
            lines[k] = " ".join(words)
        elif what == "case":
            lines[k] = draw(st.sampled_from([str.upper, str.lower, str.title]))(lines[k])
        elif what == "tag":
            lines[k] = lines[k].replace("-", "_") if "-" in lines[k] else lines[k].replace("_", ".", 1)
        elif what == "cut":
            lines = lines[: k + 1]
            lines[-1] = lines[-1][: draw(st.integers(0, len(lines[-1])))]
        elif what == "letter" and lines[k]:
            place = draw(st.integers(0, len(lines[k]) - 1))
            lines[k] = lines[k][:place] + draw(st.characters(codec="utf-8")) + lines[k][place + 1 :]
        elif what == "end":
            lines = lines[: k + 1]
        text = "\n".join(lines)
    return text


def counted(symbols):
    return Counter(symbols)


def by_ase(text, kind):
    from ase.io import read as ase_read

    name = {"cif": "cif", "poscar": "vasp", "extxyz": "extxyz"}[kind]
    stream = io.BytesIO(text.encode()) if kind == "cif" else io.StringIO(text)
    return [counted(atoms.get_chemical_symbols()) for atoms in ase_read(stream, index=":", format=name)]


def by_pymatgen(text, kind):
    if kind == "cif":
        found = CifParser.from_str(text).parse_structures(primitive=False)
    elif kind == "poscar":
        found = [Poscar.from_str(text).structure]
    else:
        found = [Structure.from_dict(json.loads(text))]
    return [counted(site.specie.symbol for site in structure) for structure in found]


READERS = {
    "cif": [by_ase, by_pymatgen],
    "poscar": [by_ase, by_pymatgen],
    "extxyz": [by_ase],
    "json": [by_pymatgen],
}


def contradicted(kind, text, entries, results):
    """Crystals relaxed whose atoms no independent reader finds, though one reads the file."""
    readings = []
    for reader in READERS[kind]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = reader(text, kind)
        except Exception:  # readers raise whatever Python does on junk
            continue
        if len(found) == len(entries):
            readings.append(found)
    relaxed = iter(results)
    for k, entry in enumerate(entries):
        if entry.crystal is None or next(relaxed).status == "refused":
            continue
        crystal = entry.crystal
        atoms = hasattr(crystal, "get_chemical_symbols")
        own = counted(crystal.get_chemical_symbols() if atoms else [s.specie.symbol for s in crystal])
        if readings and own not in [found[k] for found in readings]:
            yield own, [found[k] for found in readings]


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.filterwarnings("ignore")
def test_files_changed_at_random(kind, tmp_path_factory):
    path = tmp_path_factory.mktemp(kind) / BASES[kind][1]
    seen = Counter()

    @settings(max_examples=400, suppress_health_check=list(HealthCheck), database=None)
    @given(mutated(kind))
    def check(text):
        path.write_text(text, newline="", encoding="utf-8", errors="surrogatepass")
        entries = list(read(path))
        crystals = [entry.crystal for entry in entries if entry.crystal is not None]
        results = Known().relax(crystals)
        assert entries
        assert all((entry.crystal is None) == bool(entry.reason) for entry in entries)
        assert not list(contradicted(kind, text, entries, results))
        seen.update(result.status for result in results)

    check()
    assert seen["relaxed"] > 20  # the changes leave something to compare
