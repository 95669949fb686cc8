"""`repose bench`: speed of models, and the time of each part of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repose.cli.common import Device, Json, Progress, Quiet, console, wrong_usage
from repose.cli.settings import Assignments, ConfigFile, read_settings, settings_command

if TYPE_CHECKING:
    from repose.benchmark.parts import Share
    from repose.benchmark.results import BenchmarkResult

app = typer.Typer(help="Measure the speed of models.", no_args_is_help=True)


@app.command(cls=settings_command("repose.benchmark.settings:SpeedSettings", {"path": "computation"}))
def speed(
    model: Annotated[
        list[str] | None, typer.Option(help="Model, by name or folder; repeatable. Default: all shipped.")
    ] = None,
    published: Annotated[
        list[str] | None, typer.Option(help="Family at its published size, random weights; repeatable.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="auto, cpu, cuda or cuda:N; repeatable. Default: CPU, and GPU if present."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for speed.json, table.md, atoms.png and batch.png.")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure crystals per second and peak memory, and the limits of the machine in the same run.

    The crystals are alloys of fcc metals with random displacements. A failed measurement, e.g. out of
    memory, is a row with the reason.

    Example: repose bench speed --published e3relax-h2 --set batches=32 --set atoms=10,1000 --out speed
    """
    import json

    import torch

    from repose.benchmark.cases import cases
    from repose.benchmark.ceilings import measure_ceilings
    from repose.benchmark.report import write
    from repose.benchmark.results import BenchmarkResult
    from repose.benchmark.settings import SpeedSettings
    from repose.benchmark.speed import isolated, measure
    from repose.device import resolve_device
    from repose.errors import require

    with wrong_usage():
        if out is not None:
            require("matplotlib", "plotting")  # before the work
        settings = read_settings(SpeedSettings, config, assignments)
        devices = device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        devices = list(dict.fromkeys(str(resolve_device(name)) for name in devices))
        threads = settings.threads or torch.get_num_threads()
        todo = cases(model or ([] if published else _shipped()), published or [], devices, threads, settings)
    ceilings = tuple(isolated(measure_ceilings, name, threads) for name in devices)
    result, rows = BenchmarkResult(ceilings, (), threads), []
    with Progress(len(todo), "rows", quiet, unit="batch") as progress:
        for found in measure(todo):
            rows += found
            result = BenchmarkResult(ceilings, tuple(rows), threads)
            if out is not None:
                write(result, out)  # after every batch, so that an interrupted run keeps its results
            progress.step()
            progress.count(len(found))
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    elif not quiet:
        _print_result(result)


@app.command(cls=settings_command("repose.benchmark.settings:ProfileSettings", {"path": "computation"}))
def profile(
    model: Annotated[str, typer.Option(help="Model, by name or folder, or a family.")] = "default",
    published: Annotated[
        bool, typer.Option("--published", help="Take a family at its published size, random weights.")
    ] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the time of a forward pass by part of the network and by PyTorch operation.

    Example: repose bench profile --model e3relax-h2 --published --set computation=tabulated
    """
    import json

    import torch

    from repose.benchmark.cases import Case, Variant, load_relaxer
    from repose.benchmark.parts import by_operation, by_part
    from repose.benchmark.settings import ProfileSettings
    from repose.device import resolve_device

    with wrong_usage():
        settings = read_settings(ProfileSettings, config, assignments)
        place, threads = str(resolve_device(device)), settings.threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        variant = Variant(settings.computation, settings.precision)
        case = Case(model, published, place, threads, "batch", settings.batch, settings.size, (variant,))
        relaxer = load_relaxer(case, variant)
    crystals = case.batch()
    shares = {
        "part": by_part(relaxer, crystals, settings.passes),
        "operation": by_operation(relaxer, crystals, settings.passes),
    }
    if as_json:
        typer.echo(json.dumps({kind: [share._asdict() for share in part] for kind, part in shares.items()}))
    elif not quiet:
        for kind, part in shares.items():
            _print_shares(kind, part)


def _shipped() -> list[str]:
    """Return the names of the shipped models, one name each."""
    from repose.models.checkpoint import shipped_models

    return list({directory: name for name, directory in shipped_models().items()}.values())


def _print_result(result: BenchmarkResult) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from repose.benchmark.report import HEADER, notes, tables

    out = console()
    for part in tables(result):
        table = Table(title=part.title, box=SIMPLE, collapse_padding=True, pad_edge=False)
        for index, name in enumerate(HEADER):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in part.rows:
            table.add_row(*row)
        out.print(table)
        for failure in part.failures:
            out.print(f"not measured: {failure}", markup=False)
    for note in notes(result):
        out.print(note, markup=False)


def _print_shares(kind: str, shares: list[Share]) -> None:
    from rich.table import Table

    total = sum(share.seconds for share in shares)
    table = Table(title=f"{1000 * total:.1f} ms a pass")
    table.add_column(kind)
    for name in ("ms", "%", "calls"):
        table.add_column(name, justify="right")
    for share in shares:
        if share.seconds >= 0.005 * total:
            part = (f"{1000 * share.seconds:.2f}", f"{100 * share.seconds / total:.1f}", str(share.calls))
            table.add_row(share.name, *part)
    console().print(table)
