"""Documentation: examples run, command lines parse, names exist, pages build without a warning."""

import importlib
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

OPTIONAL = ("jobflow", "atomate2", "quacc")  # packages that examples may import


def command_lines(text: str) -> list[str]:
    """Command lines of `repose` in shell blocks, without pipes and redirections."""
    shell = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    lines = (line.strip() for line in shell.splitlines())
    return [re.split(r"\s[|>]", line)[0] for line in lines if line.startswith("repose ")]


def parse(line: str, folder: Path) -> None:
    """Parse a command line without running it; raise its usage errors."""
    words = shlex.split(line)[1:]
    for word in words:
        if not word.startswith(("-", "/")) and "*" not in word:
            (folder / word).mkdir(parents=True, exist_ok=True)  # arguments that must exist
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
    """Run all blocks of a page in order in one namespace, but those whose optional package is missing."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    missing = set()
    for number, block in enumerate(blocks(page.read_text(), "python"), start=1):
        try:
            exec(compile(block, f"{page.name}, Python block {number}", "exec"), names)
        except ModelError:
            if "default" in shipped_models():
                raise
            pytest.skip(f"block {number} of {page.name} needs the shipped model, which is missing")
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package not in OPTIONAL:
                raise
            missing.add(package)
    if missing:
        pytest.skip(f"blocks of {page.name} need {', '.join(sorted(missing))}")


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
    assert blocks(start[1], "bash")[0] == "make demo\nmake test\n"
    targets = re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            generated = target.startswith("reference/")  # written and checked by every build
            assert generated or target.startswith("http") or (page.parent / target).exists(), (
                f"{page.name}: {target}"
            )


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def section(title: str) -> str:
    """Text of one section of `docs/architecture.md`."""
    return ARCHITECTURE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def exists(name: str) -> bool:
    """Return whether a dotted name of the package leads to a module, class, function or method."""
    parts = f"repose.{name}".split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_order_of_rooms_is_the_enforced_one():
    picture = blocks(section("Rooms"), "text")[0]
    assert [line.split()[0] for line in picture.splitlines()] == ORDER


def test_the_way_of_one_crystal_has_eight_steps_of_existing_functions():
    way = section("The way of one crystal")
    steps = re.findall(r"^(\d)\. ((?:.+\n)(?:   .+\n)*)", way, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 9))
    for number, step in steps:
        names = re.findall(r"`([a-z_]+(?:\.\w+)+)`", step)
        assert names, f"step {number} names no function"
        assert all(map(exists, names)), [name for name in names if not exists(name)]
    assert not exists("cli.relax.no_such_function")


def test_where_to_look_names_existing_files():
    lines = re.findall(r"^\| .+ \| (.+) \|$", section("Where to look for"), re.MULTILINE)[2:]
    assert len(lines) == 10
    for place in re.findall(r"`([^`]+)`", " ".join(lines)):
        assert (ROOT / place).exists() or (ROOT / "src" / "repose" / place).exists(), place


def test_pages_are_short():
    """Tables from stored results count in README only; the tables of equations do not count."""
    tables = re.compile(r"<!-- numbers: .*?<!-- end -->", re.DOTALL)
    words = {page.name: len(tables.sub("", page.read_text()).split()) for page in PAGES}
    equations = (ROOT / "docs" / "equations.md").read_text()
    words["equations.md"] = len(re.sub(r"^\|.*", "", equations, flags=re.MULTILINE).split())
    words.pop("README.md")
    words.pop("CONTRIBUTING.md")
    assert len((ROOT / "README.md").read_text().split()) <= 700
    assert sum(words.values()) <= 14_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_of_prose_are_short(page):
    code_or_math = r"^```.*?^```$|\$\$.*?\$\$"
    prose = re.sub(code_or_math, "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "!["))]
    assert not [line for line in lines if len(line) > 120]


def test_settings_of_the_shipped_model_are_valid():
    """Recipes parse; a folder has the name of its model, which may have another family."""
    recipes = [p for s in ("forces", "train", "recycle") for p in (ROOT / "recipes").glob(f"*/{s}.json")]
    assert recipes
    for path in recipes:
        settings = TrainSettings.parse(json.loads(path.read_text()))
        name = "reposenet" if path.parent.name in ("repose", "defects") else path.parent.name
        assert name in families()
        family(name).settings_type.parse(settings.model)


def test_pages_build_without_a_warning(tmp_path):
    """Build as `make docs`; the generated pages name every command and setting."""
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
        "repose.TwoStageOptimizer",
        "repose.Relaxation",
    ):
        assert f'id="{name}"' in python, name
