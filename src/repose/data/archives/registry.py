"""Registry of public archives of unrelaxed/relaxed pairs: addresses and contents.

The entries follow the papers and codes of the authors. Sizes, checksums and most licences are not in the
registry (None or empty); they are read from the record before a download.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repose.errors import DatasetError, nearest

# Suffixes of archives that can be unpacked.
ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class ArchiveFile:
    """A file of an archive.

    Attributes:
        name: Name in the record and in the cache.
        url: Address of the file.
        size: Size in bytes, or None if unknown.
        checksum: ``"md5:..."``, or None if unknown.
    """

    name: str
    url: str = ""
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Archive:
    """A public archive.

    Attributes:
        name: Name on the command line.
        title: Contents in one line.
        record: Address of its web page.
        files: Files to download; if empty, all archives that the record lists.
        api: Address of the record as JSON; empty if there is none.
        licence: Licence; empty if it could not be verified.
        calculator: Method of the relaxations.
        citation: Works to cite.
        doi: DOIs of the papers and the record, where verified.
        format: One of `repose.data.importers.formats.FORMATS`.
        layout: Description of its folders and files.
        folders: Name patterns of the folders to import; if empty, all that hold pairs.
        unpacked: Suffixes of the files that the importer reads.
        request: Person to contact if the archive cannot be downloaded.
        note: Further remarks for users.
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
    """Return an archive on Zenodo with addresses for a record number."""
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
_SMALL = "The authors train and test without crystals of fewer than three atoms; here these are included."

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
            note=f"{_SMALL} For the original database see c2db-request.",
        ),
        Archive(
            name="c2db-request",
            title="C2DB: initial and relaxed states, from the authors of the database",
            record="https://cmr.fysik.dtu.dk/c2db/c2db.html",
            calculator="PBE",
            citation=_C2DB,
            doi=_C2DB_DOI,
            layout=f"{_LAYOUT}; without tables it is split by chemical system",
            request=(
                "the authors of C2DB give the whole database, with initial states (relaxed.db, "
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
                "The public download of 2DMD holds no relaxed structures."
            ),
        ),
    )
}


def find_archive(name: str) -> Archive:
    """Return an archive by name; raise a DatasetError if there is none."""
    if name not in ARCHIVES:
        known = ", ".join(ARCHIVES)
        raise DatasetError(f"there is no archive '{name}'; known are {known}.{nearest(name, ARCHIVES)}")
    return ARCHIVES[name]


def default_cache() -> Path:
    """Return the folder of downloaded archives: ``repose/archives`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repose" / "archives"


def by_hand(archive: Archive, folder: Path) -> str:
    """Return instructions for downloading an archive by hand into a folder."""
    names = [file.name for file in archive.files]
    saved = " and ".join(f"{name} as {folder / name}" for name in names) or f"its archives in {folder}"
    return f"By hand: open {archive.record}, save {saved}, and run the same command again."
