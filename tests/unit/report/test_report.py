"""The report of many crystals as one HTML file."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2
from pymatgen.core import DummySpecies, Lattice, Structure

from repose.relaxer.relaxation import Relaxation
from repose.report import Report, write_report
from support.tiny import Known

NAMESPACE = "http://www.w3.org/2000/svg"
HOSTILE = (
    "</script><script>document.documentElement.dataset.error = 'run'</script>\"'&amp;<!--\n\t漢\u2028\udcff"
)


@pytest.fixture(scope="module")
def results():
    """A cubic crystal that went on with a calculator, a sheet with bounds, and a refused one."""
    moved = Known(1.02 * np.eye(3), [[0.0, 0, 0], [0.01, 0, 0]]).relax(bulk("CaO", "rocksalt", a=4.6))[0]
    went_on = {
        "energy": -12.5,
        "energy_input": -12.0,
        "energy_predicted": -12.4,
        "steps": 7,
        "converged": True,
        "start": "prediction",
        "calculator": "emt",
    }
    sheet = Known().relax(mx2("MoS2", vacuum=8))[0]
    bounds = {
        "uncertainty": 0.0312,
        "atom_uncertainty": np.array([0.02, 0.03, 0.0436]),
        "outside": "far away",
    }
    refused = Known().relax(Atoms("He2", positions=[[0, 0, 0], [0, 0, 0.2]], cell=3 * np.eye(3), pbc=True))[0]
    return [
        replace(moved, source="a.cif", **went_on),
        replace(sheet, source=HOSTILE, status="suspect", reason=HOSTILE, **bounds),
        refused,
    ]


def data_of(path):
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_data_are_the_results(results, tmp_path):
    write_report(results, tmp_path / "new" / "report.html", model="mine")
    data = data_of(tmp_path / "new" / "report.html")
    assert data["model"] == "mine"
    assert len(data["crystals"]) == len(results)
    for row, result in zip(data["crystals"], results, strict=True):
        assert (row["formula"], row["status"]) == (result.formula, result.status)
        assert row.get("reason", "")[:20] == (result.reason or "")[:20]
        assert row.get("steps") == result.steps
    oxide, sheet, refused = data["crystals"]
    assert oxide["volume_change"] == pytest.approx(100 * (1.02**3 - 1), abs=1e-3)
    assert (oxide["spacegroup_in"], oxide["spacegroup_out"]) == (225, results[0].spacegroup_out)
    assert (oxide["energy"], oxide["energy_input"], oxide["energy_predicted"]) == (-6.25, -6.0, -6.2)
    assert (sheet["uncertainty"], sheet["outside"]) == (0.0312, "far away")
    assert "0.2" in refused["reason"]
    assert not {"volume_change", "geometry", "energy", "uncertainty"} & set(refused)


def test_geometries_are_those_of_the_results(results, tmp_path):
    write_report(results, tmp_path / "report.html")
    data = data_of(tmp_path / "report.html")
    for row, result in zip(data["crystals"][:2], results, strict=False):
        drawn = {key: np.array(value) for key, value in row["geometry"].items()}
        before, after = result.before, result.after
        assert drawn["numbers"].tolist() == after.numbers.tolist()
        input_positions = drawn["positions"] + drawn["input_minus_output"]
        for thousandths, exact in (
            (drawn["cell"], after.cells),
            (drawn["input_cell"], before.cells),
            (drawn["positions"], after.positions),
            (input_positions, before.positions),
        ):
            assert np.abs(thousandths / 1000 - exact.numpy().ravel()).max() <= 0.5e-3 + 1e-9
        for number in drawn["numbers"]:
            assert data["elements"][str(number)]["symbol"] in result.formula
    assert data["crystals"][1]["geometry"]["pbc"] == [1, 1, 0]
    assert data["crystals"][1]["geometry"]["bounds"] == [20, 30, 44]


def test_nothing_is_loaded_from_elsewhere_and_names_are_text(results, tmp_path):
    write_report(results, tmp_path / "report.html", model=HOSTILE)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'<>\\]+", text)) == {NAMESPACE}

    class Page(HTMLParser):
        tags, stack = [], []

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)
            links = {name: value for name, value in attrs if name in ("src", "href", "action")}
            assert all(value.startswith("data:") for value in links.values()), (tag, links)
            if tag not in ("meta", "link", "input"):
                self.stack.append(tag)

        def handle_endtag(self, tag):
            assert self.stack.pop() == tag

    page = Page()
    page.feed(text)
    assert page.stack == []
    assert page.tags.count("script") == 2
    assert not re.search(r"@import|\bfetch\(|XMLHttpRequest|\bimport\b.*\bfrom\b|innerHTML", text)
    shown = HOSTILE.replace("\udcff", "\ufffd")
    assert data_of(tmp_path / "report.html")["crystals"][1]["source"] == shown


def test_odd_results_have_a_row(tmp_path):
    odd = [
        Relaxation("no crystal", "refused", "it is a text"),
        Relaxation(Atoms(numbers=[200]), "refused", "no such element"),
        Relaxation(Structure(Lattice.cubic(3), [DummySpecies("X")], [[0, 0, 0]]), "refused", "no element"),
        replace(Known().relax(bulk("Cu"))[0], before=None, volume_change=float("nan"), seconds=float("inf")),
    ]
    write_report(odd, tmp_path / "report.html")
    rows = data_of(tmp_path / "report.html")["crystals"]
    assert [row["status"] for row in rows] == ["refused"] * 3 + ["relaxed"]
    assert not {"volume_change", "seconds"} & set(rows[3])
    assert set(rows[3]["geometry"]) == {"numbers", "cell", "positions"}
    write_report([], tmp_path / "report.html")
    assert data_of(tmp_path / "report.html")["crystals"] == []


def test_drawings_end_where_the_file_would_become_too_large(results, tmp_path):
    report = Report(max_geometry=600)
    for _ in range(20):
        report.add(results[0])
    report.add(results[2])
    report.write(tmp_path / "report.html", skipped=3)
    data = data_of(tmp_path / "report.html")
    drawn = sum("geometry" in row for row in data["crystals"])
    assert 0 < drawn < 20
    assert (data["without_drawing"], data["skipped"], len(data["crystals"])) == (20 - drawn, 3, 21)


def test_a_stopped_report_is_continued(results, tmp_path):
    path = tmp_path / "report.html"
    Report(path=path).add(results[0])
    again = Report(path=path, continued=True)
    assert [again.keep(source) for source in ("a.cif", "b.cif")] == [True, False]
    again.add(results[1])
    again.write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    last = Report(path=path, continued=True)
    assert last.keep("a.cif")
    assert last.keep(HOSTILE)
    last.write(tmp_path / "last.html")
    write_report(results[:2], tmp_path / "whole.html")
    assert data_of(tmp_path / "last.html") == data_of(path) == data_of(tmp_path / "whole.html")


def test_an_error_leaves_the_earlier_file(results, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("earlier")
    monkeypatch.setattr(resources, "files", lambda _: tmp_path / "missing")
    with pytest.raises(OSError, match="missing"):
        write_report(results, path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "earlier"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_browser_shows_the_rows(results, tmp_path):
    write_report(results, tmp_path / "report.html")
    url = f"{(tmp_path / 'report.html').as_uri()}#2"  # opens the second crystal
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
    ]
    command += ["--virtual-time-budget=2000", "--dump-dom", url]
    page = subprocess.run(command, capture_output=True, text=True, timeout=100).stdout
    root = re.search(r"<html[^>]*>", page)
    assert root is not None
    assert 'data-ready="3"' in root[0]
    assert "data-error" not in root[0]
    assert len(re.findall(r"<tr data-index", page)) == 3
    assert re.search(r"<th[^>]*aria-sort=\"ascending\"><button[^>]*>#</button>", page)
    assert re.search(r"<h2 id=\"name\">MoS2 · &lt;/script&gt;", page)
    assert "Histogram of Volume change, %: 2 crystals, median +3.1" in page  # 0 and 6.1
    assert "or from the input where that has the lower energy" in page
