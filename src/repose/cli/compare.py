"""`repose compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repose.cli.common import Data, Device, Json, Progress, Quiet, Split


def compare(
    data: Data,
    model: Annotated[
        list[str] | None, typer.Option(help="Model, by name or folder; repeatable. Default: all shipped.")
    ] = None,
    invariance: Annotated[
        bool,
        typer.Option(
            "--invariance",
            help="Compare predictions for equivalent cells: rotated, other lattice vectors, supercells.",
        ),
    ] = False,
    split: Split = "test",
    count: Annotated[int | None, typer.Option(min=1, help="Crystals of each dataset. Default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file for the table.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare models, e.g. how much they depend on the choice of the unit cell.

    Example: repose compare --invariance --model default --model e3relax-h2 --data datasets/mine
    """
    import json
    from itertools import chain, islice

    from repose.atomic_write import replacing_file
    from repose.cli.evaluate import load_all
    from repose.data.dataset import Dataset
    from repose.models.checkpoint import shipped_models

    if not invariance:
        message = "choose a comparison; the only one is --invariance."
        raise typer.BadParameter(message, param_hint="--invariance")
    datasets = [Dataset(directory) for directory in data]
    relaxers = load_all(model or [name for name in shipped_models() if name != "default"], device)

    from repose.evaluation.invariance import as_dicts, invariances, table

    total = sum(min(dataset.info.counts.get(split, 0), count or 10**9) for dataset in datasets)
    with Progress(total, "crystals", quiet, unit="crystal") as progress:
        pairs = chain.from_iterable(islice(dataset.read(split, paths=False), count) for dataset in datasets)
        found = invariances(relaxers, pairs, progress=progress.advance)
    if out is not None:
        with replacing_file(out) as new:
            new.write_text(table(found), encoding="utf-8")
    typer.echo(json.dumps(as_dicts(found)) if as_json else table(found), nl=as_json)
