"""Pages made from the code at every build: the command reference and the tables of settings.

They are written to `docs/reference/`, which git ignores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMANDS = """# Commands

Every command answers `--help` with its options and one example, and shows a progress bar on a terminal and a
plain line every few seconds elsewhere. Exit status: 0 all done; 1 some inputs were refused, the others are
done and written; 2 wrong usage.

This page is made from the code.
"""

SETTINGS = """# Settings

What a JSON file for `repose train --config` may hold, and what `--set NAME=VALUE` may change: the settings of
a run, with `sampling`, `paths` and `model` nested in them. Unknown names are refused, with the nearest known
one. The
resolved settings are saved with the run and with the model.

This page is made from the code.
"""


def write(directory: Path) -> None:
    """Write all pages; a page that is already so stays untouched, so that Sphinx need not read it again."""
    directory.mkdir(exist_ok=True)
    for name, text in (("commands.md", commands()), ("settings.md", settings())):
        path = directory / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def commands() -> str:
    """The command reference as Markdown."""
    from typer.main import get_command

    from repose.cli import app

    return "\n".join([COMMANDS, *_command(get_command(app), "repose", None)])


def _command(command: Any, name: str, parent: Any) -> Iterator[str]:
    """One command and its subcommands, depth first."""
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
    for child, subcommand in children.items():
        yield from _command(subcommand, f"{name} {child}", context)


def _prose(text: str) -> Iterator[str]:
    """Paragraphs of a help text, its example as code."""
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
    parts += ["## `sampling`: what training sees\n", *_table(SamplingSettings)]
    parts += ["## `paths`: the loss on whole relaxation paths\n", *_table(PathSettings)]
    for name in families():
        parts += [f"## `model` of the family {name}\n", *_table(family(name).settings_type)]
    return "\n".join([*parts, "## `model.graph`: neighbours\n", *_table(GraphSettings)])


def _table(model: Any) -> Iterator[str]:
    """One line a setting: name, default, allowed values, meaning."""
    schema = model.model_json_schema()["properties"]
    yield "| name | default | allowed | meaning |\n| --- | --- | --- | --- |"
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        nested = hasattr(default, "model_fields") or isinstance(default, dict)
        shown = "see below" if nested else f"`{json.dumps(default)}`"
        allowed = "" if nested else _allowed(schema[name])
        meaning = field.description or name.replace("_", " ")
        yield f"| `{name}` | {shown} | {_cell(allowed)} | {_cell(meaning)} |"
    yield ""


def _allowed(schema: dict[str, Any]) -> str:
    """Values that a JSON schema lets in, in words."""
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_allowed, schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    kind = {"integer": "whole number", "boolean": "`true`, `false`", "null": "`null`"}.get(schema["type"], "")
    return " ".join(filter(None, [kind, " and ".join(limits)]))


def _cell(text: str) -> str:
    """Text that fits a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
