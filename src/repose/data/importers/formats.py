"""Pairs and paths from what people have: extended XYZ, VASP, trajectories, CIF pairs, databases, JSON.

Every importer is a generator of `Pair` and `Refusal`, in the order of the source: it holds few crystals
in memory (JSON files, which must be parsed whole, excepted), and a broken crystal never costs the others.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from repose.data.dataset import Pair
from repose.data.importers.cif_pairs import holds_cifs, import_cif_pairs
from repose.data.importers.databases import import_ase_db, import_pymatgen_json
from repose.data.importers.extxyz import import_extxyz
from repose.data.importers.trajectories import import_ase_traj
from repose.data.importers.vasprun import find_runs, import_vasprun, is_vasprun, run_name
from repose.data.pairing import Refusal, attempt
from repose.data.splits import BY_SOURCE
from repose.errors import DatasetError, ReposeError

FORMATS = ("extxyz", "vasprun", "ase-traj", "cif-pairs", "ase-db", "pymatgen-json")


@dataclass(frozen=True)
class Source:
    """A file or folder to import.

    Attributes:
        path: Where it is.
        format: One of `FORMATS`.
        name: Id of the one crystal in it, where the way to the file gives it.
    """

    path: Path
    format: str
    name: str = ""


def find_sources(paths: Iterable[Path], kind: str = "auto") -> list[Source]:
    """Decide what every path is; a folder without CIFs stands for what is in it.

    Args:
        paths: Files and folders; of a folder all files in it count, and runs of VASP at any depth.
        kind: One of `FORMATS`, or ``"auto"``: by name and content.

    Raises:
        DatasetError: The format is unknown, or a path is missing or of no known kind.
    """
    if kind not in ("auto", *FORMATS):
        raise DatasetError(f"format must be auto or one of {', '.join(FORMATS)}; got '{kind}'.")
    sources = []
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path} does not exist.")
        if path.is_dir() and kind != "cif-pairs" and not (kind == "auto" and holds_cifs(path)):
            inside = [source for source in _inside(path) if kind in ("auto", source.format)]
            if not inside:
                what = "CIF pairs, .extxyz, vasprun.xml, .traj, .db or .json" if kind == "auto" else kind
                raise DatasetError(f"{path} holds nothing to import: no {what}.")
            sources += inside
            continue
        found = detect(path) if kind == "auto" else kind
        if found is None:
            raise DatasetError(
                f"{path}: the format cannot be told from its name; say --format {'|'.join(FORMATS)}."
            )
        sources.append(Source(path, found))
    return sources


def _inside(folder: Path) -> list[Source]:
    files = ((path, detect(path)) for path in sorted(folder.iterdir()) if path.is_file())
    runs = (Source(path, "vasprun", run_name(path, folder)) for path in find_runs(folder))
    return [Source(path, found) for path, found in files if found and found != "vasprun"] + list(runs)


def detect(path: Path) -> str | None:
    """Format of a file or folder, or None where it cannot be told."""
    if path.is_dir():
        return "cif-pairs" if holds_cifs(path) else None
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".extxyz", ".xyz")):
        return "extxyz"
    if is_vasprun(path):
        return "vasprun"
    if path.name.lower().endswith(".traj"):
        return "ase-traj"
    if name.endswith(".db"):
        return "ase-db"
    if name.endswith(".jsonl"):
        return "pymatgen-json"
    if name.endswith(".json") and name != "dataset.json":
        return "ase-db" if _is_ase_json(path) else "pymatgen-json"
    return None


def _is_ase_json(path: Path) -> bool:
    """ASE ends its JSON databases with the next row number."""
    if path.suffix == ".gz":
        return False
    with path.open("rb") as handle:
        handle.seek(0, io.SEEK_END)
        handle.seek(max(0, handle.tell() - 200))
        return b'"nextid"' in handle.read()


def import_sources(
    sources: Iterable[Source], *, align: bool = True, assign: Callable[[Pair], str] | None = None
) -> Iterator[Pair | Refusal]:
    """Read all sources in turn, with ids unique over all of them.

    Args:
        sources: See `find_sources`.
        align: Remove a rigid rotation of relaxed crystals; see `repose.data.pairing.states_to_pair`.
        assign: Gives a crystal its split; see `repose.data.splits`. None keeps the source's.

    Yields:
        Pairs with a split, and refusals.
    """
    seen: dict[str, Path] = {}
    for source in sources:
        for item in import_source(source, align=align):
            if isinstance(item, Refusal):
                yield item
            elif item.id in seen:
                yield Refusal(item.id, f"{source.path}: this id was already imported from {seen[item.id]}.")
            else:
                yield (given := _assigned(item, assign))
                if isinstance(given, Pair):
                    seen[item.id] = source.path


def _assigned(pair: Pair, assign: Callable[[Pair], str] | None) -> Pair | Refusal:
    if assign is not None:
        return attempt(pair.id, lambda: replace(pair, split=assign(pair)))
    if pair.split:
        return pair
    return Refusal(
        pair.id, f"the source names no split for it; split by chemical-system or a tag, not '{BY_SOURCE}'."
    )


def import_source(source: Source, *, align: bool = True) -> Iterator[Pair | Refusal]:
    """Read one source.

    Yields:
        Pairs, with the source's split or an empty one, and refusals.
    """
    try:
        if source.format == "extxyz":
            yield from import_extxyz(source.path)
        elif source.format == "vasprun":
            yield from import_vasprun(source.path, source.name)
        elif source.format == "ase-traj":
            yield from import_ase_traj(source.path)
        elif source.format == "cif-pairs":
            yield from import_cif_pairs(source.path, align=align)
        elif source.format == "ase-db":
            yield from import_ase_db(source.path, align=align)
        else:
            yield from import_pymatgen_json(source.path, align=align)
    except ReposeError as error:
        yield Refusal(source.path.name, str(error))
