"""`repose relax`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from repose.cli.common import Device, Json, Progress, Quiet, Threads, importing
from repose.cli.inputs import count_crystals, find_inputs
from repose.cli.outputs import UNCERTAIN, OutputFiles, TrajectoryWriter, make_writable
from repose.cli.relax_job import RelaxJob
from repose.cli.relax_table import RelaxTable
from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.io.files import Entry
    from repose.relaxer.base import Relaxer

    Chunk: TypeAlias = list[tuple[str, Entry]]  # inputs with the names of their outputs

THEN = "Going on with a potential"
# Other names of formats, as in ASE and VASP.
ALIASES = {"vasp": "poscar", "xyz": "extxyz"}


def relax(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders or globs; - is standard input.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = Path("relaxed"),
    model: Annotated[
        str, typer.Option(help="Shipped model (see `repose models`) or model folder.")
    ] = "default",
    form: Annotated[
        Literal["same", "cif", "poscar", "vasp", "extxyz", "xyz", "json"],
        typer.Option("--format", help="Output format."),
    ] = "same",
    symmetry: Annotated[
        Literal["keep", "free"], typer.Option(help="Keep the space group of the input, or not.")
    ] = "keep",
    fix_cell: Annotated[bool, typer.Option("--fix-cell", help="Keep the cell fixed.")] = False,
    fix_axes: Annotated[
        str, typer.Option(help="Lattice vectors to keep fixed, e.g. c for the vacuum of a sheet.")
    ] = "",
    fix_atoms: Annotated[str, typer.Option(help="Atoms to keep fixed, counted from 0, e.g. 0,4-7.")] = "",
    path: Annotated[
        Path | None,
        typer.Option(help="File (.extxyz) for predicted relaxation paths; needs a model that predicts them."),
    ] = None,
    max_uncertainty: Annotated[
        float | None,
        typer.Option(
            min=0, help=f"Largest bound, Å; other predictions are written to the folder {UNCERTAIN}."
        ),
    ] = None,
    sort: Annotated[
        Literal["input", "uncertainty"], typer.Option(help="Order of the table; uncertainty: smallest first.")
    ] = "input",
    then: Annotated[
        str | None,
        typer.Option(
            metavar="CALCULATOR",
            help="Go on iteratively from the prediction: chgnet, chgnet-r2scan, sevennet, or MODULE:CLASS of "
            "an ASE calculator.",
            rich_help_panel=THEN,
        ),
    ] = None,
    fmax: Annotated[
        float | None,
        typer.Option(
            help="Largest force on an atom, and row of stress times volume per atom, eV/Å. [0.05]",
            rich_help_panel=THEN,
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Largest number of steps. [500]", rich_help_panel=THEN)
    ] = None,
    when_uncertain: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="Go on only with crystals whose bound exceeds X Å, or with that share of all, such as 20%, "
            "that has the largest bounds.",
            rich_help_panel=THEN,
        ),
    ] = None,
    trajectory: Annotated[
        Path | None, typer.Option(help="File (.extxyz) for all steps.", rich_help_panel=THEN)
    ] = None,
    summary: Annotated[Path | None, typer.Option(help="CSV file for the table of all crystals.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Web page with table, histograms and drawings.")
    ] = None,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Skip crystals whose output exists; add to the other files."),
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the model and each crystal on standard error.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Relax crystals in one forward pass each, and further with a potential if --then names one.

    Reads CIF, POSCAR, extended XYZ (many frames), pymatgen JSON and ASE files, also as .gz. Crystals that
    cannot be relaxed are refused with a reason; the exit status is then 1. The column ± Å is a bound on the
    mean error of coordinates. It holds for 90 % of the crystals that resemble the calibration data; ! marks
    crystals that are out of distribution.

    Example: repose relax POSCAR crystals/ --out relaxed --format cif --then chgnet
    """
    atoms = _atom_indices(fix_atoms)
    for option, file in (("--path", path), ("--trajectory", trajectory)):
        if file is not None and file.suffix not in (".extxyz", ".xyz"):
            raise ConfigError(f"{option} must be a file that ends in .extxyz; got '{file}'.")
    given = {"fmax": fmax, "max_steps": max_steps, "when_uncertain": when_uncertain}
    given = {name: value for name, value in given.items() if value is not None}
    if then is None and (given or trajectory):
        name = next(iter(given), "trajectory").replace("_", "-")
        raise ConfigError(f"--{name} belongs to --then; name a calculator, such as --then chgnet.")
    with importing():
        from repose.relaxer.constraints import Constraints
        from repose.relaxer.loading import load
        from repose.report import Report
        from repose.threads import cpus_to_use, use_threads
    sources = find_inputs(paths, skip=out)
    with ExitStack() as stack:
        outputs = stack.enter_context(OutputFiles(out, ALIASES.get(form, form), sources))
        files = {"--path": path, "--trajectory": trajectory, "--summary": summary, "--report": report}
        outputs.reserve({option: file for option, file in files.items() if file is not None})
        for option, file in files.items():
            if file is not None:
                make_writable(file.parent, option)
                if file.is_dir():
                    raise ConfigError(f"{option} must be a file; '{file}' is a folder.")

        use_threads(threads)
        options = Constraints(symmetry, fix_cell, fix_axes, atoms)
        relaxer = load(model, device)
        if path is not None and not relaxer.gives_paths:
            raise ConfigError(f"model '{relaxer.name}' predicts no paths; use --model relaxnet.")
        if max_uncertainty is not None and not relaxer.gives_bounds:
            raise ConfigError(_not_calibrated("--max-uncertainty", relaxer))
        continuation = None
        if then is not None:
            from repose.relaxer.continuation import Continuation

            continuation = Continuation(then, **given, trajectory=trajectory is not None, device=device)
            if continuation.when_uncertain is not None and not relaxer.gives_bounds:
                raise ConfigError(_not_calibrated("--when-uncertain", relaxer))
        writers = [
            TrajectoryWriter(file, field, skip_existing)
            for field, file in (("path", path), ("trajectory", trajectory))
            if file is not None
        ]
        table = RelaxTable(
            as_json, quiet, sort, summary, verbose, relaxer.name, then is not None, skip_existing
        )
        page = None if report is None else Report(relaxer.name, path=report, continued=skip_existing)
        if verbose:
            kernels = getattr(relaxer, "path", "")
            sys.stderr.write(f"model {relaxer.name} on {relaxer.device}, {kernels}; {len(sources)} files\n")
        # On a terminal a bar would be mixed with JSON lines.
        bar = stack.enter_context(Progress(0, "crystals", quiet or (as_json and sys.stdout.isatty())))
        if not bar.quiet:
            bar.total = sum(count_crystals(source) for source, _ in sources)
        job = RelaxJob(
            relaxer, options, continuation, outputs, table, writers, bar, skip_existing, max_uncertainty, page
        )
        job.relax(sources, cpus_to_use(threads))
        for writer in writers:
            writer.close()
    table.close(out, out / UNCERTAIN)
    if page is not None and report is not None:
        page.write(report, table.counts["skipped"] - page.kept)
    if table.counts["refused"]:
        raise typer.Exit(1)


def _not_calibrated(option: str, relaxer: Relaxer) -> str:
    return f"{option} needs a calibrated model; '{relaxer.name}' is not calibrated, see 'repose calibrate'."


def _atom_indices(text: str) -> tuple[int, ...]:
    """Return the indices of atoms in ``"0,4-7"``."""
    found: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or part.endswith("-"):
            raise ConfigError(
                f"--fix-atoms takes indices of atoms, counted from 0, such as 0,4-7; got '{text}'."
            )
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))
