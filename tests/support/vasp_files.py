"""Writes what VASP would have written of a relaxation, as far as `vasprun.xml` matters here."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Step:
    """One ionic step, in VASP's units: A, fractions, eV, eV/A, kB with the sign of a pressure."""

    cell: np.ndarray
    fractional: np.ndarray
    free_energy: float
    forces: np.ndarray
    stress: np.ndarray
    entropy: float = 0.0  # energy(sigma->0) - free energy
    electronic: int = 3
    wrong_e0: float = -999.0  # for the whole step VASP writes a wrong one


@dataclass
class Run:
    symbols: list[str]
    steps: list[Step]
    settings: dict = field(default_factory=dict)
    incar: dict = field(default_factory=dict)
    selective: list[str] | None = None


SETTINGS = {"IBRION": 2, "NSW": 40, "ISIF": 3, "EDIFFG": -0.02, "NELM": 60, "PSTRESS": 0.0}


def varray(name: str, rows, decimals: int = 8) -> str:
    lines = "".join(f"<v>{' '.join(f'{x: .{decimals}f}' for x in row)} </v>\n" for row in rows)
    return f'<varray name="{name}" >\n{lines}</varray>\n'


def item(name: str, value) -> str:
    if isinstance(value, bool):
        return f'<i type="logical" name="{name}"> {"T" if value else "F"}  </i>\n'
    if isinstance(value, int):
        return f'<i type="int" name="{name}"> {value}</i>\n'
    return f'<i name="{name}"> {value:.8f}</i>\n'


def energies(free: float, without_entropy: float, zero: float) -> str:
    named = (("e_fr_energy", free), ("e_wo_entrp", without_entropy), ("e_0_energy", zero))
    return f"<energy>\n{''.join(item(*pair) for pair in named)}</energy>\n"


def structure(cell, fractional, attributes: str = "", selective=None) -> str:
    basis = varray("basis", cell) + item("volume", float(abs(np.linalg.det(cell))))
    flags = ""
    if selective is not None:
        rows = "".join(f"<v type='logical' > {flag} </v>\n" for flag in selective)
        flags = f'<varray name="selective" type="logical" >\n{rows}</varray>\n'
    return (
        f"<structure{attributes}>\n<crystal>\n{basis}</crystal>\n"
        f"{varray('positions', np.mod(fractional, 1.0))}{flags}</structure>\n"
    )


def calculation(step: Step) -> str:
    own = energies(step.free_energy, step.free_energy + 2 * step.entropy, step.free_energy + step.entropy)
    return "".join(
        [
            "<calculation>\n",
            *(f'<scstep>\n<time name="total"> 0.10 0.11</time>\n{own}</scstep>\n',) * step.electronic,
            structure(step.cell, step.fractional),
            varray("forces", step.forces),
            varray("stress", step.stress),
            energies(step.free_energy, step.wrong_e0, step.wrong_e0),
            "</calculation>\n",
        ]
    )


def atoms(symbols: list[str]) -> str:
    kinds = list(dict.fromkeys(symbols))
    rows = "".join(f"<rc><c>{s:2}</c><c> {kinds.index(s) + 1}</c></rc>\n" for s in symbols)
    types = "".join(
        f"<rc><c> {symbols.count(s)}</c><c>{s:2}</c><c> 10.0</c><c> 4.0</c><c> PAW_PBE {s} </c></rc>\n"
        for s in kinds
    )
    return (
        f"<atominfo>\n<atoms> {len(symbols)} </atoms>\n<types> {len(kinds)} </types>\n"
        f'<array name="atoms" >\n<set>\n{rows}</set>\n</array>\n'
        f'<array name="atomtypes" >\n<set>\n{types}</set>\n</array>\n</atominfo>\n'
    )


def vasprun_xml(run: Run) -> str:
    """The text of the file."""
    settings = SETTINGS | run.settings
    electronic, ionic = (
        "".join(item(key, value) for key, value in settings.items() if (key == "NELM") == first)
        for first in (True, False)
    )
    first, last = run.steps[0], run.steps[-1]
    return "".join(
        [
            '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>\n',
            '<i name="program" type="string">vasp </i>\n<i name="version" type="string">6.4.2 </i>\n',
            "</generator>\n<incar>\n",
            *(item(key, value) for key, value in run.incar.items()),
            '</incar>\n<kpoints>\n<generation param="Gamma">\n',
            '<v type="int" name="divisions"> 1 1 1 </v>\n<v name="usershift"> 0.0 0.0 0.0 </v>\n',
            "</generation>\n",
            varray("kpointlist", [[0.0, 0.0, 0.0]]),
            varray("weights", [[1.0]]),
            '</kpoints>\n<parameters>\n<separator name="electronic" >\n',
            electronic,
            '</separator>\n<separator name="ionic" >\n',
            ionic,
            "</separator>\n</parameters>\n",
            atoms(run.symbols),
            structure(first.cell, first.fractional, ' name="initialpos" ', run.selective),
            *map(calculation, run.steps),
            structure(last.cell, last.fractional, ' name="finalpos" '),
            "</modeling>\n",
        ]
    )


def outcar(*steps) -> bytes:
    """Tables of charges in an OUTCAR, one for each ionic step: rows of s, p and so on, and their sum."""
    text = " total charge-density along one line\n"
    for rows in steps:
        lines = "".join(
            f"{n:5d}      {'   '.join(f'{x:6.3f}' for x in row)}\n" for n, row in enumerate(rows, start=1)
        )
        text += (
            f" \n\n total charge     \n \n# of ion       s       p       tot\n{'-' * 42}\n{lines}{'-' * 50}\n"
        )
        text += f"tot          {'   '.join(f'{sum(x):6.3f}' for x in zip(*rows, strict=True))}\n \n\n"
    return text.encode()
