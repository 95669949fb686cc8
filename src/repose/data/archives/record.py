"""Sizes, checksums, licences and addresses of files from the record of an archive."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from repose.atomic_write import replacing_file
from repose.data.archives.download import read_record
from repose.data.archives.registry import ENDINGS, Archive, ArchiveFile
from repose.errors import DatasetError

RECORD = "record.json"


def complete_from_record(
    archive: Archive, folder: Path, notify: Callable[[str], None] = lambda message: None
) -> Archive:
    """Add files, sizes, checksums and licence from the record of an archive.

    Values of the registry have priority. The record is saved as ``record.json`` in the folder of the archive,
    and used if there is no network. If it has an unknown form but the registry names the files, ``notify`` is
    called with a message, and the archive is returned unchanged.

    Raises:
        DatasetError: The record cannot be read and is not in the cache, or does not list a file.
    """
    if not archive.api or (archive.files and all(file.size and file.checksum for file in archive.files)):
        return archive
    saved = folder / RECORD
    try:
        answer = read_record(archive.api)
        listed, licence = _parse(answer)
    except DatasetError:
        if not saved.is_file():
            raise
        listed, licence = _parse(saved.read_bytes())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        fault = f"{archive.api} has an unknown form ({type(error).__name__})"
        if not archive.files:
            raise DatasetError(f"{fault}: the files to download are unknown.") from None
        notify(f"{fault}: size and checksum are unknown")
        return archive
    else:
        with replacing_file(saved) as new:
            new.write_bytes(answer)
    named = {file.name: file for file in listed}
    packed = [named[name] for name in sorted(named) if name.lower().endswith(ENDINGS)]
    chosen = [file for file in packed if fnmatch(file.name.lower(), archive.chosen)]
    wanted = archive.files or tuple(chosen or packed)
    missing = [file.name for file in wanted if file.name not in named]
    if missing or not wanted:
        found = ", ".join(named) or "nothing"
        raise DatasetError(f"{archive.record} lists no {', '.join(missing) or 'archive'}; it lists {found}.")
    published = ("url", "size", "checksum")
    files = tuple(
        replace(file, **{key: getattr(file, key) or getattr(named[file.name], key) for key in published})
        for file in wanted
    )
    return replace(archive, files=files, licence=archive.licence or licence)


def _parse(answer: bytes) -> tuple[list[ArchiveFile], str]:
    """Return files and licence of a Zenodo (InvenioRDM) record; its JSON has one of two forms."""
    record = json.loads(answer)
    entries = record["files"]
    if isinstance(entries, dict):
        entries = list(entries["entries"].values())
    files = []
    for entry in entries:
        checksum, links = entry.get("checksum") or "", entry.get("links") or {}
        # A name with a folder would be written outside the cache.
        if entry["key"] == Path(entry["key"]).name:
            usable = checksum.partition(":")[0] in hashlib.algorithms_available
            url = str(links.get("content") or links.get("self") or "")
            files.append(ArchiveFile(entry["key"], url, entry.get("size"), checksum if usable else None))
    about = record.get("metadata") or {}
    licences = [about["license"]] if about.get("license") else about.get("rights") or []
    return files, ", ".join(str(licence.get("id")) for licence in licences)


def archives_in(folder: Path) -> tuple[ArchiveFile, ...]:
    """Return all archives in a folder."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(ArchiveFile(p.name) for p in found if p.is_file() and p.name.lower().endswith(ENDINGS))
