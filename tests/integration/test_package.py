"""The package in a fresh interpreter: what an import loads, and the types that a checker finds."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import repose


def loaded(code: str, *modules: str) -> list[str]:
    """Return those of the modules that are loaded after the code ran in a fresh interpreter."""
    code = f"import sys; {code}; print([m for m in {modules} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def test_import_is_light():
    assert loaded("import repose", "torch", "ase", "pymatgen", "numpy") == []
    with pytest.raises(AttributeError, match="no attribute 'relaks'"):
        _ = repose.relaks


def test_nothing_of_pandas_is_imported():
    assert loaded("import repose; repose.to_dataframe; repose.relax", "pandas") == []


TYPED = """
from pathlib import Path
from typing import assert_type

from ase import Atoms
from pymatgen.core import IStructure, Structure

import repose


class Mine(Atoms): ...


def check(
    a: Atoms, m: Mine, s: Structure, i: IStructure, la: list[Atoms], ls: tuple[Structure, ...],
    mixed: list[Atoms | Structure], paths: list[Path],
) -> None:
    assert_type(repose.relax(a), Atoms)
    assert_type(repose.relax(m, model="default", device="cpu"), Mine)
    assert_type(repose.relax(s, symmetry="free"), Structure)
    assert_type(repose.relax(i, fix_cell=True), IStructure)
    assert_type(repose.relax("POSCAR", fix_axes="c"), Atoms | list[Atoms])
    assert_type(repose.relax(Path("POSCAR"), progress=print), Atoms | list[Atoms])
    assert_type(repose.relax(la, fix_atoms=[True, False]), list[Atoms])
    assert_type(repose.relax(ls, progress=True), list[Structure])
    assert_type(repose.relax(["a.cif"]), list[Atoms])
    assert_type(repose.relax(paths), list[Atoms])
    repose.relax(mixed)
    repose.relax(a, symmetry="maybe")  # refused
    repose.relax(a, fix_cells=True)  # refused
"""


@pytest.mark.skipif(
    shutil.which("pyright", path=str(Path(sys.executable).parent)) is None, reason="no pyright"
)
def test_types(tmp_path):
    source = tmp_path / "typed.py"
    source.write_text(TYPED)
    pyright = Path(sys.executable).with_name("pyright")
    command = [pyright, "--outputjson", "--pythonpath", sys.executable, source]
    found = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["generalDiagnostics"]
    lines = TYPED.splitlines()
    wrong = sorted({one["range"]["start"]["line"] for one in found if one["severity"] == "error"})
    assert [lines[k].partition("#")[2] for k in wrong] == [" refused"] * 2, found
