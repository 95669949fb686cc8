"""Downloads that resume after an interruption and are verified before use.

An incomplete file is named ``NAME.part``; ``NAME.part.version`` holds its address and version. The file gets
its final name when it is complete and verified.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from repose.data.pairing import describe
from repose.errors import DatasetError

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 18
# Seconds without data after which a connection counts as broken.
TIMEOUT = 60.0
# Number of attempts without new data, and the first pause between them (s), which doubles each time.
ATTEMPTS = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
# HTTP statuses for which another attempt may succeed.
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _TransientError(Exception):
    """An error for which another attempt may succeed, after a pause (s) that the server requests."""

    def __init__(self, reason: str, pause: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.pause, self.unreachable = pause, unreachable


def check_url(url: str) -> None:
    """Raise a DatasetError if an address is not one of http or https."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii()
    except ValueError:
        valid = False
    if not valid:
        raise DatasetError(f"an address must be one of https or http, in ASCII; got '{url}'.")


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    notify: Callable[[str], None] = lambda message: None,
) -> None:
    """Download a file; resume an interrupted download.

    A download is resumed only if both pieces belong to one version: the server confirms it (``If-Range``), or
    the checksum of the file is known.

    Args:
        url: Address of the file.
        target: Path of the complete and verified file.
        size: Expected size in bytes, if known.
        checksum: Expected checksum, if known; see `verify`.
        progress: Called with the number of bytes on disk, and the size of the file if known.
        notify: Called with a message when the download is retried or restarted.

    Raises:
        DatasetError: The server refuses, cannot be reached or disconnects repeatedly; or size or checksum
            differ. An incomplete file is kept as ``NAME.part``, a wrong one as ``NAME.bad``.
    """
    check_url(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    failures, start = 0, _size(part)
    furthest = start
    while True:
        try:
            _receive(url, part, size, checksum is not None, progress, notify)
            break
        except _TransientError as error:
            # Only new data counts: a server that cannot resume would be retried forever.
            if (now := _size(part)) > furthest:
                failures, furthest = 0, now
            failures += 1
            if failures == ATTEMPTS or (error.unreachable and furthest == start):
                kept = f" {now} bytes are kept in {part}." if now else ""
                raise DatasetError(f"{url} cannot be downloaded: {error}.{kept}") from None
            pause = min(max(FIRST_PAUSE * 2 ** (failures - 1), error.pause), LONGEST_PAUSE)
            notify(f"{error}; trying again in {pause:.0f} s")
            time.sleep(pause)
    try:
        verify(part, size=size, checksum=checksum)
        os.replace(part, target)
    finally:
        _version_file(part).unlink(missing_ok=True)


def read_record(url: str) -> bytes:
    """Return the body of a small JSON document, requested once.

    Raises:
        DatasetError: The server refuses or cannot be reached.
    """
    from requests import RequestException

    try:
        with _request(url, {"Accept": "application/json"}) as response:
            return response.content
    except (_TransientError, RequestException) as error:
        raise DatasetError(f"{url} cannot be read: {error}.") from None


def verify(path: Path, *, size: int | None, checksum: str | None) -> None:
    """Compare a file with its published size in bytes and its checksum, if known.

    A checksum is ``"ALGORITHM:HEXADECIMAL"`` with an algorithm of `hashlib`.

    Raises:
        DatasetError: The file differs; it was renamed ``NAME.bad``.
    """
    found = _size(path)
    fault = f"it has {found} bytes, {size} were expected" if size not in (None, found) else ""
    if checksum is not None and not fault:
        algorithm, _, expected = checksum.lower().partition(":")
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, partial(hashlib.new, algorithm, usedforsecurity=False))
        if digest.hexdigest() != expected:
            fault = f"its {algorithm.upper()} is {digest.hexdigest()}, published is {expected}"
    if fault:
        raise DatasetError(f"{path.name} is not the expected file: {fault}. {set_aside(path)}")


def set_aside(path: Path) -> str:
    """Rename a wrong file to ``NAME.bad``, and return a message about it."""
    aside = path.with_name(f"{path.name.removesuffix('.part')}.bad")
    os.replace(path, aside)
    return f"It was renamed {aside}."


def _receive(
    url: str,
    part: Path,
    size: int | None,
    has_checksum: bool,
    progress: Callable[[int, int | None], None],
    notify: Callable[[str], None],
) -> None:
    """Make one attempt to complete a file; arguments as in `download`.

    Raises:
        DatasetError: The server refuses, the file has another size, or it cannot be written.
        _TransientError: Another attempt may complete it.
    """
    from urllib3.exceptions import HTTPError

    offset, validator = _size(part), _stored_validator(part, url)
    headers = {"If-Range": validator} if offset and validator else {}
    if offset and (validator or has_checksum):
        headers["Range"] = f"bytes={offset}-"
    with _request(url, headers) as response:
        begin, total = _range(response)
        if response.status_code == 416 and total == offset:
            return  # the previous attempt was interrupted after the last byte
        if begin not in (0, offset):
            part.unlink(missing_ok=True)
            raise _TransientError("the server sent another part than requested, or the file has changed")
        if headers and not begin:
            notify("the server cannot resume it, or the file has changed: the download is restarted")
        if size is not None and total not in (None, size):
            raise DatasetError(
                f"{url} has {total} bytes, {size} were expected: it is another file or version."
            )
        interrupted = False
        try:
            # Empty the file before its new version is stored: a kill in between must not join two versions.
            with part.open("ab" if begin else "wb") as stream:
                _version_file(part).write_text(f"{url}\n{_validator(response)}", encoding="utf-8")
                offset = begin
                progress(offset, total)
                # Unlike `iter_content`, this does not decompress, and returns an incomplete last chunk.
                for block in iter(partial(response.raw.read1, CHUNK, decode_content=False), b""):
                    stream.write(block)
                    stream.flush()  # keep all data if the process is killed
                    offset += len(block)
                    if size is not None and offset > size:
                        raise DatasetError(f"{url} has more than the {size} bytes that were expected.")
                    progress(offset, total)
        except HTTPError:
            interrupted = True
        except OSError as error:
            raise DatasetError(f"{part} cannot be written: {describe(error)}.") from None
        if interrupted or (total is not None and offset < total):
            raise _TransientError(f"the connection ended after {offset} of {total or 'unknown'} bytes")


def _request(url: str, headers: dict[str, str]) -> requests.Response:
    """Send a request and read only the headers of the response.

    Raises:
        DatasetError: The server refuses.
        _TransientError: Another attempt may succeed.
    """
    import requests
    from urllib3.exceptions import ProtocolError

    # Compression in transit would change lengths and ranges.
    headers = {"User-Agent": "repose", "Accept-Encoding": "identity", **headers}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        reason = error.args[0] if error.args else error
        # Another attempt does not help with an unknown host, a closed port or an invalid certificate.
        disconnected = isinstance(error, requests.Timeout) or isinstance(reason, ProtocolError)
        reason = getattr(reason, "reason", reason)
        text = getattr(reason.__cause__, "strerror", None) or describe(error)
        raise _TransientError(text, unreachable=not disconnected) from None
    if response.ok or response.status_code == requests.codes.requested_range_not_satisfiable:
        return response
    response.close()
    status = f"HTTP {response.status_code} {response.reason}"
    if response.status_code not in TRANSIENT:
        raise DatasetError(f"{url} cannot be downloaded: {status}.")
    pause = response.headers.get("Retry-After", "")
    raise _TransientError(status, pause=float(pause) if pause.isdigit() else 0.0)


def _range(response: requests.Response) -> tuple[int, int | None]:
    """Return the offset of a body (-1 if unknown), and the size of the file (None if unknown)."""
    if response.status_code not in (206, 416):
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", ""))
    first, total = found.groups() if found else (None, None)
    return int(first or -1), int(total) if total else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _validator(response: requests.Response) -> str:
    """Return the version of a file: a strong ETag or else the date. Weak ETags do not fix the bytes."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _stored_validator(part: Path, url: str) -> str:
    """Return the version of an incomplete file; empty if it is from another or an unknown address."""
    file = _version_file(part)
    stored = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    origin, _, validator = stored.partition("\n")
    return validator if origin == url else ""
