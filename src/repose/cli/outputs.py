"""Output files of `repose relax`."""

from __future__ import annotations

import os
import re
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repose.atomic_write import replacing_file
from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.io.files import Entry, ExtxyzWriter, Format
    from repose.relaxer.relaxation import Relaxation

# Folder inside the output folder for predictions whose bound exceeds --max-uncertainty.
UNCERTAIN = "uncertain"
# Entries in the comment lines of `TrajectoryWriter`.
_FRAME = re.compile(rb" (id=.+?) step=(\d+) n_steps=(\d+)")
SUFFIX = {"cif": ".cif", "poscar": ".vasp", "extxyz": ".extxyz", "json": ".json"}


class OutputFiles:
    """Output files of relaxed crystals, each with its own name. No input is ever replaced.

    Args:
        folder: Output folder; created at once, and removed at the end if it is empty.
        form: Format, or ``"same"``.
        sources: Pairs of an input file and its name relative to the folder.

    Raises:
        ConfigError: An output would replace an input, or the folder cannot be written.
    """

    def __init__(self, folder: Path, form: str, sources: list[tuple[str, str]]) -> None:
        self.folder, self.form, self.sources = folder, form, sources
        self._real_folders: dict[str, str] = {}
        self.inputs = {self._real(source) for source, _ in sources if source != "-"}
        self.others: dict[str, str] = {}  # options of other files that are written
        self._with_energies: dict[Path, bool] = {}
        self.taken: dict[Path, tuple[str, int]] = {}
        self._streams: dict[Path, ExtxyzWriter] = {}
        self._streaming: str | None = None  # source of the open streams
        for source, name in sources:
            self.keep_inputs(self._target(name, self._format(source)), "--out")
        self._made = make_writable(folder, "--out")

    def keep_inputs(self, target: Path, option: str) -> None:
        """Check that ``target``, an output given by ``option``, is not an input.

        Raises:
            ConfigError: It is an input.
        """
        if self._real(target) in self.inputs:
            raise ConfigError(f"the output '{target}' would replace an input; choose another {option}.")

    def reserve(self, files: dict[str, Path]) -> None:
        """Check that files given by options are not inputs, outputs, or the same; outputs avoid them.

        Raises:
            ConfigError: They are.
        """
        planned = {
            self._real(self._target(os.path.join(folder, name), self._format(source)))
            for source, name in (self.sources if files else ())
            for folder in ("", UNCERTAIN)
        }
        for option, file in files.items():
            self.keep_inputs(file, option)
            real = self._real(file)
            if real in planned or real in self.others:
                other = self.others.get(real, "a relaxed crystal")
                raise ConfigError(f"'{file}' is also the file of {other}; choose another {option}.")
            self.others[real] = option

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            self._end_streams(keep=kind is None)
        finally:
            for folder in self._made:  # the deepest first
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def existing(self, name: str, entry: Entry) -> Path | None:
        """Return the output of an earlier run for a crystal, or None; for ``name`` see `write`."""
        for uncertain in (False, True):
            target = self._path(name, entry, uncertain)
            if target not in self._streams and target.exists():
                return target
        return None

    def has_energies(self, target: Path) -> bool | None:
        """Return whether an output of an earlier run has energies; None if its format has no energies."""
        from repose.io.files import kind_of, read

        if kind_of(target) != "extxyz":
            return None
        if target not in self._with_energies:
            results = (getattr(getattr(entry.crystal, "calc", None), "results", {}) for entry in read(target))
            self._with_energies[target] = any("energy" in values for values in results)
        return self._with_energies[target]

    def write(
        self, name: str, entry: Entry, structure: Any, uncertain: bool = False
    ) -> tuple[Path, list[str]]:
        """Write a relaxed crystal.

        Frames of one file are written to one extended XYZ file, or to numbered files of another format.

        Args:
            name: Name of the input relative to the output folder.
            entry: The input.
            structure: `ase.Atoms` or a pymatgen Structure.
            uncertain: Write into the folder of uncertain predictions.

        Returns:
            The file, and the properties that the format cannot hold.

        Raises:
            OSError: The file cannot be written.
        """
        from repose.io.files import ExtxyzWriter, write

        if self._streaming != entry.source:
            self._end_streams()
            self._streaming = entry.source
        format = self._format(entry.source, entry.format)
        target = self._path(name, entry, uncertain)
        if not (format == "extxyz" and entry.many):
            return target, write(structure, target, format)
        if target not in self._streams:
            self._streams[target] = ExtxyzWriter(target)
        return target, self._streams[target].append(structure)

    def _end_streams(self, keep: bool = True) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.close() if keep else stream.discard()

    def _path(self, name: str, entry: Entry, uncertain: bool) -> Path:
        """Reserve the first free file name for a crystal."""
        format = self._format(entry.source, entry.format)
        together = format == "extxyz" and entry.many
        target = self._target(os.path.join(UNCERTAIN, name) if uncertain else name, format)
        if entry.many and not together:
            target = target.with_name(f"{target.stem}-{entry.index}{target.suffix}")
        owner = (entry.source, 0 if together else entry.index)
        candidate, number = target, 1
        while self.taken.get(candidate, owner) != owner or self._is_reserved(candidate):
            number += 1
            candidate = target.with_name(f"{target.stem}_{number}{target.suffix}")
        self.taken[candidate] = owner
        return candidate

    def _is_reserved(self, path: Path) -> bool:
        real = self._real(path)
        return real in self.inputs or real in self.others

    def _real(self, path: str | Path) -> str:
        """Absolute path of a file without links; those of folders are followed once."""
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._real_folders[folder], name)
        return os.path.realpath(real) if os.path.islink(real) else real

    def _format(self, source: str, own: str | None = None) -> Format:
        from repose.io.files import FORMATS, kind_of

        if self.form == "same":
            kind = own or ("extxyz" if source == "-" else kind_of(source))
            return kind if kind in FORMATS else "extxyz"  # type: ignore[return-value]
        return self.form  # type: ignore[return-value]

    def _target(self, name: str, format: Format) -> Path:
        from repose.io.files import kind_of

        path = self.folder / name
        path = path.with_suffix("") if path.suffix == ".gz" else path
        if kind_of(path) == format:
            return path  # e.g. POSCAR keeps its name
        known = kind_of(path.with_name(f"x{path.suffix}"))
        return path.with_suffix(SUFFIX[format]) if known else Path(f"{path}{SUFFIX[format]}")


class TrajectoryWriter:
    """Writer of relaxation paths to one extended XYZ file, crystal by crystal.

    Frames have ``id`` and ``step``, as `repose data import` reads them. A run that is stopped leaves the
    paths of its crystals.

    Args:
        path: Output file; its folder exists.
        field: Field of results with the path: ``"path"`` or ``"trajectory"``.
        continued: Keep the paths of an earlier run, except those of crystals that are written again.

    Raises:
        ConfigError: The file to be continued is of another kind.
    """

    def __init__(self, path: Path, field: str, continued: bool = False) -> None:
        self.path, self.field = path, field
        self.continued = continued and path.exists()
        self._earlier = set[bytes]()
        if self.continued:
            self._earlier = _keep_last_paths(path)
        else:
            with replacing_file(path):
                pass

    def has(self, entry: Entry) -> bool:
        """Return whether the file has the path of a crystal from an earlier run."""
        from repose.io.comment_line import format_entry

        return (format_entry("id", name_of(entry)) or "").encode() in self._earlier

    def write(self, entry: Entry, result: Relaxation) -> None:
        """Append the path of one crystal, if it has one."""
        from repose.io import convert
        from repose.io.write_extxyz import write_frame

        frames = getattr(result, self.field)
        if frames is None or result.before is None:
            return
        values: dict[str, Any] = {"n_steps": len(frames) - 1}
        if self.field == "trajectory":
            values |= {name: getattr(result, name) for name in ("calculator", "converged", "status")}
        texts = []
        for step, frame in enumerate(frames):
            atoms = convert.frame_to_atoms(result.before, frame)
            atoms.info = {"id": name_of(entry), "step": step, **values}
            texts.append(write_frame(atoms)[0])
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write("".join(texts))

    def close(self) -> None:
        """Remove earlier paths of crystals that were written again."""
        if self.continued:
            _keep_last_paths(self.path)


def name_of(entry: Entry) -> str:
    """Return the name of a crystal: its file and, if there are several in it, its index in brackets."""
    return entry.source + (f"[{entry.index}]" if entry.many else "")


def _keep_last_paths(path: Path) -> set[bytes]:
    """Keep the last complete path of every crystal in a file, and return their ids.

    Raises:
        ConfigError: A frame was not written by `TrajectoryWriter`.
    """
    spans: dict[bytes, tuple[int, int]] = {}
    own, begin, following = b"", 0, 0
    with path.open("rb") as stream:
        while head := stream.readline():
            lines = [stream.readline()]
            lines += islice(stream, int(head) if head.strip().isdigit() else 0)
            if not lines[-1].endswith(b"\n"):  # the run was stopped here
                break
            found = _FRAME.search(lines[0])
            if found is None:
                raise ConfigError(
                    f"'{path}' cannot be continued: it has frames that are not of an earlier run of this "
                    "command; choose another file, or leave out --skip-existing."
                )
            step = int(found[2])
            if step == 0:
                own, begin, following = found[1], stream.tell() - len(head) - sum(map(len, lines)), 0
            if (found[1], step) == (own, following):
                following += 1
                if step == int(found[3]):
                    spans.pop(own, None)
                    spans[own] = (begin, stream.tell())
        if sum(end - begin for begin, end in spans.values()) < path.stat().st_size:
            with replacing_file(path) as new, new.open("wb") as kept:
                for begin, end in spans.values():
                    stream.seek(begin)
                    kept.write(stream.read(end - begin))
    return set(spans)


def make_writable(folder: Path, option: str) -> list[Path]:
    """Create a folder given by ``option`` and its parents; check that files can be written there.

    Returns:
        The created folders, the deepest first.

    Raises:
        ConfigError: It is a file, or cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{option} must be a folder; '{folder}' is a file.")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"the folder '{folder}' cannot be written ({error.strerror or error}); choose another {option}."
        ) from None
    return made
