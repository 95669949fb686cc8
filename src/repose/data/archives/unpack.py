"""Safe unpacking of archives, and search for the folders that can be imported."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Any, cast

from repose.data.archives.download import set_aside
from repose.data.archives.registry import Archive
from repose.data.importers.cif_pairs import FOLDERS, has_tables, holds_cifs
from repose.data.pairing import describe
from repose.errors import DatasetError

CHUNK = 1 << 18
# An archive may unpack to LARGEST_RATIO times its size, or to SMALLEST_LIMIT bytes if that is more, but never
# to more than LARGEST_LIMIT bytes or MOST_MEMBERS files. CIFs are compressed about tenfold.
LARGEST_RATIO = 200
SMALLEST_LIMIT = 1 << 26
LARGEST_LIMIT = 1 << 36
MOST_MEMBERS = 2_000_000
# Prefixes of files that macOS adds to archives.
JUNK = ("__MACOSX", "._")
# Errors of damaged archives. RuntimeError and NotImplementedError: a password or an unknown compression. Last
# three: a name is both a folder and a file.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(RuntimeError, NotImplementedError, FileExistsError, NotADirectoryError, IsADirectoryError),
)
# Name, whether it is a regular file, size in bytes, and a function that writes it to a folder.
_Member = tuple[str, bool, int, Callable[[Path], object]]


def unpack(path: Path, folder: Path, suffixes: tuple[str, ...]) -> int:
    """Unpack the wanted files of a zip archive, or of a tar archive, compressed or not.

    `zipfile` and `tarfile` (with its data filter) write the files. Both set no limits, and silently rename
    some paths outside of the folder. Here the whole archive is refused if it contains such a path, a link or
    a device, or if it exceeds the limits of this module.

    Args:
        path: The archive.
        folder: Destination; created if missing.
        suffixes: Suffixes of the wanted files in lower case, e.g. ``(".cif",)``.

    Returns:
        Number of files written.

    Raises:
        DatasetError: The archive is refused; or it is damaged or no archive, and was renamed ``NAME.bad``.
    """
    limit = min(max(LARGEST_RATIO * path.stat().st_size, SMALLEST_LIMIT), LARGEST_LIMIT)
    refused = f"{path} is refused, nothing was imported"
    members = total = written = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(_members(path, limit)) as inside:
            for name, regular, size, extract in inside:
                members, total = members + 1, total + size
                if fault := _unsafe(name) if regular else "is a link or a device":
                    raise DatasetError(f"{refused}: its member '{name}' {fault}.")
                if total > limit or members > MOST_MEMBERS:
                    raise DatasetError(
                        f"{refused}: it unpacks to more than {limit} bytes or {MOST_MEMBERS} files, "
                        "too many for an archive of crystals of its size."
                    )
                junk = any(part.startswith(JUNK) for part in name.split("/"))
                if name.lower().endswith(suffixes) and not junk:
                    extract(folder)
                    written += 1
    except DAMAGE as error:
        hint = " It is a web page, not an archive." if _is_web_page(path) else ""
        raise DatasetError(f"{path} cannot be unpacked: {describe(error)}.{hint} {set_aside(path)}") from None
    except OSError as error:
        # Readers of compressed files raise errors without errno for damaged files.
        damaged = f" {set_aside(path)}" if error.errno is None else ""
        raise DatasetError(f"{path} cannot be unpacked to {folder}: {describe(error)}.{damaged}") from None
    return written


def folders_to_import(root: Path, archive: Archive) -> list[Path]:
    """Return the folders of an unpacked archive that hold pairs, at any depth.

    An archive of another format than CIF pairs is imported as one folder.

    Raises:
        DatasetError: There are none: the layout is not the expected one.
    """
    if archive.format != "cif-pairs":
        return [root]
    inside = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    found = [path for path in inside if has_tables(path)]
    if not found:
        cifs = [path for path in inside if holds_cifs(path)]
        found = [path for path in cifs if not (path.name in FOLDERS and path.parent in cifs)]
    if archive.folders:
        patterns = [pattern for end in archive.folders for pattern in (end, f"*/{end}")]
        found = [p for p in found if any(fnmatch(p.relative_to(root).as_posix(), end) for end in patterns)]
    if not found:
        names = ", ".join(str(path.relative_to(root)) for path in inside[1:6]) or "no folders to import"
        raise DatasetError(
            f"the archive '{archive.name}' does not have the expected layout ({archive.layout}); it holds "
            f"{names}. Unpack it by hand and import its folders with 'repose data import'."
        )
    return found


def _members(path: Path, limit: int) -> Generator[_Member, None, None]:
    """Yield the files of an archive in order, with slashes between folders; extract each before the next."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                info.filename = info.filename.replace("\\", "/")
                # The mode is 0 if the program has no file modes.
                regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                if not info.is_dir():
                    yield info.filename, regular, info.file_size, partial(archive.extract, info)
        return
    with tarfile.open(path) as archive:
        for entry in archive:
            entry.name = entry.name.replace("\\", "/")
            if not entry.isdir():
                extract = partial(archive.extract, entry, set_attrs=False, filter="data")
                yield entry.name, entry.isfile(), entry.size, extract
            # `tarfile` keeps every member in memory otherwise.
            cast(Any, archive).members.clear()
        # The checksum of the compression is verified at the end of the file.
        remainder = cast(IO[bytes], archive.fileobj)
        for _ in range(limit // CHUNK + 1):
            if not remainder.read(CHUNK):
                return
        raise tarfile.ReadError("there are data after its end")


def _unsafe(name: str) -> str:
    """Return why a path in an archive is unsafe on any system; empty if it is safe."""
    path = PureWindowsPath(name)
    if path.drive or path.root:
        return "has an absolute path"
    if ".." in path.parts:
        return "leads out of the folder"
    return "" if path.parts and "\0" not in name else "has an invalid name"


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
