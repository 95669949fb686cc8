"""`repose bench`: how fast models are, and where their time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repose.cli.common import Device, Json, Progress, Quiet, console, wrong_usage

if TYPE_CHECKING:
    from repose.benchmark.parts import Share
    from repose.benchmark.report import Report

app = typer.Typer(help="How fast models are, beside what the machine can do.", no_args_is_help=True)

Models = Annotated[list[str] | None, typer.Option(help="Model, by name or directory; repeatable.")]
Published = Annotated[
    list[str] | None,
    typer.Option(help="Family at its published size, with random weights; repeatable."),
]
Size = Annotated[int, typer.Option(help="Atoms of every crystal of a batch.", min=1)]
Threads = Annotated[
    int | None, typer.Option(help="Threads of the CPU; as many as PyTorch takes if not given.", min=1)
]


@app.command()
def speed(
    model: Models = None,
    published: Published = None,
    batches: Annotated[str, typer.Option(help="Numbers of crystals in a batch.")] = "1,8,32,128",
    size: Size = 9,
    atoms: Annotated[str, typer.Option(help="Sizes of single crystals.")] = "10,50,200,1000,5000",
    path: Annotated[
        list[str] | None,
        typer.Option(help="plain, tabulated, compiled or auto; repeatable. Not given: the first three."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="float32 or bfloat16 matrix products; repeatable. Not given: float32."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="auto, cpu, cuda or cuda:N; repeatable. Not given: CPU, and a GPU if there is one."
        ),
    ] = None,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(help="How long to measure each batch, about.", min=0)] = 5.0,
    out: Annotated[
        Path | None, typer.Option(help="Write speed.json, table.md, atoms.png and batch.png here.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure crystals a second and peak memory beside the ceilings of the machine, in the same run.

    Without --model and --published all models that ship are measured. Crystals are random alloys of fcc
    metals, rattled. What fails, for want of memory or else, is a row with the reason.

    Example: repose bench speed --published e3relax-h2 --batches 32 --atoms 10,50,200,1000,5000 --out speed
    """
    import json

    import torch

    from repose.benchmark.cases import PATHS, cases
    from repose.benchmark.ceilings import measure_ceilings
    from repose.benchmark.report import Report
    from repose.benchmark.speed import isolated, measure
    from repose.device import resolve_device
    from repose.errors import require
    from repose.relaxer.direct import Computation, Precision

    with wrong_usage():
        if out is not None:
            require("matplotlib", "plotting")  # found out before the work, not after it
        devices = device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        devices = list(dict.fromkeys(str(resolve_device(name)) for name in devices))
        threads = threads or torch.get_num_threads()
        todo = cases(
            model or ([] if published else _shipped()),
            published or [],
            devices,
            threads,
            batches=_numbers(batches, "--batches"),
            size=size,
            atoms=_numbers(atoms, "--atoms"),
            paths=_known(path or PATHS, Computation, "--path"),
            precisions=_known(precision or ["float32"], Precision, "--precision"),
            seconds=seconds,
        )
    ceilings = tuple(isolated(measure_ceilings, name, threads) for name in devices)
    report, rows = Report(ceilings, (), threads), []
    with Progress(len(todo), "rows", quiet, unit="batch") as progress:
        for found in measure(todo):
            rows += found
            report = Report(ceilings, tuple(rows), threads)
            if out is not None:
                report.write(out)  # after every batch, so that a run that is stopped leaves what it has
            progress.step()
            progress.count(len(found))
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    elif not quiet:
        _print_report(report)


@app.command()
def profile(
    model: Annotated[str, typer.Option(help="Model, by name or directory, or a family.")] = "default",
    published: Annotated[
        bool, typer.Option("--published", help="The model is a family: published size, random weights.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Crystals in the batch.", min=1)] = 32,
    size: Size = 9,
    path: Annotated[str, typer.Option(help="plain, tabulated, compiled or auto.")] = "plain",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16 matrix products.")] = "float32",
    device: Device = "auto",
    threads: Threads = None,
    passes: Annotated[int, typer.Option(help="To average over.", min=1)] = 5,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say where the time of a pass goes: by part of the network, and by operation of PyTorch.

    Example: repose bench profile --model e3relax-h2 --published --path tabulated
    """
    import json

    import torch

    from repose.benchmark.cases import Case, Way, load_relaxer
    from repose.benchmark.parts import by_operation, by_part
    from repose.device import resolve_device
    from repose.relaxer.direct import Computation, Precision

    with wrong_usage():
        place, threads = str(resolve_device(device)), threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        (computation,) = _known([path], Computation, "--path")
        (products,) = _known([precision], Precision, "--precision")
        way = Way(computation, products)
        case = Case(model, published, place, threads, "batch", batch, size, (way,))
        relaxer = load_relaxer(case, way)
    crystals = case.batch()
    shares = {
        "part": by_part(relaxer, crystals, passes),
        "operation": by_operation(relaxer, crystals, passes),
    }
    if as_json:
        typer.echo(json.dumps({kind: [share._asdict() for share in part] for kind, part in shares.items()}))
    elif not quiet:
        for kind, part in shares.items():
            _print_shares(kind, part)


def _numbers(text: str, option: str) -> list[int]:
    """Whole positive numbers between commas; none in an empty text."""
    from repose.errors import ConfigError

    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdigit() and int(word) for word in words):
        raise ConfigError(f"{option} takes whole positive numbers between commas, e.g. 1,8,32; got '{text}'.")
    return list(dict.fromkeys(int(word) for word in words))


def _known(names: Sequence[str], kind: Any, option: str) -> list[Any]:
    """Names that must be among the values of a `Literal`, each once."""
    from typing import get_args

    from repose.errors import ConfigError, nearest

    known = get_args(kind)
    for name in names:
        if name not in known:
            raise ConfigError(f"{option} takes {', '.join(known)}; got '{name}'.{nearest(name, known)}")
    return list(dict.fromkeys(names))


def _shipped() -> list[str]:
    """Names of the models that ship; a second name for the same one is left out."""
    from repose.models.checkpoint import shipped_models

    return list({directory: name for name, directory in shipped_models().items()}.values())


def _print_report(report: Report) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from repose.benchmark.report import HEADER

    out = console()
    for part in report.tables():
        table = Table(title=part.title, box=SIMPLE, collapse_padding=True, pad_edge=False)
        for index, name in enumerate(HEADER):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in part.rows:
            table.add_row(*row)
        out.print(table)
        for failure in part.failures:
            out.print(f"not measured: {failure}", markup=False)
    for note in report.notes():
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
