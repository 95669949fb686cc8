"""What the documentation says is true: examples run, command lines parse, pages build without a warning."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from repose.cli import app
from repose.config import GraphSettings, SamplingSettings, TrainSettings
from repose.errors import ModelError
from repose.models.checkpoint import shipped_models
from repose.models.e3relax.settings import E3RelaxSettings
from repose.models.e3relax_h2.settings import E3RelaxH2Settings
from repose.models.registry import families, family
from support.pages import blocks
from support.paths import ROOT
from support.rooms import ORDER

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def command_lines(text: str) -> list[str]:
    """Calls of `repose` in shell blocks, without pipes and redirections."""
    shell = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    lines = (line.strip() for line in shell.splitlines())
    return [re.split(r"\s[|>]", line)[0] for line in lines if line.startswith("repose ")]


def parse(line: str, folder: Path) -> None:
    """Parse a command line to the end without running it; raises what the command line would complain of."""
    words = shlex.split(line)[1:]
    for word in words:
        if not word.startswith(("-", "/")) and "*" not in word:
            (folder / word).mkdir(parents=True, exist_ok=True)  # some arguments must exist
    command = typer.main.get_command(app)
    leaves = [command]
    while leaves:
        leaf = leaves.pop()
        leaves += getattr(leaf, "commands", {}).values()
        if not hasattr(leaf, "commands"):
            leaf.callback = lambda **values: None
    command.main(words, prog_name="repose", standalone_mode=False)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text(), "python")], ids=lambda p: p.stem
)
def test_python_examples_run(page, tmp_path, monkeypatch):
    """All blocks of a page, in order, share one namespace, as a reader would run them."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for number, block in enumerate(blocks(page.read_text(), "python"), start=1):
        try:
            exec(compile(block, f"{page.name}, Python block {number}", "exec"), names)
        except ModelError:
            if "default" in shipped_models():
                raise
            pytest.skip(f"block {number} of {page.name} needs the model that ships, which is not here")


LINES = [(page.name, line) for page in PAGES for line in command_lines(page.read_text())]


@pytest.mark.parametrize(
    ("page", "line"), LINES, ids=lambda value: value if value.startswith("repose") else None
)
def test_command_lines_parse(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parse(line, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "repose relax POSCAR --symetry keep",
        "repose relax POSCAR --format png",
        "repose train",
        "repose rlax x",
    ],
)
def test_wrong_command_lines_are_noticed(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=r"No such|Missing|[Ii]nvalid|not one of"):
        parse(line, tmp_path)


def test_start_is_two_commands():
    start = re.search(r"^## Start\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert start is not None
    assert blocks(start[1], "bash") == ["make demo\nmake test\n"]
    targets = re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            generated = target.startswith("reference/")  # made at every build, which checks them
            assert generated or target.startswith("http") or (page.parent / target).exists(), (
                f"{page.name}: {target}"
            )


def test_the_order_of_the_house_is_the_one_enforced():
    picture = blocks((ROOT / "docs" / "architecture.md").read_text(), "text")[0]
    assert [line.split()[0] for line in picture.splitlines()] == ORDER


def test_settings_of_the_shipped_model_are_valid():
    models = ROOT / "models"
    stages = ("forces", "train", "recycle")
    for path in (path for stage in stages for path in models.glob(f"*/{stage}.json")):
        settings = TrainSettings.parse(json.loads(path.read_text()))
        if path.parent.name in families():
            family(path.parent.name).settings_type.parse(settings.model)


def test_pages_build_without_a_warning(tmp_path):
    """As `make docs`; pages made from the code name every command and setting."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        tmp_path / "doctrees",
    ]
    built = subprocess.run(
        [*command, ROOT / "docs", tmp_path / "html"], capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    commands = (tmp_path / "html" / "reference" / "commands.html").read_text()
    for name in (
        "relax",
        "models",
        "train",
        "calibrate",
        "evaluate",
        "data import",
        "data fetch",
        "data generate",
        "data label",
        "data pack",
        "data pair",
        "data inspect",
        "data split",
        "bench speed",
        "bench profile",
    ):
        assert f'id="repose-{name.replace(" ", "-")}"' in commands, name
    assert "--fix-axes" in commands
    settings = (tmp_path / "html" / "reference" / "settings.html").read_text()
    for model in (TrainSettings, SamplingSettings, E3RelaxSettings, E3RelaxH2Settings, GraphSettings):
        missing = [name for name in model.model_fields if f">{name}</span>" not in settings]
        assert not missing
    python = (tmp_path / "html" / "python.html").read_text()
    for name in (
        "repose.relax",
        "repose.load",
        "repose.Relaxer.relax",
        "repose.DirectOptimizer",
        "repose.Relaxation",
    ):
        assert f'id="{name}"' in python, name
