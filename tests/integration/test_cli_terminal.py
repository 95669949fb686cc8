"""`repose relax` on a terminal, in a pipe, and with one invalid file of each kind."""

import json
import os
import pty
import select
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write as ase_write

from support.bad_files import BAD, JUNK
from support.tiny import save_tiny_model

REPOSE = [sys.executable, "-m", "repose"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", elements=range(1, 84)))


@pytest.fixture
def frames(tmp_path):
    path = tmp_path / ("a_long_name_that_makes_lines_longer_than_a_terminal_is_wide" * 2 + ".extxyz")
    ase_write(path, [bulk("MgO", "rocksalt", a=4.0 + 0.01 * k) for k in range(40)])
    return path


class Terminal:
    """Pseudo-terminal that stores its output."""

    def __enter__(self):
        self.master, self.slave = pty.openpty()
        self.text = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self):
        while True:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    chunk = os.read(self.master, 65536)
                except OSError:  # all writers are gone
                    return
                if not chunk:
                    return
                self.text += chunk

    def __exit__(self, *error):
        os.close(self.slave)
        self._reader.join(timeout=20)
        os.close(self.master)


def test_json_goes_to_a_file_though_errors_go_to_a_terminal(frames, model, tmp_path):
    log = tmp_path / "log.jsonl"
    command = [*REPOSE, "relax", str(frames), "--model", model, "-o", str(tmp_path / "out"), "--json"]
    with Terminal() as terminal, log.open("w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=terminal.slave, timeout=120)
    assert done.returncode == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(40))
    assert b"crystals" in terminal.text  # the progress bar


def test_json_on_a_terminal_is_not_wrapped(frames, model, tmp_path):
    command = [*REPOSE, "relax", str(frames), "--model", model, "-o", str(tmp_path / "out"), "--json"]
    with Terminal() as terminal:
        done = subprocess.run(command, stdout=terminal.slave, stderr=terminal.slave, timeout=120)
    assert done.returncode == 0
    lines = [json.loads(line) for line in terminal.text.decode().splitlines()]
    assert len(lines) == 40
    assert len(terminal.text.splitlines()[0]) > 200


@pytest.mark.parametrize("option", ["--json", "--verbose"])
def test_a_pipe_that_closes_ends_it_quietly(frames, model, tmp_path, option):
    command = [*REPOSE, "relax", str(frames), "--model", model, "-o", str(tmp_path / "out"), option, "-q"]
    line = f"{shlex.join(command)} 2> {tmp_path}/err | true"
    subprocess.run(["bash", "-c", line], timeout=120, check=True)
    assert "Traceback" not in (tmp_path / "err").read_text()
    assert "Broken" not in (tmp_path / "err").read_text()
    line = f"{shlex.join(command[:-2])} --json 2> {tmp_path}/err | head -n 1"
    first = subprocess.run(["bash", "-c", line], timeout=120, check=True, capture_output=True, text=True)
    assert json.loads(first.stdout)["index"] == 0
    assert (tmp_path / "err").read_text() == ""


def test_a_table_into_a_closed_pipe(frames, model, tmp_path):
    command = [*REPOSE, "relax", str(frames), "--model", model, "-o", str(tmp_path / "out")]
    subprocess.run(["bash", "-c", f"{shlex.join(command)} 2> {tmp_path}/err | true"], timeout=120, check=True)
    assert (tmp_path / "err").read_text() == ""


@pytest.fixture(scope="module")
def five_hundred(tmp_path_factory):
    """Return a folder of 500 files, one with each kind of fault, and the names of the faulty ones."""
    folder = tmp_path_factory.mktemp("many")
    for name, (text, _) in BAD.items():
        (folder / name).write_text(text)
    for name in JUNK:
        (folder / name).write_bytes(bytes(range(256)) * 10)
    # Folders are searched for files of known names, and for JSON that may hold structures.
    passed_over = {"notes.txt", "settings.json", "junk.json"}
    bad = {*BAD, *JUNK} - passed_over
    for name in passed_over:
        (folder / name).unlink()
    for k in range(500 - len(bad)):
        atoms = bulk("MgO", "rocksalt", a=4.0 + 0.001 * k)
        # The search for the symmetry of a cubic crystal takes longer than all the rest.
        atoms.set_cell(atoms.cell.array @ [[1, 0.1, 0.05], [0, 1, 0.07], [0, 0, 1]], scale_atoms=True)
        ase_write(folder / f"good{k:03d}.vasp", atoms, format="vasp")
    return folder, bad


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_500_files_with_every_kind_of_fault(five_hundred, model, tmp_path, terminal):
    folder, bad = five_hundred
    command = [*REPOSE, "relax", str(folder), "--model", model, "-o", str(tmp_path / "out"), "--json"]
    if terminal:
        with Terminal() as screen:
            done = subprocess.run(command, stdout=screen.slave, stderr=screen.slave, timeout=300)
        text = screen.text.decode()
    else:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        text = done.stdout
    assert done.returncode == 1
    lines = {Path(line["source"]).name: line for line in map(json.loads, text.splitlines())}
    assert len(text.splitlines()) == len(lines) == 500
    assert {name for name, line in lines.items() if line["status"] == "refused"} == bad
    assert len(list((tmp_path / "out").iterdir())) == 500 - len(bad)
    for name in bad:
        assert lines[name]["reason"]
