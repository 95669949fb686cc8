"""The public archives of unrelaxed/relaxed pairs: where they are, and what is in them.

What stands here was read in the papers and in the code of their authors. What could not be verified there,
sizes, checksums and most licences, is None or empty, and is asked of the record itself before a download.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from repose.atomic import replacing_file
from repose.data.cif_pairs import FOLDERS, has_tables, holds_cifs
from repose.data.download import read_small
from repose.errors import DatasetError, nearest

RECORD = "record.json"
ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class ArchiveFile:
    """A file of an archive.

    Attributes:
        name: As it is called in the record and in the cache.
        url: Where it is downloaded from.
        size: Bytes, or None where that is not known.
        checksum: ``"md5:..."``, or None where none is known.
    """

    name: str
    url: str = ""
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Archive:
    """A public archive.

    Attributes:
        name: As the command line calls it.
        title: What it holds.
        record: Page to open in a browser.
        files: What to download; empty: the archives that the record lists.
        api: Where the record can be read as JSON; empty where it cannot.
        licence: Empty where it could not be verified.
        calculator: Of the relaxed states.
        citation: What to cite.
        doi: Of the papers and the record, where verified.
        format: See `repose.data.importers.FORMATS`.
        layout: What is inside, in words.
        folders: Patterns of names of the folders to import; empty: all that hold pairs.
        unpacked: Ends of the names of files that the importer reads.
        request: Whom to ask for it, if it cannot be downloaded.
        note: What else a user must know.
    """

    name: str
    title: str
    record: str
    files: tuple[ArchiveFile, ...] = ()
    api: str = ""
    licence: str = ""
    calculator: str = "DFT"
    citation: str = ""
    doi: tuple[str, ...] = ()
    format: str = "cif-pairs"
    layout: str = ""
    folders: tuple[str, ...] = ()
    unpacked: tuple[str, ...] = (".cif", ".csv")
    request: str = ""
    note: str = ""


def _of_zenodo(number: int, *names: str, **about: Any) -> Archive:
    """An archive on Zenodo, whose addresses follow from the record's number."""
    api = f"https://zenodo.org/api/records/{number}"
    files = tuple(ArchiveFile(name, f"{api}/files/{name}/content") for name in names)
    return Archive(record=f"https://zenodo.org/records/{number}", api=api, files=files, **about)


_LAYOUT = "CIF/ID_unrelaxed.cif and CIF/ID_relaxed.cif; train.csv, val.csv and test.csv"
_H2 = (
    "Yang et al., An Efficient High-Degree, High-Order Equivariant Graph Neural Network for Direct Crystal "
    "Structure Optimization, arXiv:2603.23941 (the archive)"
)
_C2DB = (
    "Haastrup et al., 2D Mater. 5, 042002 (2018); Gjerding et al., 2D Mater. 8, 044002 (2021); "
    "Lyngby and Thygesen, npj Comput. Mater. 8, 232 (2022)"
)
_C2DB_DOI = ("10.1088/2053-1583/aacfc1", "10.1088/2053-1583/ac1059")
_SMALL = "The authors leave out crystals of fewer than three atoms when they train and test; here they stay."

ARCHIVES: dict[str, Archive] = {
    archive.name: archive
    for archive in (
        _of_zenodo(
            *(19212240, "xmno.tar.gz"),
            name="xmno",
            title="X-Mn-O (X = Mg, Ca, Ba, Sr), made by substitution, relaxed by DFT",
            citation=f"Kim et al., npj Comput. Mater. 9, 142 (2023) (the pairs); {_H2}",
            layout=(
                "CIF/ID_unrelaxed.cif and CIF/ID_relaxed.cif; id_prop_train_all.csv, id_prop_val_all.csv and "
                "id_prop_test_all.csv, or train.csv, val.csv and test.csv"
            ),
            note="First published at https://zenodo.org/records/8081655.",
        ),
        _of_zenodo(
            *(19212240, "mp.tar.gz"),
            name="mp",
            title="Materials Project: first and last states of relaxations (from MPF.2021.2.8)",
            calculator="DFT (Materials Project)",
            citation=f"Chen and Ong, Nat. Comput. Sci. 2, 718 (2022) (the relaxations); {_H2}",
            doi=("10.6084/m9.figshare.19470599.v3",),
            layout="CIF/ID_U.cif and CIF/ID_R.cif; train.csv, val.csv and test.csv",
            note="MPF.2021.2.8 itself (figshare 19470599) is a pickle, which Repose does not open.",
        ),
        _of_zenodo(
            *(19212240, "c2db.tar.gz"),
            name="c2db",
            title="C2DB: two-dimensional crystals, initial and relaxed, as used by E3Relax-H2",
            calculator="PBE",
            citation=f"{_C2DB} (the database); {_H2}",
            doi=_C2DB_DOI,
            layout=_LAYOUT,
            note=f"{_SMALL} For the database of its makers see c2db-request.",
        ),
        Archive(
            name="c2db-request",
            title="C2DB: initial and relaxed states, from the makers of the database",
            record="https://cmr.fysik.dtu.dk/c2db/c2db.html",
            calculator="PBE",
            citation=_C2DB,
            doi=_C2DB_DOI,
            layout=f"{_LAYOUT}; without tables it is split by chemical system",
            request=(
                "the makers of C2DB give the whole database, with initial states (relaxed.db, "
                "unrelaxed.db), on request: write to the corresponding author of its papers (others thank "
                "K. S. Thygesen and P. Lyngby, Technical University of Denmark, for it). Then write both "
                "states of every crystal as CIF/ID_unrelaxed.cif and CIF/ID_relaxed.cif, and pack the folder"
            ),
            files=(ArchiveFile("c2db-request.tar.gz"),),
        ),
        _of_zenodo(
            *(19212240, "jarvis.tar.gz"),
            name="jarvis",
            title="JARVIS-DFT: initial and relaxed crystals, as used by E3Relax-H2",
            calculator="DFT (JARVIS-DFT)",
            citation=_H2,
            layout=_LAYOUT,
            note=f"{_SMALL} JARVIS itself is at https://jarvis.nist.gov.",
        ),
        _of_zenodo(
            *(19212240, "vdW.tar.gz"),
            name="vdw",
            title="Layered van der Waals crystals, relaxed with dispersion corrections",
            calculator="DFT-D3",
            citation=f"Yang et al., Nat. Commun. 15, 8148 (2024) (the crystals); {_H2}",
            doi=("10.1038/s41467-024-52378-3",),
            layout=_LAYOUT,
            note=_SMALL,
        ),
        _of_zenodo(
            14027373,
            name="defects",
            title="Point defects in MoS2 and WSe2 sheets (2DMD), initial and relaxed, as used by DefiNet",
            licence="CC-BY-4.0",
            citation=(
                "Huang et al., npj 2D Mater. Appl. 7, 6 (2023) and Kazeev et al., npj Comput. Mater. 9, 113 "
                "(2023) (2DMD); Yang et al., Modeling crystal defects using defect informed neural networks, "
                "npj Comput. Mater. (2025) (the pairs)"
            ),
            doi=(
                *("10.5281/zenodo.14027373", "10.1038/s41699-023-00369-1"),
                *("10.1038/s41524-023-01062-z", "10.1038/s41524-025-01728-w"),
            ),
            layout=(
                "high_density_defects/MoS2_500 and /WSe2_500 with a folder CIF, low_density_defects/MoS2 and "
                "/WSe2 with a folder CIF_POSCAR, in each train.csv, val.csv and test.csv"
            ),
            folders=("MoS2*", "WSe2*"),
            note=(
                "All archives of the record are downloaded; of its six hosts MoS2 and WSe2 are imported. "
                "2DMD as its makers offer it for download holds no relaxed structures."
            ),
        ),
    )
}


def find_archive(name: str) -> Archive:
    """An archive by its name.

    Raises:
        DatasetError: There is none of this name.
    """
    if name not in ARCHIVES:
        known = ", ".join(ARCHIVES)
        raise DatasetError(f"no archive is called '{name}'; known are {known}.{nearest(name, ARCHIVES)}")
    return ARCHIVES[name]


def default_cache() -> Path:
    """Where archives are kept: ``repose/archives`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repose" / "archives"


def completed(archive: Archive, folder: Path, tell: Callable[[str], None] = lambda message: None) -> Archive:
    """Fill in what the record publishes: files, sizes, checksums, the licence.

    The answer is kept as ``record.json`` beside the files, for the time when there is no network.

    Args:
        archive: From the catalogue; what stands there is not changed.
        folder: Cache of this archive.
        tell: Called with a sentence where the record's answer is not understood.

    Raises:
        DatasetError: The record cannot be read and never was, or does not list a file.
    """
    if not archive.api or (archive.files and all(f.size and f.checksum for f in archive.files)):
        return archive
    try:
        answer = read_small(archive.api)
        listed, licence = _parse(answer)
    except DatasetError:
        if not (folder / RECORD).is_file():
            raise
        listed, licence = _parse((folder / RECORD).read_bytes())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = f"{archive.api} answers in an unknown form ({type(error).__name__})"
        if not archive.files:
            raise DatasetError(f"{said}: it cannot be known which files to download.") from None
        tell(f"{said}: neither size nor checksum is known")
        return archive
    else:
        with replacing_file(folder / RECORD) as new:
            new.write_bytes(answer)
    named = {file.name: file for file in listed}
    wanted = archive.files or tuple(named[name] for name in sorted(named) if name.lower().endswith(ENDINGS))
    missing = [file.name for file in wanted if file.name not in named]
    if missing or not wanted:
        there = ", ".join(named) or "nothing"
        raise DatasetError(f"{archive.record} lists no {', '.join(missing) or 'archive'}; it lists {there}.")
    files = tuple(
        replace(
            file,
            url=file.url or named[file.name].url,
            size=file.size or named[file.name].size,
            checksum=file.checksum or named[file.name].checksum,
        )
        for file in wanted
    )
    return replace(archive, files=files, licence=archive.licence or licence)


def _parse(answer: bytes) -> tuple[list[ArchiveFile], str]:
    """Files and licence of a record of Zenodo (InvenioRDM), in either of the two forms of its JSON."""
    record = json.loads(answer)
    entries = record["files"]
    if isinstance(entries, dict):
        entries = list(entries["entries"].values())
    files = []
    for entry in entries:
        checksum, links = entry.get("checksum") or "", entry.get("links") or {}
        # A name with a folder in it would be written elsewhere.
        if entry["key"] == Path(entry["key"]).name:
            known = checksum.partition(":")[0] in hashlib.algorithms_available
            url = str(links.get("content") or links.get("self") or "")
            files.append(ArchiveFile(entry["key"], url, entry.get("size"), checksum if known else None))
    about = record.get("metadata") or {}
    licences = [about["license"]] if about.get("license") else about.get("rights") or []
    return files, ", ".join(str(licence.get("id")) for licence in licences)


def archives_in(folder: Path) -> tuple[ArchiveFile, ...]:
    """Archives that lie in a folder, whatever they are called."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(ArchiveFile(p.name) for p in found if p.is_file() and p.name.lower().endswith(ENDINGS))


def by_hand(archive: Archive, folder: Path) -> str:
    """How to go on without a download."""
    names = [file.name for file in archive.files]
    what = " and ".join(f"{name} as {folder / name}" for name in names) or f"its archives in {folder}"
    return f"By hand: open {archive.record}, save {what}, and run the same command again."


def folders_to_import(root: Path, archive: Archive) -> list[Path]:
    """Folders of an unpacked archive that the importer takes, found by what they hold: roots differ.

    Raises:
        DatasetError: There is none: the layout is not the expected one.
    """
    inside = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    found = [path for path in inside if has_tables(path)] or _outermost(p for p in inside if holds_cifs(p))
    if archive.folders:
        found = [p for p in found if any(fnmatch(p.name, pattern) for pattern in archive.folders)]
    if not found:
        names = (
            ", ".join(str(path.relative_to(root)) for path in inside[1:6]) or "nothing that can be imported"
        )
        raise DatasetError(
            f"the archive '{archive.name}' is not laid out as expected ({archive.layout}); it holds {names}. "
            "Unpack it by hand and import its folders with 'repose data import'."
        )
    return found


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Folders of CIFs, without the folders ``CIF`` that are part of them."""
    found = list(folders)
    return [path for path in found if not (path.name in FOLDERS and path.parent in found)]
