"""Folders of the repository, and a file of relaxation paths."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
DATA = TESTS / "data"
PATHS = DATA / "paths.extxyz"  # six real relaxations
EXAMPLES = ROOT / "examples"
DATASETS = ROOT / "datasets"
SHARED = ROOT.parent / "shared"
