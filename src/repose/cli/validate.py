"""`repose validate`: energies and remaining steps of predictions under a calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from repose.cli.common import (
    CalculatorName,
    Data,
    Device,
    Fmax,
    HourlyProgress,
    Json,
    Quiet,
    Split,
    Workers,
    fail,
    wrong_usage,
)
from repose.cli.settings import Assignments, ConfigFile, read_settings, settings_command

ValidateCommand = settings_command("repose.validation.settings:ValidationSettings")


def validate(
    data: Data,
    model: Annotated[
        list[str] | None, typer.Option(help="Model, by name or folder; repeatable. Default: only the input.")
    ] = None,
    calculator: CalculatorName = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=1, help="Crystals of each dataset, chosen by hashes of their ids; all."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results and the rows so far.")] = Path(
        "validation"
    ),
    fit: Annotated[
        list[Path] | None,
        typer.Option(help="Dataset whose train split fits Rescale; repeatable. Default: those of --data."),
    ] = None,
    split: Split = "test",
    fmax: Fmax = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps after which a relaxation ends; 500 by default.")
    ] = None,
    symmetry: Annotated[
        Literal["keep", "free"] | None,
        typer.Option(help="Keep the space group of the input (default), or not.", show_default=False),
    ] = None,
    max_atoms: Annotated[
        int | None, typer.Option(min=1, help="Atoms of the largest crystal that is chosen.")
    ] = None,
    workers: Workers = 0,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Longest time of one relaxation; slower ones count as failed.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after this time and write the results; 0: only write the results."),
    ] = None,
    plots: Annotated[
        bool, typer.Option("--plots", help="Also draw plots (PNG) of steps and energies.")
    ] = False,
    groups: Annotated[
        bool, typer.Option("--groups", help="Also print tables by the input's error, size and bound.")
    ] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure energies and remaining relaxation steps of predictions under a calculator.

    Every crystal is relaxed from the input, from Rescale and from each prediction, with one optimizer and
    threshold. Stop it at any time; the same command continues. Relaxations that fail are listed with the
    reason; the exit status is then 1.

    Example: repose validate --model default --data datasets/mine --calculator chgnet --n 100
    """
    import json

    from repose.cli.label import default_workers
    from repose.errors import require
    from repose.validation import report
    from repose.validation.run import validate as run
    from repose.validation.samples import find_sources, read_sets
    from repose.validation.settings import ValidationSettings

    progress = HourlyProgress("crystals", quiet)
    with wrong_usage():
        require("pyarrow", "reading datasets")
        if plots:
            require("matplotlib", "plotting")
        options = {
            "calculator": calculator,
            "relaxation.fmax": fmax,
            "relaxation.max_steps": max_steps,
            "symmetry": symmetry,
        }
        settings = read_settings(ValidationSettings, config, assignments, options)
        sources = find_sources(model or [], fit or data)
        sets = read_sets(data, split, n, max_atoms)
        if notice := report.replaced(out, report.conditions(sets, settings, split)):
            fail(notice)
        try:
            with progress:
                crystals = run(
                    sets,
                    sources,
                    settings,
                    out,
                    workers=workers or default_workers(settings.calculator, device),
                    device=device,
                    hours=hours,
                    minutes=minutes,
                    report=lambda done, todo, failed: progress.update(done, todo, f"; {failed} failed"),
                )
        except KeyboardInterrupt:
            fail("stopped; finished relaxations are kept, and the same command continues.")
            raise typer.Exit(130) from None
        result = report.to_dict(crystals, sets, sources, settings, split=split, fit=fit or data)
        report.write(result, crystals, out, groups=groups, plots=plots)
    if as_json:
        typer.echo(json.dumps(result))
    elif not quiet:
        typer.echo(report.markdown(result, groups), nl=False)
    if result["failures"] or result["left"]:
        raise typer.Exit(1)
