"""Draw a crystal before and after `repose relax`, for README.md and the documentation.

Both panels have the same scale, so that the change of volume is visible. Run it after training a new model::

    python tools/make_picture.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
TURN = "-78x,-12y,-4z"  # view almost along b, a little from above


def main() -> int:
    """Relax the crystal and write the picture; return 1 if it is refused or suspect."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crystal", nargs="?", type=Path, default=ROOT / "examples" / "CaO_rattled.cif")
    parser.add_argument("--model", default="default", help="name of a shipped model, or a model directory")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "_static" / "before-after.png")
    parser.add_argument("--symmetry", choices=("keep", "free"), default="keep")
    arguments = parser.parse_args()

    from ase.io import read

    import repose

    before: Any = read(arguments.crystal)
    (result,) = repose.load(arguments.model, device="cpu").relax([before], symmetry=arguments.symmetry)
    if result.status != "relaxed":
        print(f"{arguments.crystal} is {result.status}: {result.reason}", file=sys.stderr)
        return 1
    draw(before, result.structure, arguments.out)
    print(f"{arguments.out}: volume {100 * result.volume_change:+.1f} %")
    return 0


def draw(before: Any, after: Any, path: Path) -> None:
    """Draw the cells and their atoms side by side, with lengths and volume below each.

    Args:
        before: `ase.Atoms`, unrelaxed.
        after: `ase.Atoms`, relaxed.
        path: PNG file; its folder is made.
    """
    from ase.data import chemical_symbols
    from ase.data.colors import jmol_colors
    from ase.visualize.plot import plot_atoms
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(8.0, 4.4))
    panels = figure.subplots(1, 2)
    for panel, title, atoms in zip(panels, ("before", "after"), (before, after), strict=True):
        plot_atoms(filled(atoms), panel, radii=0.4, rotation=TURN, show_unit_cell=2)
        panel.set_axis_off()
        panel.set_title(title, fontsize=13)
        lengths = " \N{MULTIPLICATION SIGN} ".join(f"{length:.2f}" for length in atoms.cell.lengths())
        caption = f"{lengths} Å, {atoms.get_volume():.1f} Å³"
        panel.text(0.5, -0.06, caption, transform=panel.transAxes, ha="center", fontsize=11)
    # The same scale for both: the wider of the two ranges.
    for axis in "xy":
        ranges = [getattr(panel, f"get_{axis}lim")() for panel in panels]
        half = max(high - low for low, high in ranges) / 2
        for panel, (low, high) in zip(panels, ranges, strict=True):
            getattr(panel, f"set_{axis}lim")((low + high) / 2 - half, (low + high) / 2 + half)
    elements = [
        Line2D([], [], ls="", marker="o", ms=9, mec="black", mfc=jmol_colors[z], label=chemical_symbols[z])
        for z in sorted(set(before.numbers.tolist()), reverse=True)
    ]
    figure.legend(handles=elements, loc="lower center", ncols=len(elements), frameon=False)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.17, top=0.92, wspace=0.12)
    figure.text(0.5, 0.55, "→", ha="center", va="center", fontsize=26)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def filled(atoms: Any, margin: float = 0.12) -> Any:
    """Cell with the periodic images of its atoms on and just beyond its faces.

    Args:
        atoms: `ase.Atoms` of one cell.
        margin: Fractional distance beyond a face up to which images are shown.

    Returns:
        `ase.Atoms` in the same cell.
    """
    drawn = atoms.copy()
    drawn.wrap(eps=margin)
    inside = drawn.get_scaled_positions(wrap=False)
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    images = images[(images[:, ~atoms.pbc] == 0).all(axis=1)]
    places = inside + images[:, None]  # (27, N, 3)
    image, atom = np.nonzero(((places > -margin) & (places < 1 + margin)).all(axis=-1))
    result = drawn[atom]
    result.set_scaled_positions(places[image, atom])
    return result


if __name__ == "__main__":
    raise SystemExit(main())
