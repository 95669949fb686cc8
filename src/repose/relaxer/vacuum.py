"""Messages about molecules and vacuum in the input."""

from __future__ import annotations

from repose.crystal.batch import CrystalBatch
from repose.crystal.connectivity import Layout
from repose.crystal.lattice import vacuum_thickness
from repose.relaxer.constraints import Constraints

ISOLATED = (
    "its atoms form an isolated molecule or cluster, far from its periodic images; expected a crystal. Relax "
    "it with a method for molecules, or check the lattice vectors."
)
MOLECULAR = (
    "it consists of separate molecules without bonds between them, but the models are made for crystals with "
    "a network of bonds; check the result with another method."
)


def vacuum_remarks(found: Layout, crystal: CrystalBatch, constraints: Constraints) -> tuple[str, ...]:
    """Remarks on vacuum that is kept without a constraint of the user."""
    if constraints.fix_cell:
        return ()
    if found.oblique:
        return (
            "there is vacuum along a direction that is not that of a lattice vector, so the whole cell is "
            "kept; choose a cell whose other vectors lie within the sheet or chain.",
        )
    kept = constraints.fix_axes + found.empty
    near = tuple(
        f"there are no bonds along {axis}, but the gap is too small to count as vacuum and may close; if it "
        f"is vacuum, keep it with fix_axes='{axis}' (--fix-axes {axis})."
        for axis in found.wide
        if axis not in kept
    )
    if not found.empty:
        return near
    thickness = vacuum_thickness(crystal.positions, crystal.cells, crystal.system_index)[0].tolist()
    return near + tuple(
        f"{size:.1f} A without atoms along {axis} count as vacuum, so lattice vector {axis} is kept; if the "
        "file format allows, mark this direction as not periodic (pbc)."
        for axis, size in zip("abc", thickness, strict=True)
        if axis in found.empty and axis not in constraints.fix_axes
    )
