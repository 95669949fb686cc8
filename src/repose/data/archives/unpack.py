"""Unpacking archives without trusting them, and the folders in them that can be imported."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable
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
# to more than LARGEST_LIMIT bytes or MOST_MEMBERS files. CIFs shrink about tenfold.
LARGEST_RATIO = 200
SMALLEST_LIMIT = 1 << 26
LARGEST_LIMIT = 1 << 36
MOST_MEMBERS = 2_000_000
# Names of what macOS adds to archives begin with one of these.
JUNK = ("__MACOSX", "._")
# Errors on damage. RuntimeError and NotImplementedError: a password or an unknown compression. Last three:
# a name is both a folder and a file.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(RuntimeError, NotImplementedError, FileExistsError, NotADirectoryError, IsADirectoryError),
)
# Name, whether it is a regular file, size in bytes, and a function that writes it under a folder.
_Member = tuple[str, bool, int, Callable[[Path], object]]


def unpack(path: Path, folder: Path, suffixes: tuple[str, ...]) -> int:
    """Unpack the wanted files of a zip archive, or of a tar archive, compressed or not.

    `zipfile` and `tarfile` write the files, the latter with its data filter. Both set no limit to what an
    archive unpacks to, and silently rename some paths that lead out of the folder. Here an archive is refused
    as a whole if a path in it leads out of the folder, if it holds a link or a device, or if it exceeds the
    limits of this module.

    Args:
        path: The archive.
        folder: Where to write; it is made.
        suffixes: Ends of the names of wanted files, in lower case, e.g. ``(".cif",)``.

    Returns:
        Number of files written.

    Raises:
        DatasetError: The archive is refused; or it is damaged or no archive, and was renamed ``NAME.bad``.
    """
    limit = min(max(LARGEST_RATIO * path.stat().st_size, SMALLEST_LIMIT), LARGEST_LIMIT)
    refused = f"{path} is refused, nothing was imported"
    members = unpacked = written = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(_members(path, limit)) as inside:
            for name, regular, size, extract in inside:
                members, unpacked = members + 1, unpacked + size
                if fault := _unsafe(name) if regular else "is a link or a device":
                    raise DatasetError(f"{refused}: its member '{name}' {fault}.")
                if unpacked > limit or members > MOST_MEMBERS:
                    raise DatasetError(
                        f"{refused}: it unpacks to more than {limit} bytes or {MOST_MEMBERS} files, "
                        "which no archive of crystals of its size does."
                    )
                junk = any(part.startswith(JUNK) for part in name.split("/"))
                if name.lower().endswith(suffixes) and not junk:
                    extract(folder)
                    written += 1
    except DAMAGE as error:
        hint = " It is a web page, not an archive." if _is_web_page(path) else ""
        raise DatasetError(f"{path} cannot be unpacked: {describe(error)}.{hint} {set_aside(path)}") from None
    except OSError as error:
        # The readers of compressed files raise errors without a number on damage.
        damaged = f" {set_aside(path)}" if error.errno is None else ""
        raise DatasetError(f"{path} cannot be unpacked to {folder}: {describe(error)}.{damaged}") from None
    return written


def folders_to_import(root: Path, archive: Archive) -> list[Path]:
    """Return the folders of an unpacked archive that hold pairs, wherever they are in it.

    Raises:
        DatasetError: There are none: the layout is not the expected one.
    """
    inside = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    found = [path for path in inside if has_tables(path)] or _outermost(p for p in inside if holds_cifs(p))
    if archive.folders:
        found = [p for p in found if any(fnmatch(p.name, pattern) for pattern in archive.folders)]
    if not found:
        names = (
            ", ".join(str(path.relative_to(root)) for path in inside[1:6]) or "nothing that can be imported"
        )
        raise DatasetError(
            f"the archive '{archive.name}' is not laid out as expected ({archive.layout}); it holds {names}. "
            "Unpack it by hand and import its folders with 'repose data import'."
        )
    return found


def _members(path: Path, limit: int) -> Generator[_Member, None, None]:
    """Yield the files of an archive in order; folders in their names are separated by slashes.

    Each must be extracted before the next one is requested.
    """
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                info.filename = info.filename.replace("\\", "/")
                # Programs without file modes write 0.
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
            # `tarfile` would keep every member in memory.
            cast(Any, archive).members.clear()
        # The checksum of the compression is read only at the very end.
        rest = cast(IO[bytes], archive.fileobj)
        for _ in range(limit // CHUNK + 1):
            if not rest.read(CHUNK):
                return
        raise tarfile.ReadError("there is more after its end")


def _unsafe(name: str) -> str:
    """Why a path in an archive is refused, on any system; empty if it is not."""
    path = PureWindowsPath(name)
    if path.drive or path.root:
        return "has an absolute path"
    if ".." in path.parts:
        return "leads out of the folder"
    return "" if path.parts and "\0" not in name else "has no proper name"


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Folders of CIFs, without the folders ``CIF`` that are part of them."""
    found = list(folders)
    return [path for path in found if not (path.name in FOLDERS and path.parent in found)]
