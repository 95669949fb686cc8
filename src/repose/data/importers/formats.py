"""Import of pairs and paths: extended XYZ, VASP, ASE trajectories and databases, CIF pairs, pymatgen JSON.

Importers yield pairs and refusals in the order of the source. A broken crystal does not affect others. Few
crystals are in memory at a time (except for JSON files, which are parsed as a whole).
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
# Formats by the ending of the name in lower case, without ``.gz``.
_BY_ENDING = {
    (".extxyz", ".xyz"): "extxyz",
    (".traj",): "ase-traj",
    (".db",): "ase-db",
    (".jsonl", ".json"): "pymatgen-json",
}


@dataclass(frozen=True)
class Source:
    """A file or folder to import.

    Attributes:
        path: Path of the file or folder.
        format: One of `FORMATS`.
        name: Id of its crystal, if it follows from the path.
    """

    path: Path
    format: str
    name: str = ""


def find_sources(paths: Iterable[Path], kind: str = "auto") -> list[Source]:
    """Determine the format of every path; a folder without CIFs is replaced by its contents.

    Args:
        paths: Files and folders; of a folder all files in it, and runs of VASP at any depth.
        kind: One of `FORMATS`, or ``"auto"``: by name and content.

    Raises:
        DatasetError: The format is unknown, or a path is missing or of no known format.
    """
    if kind not in ("auto", *FORMATS):
        raise DatasetError(f"format must be auto or one of {', '.join(FORMATS)}; got '{kind}'.")
    sources = []
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path} does not exist.")
        if path.is_dir() and kind != "cif-pairs" and not (kind == "auto" and holds_cifs(path)):
            inside = [source for source in _sources_in(path) if kind in ("auto", source.format)]
            if not inside:
                expected = "CIF pairs, .extxyz, vasprun.xml, .traj, .db or .json" if kind == "auto" else kind
                raise DatasetError(f"{path} holds nothing to import: no {expected}.")
            sources += inside
            continue
        found = detect_format(path) if kind == "auto" else kind
        if found is None:
            raise DatasetError(
                f"{path}: the format does not follow from its name; pass --format {'|'.join(FORMATS)}."
            )
        sources.append(Source(path, found))
    return sources


def _sources_in(folder: Path) -> list[Source]:
    files = ((path, detect_format(path)) for path in sorted(folder.iterdir()) if path.is_file())
    runs = (Source(path, "vasprun", run_name(path, folder)) for path in find_runs(folder))
    return [Source(path, found) for path, found in files if found and found != "vasprun"] + list(runs)


def detect_format(path: Path) -> str | None:
    """Return the format of a file or folder, or None if it is unknown."""
    if path.is_dir():
        return "cif-pairs" if holds_cifs(path) else None
    if is_vasprun(path):
        return "vasprun"
    name = path.name.lower()
    if name in ("dataset.json", "dataset.json.gz") or name.endswith(".traj.gz"):
        return None
    name = name.removesuffix(".gz")
    if name.endswith(".json") and _is_ase_json(path):
        return "ase-db"
    return next((found for ends, found in _BY_ENDING.items() if name.endswith(ends)), None)


def _is_ase_json(path: Path) -> bool:
    """Return whether a JSON file ends as the databases of ASE, with the next row number."""
    if path.suffix == ".gz":
        return False
    with path.open("rb") as handle:
        handle.seek(0, io.SEEK_END)
        handle.seek(max(0, handle.tell() - 200))
        return b'"nextid"' in handle.read()


def import_sources(
    sources: Iterable[Source], *, align: bool = True, assign: Callable[[Pair], str] | None = None
) -> Iterator[Pair | Refusal]:
    """Import sources in turn; ids are unique over all of them.

    Args:
        sources: See `find_sources`.
        align: Remove a rigid rotation of relaxed crystals; see `repose.data.pairing.states_to_pair`.
        assign: Returns the split of a crystal; see `repose.data.splits`. None keeps the split of the source.

    Yields:
        Pairs with a split, and refusals.
    """
    seen: dict[str, Path] = {}
    for source in sources:
        for item in import_source(source, align=align):
            if isinstance(item, Pair) and item.id in seen:
                item = Refusal(item.id, f"{source.path}: this id was already imported from {seen[item.id]}.")
            elif isinstance(item, Pair):
                item = _with_split(item, assign)
            yield item
            if isinstance(item, Pair):
                seen[item.id] = source.path


def _with_split(pair: Pair, assign: Callable[[Pair], str] | None) -> Pair | Refusal:
    if assign is not None:
        return attempt(pair.id, lambda: replace(pair, split=assign(pair)))
    if pair.split:
        return pair
    return Refusal(
        pair.id, f"the source names no split for it; split by chemical-system or a tag, not '{BY_SOURCE}'."
    )


def import_source(source: Source, *, align: bool = True) -> Iterator[Pair | Refusal]:
    """Yield pairs, with the split of the source or an empty one, and refusals."""
    path = source.path
    importers = {
        "extxyz": lambda: import_extxyz(path),
        "vasprun": lambda: import_vasprun(path, source.name),
        "ase-traj": lambda: import_ase_traj(path),
        "cif-pairs": lambda: import_cif_pairs(path, align=align),
        "ase-db": lambda: import_ase_db(path, align=align),
        "pymatgen-json": lambda: import_pymatgen_json(path, align=align),
    }
    try:
        yield from importers[source.format]()
    except ReposeError as error:
        yield Refusal(path.name, str(error))
