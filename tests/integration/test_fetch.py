"""`repose data fetch` and the registry of archives, with a local server; no test needs a network."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import typer
from ase.build import bulk
from ase.data import chemical_symbols
from ase.io import write
from typer.testing import CliRunner

from repose.cli import fetch as command
from repose.data.archives import download, registry
from repose.data.archives.registry import ARCHIVES
from repose.data.dataset import Dataset
from repose.presets.preset import load_preset
from support.paths import ROOT
from support.reference_pairs import IDS, REFERENCE, states
from support.serving import left, md5, pack, running_server, silent_address
from support.vasp_files import Run, Step, outcar, vasprun_xml

server, nobody = pytest.fixture(running_server), pytest.fixture(silent_address)

# ---- the registry


def test_entries_of_the_registry_are_complete():
    for name, archive in ARCHIVES.items():
        assert archive.name == name
        assert archive.title
        assert archive.citation
        assert archive.layout
        assert archive.record.startswith("https://")
        assert bool(archive.api) != bool(archive.request)
        for file in archive.files:
            assert bool(file.url) == bool(archive.api)
            if file.checksum is not None:
                algorithm, _, digest = file.checksum.partition(":")
                assert len(digest) == 2 * hashlib.new(algorithm).digest_size
        for url in (archive.api, *(file.url for file in archive.files)):
            assert not url or url.startswith("https://")


def test_the_page_and_the_registry_agree():
    page = (ROOT / "docs" / "archives.md").read_text()
    for archive in ARCHIVES.values():
        assert f"| `{archive.name}` |" in page
        assert archive.record in page
        for file in archive.files:
            assert f"`{file.name}`" in page


# ---- the command

app = typer.Typer()
app.command()(command.fetch)
app.command("other")(lambda: None)


# Hyperparameters of toy size, and two epochs.
TOY = ("model.features=8", "model.layers=1", "model.n_basis=8", "sampling.epoch_steps=2", "max_epochs=2")


def run(*arguments):
    return CliRunner().invoke(app, ["fetch", *map(str, arguments)])


def layout(name, folder="root", skip=()):
    """Return the members of an archive in its published layout, with six real crystals in three splits."""
    data = name.partition("-")[0]
    ends = ("_U", "_R") if data == "mp" else ("_unrelaxed", "_relaxed")
    inside = "CIF_POSCAR" if name == "defects-mos2" else "CIF"
    roots = {
        "defects": ("high_density_defects/MoS2_500", "high_density_defects/WSe2_500"),
        "defects-mos2": ("low_density_defects/MoS2",),
        **{f"xmno-{paper}": ("cifs_xmno",) for paper in ("e3relax", "deeprelax")},
        **{f"mp-{paper}": ("MPF.2021.2.8",) for paper in ("e3relax", "deeprelax")},
    }.get(name, (folder,))
    members, split = [], dict(zip(IDS, ("train", "train", "val", "train", "test", "test"), strict=True))
    for part, root in enumerate(roots):
        ids = IDS[part :: len(roots)]
        for crystal in ids:
            for end, atoms in zip(ends, states(REFERENCE[crystal]), strict=True):
                text = io.BytesIO()
                write(text, atoms, format="cif")
                if f"{crystal}{end}" not in skip:
                    members.append((f"{root}/{inside}/{crystal}{end}.cif", text.getvalue()))
        for table in ("train", "val", "test"):
            rows = [crystal for crystal in ids if split[crystal] == table]
            if data == "xmno":
                lines = [f"{row}{end},-1.0" for row in rows for end in ends]
                members.append((f"{root}/id_prop_{table}_all.csv", "\n".join(lines).encode()))
            else:
                lines = ["mp_id" if data == "mp" else "atoms_id", *rows]
                members.append((f"{root}/{table}.csv", "\n".join(lines).encode()))
    if data == "defects":
        members += [
            ("high_density_defects/hBN_spin_500/train.csv", b"atoms_id\nnot-wanted"),
            ("MoS2.cif", b"cell"),
        ]
    return members, split


@pytest.fixture
def served(server, tmp_path, monkeypatch):
    """Serve an archive of the registry: `served(name)` returns the bytes of its file."""

    def offer(name, members=None, data=None, file=None, **how):
        archive = ARCHIVES[name]
        file = file or (archive.files[0].name if archive.files else "high_density_defects.zip")
        (tmp_path / "made").mkdir(exist_ok=True)
        data = data or pack(tmp_path / "made" / file, members or layout(name)[0]).read_bytes()
        url = server.serve(file, data, **how)
        entry = {"key": file, "size": len(data), "checksum": md5(data), "links": {"self": url}}
        record = {"files": [entry], "metadata": {"license": {"id": "cc-by-4.0"}}}
        api = server.serve("record", json.dumps(record).encode())
        files = tuple(replace(f, url=url) for f in archive.files)
        monkeypatch.setitem(ARCHIVES, name, replace(archive, api=api, files=files))
        return data

    return offer


@pytest.fixture
def places(tmp_path):
    """Return options for the dataset and the cache."""
    return ["--out", tmp_path / "set", "--cache", tmp_path / "cache"]


@pytest.mark.parametrize("name", [name for name, archive in ARCHIVES.items() if not archive.request])
def test_every_archive_becomes_a_dataset(served, server, places, tmp_path, name):
    data = served(name)
    result = run(name, "--yes", *places)
    assert result.exit_code == 0, result.output
    dataset = Dataset(tmp_path / "set")
    assert {pair.id: pair.split for pair in dataset} == layout(name)[1]
    for pair in dataset:
        assert sorted(pair.numbers) == sorted(REFERENCE[pair.id].numbers)
        for cell, expected in (
            (pair.cell, REFERENCE[pair.id].cell),
            (pair.relaxed_cell, REFERENCE[pair.id].relaxed_cell),
        ):
            assert np.linalg.det(cell) == pytest.approx(np.linalg.det(expected), rel=1e-5)
    info = dataset.info
    assert (info.name, info.calculator) == (name, ARCHIVES[name].calculator)
    assert info.licence == (ARCHIVES[name].licence or "cc-by-4.0")
    assert ARCHIVES[name].record in info.source
    assert info.splits.startswith("as the source gives them")
    # Record, licence, size, checksum and state are printed before the question.
    for said in (
        ARCHIVES[name].record,
        info.licence,
        f"{len(data) / 1e6:.1f} MB",
        md5(data),
        "to be downloaded",
    ):
        assert said in result.stdout
    # The download is deleted, the record is kept.
    assert left(tmp_path / "cache" / name) == ["record.json"]


def test_crystals_that_the_authors_leave_out(served, places, tmp_path):
    members, split = layout("c2db")
    salt = bulk("CaO", "rocksalt", a=4.8)
    for end in ("unrelaxed", "relaxed"):
        text = io.BytesIO()
        write(text, salt, format="cif")
        members.append((f"root/CIF/salt_{end}.cif", text.getvalue()))
    members = [
        (name, data + b"\nsalt") if name == "root/test.csv" else (name, data) for name, data in members
    ]
    served("c2db", members=members)
    assert run("c2db", "--yes", *places).exit_code == 0
    assert set(Dataset(tmp_path / "set").ids()) == set(split)
    assert "fewer than 3 atoms" in Dataset(tmp_path / "set").info.source
    assert run("c2db", "--yes", "--all", *places).exit_code == 0
    assert set(Dataset(tmp_path / "set").ids("test")) - set(split) == {"salt"}


@pytest.mark.parametrize(
    ("lost", "words"), [("val", r"no val\.csv; .* left out: 1"), ("", "no tables of train")]
)
def test_an_archive_with_missing_tables_is_noticed(served, places, tmp_path, lost, words):
    served("c2db", members=[member for member in layout("c2db")[0] if not member[0].endswith(f"{lost}.csv")])
    with pytest.warns(UserWarning, match=words):
        assert run("c2db", "--yes", *places).exit_code == 0
    assert len(Dataset(tmp_path / "set")) == (5 if lost else 6)


def test_one_dataset_of_a_record_is_downloaded(served, server, places, tmp_path):
    served("xmno-e3relax", file="cifs_xmno.tar.gz")
    files = json.loads(server.files["record"].data)["files"]
    record_of(
        server, [*files, {**files[0], "key": "oc22.tar.gz", "links": {"self": server.url("oc22.tar.gz")}}]
    )
    assert run("xmno-e3relax", "--yes", *places).exit_code == 0
    assert len(Dataset(tmp_path / "set")) == 6
    assert server.asked("oc22.tar.gz") == []


def vasp_files(pair):
    """Return ``vasprun.xml`` and ``OUTCAR`` of a relaxation path, without stress and with charges of zero."""
    steps = [
        Step(f.cell, f.positions @ np.linalg.inv(f.cell), f.energy, f.forces, np.zeros((3, 3)))
        for f in pair.path
    ]
    symbols = [chemical_symbols[z] for z in pair.numbers]
    yield f"{pair.id}/vasprun.xml", vasprun_xml(Run(symbols, steps, {"EDIFFG": -0.05})).encode()
    yield f"{pair.id}/OUTCAR", outcar(np.zeros((len(pair.numbers), 1)))


def test_from_paths_to_table(repose, tmp_path, monkeypatch):
    """Paths packed by hand; the split of the paper is not public, so there are no published rows."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cache" / "jarvis-paths" / "jarvis-paths.tar.gz"
    path.parent.mkdir(parents=True)
    status, _, err = repose("data", "fetch", "jarvis-paths", "--cache", "cache")
    assert status == 1
    assert "ID/vasprun.xml, with its OUTCAR, which has the charges, as ID/OUTCAR" in " ".join(err.split())
    pack(path, [member for pair in REFERENCE.values() for member in vasp_files(pair)])
    status, _, err = repose("data", "fetch", "jarvis-paths", "--cache", "cache")
    assert status == 0, err
    data = tmp_path / "datasets" / "jarvis-paths"
    assert set(Dataset(data).ids()) == set(IDS)
    assert "90/5/5%" in Dataset(data).info.splits
    repose("data", "split", data, "--fractions", "0.4,0.3,0.3", "--seed", 2)
    assert min(Dataset(data).info.counts.values()) > 0
    settings = [word for value in (*TOY, "model.frames=3") for word in ("--set", value)]
    common = ["--preset", "relaxnet/jarvis", "--data", data, "--out", "run", "--device", "cpu", "--quiet"]
    status, _, err = repose("train", *common, *settings)
    assert status == 0, err
    status, out, err = repose("evaluate", "--paths", "--model", "run", "--data", data, "--quiet")
    assert status == 0, err
    assert "| run " in out
    assert "published" not in out


@pytest.mark.parametrize(
    ("name", "preset"),
    [("xmno-e3relax", "e3relax/xmno"), ("mp", "e3relax-h2/mp"), ("c2db", "deeprelax/c2db")],
)
def test_from_archive_to_table(served, repose, tmp_path, monkeypatch, name, preset):
    """Published errors are in the table of a test set only if its input has the published errors."""
    monkeypatch.chdir(tmp_path)
    served(name)
    status, _, err = repose("data", "fetch", name, "--no-align", "--yes", "--cache", "cache")
    assert status == 0, err
    settings = [word for value in TOY for word in ("--set", value)]
    common = ["--preset", preset, "--data", f"datasets/{name}", "--device", "cpu", *settings]
    status, out, err = repose("train", *common, "--out", "run", "--quiet")
    assert status == 0, err
    evaluate = ["evaluate", "--model", "run", "--data", f"datasets/{name}", "--no-match", "--quiet"]
    status, out, err = repose(*evaluate, "--out", "first")
    assert status == 0, err
    assert "| run " in out
    assert "published: " not in out
    assert "are left out, as this is not its test set" in out
    (block,) = json.loads((tmp_path / "first" / "table.json").read_text())["blocks"]
    dummy, *_ = block["rows"]
    same = {"Dummy": {key: dummy[key] for key in ("coordinates", "volume")}, "Ours": {"coordinates": 0.125}}
    folder = tmp_path / "presets"
    (folder / preset).parent.mkdir(parents=True)
    text = load_preset(preset).model_copy(update={"published": same}).model_dump_json()
    (folder / f"{preset}.json").write_text(text)
    monkeypatch.setattr("repose.presets.preset.FOLDER", folder)
    status, out, err = repose(*evaluate)
    assert status == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("| published: Ours")]
    assert line.split("|")[2].strip() == "0.125"
    # Another split is another test set.
    assert repose("data", "split", f"datasets/{name}", "--fractions", "0,0,1")[0] == 0
    assert "published: Ours" not in repose(*evaluate)[1]


@pytest.mark.parametrize("root", [".", "home/ubuntu/data/xmno"])
def test_the_root_of_an_archive_may_be_anywhere(served, places, tmp_path, root):
    served("xmno", members=layout("xmno", folder=root)[0])
    assert run("xmno", "--yes", *places).exit_code == 0
    assert len(Dataset(tmp_path / "set")) == 6


def test_nothing_is_downloaded_without_confirmation(served, server, places, tmp_path):
    data = served("xmno")
    result = run("xmno", *places)
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert md5(data) in result.stdout
    assert server.asked("xmno.tar.gz") == []
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_question_on_a_terminal(served, server, places, tmp_path, monkeypatch, answer):
    served("xmno")
    monkeypatch.setattr(command, "on_terminal", lambda: True)
    result = CliRunner().invoke(app, ["fetch", "xmno", *map(str, places)], input=f"{answer}\n")
    assert result.exit_code == (0 if answer == "y" else 1)
    assert (tmp_path / "set").exists() == (answer == "y")
    assert len(server.asked("xmno.tar.gz")) == (answer == "y")


def test_the_downloaded_file_is_kept_if_wanted(served, places, tmp_path):
    data = served("mp")
    assert run("mp", "--yes", "--keep", *places).exit_code == 0
    assert (tmp_path / "cache" / "mp" / "mp.tar.gz").read_bytes() == data
    assert left(tmp_path / "cache" / "mp") == ["mp.tar.gz", "record.json"]


def test_json_is_the_only_thing_on_standard_output(served, places):
    served("xmno")
    result = run("xmno", "--yes", "--json", *places)
    report = json.loads(result.stdout)
    assert report["archive"] == "xmno"
    assert report["licence"] == "cc-by-4.0"
    assert sum(report["counts"].values()) == 6
    assert report["files"][0]["name"] == "xmno.tar.gz"


def test_a_broken_download_is_resumed(served, server, places, tmp_path, monkeypatch):
    data = served("xmno", cuts=[1000])
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 1
    assert "1000 bytes are kept" in result.stderr
    assert left(tmp_path / "cache" / "xmno") == [
        "record.json",
        "xmno.tar.gz.part",
        "xmno.tar.gz.part.version",
    ]
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 0, result.output
    assert "of it present" in result.stdout
    first, second = server.asked("xmno.tar.gz")
    assert (second["range"], first["sent"] + second["sent"]) == ("bytes=1000-", len(data))


def test_a_killed_command_is_resumed(served, server, places, tmp_path):
    data = served("xmno", cuts=[2000], stall=True)
    archive = ARCHIVES["xmno"]
    script = (
        "import sys, typer\n"
        "from repose.cli import fetch\n"
        "from repose.data.archives.registry import ARCHIVES, Archive, ArchiveFile\n"
        f"ARCHIVES['xmno'] = {archive!r}\n"
        "typer.run(fetch.fetch)\n"
    )
    arguments = [sys.executable, "-c", script, "xmno", "--yes", *map(str, places)]
    part = tmp_path / "cache" / "xmno" / "xmno.tar.gz.part"
    environment = {**os.environ, "no_proxy": "*"}
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as process:
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < 2000:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    server.released.set()
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 0, result.output
    assert len(Dataset(tmp_path / "set")) == 6
    _, second = server.asked("xmno.tar.gz")
    assert (second["range"], second["sent"]) == ("bytes=2000-", len(data) - 2000)


def test_a_killed_command_while_unpacking_can_be_repeated(served, places, tmp_path):
    served("xmno")
    stale = tmp_path / "cache" / "xmno" / "unpacked" / "old"
    stale.mkdir(parents=True)
    (stale / "train.csv").write_text("atoms_id\nold\n")
    assert run("xmno", "--yes", *places).exit_code == 0
    assert len(Dataset(tmp_path / "set")) == 6


@pytest.mark.parametrize("name", ["xmno", "defects"])
def test_without_a_network_the_message_has_instructions(nobody, places, tmp_path, monkeypatch, name):
    monkeypatch.setenv("no_proxy", "*")
    archive = ARCHIVES[name]
    files = tuple(replace(file, url=f"{nobody}/x") for file in archive.files)
    monkeypatch.setitem(ARCHIVES, name, replace(archive, api=f"{nobody}/record", files=files))
    result = run(name, "--yes", *places)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    file = "xmno.tar.gz" if name == "xmno" else "archives.zip"
    folder = tmp_path / "cache" / name
    assert f"open {archive.record}, save" in line
    assert str(folder / file if name == "xmno" else folder) in line
    # A file saved by hand is used without a question, and kept.
    folder.mkdir(parents=True, exist_ok=True)
    pack(folder / file, layout(name)[0])
    result = run(name, *places)
    assert result.exit_code == 0, result.output
    assert "checksum unknown" in result.stdout
    assert len(Dataset(tmp_path / "set")) == 6
    assert left(folder) == [file]


def test_a_file_saved_by_hand_is_verified_without_a_network(served, server, places, tmp_path):
    data = served("xmno")
    assert run("xmno", *places).exit_code == 2  # the record has been read
    del server.files["record"]
    path = tmp_path / "cache" / "xmno" / "xmno.tar.gz"
    path.write_bytes(data[:-1])
    result = run("xmno", *places)
    assert result.exit_code == 1
    assert f"{len(data) - 1} bytes, {len(data)} were expected" in result.stderr
    assert left(path.parent) == ["record.json", "xmno.tar.gz.bad"]
    path.write_bytes(data)
    result = run("xmno", *places)
    assert result.exit_code == 0, result.output
    assert "; present" in result.stdout
    assert path.read_bytes() == data
    assert server.asked("xmno.tar.gz") == []


def test_an_archive_on_request_names_the_contact(places, tmp_path):
    result = run("c2db-request", "--yes", *places)
    path = tmp_path / "cache" / "c2db-request" / "c2db-request.tar.gz"
    assert result.exit_code == 1
    for said in ("on request", "corresponding author", "cmr.fysik.dtu.dk", str(path)):
        assert said in result.stderr
    path.parent.mkdir(parents=True)
    # A folder of CIFs without tables, packed by hand.
    pack(path, [m for m in layout("c2db")[0] if not m[0].endswith(".csv")])
    result = run("c2db-request", *places)
    assert result.exit_code == 0, result.output
    assert "no checksum is published" in result.stdout
    assert len(Dataset(tmp_path / "set")) == 6
    assert "by chemical-system" in Dataset(tmp_path / "set").info.splits


def test_a_file_from_another_address_is_verified(served, server, places, tmp_path):
    data = served("xmno")
    server.files["xmno.tar.gz"].status = 403
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 1
    assert "HTTP 403" in result.stderr
    assert "By hand: open https://zenodo.org/records/19212240" in result.stderr
    wrong = server.serve("wrong.tar.gz", data[::-1])
    result = run("xmno", "--yes", "--url", wrong, *places)
    assert result.exit_code == 1
    assert "renamed" in result.stderr
    assert not (tmp_path / "set").exists()
    mirror = server.serve("mirror.tar.gz", data)
    assert run("xmno", "--yes", "--url", mirror, *places).exit_code == 0
    assert len(Dataset(tmp_path / "set")) == 6
    assert len(server.asked("mirror.tar.gz")) == 1


def test_another_address_is_used_without_the_record(served, server, places, tmp_path):
    data = served("defects")
    del server.files["record"]
    mirror = server.serve("mirror.zip", data)
    result = run("defects", "--yes", "--url", mirror, *places)
    assert result.exit_code == 0, result.output
    assert "checksum unknown" in result.stdout
    assert len(Dataset(tmp_path / "set")) == 6


def record_of(server, files):
    server.serve("record", json.dumps({"files": files}).encode())


def test_all_archives_of_a_record_are_imported_if_none_is_named(served, server, places, tmp_path):
    members = layout("defects")[0]
    parts = {
        "mos2.zip": [m for m in members if "MoS2" in m[0]],
        "wse2.tgz": [m for m in members if "WSe2" in m[0]],
    }
    served("defects")
    entries = {"readme.txt": {"key": "readme.txt", "size": 1}}
    for name, chosen in parts.items():
        data = pack(tmp_path / "made" / name.replace(".tgz", ".tar.gz"), chosen).read_bytes()
        url = server.serve(name, data)
        entries[name] = {"key": name, "size": len(data), "checksum": md5(data), "links": {"content": url}}
    # The other form of the JSON.
    rights = {"rights": [{"id": "cc-by-4.0"}]}
    server.serve("record", json.dumps({"files": {"entries": entries}, "metadata": rights}).encode())
    result = run("defects", "--yes", *places)
    assert result.exit_code == 0, result.output
    assert len(Dataset(tmp_path / "set")) == 6
    result = run("defects", "--yes", "--url", server.url("mos2.zip"), *places)
    assert result.exit_code == 2
    assert "--url gives one file" in result.stderr


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b'{"files": [{"key": "other.zip", "size": 3}]}', "lists no xmno.tar.gz; it lists other.zip"),
        (b'{"files": [{"key": "../xmno.tar.gz", "size": 3}]}', "lists no xmno.tar.gz; it lists nothing"),
    ],
)
def test_a_record_without_the_file_is_an_error(served, server, places, record, message):
    served("xmno")
    server.serve("record", record)
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 1
    assert message in result.stderr


def test_with_a_record_of_an_unknown_form_there_is_no_checksum(served, server, places):
    served("xmno")
    server.serve("record", b"<html>maintenance")
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 0, result.output
    assert "unknown form" in result.stderr


def test_a_checksum_of_an_unknown_algorithm_is_not_used(served, server, places):
    data = served("xmno")
    url = server.url("xmno.tar.gz")
    record_of(
        server, [{"key": "xmno.tar.gz", "size": len(data), "checksum": "crc7:00", "links": {"self": url}}]
    )
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 0, result.output
    assert "no checksum is published" in result.stdout


def test_a_damaged_download_is_set_aside_and_makes_no_dataset(served, server, places, tmp_path):
    data = bytearray(pack(tmp_path / "whole.tar.gz", layout("xmno")[0]).read_bytes())
    data[len(data) // 2] ^= 0xFF
    served("xmno", data=bytes(data))
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 1
    assert "xmno.tar.gz.bad" in result.stderr
    assert left(tmp_path / "cache" / "xmno") == ["record.json", "xmno.tar.gz.bad"]
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "members", [[("../evil.cif", b"1")], [("notes/readme.cif.txt", b"1")], [("a/x.cif", b"1")]]
)
def test_archives_that_cannot_be_used_make_no_dataset(served, places, tmp_path, members):
    served("xmno", members=members)
    result = run("xmno", "--yes", *places)
    assert result.exit_code == 1
    assert "leads out" in result.stderr or "expected layout" in result.stderr or "no pairs" in result.stderr
    assert not (tmp_path / "set").exists()
    assert list(tmp_path.rglob("evil*")) == []
    # The download is kept.
    assert left(tmp_path / "cache" / "xmno") == ["record.json", "xmno.tar.gz"]


def test_refused_crystals_affect_no_others(served, places, tmp_path):
    served("c2db", members=layout("c2db", skip=(f"{IDS[0]}_relaxed",))[0])
    result = run("c2db", "--yes", *places)
    assert result.exit_code == 1
    assert f"refused: {IDS[0]}" in result.stderr
    assert len(Dataset(tmp_path / "set")) == 5
    assert (tmp_path / "set" / "refused.csv").is_file()


def test_a_failure_does_not_change_an_older_dataset(served, server, places, tmp_path):
    served("xmno")
    assert run("xmno", "--yes", *places).exit_code == 0
    del server.files["xmno.tar.gz"]
    assert run("xmno", "--yes", *places).exit_code == 1
    assert len(Dataset(tmp_path / "set")) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["xmn"], "Did you mean 'xmno'?"),
        (["xmno", "--url", "ftp://host/xmno.tar.gz"], "https or http"),
        (["xmno", "--out", "OCCUPIED"], "is not a dataset"),
    ],
)
def test_wrong_usage_ends_with_status_2_before_any_request(served, server, tmp_path, arguments, message):
    served("xmno")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").write_text("years")
    named = [tmp_path / "occupied" if a == "OCCUPIED" else a for a in arguments]
    result = run(*named, "--yes", "--cache", tmp_path / "cache")
    assert result.exit_code == 2
    assert message in result.stderr
    assert server.log == []


def test_without_a_name_the_archives_are_listed():
    result = run()
    assert result.exit_code == 0
    for name in ARCHIVES:
        assert f" {name} " in result.stdout
    listed = json.loads(run("--json").stdout)
    assert [entry["name"] for entry in listed] == list(ARCHIVES)
    assert {"record", "files", "licence", "citation", "layout", "format"} <= set(listed[0])


def test_the_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert registry.default_cache() == tmp_path / "repose" / "archives"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry.default_cache() == tmp_path / ".cache" / "repose" / "archives"


def test_help_has_an_example():
    assert "Example: repose data fetch" in run("--help").output
