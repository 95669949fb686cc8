"""Tests of the tests: where they are, and what they import."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import repose
from support.paths import TESTS

ROOT = Path(repose.__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
MODULES = [path for path in FILES if path.name.startswith("test_")]


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, at its top or inside of functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_folders_of_unit_tests_are_rooms_of_the_package():
    folders = {path.name for path in (TESTS / "unit").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= {path.name for path in ROOT.iterdir() if path.is_dir()}


def test_every_test_is_a_unit_test_or_an_integration_test():
    assert {path.relative_to(TESTS).parts[0] for path in MODULES} == {"unit", "integration"}


def test_names_of_files_are_unique():
    """Files of tests without packages share one namespace."""
    assert [name for name, count in Counter(path.name for path in MODULES).items() if count > 1] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_imports_a_test(path):
    names = {path.stem for path in MODULES} | {"conftest"}
    assert not {name for name in imported(path) if names & set(name.split("."))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_imports_a_private_name_of_the_package(path):
    names = {name for name in imported(path) if name.startswith("repose.")}
    assert not {name for name in names if any(part.startswith("_") for part in name.split("."))}
