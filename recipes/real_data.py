"""Make the datasets of real crystals that `default` is trained and tested on.

    python recipes/real_data.py relaxed.extxyz.gz frame_pairs.extxyz.gz OUT

The first file holds relaxed crystals of the Materials Project, the second pairs of frames of its relaxations
(`id`, `step` 0 and 1). Neither is part of this repository. Existing datasets in OUT are kept. All splits are
by chemical system with seed 0, as in `datasets/`; crystals of systems that `datasets/chgnet/xmno` splits by
prototype are left out.

- `relaxed`: the relaxed crystals, input equal to target.
- `substituted`: at most four inputs a crystal, substituted crystals of the same structure type.
- `one-element`: 600 test crystals of `substituted` with one replaced element.
- `frames`: the pairs of frames, all in the test split.
- `near-0`, `near-0.02`, `near-0.05`, `near-0.1`: validation and test crystals of `relaxed` of up to 40 atoms,
  as they are, or with displacements of that standard deviation in A and strains of 1, 2 and 3 %; one fixed
  draw.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from repose.config import SamplingSettings
from repose.data.dataset import Dataset, DatasetInfo, Pair, write_dataset
from repose.data.importers.relaxed import read_relaxed
from repose.data.splits import GroupSplit
from repose.training.reading import choose
from repose.training.samples import perturb

LICENCE, CALCULATOR = "CC BY 4.0", "PBE and PBE+U (Materials Project)"
XMNO = {"-".join(sorted([metal, "Mn", "O"])) for metal in ("Mg", "Ca", "Sr", "Ba")}
# Standard deviations of displacements in A and of strains.
NEAR = {"near-0": (0.0, 0.0), "near-0.02": (0.02, 0.01), "near-0.05": (0.05, 0.02), "near-0.1": (0.1, 0.03)}
NEAR_CRYSTALS = {"val": 200, "test": 400}
NEAR_ATOMS = 40
ONE_ELEMENT = 600


def relaxed_crystals(path: Path) -> Iterator[Pair]:
    """Yield the relaxed crystals of a file, with their splits."""
    assign = GroupSplit()
    for item in read_relaxed([path]):
        if isinstance(item, Pair) and item.chemical_system not in XMNO:
            yield replace(item, split=assign(item), tags={})


def near(relaxed: Dataset, rattle: float, strain: float) -> Iterator[Pair]:
    """Yield perturbed validation and test crystals."""
    settings = SamplingSettings(rattle=1.0, strain=strain, dilation=0.0)
    for split, count in NEAR_CRYSTALS.items():
        small = {pair.id: pair for pair in relaxed.read(split) if len(pair.numbers) <= NEAR_ATOMS}
        for name in sorted(choose(small, count)):
            pair = small[name]
            if rattle:
                rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
                strained, cell = perturb(pair, settings.model_copy(update={"rattle": 0.0}), rng)
                moves = rng.normal(0.0, rattle, strained.shape)
                pair = replace(pair, positions=strained + moves - moves.mean(axis=0), cell=cell)
            yield pair


def one_element(substituted: Dataset) -> Iterator[Pair]:
    """Yield test crystals whose parent differs in one element."""
    some = {p.id: p for p in substituted.read("test") if p.tags["substituted"].count(">") == 1}
    yield from (some[name] for name in sorted(choose(some, ONE_ELEMENT)))


def main(relaxed_file: str, frames_file: str, out: Path) -> None:
    """Make the datasets that are missing."""
    out.mkdir(parents=True, exist_ok=True)
    info = DatasetInfo(name="", licence=LICENCE, calculator=CALCULATOR, splits=GroupSplit().description)
    if not (out / "relaxed").exists():
        named = info.model_copy(update={"name": "mp-relaxed"})
        write_dataset(out / "relaxed", named, relaxed_crystals(Path(relaxed_file)), single=True)
    relaxed = Dataset(out / "relaxed")
    commands = {
        "substituted": ["pair", str(out / "relaxed"), "--per-crystal", "4"],
        "frames": ["import", frames_file, "--fractions", "0,0,1"],
    }
    for name, command in commands.items():
        if not (out / name).exists():
            described = ["--out", str(out / name), "--name", f"mp-{name}", "--licence", LICENCE]
            whole = [sys.executable, "-m", "repose", "data", *command, *described, "--calculator", CALCULATOR]
            if subprocess.run(whole, check=False).returncode not in (0, 1):  # 1: some crystals were refused
                sys.exit(f"{' '.join(whole)} failed.")
    made = {name: near(relaxed, *sizes) for name, sizes in NEAR.items()}
    made["one-element"] = one_element(Dataset(out / "substituted"))
    for name, pairs in made.items():
        if not (out / name).exists():
            write_dataset(out / name, info.model_copy(update={"name": f"mp-{name}"}), pairs)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
