"""Figure of one relaxed crystal, without a display and without matplotlib's global state."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from repose.crystal.batch import CrystalBatch
from repose.errors import ConfigError, require
from repose.relaxer.relaxation import Relaxation
from repose.report.appearance import appearance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = 0.45  # radius of a circle over the covalent radius
FACE = 0.3  # A: atoms nearer to a face are drawn on the opposite one, too
TILT = 0.18  # of the view against a lattice vector, so that rows of atoms can be told apart
WIDTHS = {"crystal": 3.6, "energy": 3.4}  # of panels, in inches

Colours = Literal["element", "bound"]


def plot(result: Relaxation, colours: Colours = "element") -> Figure:
    """Draw a crystal before and after, seen along its shortest lattice vector.

    A further panel has energies along the relaxation, if the result has a trajectory or a predicted path.

    Args:
        result: From `Relaxer.relax`.
        colours: Atoms are coloured by their ``"element"``, or by the ``"bound"`` on their error.

    Returns:
        A matplotlib Figure; a notebook shows it, ``figure.savefig("crystal.png")`` writes it.

    Raises:
        ConfigError: The result has no prediction, or no bounds for colours.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "a figure of a crystal")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if result.after is None:
        raise ConfigError(f"plot needs a relaxed crystal; this one was {result.status}: {result.reason}")
    if colours not in ("element", "bound"):
        raise ConfigError(f"colours must be 'element' or 'bound'; got {colours!r}.")
    bounds = result.atom_uncertainty
    scale = None
    shades = [appearance(int(number))[0] for number in result.after.numbers]
    if colours == "bound":
        if bounds is None:
            raise ConfigError("colours='bound' needs bounds of atoms; the model gives none. Use 'element'.")
        scale = ScalarMappable(Normalize(bounds.min(), max(bounds.max(), bounds.min() + 1e-3)), "viridis")
        shades = list(scale.to_rgba(bounds))
    states = {"before": result.before, "after": result.after}
    known = {name: crystal for name, crystal in states.items() if crystal is not None}
    energies = _energies(result)
    widths = [WIDTHS["crystal"]] * len(known) + ([] if energies is None else [WIDTHS["energy"]])
    figure = Figure(figsize=(sum(widths), 4.2), layout="constrained")
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    shifts, view = _shifts(list(known.values())), _view(result.after)
    for axis, (name, crystal) in zip(axes, known.items(), strict=False):
        _draw(axis, crystal, shifts, shades, view)
        axis.set_title(name, fontsize="medium")
    _share_limits(axes[: len(known)])
    if scale is not None:
        figure.colorbar(scale, ax=axes[: len(known)], label="bound on the error, Å", shrink=0.7)
    if energies is not None:
        _draw_energies(axes[-1], *energies)
    figure.suptitle(_title(result))
    setattr(figure, "_repr_png_", partial(_to_png, figure))  # noqa: B010  # notebooks call it
    return figure


def _to_png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _title(result: Relaxation) -> str:
    parts = [result.formula, f"volume {100 * result.volume_change:+.1f} %"]
    if result.uncertainty is not None:
        parts.append(f"error below {result.uncertainty:.3f} Å{'' if result.outside is None else ' (!)'}")
    if result.energy is not None:
        parts.append(f"{result.energy / result.n_atoms:.4f} eV/atom")
    return ", ".join(parts)


def _view(crystal: CrystalBatch) -> np.ndarray:
    """Rotation, ``(3, 3)``; its rows point to the right, up, and to the viewer.

    The view is along the shortest lattice vector, the next one of c, b and a points up.
    """
    cell = crystal.cells[0].numpy()
    depth = min((2, 1, 0), key=lambda k: round(float(np.linalg.norm(cell[k])), 2))
    up = next(k for k in (2, 1, 0) if k != depth)
    viewer = cell[depth] / np.linalg.norm(cell[depth])
    vertical = cell[up] - (cell[up] @ viewer) * viewer
    vertical /= np.linalg.norm(vertical)
    right = np.cross(vertical, viewer)
    viewer = viewer + TILT * (right + vertical)
    rows, triangle = np.linalg.qr(np.array([viewer, vertical, right]).T)  # Gram-Schmidt, but for signs
    return (rows * np.sign(np.diag(triangle))).T[::-1]


def _fractional(crystal: CrystalBatch) -> np.ndarray:
    return crystal.positions.numpy() @ np.linalg.inv(crystal.cells[0].numpy())


def _shifts(crystals: list[CrystalBatch]) -> list[tuple[int, np.ndarray]]:
    """Drawn atoms with their shifts by lattice vectors, the same for all states of a crystal.

    Atoms are wrapped into the cell of the first state; those on faces have periodic images.
    """
    fractional = np.stack([_fractional(crystal) for crystal in crystals])  # (states, N, 3)
    near = FACE / np.linalg.norm(crystals[0].cells[0].numpy(), axis=1)
    pbc = crystals[0].pbc[0].numpy()
    home = np.where(pbc, -np.floor(fractional[0] + near), 0)
    wrapped = fractional + home
    below, above = ((pbc & (np.abs(wrapped - face) < near).any(axis=0)).astype(int) for face in (0, 1))
    found = []
    for atom, shift in enumerate(home):
        steps = [[0, *[1] * below[atom, k], *[-1] * above[atom, k]] for k in range(3)]
        found += [(atom, shift + np.array(step)) for step in product(*steps)]
    return found


def _draw(
    axis: Axes,
    crystal: CrystalBatch,
    shifts: list[tuple[int, np.ndarray]],
    shades: list[Any],
    view: np.ndarray,
) -> None:
    """Draw the outline of the cell and the atoms, the farthest first."""
    from matplotlib.patches import Circle

    cell, fractional = crystal.cells[0].numpy(), _fractional(crystal)
    for corner in product((0, 1), repeat=3):
        for k in range(3):
            if corner[k] == 0:
                ends = (np.array([corner, np.add(corner, np.eye(3)[k])]) - 0.5) @ cell @ view.T
                axis.plot(*ends[:, :2].T, color="#777777", linewidth=0.8, zorder=ends[:, 2].mean())
    for atom, shift in shifts:
        x, y, depth = (fractional[atom] + shift - 0.5) @ cell @ view.T
        radius = SIZE * appearance(int(crystal.numbers[atom]))[1]
        axis.add_patch(
            Circle((x, y), radius, facecolor=shades[atom], edgecolor="black", linewidth=0.6, zorder=depth)
        )
    axis.autoscale_view()
    axis.set_aspect("equal")
    axis.axis("off")


def _share_limits(axes: Any) -> None:
    """Give panels one scale, so that volumes can be compared."""
    for which in ("x", "y"):
        largest = max(abs(end) for axis in axes for end in getattr(axis, f"get_{which}lim")())
        for axis in axes:
            axis.set(**{f"{which}lim": (-largest, largest)})


def _energies(result: Relaxation) -> tuple[np.ndarray, str] | None:
    """Energies along the relaxation above the last one, in eV/atom, and whose they are."""
    for frames, source in (
        (result.trajectory, result.calculator or "calculator"),
        (result.path, "predicted path"),
    ):
        known = [frame.energy for frame in frames or () if frame.energy is not None]
        if len(known) > 1:
            return (np.array(known) - known[-1]) / result.n_atoms, source
    return None


def _draw_energies(axis: Axes, energies: np.ndarray, source: str) -> None:
    axis.plot(energies, "o-", color="#0072B2", markersize=3)
    axis.set(title=source, xlabel="frame", ylabel="energy above the last, eV/atom")
    axis.title.set_fontsize("medium")
