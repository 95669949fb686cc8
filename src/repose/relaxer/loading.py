"""Load models by name, and relax crystals in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload

from repose.config import Computation, Precision
from repose.device import resolve_device
from repose.errors import InvalidCrystalError, ModelError
from repose.io.exchange import as_atoms
from repose.models.checkpoint import find_model, load_model
from repose.relaxer.base import Relaxer
from repose.relaxer.constraints import Constraints
from repose.relaxer.direct import DirectRelaxer
from repose.relaxer.inputs import is_single
from repose.threads import limit_threads

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core.structure import IStructure

A = TypeVar("A", bound="Atoms")
S = TypeVar("S", bound="IStructure")


def load(
    name: str | Path = "default",
    device: str = "auto",
    *,
    path: Computation = "auto",
    precision: Precision = "float32",
) -> Relaxer:
    """Load a model.

    PyTorch's number of threads is lowered to the processors that this process may use, see
    `repose.threads.granted_cpus`.

    Args:
        name: A shipped model (`repose models` lists them), or a directory written by `repose train`.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"``: a GPU if there is one.
        path: Computation path, see `repose.relaxer.direct.DirectRelaxer`; results are the same.
        precision: ``"float32"``, or the faster and less exact ``"bfloat16"``; see there.

    Returns:
        The relaxer. Loading takes much longer than relaxing, so keep it.

    Raises:
        ModelError: The model does not exist, is broken, or was trained on forces only.
        ConfigError: The device does not exist.
    """
    network, config = load_model(find_model(name))
    if config.target != "relaxed":
        raise ModelError(
            f"model '{name}' was trained on {config.target} and does not relax; train a model from it: "
            f"repose train --model {config.family} --init-from {name} ..."
        )
    limit_threads()
    return DirectRelaxer(network, config, resolve_device(device), path, precision)


class Options(TypedDict, total=False):
    """Options of `relax`; see `repose.Relaxer.relax` for all but the first two."""

    model: str | Path | Relaxer
    device: str
    symmetry: Literal["keep", "free"]
    fix_cell: bool
    fix_axes: str
    fix_atoms: Iterable[int] | Iterable[bool]
    constraints: Constraints
    then: Any
    fmax: float
    max_steps: int
    when_uncertain: float | str | None
    trajectory: bool
    progress: bool | Callable[[int], None] | None


# Structures and strings are iterable, too; the first matching overload counts.
@overload
def relax(structure: A, **options: Unpack[Options]) -> A: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def relax(structure: S, **options: Unpack[Options]) -> S: ...
@overload
def relax(  # pyright: ignore[reportOverlappingOverload]
    structure: str | PathLike[str], **options: Unpack[Options]
) -> Atoms | list[Atoms]: ...
@overload
def relax(structure: Iterable[A], **options: Unpack[Options]) -> list[A]: ...
@overload
def relax(structure: Iterable[S], **options: Unpack[Options]) -> list[S]: ...
@overload
def relax(structure: Iterable[str | PathLike[str]], **options: Unpack[Options]) -> list[Atoms]: ...
@overload
def relax(structure: Iterable[Any], **options: Unpack[Options]) -> list[Any]: ...
def relax(
    structure: Any, *, model: str | Path | Relaxer = "default", device: str = "auto", **options: Any
) -> Any:
    """Relax one crystal or several.

    Returns the type that was given: `ase.Atoms` for `ase.Atoms`, a pymatgen Structure for a Structure, a list
    for a list. Relaxed structures carry the bound on their error, see `repose.Relaxation`.

    Args:
        structure: `ase.Atoms`, a pymatgen Structure, a path, or a list of these; not changed. A path is
            that of a file, a folder or a glob. It gives `ase.Atoms` for any format, and a list if it contains
            several crystals. In a list, every path contributes all of its crystals.
        model: Name or directory, see `load`, or a loaded relaxer.
        device: See `load`.
        **options: ``symmetry``, ``fix_cell``, ``fix_axes``, ``fix_atoms``, ``constraints``; ``then``,
            ``fmax``, ``max_steps``, ``when_uncertain``, ``trajectory``; ``progress``. See
            `repose.Relaxer.relax`.

    Returns:
        The relaxed crystal or crystals.

    Raises:
        InvalidCrystalError: A crystal was refused. `repose.Relaxer.relax` relaxes the others.
        ConfigError: An option has a value that is not allowed.

    Warns:
        UserWarning: A prediction fails a sanity check, or has remarks.
    """
    relaxer = model if isinstance(model, Relaxer) else load_once(model, device)
    results = relaxer.relax(structure, **options)
    single = is_single(structure)
    relaxed = []
    for index, result in enumerate(results):
        where = "the crystal" if len(results) == 1 and single else f"crystal {index}"
        where = where if result.source is None else f"'{result.source}'"
        if result.status == "refused":
            others = "" if len(results) == 1 else " Relaxer.relax relaxes the others."
            raise InvalidCrystalError(f"{where} cannot be relaxed: {result.reason}{others}")
        if result.status == "suspect":
            warnings.warn(f"{where} is suspect: {result.reason}", stacklevel=2)
        for remark in result.remarks:
            warnings.warn(f"{where}: {remark}", stacklevel=2)
        relaxed.append(result.structure if result.source is None else as_atoms(result.structure)[0])
    return relaxed[0] if single and len(relaxed) == 1 else relaxed


_CACHE: dict[tuple[Path, int, str], Relaxer] = {}


def load_once(name: str | Path, device: str) -> Relaxer:
    """Load as `load`; the last model is kept for the next call, until its directory changes."""
    directory = find_model(name)
    key = (directory.resolve(), (directory / "config.json").stat().st_mtime_ns, device)
    if key not in _CACHE:
        relaxer = load(directory, device)
        _CACHE.clear()
        _CACHE[key] = relaxer
    return _CACHE[key]
