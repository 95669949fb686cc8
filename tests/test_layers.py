"""The order of the house: a file imports only from lines above it (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

import repose

ROOT = Path(repose.__file__).parent

# From the ground up; a folder stands for all its files, which may import each other.
ORDER = [
    "errors",
    "atomic",
    "lattice",
    "trajectory",
    "crystals",
    "io",
    "graph",
    "symmetry",
    "connectivity",
    "nn",
    "volumes",
    "config",
    "models/network",
    "models/start",
    "models/scales",
    "models/links",
    "models/distance_geometry",
    "models/ensemble",
    "models/estimate",
    "models/calibration",
    "models/checkpoint",
    "checks",
    "models/memory",
    "models/constraints",
    "models/vacuum",
    "models/inputs",
    "models/progress",
    "models/relaxation",
    "models/base",
    "models/direct",
    "models/loading",
    "models/lattice_network",
    "models/deeprelax",
    "models/e3relax",
    "models/e3relax_h2",
    "models/relaxnet_encoder",
    "models/relaxnet",
    "models/repose",
    "models/baselines",
    "writings",
    "iterative",
    "potentials",
    "dft",
    "descent",
    "data",
    "evaluation",
    "benchmark",
    "training",
    "testing",
    "cell_filters",
    "optimize",
    "cli",
    "__init__",
    "__main__",
]
# Families never import each other, data or training.
FAMILIES = ["models/deeprelax", "models/e3relax", "models/e3relax_h2", "models/repose"]


def place(module: str) -> int | None:
    path = module.removeprefix("repose").lstrip(".").replace(".", "/") or "__init__"
    for line, name in enumerate(ORDER):
        if path == name or path.startswith(name + "/"):
            return line
    return None


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("repose"):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("repose")}
    modules = {p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.rglob("*.py")}
    return {m for m in found if m.removeprefix("repose.").replace(".", "/") in modules}


FILES = sorted(
    p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.rglob("*.py") if p.name != "__init__.py"
)


@pytest.mark.parametrize("file", FILES)
def test_imports_point_one_way(file):
    here = place(file)
    assert here is not None, f"{file} has no place in the order; give it one here and in docs/architecture.md"
    wrong = {m for m in imports(ROOT / f"{file}.py") if (place(m) or 0) > here}
    assert not wrong, f"{file} imports from below: {sorted(wrong)}"


@pytest.mark.parametrize("file", FAMILIES)
def test_families_stand_alone(file):
    others = {"repose." + f.replace("/", ".") for f in FAMILIES if f != file}
    assert not imports(ROOT / f"{file}.py") & others


def test_files_stay_small():
    long = {f: n for f in FILES if (n := len((ROOT / f"{f}.py").read_text().splitlines())) > 420}
    assert not long
