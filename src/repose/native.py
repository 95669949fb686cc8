"""Kernels in C for the CPU, compiled once by the compiler of the machine and kept in the user's cache.

Loops over features have a width that is known to the compiler, and use the widest vectors of the processor.
Without a compiler there are no kernels, and the operators of PyTorch compute the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# No `-ffast-math`: it would change how the whole process treats tiny numbers and NaN.
FLAGS = (
    *("-O3", "-std=c11", "-shared", "-fPIC", "-fopenmp-simd"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
PROCESSOR = ("-march=native", "-mcpu=native")  # the first that the compiler accepts
REALS = {"float32": "float", "float64": "double"}
# Fewest numbers that a thread reads and writes: starting it takes the time of some 100,000.
NUMBERS_PER_THREAD = 500_000


def compiler() -> list[str] | None:
    """Return the command of the C compiler: the environment's ``CC``, cc, gcc or clang; None without one."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        program, *arguments = shlex.split(name) or [""]
        if found := shutil.which(program):
            return [found, *arguments]
    return None


@cache
def library(source: str, real: str = "float64", **numbers: int) -> Any:
    """Compile a C file of this package, or load it from the cache.

    Args:
        source: Path of the file within the package.
        real: Name of the type of all arrays of features, with or without ``torch.``.
        numbers: Constants of the source, defined as ``-DNAME=NUMBER``: the width F and the like.

    Returns:
        A `ctypes.CDLL`; None if it is not in the cache and there is no compiler or it fails, or if the type
        has no name in C.
    """
    real = real.removeprefix("torch.")
    if real not in REALS or os.name != "posix":
        return None
    text = Path(__file__).parent.joinpath(source).read_text(encoding="utf-8")
    flags = [*FLAGS, f"-Dreal={REALS[real]}", *(f"-D{name}={number}" for name, number in numbers.items())]
    key = hashlib.sha256("\n".join([text, *flags, _processor()]).encode()).hexdigest()[:20]
    for folder in (_cache, _temporary):
        for processor in PROCESSOR:
            try:
                return ctypes.CDLL(
                    str(_built(folder(), f"{Path(source).stem}-{key}", text, [processor, *flags]))
                )
            except (OSError, RuntimeError, subprocess.SubprocessError):
                continue
    return None


def warn_missing() -> None:
    """Warn that there are no kernels."""
    command = compiler()
    reason = "no C compiler was found" if command is None else f"the C compiler '{command[0]}' failed"
    warnings.warn(
        f"{reason}: the model runs without kernels in C, several times slower. Install gcc or clang, or set "
        "CC.",
        stacklevel=4,
    )


def _built(folder: Path, name: str, text: str, flags: Sequence[str]) -> Path:
    """Return the library of a source, compiled unless it exists; its name ends in its checksum.

    Raises:
        OSError: The folder cannot be written, belongs to another user, or there is no compiler.
        subprocess.SubprocessError: The compiler fails.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():  # code of another user is not run
        raise PermissionError(f"'{folder}' belongs to another user.")
    for found in folder.glob(f"{name}-*.so"):
        if found.is_file() and found.name == f"{name}-{_checksum(found)}.so":
            return found
    if (command := compiler()) is None:
        raise FileNotFoundError("no C compiler.")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source, made = Path(temporary) / "source.c", Path(temporary) / "made.so"
        source.write_text(text, encoding="utf-8")
        arguments = [*command, *flags, str(source), "-o", str(made), "-lm"]
        subprocess.run(arguments, check=True, capture_output=True, timeout=120)
        target = folder / f"{name}-{_checksum(made)}.so"
        os.replace(made, target)
    return target


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repose" / "kernels"


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"repose-kernels-{os.getuid()}"


@cache
def _processor() -> str:
    """Identify the instruction set: home directories are shared by machines of different kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="repose-kernel")


if hasattr(os, "register_at_fork"):  # a process that is forked has no threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def ranges(start: Tensor, numbers_per_item: int) -> list[tuple[int, int]]:
    """Split owners (atoms or crystals) into one range for each thread, with about as many items in each.

    Args:
        start: First item of every owner, and the number of items, ``(N + 1,)``.
        numbers_per_item: Numbers that the kernel reads and writes for an item.
    """
    import torch

    n, items = len(start) - 1, int(start[-1])
    threads = max(1, min(torch.get_num_threads(), items * numbers_per_item // NUMBERS_PER_THREAD))
    if threads == 1:
        return [(0, n)]
    ends = torch.searchsorted(start, torch.arange(1, threads) * items // threads).tolist()
    return list(zip([0, *ends], [*ends, n], strict=True))


def call(function: Any, parts: Sequence[tuple[int, int]], *arguments: Any) -> None:
    """Call a function of a library once for each range, in parallel; C does not hold Python's lock.

    Args:
        function: Takes the first and the last owner, then pointers.
        parts: First and last owners.
        arguments: Contiguous arrays: one for all ranges, or a list or tuple with one for each.
    """

    def run(k: int) -> None:
        own = (a[k] if isinstance(a, list | tuple) else a for a in arguments)
        function(*map(ctypes.c_int64, parts[k]), *(ctypes.c_void_p(array.data_ptr()) for array in own))

    others = [_pool(len(parts) - 1).submit(run, k) for k in range(1, len(parts))]
    run(0)
    for other in others:
        other.result()


class NoContext:
    """Context for `torch.autograd.Function.forward` that saves nothing, where no gradients are needed."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep nothing."""


def applied(function: Any, *arguments: Any) -> Any:
    """Apply a `torch.autograd.Function`, without the work for gradients where these are off."""
    import torch

    return (
        function.apply(*arguments) if torch.is_grad_enabled() else function.forward(NoContext(), *arguments)
    )


def contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return contiguous tensors, as kernels read them."""
    return tuple(tensor.contiguous() for tensor in tensors)


def added(sums: Sequence[Sequence[Tensor]]) -> Any:
    """Return the sum over threads of each of their tensors."""
    import torch

    return sums[0] if len(sums) == 1 else [torch.stack(parts).sum(0) for parts in zip(*sums, strict=True)]


def address(array: NDArray[Any]) -> ctypes.c_void_p:
    """Return the address of a contiguous array."""
    return ctypes.c_void_p(array.ctypes.data)
