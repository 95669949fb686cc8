"""Volumes of crystals from their composition, fitted to relaxed crystals."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from repose.atomic_write import replacing_file
from repose.crystal.elements import element_table
from repose.errors import DatasetError, ShapeError

if TYPE_CHECKING:
    from scipy import sparse

LAST = 103  # element with tabulated properties

# Role of an atom in its crystal. The volume of an element depends on it: 17 A^3 for aluminium in alloys and
# 12 A^3 for aluminium as a cation.
METALLIC, ANION, CATION = range(3)
ROLES = ("metallic", "anion", "cation")
# Elements that can be anions, and the least difference of their electronegativity to the smallest one.
_IS_ANION = np.isin(np.arange(LAST + 1), [1, 6, 7, 8, 9, 15, 16, 17, 33, 34, 35, 51, 52, 53])
_SALT = 0.4
# Further anions beside the most electronegative element: these, and elements within this difference of it.
_IS_ALWAYS_ANION = np.isin(np.arange(LAST + 1), [7, 8, 9, 16, 17, 34, 35, 53])
_BESIDE = 0.35
# Larger residuals of log V have a linear instead of a quadratic loss: some crystals relax to another phase.
_ROBUST = 0.1
# Ridge parameters in crystals: of elements towards their regression on radius and molar volume, of prototypes
# towards 1. In cross-validation over chemical systems a third or three times of either gives the same errors.
_RIDGE_ELEMENT = 0.3
_RIDGE_PROTOTYPE = 0.5
# Larger sets are thinned out to this number, which gives the same fit.
_MOST_CRYSTALS = 20_000
_STEPS = 100
_FIELDS = ("kind", "name", "role", "value", "crystals")


def roles(numbers: np.ndarray) -> np.ndarray:
    """Role of every atom, as an index into `ROLES`, by electronegativity alone.

    Args:
        numbers: Atomic numbers, ``(n,)``.

    Returns:
        ``(n,)`` int: anions and cations if a nonmetal exceeds the least electronegative element by 0.4 on
        Pauling's scale, else all metallic.
    """
    scale = element_table()["electronegativity"]
    negativity, able = scale[numbers], _IS_ANION[numbers]
    least, top = negativity.min(), negativity.max(where=able, initial=0.0)
    if top - least <= _SALT:
        return np.full(len(numbers), METALLIC)
    beside = able & (negativity > max(top - _BESIDE, least))
    always = _IS_ALWAYS_ANION[numbers] & (negativity > least + _SALT)
    return np.where(beside | always, ANION, CATION)


@dataclass(frozen=True, eq=False)
class Volumes:
    """Model of relaxed volumes: ``V = (sum of atomic volumes) * exp(contraction * var X) * factor``.

    Attributes:
        atomic: Volume of an atom in A^3 by role and atomic number, ``(3, 104)``; NaN where unknown.
        contraction: Change of log V per variance of the electronegativity X over the atoms; negative.
        prototypes: Factor of a prototype, by label; 1 for all others.
        crystals: Number of crystals that an entry of `atomic` is fitted to, ``(3, 104)``.
    """

    atomic: np.ndarray
    contraction: float
    prototypes: dict[str, float] = field(default_factory=dict)
    crystals: np.ndarray = field(default_factory=lambda: np.zeros((len(ROLES), LAST + 1), dtype=int))

    def covers(self, numbers: np.ndarray) -> bool:
        """Return whether all elements have a volume."""
        return bool(numbers.max() <= LAST and np.isfinite(self.atomic[CATION, numbers]).all())

    def predict(self, numbers: np.ndarray, prototype: str = "") -> float:
        """Return the predicted relaxed volume of a crystal in A^3.

        Args:
            numbers: Atomic numbers of its atoms, ``(n,)``.
            prototype: Label of its prototype, if it has one.

        Raises:
            DatasetError: An element has no volume.
        """
        if not self.covers(numbers):
            unknown = sorted({z for z in numbers.tolist() if not self.covers(np.array([z]))})
            raise DatasetError(f"no volume is known of the elements with atomic numbers {unknown}.")
        atomic = self.atomic[roles(numbers), numbers].sum()
        spread = element_table()["electronegativity"][numbers].var()
        return float(atomic * np.exp(self.contraction * spread) * self.prototypes.get(prototype, 1.0))

    def save(self, path: Path) -> None:
        """Write the table, atomically, as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_FIELDS)
        writer.writerow(("contraction", "", "", f"{self.contraction:.4f}", ""))
        for role, z in np.argwhere(np.isfinite(self.atomic)):
            known = (f"{self.atomic[role, z]:.3f}", self.crystals[role, z])
            writer.writerow(("element", element_table()["symbol"][z], ROLES[role], *known))
        for label, factor in sorted(self.prototypes.items()):
            writer.writerow(("prototype", label, "", f"{factor:.4f}", ""))
        with replacing_file(path) as new:
            new.write_text(text.getvalue(), encoding="utf-8")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a file written by `save`."""
        symbols = list(element_table()["symbol"])
        atomic = np.full((len(ROLES), LAST + 1), np.nan)
        crystals = np.zeros(atomic.shape, dtype=int)
        contraction, prototypes = 0.0, {}
        for row in csv.DictReader(text.splitlines()):
            value = float(row["value"])
            if row["kind"] == "element":
                where = ROLES.index(row["role"]), symbols.index(row["name"])
                atomic[where], crystals[where] = value, int(row["crystals"])
            elif row["kind"] == "prototype":
                prototypes[row["name"]] = value
            else:
                contraction = value
        return cls(atomic, contraction, prototypes, crystals)


@cache
def known_volumes() -> Volumes:
    """Volumes fitted to crystals of the Materials Project; see ``tools/make_known_volumes.py``."""
    file = resources.files("repose.crystal").joinpath("known_volumes.csv")
    return Volumes.parse(file.read_text(encoding="utf-8"))


def fit_volumes(
    numbers: Sequence[np.ndarray], volumes: Sequence[float] | np.ndarray, prototypes: Sequence[str] = ()
) -> Volumes:
    """Fit volumes to relaxed crystals, by robust ridge regression of log V.

    Atomic volumes are regularised towards a regression on covalent radius and molar volume of the elements,
    one for each role, which also gives the volumes of elements without data; factors of prototypes towards 1.

    Args:
        numbers: Atomic numbers of every crystal, each ``(n,)``.
        volumes: Relaxed volumes of the same crystals in A^3, ``(S,)``.
        prototypes: Labels of the same crystals, ``""`` where unknown; an empty sequence if all are unknown.

    Raises:
        ShapeError: There are no crystals, or not one volume for each.
    """
    from scipy import sparse

    volumes, prototypes = np.asarray(volumes, dtype=float), list(prototypes) or [""] * len(numbers)
    if len(numbers) == 0 or not len(numbers) == len(volumes) == len(prototypes):
        raise ShapeError(
            f"need one volume and one prototype for each of at least one crystal; got {len(numbers)} "
            f"crystals, {len(volumes)} volumes and {len(prototypes)} prototypes."
        )
    if len(numbers) > _MOST_CRYSTALS:
        some = np.linspace(0, len(numbers) - 1, _MOST_CRYSTALS).astype(int)
        numbers, prototypes = [numbers[k] for k in some], [prototypes[k] for k in some]
        volumes = volumes[some]
    labels = sorted(set(prototypes) - {""})
    counts, further = _count_atoms(numbers), _further(numbers, prototypes, labels)
    known, regressors = _regressors()
    n_atomic, n_prior = regressors.shape
    ridge = np.full(n_atomic + n_prior + 1 + len(labels), 1e-6)
    ridge[:n_atomic], ridge[n_atomic + n_prior + 1 :] = _RIDGE_ELEMENT, _RIDGE_PROTOTYPE
    # The fit starts from the mean volume for every atom.
    solution = np.zeros(len(ridge))
    solution[n_atomic : n_atomic + len(ROLES)] = np.log(volumes.sum() / counts.sum())
    expand = sparse.hstack([sparse.eye_array(n_atomic), sparse.csr_array(regressors)]).tocsr()
    for _ in range(_STEPS):
        atomic = np.exp(expand @ solution[: n_atomic + n_prior])
        summed = counts @ atomic
        residual = np.log(volumes / summed) - further @ solution[n_atomic + n_prior :]
        shares = sparse.diags_array(1 / summed) @ counts @ sparse.diags_array(atomic)
        jacobian = sparse.hstack([shares @ expand, further]).tocsr()
        weighted = (sparse.diags_array(1 / np.sqrt(1 + (residual / _ROBUST) ** 2)) @ jacobian).T
        normal = (weighted @ jacobian).toarray() + np.diag(ridge)
        step = np.linalg.solve(normal, weighted @ residual - ridge * solution)
        # Limited steps: the first ones are too long.
        solution += step * min(1.0, 1.0 / np.abs(step).max())
        if np.abs(step).max() < 1e-6:
            break
    atomic = np.exp(expand @ solution[: n_atomic + n_prior]).reshape(len(ROLES), -1)
    crystals = np.bincount(counts.indices, minlength=n_atomic).reshape(atomic.shape)
    # The regression is fitted to metals; it overestimates nonmetals that are cations or metallic.
    smaller = np.minimum(atomic, atomic[ANION])
    atomic = np.where(_IS_ANION & (crystals == 0), smaller, atomic)
    # No other element is an anion.
    known = np.stack([known, known & _IS_ANION, known])
    factors = np.exp(solution[n_atomic + n_prior + 1 :])
    return Volumes(
        atomic=np.where(known, atomic, np.nan),
        contraction=float(solution[n_atomic + n_prior]),
        prototypes=dict(zip(labels, map(float, factors), strict=True)),
        crystals=crystals,
    )


def _count_atoms(numbers: Sequence[np.ndarray]) -> sparse.csr_array:
    """Atoms of every role and element, ``(S, 3 * 104)``."""
    from scipy import sparse

    rows = np.repeat(np.arange(len(numbers)), [len(z) for z in numbers])
    columns = np.concatenate([roles(z) * (LAST + 1) + z for z in numbers])
    shape = (len(numbers), len(ROLES) * (LAST + 1))
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _further(
    numbers: Sequence[np.ndarray], prototypes: Sequence[str], labels: Sequence[str]
) -> sparse.csr_array:
    """Variance of the electronegativity, and one-hot codes of the prototypes, ``(S, 1 + labels)``."""
    from scipy import sparse

    spread = [[element_table()["electronegativity"][z].var()] for z in numbers]
    column = {label: k for k, label in enumerate(labels)}
    rows = [k for k, label in enumerate(prototypes) if label]
    where = (rows, [column[prototypes[k]] for k in rows])
    is_prototype = sparse.coo_array((np.ones(len(rows)), where), shape=(len(numbers), len(labels)))
    return sparse.csr_array(sparse.hstack([sparse.csr_array(np.array(spread)), is_prototype]))


def _regressors() -> tuple[np.ndarray, np.ndarray]:
    """Mask of the elements with all properties, ``(104,)``, and regressors by role, ``(3 * 104, 9)``."""
    table = element_table()
    values = np.stack([np.log(table["covalent_radius"] ** 3), np.log(table["molar_volume"])], axis=1)
    known = np.isfinite(values).all(axis=1) & np.isfinite(table["electronegativity"])
    values = np.where(known[:, None], values - values[known].mean(axis=0), 0.0)
    blocks = [np.kron(np.eye(len(ROLES)), np.ones((LAST + 1, 1)))]
    blocks += [np.kron(np.eye(len(ROLES)), column[:, None]) for column in values.T]
    return known, np.concatenate(blocks, axis=1)
