"""`repose relax` inside this process, as a user types it."""

import json
from pathlib import Path

from typer.testing import CliRunner

from repose.cli import app


def relax(*arguments, code=0, stdin=None):
    result = CliRunner().invoke(app, ["relax", *map(str, arguments)], input=stdin)
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def as_json(*arguments, **options):
    return [json.loads(line) for line in relax(*arguments, "--json", **options).splitlines()]


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
