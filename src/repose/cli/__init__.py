"""Command line ``repose``. Each command imports its modules when it runs, so that help is fast."""

from __future__ import annotations

import atexit
import copy
import gc
import os
import sys
import warnings
from typing import Annotated

import typer

from repose.cli import bench, data
from repose.cli.calibrate import calibrate
from repose.cli.common import fail
from repose.cli.compare import compare
from repose.cli.evaluate import evaluate
from repose.cli.models import models
from repose.cli.relax import relax
from repose.cli.train import TrainCommand, train
from repose.cli.validate import ValidateCommand, validate
from repose.errors import ReposeError

app = typer.Typer(
    name="repose",
    help="Relax crystal structures in one forward pass.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        import repose

        typer.echo(f"repose {repose.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


RELAX, EVALUATE, TRAIN = "Relax crystals", "Evaluate models", "Train models"
app.command(rich_help_panel=RELAX)(relax)
app.command(rich_help_panel=RELAX)(models)
app.command(rich_help_panel=EVALUATE)(evaluate)
app.command(rich_help_panel=EVALUATE)(compare)
app.command(cls=ValidateCommand, rich_help_panel=EVALUATE)(validate)
app.add_typer(bench.app, name="bench", rich_help_panel=EVALUATE)
app.add_typer(data.app, name="data", rich_help_panel=TRAIN)
app.command(cls=TrainCommand, rich_help_panel=TRAIN)(train)
app.command(rich_help_panel=TRAIN)(calibrate)


def _called(name: list[str]) -> typer.Typer:
    """Return the command line with the command of this name alone, which is faster to set up, or with all."""
    one = copy.copy(app)
    one.registered_commands = [
        c for c in app.registered_commands if [getattr(c.callback, "__name__", 0)] == name
    ]
    one.registered_groups = [group for group in app.registered_groups if [group.name] == name]
    return one if one.registered_commands or one.registered_groups else app


def main() -> None:
    """Run the command line.

    A `ReposeError` or `OSError` is printed in one line; the exit status is then 2. A closed pipe (``| head``)
    ends the program without a message.
    """
    # Imports create objects that stay: search for garbage less often, and not at the end.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    try:
        with warnings.catch_warnings():
            # In one line, without a line of source code.
            warnings.showwarning = lambda message, *place: fail(f"warning: {message}")
            _called(sys.argv[1:2])()
    except ReposeError as error:
        fail(str(error))
        sys.exit(2)
    except OSError as error:  # e.g. a full disk
        place = f"'{error.filename}': " if error.filename else ""
        fail(f"{place}{error.strerror or error}.")
        sys.exit(2)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # or else Python prints an error when it closes the stream
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
