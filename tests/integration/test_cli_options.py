"""Options of `repose relax` for sorting, filtering and resuming; safety of written files."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read as ase_read
from ase.io import write as ase_write

from repose.io.files import write
from support.commands import as_json, files, relax
from support.tiny import CALIBRATION, save_random_model


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    return str(save_random_model(tmp_path_factory.mktemp("models") / "calibrated", calibration=CALIBRATION))


def test_above_max_uncertainty_goes_to_a_folder_of_its_own(work, calibrated):
    lines = as_json("three.extxyz", "CaO.cif", "--model", calibrated)
    limit = np.median([line["uncertainty"] for line in lines])
    again = as_json(
        "three.extxyz", "CaO.cif", "--model", calibrated, "-o", "apart", "--max-uncertainty", limit
    )
    assert 0 < sum("uncertain" in line["output"] for line in again) < len(again)
    for before, line in zip(lines, again, strict=True):
        apart = line["uncertainty"] > limit
        name = Path(before["output"]).name
        assert line["output"] == (f"apart/uncertain/{name}" if apart else f"apart/{name}")
    kept = [line for line in again if line["source"] == "three.extxyz"]
    frames = [
        atoms.info["repose_index"]
        for output in sorted({line["output"] for line in kept})
        for atoms in ase_read(output, index=":")
    ]
    assert sorted(frames) == [0, 1, 2]
    text = relax("three.extxyz", "CaO.cif", "--model", calibrated, "-o", "apart", "--max-uncertainty", limit)
    above = sum(line["uncertainty"] > limit for line in lines)
    assert f"{above} above --max-uncertainty, in apart/uncertain/." in text


def test_max_uncertainty_needs_a_bound(work, model):
    with pytest.raises(ValueError, match=r"needs a calibrated model.*repose calibrate"):
        relax("CaO.cif", "--model", model, "--max-uncertainty", "0.1")


def test_sorted_by_uncertainty(work, calibrated):
    Path("bad.cif").write_text("no")
    arguments = ["bad.cif", "three.extxyz", "CaO.cif", "--model", calibrated, "--sort", "uncertainty"]
    lines = as_json(*arguments, "--summary", "tables/all.csv", code=1)
    bounds = [line["uncertainty"] for line in lines[:-1]]
    assert bounds == sorted(bounds)
    assert len(set(bounds)) > 1
    assert lines[-1]["status"] == "refused"
    with open("tables/all.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["source"] for row in rows] == [line["source"] for line in lines]
    assert list(rows[0]) == list(lines[0])
    assert [float(row["uncertainty"]) for row in rows[:-1]] == pytest.approx(bounds)
    assert rows[-1]["reason"] == lines[-1]["reason"]


def test_summary_is_in_the_order_of_the_input(work, model):
    relax("three.extxyz", "CaO.cif", "--model", model, "--quiet", "--summary", "all.csv")
    with open("all.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["source"], row["index"]) for row in rows] == [
        ("three.extxyz", "0"), ("three.extxyz", "1"), ("three.extxyz", "2"), ("CaO.cif", "0"),
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"relaxed"}


def test_what_exists_is_skipped(work, model):
    relax("three.extxyz", "CaO.cif", "--model", model)
    before = {name: os.stat(f"relaxed/{name}").st_mtime_ns for name in files("relaxed")}
    os.remove("relaxed/CaO.cif")
    lines = as_json("three.extxyz", "CaO.cif", "one", "--model", model, "--skip-existing")
    assert [line["source"] for line in lines] == ["CaO.cif", "one/POSCAR"]
    assert os.stat("relaxed/three.extxyz").st_mtime_ns == before["three.extxyz"]
    text = relax("three.extxyz", "CaO.cif", "--model", model, "--skip-existing")
    assert "4 more skipped" in text
    # Frames that are written to separate files are skipped separately.
    relax("three.extxyz", "--format", "vasp", "--model", model)
    os.remove("relaxed/three-1.vasp")
    (line,) = as_json("three.extxyz", "--format", "vasp", "--model", model, "--skip-existing")
    assert (line["index"], line["output"]) == (1, "relaxed/three-1.vasp")


def test_a_summary_is_continued(work, model):
    options = ("--model", model, "--summary", "all.csv", "--skip-existing", "--quiet")
    relax("CaO.cif", *options)
    relax("CaO.cif", "three.extxyz", *options)
    relax("CaO.cif", "three.extxyz", *options)
    with open("all.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["source"] for row in rows] == ["CaO.cif", *["three.extxyz"] * 3]
    assert all(row["output"] and float(row["volume_change"]) and row["model"] == "tiny" for row in rows)


def test_names_of_files_that_are_not_utf_8(work, model):
    Path("CaO.cif").rename(os.fsdecode(b"x\xff.cif"))
    options = ("--model", model, "--summary", "all.csv", "--report", "all.html", "--skip-existing", "--json")
    relax(os.fsdecode(b"x\xff.cif"), *options)
    relax(os.fsdecode(b"x\xff.cif"), *options)
    with open("all.csv", newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["source"], row["formula"]) == ("x\\udcff.cif", "Ca4O4")


def test_outputs_leave_files_of_options_alone(work, model):
    lines = as_json("three.extxyz", "--format", "vasp", "--summary", "relaxed/three-1.vasp", "--model", model)
    assert [Path(line["output"]).name for line in lines] == ["three-0.vasp", "three-1_2.vasp", "three-2.vasp"]
    assert Path("relaxed/three-1.vasp").read_text().startswith("source,")


def test_refused_crystals_have_no_numbers(work, model):
    Path("bad.cif").write_text("no")
    (line,) = as_json("bad.cif", "--model", model, "--summary", "all.csv", code=1)
    assert (line["volume_change"], line["max_displacement"]) == (None, None)
    with open("all.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["volume_change"] == ""


def test_a_folder_of_calculations_holds_other_json(work, model):
    Path("one/settings.json").write_text('{"encut": 520}')
    (line,) = as_json("one", "--model", model)
    assert line["source"] == "one/POSCAR"
    (line,) = as_json("one/settings.json", "--model", model, code=1)  # given by name
    assert line["status"] == "refused"


def test_a_glob_without_files_says_so(work, model):
    (line,) = as_json("nope/*/POSCAR", "--model", model, code=1)
    assert "nothing matches this pattern" in line["reason"]
    assert "written into" not in relax("nope/*/POSCAR", "--model", model, code=1)


def test_skipping_looks_into_the_folder_of_uncertain_ones(work, calibrated):
    arguments = ("three.extxyz", "CaO.cif", "--model", calibrated, "--max-uncertainty", "0")
    assert all("uncertain" in line["output"] for line in as_json(*arguments))
    assert as_json(*arguments, "--skip-existing") == []


def test_frames_say_where_they_stood(work, model):
    Path("four.extxyz").write_text("2\nno lattice\nMg 0 0 0\nO 1 1 1\n" + Path("three.extxyz").read_text())
    lines = as_json("four.extxyz", "--model", model, code=1)
    assert [line["status"] for line in lines] == ["refused", "relaxed", "relaxed", "relaxed"]
    frames = ase_read("relaxed/four.extxyz", index=":")
    assert [atoms.info["repose_index"] for atoms in frames] == [1, 2, 3]


def test_formats_have_the_names_that_users_type(work, model):
    relax("CaO.cif", "--format", "vasp", "--model", model, "-o", "new")
    relax("CaO.cif", "--format", "xyz", "--model", model, "-o", "new")
    assert files("new") == ["CaO.extxyz", "CaO.vasp"]


def test_verbose_says_what_is_done(work, model, repose):
    Path("bad.cif").write_text("no")
    status, out, err = repose("relax", "CaO.cif", "bad.cif", "--model", model, "-v", "--json")
    assert status == 1
    assert len(out.splitlines()) == 2
    assert "model tiny on" in err
    assert "relaxed: CaO.cif -> relaxed/CaO.cif" in err
    assert "bad.cif: " in err


@pytest.mark.parametrize("place", ["file/below", "/proc/repose"])
def test_a_folder_that_cannot_be_made_is_said_before_anything_is_loaded(work, repose, place):
    Path("file").write_text("x")
    for option in (["--out", place], ["--path", f"{place}/way.extxyz"], ["--summary", f"{place}/all.csv"]):
        status, out, err = repose("relax", "CaO.cif", "--model", "there is no such model", *option)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert option[0] in err
        assert "model" not in err


def test_nothing_is_left_behind_by_a_wrong_call(work, model, repose):
    assert repose("relax", "CaO.cif", "--model", "nothing", "--out", "a/b/c")[0] == 2
    assert not Path("a").exists()
    Path("bad.cif").write_text("no")
    assert repose("relax", "bad.cif", "--model", model, "--out", "a/b/c")[0] == 1
    assert not Path("a").exists()


@pytest.mark.parametrize("name", ["chgnet", "CHGNet", "mace"])
def test_potentials_are_no_models(work, repose, name):
    status, _, err = repose("relax", "CaO.cif", "--model", name)
    assert status == 2
    assert "interatomic potential" in err
    assert "repose data label" in err


def test_models_lists_elements_by_symbol(repose):
    status, out, _ = repose("models", "--json")
    assert status == 0
    for line in map(json.loads, out.splitlines()):
        assert len(line["symbols"]) == line["elements"]
        assert {"O", "Fe"} & set(line["symbols"])
    status, out, _ = repose("models")
    assert "Elements of default" in out.replace("\n", " ")


def test_what_cannot_be_written_is_refused_and_the_others_are_done(work, model):
    ase_write("a.extxyz", bulk("MgO", "rocksalt", a=4.2))
    Path("relaxed/a.extxyz/is/a/folder").mkdir(parents=True)
    lines = as_json("a.extxyz", "CaO.cif", "--model", model, code=1)
    assert [line["status"] for line in lines] == ["refused", "relaxed"]
    assert "cannot be written" in lines[0]["reason"]
    assert lines[0]["output"] is None
    assert Path("relaxed/CaO.cif").is_file()


def test_files_of_the_output_are_no_folders(work, model, repose):
    Path("folder.csv").mkdir()
    Path("folder.extxyz").mkdir()
    for option in (["--summary", "folder.csv"], ["--path", "folder.extxyz"]):
        status, out, err = repose("relax", "CaO.cif", "--model", "there is no such model", *option)
        assert (status, out) == (2, "")
        assert f"{option[0]} must be a file" in err


def test_a_cif_has_no_orientation_to_lose(work, model):
    monoclinic = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    monoclinic.set_cell([[4.2, 0, 0], [0, 4.5, 0], [-0.8, 0, 4.9]], scale_atoms=True)
    monoclinic.rattle(0.02, seed=1)
    write(monoclinic, "mono.cif", "cif")
    (line,) = as_json("mono.cif", "--model", model)
    assert line["dropped"] == []
    ase_write("mono.extxyz", monoclinic)
    (line,) = as_json("mono.extxyz", "--format", "cif", "--model", model)
    assert "orientation of the cell" in line["dropped"]


def test_numbers_of_kinds_are_no_species(work, model):
    Path("kinds.extxyz").write_text(
        '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:I:1:pos:R:3 pbc="T T T"\n1 0 0 0\n2 2 2 2\n'
    )
    (line,) = as_json("kinds.extxyz", "--model", model, code=1)
    assert "chemical symbols" in line["reason"]
