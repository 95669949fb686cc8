"""Colours and radii of drawn atoms."""

from __future__ import annotations

from repose.crystal.elements import element_table

GREY, RADIUS = "#888888", 1.5  # of elements without a colour or a radius


def appearance(number: int) -> tuple[str, float]:
    """Colour of an element as ``"#rrggbb"``, as in Jmol, and its covalent radius in A."""
    from ase.data.colors import jmol_colors

    radii = element_table()["covalent_radius"]
    colour = GREY
    if number < len(jmol_colors):
        colour = "#" + "".join(f"{round(255 * float(part)):02x}" for part in jmol_colors[number])
    return colour, round(float(radii[number]), 2) if number < len(radii) else RADIUS
