"""`repose relax` and `repose models` on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read as ase_read
from typer.testing import CliRunner

import repose
from repose.cli import app
from repose.errors import ConfigError, ModelError
from repose.io.files import read, write
from support.commands import as_json, files, relax
from support.paths import EXAMPLES
from support.tiny import needs_default

KEYS = [
    "source",
    "index",
    "formula",
    "n_atoms",
    "status",
    "reason",
    "output",
    "model",
    "volume_change",
    "max_displacement",
    "uncertainty",
    "strain_uncertainty",
    "outside",
    "spacegroup_in",
    "spacegroup_out",
    "energy",
    "steps",
    "converged",
    "start",
    "calculator",
    "energy_input",
    "energy_predicted",
    "seconds",
    "remarks",
    "dropped",
]


def test_json_lines(work, model):
    lines = as_json("three.extxyz", "CaO.cif", "--model", model)
    assert all(list(line) == KEYS for line in lines)
    assert [(line["source"], line["index"]) for line in lines] == [
        ("three.extxyz", 0), ("three.extxyz", 1), ("three.extxyz", 2), ("CaO.cif", 0),
    ]  # fmt: skip
    assert [line["formula"] for line in lines] == ["MgO"] * 3 + ["Ca4O4"]
    assert lines[3]["n_atoms"] == 8
    for line, atoms in zip(lines[:3], ase_read("relaxed/three.extxyz", index=":"), strict=True):
        start = 2 * (4.0 + 0.2 * line["index"]) ** 3 / 8
        assert atoms.get_volume() / start - 1 == pytest.approx(line["volume_change"], abs=1e-6)
        assert (line["status"], line["reason"]) == ("relaxed", None)
        assert (line["uncertainty"], line["outside"]) == (None, None)  # it is not calibrated
        assert (line["spacegroup_in"], line["spacegroup_out"]) == (225, 225)
        assert line["output"] == "relaxed/three.extxyz"
        assert line["seconds"] > 0


def test_folder_keeps_its_shape_and_inputs_their_bytes(work, model):
    before = {name: Path(name).read_bytes() for name in files(".")}
    relax(".", "--model", model)
    assert files("relaxed") == ["CaO.cif", "one/POSCAR", "three.extxyz", "two/POSCAR"]
    assert {name: Path(name).read_bytes() for name in before} == before
    # The output folder is not read again, and earlier outputs are replaced.
    relax(".", "--model", model)
    assert len(files(".")) == 2 * len(before)


@pytest.mark.parametrize(
    "arguments",
    [
        ["one/POSCAR", "two/POSCAR", "one/POSCAR"],  # as a shell expands */POSCAR
        ["*/POSCAR"],
        ["./*/POSCAR"],
    ],
)
def test_files_of_one_name_keep_their_tree(work, model, arguments):
    lines = as_json(*arguments, "--model", model, "--out", "new")
    assert [line["output"] for line in lines] == ["new/one/POSCAR", "new/two/POSCAR"]
    assert [ase_read(line["output"], format="vasp").get_chemical_formula() for line in lines] == ["Al", "Cu"]


def test_a_glob_keeps_the_tree_below_its_fixed_part(work, model):
    Path("runs/a/b").mkdir(parents=True)
    for name in ("runs/a/x.cif", "runs/a/b/x.cif"):
        Path(name).write_bytes(Path("CaO.cif").read_bytes())
    for pattern, names in (
        ("runs/a/*.cif", ["x.cif"]),
        ("runs/*/x.cif", ["a/x.cif"]),
        ("runs/**/x.cif", ["a/b/x.cif", "a/x.cif"]),
        (f"{work}/runs/*", ["a/b/x.cif", "a/x.cif"]),
        ("[r]uns", ["runs/a/b/x.cif", "runs/a/x.cif"]),
    ):
        lines = as_json(pattern, "--model", model, "--out", "new")
        assert sorted(line["output"] for line in lines) == [f"new/{name}" for name in names], pattern


def test_files_whose_outputs_share_a_name_are_numbered(work, model):
    write(bulk("Al", "fcc", a=4.2), "CaO.vasp", "poscar")
    lines = as_json("CaO.cif", "CaO.vasp", "--format", "extxyz", "--model", model)
    assert [line["output"] for line in lines] == ["relaxed/CaO.extxyz", "relaxed/CaO_2.extxyz"]


@pytest.mark.parametrize(("form", "suffix"), [("cif", "cif"), ("poscar", "vasp"), ("json", "json")])
def test_formats(work, model, form, suffix):
    relax("three.extxyz", "one/POSCAR", "--format", form, "--model", model)
    # A POSCAR written as POSCAR keeps its name.
    single = "POSCAR" if form == "poscar" else f"POSCAR.{suffix}"
    assert files("relaxed") == sorted([*(f"three-{k}.{suffix}" for k in range(3)), single])
    for k, atoms in enumerate(ase_read("three.extxyz", index=":")):
        (entry,) = read(f"relaxed/three-{k}.{suffix}")
        assert len(entry.crystal) == len(atoms)


def test_standard_input(work, model):
    lines = as_json("-", "--model", model, stdin=Path("three.extxyz").read_text())
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert {line["source"] for line in lines} == {"-"}
    assert len(ase_read("relaxed/stdin.extxyz", index=":")) == 3


def test_inputs_are_never_overwritten(work, model):
    before = Path("one/POSCAR").read_bytes()
    with pytest.raises(ConfigError, match="would replace an input"):
        relax("one/POSCAR", "--out", "one", "--model", model)
    with pytest.raises(ConfigError, match="would replace an input"):
        relax("CaO.cif", "one", "--out", ".", "--format", "cif", "--model", model)
    assert Path("one/POSCAR").read_bytes() == before
    assert files(".") == ["CaO.cif", "one/POSCAR", "three.extxyz", "two/POSCAR"]


def test_refused_do_not_stop_the_others(work, model):
    Path("bad.cif").write_text("no")
    text = relax("bad.cif", "CaO.cif", "--model", model, code=1)
    assert "1 of 2 crystals relaxed, 0 suspect, 1 refused; written into relaxed/" in text
    assert "refused: bad.cif: it is not CIF" in text
    assert "225 -> 225" in text
    assert files("relaxed") == ["CaO.cif"]


def test_quiet(work, model):
    assert relax("CaO.cif", "--quiet", "--model", model) == ""
    assert files("relaxed") == ["CaO.cif"]


def test_long_tables_show_what_went_wrong(work, model, monkeypatch):
    monkeypatch.setattr("repose.cli.relax_table.TABLE_ROWS", 2)
    monkeypatch.setattr("repose.cli.relax_job.CHUNK_CRYSTALS", 2)
    Path("zzz.cif").write_text("no")
    text = relax("three.extxyz", "CaO.cif", "zzz.cif", "--model", model, code=1)
    assert "three.extxyz [1]" in text
    assert "three.extxyz [2]" not in text
    assert "zzz.cif" in text
    assert "and 2 more, all relaxed" in text


def test_constraints_reach_the_relaxer(work, model):
    sheet = EXAMPLES / "MoS2_sheet.extxyz"
    start = ase_read(sheet)
    relax(sheet, "--fix-cell", "--fix-atoms", "0-1", "--model", model)
    moved = ase_read("relaxed/MoS2_sheet.extxyz")
    np.testing.assert_allclose(moved.cell, start.cell, atol=1e-8)
    np.testing.assert_allclose(moved.positions[:2], start.positions[:2], atol=1e-6)
    relax("CaO.cif", "--fix-axes", "ab", "--symmetry", "free", "--format", "extxyz", "--model", model)
    lengths = ase_read("relaxed/CaO.extxyz").cell.lengths()
    assert lengths[:2] == pytest.approx([4.6, 4.6])
    assert abs(lengths[2] - 4.6) > 1e-3


def test_wrong_usage(work, model):
    Path("file").write_text("x")
    for arguments, error, words in (
        (["CaO.cif", "--model", "defualt"], ModelError, "no model 'defualt'"),
        (["CaO.cif", "--model", model, "--fix-axes", "x"], ConfigError, "'abc'"),
        (["CaO.cif", "--model", model, "--fix-atoms", "1-"], ConfigError, "counted from 0"),
        (["CaO.cif", "--model", model, "--device", "tpu"], ConfigError, "device must be"),
        (["CaO.cif", "--model", model, "--out", "file"], ConfigError, "must be a folder"),
    ):
        with pytest.raises(error, match=words):
            relax(*arguments)
    relax("CaO.cif", "--format", "xsf", code=2)
    relax(code=2)


def test_fix_atoms_takes_ranges(work, model):
    before = ase_read("CaO.cif")
    relax("CaO.cif", "--fix-atoms", "0,4-6, 4", "--fix-cell", "--symmetry", "free", "--format", "extxyz",
          "--model", model)  # fmt: skip
    moved = np.abs(ase_read("relaxed/CaO.extxyz").positions - before.positions).max(axis=1) > 1e-6
    assert moved.tolist() == [False, True, True, True, False, False, False, True]


def run(*arguments, **options):
    command = [sys.executable, "-m", "repose", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_errors_are_one_line(work):
    done = run("relax", "CaO.cif", "--model", "nothing")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("repose: no model 'nothing'")
    assert done.stderr.count("\n") == 1


def loaded(*arguments):
    """Return output and error of the command, and the modules it has imported when it ends."""
    code = (
        f"import sys; sys.argv = {['repose', *map(str, arguments)]}\n"
        "import repose.cli\n"
        "try: repose.cli.main()\n"
        "finally: print('modules:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    output, _, modules = done.stdout.partition("modules:")
    return output + done.stderr, set(modules.split())


def test_help_imports_nothing_heavy():
    output, modules = loaded("relax", "--help")
    assert not {"torch", "numpy", "ase", "pymatgen", "pyarrow"} & modules, output
    assert "Example: repose relax" in output


def test_listing_models_imports_no_torch():
    output, modules = loaded("models")
    assert not {"torch", "scipy"} & modules
    assert "family" in output


HEAVY = """scipy pymatgen pandas pyarrow matplotlib lightning sympy networkx gemmi torchdiffeq requests
    torch._dynamo torch._inductor ase.io ase.calculators.calculator ase.spacegroup ase.optimize rich.progress
    repose.io.cif repose.potentials repose.training repose.data repose.evaluation repose.benchmark
    repose.models.deeprelax.network repose.models.relaxnet.network repose.models.reposenet.network"""


def test_relaxing_a_poscar_imports_nothing_that_it_does_not_need(work, model):
    output, modules = loaded("relax", "one/POSCAR", "--model", model)
    assert "1 of 1 crystals relaxed" in output, output
    assert not set(HEAVY.split()) & modules


def test_relaxing_a_cif_imports_no_pymatgen(work, model):
    output, modules = loaded("relax", "CaO.cif", "one", "--model", model)
    assert "2 of 2 crystals relaxed" in output, output
    assert "pymatgen" not in modules


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout.split() == ["repose", repose.__version__]


def test_models(tmp_path, monkeypatch, model):
    monkeypatch.setattr("repose.models.checkpoint.shipped_models", lambda: {"tiny": Path(model)})
    (line,) = CliRunner().invoke(app, ["models", "--json"]).stdout.splitlines()
    values = json.loads(line)
    assert {"name", "family", "parameters", "trained_on", "test_error"} <= values.keys()
    assert (values["name"], values["family"], values["trained_on"]) == ("tiny", "e3relax", "nothing")
    from repose.models.checkpoint import load_model

    network, _ = load_model(Path(model))
    assert values["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert values["calibration"] is None
    assert "e3relax" in CliRunner().invoke(app, ["models"]).stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*")), ids=lambda path: path.name)
def test_examples_are_crystals(path, model, tmp_path):
    if path.is_dir():
        pytest.skip("outputs of an earlier run")
    (line,) = as_json(path, "--model", model, "--out", tmp_path)
    assert line["status"] == "relaxed", line["reason"]
    assert os.path.exists(line["output"])


def test_report(work, model):
    Path("bad.cif").write_text("no")
    options = ["--model", model, "--report", "pages/all.html", "--skip-existing"]
    relax("three.extxyz", "CaO.cif", "bad.cif", *options, code=1)
    page = Path("pages/all.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["model"] == "tiny"
    rows = data["crystals"]
    assert [row["source"] for row in rows] == [
        *(f"three.extxyz[{k}]" for k in range(3)),
        "CaO.cif",
        "bad.cif",
    ]
    assert [row["status"] for row in rows] == ["relaxed"] * 4 + ["refused"]
    assert rows[3]["formula"] == "Ca4O4"
    assert (rows[3]["spacegroup_in"], rows[3]["spacegroup_out"]) == (225, 225)
    assert "CIF" in rows[4]["reason"]
    relax("three.extxyz", "one", *options)
    again = Path("pages/all.html").read_text(encoding="utf-8")
    assert '"skipped":0' in again
    data = json.loads(again.partition('id="data">')[2].partition("</script>")[0])
    assert data["crystals"] == [*rows[:3], data["crystals"][3], *rows[3:]]
    assert data["crystals"][3]["source"] == "one/POSCAR"
    Path("pages/all.html").unlink()
    relax("three.extxyz", *options)
    assert '"skipped":3' in Path("pages/all.html").read_text(encoding="utf-8")
    before = Path("CaO.cif").read_bytes()
    with pytest.raises(ConfigError, match="would replace an input; choose another --report"):
        relax("CaO.cif", "--model", model, "--report", "CaO.cif")
    assert Path("CaO.cif").read_bytes() == before


@needs_default
def test_default_relaxes_the_examples(tmp_path):
    files = [path for path in EXAMPLES.iterdir() if path.is_file()]  # `make demo` leaves a folder beside them
    lines = as_json(*files, "--out", tmp_path)
    assert len(lines) >= 5
    assert {line["status"] for line in lines} == {"relaxed"}
    # A prediction may have more symmetry than its input, but never less.
    kept = {line["source"]: (line["spacegroup_in"], line["spacegroup_out"]) for line in lines}
    assert all(after == before or before == 1 for before, after in kept.values()), kept
