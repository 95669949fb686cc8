"""Measure volumes of DFT perovskites that start in the cell of a relative: models, and fits of radii.

    repose data pair perov5_val.csv.gz --out perovskites
    python studies/perovskites/perovskites.py perovskites [--model NAME ...] [--out FILE]

Perov-5 holds ABX3 crystals of 56 metals and the anions O, N, S, F relaxed with DFT (Castelli et al., 2012).
They are compared with Dummy, Rescale and two fits of the cube root of the volume on the train part: linear
in the radii of A, of B and of the anions (mean) and in their two ratios (tolerance and octahedral factor);
and linear in the elements on each site.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from repose.crystal.elements import element_table
from repose.data.dataset import Dataset, Pair
from repose.evaluation.runner import evaluate
from repose.relaxer.loading import load

ANIONS = (7, 8, 9, 16)
RIDGE = 1e-3


def sites(pair: Pair) -> tuple[int, int, list[int]]:
    """Return the element on A, the one on B (nearer to the anions), and the three anions."""
    anions = np.isin(pair.numbers, ANIONS)
    cations = np.flatnonzero(~anions)
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 1, 1, 3) @ pair.cell
    apart = pair.positions[cations][:, None] - pair.positions[anions][None] + shifts
    near = np.linalg.norm(apart, axis=-1).min(axis=0).mean(axis=1)
    b, a = cations[np.argsort(near)]
    return int(pair.numbers[a]), int(pair.numbers[b]), pair.numbers[anions].tolist()


def of_radii(pair: Pair) -> list[float]:
    """Return radii and their ratios."""
    a, b, x = sites(pair)
    r_a, r_b = radius(a, "cation_radius"), radius(b, "cation_radius")
    r_x = float(np.mean([radius(z, "anion_radius") for z in x]))
    return [1.0, r_a, r_b, r_x, (r_a + r_x) / (r_b + r_x), r_b / r_x]


def radius(number: int, kind: str) -> float:
    """Return the radius of a kind in A, or the covalent radius if it is missing."""
    table = element_table()
    value = float(table[kind][number])
    return float(table["covalent_radius"][number]) if np.isnan(value) else value


def of_elements(pair: Pair) -> list[float]:
    """Return counts of elements by site: 1 on A, 1 on B, a third for each anion."""
    a, b, x = sites(pair)
    columns = np.zeros(3 * 119)
    columns[a] = columns[119 + b] = 1
    for z in x:
        columns[238 + z] += 1 / 3
    return [1.0, *columns]


def fit(describe: Callable[[Pair], Sequence[float]], train: list[Pair], test: list[Pair]) -> float:
    """Return the mean absolute error in A^3 on the test part of a ridge fit to the train part."""
    x = np.array([describe(pair) for pair in train])
    y = np.array([volume(pair) ** (1 / 3) for pair in train])
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    guess = (np.array([describe(pair) for pair in test]) @ weights) ** 3
    return float(np.abs(guess - np.array([volume(pair) for pair in test])).mean())


def volume(pair: Pair) -> float:
    """Return the volume of the relaxed crystal, A^3."""
    return abs(float(np.linalg.det(pair.relaxed_cell)))


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    parts: dict[str, list[Pair]] = {"train": [], "test": []}
    left_out = 0
    for pair in Dataset(arguments.data):
        if pair.split in parts:
            plain = len(pair.numbers) == 5 and np.isin(pair.numbers, ANIONS).sum() == 3
            parts[pair.split] += [pair] if plain else []
            left_out += not plain
    train, test = parts["train"], parts["test"]
    relaxers = []
    for name in arguments.model:
        relaxers.append(load(name, "cpu"))
        relaxers[-1].name = name
    kinds: dict[str, list[Pair]] = {"one anion": [], "several anions": []}
    for pair in test:
        kinds["one anion" if len(set(sites(pair)[2])) == 1 else "several anions"].append(pair)
    report = evaluate(relaxers, kinds, train=train, match=False)
    found = {
        block["dataset"]: {
            row["relaxer"]: {key: row[key] for key in ("coordinates", "volume")} for row in block["rows"]
        }
        for block in report.blocks()
    }
    found["all"]["fit of radii"] = {"volume": fit(of_radii, train, test)}
    found["all"]["fit of elements by site"] = {"volume": fit(of_elements, train, test)}
    counts = {name: len(pairs) for name, pairs in kinds.items()}
    result = {"train": len(train), "test": len(test), **counts, "left out": left_out, "rows": found}
    for kind, rows in found.items():
        for name, row in rows.items():
            print(f"{kind:15s} {name:30s} " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
