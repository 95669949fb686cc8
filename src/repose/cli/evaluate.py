"""`repose evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from repose.data.store import Dataset
    from repose.models.base import Relaxer

# Seconds between the plain lines that stand in for a progress bar.
INTERVAL = 5.0


def evaluate(
    data: Annotated[list[Path], typer.Option(help="Dataset directory; may be given several times.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model, by name or directory; repeatable. None: the trivial rows alone."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which crystals: train, val or test.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Write table.md, table.json, per_crystal.parquet and plots here.")
    ] = None,
    match: Annotated[bool, typer.Option(help="Also compute the match rate, which takes longest.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:N].")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Measure the errors of models beside the trivial ones: Dummy (the input) and Rescale (its volume).

    Example: repose evaluate --model default --data datasets/mine --out results
    """
    import json
    from itertools import chain

    from repose.data.store import SPLITS, Dataset
    from repose.errors import require

    if split not in SPLITS:
        raise typer.BadParameter(f"expected {', '.join(SPLITS)}; got '{split}'.", param_hint="--split")
    if out is not None:
        # Found out before the work, not after it.
        require("matplotlib", "plotting")
    datasets = [Dataset(directory) for directory in data]
    relaxers = _load(model or [], device)

    from repose.evaluation.runner import evaluate as run

    with _progress(sum(dataset.info.counts.get(split, 0) for dataset in datasets), quiet) as advance:
        report = run(
            relaxers,
            {name: dataset.read(split) for name, dataset in zip(_names(datasets), datasets, strict=True)},
            train=chain.from_iterable(dataset.read("train") for dataset in datasets),
            split=split,
            match=match,
            progress=advance,
        )
    if out is not None:
        report.write(out)
    typer.echo(json.dumps(report.to_dict()) if as_json else report.markdown(), nl=as_json)


def _load(models: Sequence[str], device: str) -> list[Relaxer]:
    """Models as relaxers, each under a name of its own: a directory's path where names collide."""
    from repose.models.base import DirectRelaxer
    from repose.models.baselines import Dummy, Rescale
    from repose.models.checkpoint import find_model, load_model

    where = _device(device)
    relaxers: list[Relaxer] = [DirectRelaxer(*load_model(find_model(model)), where) for model in models]
    names = [relaxer.name for relaxer in relaxers]
    for model, relaxer in zip(models, relaxers, strict=True):
        if names.count(relaxer.name) > 1 or relaxer.name in (Dummy.name, Rescale.name):
            relaxer.name = f"{relaxer.name} ({model})"
    return relaxers


def _names(datasets: Sequence[Dataset]) -> list[str]:
    """A name for every dataset: its own, or its directory where names collide."""
    names = [dataset.info.name for dataset in datasets]
    pairs = zip(names, datasets, strict=True)
    return [name if names.count(name) == 1 else f"{name} ({dataset.directory})" for name, dataset in pairs]


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise typer.BadParameter("no CUDA device is available here; use --device cpu.", param_hint="--device")
    try:
        return str(torch.device(name))
    except RuntimeError:
        message = f"expected auto, cpu or cuda[:N]; got '{name}'."
        raise typer.BadParameter(message, param_hint="--device") from None


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """A function to call with crystals just done: a bar on a terminal, else a line every few seconds."""
    import sys
    import time

    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("evaluating", total=total)
            yield lambda done: bar.advance(task, done)
    else:
        done, last = 0, time.monotonic()

        def advance(more: int) -> None:
            nonlocal done, last
            done += more
            if time.monotonic() - last > INTERVAL:
                typer.echo(f"{done} of {total} crystals evaluated", err=True)
                last = time.monotonic()

        yield advance
