"""Molecules and vacuum in the input: what is refused, what is kept, and what the user is told."""

from __future__ import annotations

from repose.crystal.batch import CrystalBatch
from repose.crystal.connectivity import Layout
from repose.crystal.lattice import emptiest_slab
from repose.relaxer.constraints import Constraints

ISOLATED = (
    "its atoms form an isolated molecule or cluster, far from its periodic images; expected a crystal. Relax "
    "it with a method for molecules, or check the lattice vectors."
)
MOLECULAR = (
    "it consists of separate molecules without bonds between them; the models were made for crystals that "
    "bonds hold together, so check the answer with another method."
)


def vacuum_remarks(found: Layout, crystal: CrystalBatch, constraints: Constraints) -> tuple[str, ...]:
    """What to tell the user of vacuum that is kept though nobody asked for it.

    Args:
        found: Layout of the crystal.
        crystal: The input.
        constraints: What the user asked for.
    """
    if constraints.fix_cell:
        return ()
    if found.oblique:
        return (
            "there is vacuum along a direction that is none of the lattice vectors, so the whole cell is "
            "kept; choose lattice vectors such that the others lie within the sheet or chain.",
        )
    kept = constraints.fix_axes + found.empty
    near = tuple(
        f"nothing is in contact along {axis}, but the gap is too small to be taken for vacuum and may close; "
        f"keep it with fix_axes='{axis}' (--fix-axes {axis}) if it is vacuum."
        for axis in found.wide
        if axis not in kept
    )
    thickness = emptiest_slab(crystal.positions, crystal.cells, crystal.system_index)[0].tolist()
    return near + tuple(
        f"{size:.1f} A without atoms along {axis} are taken for vacuum, so lattice vector {axis} is kept; "
        "where the format can, mark this direction as not periodic (pbc)."
        for axis, size in zip("abc", thickness, strict=True)
        if axis in found.empty and axis not in constraints.fix_axes
    )
