"""Settings of commands: a JSON file, ``--set NAME=VALUE``, and a table of them at the end of ``--help``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias, TypeVar, get_origin

import typer
from typer.core import TyperCommand

from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.config import Settings

S = TypeVar("S", bound="Settings")

ConfigFile: TypeAlias = Annotated[
    Path | None, typer.Option("--config", help="JSON file of settings; `--set` replaces single ones.")
]
Assignments: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Setting, from the table of settings; repeatable."),
]


class SettingRow(NamedTuple):
    """One line of a table of settings; names of nested settings are joined by dots."""

    name: str
    default: str
    allowed: str
    meaning: str


def read_settings(
    kind: type[S],
    file: Path | None,
    assignments: Iterable[str] | None,
    options: Mapping[str, Any] | None = None,
    defaults: Iterable[Mapping[str, Any]] = (),
) -> S:
    """Read settings from a file, from ``--set``, and from options; the later replace the earlier.

    Args:
        kind: Class of the settings, which checks names and types.
        file: JSON file.
        assignments: Each ``NAME=VALUE``; the value is JSON, text, or a list separated by commas.
        options: Values of options by the dotted name of their setting; None is not given.
        defaults: Values that the file replaces, nested as in a file.

    Raises:
        ConfigError: The file is not a JSON object, or a name or value is not allowed.
    """
    values: dict[str, Any] = {}
    for given in (*defaults, {} if file is None else _read(file)):
        _merge(values, given)
    for text in assignments or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE; got '{text}'.")
        _assign(values, name, _parse(kind, name, value))
    for name, value in (options or {}).items():
        if value is not None:
            _assign(values, name, value)
    return kind.parse(values)


def setting_rows(kind: type[Settings], prefix: str = "", nested: bool = True) -> Iterator[SettingRow]:
    """Yield name, default, allowed values and meaning of every setting.

    Args:
        kind: Class of the settings.
        prefix: Put before the names.
        nested: List the settings within settings; if not, they are one line.
    """
    from repose.config import Settings

    schema = kind.model_json_schema()["properties"]
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        inner = isinstance(default, Settings)
        if nested and inner:
            yield from setting_rows(type(default), f"{prefix}{name}.")
            continue
        plain = not inner and default != {}
        shown = json.dumps(default) if plain else ""
        allowed = _allowed(schema[name]) if plain else ""
        yield SettingRow(prefix + name, shown, allowed, field.description or name.replace("_", " "))


def settings_command(kind: str, renamed: Mapping[str, str] | None = None) -> type[TyperCommand]:
    """Return the class of a command whose help ends in a table of its settings.

    The settings are imported when the help is printed. An option that is the name of a setting is refused
    with a message that names ``--set``.

    Args:
        kind: ``MODULE:CLASS`` of the settings.
        renamed: Settings of former options with other names, e.g. ``{"fix_cell": "relaxation.fixed_cell"}``.
    """

    class SettingsCommand(TyperCommand):
        @property
        def settings(self) -> type[Settings]:
            """Class of the settings of this command."""
            module, _, name = kind.partition(":")
            return getattr(import_module(module), name)

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Parse as usual, after refusing options that are settings."""
            known = {option for parameter in self.params for option in parameter.opts}
            for word in args:
                option = word.partition("=")[0]
                if option == "--":
                    break
                if option.startswith("--") and option not in known and (name := self._setting(option)):
                    raise ConfigError(f"{option} is no option but a setting: use --set {name}=VALUE.")
            return super().parse_args(ctx, args)

        def _setting(self, option: str) -> str | None:
            wanted = option.lstrip("-").replace("-", "_")
            names = [row.name for row in setting_rows(self.settings)]
            found = (name for name in names if wanted in (name, name.rpartition(".")[2]))
            return (renamed or {}).get(wanted) or next(found, None)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            """Print the help and the table of settings."""
            super().format_help(ctx, formatter)
            _print_rows(setting_rows(self.settings))

    return SettingsCommand


def _print_rows(rows: Iterable[SettingRow]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Settings, for --set and --config", title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("default", overflow="fold")
    table.add_column("meaning")
    for row in rows:
        table.add_row(row.name, escape(row.default), escape(row.meaning))
    Console(highlight=False).print(table)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object of settings; got {type(values).__name__}.")
    return values


def _parse(kind: type[Settings], name: str, text: str) -> Any:
    """Return a value from JSON or text; split at commas where the setting is a list of values."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    annotation: Any = kind
    for part in name.split("."):
        field = getattr(annotation, "model_fields", {}).get(part)
        annotation = None if field is None else field.annotation
    if get_origin(annotation) in (list, tuple) and not isinstance(value, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    return value


def _merge(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Enter nested values; those of a mapping replace only the ones that they name."""
    for name, value in given.items():
        if isinstance(value, Mapping) and isinstance(values.setdefault(name, {}), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def _assign(values: dict[str, Any], name: str, value: Any) -> None:
    """Enter a value at a dotted name of nested settings."""
    *parents, last = name.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{name}' cannot be set: '{parent}' is the value {json.dumps(inner)}.")
        values = inner
    values[last] = value


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return the values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_allowed, schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema["enum"])
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    kinds = {"integer": "whole number", "boolean": "true, false", "null": "null"}
    return " ".join(filter(None, [kinds.get(schema.get("type", ""), ""), " and ".join(limits)]))
