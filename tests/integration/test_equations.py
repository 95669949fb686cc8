"""Tables of `docs/equations.md`: code, tests, settings and presets that they name are there, and agree."""

import ast
import re
from fnmatch import filter as matching
from functools import cache
from operator import attrgetter
from pathlib import Path

import pytest

from repose.cli.settings import read_settings
from repose.config import TrainSettings
from repose.errors import ConfigError
from repose.models.registry import family
from repose.presets.preset import load_preset, preset_names
from support.paths import ROOT, TESTS

PAGE = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
PAPERS = {"E3Relax": 19, "E3Relax-H2": 0, "DeepRelax": 28, "RelaxNet": 7}  # numbered equations


def rows(page: str, title: str) -> list[list[str]]:
    """Cells of the table of a section, without its head."""
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def code(cell: str) -> list[str]:
    """Parts of a cell in backticks."""
    return re.findall(r"`([^`]+)`", cell)


@cache
def defined(path: Path) -> set[str]:
    """Names of functions, and of methods as ``Class.method``, in a file."""
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [(f"{node.name}.", node) for node in tree.body if isinstance(node, ast.ClassDef)]
    owners = [("", tree), *classes]
    return {
        prefix + node.name
        for prefix, owner in owners
        for node in owner.body
        if isinstance(node, ast.FunctionDef)
    }


def has_function(name: str) -> bool:
    """Return whether ``FILE: NAME`` is a function or method of the package."""
    path, _, function = name.partition(": ")
    return function in defined(ROOT / "src" / "repose" / path)


def has_test(name: str) -> bool:
    """Return whether ``FILE::NAME`` is a test."""
    file, _, test = name.partition("::")
    return any(test in defined(path) for path in TESTS.rglob(file))


@cache
def resolved(preset: str, setting: str = "") -> tuple:
    """Settings of a run from a preset, and of its model, after ``NAME=VALUE``; a name alone must exist."""
    owner = family(preset.partition("/")[0]).settings_type
    name, equals, _ = setting.partition("=")
    of_run = name.partition(".")[0] in TrainSettings.model_fields
    if name and not equals:
        attrgetter(name)(TrainSettings() if of_run else owner())
    given = [setting if of_run else f"model.{setting}"] if equals else []
    defaults = [owner.training, load_preset(preset).settings]
    run = read_settings(TrainSettings, None, given, defaults=defaults)
    return run.model_copy(update={"model": {}}), owner.parse(run.model)


def presets_with(paper: str, setting: str) -> set[str]:
    """Presets of a paper whose settings do not change with ``NAME=VALUE``."""
    return {name for name in presets_of(paper) if resolved(name, setting) == resolved(name)}


def presets_of(paper: str) -> set[str]:
    """All presets of a paper."""
    return set(matching(preset_names(), f"{paper.lower()}/*"))


def check(page: str) -> None:
    """Raise an error if a name in the tables leads nowhere, or if presets are not what they say."""
    explained = set()
    for papers, deviation, options, presets in rows(page, "Deviations"):
        patterns = code(presets)
        assert patterns or presets.startswith("none: "), f"{deviation}: neither a preset nor a reason"
        named = {pattern: matching(preset_names(), pattern) for pattern in patterns}
        assert all(named.values()), f"{deviation}: no such preset"
        for paper in papers.split(", "):
            assert paper in PAPERS, paper
            own = presets_of(paper) & {name for names in named.values() for name in names}
            for option in code(options):
                assert presets_with(paper, option) == own, f"{paper}, {option}: not the presets that set it"
                explained |= set() if patterns else {(paper, option)}
    for paper, last in PAPERS.items():
        numbers = set()
        for equation, functions, tests, settings in rows(page, paper):
            for first, _, end in re.findall(r"(\d+)[ab]?( to (\d+))?", equation):
                numbers |= set(range(int(first), int(end or first) + 1))
            assert code(functions), f"{paper}, {equation}: no code"
            assert code(tests), f"{paper}, {equation}: no test"
            assert all(map(has_function, code(functions))), functions
            assert all(map(has_test, code(tests))), tests
            for setting in code(settings):
                if not setting.startswith("--") and (paper, setting) not in explained:
                    assert presets_with(paper, setting) == presets_of(paper), (
                        f"{paper}, {equation}: {setting}"
                    )
        assert set(range(1, last + 1)) <= numbers, f"{paper}: an equation is missing"


def test_tables_of_equations_are_right():
    check(PAGE)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("nn/messages.py: Message.forward", "nn/message.py: Message.forward"),
        ("nn/messages.py: Message.forward", "nn/messages.py: Message.forwards"),
        ("test_e3relax.py::test_messages", "test_e3relax_h2.py::test_messages"),
        ("::test_equation_4a`", "::test_equation_4c`"),
        ("`offsets=true`", "`offset=true`"),
        ("`offsets=true`", '`offsets="all"`'),
        ("`fade` to 0", "`fading` to 0"),
        ("`relaxnet/jarvis-static`", "`relaxnet/jarvis-stat`"),
        ('`solver="adam"` | `deeprelax/*`', '`solver="adam"` | `deeprelax/mp`'),
        ('`solver="adam"` | `deeprelax/*`', '`solver="released"` | `deeprelax/*`'),
        ('`reduction="sum"` | none: ', '`reduction="sum"` | '),
        ('`images="predicted"`', '`images="unrelaxed"`'),
        ('`maps="released"` | none: ', '`maps="matrices"` | none: '),
        ("| E3Relax-H2 | step 5", "| E3Relax-H3 | step 5"),
        ("| 9 |", "| other |"),
    ],
)
def test_wrong_tables_are_noticed(right, wrong):
    assert right in PAGE
    with pytest.raises((AssertionError, AttributeError, ConfigError)):
        check(PAGE.replace(right, wrong))
