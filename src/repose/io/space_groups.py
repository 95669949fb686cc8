"""Space groups by their names in files, and by their operations.

Settings and operations are those of gemmi (International Tables B, 564 settings). Full symbols
('F 4/m -3 2/m') and symbols with e glides are those of spglib.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Operations = tuple[NDArray[Any], NDArray[Any]]  # rotations (m, 3, 3), translations (m, 3)

# Order of each point group, by its symbol without blanks.
_ORDERS = {
    "1": 1, "-1": 2, "2": 2, "m": 2, "2/m": 4, "222": 4, "mm2": 4, "m2m": 4, "2mm": 4, "mmm": 8,
    "4": 4, "-4": 4, "4/m": 8, "422": 8, "4mm": 8, "-42m": 8, "-4m2": 8, "4/mmm": 16,
    "3": 3, "-3": 6, "32": 6, "321": 6, "312": 6, "3m": 6, "3m1": 6, "31m": 6, "-3m": 12, "-3m1": 12,
    "-31m": 12, "6": 6, "-6": 6, "6/m": 12, "622": 12, "6mm": 12, "-6m2": 12, "-62m": 12, "6/mmm": 24,
    "23": 12, "m-3": 24, "m3": 24, "432": 24, "-43m": 24, "m-3m": 48, "m3m": 48,
}  # fmt: skip
_CENTRINGS = {"P": 1, "A": 2, "B": 2, "C": 2, "I": 2, "F": 4, "R": 3, "H": 3}
# Choice of origin or axes as in ICSD ('F d -3 m S', 'R -3 m HR'), COD (':2') and FINDSYM (in words).
_CHOICES = {
    "1": "1", "2": "2", "h": "H", "r": "R", "s": "1", "z": "2", "hr": "H", "rs": "R", "o1": "1", "o2": "2",
}  # fmt: skip
_WORDS = {
    r"origin\s*(choice)?\s*1": "1", r"origin\s*(choice)?\s*2": "2", r"hexagonal": "H", r"rhombohedral": "R",
}  # fmt: skip


def find(name: str) -> tuple[list[Any], str]:
    """Settings of a Hermann-Mauguin symbol.

    Args:
        name: Symbol in any usual spelling: short, full or extended, old ('F m 3 m'), SHELX ('P2(1)/c'), ICSD
            ('F d -3 m S'), with or without blanks and underscores, in any case.

    Returns:
        ``gemmi.SpaceGroup`` objects, standard settings first, none if the name is unknown; and the choice in
        the name: '1' or '2' for the origin, 'H' or 'R' for the axes, else ''.
    """
    text, choice = re.sub(r"<[^>]*>", "", name), ""
    text = re.sub(r"\\(?:bar|overline)\s*\{?\s*(\d)\s*\}?", r"-\1", text)  # of LaTeX
    text = re.sub(r"\(\s*(?:no\.?|#)?\s*\d{2,3}\s*\)|(?:no\.|#)\s*\d+\s*$", "", text, flags=re.IGNORECASE)
    for words, meant in _WORDS.items():
        if re.search(words, text, re.IGNORECASE):
            text, choice = re.sub(r"\([^)]*\)", "", text), meant
    base, _, suffix = _squeezed(text).partition(":")
    found = _by_name().get(base, [])
    if suffix and suffix not in _CHOICES:  # ':b1', ':cab'
        return [group for group in found if suffix in codes(group)], ""
    choice = _CHOICES.get(suffix, choice)
    if not found and not suffix:
        for ending in ("hr", "rs", "o1", "o2", "h", "r", "s", "z", "1", "2"):
            settings = _by_name().get(base.removesuffix(ending), []) if base.endswith(ending) else []
            if any(_CHOICES[ending] == group.ext for group in settings):
                found, choice = settings, _CHOICES[ending]
                break
    with_choice = any(group.ext in _CHOICES.values() for group in found)  # e.g. not of 'Fm-3m:1'
    return [group for group in found if not with_choice or choice in ("", group.ext)], choice


def settings(number: int) -> list[Any]:
    """All settings of a space group, the standard ones first; empty for an unknown number."""
    import gemmi

    found = [group for group in gemmi.spacegroup_table() if group.number == number]
    return sorted(found, key=lambda group: not group.is_reference_setting())


@cache
def by_schoenflies() -> dict[str, int]:
    """Number of a space group by its Schoenflies symbol, as ``oh^5``."""
    return {kind.schoenflies.lower(): kind.number for kind in _spglib_types()}


def codes(group: Any) -> set[str]:
    """Values of ``_space_group_IT_coordinate_system_code`` of a setting: 'b1', 'cab', '2', '2cab', 'h'."""
    ext = group.ext.strip("\0").lower()
    axes = group.qualifier or "abc"
    return {axes, ext + axes, ext} - {""}


def operations(group: Any) -> Operations:
    """Operations of a ``gemmi.SpaceGroup`` or ``gemmi.GroupOps``."""
    listed = list(group.operations() if hasattr(group, "operations") else group)
    scale = listed[0].DEN
    return np.array([op.rot for op in listed]) // scale, np.array([op.tran for op in listed]) / scale


def from_hall(symbol: str) -> Operations | None:
    """Operations of a Hall symbol, with or without a change of basis; None if it cannot be read."""
    import gemmi

    try:
        return operations(gemmi.symops_from_hall(symbol.replace("_", " ").strip()))
    except (ValueError, RuntimeError):
        return None


def identify(rotations: NDArray[Any], translations: NDArray[Any], cell: NDArray[Any]) -> tuple[int, str]:
    """Number of the space group of a closed list of operations, in any setting, and choice of its origin.

    Args:
        rotations: Rotations of fractional column vectors, ``(m, 3, 3)``.
        translations: ``(m, 3)``.
        cell: Lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        The number, 0 if unknown, and the choice: '1', '2', 'H', 'R', or '' without one.
    """
    import gemmi
    import spglib

    steps = np.rint(translations * gemmi.Op.DEN)
    if np.abs(steps / gemmi.Op.DEN - translations).max() < 1e-6:
        listed = []
        for rotation, step in zip(rotations, steps, strict=True):
            op = gemmi.Op("x,y,z")
            op.rot = (rotation.astype(int) * op.DEN).tolist()
            op.tran = (step.astype(int) % op.DEN).tolist()
            listed.append(op)
        group = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(listed))
        if group is not None:
            return group.number, group.ext.strip("\0")
    kind: Any = spglib.get_spacegroup_type_from_symmetry(
        rotations.astype("intc"), translations, lattice=_symmetric(cell, rotations), symprec=1e-3
    )
    return (kind.number, "") if kind is not None else (0, "")


def order(name: str) -> int:
    """Number of operations in the cell by a symbol of any setting; 0 for other text.

    It follows from the lattice and the point group, also for symbols that are not in the tables.
    """
    words = re.sub(r"[_~<>]|sub", "", name).replace("(", "").replace(")", "").split()
    if len(words) < 2 or words[0].upper() not in _CENTRINGS:
        return 0
    point = [re.sub(r"[abcnde]", "m", re.sub(r"^(-?[2346])[1-5]", r"\1", w.lower())) for w in words[1:]]
    if len(point) == 3 and point.count("1") == 2:
        point = [w for w in point if w != "1"]
    return _CENTRINGS[words[0].upper()] * _ORDERS.get("".join(point), 0)


def _squeezed(name: str) -> str:
    text = name.lower().replace("bar", "").replace("\\", "").replace("=", "").replace("'", "")
    text = re.sub(r"\(\s*([1-5])\s*\)", r"\1", text)  # SHELX: P2(1)/c
    return re.sub(r"[\s_~]", "", text)


@cache
def _spglib_types() -> list[Any]:
    import spglib

    return [spglib.get_spacegroup_type(index) for index in range(1, 531)]


@cache
def _by_name() -> dict[str, list[Any]]:
    import gemmi

    full = defaultdict(list)
    for kind in _spglib_types():
        names = [kind.international_full, *kind.international.split("=")]
        full[kind.number, _squeezed(kind.hall_symbol)] += names
    table: dict[str, list[Any]] = defaultdict(list)
    for group in gemmi.spacegroup_table():
        known = full[group.number, _squeezed(group.hall)]
        names = [group.hm, *known]
        if 3 <= group.number <= 15 and known:  # 'P 21/n' for 'P 1 21/n 1', in common settings
            names += [re.sub(r"(?<=\s)1(?=\s|$)", "", name) for name in names]
        if group.number >= 200:
            names += [name.replace("-3", "3") for name in names]  # F m 3 m; -43m has no -3
        for name in dict.fromkeys(map(_squeezed, names)):
            table[name].append(group)
    return dict(table)


def _symmetric(cell: NDArray[Any], rotations: NDArray[Any]) -> NDArray[Any]:
    """Cell with exactly the metric symmetry of the operations."""
    metric = np.mean(rotations.transpose(0, 2, 1) @ (cell @ cell.T) @ rotations, axis=0)
    return np.linalg.cholesky(metric)
