"""`repose relax`, the main job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from repose.cli.common import Device, Json, Progress, Quiet
from repose.cli.outputs import UNCERTAIN, Outputs, TrajectoryWriter, make_writable
from repose.cli.report import Report
from repose.cli.sources import count_crystals, find_sources
from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.io.files import Entry
    from repose.relaxer.base import Relaxer
    from repose.relaxer.constraints import Constraints
    from repose.relaxer.relaxation import Relaxation

# Crystals read, relaxed and written together: enough to fill batches, few enough to see results come.
CHUNK_CRYSTALS, CHUNK_ATOMS = 128, 4000
# Other names of formats, as users of ASE and VASP type them.
ALIASES = {"vasp": "poscar", "xyz": "extxyz"}


def relax(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders, globs; - reads standard input.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the relaxed crystals.")] = Path(
        "relaxed"
    ),
    model: Annotated[str, typer.Option(help="Name of a model that ships, or a model directory.")] = "default",
    form: Annotated[
        Literal["same", "cif", "poscar", "vasp", "extxyz", "xyz", "json"],
        typer.Option("--format", help="Format of the output."),
    ] = "same",
    symmetry: Annotated[
        Literal["keep", "free"], typer.Option(help="Keep the space group of the input?")
    ] = "keep",
    fix_cell: Annotated[bool, typer.Option("--fix-cell", help="Move atoms only.")] = False,
    fix_axes: Annotated[
        str, typer.Option(help="Lattice vectors to keep, e.g. c for the vacuum of a sheet.")
    ] = "",
    fix_atoms: Annotated[str, typer.Option(help="Atoms to keep in place, counted from 0, e.g. 0,4-7.")] = "",
    path: Annotated[
        Path | None,
        typer.Option(help="Write relaxation paths to this extxyz file, for models that predict them."),
    ] = None,
    max_uncertainty: Annotated[
        float | None,
        typer.Option(min=0, help=f"Bound in Å; predictions above it go to the folder '{UNCERTAIN}'."),
    ] = None,
    sort: Annotated[
        Literal["input", "uncertainty"], typer.Option(help="Order of the table; uncertainty: smallest first.")
    ] = "input",
    summary: Annotated[
        Path | None, typer.Option(help="Write a table of all crystals to this CSV file.")
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Pass over crystals whose output file exists.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the model and a line a crystal on standard error.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Relax crystals; one forward pass of a model each.

    Reads CIF, POSCAR, extended XYZ (many frames), pymatgen JSON and ASE files, also as .gz. What cannot be
    relaxed is refused with a reason, and the rest is done; the exit status is then 1. The column ± Å is a
    bound on the mean error of coordinates that holds for 90 % of crystals of the kind the model is calibrated
    on; a ! beside it marks crystals that are not of this kind.

    Example: repose relax POSCAR crystals/ --out relaxed --format cif
    """
    atoms = _indices(fix_atoms)
    if path is not None and path.suffix not in (".extxyz", ".xyz"):
        raise ConfigError(f"--path must be a file that ends in .extxyz; got '{path}'.")
    sources = find_sources(paths, skip=out)
    with ExitStack() as stack:
        outputs = stack.enter_context(Outputs(out, ALIASES.get(form, form), sources))
        for option, file in (("--path", path), ("--summary", summary)):
            if file is not None:
                outputs.keep_inputs(file, option)
                make_writable(file.parent, option)
                if file.is_dir():
                    raise ConfigError(f"{option} must be a file; '{file}' is a folder.")

        from repose.relaxer.constraints import Constraints
        from repose.relaxer.loading import load

        options = Constraints(symmetry, fix_cell, fix_axes, atoms)
        relaxer = load(model, device)
        if path is not None and not relaxer.gives_paths:
            raise ConfigError(f"model '{relaxer.name}' gives no paths; use --model relaxnet.")
        if max_uncertainty is not None and not relaxer.gives_bounds:
            raise ConfigError(
                f"--max-uncertainty needs a calibrated model, which '{relaxer.name}' is not; "
                "see 'repose calibrate'."
            )
        report = Report(as_json, quiet, sort, summary, verbose, relaxer.name)
        trajectories = None if path is None else stack.enter_context(TrajectoryWriter(path))
        if verbose:
            sys.stderr.write(f"model {relaxer.name} on {relaxer.device}; {len(sources)} files\n")
        # JSON lines on a terminal are progress enough, and a bar would run into them.
        bar = stack.enter_context(Progress(0, "crystals", quiet or (as_json and sys.stdout.isatty())))
        if not bar.quiet:
            bar.total = sum(count_crystals(source) for source, _ in sources)
        job = _Job(relaxer, options, outputs, report, trajectories, bar, skip_existing, max_uncertainty)
        for chunk in _chunks(job.read(sources)):
            job.relax(chunk)
    report.close(out, out / UNCERTAIN)
    if report.counts["refused"]:
        raise typer.Exit(1)


@dataclass
class _Job:
    """One call of the command: what its crystals pass through."""

    relaxer: Relaxer
    options: Constraints
    outputs: Outputs
    report: Report
    trajectories: TrajectoryWriter | None
    bar: Progress
    skip_existing: bool
    max_uncertainty: float | None

    def read(self, sources: list[tuple[str, str]]) -> Iterator[tuple[str, Entry]]:
        """Read the crystals that are to be relaxed, each with the name of its output."""
        from repose.io.files import read

        for source, name in sources:
            for entry in read(source):
                if self.skip_existing and entry.crystal is not None and self.outputs.existing(name, entry):
                    self.report.skip(entry)
                    self.bar.advance(1)
                else:
                    yield name, entry

    def relax(self, chunk: list[tuple[str, Entry]]) -> None:
        """Relax and write some crystals, and report them in order."""
        readable = [entry.crystal for _, entry in chunk if entry.crystal is not None]
        self.bar.advance(len(chunk) - len(readable))
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            self.bar.advance(count - done)
            done = count

        results = iter(self.relaxer.relax(readable, constraints=self.options, progress=progress))
        for name, entry in chunk:
            if entry.crystal is None:
                self.report.add(entry, None)
            else:
                self._write(name, entry, next(results))

    def _write(self, name: str, entry: Entry, result: Relaxation) -> None:
        """Write one crystal and report it; what cannot be written is refused."""
        if result.structure is entry.crystal:  # there is no prediction
            self.report.add(entry, result)
            return
        from repose.io import convert

        bound = result.uncertainty
        apart = self.max_uncertainty is not None and bound is not None and bound > self.max_uncertainty
        if entry.many:
            _number(result.structure, entry.index)
        try:
            written, dropped = self.outputs.write(name, entry, result.structure, apart)
            if self.trajectories is not None:
                self.trajectories.write(entry, result)
        except Exception as error:  # whatever it is, the other crystals go on
            said = " ".join(f"{type(error).__name__}: {error}".split())
            refused = replace(result, status="refused", reason=f"it cannot be written: {said}")
            self.report.add(entry, refused)
            return
        if entry.format == "cif" and "orientation of the cell" in dropped:
            dropped.remove("orientation of the cell")  # the input has none
        dropped += [f"{name} of the input" for name in convert.stale_labels(entry.crystal)]
        self.report.add(entry, result, written, dropped, apart)


def _number(structure: Any, index: int) -> None:
    """Note the place in the input, which frames that are refused would shift."""
    from repose.io import convert

    noted = structure.info if convert.is_atoms(structure) else structure.properties
    noted["repose_index"] = index


def _indices(text: str) -> tuple[int, ...]:
    """Numbers of atoms out of ``"0,4-7"``."""
    found: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or part.endswith("-"):
            raise ConfigError(
                f"--fix-atoms takes numbers of atoms, counted from 0, such as 0,4-7; got '{text}'."
            )
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))


def _chunks(entries: Iterator[tuple[str, Entry]]) -> Iterator[list[tuple[str, Entry]]]:
    chunk: list[tuple[str, Entry]] = []
    atoms = 0
    for pair in entries:
        chunk.append(pair)
        atoms += len(pair[1].crystal) if pair[1].crystal is not None else 0
        if len(chunk) >= CHUNK_CRYSTALS or atoms >= CHUNK_ATOMS:
            yield chunk
            chunk, atoms = [], 0
    if chunk:
        yield chunk
