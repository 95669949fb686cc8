"""Unpacking archives from elsewhere, without trusting them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from repose.data.download import set_aside
from repose.data.pairing import describe
from repose.errors import DatasetError

CHUNK = 1 << 18
# An archive may unpack to so many times its size, or to the smallest limit if that is more, but never to more
# than the largest one, nor to more members: CIFs shrink about tenfold.
LARGEST_RATIO = 200
SMALLEST_LIMIT = 1 << 26
LARGEST_LIMIT = 1 << 36
MOST_MEMBERS = 2_000_000
# What macOS adds to archives.
JUNK = ("__MACOSX", "._")
# First bytes of compressed files.
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# What the readers raise on damage; RuntimeError and NotImplementedError: a password, an odd compression; the
# last three: one member is a folder for others and a file.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError),
    *(RuntimeError, NotImplementedError, FileExistsError, NotADirectoryError, IsADirectoryError),
)
# Name, whether it is a plain file, size in bytes, and how to read it.
_Member = tuple[str, bool, int, Callable[[], IO[bytes]]]


def unpack(path: Path, folder: Path, suffixes: tuple[str, ...]) -> int:
    """Unpack the wanted files of an archive: zip, or tar, bare or compressed.

    Nothing is ever written outside the folder. An archive is refused as a whole if a path in it leads out of
    the folder, if it holds a link or a device, or if it unpacks to far more than an archive of crystals does.

    Args:
        path: The archive.
        folder: Where to; made.
        suffixes: Ends of the names of wanted files, in lower case, e.g. ``(".cif",)``.

    Returns:
        How many files were written.

    Raises:
        DatasetError: It is refused; or damaged, or no archive, and then renamed ``NAME.bad``.
    """
    limit = min(max(LARGEST_RATIO * path.stat().st_size, SMALLEST_LIMIT), LARGEST_LIMIT)
    refused = f"{path} is refused, nothing was imported"
    members = unpacked = written = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(_members(path, limit)) as inside:
            for name, plain, size, read in inside:
                members, unpacked = members + 1, unpacked + size
                if fault := _unsafe(name) if plain else "is a link or a device":
                    raise DatasetError(f"{refused}: its member '{name}' {fault}.")
                if unpacked > limit or members > MOST_MEMBERS:
                    raise DatasetError(
                        f"{refused}: it unpacks to more than {limit} bytes or {MOST_MEMBERS} files, "
                        "which no archive of crystals of its size does."
                    )
                parts = _parts(name)
                if not name.lower().endswith(suffixes) or any(part.startswith(JUNK) for part in parts):
                    continue
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with read() as source, target.open("wb") as handle:
                    shutil.copyfileobj(source, handle, CHUNK)
                if target.stat().st_size != size:
                    raise EOFError(f"'{name}' is cut off")
                written += 1
    except DAMAGE as error:
        raise DatasetError(
            f"{path} cannot be unpacked: {describe(error)}.{_hint(path)} {set_aside(path)}"
        ) from None
    except OSError as error:
        # Only the system's own errors have a number.
        damaged = f" {set_aside(path)}" if error.errno is None else ""
        raise DatasetError(f"{path} cannot be unpacked to {folder}: {describe(error)}.{damaged}") from None
    return written


def _members(path: Path, limit: int) -> Generator[_Member, None, None]:
    """Files of an archive in their order; each must be read before the next is asked for."""
    with path.open("rb") as handle:
        magic = handle.read(8)
    if magic.startswith(ZIP):
        yield from _zip_members(path)
        return
    opener = next((open_ for first, open_ in COMPRESSED.items() if magic.startswith(first)), open)
    with cast("IO[bytes]", opener(path, "rb")) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                if not entry.isdir():
                    yield entry.name, entry.isfile(), entry.size, lambda entry=entry: _opened(archive, entry)
                # Or all of them, 100,000, stay in memory.
                cast(Any, archive).members.clear()
        # Read to the very end: the checksum of the compression stands there.
        for _ in range(limit // CHUNK + 1):
            if not stream.read(CHUNK):
                return
        raise tarfile.ReadError("there is more after its end")


def _zip_members(path: Path) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # Programs that know no modes write none.
            mode = stat.S_IFMT(info.external_attr >> 16)
            if not info.is_dir():
                plain = mode in (0, stat.S_IFREG)
                yield info.filename, plain, info.file_size, lambda info=info: archive.open(info)


def _opened(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    return cast("IO[bytes]", archive.extractfile(entry))  # a plain file, so never None


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _unsafe(name: str) -> str:
    """What forbids a path in an archive, on any system; empty if nothing does."""
    windows = PureWindowsPath(name)
    if windows.drive or windows.root:
        return "has an absolute path"
    if ".." in windows.parts:
        return "leads out of the folder"
    return "" if _parts(name) and "\0" not in name else "has no proper name"


def _hint(path: Path) -> str:
    """Says where a page came instead of a file."""
    with path.open("rb") as handle:
        page = handle.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
    return " It is a web page, not an archive." if page else ""
