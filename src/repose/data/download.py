"""Downloads that go on where they broke off, and are checked before they are used.

While a file is incomplete it is called ``NAME.part``, and ``NAME.part.json`` says which version of which file
it is the beginning of. The final name appears when all is there and checked.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from repose.atomic import replacing_file
from repose.data.pairing import describe
from repose.errors import DatasetError

CHUNK = 1 << 18
# Seconds in which not a byte comes.
TIMEOUT = 60.0
# Attempts in a row that bring nothing new, and the pause after the first (s); it doubles every time.
ATTEMPTS = 5
WAIT = 1.0
LONGEST_WAIT = 60.0
# Answers that another attempt may change.
PASSING = (408, 425, 429, 500, 502, 503, 504)
# A record of an archive is some kilobytes of JSON.
LARGEST_RECORD = 1 << 24


class _BrokenError(Exception):
    """A fault that may pass.

    Attributes:
        wait: Seconds that the server asks to wait.
        refused: The host cannot be reached at all.
    """

    def __init__(self, reason: str, wait: float = 0.0, refused: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.refused = wait, refused


@dataclass(frozen=True)
class _Start:
    """What an incomplete file is the beginning of.

    Attributes:
        url: Where it comes from.
        validator: Names the version: a strong ETag or else the date; empty where the server gives none.
        total: Its whole size in bytes, if known.
    """

    url: str = ""
    validator: str = ""
    total: int | None = None


def check_url(url: str) -> None:
    """Make sure that an address can be downloaded from.

    Raises:
        DatasetError: It is not one of http or https.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii()
    except ValueError:
        fine = False
    if not fine:
        raise DatasetError(f"an address must be one of https or http, in ASCII; got '{url}'.")


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda message: None,
) -> None:
    """Download a file; an earlier attempt that broke off, even by a kill, is continued.

    A file is continued only if it is certain that both pieces are of one version: the server confirms it
    (``If-Range``), or the checksum of the whole is known.

    Args:
        url: Where from.
        target: Final name; appears when the file is complete and checked.
        size: Bytes it must have, if known.
        checksum: As in `verify`, if known.
        progress: Called with the bytes that are there, and the size of the whole if known.
        tell: Called with a sentence where something was tried again or started anew.

    Raises:
        DatasetError: The server refuses, is not reached or breaks off again and again; the file is of another
            size; the checksum is wrong. What has come stays in ``NAME.part``; a wrong file in ``NAME.bad``.
    """
    check_url(url)
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    failures, furthest = 0, _size(part)
    begun = False
    while True:
        try:
            _receive(url, part, size, checksum is not None, progress, tell)
            break
        except _BrokenError as fault:
            # Only what is new counts, or a server that cannot resume would be asked for ever.
            if (now := _size(part)) > furthest:
                failures, furthest, begun = 0, now, True
            failures += 1
            if failures == ATTEMPTS or (fault.refused and not begun):
                there = f" {now} bytes are kept in {part}." if now else ""
                raise DatasetError(f"{url} cannot be downloaded: {fault}.{there}") from None
            wait = min(max(WAIT * 2 ** (failures - 1), fault.wait), LONGEST_WAIT)
            tell(f"{fault}; trying again in {wait:.0f} s")
            time.sleep(wait)
    try:
        verify(part, size=size, checksum=checksum, aside=target.with_name(f"{target.name}.bad"))
        os.replace(part, target)
    finally:
        _start_file(part).unlink(missing_ok=True)


def read_small(url: str) -> bytes:
    """Body of a small answer, asked for once.

    Raises:
        DatasetError: It cannot be had.
    """
    check_url(url)
    try:
        with _open(url, {"Accept": "application/json"}) as response:
            body = response.read(LARGEST_RECORD + 1)
    except _BrokenError as fault:
        raise DatasetError(f"{url} cannot be read: {fault}.") from None
    except (OSError, http.client.HTTPException) as error:
        raise DatasetError(f"{url} cannot be read: {describe(error)}.") from None
    if len(body) > LARGEST_RECORD:
        raise DatasetError(f"{url} answers with more than {LARGEST_RECORD} bytes; a record was expected.")
    return body


def verify(path: Path, *, size: int | None, checksum: str | None, aside: Path | None = None) -> None:
    """Compare a file with what was published about it.

    Args:
        path: The file.
        size: Bytes, if known.
        checksum: ``"md5:..."`` or another algorithm of `hashlib`, in hexadecimal; if known.
        aside: New name of a wrong file; ``NAME.bad`` if not given.

    Raises:
        DatasetError: It differs; the file was renamed.
    """
    found = _size(path)
    wrong = f"it has {found} bytes, {size} were expected" if size not in (None, found) else ""
    if checksum is not None and not wrong:
        algorithm, _, expected = checksum.partition(":")
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, lambda: hashlib.new(algorithm, usedforsecurity=False))
        if digest.hexdigest() != expected.lower():
            wrong = f"its {algorithm.upper()} is {digest.hexdigest()}, published is {expected.lower()}"
    if wrong:
        raise DatasetError(f"{path.name} is not the file it should be: {wrong}. {set_aside(path, aside)}")


def set_aside(path: Path, aside: Path | None = None) -> str:
    """Rename a wrong file to ``NAME.bad``, and say so."""
    aside = aside or path.with_name(f"{path.name}.bad")
    os.replace(path, aside)
    return f"It was renamed {aside}."


def _receive(
    url: str,
    part: Path,
    size: int | None,
    checked: bool,
    progress: Callable[[int, int | None], None],
    tell: Callable[[str], None],
) -> None:
    """One attempt to bring a file to its end."""
    start, offset = _read_start(part), _size(part)
    confirmed = start.url == url and bool(start.validator)
    if offset and confirmed and offset == start.total:
        return  # stopped after the last byte
    headers = {}
    if offset and (confirmed or checked):
        headers["Range"] = f"bytes={offset}-"
        if confirmed:
            headers["If-Range"] = start.validator
    try:
        response = _open(url, headers)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise DatasetError(f"{url} cannot be downloaded: HTTP {error.code} {error.reason}.") from None
        part.unlink(missing_ok=True)
        raise _BrokenError("the file has become shorter than what was there of it") from None
    with response:
        if response.status == http.client.PARTIAL_CONTENT:
            begin, total = _content_range(response)
            if begin != offset or start.total not in (None, total) or not headers:
                part.unlink(missing_ok=True)
                raise _BrokenError("the server sent another part than was asked for")
        else:
            if "Range" in headers:
                tell("the server cannot continue it, or the file has changed: it is downloaded anew")
            offset, total = 0, _length(response)
        if size is not None and total not in (None, size):
            raise DatasetError(
                f"{url} has {total} bytes; {size} were expected. It is not the file, or a new one."
            )
        try:
            # Emptied before the new validator is written, or a kill in between would join two versions.
            with part.open("ab" if offset else "wb") as handle:
                _write_start(part, _Start(url, _validator(response), total))
                progress(offset, total)
                for block in _blocks(response):
                    handle.write(block)
                    handle.flush()  # a kill costs nothing that came
                    offset += len(block)
                    if size is not None and offset > size:
                        raise DatasetError(f"{url} has more than the {size} bytes that were expected.")
                    progress(offset, total)
        except OSError as error:
            raise DatasetError(f"{part} cannot be written: {describe(error)}.") from None
        if total is not None and offset < total:
            raise _BrokenError(f"the connection ended after {offset} of {total} bytes")


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Begin an answer; faults that may pass become `_BrokenError`, other answers stay an HTTPError."""
    # Without compression on the way, or lengths and ranges would mean something else.
    request = urllib.request.Request(
        url, headers={"User-Agent": "repose", "Accept-Encoding": "identity", **headers}
    )
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code not in PASSING:
            raise
        asked = error.headers.get("Retry-After", "")
        wait = float(asked) if asked.isdigit() else 0.0
        raise _BrokenError(f"HTTP {error.code} {error.reason}", wait) from None
    except urllib.error.URLError as error:
        reason = error.reason
        # No such name, nobody listening, no route, a wrong certificate: waiting does not help.
        passing = isinstance(reason, TimeoutError | ConnectionResetError | ConnectionAbortedError)
        text = getattr(reason, "strerror", None) or reason
        raise _BrokenError(str(text), refused=not passing) from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(describe(error)) from None


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            # What is there, or an error would take with it what came before.
            block = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(f"the connection broke: {describe(error)}") from None
        if not block:
            return
        yield block


def _validator(response: http.client.HTTPResponse) -> str:
    """What names the version of a file; weak ETags promise too little."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _content_range(response: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """First byte and size of the whole in ``bytes 5-9/10``; None where it does not say."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _start_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _write_start(part: Path, start: _Start) -> None:
    with replacing_file(_start_file(part)) as new:
        new.write_text(json.dumps(vars(start)), encoding="utf-8")


def _read_start(part: Path) -> _Start:
    """What is known of an incomplete file; nothing, if the note beside it is missing or broken."""
    try:
        values: dict[str, Any] = json.loads(_start_file(part).read_text(encoding="utf-8"))
        return _Start(**values)
    except (OSError, ValueError, TypeError):
        return _Start()
