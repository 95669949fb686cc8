"""Output files of `repose relax`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.io.files import Entry, ExtxyzWriter, Format
    from repose.relaxer.relaxation import Relaxation

# Folder inside the output folder for predictions whose bound exceeds --max-uncertainty.
UNCERTAIN = "uncertain"
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
        self.folder, self.form = folder, form
        self._real_folders: dict[str, str] = {}
        self.inputs = {self._real(source) for source, _ in sources if source != "-"}
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
        while self.taken.get(candidate, owner) != owner or self._real(candidate) in self.inputs:
            number += 1
            candidate = target.with_name(f"{target.stem}_{number}{target.suffix}")
        self.taken[candidate] = owner
        return candidate

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
    """Writer of relaxation paths to one extended XYZ file, which appears when the writer is closed.

    Frames have ``id`` and ``step``, as `repose data import` reads them.

    Args:
        path: Output file; replaced if it exists.

    Raises:
        ConfigError: Its folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_writable(path.parent, "--path")

    def __enter__(self) -> TrajectoryWriter:
        from repose.io.files import ExtxyzWriter

        self._writer = ExtxyzWriter(self.path)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._writer.close() if kind is None else self._writer.discard()

    def write(self, entry: Entry, result: Relaxation, field: str = "path") -> None:
        """Append the path of one crystal, if it has one; ``field``: that of the result."""
        from repose.io import convert

        frames = getattr(result, field)
        if frames is None or result.before is None:
            return
        name = entry.source + (f"[{entry.index}]" if entry.many else "")
        for step, frame in enumerate(frames):
            atoms = convert.frame_to_atoms(result.before, frame)
            atoms.info |= {"id": name, "step": step, "n_steps": len(frames) - 1}
            self._writer.append(atoms)


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
