"""`repose data label`: relax candidates with a calculator into a dataset."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from repose.cli.common import Device, HourlyProgress, Json, Quiet, fail, named_value, wrong_usage

# Processes that share a GPU, so that one finds neighbours while another computes.
PER_GPU = 4


def label(
    source: Annotated[
        list[Path], typer.Argument(help="Folders of candidates, or files of crystals.", exists=True)
    ],
    out: Annotated[Path, typer.Option(help="Directory of the dataset; one of the same labels is added to.")],
    calculator: Annotated[
        str, typer.Option(help="chgnet, chgnet-r2scan, or MODULE:NAME of an ASE calculator.")
    ] = "chgnet",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Argument of the calculator, NAME=VALUE; may be repeated."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes, one thread each; 0: one per core, on a GPU four.")
    ] = 0,
    fmax: Annotated[float, typer.Option(min=1e-6, help="Largest force in eV/A of a relaxed crystal.")] = 0.05,
    max_steps: Annotated[int, typer.Option(min=1, help="Steps after which a crystal is given up.")] = 500,
    frames: Annotated[int, typer.Option(min=0, help="Frames kept of each path; 0 keeps all.")] = 0,
    fix_cell: Annotated[bool, typer.Option("--fix-cell", help="Relax the atoms alone.")] = False,
    bonds_kept: Annotated[
        float, typer.Option(min=0, max=1, help="Share of bonds that must survive, or else the crystal fails.")
    ] = 0.1,
    batch_atoms: Annotated[
        int, typer.Option(min=0, help="Atoms relaxed side by side in a process; 0: what suits it.")
    ] = 0,
    hours: Annotated[
        float | None,
        typer.Option(
            min=0, help="Stop after so many, and make a dataset of what is finished; 0: do that now."
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="A crystal that takes longer, looked at after every step, has failed."),
    ] = None,
    split_by: Annotated[
        str, typer.Option(help="chemical-system, or the name of a tag such as prototype.")
    ] = "chemical-system",
    fractions: Annotated[str, typer.Option(help="Shares of train, val and test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    name: Annotated[str, typer.Option(help="What to call the dataset; the directory's name if empty.")] = "",
    licence: Annotated[str, typer.Option(help="Under which it may be used.")] = "",
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Relax candidates with a calculator, and keep whole paths with energies, forces and stresses.

    May be stopped at any moment; the same command goes on. Crystals that cannot be labelled stand in
    DIR/failed.parquet with the reason; the exit status is then 1.

    Example: repose data label candidates --calculator chgnet --out datasets/mine
    """
    from repose.data.labelling.failures import read_failures
    from repose.data.labelling.label import State
    from repose.data.labelling.label import label as run
    from repose.data.labelling.settings import LabelSettings
    from repose.data.splits import parse_split
    from repose.errors import require
    from repose.potentials.settings import LbfgsSettings

    progress = HourlyProgress("crystals", quiet)
    before: list[State] = []

    def show(state: State) -> None:
        if not before:
            before.append(state)
            return
        done = state.labelled + state.failed - before[0].labelled - before[0].failed
        progress.update(done, done + state.left, f"; {state.failed} failed")

    with wrong_usage():
        require("pyarrow", "writing datasets")
        settings = LabelSettings(
            calculator=calculator,
            options=dict(named_value(text, "--option") for text in option or ()),
            relaxation=LbfgsSettings(
                fmax=fmax, max_steps=max_steps, fixed_cell=fix_cell, batch_atoms=batch_atoms or None
            ),
            frames=frames,
            bonds_kept=bonds_kept,
        )
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
                    workers=workers or _default_workers(calculator, device),
                    device=device,
                    hours=hours,
                    minutes=minutes,
                    report=show,
                )
        except KeyboardInterrupt:
            fail("stopped; nothing that was finished is lost, and the same command goes on.")
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
        typer.echo(
            f"{out}: {len(dataset)} crystals "
            f"({', '.join(f'{name} {count}' for name, count in dataset.info.counts.items())})"
        )
        typer.echo(f"of these candidates {state.labelled} labelled, {state.failed} failed, {state.left} left")
        for kind, count in kinds.most_common():
            typer.echo(f"failed: {count} {kind}")
    if state.failed or state.left:
        raise typer.Exit(1)


def _default_workers(calculator: str, device: str) -> int:
    from repose.device import resolve_device
    from repose.potentials.loading import CHGNET

    if calculator in CHGNET and resolve_device(device).type == "cuda":
        return PER_GPU
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
