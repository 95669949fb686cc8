"""Reading, relaxing and writing of `repose relax`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeAlias

from repose.cli.common import Progress
from repose.cli.inputs import STDIN
from repose.cli.outputs import OutputFiles, TrajectoryWriter, name_of
from repose.cli.relax_table import RelaxTable
from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.io.files import Entry
    from repose.relaxer.base import Relaxer
    from repose.relaxer.constraints import Constraints
    from repose.relaxer.continuation import Continuation
    from repose.relaxer.relaxation import Relaxation
    from repose.report import Report

    Chunk: TypeAlias = list[tuple[str, Entry]]  # inputs with the names of their outputs

# Crystals that are read, relaxed and written together: enough to fill a batch.
CHUNK_CRYSTALS, CHUNK_ATOMS = 64, 4000
# The same where a potential goes on, which takes long.
CHUNK_CONTINUED = 16


@dataclass
class RelaxJob:
    """Objects and options of one call of the command."""

    relaxer: Relaxer
    options: Constraints
    continuation: Continuation | None
    outputs: OutputFiles
    table: RelaxTable
    writers: list[TrajectoryWriter]
    bar: Progress
    skip_existing: bool
    max_uncertainty: float | None
    report: Report | None

    def read(self, sources: list[tuple[str, str]]) -> Iterator[tuple[str, Entry]]:
        """Read the crystals to relax, each with the name of its output."""
        from repose.io.files import read

        for source, name in sources:
            for entry in read(source):
                if self._is_done(name, entry):
                    self.bar.advance(1)
                else:
                    yield name, entry

    def _is_done(self, name: str, entry: Entry) -> bool:
        """Return whether a crystal is skipped; note what files of the earlier run lack of it."""
        if not self.skip_existing or entry.crystal is None:
            return False
        target = self.outputs.existing(name, entry)
        if target is None:
            return False
        summary, then = self.table.summary, self.continuation
        row = None if summary is None else summary.row(entry.source, entry.index)
        lacking = []
        if then is not None and then.when_uncertain is None:  # all crystals go on
            known = self.outputs.has_energies(target)
            if known is None and row is not None:
                known = bool(row.get("energy"))
            if known is False:
                return False
            if known is None:
                lacking.append("no energy of it is known: perhaps no potential relaxed it")
            lacking += [
                f"{writer.path} has no steps of it" for writer in self.writers if not writer.has(entry)
            ]
        if summary is not None and row is None:
            lacking.append(f"{summary.path} has no row of it")
        if self.report is not None and not self.report.keep(name_of(entry)):
            lacking.append("the report has no row of it")
        self.table.skip(entry, [f"skipped, since its output exists, but {what}" for what in lacking])
        return True

    def relax(self, sources: list[tuple[str, str]], workers: int) -> None:
        """Relax and write crystals, and add them to the table in order.

        Args:
            sources: Files with the names of their outputs.
            workers: Processes, if there are several chunks that they can share.
        """
        continuation = self.continuation
        if continuation is not None and continuation.share is not None:
            bound = self._bound_of_share(sources, workers, continuation.share)
            continuation = replace(continuation, when_uncertain=bound)
        size = CHUNK_CRYSTALS if continuation is None else CHUNK_CONTINUED
        chunks = _chunks(self.read(sources), size)
        space_groups = self.table.as_json or self.table.summary is not None or self.report is not None
        for chunk, results in self._relaxed(chunks, workers, continuation, self.bar.advance, space_groups):
            self._finish(chunk, results)

    def _bound_of_share(self, sources: list[tuple[str, str]], workers: int, share: float) -> float:
        """Return the bound in Å that this share of all crystals exceeds.

        Raises:
            ConfigError: Standard input is among the sources, which are read twice.
        """
        from repose.io.files import read
        from repose.relaxer.continuation import largest_bound

        if STDIN in sources:
            raise ConfigError(
                "--when-uncertain with a share reads the crystals twice, and standard input can be read "
                "once; pass a bound in Å, or a file."
            )
        entries = ((name, entry) for source, name in sources for entry in read(source))
        predicted = self._relaxed(_chunks(entries, CHUNK_CRYSTALS), workers, None, lambda count: None)
        bounds = [r.uncertainty for _, results in predicted for r in results if r.uncertainty is not None]
        return largest_bound(bounds, share)

    def _relaxed(
        self,
        chunks: Iterator[Chunk],
        workers: int,
        continuation: Continuation | None,
        advance: Callable[[int], None],
        space_groups: bool = False,
    ) -> Iterator[tuple[Chunk, list[Relaxation]]]:
        """Yield chunks with their results, in order.

        Several chunks are relaxed by processes of one thread each, a single one by this process.
        """
        from repose.relaxer.processes import can_fork, relax_chunks

        first = list(islice(chunks, 2))
        pairs = ((chunk, _crystals(chunk)) for chunk in chain(first, chunks))
        if len(first) > 1 and workers > 1 and can_fork(self.relaxer, continuation):
            options = self.options, continuation
            for chunk, results in relax_chunks(self.relaxer, pairs, *options, workers, space_groups):
                advance(len(results))
                yield chunk, results
            return
        for chunk, crystals in pairs:
            options = {"constraints": self.options, "then": continuation, "progress": _increments(advance)}
            yield chunk, self.relaxer.relax(crystals, **options)

    def _finish(self, chunk: Chunk, results: list[Relaxation]) -> None:
        """Write a chunk; crystals that could not be read have no result."""
        self.bar.advance(len(chunk) - len(results))
        of_crystals = iter(results)
        for name, entry in chunk:
            if entry.crystal is None:
                self._add(entry, None)
            else:
                self._write(name, entry, next(of_crystals))

    def _write(self, name: str, entry: Entry, result: Relaxation) -> None:
        """Write one crystal and add it to the table; it is refused if it cannot be written."""
        if result.after is None:  # no prediction
            self._add(entry, result)
            return
        from repose.io import convert

        bound = result.uncertainty
        uncertain = self.max_uncertainty is not None and bound is not None and bound > self.max_uncertainty
        if entry.many:
            _add_index(result.structure, entry.index)
        try:
            for writer in self.writers:  # first: a crystal whose output exists is skipped later
                writer.write(entry, result)
            written, dropped = self.outputs.write(name, entry, result.structure, uncertain)
        except Exception as error:  # the other crystals are still written
            message = " ".join(f"{type(error).__name__}: {error}".split())
            refused = replace(result, status="refused", reason=f"it cannot be written: {message}")
            self._add(entry, refused)
            return
        if entry.format == "cif" and "orientation of the cell" in dropped:
            dropped.remove("orientation of the cell")  # a CIF has no orientation
        if result.energy is not None:  # they are not the input's
            dropped = [name for name in dropped if name not in ("energy", "forces", "stress")]
        dropped += [f"{name} of the input" for name in convert.stale_labels(entry.crystal)]
        self._add(entry, result, written, dropped, uncertain)

    def _add(self, entry: Entry, result: Relaxation | None, *written: Any) -> None:
        """Add a crystal to the table and the report."""
        from repose.relaxer.relaxation import Relaxation

        self.table.add(entry, result, *written)
        if self.report is not None:
            self.report.add(result or Relaxation(None, "refused", entry.reason), name_of(entry))


def _increments(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function of the number done so far that advances by what is new."""
    done = 0

    def report(count: int) -> None:
        nonlocal done
        advance(count - done)
        done = count

    return report


def _add_index(structure: Any, index: int) -> None:
    """Store the index in the input file; in the output file refused frames are missing."""
    from repose.io import convert

    properties = structure.info if convert.is_atoms(structure) else structure.properties
    properties["repose_index"] = index


def _crystals(chunk: Chunk) -> list[Any]:
    return [entry.crystal for _, entry in chunk if entry.crystal is not None]


def _chunks(entries: Iterator[tuple[str, Entry]], size: int) -> Iterator[Chunk]:
    chunk: Chunk = []
    atoms = 0
    for pair in entries:
        chunk.append(pair)
        atoms += len(pair[1].crystal) if pair[1].crystal is not None else 0
        if len(chunk) >= size or atoms >= CHUNK_ATOMS:
            yield chunk
            chunk, atoms = [], 0
    if chunk:
        yield chunk
