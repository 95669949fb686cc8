"""Six real relaxation paths, and how to compare pairs with them."""

import numpy as np
from ase import Atoms

from repose.data.dataset import Pair
from repose.data.importers.formats import import_extxyz
from repose.data.pairing import Refusal
from support.paths import PATHS

IDS = [
    *("xmno-531-00125", "xmno-531-00140", "xmno-531-00149"),
    *("bulk-031-00159", "subst-042-00124", "subst-042-00236"),
]
REFERENCE = {pair.id: pair for pair in import_extxyz(PATHS) if isinstance(pair, Pair)}


def states(pair: Pair) -> tuple[Atoms, Atoms]:
    return (
        Atoms(pair.numbers, pair.positions, cell=pair.cell, pbc=pair.pbc),
        Atoms(pair.numbers, pair.relaxed_positions, cell=pair.relaxed_cell, pbc=pair.pbc),
    )


def assert_same(pair: Pair, expected: Pair, tolerance=1e-8):
    np.testing.assert_array_equal(pair.numbers, expected.numbers)
    for name in ("positions", "cell", "relaxed_positions", "relaxed_cell"):
        np.testing.assert_allclose(
            getattr(pair, name), getattr(expected, name), rtol=0, atol=tolerance, err_msg=name
        )


def split_up(items):
    items = list(items)
    return [i for i in items if isinstance(i, Pair)], [i for i in items if isinstance(i, Refusal)]
