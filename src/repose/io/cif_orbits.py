"""Images of sites under symmetry operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.cif_sites import Sites
from repose.io.space_groups import Operations

# Images of one site closer than this are one atom on a special position (coordinates have few digits).
SAME_SITE = 0.1  # A


def expand(
    sites: Sites, operations: Operations, cell: NDArray[Any]
) -> tuple[list[str], NDArray[Any], list[int]]:
    """All atoms of the cell: each site, followed by its images.

    A site that is an image of an earlier one of the same element is not repeated, so that a file which
    lists all atoms and all operations is read as well.

    Args:
        sites: Listed in the file.
        operations: Rotations and translations on fractional columns.
        cell: Lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        Symbols of the atoms, their fractional coordinates ``(N, 3)``, and how many images each site has.

    Raises:
        InvalidCrystalError: Sites of two elements are in the same place.
    """
    if len(operations[0]) == 1:
        return list(sites.symbols), sites.fractional, [1] * len(sites.symbols)
    symbols: list[str] = []
    owners: list[str] = []
    orbits: list[NDArray[Any]] = []
    sizes: list[int] = []
    for label, symbol, site in zip(sites.labels, sites.symbols, sites.fractional, strict=True):
        orbit = _orbit(site, operations, cell)
        sizes.append(len(orbit))
        before = np.concatenate(orbits) if orbits else np.zeros((0, 3))
        same = np.flatnonzero(apart(before, orbit[0], cell) < SAME_SITE)
        for k in same[:1]:
            if symbols[k] != symbol:
                raise InvalidCrystalError(
                    f"sites '{owners[k]}' and '{label}' are in the same place, with their images; expected "
                    "one element on each site."
                )
        if not len(same):
            symbols += [symbol] * len(orbit)
            owners += [label] * len(orbit)
            orbits.append(orbit)
    return symbols, np.concatenate(orbits), sizes


def apart(points: NDArray[Any], point: NDArray[Any], cell: NDArray[Any]) -> NDArray[Any]:
    """Distances in A of fractional points ``(..., 3)`` to another, to the image that rounding finds."""
    difference = points - point
    return np.linalg.norm((difference - np.rint(difference)) @ cell, axis=-1)


def _orbit(site: NDArray[Any], operations: Operations, cell: NDArray[Any]) -> NDArray[Any]:
    """All images of a site in one cell, ``(m, 3)``, the site first; a special position is met exactly."""
    rotations, translations = operations
    images = rotations @ site + translations
    same = apart(images, site, cell) < SAME_SITE
    if same.any():
        shifts = images[same] - site
        site = site + (shifts - np.rint(shifts)).mean(axis=0)
    images = rotations @ site + translations
    images = np.concatenate([site[None], images - np.floor(images)])
    near = apart(images[:, None], images[None], cell) < SAME_SITE
    return images[near.argmax(axis=1) == np.arange(len(images))]
