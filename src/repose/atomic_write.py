"""Atomic writes: a file or directory appears complete or not at all, whenever the program is stopped."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repose.errors import ConfigError


def temporary_beside(target: Path) -> Path:
    """Create an empty file in the folder of ``target``, to be written and then moved there."""
    # The suffix is kept, since some writers choose the format by it.
    stem, suffix, folder = target.stem, target.suffix, target.parent
    try:
        handle, name = tempfile.mkstemp(prefix=f".{stem}-", suffix=suffix, dir=folder)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{stem}-", suffix=suffix, dir=folder)
    os.close(handle)
    return Path(name)


def move_into_place(temporary: Path, target: Path, durable: bool = False) -> None:
    """Give a complete file its final name; an older file of that name is replaced.

    Args:
        temporary: Path from `temporary_beside`, written and closed.
        target: Final name.
        durable: Write the content to the disk first, so that a power cut cannot leave an empty file.
    """
    if durable:
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
    temporary.chmod(_permissions(0o666))  # temporary files can be read by their owner only
    os.replace(temporary, target)


@contextmanager
def replacing_file(target: Path, durable: bool = False) -> Iterator[Path]:
    """Yield an empty file that replaces ``target`` unless an error is raised.

    Args:
        target: Final name; its folder is created.
        durable: See `move_into_place`.
    """
    temporary = temporary_beside(target)
    try:
        yield temporary
        move_into_place(temporary, target, durable)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory that replaces ``target`` unless an error is raised.

    Args:
        target: Final name; its parent is created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    new.chmod(_permissions(0o777))
    try:
        yield new
        _replace_directory(new, target)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


@contextmanager
def locked_directory(directory: Path, activity: str) -> Iterator[None]:
    """Lock a directory against other processes; the lock ends with this process.

    On a file system without locks nothing is locked.

    Args:
        directory: The directory; it is created.
        activity: What processes do there, for the message, e.g. ``"labelling"``.

    Raises:
        ConfigError: Another process holds the lock.
    """
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".claim").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is {activity} in {directory}; wait until it ends, or choose another --out."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def interrupted_version(target: Path) -> Path | None:
    """Return the complete directory that an interrupted `replacing_directory` left under another name."""
    return None if target.exists() else next(target.parent.glob(f".{target.name}-old-*/{target.name}"), None)


def _replace_directory(new: Path, target: Path) -> None:
    if not target.exists():
        os.replace(new, target)
        return
    # Not every system can exchange two directories. The old one is renamed, and renamed back after an error.
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent)) / target.name
    os.replace(target, old)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(old, target)
        old.parent.rmdir()
        raise
    shutil.rmtree(old.parent)


def _permissions(mode: int) -> int:
    """Return the permissions that the umask leaves of a mode."""
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask
