"""Orbits of sites under symmetry operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.cif_sites import Sites
from repose.io.space_groups import Operations

# Images of a site that are closer are one atom on a special position, as coordinates have few digits.
SAME_SITE = 0.1  # A


def expand(
    sites: Sites, operations: Operations, cell: NDArray[Any]
) -> tuple[list[str], NDArray[Any], list[int]]:
    """All atoms of the cell: each site, followed by its images.

    Sites that are images of an earlier site of the same element are omitted, for files that list all atoms
    and all operations.

    Args:
        sites: Sites of the file.
        operations: Rotations and translations of fractional column vectors.
        cell: Lattice vectors as rows in A, ``(3, 3)``.

    Returns:
        Symbols of the atoms, their fractional coordinates ``(N, 3)``, and the number of images of each site.

    Raises:
        InvalidCrystalError: Sites of two elements coincide.
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
        same = np.flatnonzero(distances(before, orbit[0], cell) < SAME_SITE)
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


def distances(points: NDArray[Any], point: NDArray[Any], cell: NDArray[Any]) -> NDArray[Any]:
    """Distances in A of fractional points ``(..., 3)`` to another; images are chosen by rounding."""
    difference = points - point
    return np.linalg.norm((difference - np.rint(difference)) @ cell, axis=-1)


def _orbit(site: NDArray[Any], operations: Operations, cell: NDArray[Any]) -> NDArray[Any]:
    """Images of a site in one cell, ``(m, 3)``, the site first; sites are moved onto special positions."""
    rotations, translations = operations
    images = rotations @ site + translations
    same = distances(images, site, cell) < SAME_SITE
    if same.any():
        shifts = images[same] - site
        site = site + (shifts - np.rint(shifts)).mean(axis=0)
    images = rotations @ site + translations
    images = np.concatenate([site[None], images - np.floor(images)])
    near = distances(images[:, None], images[None], cell) < SAME_SITE
    return images[near.argmax(axis=1) == np.arange(len(images))]
