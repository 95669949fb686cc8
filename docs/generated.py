"""Generate the command reference and the tables of settings from the code.

The pages are written to `docs/reference/`, which git ignores.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMANDS = """# Commands

Every command has `--help` with its options and one example. It shows a progress bar on a terminal, and prints
a line every few seconds elsewhere. Exit status: 0 all done; 1 some inputs were refused, the others are done
and written; 2 wrong usage. Settings are given by `--set NAME=VALUE` or in the JSON file of `--config`.
"""

SETTINGS = """# Settings

Settings of `repose train`, for `--set NAME=VALUE` and the JSON file of `--config`. Names of nested settings
are joined by dots, such as `sampling.rattle`. Unknown names are refused with the nearest known one. The
resolved settings are saved with the run and with the model.
"""


def write(directory: Path) -> None:
    """Write the pages that changed; Sphinx then reads only these again."""
    directory.mkdir(exist_ok=True)
    for name, text in (("commands.md", commands()), ("settings.md", settings())):
        path = directory / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def commands() -> str:
    """Command reference as Markdown."""
    from typer.main import get_command

    from repose.cli import app

    return "\n".join([COMMANDS, *_command(get_command(app), "repose", None)])


def _command(command: Any, name: str, parent: Any) -> Iterator[str]:
    """Markdown of a command and its subcommands, depth first."""
    context = command.context_class(command, info_name=name.split()[-1], parent=parent)
    children = getattr(command, "commands", {})
    if parent is not None:
        yield f"## `{name}`\n"
        if not children:
            yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
        yield from _prose(command.help or "")
    records = [record for item in command.get_params(context) if (record := item.get_help_record(context))]
    records = [(names, text) for names, text in records if names != "--help"]
    if records:
        yield "| argument or option | meaning |\n| --- | --- |"
        yield from (f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records)
        yield ""
    if (settings := getattr(command, "settings", None)) is not None:
        if name == "repose train":
            yield "Settings: see [settings](settings.md).\n"
        else:
            yield from _table(settings, nested=True)
    for child, subcommand in children.items():
        yield from _command(subcommand, f"{name} {child}", context)


def _prose(text: str) -> Iterator[str]:
    """Paragraphs of a help text, with the example as code."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("Example: "):
            yield f"Example:\n\n```bash\n{paragraph.removeprefix('Example: ')}\n```\n"
        else:
            yield paragraph + "\n"


def settings() -> str:
    """Tables of all settings as Markdown."""
    from repose.config import GraphSettings, PathSettings, SamplingSettings, TrainSettings
    from repose.models.registry import families, family

    parts = [SETTINGS, "## A training run\n", *_table(TrainSettings)]
    parts += ["## `sampling`: training inputs\n", *_table(SamplingSettings)]
    parts += ["## `paths`: loss on relaxation paths\n", *_table(PathSettings)]
    for name in families():
        parts += [f"## `model`, family {name}\n", *_table(family(name).settings_type)]
    return "\n".join([*parts, "## `model.graph`: neighbours\n", *_table(GraphSettings)])


def _table(kind: Any, nested: bool = False) -> Iterator[str]:
    """Table with one row per setting: name, default, allowed values, meaning."""
    from repose.cli.settings import setting_rows

    yield "| name | default | allowed | meaning |\n| --- | --- | --- | --- |"
    for row in setting_rows(kind, nested=nested):
        default = f"`{row.default}`" if row.default else "see below"
        yield f"| `{row.name}` | {default} | {_cell(row.allowed)} | {_cell(row.meaning)} |"
    yield ""


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
