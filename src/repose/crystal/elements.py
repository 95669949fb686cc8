"""Tabulated properties of the elements."""

from __future__ import annotations

import csv
import math
from functools import cache
from importlib import resources

import numpy as np

MAX_NUMBER = 118

# The covalent radius replaces values of these that are not tabulated.
_RADII = ("cation_radius", "anion_radius", "atomic_radius")


@cache
def element_table() -> dict[str, np.ndarray]:
    """Tabulated properties of the elements, from pymatgen and ASE (``tools/make_elements.py``).

    Returns:
        By name, each indexed by atomic number 0 to 103: radii in A, NaN where there is none; ``""`` as
        symbol of 0.
    """
    text = resources.files("repose.crystal").joinpath("elements.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    table = {
        name: np.array([math.nan, *(float(row[name] or "nan") for row in rows)])
        for name in rows[0]
        if name != "symbol"
    }
    return table | {"symbol": np.array(["", *(row["symbol"] for row in rows)])}


@cache
def element_properties() -> np.ndarray:
    """Standardised properties of the elements: radii, electronegativity, group, period, valences, ...

    Returns:
        ``(119, P)`` float32, row z for atomic number z, each column with mean 0 and variance 1 over
        elements 1 to 94; rows of elements without a table (0 and above 103) are zero.
    """
    values = dict(element_table())
    for name in _RADII:
        values[name] = np.where(np.isnan(values[name]), values["covalent_radius"], values[name])
    names = [name for name in values if name not in ("number", "symbol")]
    table = np.stack([values[name][1:] for name in names], axis=1)
    known = table[:94]
    mean, spread = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    standard = np.where(np.isnan(table), 0.0, (table - mean) / spread)
    padded = np.zeros((MAX_NUMBER + 1, len(names)), dtype=np.float32)
    padded[1 : len(standard) + 1] = standard
    return padded


@cache
def atomic_masses() -> np.ndarray:
    """Atomic weights in u by atomic number, ``(119,)`` float32; mass numbers where no isotope is stable."""
    from ase.data import atomic_masses as tabulated

    return np.asarray(tabulated, dtype=np.float32)[: MAX_NUMBER + 1]


def symbol(number: int) -> str:
    """Symbol of an element; ``"?"`` where there is none."""
    from ase.data import chemical_symbols

    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else "?"
