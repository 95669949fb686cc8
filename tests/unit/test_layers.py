"""Order of imports: from rooms below, without circles of files; families stand alone."""

import ast
import pkgutil
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import repose
import repose.models
from repose.models.registry import families
from support.rooms import ORDER

ROOT = Path(repose.__file__).parent

FILES = sorted(
    p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.rglob("*.py") if p.name != "__init__.py"
)
MODULES = {p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.rglob("*.py")}


@cache
def imports(file: str) -> frozenset[str]:
    """Files of the package that a file imports, at its top or inside of functions."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"{file}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("repose"):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("repose")}
    return frozenset({m.removeprefix("repose").lstrip(".").replace(".", "/") for m in found} & MODULES)


def room(file: str) -> int:
    name = file.partition("/")[0]
    assert name in ORDER, (
        f"{file} has no room; give it one in tests/support/rooms.py and in docs/architecture.md"
    )
    return ORDER.index(name)


@pytest.mark.parametrize("file", FILES)
def test_rooms_import_from_rooms_below(file):
    wrong = {other for other in imports(file) if room(other) > room(file)}
    assert not wrong, f"{file} imports from above: {sorted(wrong)}"


def test_no_files_import_each_other_in_a_circle():
    try:
        TopologicalSorter({file: imports(file) for file in FILES}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("family", families())
def test_families_stand_alone(family):
    """A family imports neither another family nor data or training."""
    folder = f"models/{family.replace('-', '_')}/"
    others = {m.name for m in pkgutil.iter_modules(repose.models.__path__) if m.ispkg} - {"uncertainty"}
    closed = ["data/", "training/", *(f"models/{name}/" for name in others if f"models/{name}/" != folder)]
    files = [file for file in FILES if file.startswith(folder)]
    assert files
    for file in files:
        wrong = {other for other in imports(file) if other.startswith(tuple(closed))}
        assert not wrong, f"{file} imports {sorted(wrong)}"


@pytest.mark.parametrize("file", [file for file in FILES if file.count("/") < 2 or "models/" not in file])
def test_nothing_outside_of_a_family_imports_it(file):
    inside = tuple(f"models/{family.replace('-', '_')}/" for family in families())
    wrong = {other for other in imports(file) if other.startswith(inside)}
    assert not wrong, f"{file} imports {sorted(wrong)}"


def test_tables_of_elements_need_no_torch():
    assert "import torch" not in (ROOT / "crystal/elements.py").read_text()


def test_files_stay_small():
    long = {f: n for f in FILES if (n := len((ROOT / f"{f}.py").read_text().splitlines())) > 420}
    assert not long
