"""`repose relax`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from repose.cli.common import Device, Json, Progress, Quiet, Threads, importing
from repose.cli.inputs import count_crystals, find_inputs
from repose.cli.outputs import UNCERTAIN, OutputFiles, TrajectoryWriter, make_writable
from repose.cli.relax_table import RelaxTable
from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.io.files import Entry
    from repose.relaxer.base import Relaxer
    from repose.relaxer.constraints import Constraints
    from repose.relaxer.relaxation import Relaxation

    Chunk: TypeAlias = list[tuple[str, Entry]]  # inputs with the names of their outputs

# Crystals that are read, relaxed and written together: enough to fill a batch.
CHUNK_CRYSTALS, CHUNK_ATOMS = 64, 4000
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
    summary: Annotated[Path | None, typer.Option(help="CSV file for the table of all crystals.")] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip crystals whose output exists.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the model and each crystal on standard error.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Relax crystals in one forward pass each.

    Reads CIF, POSCAR, extended XYZ (many frames), pymatgen JSON and ASE files, also as .gz. Crystals that
    cannot be relaxed are refused with a reason; the exit status is then 1. The column ± Å is a bound on the
    mean error of coordinates. It holds for 90 % of the crystals that resemble the calibration data; ! marks
    crystals that are out of distribution.

    Example: repose relax POSCAR crystals/ --out relaxed --format cif
    """
    atoms = _atom_indices(fix_atoms)
    if path is not None and path.suffix not in (".extxyz", ".xyz"):
        raise ConfigError(f"--path must be a file that ends in .extxyz; got '{path}'.")
    with importing():
        from repose.relaxer.constraints import Constraints
        from repose.relaxer.loading import load
        from repose.threads import cpus_to_use, use_threads
    sources = find_inputs(paths, skip=out)
    with ExitStack() as stack:
        outputs = stack.enter_context(OutputFiles(out, ALIASES.get(form, form), sources))
        for option, file in (("--path", path), ("--summary", summary)):
            if file is not None:
                outputs.keep_inputs(file, option)
                make_writable(file.parent, option)
                if file.is_dir():
                    raise ConfigError(f"{option} must be a file; '{file}' is a folder.")

        use_threads(threads)
        options = Constraints(symmetry, fix_cell, fix_axes, atoms)
        relaxer = load(model, device)
        if path is not None and not relaxer.gives_paths:
            raise ConfigError(f"model '{relaxer.name}' predicts no paths; use --model relaxnet.")
        if max_uncertainty is not None and not relaxer.gives_bounds:
            raise ConfigError(
                f"--max-uncertainty needs a calibrated model; '{relaxer.name}' is not calibrated, "
                "see 'repose calibrate'."
            )
        table = RelaxTable(as_json, quiet, sort, summary, verbose, relaxer.name)
        trajectories = None if path is None else stack.enter_context(TrajectoryWriter(path))
        if verbose:
            kernels = getattr(relaxer, "path", "")
            sys.stderr.write(f"model {relaxer.name} on {relaxer.device}, {kernels}; {len(sources)} files\n")
        # On a terminal a bar would be mixed with JSON lines.
        bar = stack.enter_context(Progress(0, "crystals", quiet or (as_json and sys.stdout.isatty())))
        if not bar.quiet:
            bar.total = sum(count_crystals(source) for source, _ in sources)
        job = _RelaxJob(relaxer, options, outputs, table, trajectories, bar, skip_existing, max_uncertainty)
        job.relax(_chunks(job.read(sources)), cpus_to_use(threads))
    table.close(out, out / UNCERTAIN)
    if table.counts["refused"]:
        raise typer.Exit(1)


@dataclass
class _RelaxJob:
    """Objects and options of one call of the command."""

    relaxer: Relaxer
    options: Constraints
    outputs: OutputFiles
    table: RelaxTable
    trajectories: TrajectoryWriter | None
    bar: Progress
    skip_existing: bool
    max_uncertainty: float | None

    def read(self, sources: list[tuple[str, str]]) -> Iterator[tuple[str, Entry]]:
        """Read the crystals to relax, each with the name of its output."""
        from repose.io.files import read

        for source, name in sources:
            for entry in read(source):
                if self.skip_existing and entry.crystal is not None and self.outputs.existing(name, entry):
                    self.table.skip(entry)
                    self.bar.advance(1)
                else:
                    yield name, entry

    def relax(self, chunks: Iterator[Chunk], workers: int) -> None:
        """Relax and write crystals, and add them to the table in order.

        Several chunks are relaxed by processes of one thread each, a single one by this process.
        """
        from repose.relaxer.processes import can_fork, relax_chunks

        first = list(islice(chunks, 2))
        if len(first) < 2 or workers == 1 or not can_fork(self.relaxer):
            for chunk in chain(first, chunks):
                results = self.relaxer.relax(
                    _crystals(chunk), constraints=self.options, progress=self._progress()
                )
                self._finish(chunk, results)
            return
        pairs = ((chunk, _crystals(chunk)) for chunk in chain(first, chunks))
        complete = self.table.as_json or self.table.summary is not None
        for chunk, results in relax_chunks(self.relaxer, pairs, self.options, workers, complete):
            self.bar.advance(len(results))
            self._finish(chunk, results)

    def _progress(self) -> Callable[[int], None]:
        """Return a function that advances the bar to a number of crystals of a chunk."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            self.bar.advance(count - done)
            done = count

        return advance

    def _finish(self, chunk: Chunk, results: list[Relaxation]) -> None:
        """Write a chunk; crystals that could not be read have no result."""
        self.bar.advance(len(chunk) - len(results))
        of_crystals = iter(results)
        for name, entry in chunk:
            if entry.crystal is None:
                self.table.add(entry, None)
            else:
                self._write(name, entry, next(of_crystals))

    def _write(self, name: str, entry: Entry, result: Relaxation) -> None:
        """Write one crystal and add it to the table; it is refused if it cannot be written."""
        if result.after is None:  # no prediction
            self.table.add(entry, result)
            return
        from repose.io import convert

        bound = result.uncertainty
        uncertain = self.max_uncertainty is not None and bound is not None and bound > self.max_uncertainty
        if entry.many:
            _add_index(result.structure, entry.index)
        try:
            written, dropped = self.outputs.write(name, entry, result.structure, uncertain)
            if self.trajectories is not None:
                self.trajectories.write(entry, result)
        except Exception as error:  # the other crystals are still written
            message = " ".join(f"{type(error).__name__}: {error}".split())
            refused = replace(result, status="refused", reason=f"it cannot be written: {message}")
            self.table.add(entry, refused)
            return
        if entry.format == "cif" and "orientation of the cell" in dropped:
            dropped.remove("orientation of the cell")  # a CIF has no orientation
        dropped += [f"{name} of the input" for name in convert.stale_labels(entry.crystal)]
        self.table.add(entry, result, written, dropped, uncertain)


def _add_index(structure: Any, index: int) -> None:
    """Store the index in the input file; in the output file refused frames are missing."""
    from repose.io import convert

    properties = structure.info if convert.is_atoms(structure) else structure.properties
    properties["repose_index"] = index


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


def _crystals(chunk: Chunk) -> list[Any]:
    return [entry.crystal for _, entry in chunk if entry.crystal is not None]


def _chunks(entries: Iterator[tuple[str, Entry]]) -> Iterator[Chunk]:
    chunk: Chunk = []
    atoms = 0
    for pair in entries:
        chunk.append(pair)
        atoms += len(pair[1].crystal) if pair[1].crystal is not None else 0
        if len(chunk) >= CHUNK_CRYSTALS or atoms >= CHUNK_ATOMS:
            yield chunk
            chunk, atoms = [], 0
    if chunk:
        yield chunk
