"""Gather what a training run on another machine needs in one folder: crystals, settings, code, packages.

    python tools/gpu/stage.py --config JSON [--set NAME=VALUE ...] --data DATASET ... --out STAGE

Only train and val splits are read. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np
from packed import pack

import repose
from repose.cli.settings import read_settings
from repose.config import TrainSettings
from repose.crystal.neighbours import LARGEST_CRYSTAL
from repose.data.dataset import Dataset, Pair
from repose.errors import ConfigError
from repose.models.registry import family
from repose.training.reading import EdgeCounts, chemical_systems, choose, read_split
from repose.training.run import described, fit_volumes

FAMILY = "reposenet"
# Packages that training imports and that an image with PyTorch may lack, with their own needs.
PACKAGES = (
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
    "spglib",
)
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
SCRIPTS = ("packed.py", "trainer.py", "train.py")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the datasets and write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, help="JSON file of settings, as for 'repose train'")
    parser.add_argument("--set", dest="assignments", action="append", metavar="NAME=VALUE")
    parser.add_argument("--data", type=Path, action="append", required=True, help="dataset; repeatable")
    parser.add_argument("--held-out", type=Path, action="append", default=[], help="as for 'repose train'")
    parser.add_argument("--frames", type=int, default=4, help="intermediate frames of a path (default 4)")
    parser.add_argument("--python", help="Python of the other machine, e.g. 3.12: its packages are added")
    parser.add_argument("--limit", type=float, default=60.0, help="largest size in MiB (default 60)")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    options = parser.parse_args(arguments)
    settings = read_settings(TrainSettings, options.config, options.assignments)
    if settings.target != "relaxed" or settings.frozen_layers or settings.trunk_rate != 1:
        raise ConfigError("only training of all layers on relaxed crystals can be staged.")
    options.out.mkdir(parents=True)
    write_crystals(options.out, settings, options.data, options.held_out, options.frames)
    copy_code(options.out)
    if options.python:
        add_packages(options.out, options.python)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file()) / 2**20
    print(f"{options.out}: {size:.1f} MiB")
    if size > options.limit:
        sys.exit(f"expected at most {options.limit:g} MiB; use fewer --frames, or --set crystals=NUMBER.")


def write_crystals(
    out: Path, settings: TrainSettings, data: Sequence[Path], held_out: Sequence[Path], frames: int
) -> None:
    """Write train and val splits, their edges and atomic volumes, and the description of the run."""
    datasets = {path: Dataset(path) for path in data}  # each once
    paths, without = settings.sampling.path_frames > 0, chemical_systems(held_out)
    options = {"crystals": settings.crystals, "paths": paths, "without": without}
    parts = {
        "train": read_split(list(datasets.values()), "train", **options),
        "val": read_split(list(datasets.values()), "val", paths=False, without=without),
    }
    parts = {split: [[p for p in pairs if fits(p)] for pairs in own] for split, own in parts.items()}
    cls = family(FAMILY)
    network = cls(cls.settings_type.parse(settings.model))
    fit_volumes(network, [pair for path in data for pair in parts["train"][list(datasets).index(path)]])
    counter = EdgeCounts(network, zip([*datasets] * 2, chain(*parts.values()), strict=True))
    if (n := settings.validation_crystals) is not None:
        chosen = choose((pair.id for pairs in parts["val"] for pair in pairs), n)
        parts["val"] = [[pair for pair in pairs if pair.id in chosen] for pairs in parts["val"]]
    for split, own in parts.items():
        pairs = list(chain.from_iterable(own))
        source = np.repeat(np.arange(len(own)), [len(pairs) for pairs in own]).astype(np.uint8)
        more = {"edges": np.array(counter(pairs), dtype=np.uint32), "source": source}
        np.savez_compressed(out / f"{split}.npz", **pack(pairs, frames if split == "train" else 0), **more)
        print(f"{split}: {len(pairs):,} crystals, {sum(more['edges'].tolist()):,} edges")
    np.save(out / "volumes.npy", network.get_buffer("atomic_volumes").numpy())
    run = {
        "family": FAMILY,
        "settings": settings.model_dump(mode="json"),
        "datasets": [dataset.info.name for dataset in datasets.values()],
        "repeats": [data.count(path) for path in datasets],
        "trained_on": "; ".join(map(described, datasets.values())),
        "elements": sorted({int(z) for own in parts["train"] for pair in own for z in pair.numbers}),
    }
    (out / "run.json").write_text(json.dumps(run, indent=2) + "\n")


def fits(pair: Pair) -> bool:
    """Return whether neighbours of a crystal, or of two of its cells, are found on a GPU."""
    return 2 * len(pair.numbers) <= LARGEST_CRYSTAL


def copy_code(out: Path) -> None:
    """Copy the scripts, and this package without the shipped weights."""
    ignored = shutil.ignore_patterns("weights", "__pycache__", ".*")
    shutil.copytree(Path(repose.__file__).parent, out / "packages" / "repose", ignore=ignored)
    for name in SCRIPTS:
        shutil.copy(Path(__file__).with_name(name), out)


def add_packages(out: Path, python: str) -> None:
    """Install packages for another Python on Linux x86-64, in the versions installed here."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command += chain.from_iterable(("--platform", name) for name in PLATFORMS)
    wanted = [f"{name}=={version(name)}" for name in PACKAGES]
    subprocess.run([*command, "--target", str(out / "packages"), *wanted], check=True)


if __name__ == "__main__":
    main()
