"""Folders of the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
DATA = TESTS / "data"
EXAMPLES = ROOT / "examples"
DATASETS = ROOT / "datasets"
SHARED = ROOT.parent / "shared"
