"""`repose data label`: relax candidates with a calculator into a dataset."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from repose.cli.common import (
    CalculatorName,
    Device,
    Fmax,
    Fractions,
    HourlyProgress,
    Json,
    Licence,
    Name,
    Quiet,
    Seed,
    SplitBy,
    Workers,
    fail,
    wrong_usage,
)
from repose.cli.settings import Assignments, ConfigFile, read_settings, settings_command

# Processes that share a GPU: some prepare batches while others compute.
PROCESSES_PER_GPU = 4

LabelCommand = settings_command(
    "repose.data.labelling.settings:LabelSettings",
    {"option": "options.NAME", "fix_cell": "relaxation.fixed_cell"},
)


def label(
    source: Annotated[
        list[Path], typer.Argument(help="Folders of candidates, or files of crystals.", exists=True)
    ],
    out: Annotated[Path, typer.Option(help="Dataset folder; a dataset with the same labels is extended.")],
    calculator: CalculatorName = None,
    fmax: Fmax = None,
    workers: Workers = 0,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Longest time for one crystal; slower ones count as failed.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after this time and write the dataset; 0: only write the dataset."),
    ] = None,
    split_by: SplitBy = "chemical-system",
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    name: Name = "",
    licence: Licence = "",
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Relax candidates with a calculator, and keep all steps.

    Steps have energies, forces and stresses. Stop it at any time; the same command continues. Crystals that
    cannot be labelled are listed with the reason in OUT/failed.parquet; the exit status is then 1.

    Example: repose data label candidates --calculator chgnet --out datasets/mine
    """
    from repose.data.labelling.failures import read_failures
    from repose.data.labelling.label import LabelCounts
    from repose.data.labelling.label import label as run
    from repose.data.labelling.settings import LabelSettings
    from repose.data.splits import parse_split
    from repose.errors import require

    progress = HourlyProgress("crystals", quiet)
    first: list[LabelCounts] = []

    def show(state: LabelCounts) -> None:
        if not first:
            first.append(state)
            return
        done = state.labelled + state.failed - first[0].labelled - first[0].failed
        progress.update(done, done + state.left, f"; {state.failed} failed")

    with wrong_usage():
        require("pyarrow", "writing datasets")
        options = {"calculator": calculator, "relaxation.fmax": fmax}
        settings = read_settings(LabelSettings, config, assignments, options)
        assign = parse_split(split_by, fractions, seed)
        try:
            with progress:
                dataset, state = run(
                    source,
                    out,
                    settings,
                    assign,
                    name=name,
                    licence=licence,
                    workers=workers or default_workers(settings.calculator, device),
                    device=device,
                    hours=hours,
                    minutes=minutes,
                    report=show,
                )
        except KeyboardInterrupt:
            fail("stopped; finished crystals are kept, and the same command continues.")
            raise typer.Exit(130) from None
    kinds = Counter(failure.kind for failure in read_failures(out))
    summary = {
        "dataset": str(out),
        "counts": dataset.info.counts,
        "labelled": state.labelled,
        "failed": state.failed,
        "left": state.left,
        "reasons": dict(kinds.most_common()),
        "per_hour": round(progress.per_hour, 1),
    }
    if as_json:
        typer.echo(json.dumps(summary))
    elif not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in dataset.info.counts.items())
        typer.echo(f"{out}: {len(dataset)} crystals ({counts})")
        typer.echo(f"candidates: {state.labelled} labelled, {state.failed} failed, {state.left} left")
        for kind, count in kinds.most_common():
            typer.echo(f"failed: {count} {kind}")
    if state.failed or state.left:
        raise typer.Exit(1)


def default_workers(calculator: str, device: str) -> int:
    """Return one process per core, or some that share a GPU."""
    from repose.device import resolve_device
    from repose.potentials.loading import BATCHED
    from repose.threads import available_cpus

    if calculator in BATCHED and resolve_device(device).type == "cuda":
        return PROCESSES_PER_GPU
    return available_cpus()
