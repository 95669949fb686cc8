"""Files and directories that appear whole or not at all, whenever the program is stopped."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repose.errors import ConfigError


def beside(target: Path) -> Path:
    """A new empty file in the folder of ``target`` (made if need be), to be written and then published."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: some writers choose the format by it.
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    return Path(name)


def publish(temporary: Path, target: Path, durable: bool = False) -> None:
    """Give a complete file its final name; what stood there is gone in the same moment.

    Args:
        temporary: From `beside`, written and closed.
        target: Final name.
        durable: Wait for the disk first, or else a power cut may leave the new name with nothing in it.
    """
    if durable:
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
    temporary.chmod(_allowed(0o666))  # that of a temporary file would let nobody else read it
    os.replace(temporary, target)


@contextmanager
def replacing_file(target: Path, durable: bool = False) -> Iterator[Path]:
    """A path to write a file to, which takes the place of ``target`` if nothing goes wrong.

    Args:
        target: Final name; its folder is made.
        durable: See `publish`.

    Yields:
        An empty file beside it.
    """
    temporary = beside(target)
    try:
        yield temporary
        publish(temporary, target, durable)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of ``target`` if nothing goes wrong.

    Args:
        target: Final name; the folder above it is made.

    Yields:
        An empty directory beside it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    new.chmod(_allowed(0o777))
    try:
        yield new
        _put_in_place(new, target)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


@contextmanager
def claimed(directory: Path, what: str) -> Iterator[None]:
    """Make sure that no other process works in a directory meanwhile; a claim ends with its process.

    Args:
        directory: Made if need be.
        what: What the processes do there, for the message.

    Raises:
        ConfigError: Another process has it.
    """
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".claim").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is {what} in {directory}; wait for it or stop it, or choose another --out."
            ) from None
        except OSError:  # a file system without locks: then nobody is kept out
            pass
        yield


def stepped_aside(target: Path) -> Path | None:
    """The last complete version of a directory that a kill between two renames left without its name."""
    return None if target.exists() else next(target.parent.glob(f".{target.name}-old-*/{target.name}"), None)


def _put_in_place(new: Path, target: Path) -> None:
    if not target.exists():
        os.replace(new, target)
        return
    # Directories cannot be exchanged in one step everywhere: the old one steps aside and comes back
    # if the new one cannot take its place.
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent)) / target.name
    os.replace(target, aside)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(aside, target)
        aside.parent.rmdir()
        raise
    shutil.rmtree(aside.parent)


def _allowed(mode: int) -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask
