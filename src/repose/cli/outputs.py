"""The files that `repose relax` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repose.errors import ConfigError

if TYPE_CHECKING:
    from repose.io.files import Entry, ExtxyzWriter, Format
    from repose.models.base import Relaxation


class Outputs:
    """Where relaxed crystals go; no two to one file, and none onto an input.

    Args:
        folder: The output folder; made when there is something to write.
        form: Format, or ``"same"``.
        sources: Input files.
        names: What each should be called in the folder.

    Raises:
        ConfigError: An output would replace an input.
    """

    def __init__(self, folder: Path, form: str, sources: list[str], names: list[str]) -> None:
        self.folder, self.form = folder, form
        self.inputs = {Path(source).resolve() for source in sources if source != "-"}
        self.taken: dict[Path, tuple[str, int]] = {}
        self._stream: tuple[str, ExtxyzWriter, Path] | None = None
        for source, name in zip(sources, names, strict=True):
            self.keep_inputs(self._target(name, self._format(source)), "--out")

    def keep_inputs(self, target: Path, option: str) -> None:
        """Make sure that an output is no input.

        Args:
            target: Of the output.
            option: That put it there.

        Raises:
            ConfigError: It is one.
        """
        if target.resolve() in self.inputs:
            raise ConfigError(
                f"the output '{target}' would replace an input, which must not be; choose another {option}."
            )

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if self._stream is not None and kind is not None:
            self._stream[1].discard()
        else:
            self._end_stream()

    def write(self, name: str, entry: Entry, structure: Any) -> Path:
        """Write a relaxed crystal.

        Args:
            name: Of its input, relative to the output folder.
            entry: Where it came from.
            structure: What to write.

        Returns:
            The file it is in. Frames of one file go to one file in extended XYZ, else to numbered ones.
        """
        from repose.io.files import ExtxyzWriter, write

        format = self._format(entry.source, entry.format)
        together = format == "extxyz" and entry.many
        if self._stream is not None and self._stream[0] == entry.source and together:
            self._stream[1].append(structure)
            return self._stream[2]
        self._end_stream()
        target = self._target(name, format)
        if entry.many and not together:
            target = target.with_name(f"{target.stem}-{entry.index}{target.suffix}")
        target = self._free(target, (entry.source, 0 if together else entry.index))
        if together:
            self._stream = (entry.source, ExtxyzWriter(target), target)
            self._stream[1].append(structure)
        else:
            write(structure, target, format)
        return target

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None

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
            return path  # POSCAR stays POSCAR
        suffix = {"cif": ".cif", "poscar": ".vasp", "extxyz": ".extxyz", "json": ".json"}[format]
        return (
            path.with_suffix(suffix)
            if kind_of(path.with_name(f"x{path.suffix}"))
            else Path(f"{path}{suffix}")
        )

    def _free(self, target: Path, owner: tuple[str, int]) -> Path:
        """The name, or the name with the first number that makes it nobody else's."""
        candidate, number = target, 1
        while self.taken.get(candidate, owner) != owner or candidate.resolve() in self.inputs:
            number += 1
            candidate = target.with_name(f"{target.stem}_{number}{target.suffix}")
        self.taken[candidate] = owner
        return candidate


class Ways:
    """Writes the frames of crystals on their way into one extended XYZ file, which appears at the end.

    Frames of a crystal share an ``id`` and are numbered by ``step``, as `repose data import` reads them.

    Args:
        path: Where; replaced if it is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Ways:
        from repose.io.files import ExtxyzWriter

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = ExtxyzWriter(self.path)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._writer.close() if kind is None else self._writer.discard()

    def write(self, entry: Entry, result: Relaxation) -> None:
        """Append what became of one crystal; nothing where there is no path."""
        from repose.io import convert

        if result.path is None or result.before is None:
            return
        name = entry.source + (f"[{entry.index}]" if entry.many else "")
        for step, frame in enumerate(result.path):
            atoms = convert.frame_to_atoms(result.before, frame)
            atoms.info |= {"id": name, "step": step, "n_steps": len(result.path) - 1}
            self._writer.append(atoms)
