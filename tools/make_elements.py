"""Write src/repose/crystal/elements.csv: tabulated properties of elements 1 to 103, from pymatgen and ASE.

Run once; the table is part of the repository, so that models do not depend on versions of pymatgen and ASE.
Missing values are empty here and filled when the table is read.
"""

import csv
import math
import warnings
from pathlib import Path

from ase.data import covalent_radii
from pymatgen.core import Element

TARGET = Path(__file__).parents[1] / "src/repose/crystal/elements.csv"


def shell_electrons(element: Element) -> dict[str, int]:
    """Return valence electrons by shell in the ground state; closed inner shells are not counted."""
    outer = dict.fromkeys("spdf", 0)
    # Ordered by energy: the last shell of each letter is kept.
    outer |= {letter: count for _, letter, count in element.full_electronic_structure}
    if element.group < 13:
        outer["p"] = 0
    if element.block == "s":
        outer["d"] = 0
    if not (element.is_lanthanoid or element.is_actinoid):
        outer["f"] = 0
    return outer


def mean_radius(element: Element, sign: int) -> float | None:
    """Return the mean ionic radius in A over oxidation states of one sign, None without any."""
    radii = [float(r) for state, r in element.ionic_radii.items() if state * sign > 0]
    return sum(radii) / len(radii) if radii else None


def row(number: int) -> dict[str, object]:
    """Return all properties of one element."""
    element = Element.from_Z(number)
    outer = shell_electrons(element)
    states = element.common_oxidation_states or element.oxidation_states or (0,)
    return {
        "number": number,
        "symbol": element.symbol,
        "period": element.row,
        "group": element.group,
        "electronegativity": element.X,
        "covalent_radius": float(covalent_radii[number]) if number <= 96 else None,
        "atomic_radius": element.atomic_radius_calculated or element.atomic_radius,
        "cation_radius": mean_radius(element, 1),
        "anion_radius": mean_radius(element, -1),
        "ionization_energy": element.ionization_energy,
        "electron_affinity": element.data.get("Electron affinity"),
        "mendeleev_number": element.mendeleev_no,
        "molar_volume": element.molar_volume,
        "melting_point": element.melting_point,
        "lowest_oxidation_state": min(states),
        "highest_oxidation_state": max(states),
        **{f"{letter}_electrons": count for letter, count in outer.items()},
    }


def cell(value: object) -> str:
    """Return one entry of the table; empty if the value is missing."""
    if isinstance(value, str):
        return value
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else f"{float(value):g}"  # type: ignore[arg-type]


def main() -> None:
    """Write the table."""
    warnings.simplefilter("ignore")  # pymatgen warns of every missing value
    rows = [row(number) for number in range(1, 104)]
    with TARGET.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        for values in rows:
            writer.writerow({k: cell(v) for k, v in values.items()})


if __name__ == "__main__":
    main()
