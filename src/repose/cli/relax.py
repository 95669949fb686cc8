"""`repose relax`, the main job."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from repose.cli.common import Device, Json, Progress, Quiet, console
from repose.cli.outputs import Outputs, Ways
from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.io.files import Entry
    from repose.models.base import Relaxation

# Crystals read, relaxed and written together: enough to fill batches, few enough to see results come.
CHUNK_CRYSTALS, CHUNK_ATOMS = 128, 4000
# Longer tables show only what went wrong.
TABLE_ROWS = 100
HEADINGS = ("source", "formula", "atoms", "status", "dV %", "max move Å", "± Å", "space group", "ms")
NUMBERS = ("atoms", "dV %", "max move Å", "± Å", "ms")


def relax(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders, globs; - reads extxyz.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the relaxed crystals.")] = Path("relaxed"),
    model: Annotated[str, typer.Option(help="Name of a model that ships, or a model directory.")] = "default",
    form: Annotated[
        Literal["same", "cif", "poscar", "extxyz", "json"],
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
        typer.Option(help="Write the way of every crystal to this extxyz file, for models that know it."),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Relax crystals; one forward pass of a model each.

    Reads CIF, POSCAR, extended XYZ (many frames), pymatgen JSON and ASE files, also as .gz. What cannot be
    relaxed is refused with a reason, and the rest is done; the exit status is then 1. The column ± Å is a
    bound on the mean error of coordinates that holds for 90 % of crystals of the kind the model is calibrated
    on; a ! beside it marks crystals that are not of this kind.

    Example: repose relax POSCAR crystals/ --out relaxed --format cif
    """
    from repose.io.files import find, read

    atoms = _indices(fix_atoms)
    if path is not None and path.suffix not in (".extxyz", ".xyz"):
        raise ConfigError(f"--path must be a file that ends in .extxyz; got '{path}'.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder; '{out}' is a file.")
    files: list[tuple[str, str]] = []
    for pattern in paths:
        matches = [("-", "stdin.extxyz")] if pattern == "-" else find(pattern, skip=out)
        # A folder or glob without crystals is refused when it is read, like a file that is not there.
        files += matches or [(pattern, Path(pattern).name)]
    files = list(dict.fromkeys(files))
    outputs = Outputs(out, form, [source for source, _ in files], [name for _, name in files])

    from repose.models.base import Constraints
    from repose.models.loading import load

    options = Constraints(symmetry, fix_cell, fix_axes, atoms)
    relaxer = load(model, device)
    if path is not None:
        if not relaxer.gives_paths:
            raise ConfigError(f"model '{relaxer.name}' gives no paths; use --model relaxnet.")
        outputs.keep_inputs(path, "--path")
    report = Report(as_json, quiet)
    ways = nullcontext() if path is None else Ways(path)
    with Progress(len(files), "crystals", quiet) as progress, outputs, ways as way:

        def entries() -> Iterator[tuple[str, Entry]]:
            for source, name in files:
                for entry in read(source):
                    yield name, entry
                progress.step()

        for chunk in _chunks(entries()):
            readable = [entry.crystal for _, entry in chunk if entry.crystal is not None]
            results = iter(relaxer.relax(readable, **vars(options), progress=None))
            for name, entry in chunk:
                result = next(results) if entry.crystal is not None else None
                written = None
                if result is not None and result.structure is not entry.crystal:
                    _note(result)
                    written = outputs.write(name, entry, result.structure)
                    if way is not None:
                        way.write(entry, result)
                report.add(entry, result, written)
            progress.count(len(chunk))
    report.close(out)
    if report.refused:
        raise typer.Exit(1)


def _note(result: Relaxation) -> None:
    """Let extended XYZ files carry the uncertainty; what earlier runs left there goes."""
    from repose.io import convert

    if convert.is_atoms(result.structure):
        info, said = result.structure.info, {"uncertainty": result.uncertainty, "outside": result.outside}
        for name, value in said.items():
            info.pop(f"repose_{name}", None)
            if value is not None:
                info[f"repose_{name}"] = value


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


class Report:
    """Tells what became of every crystal: JSON lines as they come, or a table at the end.

    Args:
        as_json: One JSON object a line instead of the table.
        quiet: No table.
    """

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.rows: list[tuple[str, ...]] = []
        self.remarks: list[str] = []
        self.total = self.refused = self.suspect = self.outside = 0
        self.seconds = 0.0

    def add(self, entry: Entry, result: Relaxation | None, output: Path | None) -> None:
        """Report one crystal; ``result`` is None where reading failed."""
        status = "refused" if result is None else result.status
        where = entry.source + (f", crystal {entry.index}" if entry.many else "")
        reason = entry.reason if result is None else result.reason
        reason = None if reason is None else f"{where}: {reason}"
        formula, count = _describe(entry.crystal)
        self.total += 1
        self.refused += status == "refused"
        self.suspect += status == "suspect"
        self.outside += result is not None and result.outside is not None
        self.seconds += result.seconds if result else 0.0
        if self.as_json:
            self._print_json(entry, result, output, status, reason, formula, count)
            return
        if reason is not None:
            self.remarks.append(f"{status}: {reason}")
        if not self.quiet and (len(self.rows) < TABLE_ROWS or status != "relaxed"):
            measured: tuple[str, ...] = ("",) * (len(HEADINGS) - 4)
            if result is not None and status != "refused":
                if result.outside is not None:
                    self.remarks.append(
                        f"! {where}: outside of what the model knows, its bound may not hold: "
                        f"{result.outside}."
                    )
                measured = (
                    f"{100 * result.volume_change:+.1f}",
                    f"{result.max_displacement:.3f}",
                    _shown(result),
                    f"{result.spacegroup_in} -> {result.spacegroup_out}",
                    f"{1000 * result.seconds:.0f}",
                )
            index = f" [{entry.index}]" if entry.many else ""
            self.rows.append((f"{entry.source}{index}", formula, str(count or ""), status, *measured))

    def _print_json(
        self, entry: Entry, result: Relaxation | None, output: Path | None, status: str, reason: str | None,
        formula: str, count: int,
    ) -> None:  # fmt: skip
        import json

        line = {
            "source": entry.source,
            "index": entry.index,
            "formula": formula,
            "n_atoms": count,
            "status": status,
            "reason": reason,
            "output": None if output is None else str(output),
            "volume_change": result.volume_change if result else 0.0,
            "max_displacement": result.max_displacement if result else 0.0,
            "uncertainty": result.uncertainty if result else None,
            "outside": result.outside if result else None,
            "spacegroup_in": result.spacegroup_in if result else 0,
            "spacegroup_out": result.spacegroup_out if result else 0,
            "seconds": result.seconds if result else 0.0,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def close(self, out: Path) -> None:
        """Print the table and the summary, if they are wanted."""
        if self.as_json:
            return
        if not self.quiet:
            self._print_table()
        for remark in self.remarks:
            (sys.stderr if self.quiet else sys.stdout).write(remark + "\n")
        if not self.quiet:
            done = self.total - self.refused
            pace = f", {1000 * self.seconds / done:.0f} ms each" if done else ""
            sys.stdout.write(
                f"{done} of {self.total} crystals relaxed into {out}/{pace}; "
                f"{self.suspect} of them suspect, {self.refused} refused.\n"
            )
            if self.outside:
                sys.stdout.write(f"{self.outside} of them lie outside of what the model knows (!).\n")

    def _print_table(self) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for heading in HEADINGS:
            table.add_column(heading, justify="right" if heading in NUMBERS else "left", overflow="fold")
        colours = {"relaxed": "green", "suspect": "yellow", "refused": "red"}
        for row in self.rows:
            cells = [Text(cell) for cell in row]
            cells[3].stylize(colours[row[3]])
            table.add_row(*cells)
        console().print(table)
        if self.total > len(self.rows):
            sys.stdout.write(
                f"... and {self.total - len(self.rows)} more, all relaxed; --json lists every one.\n"
            )


def _shown(result: Relaxation) -> str:
    """The bound as the table has it: rounded up, marked where the crystal is outside of what is known."""
    value = result.uncertainty
    bound = "-" if value is None else f"{math.ceil(round(100 * value, 6)) / 100:.2f}"
    return bound if result.outside is None else f"! {bound}"


def _describe(crystal: Any) -> tuple[str, int]:
    """Formula and number of atoms; empty and 0 where nothing could be read."""
    from repose.io import convert

    if crystal is None:
        return "", 0
    if convert.is_atoms(crystal):
        return convert.formula(crystal.numbers), len(crystal)
    return crystal.composition.formula.replace(" ", ""), len(crystal)
