"""Processes that tests start, watch and kill."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_pid_and_sleep(path: str) -> None:
    """Write the id of this process to a file, then sleep for ten minutes."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    """Return the ids of the child processes of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def close_files(name: str) -> None:
    """Close the descriptors of this process that belong to files of this name."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if link.readlink().name == name:
                os.close(int(link.name))


def eventually(look: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the value of a function as soon as it is true, or None after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if value := look():
                return value
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    return None
